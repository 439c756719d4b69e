"""Objects of `examples/csc-rahti` compared with those of the CSC template; there is no OpenShift to run them on.

tests/render and tests/process/test_definitions.py check the same objects.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from render.objects import FOLDER, RENDERED
from repository import Repository

import engine

STATED = yaml.safe_load((FOLDER / "Pulumi.rahti.yaml").read_text())
CONFIG: dict[str, Any] = {key.removeprefix("mlflow-stack:"): value for key, value in STATED["config"].items()}


def of(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in RENDERED["csc-rahti", "openshift"] if manifest["kind"] == kind]


def env(container: dict[str, Any]) -> dict[str, str]:
    return {
        variable["name"]: variable["value"]
        for variable in container["env"]
        if "value" in variable
        if "value" in variable
    }


def test_it_is_a_stack_file() -> None:
    jsonschema.validate(STATED, json.loads((engine.PROJECT / "docs" / "stack-file.schema.json").read_text()))


def test_tracking_and_models_are_behind_routes_of_one_host() -> None:
    routes = {item["spec"].get("path", "/"): item["spec"] for item in of("Route")}
    assert set(routes) == {"/", "/serving/model"}
    for route in routes.values():
        assert route["host"] == CONFIG["expose"]["host"]
        assert route["tls"] == {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"}
    assert of("Ingress") == []


def test_the_networks_are_judged_by_the_client_s_address_that_the_router_tells() -> None:
    configurations = [item["data"]["nginx.conf"] for item in of("ConfigMap") if "nginx.conf" in item.get("data", {})]
    assert len(configurations) == 2
    for text in configurations:
        for network in CONFIG["expose"]["allowFrom"]:
            assert network in text
        assert re.findall(r"^\s*set_real_ip_from (\S+);", text, re.M) == ["10.128.0.0/14"]


def test_the_claim_and_the_keys_that_were_there_are_used_and_no_other_is_made() -> None:
    assert of("PersistentVolumeClaim") == []
    assert of("Namespace") == []
    (server,) = of("StatefulSet")
    pod = server["spec"]["template"]["spec"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    ]
    assert claims == ["storage-pvc"]
    assert "allas" in [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    (convert,) = [container for container in pod["initContainers"] if container["name"] == "file-store"]
    assert env(convert)["FILE_STORE"] == "/mlflow/mlruns"
    assert env(convert)["FILE_STORE_MOUNT"] == "/mnt/storage-pvc"
    (mlflow,) = [container for container in pod["containers"] if container["name"] == "mlflow"]
    assert env(mlflow)["MLFLOW_ARTIFACTS_DESTINATION"].startswith("s3://team")
    assert env(mlflow)["MLFLOW_S3_ENDPOINT_URL"] == "https://a3s.fi"


def test_models_have_no_server_yet() -> None:
    (models,) = of("Deployment")
    assert models["spec"]["replicas"] == 0


def test_the_table_names_keys_that_the_file_has_or_could_have() -> None:
    declared = json.loads((engine.PROJECT / "docs" / "stack-file.schema.json").read_text())
    known = set(re.findall(r'"([A-Za-z0-9]+)": \{', json.dumps(declared)))
    known |= {key.removeprefix("mlflow-stack:") for key in re.findall(r'"(mlflow-stack:\w+)"', json.dumps(declared))}
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", (FOLDER / "README.md").read_text(), re.M)
    assert len(rows) > 10
    for _, new in rows:
        for key in re.findall(r"`([a-zA-Z.\[\]]+)(?:: \w+)?`", new):
            assert set(key.replace("[]", "").split(".")) <= known, key


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout", {})


def test_it_renders_as_its_readme_says(repository: Repository) -> None:
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.M | re.S)
    shell = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(shell, cwd=repository.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = {yaml.safe_load(path.read_text())["kind"] for path in (repository.folder / "objects").rglob("*.yaml")}
    assert {"Route", "StatefulSet", "Deployment", "NetworkPolicy"} <= kinds
