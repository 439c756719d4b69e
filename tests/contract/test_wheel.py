"""Wheel built by `pip install`: it has the package's files, and every kind registers from an installation."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import engine

PACKAGES = ("mlflow_stack", "mlflow_stack_cli")
UV = Path(sys.executable).with_name("uv")
BUCKET = {"bucket": "team", "access_key_id": "key", "secret_access_key": "secret"}
PROGRAMS = [
    {"models": [{"name": "iris", "uri": "models:/iris/1"}]},
    {"artifact_store": {"s3": BUCKET}, "backend_store": {"mysql": {"deploy": {}}}},
    {"backend_store": {"mysql": {"host": "db.example.com", "password": "a password"}}},
    {"backend_store": {"postgres": {"host": "db.example.com", "password": "a password"}}},
    {"artifact_store": {"pvc": {}}, "backend_store": {"pvc": {}}},
    *({"expose": {kind: {}, "host": "mlflow.example.com"}} for kind in ("ingress", "route", "load_balancer")),
    {"expose": {"host": "mlflow.example.com", "gateway": "infra/public"}},
    {"expose": {"host": "mlflow.example.com", "node_port": 30500}},
]
"""Every kind of store, exposure and server at least once."""
REGISTER = """
import json
import sys
import engine
import mlflow_stack
kinds = set()
for args in json.load(sys.stdin):
    deployment = engine.deploy(lambda args=args: mlflow_stack.MlflowStack("mlflow", args) and None)
    types = [registration.type for registration in deployment.registrations]
    kinds |= {token.rpartition(":")[2] for token in types if token.startswith("mlflow-stack:")}
print(json.dumps({"from": mlflow_stack.__file__, "kinds": sorted(kinds)}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, because setuptools builds beside the sources.
    sources = shutil.copytree(engine.PROJECT / "components", folder / "components")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, sources], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    listed = ["git", "ls-files", *PACKAGES]
    tracked = subprocess.run(listed, cwd=engine.PROJECT / "components", capture_output=True, text=True, check=True)
    expected = set(tracked.stdout.splitlines())
    assert all(any(name.startswith(f"{package}/") for name in expected) for package in PACKAGES)
    assert {"mlflow_stack/programs/mysql_dump.sh", "mlflow_stack/programs/mariadb_data.sh"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_every_kind_registers_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    lock = engine.PROJECT / "requirements.lock"
    subprocess.run([UV, "venv", "--quiet", tmp_path / "venv"], check=True)
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, "--constraint", lock, wheel], check=True)
    done = subprocess.run(
        [python, "-c", REGISTER],
        cwd=tmp_path,
        input=json.dumps(PROGRAMS),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(engine.PROJECT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said["from"]).is_relative_to(tmp_path / "venv")
    stores = {"PvcStore", "MysqlStore", "PostgresStore", "PvcArtifacts", "S3Artifacts"}
    assert stores | {"Exposure", "ModelServer", "TrackingServer", "AuthProxy"} <= set(said["kinds"])
