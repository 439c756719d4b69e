"""Identity of data in previews: equal from the guards and from the pods of a stack without guards."""

from pathlib import Path

import pytest
import yaml

import engine
from mlflow_stack_cli.previews import data
from mlflow_stack_cli.previews.capture import capture
from mlflow_stack_cli.project import Project

STORES = {
    "bucket at an endpoint": {
        "existingNamespace": "team",
        "backendStore": {"mysql": {"host": "db", "port": 3307, "database": "my-db", "existingSecret": "db"}},
        "artifactStore": {
            "s3": {"bucket": "bin", "prefix": "a/b", "endpointUrl": "http://s3.x.svc:9000", "existingSecret": "s"}
        },
    },
    "bucket of the clients": {
        "existingNamespace": "team",
        "artifactStore": {"s3": {"bucket": "bin", "existingSecret": "s", "proxied": False}},
    },
    "claims": {"artifactStore": {"pvc": {}}},
    "one claim": {"existingNamespace": "team", "backendStore": {"pvc": {"existingClaim": "old"}}},
    "deployed database": {"backendStore": {"mysql": {"deploy": {}}}},
}


@pytest.mark.parametrize("name", STORES)
def test_reads_the_same_from_guards_and_from_pods(name: str, tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(yaml.safe_dump({"config": {f"mlflow-stack:{key}": value for key, value in STORES[name].items()}}))
    project = Project.read(engine.PROJECT)
    found = capture(project, "team", project.config(file) or {}).resources
    older = [resource for resource in found if resource.kind != "RandomId"]
    assert set(data.identities(found)) == {"records", "artifacts"}
    assert data.identities(older) == data.identities(found)
