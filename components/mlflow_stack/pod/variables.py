"""Environment variables of containers."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

import pulumi
from pulumi_kubernetes.core.v1 import (
    EnvVarArgsDict,
)

from mlflow_stack import validate
from mlflow_stack.cluster import CONFIG_MAP, SECRET, Need, Place


class KeyRefArgs(TypedDict):
    """Key of an existing Secret or ConfigMap."""

    name: pulumi.Input[str]
    """Name of the object, in the servers' namespace."""
    key: str
    """Key in the object."""


class EnvSourceArgs(TypedDict):
    """Source of a variable's value. Set exactly one key."""

    secret_key_ref: NotRequired[KeyRefArgs]
    """A key of a Secret. Default: none."""
    config_map_key_ref: NotRequired[KeyRefArgs]
    """A key of a ConfigMap. Default: none."""


class EnvVarArgs(TypedDict):
    """Environment variable of a container."""

    name: str
    """Name of the variable: letters, digits and '_'."""
    value: NotRequired[pulumi.Input[str]]
    """Value, in plain text in the cluster. Default: none, it is given by value_from."""
    value_from: NotRequired[EnvSourceArgs]
    """Source of the value. Default: none, it is given by value."""


class LocalReferenceArgs(TypedDict):
    """Existing object in the stack's namespace."""

    name: pulumi.Input[str]
    """Name of the object."""


class EnvFromArgs(TypedDict):
    """Source of variables: each key of an existing Secret or ConfigMap. Set one of them."""

    prefix: NotRequired[str]
    """Text before each key in the variable's name. Default: none."""
    secret_ref: NotRequired[LocalReferenceArgs]
    """A Secret. Default: none."""
    config_map_ref: NotRequired[LocalReferenceArgs]
    """A ConfigMap. Default: none."""


@validate.rules(LocalReferenceArgs)
def _reference_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.subdomain)


@validate.rules(EnvFromArgs)
def _env_from_rules(fields: validate.Fields) -> None:
    fields.check("prefix", validate.variable)
    _one_of_two(fields, "secret_ref", "config_map_ref")


@validate.rules(KeyRefArgs)
def _key_ref_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.subdomain)
    fields.check("key", validate.data_key)


@validate.rules(EnvSourceArgs)
def _env_source_rules(fields: validate.Fields) -> None:
    _one_of_two(fields, "secret_key_ref", "config_map_key_ref")


@validate.rules(EnvVarArgs)
def _env_var_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.variable)
    _one_of_two(fields, "value", "value_from")


def _one_of_two(fields: validate.Fields, name: str, other: str) -> None:
    fields.refuse_together(name, other)
    if not fields.stated & {name, other}:
        fields.require(name, f"{fields.spell(other)} is not set")


_BUCKET = "artifact_store.s3"
_KEYS = f"{_BUCKET}.existing_secret"
_OWNED: Mapping[str, str] = {
    "ARTIFACT_LOCATIONS": "artifact_locations",
    "AWS_ACCESS_KEY_ID": _KEYS,
    "AWS_CA_BUNDLE": f"{_BUCKET}.ca",
    "AWS_CONFIG_FILE": _KEYS,
    "AWS_DEFAULT_REGION": f"{_BUCKET}.region",
    "AWS_PROFILE": _KEYS,
    "AWS_REGION": f"{_BUCKET}.region",
    "AWS_SECRET_ACCESS_KEY": _KEYS,
    "AWS_SESSION_TOKEN": _KEYS,
    "AWS_SHARED_CREDENTIALS_FILE": _KEYS,
    "MAX_BODY_BYTES": "resources",
    "MEMORY_BYTES": "resources of the model",
    "MLFLOW_ARTIFACTS_DESTINATION": "artifact_store",
    "MLFLOW_BACKEND_STORE_URI": "backend_store",
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": f"{_BUCKET}.addressing",
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "encryption_keys",
    "MLFLOW_CRYPTO_KEK_VERSION": "encryption_keys",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "artifact_store",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": f"{_BUCKET}.presigned",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": f"{_BUCKET}.presigned",
    "MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE": "resources",
    "MLFLOW_REGISTRY_STORE_URI": "backend_store",
    "MLFLOW_S3_ENDPOINT_URL": f"{_BUCKET}.endpoint_url",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "expose.host",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "expose.host",
    "MLFLOW_SERVE_ARTIFACTS": f"{_BUCKET}.proxied",
    "MLFLOW_STATIC_PREFIX": "expose.path",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "encryption_keys",
    "MLFLOW_WORKERS": "replicas",
    "MODEL_URI": "uri of the model",
    "PREDICTIONS": "max_concurrent_predictions of the model",
    "REQUEST_SECONDS": "request_timeout of the model",
}
"""Variables that a key sets, with the key in Python's spelling."""
_OWNED_PREFIXES: Mapping[str, str] = {"MARIADB_": "backend_store", "MYSQL_": "backend_store", "PG": "backend_store"}
"""Beginnings of variables of the database's client programs, with the key that does it instead."""
_OWN = frozenset(
    {
        *("ARTIFACTS", "AWS_EC2_METADATA_DISABLED", "AWS_REQUEST_CHECKSUM_CALCULATION"),
        *("AWS_RESPONSE_CHECKSUM_VALIDATION", "CA_FILE", "CLAIM_LOCK", "CREDENTIALS", "DATABASE", "DRAIN_SECONDS"),
        *("DUMPS", "FILE_STORE", "FILE_STORE_MOUNT", "FORMER_KEYS", "HOME", "HOST", "INDEX_URL", "LD_LIBRARY_PATH"),
        *("LD_PRELOAD", "LOGNAME", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MAX_REQUEST_BYTES"),
        *("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_HOST"),
        *("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_MODEL_CATALOG_URI", "MLFLOW_PORT", "MLFLOW_REGISTRY_URI"),
        *("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_TRACKING_PASSWORD"),
        *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_UVICORN_OPTS"),
        *("OPTIONS", "PASSWORD_FILE", "PATH", "PORT", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH"),
        *("PYTHONSTARTUP", "S3_ROOT", "SCRATCH_FOLDER", "SPOOL_BYTES", "SPOOL_LARGEST", "SQLITE_TMPDIR", "SSLMODE"),
        *("USER", "USERNAME", "VOLUME", "VOLUME_BYTES", "WORK"),
    }
)
"""Further variables that the stack's containers set, or whose meaning they rely on."""


def env_rules(fields: validate.Fields, own: Sequence[str]) -> None:
    """Check the ``env`` of a server, which must not set the variables of its own container."""
    for name in _names(fields):
        if name in own:
            fields.refuse_item("env", name, "must not have a variable that the server sets itself")


def variable_rules(fields: validate.Fields) -> None:
    """Check the ``env`` of pod settings, which must not set the variables of any of the stack's containers."""
    for name in _names(fields):
        begins = next((key for prefix, key in _OWNED_PREFIXES.items() if name.startswith(prefix)), None)
        key = _OWNED.get(name, begins)
        if key is not None:
            do = validate.spelled(f"Set {key} instead.", fields.spell)
            fields.refuse_item("env", name, "must not have a variable that the stack sets", do)
        elif name in _OWN:
            fields.refuse_item("env", name, "must not have a variable that the stack sets", "Remove it.")


def _names(fields: validate.Fields) -> Sequence[str]:
    """Return the names of the variables in ``env``, and report duplicates."""
    names = [variable["name"] for variable in fields.get("env", []) if variable and "name" in variable]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            fields.refuse_item("env", name, "must not have a variable twice")
    return list(dict.fromkeys(names))


def env_needs(variables: Sequence[Mapping[str, Any]], place: Place) -> list[Need]:
    """Return the existing objects that the ``env`` of a server requires."""
    found: list[Need] = []
    for position, variable in enumerate(variables):
        source: Mapping[str, Any] = (variable or {}).get("value_from", {})
        for reference, kind in (("secret_key_ref", SECRET), ("config_map_key_ref", CONFIG_MAP)):
            named: Mapping[str, Any] = source.get(reference, {})
            where = place.item("env", position).under("value_from", reference)
            keys = [named["key"]] if "key" in named else []
            found += where.need(kind, named, "name", keys=keys)
    return found


def env(variables: Mapping[str, pulumi.Input[str]]) -> list[EnvVarArgsDict]:
    """Return the environment of a container from plain values."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def env_given(variables: Sequence[EnvVarArgs]) -> list[EnvVarArgsDict]:
    """Return a user's variables as Kubernetes spells them."""
    return [cast(EnvVarArgsDict, variable) for variable in variables]
