"""Exact inputs of the encryption keys and of the pod that has them. tests/process/test_encryption_keys.py shows that
MLflow can decrypt with them."""

import json
from typing import Any

import pulumi
import pytest

import engine
from mlflow_stack import InvalidArgs, MlflowStack, MlflowStackArgs

VARIABLES = ["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_CRYPTO_KEK_VERSION"]
MYSQL: MlflowStackArgs = {
    "existing_namespace": "team",
    "backend_store": {"mysql": {"host": "db.example.com", "existing_secret": "database"}},
    "artifact_store": {"s3": {"bucket": "team", "existing_secret": "keys"}},
    "replicas": 2,
}


def stack(args: MlflowStackArgs, **options: Any) -> engine.Deployment:
    return engine.deploy(lambda: MlflowStack("mlflow", args) and None, **options)


def pod(deployment: engine.Deployment) -> dict[str, Any]:
    (server,) = [*deployment.all("StatefulSet", "mlflow"), *deployment.all("Deployment", "mlflow")]
    return server.inputs["spec"]["template"]["spec"]


def from_secret(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for variable in container["env"]
        if "valueFrom" in variable
    }


@pytest.mark.parametrize("args", [{}, MYSQL])
def test_server_and_step_take_the_keys_from_one_immutable_secret(args: MlflowStackArgs) -> None:
    deployment = stack(args)
    secret = deployment.one("Secret", "mlflow-keys")
    assert secret.inputs["immutable"] is True
    assert secret.replace_on_changes == ["data", "stringData"]
    assert secret.secret_inputs == {"stringData"}
    assert secret.inputs["stringData"] == {
        VARIABLES[0]: deployment.generated["mlflow-webhook-key-0"],
        VARIABLES[1]: deployment.generated["mlflow-kek-0"],
        # Version 1 is MLflow's published passphrase.
        VARIABLES[2]: "2",
        "FORMER_KEYS": "[]",
    }
    key = deployment.one("RandomBytes", "mlflow-webhook-key-0")
    assert key.inputs == {"length": 32}  # a Fernet key
    spec = pod(deployment)
    step = spec["initContainers"][-1]
    assert step["name"] == "encryption-keys"
    assert step["command"] == ["python", "/opt/mlflow-stack-keys/encryption_keys.py"]
    expected = {name: {"name": "mlflow-keys-abcd1234", "key": name} for name in VARIABLES}
    (mlflow,) = [container for container in spec["containers"] if container["name"] == "mlflow"]
    assert from_secret(mlflow) == expected
    former = {"name": "mlflow-keys-abcd1234", "key": "FORMER_KEYS", "optional": True}
    assert from_secret(step) == {**expected, "FORMER_KEYS": former}
    # The step opens the server's own database.
    uris = [
        [variable["value"] for variable in container["env"] if variable["name"] == "MLFLOW_BACKEND_STORE_URI"]
        for container in (mlflow, step)
    ]
    assert uris[0] == uris[1] != []


def test_a_rotation_keeps_every_generation_and_moves_the_server_to_the_newest() -> None:
    deployment = stack({"encryption_keys": {"rotation": 2}})
    made = deployment.generated
    data = deployment.one("Secret", "mlflow-keys").inputs["stringData"]
    assert data[VARIABLES[0]] == made["mlflow-webhook-key-2"]
    assert data[VARIABLES[1]] == made["mlflow-kek-2"]
    assert data[VARIABLES[2]] == "4"
    assert json.loads(data["FORMER_KEYS"]) == [
        {"webhook": made["mlflow-webhook-key-1"], "passphrase": made["mlflow-kek-1"], "version": 3},
        {"webhook": made["mlflow-webhook-key-0"], "passphrase": made["mlflow-kek-0"], "version": 2},
    ]


def test_keys_survive_down_with_what_is_protected() -> None:
    marker = stack({"encryption_keys": {"rotation": 1}}).one("RandomId", "mlflow-keys")
    assert marker.protect
    assert {urn.rsplit("::", 1)[-1] for urn in marker.dependencies} == {
        "mlflow-webhook-key-0",
        "mlflow-webhook-key-1",
        "mlflow-kek-0",
        "mlflow-kek-1",
    }


def test_an_existing_secret_is_adopted_and_nothing_generated() -> None:
    deployment = stack({"existing_namespace": "team", "encryption_keys": {"existing_secret": "restored"}})
    assert deployment.all("RandomBytes") == deployment.all("Secret", "mlflow-keys") == []
    (mlflow,) = [container for container in pod(deployment)["containers"] if container["name"] == "mlflow"]
    assert from_secret(mlflow) == {name: {"name": "restored", "key": name} for name in VARIABLES}


@pytest.mark.parametrize("preview", [False, True])
def test_the_keys_are_a_secret_output(preview: bool) -> None:
    def program() -> None:
        pulumi.export("keys", MlflowStack("mlflow", {}).encryption_keys)

    deployment = engine.deploy(program, preview=preview)
    exported = deployment.outputs["keys"]
    assert exported["secret"] is True
    if not preview:
        assert list(exported["value"]) == VARIABLES


def test_refuses_both_ways_at_once_and_a_secret_in_a_created_namespace() -> None:
    with pytest.raises(InvalidArgs) as refused:
        stack({"encryption_keys": {"rotation": -1, "existing_secret": "restored"}})
    assert "encryption_keys.rotation: must not be set when existing_secret is set" in str(refused.value)
    assert "encryption_keys.rotation: must be a whole number from 0 to 100 (got -1)" in str(refused.value)
    with pytest.raises(InvalidArgs, match=r"existing_namespace: required, because encryption_keys\.existing_secret"):
        stack({"encryption_keys": {"existing_secret": "restored"}})
