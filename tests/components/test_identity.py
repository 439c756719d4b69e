"""Guards of the data's identity: their content, their dependents, and what is replaced with them.

tests/process/test_identity.py shows that the engine then refuses, and its order of replacements.
"""

from typing import Any

import pytest

import engine
from mlflow_stack import MlflowStack, MlflowStackArgs

EXTERNAL = {"mysql": {"host": "db.example.com", "existing_secret": "db"}}
BUCKET = {"s3": {"bucket": "bin", "prefix": "p", "existing_secret": "s"}}
DEPLOYED = {"mysql": {"deploy": {}}}


def stack(**args: Any) -> engine.Deployment:
    wanted: MlflowStackArgs = {"existing_namespace": "team", **args}
    return engine.deploy(lambda: MlflowStack("mlflow", wanted) and None)


def held(deployment: engine.Deployment, purpose: str) -> dict[str, str]:
    return deployment.one("RandomId", f"mlflow-{purpose}").inputs["keepers"]


@pytest.mark.parametrize(
    ("args", "records", "artifacts"),
    [
        ({}, "pvc://team/mlflow-data", "pvc://team/mlflow-data"),
        ({"backend_store": {"pvc": {"existing_claim": "old"}}}, "pvc://team/old", "pvc://team/old"),
        ({"artifact_store": {"pvc": {}}}, "pvc://team/mlflow-data", "pvc://team/mlflow-artifacts"),
        ({"artifact_store": {"pvc": {"existing_claim": "a"}}}, "pvc://team/mlflow-data", "pvc://team/a"),
        ({"artifact_store": BUCKET}, "pvc://team/mlflow-data", "s3://bin/p"),
        ({"backend_store": DEPLOYED}, "mysql://mlflow-database.team/mlflow", "pvc://team/mlflow-artifacts"),
        ({"backend_store": EXTERNAL, "artifact_store": BUCKET}, "mysql://db.example.com/mlflow", "s3://bin/p"),
    ],
)
def test_holds_where_the_data_is(args: dict[str, Any], records: str, artifacts: str) -> None:
    deployment = stack(**args)
    assert held(deployment, "records-identity") == {"identity": records}
    assert held(deployment, "artifacts-identity") == {"identity": artifacts}
    assert held(deployment, "identity") == {"records": records, "artifacts": artifacts}


def test_a_store_of_another_kind_has_the_same_guard() -> None:
    """Otherwise the engine would delete one and create another, and fail at the end of the update."""
    parents = {
        (resource.parent, resource.name, resource.protect)
        for args in ({}, {"backend_store": EXTERNAL, "artifact_store": BUCKET})
        for resource in stack(**args).all("RandomId")
        if resource.name in ("mlflow-records-identity", "mlflow-artifacts-identity")
    }
    urn = "urn:pulumi:test::mlflow-stack::pulumi:pulumi:Stack$mlflow-stack:index:MlflowStack::mlflow"
    assert parents == {(urn, "mlflow-records-identity", True), (urn, "mlflow-artifacts-identity", True)}


def test_nothing_writes_to_other_data_before_its_guard() -> None:
    deployment = stack(backend_store=EXTERNAL, artifact_store=BUCKET)

    def waits(kind: str, name: str) -> set[str]:
        return {urn.rsplit("::", 1)[-1] for urn in deployment.one(kind, name).dependencies}

    assert "mlflow-records-identity" in waits("Job", "mlflow-schema")
    assert "mlflow-artifacts-identity" in waits("Job", "mlflow-bucket-check")
    # The previous server is up until both have succeeded.
    assert {"mlflow-schema", "mlflow-bucket-check"} <= waits("RandomId", "mlflow-identity")
    assert "mlflow-records-identity" in {
        urn.rsplit("::", 1)[-1] for urn in stack().one("StatefulSet", "mlflow").dependencies
    }


@pytest.mark.parametrize("args", [{}, {"backend_store": EXTERNAL, "artifact_store": BUCKET}])
def test_the_server_is_replaced_with_the_identity_and_deleted_first(args: dict[str, Any]) -> None:
    deployment = stack(**args)
    (server,) = [
        resource
        for resource in deployment.registrations
        if resource.name == "mlflow" and resource.type.startswith("kubernetes:apps")
    ]
    assert [urn.rsplit("::", 1)[-1] for urn in server.replace_with] == ["mlflow-identity"]
    assert server.delete_before_replace
    handover = deployment.one("RandomId", "mlflow-identity")
    assert handover.delete_before_replace
    assert not handover.protect
