"""Pod settings in the pods of every kind of server. tests/render shows that Kubernetes accepts them."""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from render.objects import POD, RENDERED, ZONE

import engine
from mlflow_stack import InvalidArgs, MlflowStack, resolve

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


def deployed(args: dict[str, Any]) -> engine.Deployment:
    return engine.deploy(lambda: MlflowStack("mlflow", args) and None)


def templates(args: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a stack by workload."""
    found = deployed(args).registrations
    return {one.name: one.inputs["spec"]["template"] for one in found if "template" in one.inputs.get("spec", {})}


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod, init containers first."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


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
    "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db.example.com", "s3.example.com"]}],
    "dnsConfig": {
        "nameservers": ["2001:db8::53"],
        "searches": ["example.com"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    },
    "terminationGracePeriodSeconds": 300,
}
PLACED = (*EXPECTED, "topologySpreadConstraints")
CONTAINERS = ("containers", "initContainers")


def test_every_field_of_the_stack_s_pods_is_set_here() -> None:
    others = {"labels", "annotations", "topology_spread_constraints", "env", "env_from", "service_account"}
    assert others | {
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
        {name: value for name, value in of(which)[workload]["spec"].items() if name not in (*PLACED, *CONTAINERS)}
        for which in ("unset", "set")
    )
    assert before == after


VARIABLES = [
    {"name": "TZ", "value": "Europe/Helsinki"},
    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "team", "key": "token"}}},
    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "team", "key": "mode"}}},
]
SOURCES = [{"secretRef": {"name": "team"}}, {"prefix": "TEAM_", "configMapRef": {"name": "team"}}]


@pytest.mark.parametrize("workload", [*ALL, SQLITE])
def test_adds_variables_to_every_container_but_the_proxy(workload: str) -> None:
    before, after = (containers(of(which)[workload]) for which in ("unset", "set"))
    assert after == [
        one if one["name"] == "proxy" else {**one, "env": [*one.get("env", []), *VARIABLES], "envFrom": SOURCES}
        for one in before
    ]


def test_model_s_own_variable_prevails() -> None:
    args = {
        "pod": {"env": [{"name": "MODE", "value": "slow"}, {"name": "TZ", "value": "UTC"}]},
        "models": [{"name": "iris", "uri": "models:/iris/1", "env": [{"name": "MODE", "value": "fast"}]}],
    }
    fetch, model, _ = containers(templates(args)["mlflow-iris"])
    given = [[one for one in container["env"] if one["name"] in ("MODE", "TZ")] for container in (fetch, model)]
    assert given == [
        [{"name": "MODE", "value": "slow"}, {"name": "TZ", "value": "UTC"}],
        [{"name": "MODE", "value": "fast"}, {"name": "TZ", "value": "UTC"}],
    ]


def test_annotates_every_service_account() -> None:
    made = deployed({**deepcopy(BASE), "pod": deepcopy(POD)}).all("ServiceAccount")
    assert {one.name for one in made} == set(ALL)
    assert [one.inputs["metadata"]["annotations"] for one in made] == [POD["service_account"]["annotations"]] * len(ALL)
    assert all("annotations" not in one.inputs["metadata"] for one in deployed(deepcopy(BASE)).all("ServiceAccount"))


def test_adopts_service_account_of_one_server() -> None:
    deployment = deployed({**deepcopy(BASE), "tracking": {"pod": {"service_account": {"name": "team"}}}})
    specs = {
        one.name: one.inputs["spec"]["template"]["spec"]
        for one in deployment.registrations
        if "template" in one.inputs.get("spec", {})
    }
    created = {"mlflow-iris": "mlflow-iris-abcd1234", "mlflow-database": "mlflow-database-abcd1234"}
    adopting = dict.fromkeys(("mlflow", *JOBS), "team")
    assert {name: spec["serviceAccountName"] for name, spec in specs.items()} == created | adopting
    assert {one.name for one in deployment.all("ServiceAccount")} == set(created)
    assert {spec["automountServiceAccountToken"] for spec in specs.values()} == {False}


def test_refuses_every_variable_that_a_container_of_the_stack_sets() -> None:
    """Variables of users' own in the rendered programs are accepted."""
    pods = [
        one["spec"]["template"] for objects in RENDERED.values() for one in objects if "template" in one.get("spec", {})
    ]
    names = {variable["name"] for pod in pods for one in containers(pod) for variable in one.get("env", [])}
    assert len(names) > 50
    own = sorted(names - {variable["name"] for variable in VARIABLES})
    with pytest.raises(InvalidArgs) as refused:
        resolve("mlflow", {"pod": {"env": [{"name": name, "value": "x"} for name in own]}})
    lines = str(refused.value).splitlines()[1:]
    assert [line.split('"')[1] for line in lines] == own


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
