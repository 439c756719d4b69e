"""Parts of an MlflowStack as attributes, for programs in Python.

tests/process/test_options.py shows that transforms and aliases on an MlflowStack reach them.
"""

import pulumi

import engine
from mlflow_stack import MlflowStack

ARGS = {
    "users": ["ann"],
    "artifact_store": {"pvc": {"size": "5Gi"}},
    "models": [{"name": "iris", "uri": "models:/iris/1"}],
}


def test_parts_are_attributes() -> None:
    def program() -> None:
        mlflow = MlflowStack("mlflow", ARGS)
        pulumi.export("users", [user.name for user in mlflow.users.everyone])
        pulumi.export("claim", mlflow.backend_store.claim)
        pulumi.export("client", mlflow.credentials.htpasswd)
        pulumi.export("service", mlflow.tracking.service)
        pulumi.export("tracking", mlflow.tracking.workload.metadata["name"])
        pulumi.export("models", {name: server.service for name, server in mlflow.models.items()})
        pulumi.export("model", mlflow.models["iris"].workload.metadata["name"])
        parts = (mlflow.artifact_store, mlflow.proxy, mlflow.exposure)
        pulumi.export("parts", [type(part).__name__ for part in parts])

    deployment = engine.deploy(program)
    assert {name: output["value"] for name, output in deployment.outputs.items()} == {
        "users": ["ann", "models"],
        "claim": "mlflow-data",
        "client": "mlflow-htpasswd",
        "service": "mlflow",
        "tracking": "mlflow-abcd1234",
        "models": {"iris": "mlflow-iris"},
        "model": "mlflow-iris-abcd1234",
        "parts": ["PvcArtifacts", "AuthProxy", "Exposure"],
    }
