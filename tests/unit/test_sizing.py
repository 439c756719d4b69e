"""Quantities and container reservations, validated like the API server, the engine and nginx."""

import importlib
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.test_validate import mysql, refusals, s3

import mlflow_stack
from mlflow_stack import MlflowStackArgs, validate
from mlflow_stack.pod import ResourcesArgs

QUANTITY = "must be a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi"
SIZE = "must be a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi"
RESOURCE = (
    "must be one of cpu, memory, ephemeral-storage, or an extended resource with its domain, such as nvidia.com/gpu"
)


def accept(args: dict) -> None:
    validate.accepted("MlflowStack", "mlflow", MlflowStackArgs, args, longest=40)


def container(**resources: Mapping[str, str]) -> dict:
    return {"resources": resources}


def model(**resources: Mapping[str, str]) -> dict:
    return {"models": [{"name": "iris", "resources": resources}]}


@pytest.mark.parametrize(
    "text",
    [
        "8Ei",
        "9223372036854775808",
        "1" * 400,
        "1" * 400 + "Gi",
        "1." + "0" * 400,
        "10E",
        "1e3",
        "1E3",
        "+1",
        ".5",
        "1.",
    ],
)
def test_rejects_quantity_that_kubernetes_would_change(text: str) -> None:
    assert validate.quantity(text) == QUANTITY
    assert validate.size(text) == SIZE


@pytest.mark.parametrize("text", ["7Ei", "9223372036854775807", "9E", "0.5Gi"])
def test_accepts_large_quantity(text: str) -> None:
    assert validate.quantity(text) is None
    assert validate.size(text) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("9007199254740993", 9007199254740993),
        ("16374204Ki", 16374204 * 1024),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("129E6", 129_000_000),
        ("128974848000m", 128974848),
        ("1E", 10**18),
    ],
)
def test_reads_every_form_of_a_quantity_exactly(text: str, count: int) -> None:
    assert validate.bytes_of(text) == count


@given(st.text(alphabet="0123456789.eEkKMGTPimnu+-", max_size=30))
def test_size_is_whole_bytes_within_a_signed_64_bit_number(text: str) -> None:
    if validate.size(text) is None:
        assert 1 <= validate.bytes_of(text) <= 2**63 - 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            container(requests={"memory": "3Gi"}, limits={"memory": "2Gi"}),
            'resources.requests.memory: must be at most limits.memory, which is 2Gi (got "3Gi")',
        ),
        (
            container(requests={"memory": "2Gi"}),
            'resources.requests.memory: must be at most limits.memory, which defaults to 1Gi (got "2Gi")',
        ),
        (
            container(limits={"cpu": "100m"}),
            'resources.limits.cpu: must be at least requests.cpu, which defaults to 250m (got "100m")',
        ),
        (
            container(limits={"memory": "735Mi"}),
            "resources.limits.memory: must be at least 736Mi, because MLflow holds 487 MB when idle, and requests "
            'need the rest (got "735Mi")',
        ),
        (
            container(requests={"ephemeral-storage": "1Mi"}, limits={"ephemeral-storage": "100Mi"}),
            "resources.limits.ephemeral-storage: must be at least 536870912, because the server's /tmp can hold that "
            'many bytes (got "100Mi")',
        ),
        (
            s3() | container(requests={"ephemeral-storage": "1Mi"}, limits={"ephemeral-storage": "3Gi"}),
            "resources.limits.ephemeral-storage: must be at least 3758096384, because the server's /tmp can hold that "
            'many bytes (got "3Gi")',
        ),
        (
            container(requests={"mem": "1Gi"}),
            f'resources.requests: each key {RESOURCE} (got "mem")',
        ),
        (
            container(limits={"pods": "1"}),
            f'resources.limits: each key {RESOURCE} (got "pods")',
        ),
        (
            container(limits={"kubernetes.io/gpu": "1"}),
            f'resources.limits: each key {RESOURCE} (got "kubernetes.io/gpu")',
        ),
        (
            container(limits={"nvidia.com/gpu": "500m"}),
            'resources.limits.nvidia.com/gpu: must be a whole number, because devices are not shared (got "500m")',
        ),
        (
            container(requests={"nvidia.com/gpu": "1"}),
            "resources.requests.nvidia.com/gpu: must be set in limits.nvidia.com/gpu as well, because devices are not "
            'shared (got "1")',
        ),
        (
            container(requests={"nvidia.com/gpu": "1"}, limits={"nvidia.com/gpu": "2"}),
            "resources.requests.nvidia.com/gpu: must equal limits.nvidia.com/gpu, which is 2, because devices are not "
            'shared (got "1")',
        ),
        (
            model(limits={"memory": "255Mi"}, requests={"memory": "128Mi"}),
            "models[0].resources.limits.memory: must be at least 256Mi, because a server of a small scikit-learn "
            'model holds 260 MB (got "255Mi")',
        ),
        (
            model(requests={"memory": "2Gi"}),
            'models[0].resources.requests.memory: must be at most limits.memory, which defaults to 1Gi (got "2Gi")',
        ),
        (
            {"backend_store": {"mysql": {"deploy": container(limits={"memory": "256Mi"})}}},
            "backendStore.mysql.deploy.resources.limits.memory: must be at least requests.memory, which defaults to "
            '512Mi (got "256Mi")',
        ),
        (
            {"container_defaults": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            'containerDefaults.requests.cpu: must be at most limits.cpu, which is 1 (got "2")',
        ),
        (
            {"container_defaults": {"limits": {"limits.cpu": "1"}}},
            f'containerDefaults.limits: each key {RESOURCE} (got "limits.cpu")',
        ),
        (
            {"quota": {"limits.gpu": "1"}},
            "quota: each key must be a resource that a ResourceQuota limits, such as limits.memory, pods or "
            'count/jobs.batch (got "limits.gpu")',
        ),
        ({"quota": {"pods": "many"}}, f'quota.pods: {QUANTITY} (got "many")'),
        (
            {"quota": {"pods": "1.5", "limits.cpu": "1.5"}},
            'quota.pods: must be a whole number, because these objects are counted (got "1.5")',
        ),
        (
            {"quota": {"count/jobs.batch": "500m"}},
            'quota.count/jobs.batch: must be a whole number, because these objects are counted (got "500m")',
        ),
        (
            s3() | {"max_artifact_size": "4Ei", "max_concurrent_uploads": 2},
            f'maxArtifactSize: must be smaller, because the server\'s /tmp would hold {3 * 2**62} bytes (got "4Ei")',
        ),
        (
            {"labels": {"a b": "x"}},
            'labels: each key must be a qualified name, such as app.kubernetes.io/name (got "a b")',
        ),
        (
            {"models": [{"name": "iris", "uri": "s3://bucket/iris", "s3_existing_secret": "keys"}]},
            "existingNamespace: required, because models[0].s3ExistingSecret must already exist in the namespace",
        ),
    ],
)
def test_rejects_what_the_api_server_would_refuse_later(args: dict, message: str) -> None:
    assert refusals(args) == [message]


@pytest.mark.parametrize(
    "args",
    [
        container(limits={"memory": "736Mi"}),
        container(requests={"cpu": "100m"}, limits={"cpu": "100m"}),
        container(requests={"memory": "1.5Gi"}, limits={"memory": "1536Mi"}),
        container(limits={"nvidia.com/gpu": "1"}),
        container(requests={"nvidia.com/gpu": "1"}, limits={"nvidia.com/gpu": "1"}),
        {"quota": {"services.loadbalancers": "0", "requests.nvidia.com/gpu": "1", "requests.storage": "1Ti"}},
        {"container_defaults": {"limits": {"cpu": "1"}}},
        {"max_artifact_size": "4Ei"},
    ],
)
def test_accepts_resources_that_the_api_server_takes(args: dict) -> None:
    accept(args)


def judged_fields() -> list[tuple[type, str]]:
    """Yield each field of a component's args that holds a container's resources."""
    names = (module.name for module in pkgutil.walk_packages(mlflow_stack.__path__, "mlflow_stack."))
    modules = [importlib.import_module(name) for name in names if ".programs" not in name]
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and typing.is_typeddict(kind)
    }
    found = [
        (kind, name)
        for kind in kinds
        for name, hint in validate.hints(kind).items()
        if validate.plain_type(hint) is ResourcesArgs
    ]
    return sorted(found, key=lambda one: (one[0].__name__, one[1]))


def test_every_field_with_resources_judges_requests_against_limits() -> None:
    fields = judged_fields()
    assert len(fields) == 6
    for kind, name in fields:
        args: dict[str, Any] = {name: {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
        with pytest.raises(validate.InvalidArgs) as refused:
            validate.accepted("Component", "mlflow", kind, args, longest=40)
        assert f'{name}.requests.cpu: must be at most limits.cpu, which is 1 (got "2")' in str(refused.value), kind


@pytest.mark.parametrize(
    "image",
    [
        ".:v1", "a-:v1", "a/../b:1", "a..b:1", "a//b:1", "-a:1", "a_:1", "a/b-:1", "a___b:1", ".a/b:1", "a.:5000/b:1",
        "a:123456/b:1", "/a:1", "a/:1", "A:1", f"{'a' * 238}:1", f"registry.example/{'a/' * 140}b:1", f"a:{'1' * 129}",
        f"a@sha256:{'0' * 63}", "a:1 ", "a:1\n",
    ],
)  # fmt: skip
def test_rejects_image_reference_that_no_runtime_reads(image: str) -> None:
    assert validate.image(image) is not None


@pytest.mark.parametrize(
    "image",
    ["mlflow:1", "localhost/mlflow-stack/mlflow:abc", "registry.example:5000/team/my_image:v1.2-3", "a__b/c--d:1",
     f"{'a' * 237}:1", f"a@sha256:{'0' * 64}", f"ghcr.io/a/b:1@sha256:{'0' * 64}"],
)  # fmt: skip
def test_accepts_image_reference(image: str) -> None:
    assert validate.image(image) is None


@pytest.mark.parametrize("text", ["9999999999999999h", "169h", "10081m", "604801s", "0s", "1.5h", "1h30m", "10"])
def test_rejects_duration_that_overflows_or_is_none(text: str) -> None:
    assert (
        validate.duration(text) == "must be a duration of at most 168h in whole seconds, minutes or hours, such as 10m"
    )


@pytest.mark.parametrize("text", ["168h", "604800s", "1s", "10m"])
def test_accepts_duration(text: str) -> None:
    assert validate.duration(text) is None


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (mysql(ca="x" * (2**20 + 1)), "backendStore.mysql.ca"),
        (s3(prefix="a/" * 256 + "b"), "artifactStore.s3.prefix"),
        ({"backend_store": {"pvc": {"file_store": "a" * 256}}}, "backendStore.pvc.fileStore"),
        ({"users": ["ann"], "passwords": {"ann": "x" * 1025}}, "passwords.ann"),
        (
            {"expose": {"host": "a.example", "gateway": f"infra/{'g' * 64}"}},
            "expose.gateway",
        ),
        (
            {"expose": {"ingress": {}, "host": "a.example", "annotations": {"a": "x" * 204800}}},
            "expose.annotations",
        ),
    ],
)
def test_rejects_text_too_long_for_its_object(args: dict, key: str) -> None:
    (problem,) = refusals(args)
    assert problem.startswith(f"{key}: ")
