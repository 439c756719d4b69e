"""Defaults in the descriptions of the args, against the registered ones.

tests/components shows what an unset field does; the objects of a stack file with defaults are those of tests/render.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

import mlflow_stack
from mlflow_stack import MlflowStackArgs, plugin, validate
from mlflow_stack.artifacts.s3 import S3ArtifactKind
from mlflow_stack.backend import mariadb, postgres
from mlflow_stack.kinds import ArtifactKind
from mlflow_stack.pod import claims
from mlflow_stack.servers import model, tracking

SCHEMA: dict[str, Any] = json.loads(str(plugin.Provider(mlflow_stack.__version__).schema))
NONE = ("none", "the ", "any ", "all", "AWS", "PyPI")
"""Beginnings of the defaults of fields without a registered one."""


def amounts(requests: Mapping[str, str], limits: Mapping[str, str]) -> str:
    return f"requests {requests['cpu']} CPU and {requests['memory']}, limit {limits['memory']} memory"


CLAIM = f"a claim of {claims.DEFAULT_SIZE}"
LARGEST = [kind.default_max_artifact_size for kind in (ArtifactKind, S3ArtifactKind)]
DERIVED = {
    "BackendStoreArgs.pvc": CLAIM,
    "DumpsArgs.image": f"the deployed server's, else {mariadb.DEFAULT_IMAGE}, for PostgreSQL {postgres.TOOLS_IMAGE}",
    "ExposeArgs.annotations": "{}",
    "MariadbArgs.resources": amounts(*mariadb.RESOURCES),
    "MlflowStackArgs.artifact_store": "the claim of the backend store, where it has one, else one of their own",
    "MlflowStackArgs.backend_store": f"SQLite on {CLAIM}",
    "MlflowStackArgs.encryption_keys": "generated",
    "MlflowStackArgs.expose": "none, reachable in the cluster",
    "MlflowStackArgs.max_artifact_size": (
        f"{LARGEST[0]}, with artifact_store.s3 {LARGEST[1]}, as the pod then reserves room for artifacts on its node"
    ),
    "MlflowStackArgs.passwords": "generated",
    "MlflowStackArgs.resources": amounts(tracking.REQUESTS, tracking.LIMITS),
    "ModelArgs.replicas": "1, without a uri 0",
    "ModelArgs.resources": amounts(model.SERVER_REQUESTS, model.LIMITS),
    "MysqlStoreArgs.dumps": CLAIM,
    "PostgresStoreArgs.dumps": CLAIM,
    "PostgresStoreArgs.sslmode": "prefer, with ca verify-full",
    "S3ArtifactsArgs.prefix": "its root",
    "S3ArtifactsArgs.presigned": (
        "true, unless the endpoint's host is a name or an address that only the cluster reaches, or the endpoint is an "
        "Output, whose host is not known yet"
    ),
}
"""Defaults that are no single value, such as those of nested fields or those that depend on other fields."""


def described(kind: type) -> Mapping[str, Any]:
    """Return the fields of an args TypedDict in the schema."""
    if kind is MlflowStackArgs:
        return SCHEMA["resources"]["mlflow-stack:index:MlflowStack"]["inputProperties"]
    return SCHEMA["types"][f"mlflow-stack:index:{kind.__name__}"].get("properties", {})


FIELDS = [
    (kind, field)
    for kind in validate.nested(MlflowStackArgs)
    for field in validate.hints(kind)
    if field in vars(kind)["__optional_keys__"]
]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=[f"{kind.__name__}.{field}" for kind, field in FIELDS])
def test_description_states_the_default(kind: type, field: str) -> None:
    text = " ".join(described(kind)[validate.camel(field)]["description"].split())
    _, stated, default = text.rpartition("Default: ")
    assert stated, text
    assert default.endswith(".")
    default = default[:-1]
    registered = validate.defaults_of(kind)
    if wanted := DERIVED.get(f"{kind.__name__}.{field}"):
        assert default == wanted
    elif field in registered:
        value = registered[field]
        spelled = value if isinstance(value, str) else json.dumps(value)
        assert default == spelled or default.startswith(f"{spelled}, ")
    else:
        assert default.startswith(NONE)


def test_every_derived_default_is_of_a_field() -> None:
    assert set(DERIVED) <= {f"{kind.__name__}.{field}" for kind, field in FIELDS}


def test_every_registered_default_is_of_an_optional_field() -> None:
    for kind in validate.nested(MlflowStackArgs):
        assert set(validate.defaults_of(kind)) <= vars(kind)["__optional_keys__"]
