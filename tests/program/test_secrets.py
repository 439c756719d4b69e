"""Secrets stay in the data of Secrets: a canary in every secret key of a stack file, and every generated password."""

import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import engine
from mlflow_stack import MlflowStackArgs
from mlflow_stack.validate import SECRETS, camel, hints, plain_type

COMMON = {
    "users": ["ann"],
    "expose": {"ingress": {}, "host": "mlflow.example.com", "tls": {}},
    "models": [{"name": "iris", "uri": "models:/iris/1"}],
}
DATABASE = {"host": "db.example.com", "password": "canary-of-the-database"}
BUCKET = {"bucket": "team", "accessKeyId": "canary-of-the-bucket", "secretAccessKey": "canary-key-of-the-bucket"}
GIVEN = {
    "passwords": {"ann": "canary-of-ann"},
    "backendStore": {"mysql": DATABASE},
    "artifactStore": {"s3": BUCKET},
}
WHERE_GIVEN = {
    "canary-of-ann": {"mlflow-client"},
    "canary-of-the-database": {"mlflow-database"},
    "canary-of-the-bucket": {"mlflow-s3"},
    "canary-key-of-the-bucket": {"mlflow-s3"},
}
POSTGRES = {**GIVEN, "backendStore": {"postgres": DATABASE}}
DIRECT = {**GIVEN, "artifactStore": {"s3": {**BUCKET, "proxied": False}}}
DEPLOYED = {"backendStore": {"mysql": {"deploy": {}}}}
WHERE_GENERATED = {
    "mlflow-password-ann": {"mlflow-client"},
    "mlflow-password-models": {"mlflow-models"},
    "mlflow-database-mlflow": {"mlflow-database", "mlflow-database-server"},
    "mlflow-database-root": {"mlflow-database-server"},
    "mlflow-webhook-key-0": {"mlflow-keys"},
    "mlflow-kek-0": {"mlflow-keys"},
}


def deployed(config: dict[str, Any]) -> engine.Deployment:
    texts = {f"mlflow-stack:{key}": json.dumps(one) for key, one in {**COMMON, **config}.items()}
    return engine.run_main(texts, list(texts))


def places(deployment: engine.Deployment, secret: str) -> set[str]:
    """Return the Secrets that hold a value. Fail if anything else does, or if a Secret's data is not secret."""
    for resource in deployment.registrations:
        public = {key: value for key, value in resource.inputs.items() if key not in resource.secret_inputs}
        assert secret not in json.dumps([resource.name, resource.type, public]), resource.name
    told = {name: one["value"] for name, one in deployment.outputs.items() if not one["secret"]}
    assert secret not in json.dumps(told)
    holders = [resource for resource in deployment.registrations if secret in json.dumps(resource.inputs)]
    assert {(holder.type, *holder.secret_inputs) for holder in holders} <= {("kubernetes:core/v1:Secret", "stringData")}
    return {holder.name for holder in holders}


def secret_keys(kind: type, at: str = "") -> Iterator[str]:
    """Return the paths of all secret fields."""
    for name, hint in hints(kind).items():
        plain = plain_type(hint)
        if name in SECRETS:
            yield f"{at}{camel(name)}"
        elif isinstance(plain, type) and typing.is_typeddict(plain):
            yield from secret_keys(plain, f"{at}{camel(name)}.")


def test_every_secret_key_has_a_canary() -> None:
    set_here = {"passwords"} | {
        f"{store}.{kind}.{key}"
        for store in ("backendStore", "artifactStore")
        for given in (GIVEN, POSTGRES)
        for kind, fields in given[store].items()
        for key, value in fields.items()
        if value in WHERE_GIVEN
    }
    assert set(secret_keys(MlflowStackArgs)) == set_here


@pytest.mark.parametrize("config", [GIVEN, POSTGRES, DIRECT], ids=["proxied", "postgres", "direct"])
def test_given_values_are_only_in_their_secret(config: dict[str, Any]) -> None:
    deployment = deployed(config)
    assert {canary: places(deployment, canary) for canary in WHERE_GIVEN} == WHERE_GIVEN
    assert all(resource.secret_inputs == {"stringData"} for resource in deployment.all("Secret"))


def test_generated_values_are_only_in_their_secrets() -> None:
    deployment = deployed(DEPLOYED)
    assert set(deployment.generated) == set(WHERE_GENERATED)
    found = {name: places(deployment, password) for name, password in deployment.generated.items()}
    assert found == WHERE_GENERATED
