"""Pod settings in the pods of every kind of server. tests/render shows that Kubernetes accepts them."""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from render.objects import POD, ZONE

import engine
from mlflow_stack import MlflowStack

BASE: dict[str, Any] = {
    "existing_namespace": "team",
    "backend_store": {"mysql": {"deploy": {}}},
    "artifact_store": {"s3": {"bucket": "team", "existing_secret": "keys"}},
    "models": [{"name": "iris", "uri": "models:/iris/1"}],
    "replicas": 2,
}
PODS = {
    "mlflow": "tracking",
    "mlflow-iris": "model",
    "mlflow-database": "database",
    "mlflow-schema": "schema",
    "mlflow-bucket-check": "bucket-check",
}
"""Component of each workload of the stack."""
ALL = list(PODS)
JOBS = ("mlflow-schema", "mlflow-bucket-check")
SQLITE = "sqlite"
"""Tracking server on a claim, of a stack of its own."""


def templates(args: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a stack by workload."""
    found = engine.deploy(lambda: MlflowStack("mlflow", args) and None).registrations
    return {one.name: one.inputs["spec"]["template"] for one in found if "template" in one.inputs.get("spec", {})}


@cache
def of(which: str) -> dict[str, dict[str, Any]]:
    """Return the pod templates of one of the stacks of this file."""
    selects = {name: {"node_selector": {"for": name}} for name in ("tracking", "model", "database")}
    args = deepcopy(BASE)
    if which == "set":
        args["pod"] = deepcopy(POD)
    elif which == "overridden":
        args["pod"] = deepcopy(POD)
        args["tracking"] = {"pod": selects["tracking"]}
        args["models"][0]["pod"] = {**selects["model"], "tolerations": []}
        args["backend_store"]["mysql"]["deploy"]["pod"] = selects["database"]
    made = templates(args)
    alone = templates({"existing_namespace": "team", "pod": args.get("pod", {}), "tracking": args.get("tracking", {})})
    return {**made, SQLITE: alone["mlflow"]}


TERMS = [{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "NotIn", "values": ["arm64"]}]}]
BATCH = {"matchLabels": {"app": "batch"}, "matchExpressions": []}
HOST = "kubernetes.io/hostname"
EXPECTED: dict[str, Any] = {
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [
        {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoExecute", "tolerationSeconds": 60}
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": TERMS},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": TERMS[0]}],
        },
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": HOST, "labelSelector": BATCH, "namespaces": ["team"]}
            ],
            "preferredDuringSchedulingIgnoredDuringExecution": [],
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [],
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "podAffinityTerm": {
                        "topologyKey": HOST,
                        "labelSelector": BATCH,
                        "namespaces": [],
                        "namespaceSelector": {"matchLabels": {}, "matchExpressions": []},
                    },
                }
            ],
        },
    },
    "priorityClassName": "batch",
    "runtimeClassName": "gvisor",
    "imagePullSecrets": [{"name": "registry"}],
    "terminationGracePeriodSeconds": 300,
}
PLACED = (*EXPECTED, "topologySpreadConstraints")


def test_every_field_of_the_stack_s_pods_is_set_here() -> None:
    assert {"labels", "annotations", "topology_spread_constraints"} | {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in field) for field in EXPECTED
    } == set(POD)
    assert set(of("set")) == {*ALL, SQLITE}


@pytest.mark.parametrize("workload", [*ALL, SQLITE])
@pytest.mark.parametrize("field", EXPECTED)
def test_sets_field_in_every_pod(field: str, workload: str) -> None:
    assert of("set")[workload]["spec"][field] == EXPECTED[field]


@pytest.mark.parametrize("workload", ALL)
def test_spreads_pods_of_one_server(workload: str) -> None:
    template = of("set")[workload]
    (constraint,) = template["spec"]["topologySpreadConstraints"]
    counted = constraint.pop("labelSelector")["matchLabels"]
    assert constraint == {"topologyKey": ZONE, "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}
    assert counted["app.kubernetes.io/component"] == PODS[workload]
    assert counted.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("workload", [*ALL, SQLITE])
def test_adds_labels_and_annotations_to_those_of_the_stack(workload: str) -> None:
    before, after = (of(which)[workload]["metadata"] for which in ("unset", "set"))
    assert after["labels"] == {**before["labels"], "example.com/team": "vision"}
    assert after["annotations"] == {**before.get("annotations", {}), "example.com/contact": "ann"}


@pytest.mark.parametrize("workload", [*ALL, SQLITE])
def test_changes_nothing_else_in_a_pod(workload: str) -> None:
    before, after = (
        {name: value for name, value in of(which)[workload]["spec"].items() if name not in PLACED}
        for which in ("unset", "set")
    )
    assert before == after


@pytest.mark.parametrize(
    ("workload", "selected"),
    [
        ("mlflow", "tracking"),
        (SQLITE, "tracking"),
        ("mlflow-schema", "tracking"),
        ("mlflow-bucket-check", "tracking"),
        ("mlflow-iris", "model"),
        ("mlflow-database", "database"),
    ],
)
def test_server_overrides_fields_of_the_stack(workload: str, selected: str) -> None:
    spec = of("overridden")[workload]["spec"]
    assert spec["nodeSelector"] == {"for": selected}
    assert spec["tolerations"] == ([] if selected == "model" else EXPECTED["tolerations"])
    assert spec["priorityClassName"] == "batch"


@pytest.mark.parametrize("seconds", [1, 90, 600])
def test_never_shortens_a_server_s_own_grace_period(seconds: int) -> None:
    args = {**deepcopy(BASE), "pod": {"termination_grace_period_seconds": seconds}}
    graces = {name: one["spec"]["terminationGracePeriodSeconds"] for name, one in templates(args).items()}
    own = {"mlflow": 60, "mlflow-iris": 70, "mlflow-database": 120, **dict.fromkeys(JOBS, 30)}
    assert graces == {name: max(grace, seconds) for name, grace in own.items()}


def test_platform_s_annotation_stays() -> None:
    metadata = templates({"platform": "openshift", "pod": {"annotations": {"a": "b"}}})["mlflow"]["metadata"]
    assert metadata["annotations"] == {"a": "b", "openshift.io/required-scc": "restricted-v2"}
