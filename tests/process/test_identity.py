"""Changed location of the data, with a real engine: refused by default, and never pods on old and new data together.

The provider writes files instead of objects, so there is no cluster; the order of steps is the engine's own. The pods
of a deleted Deployment are gone when its deletion ends because the provider requests Kubernetes' foreground deletion.
"""

import copy
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import engine
from mlflow_stack_cli import release
from mlflow_stack_cli.previews.live import comparison
from mlflow_stack_cli.previews.words import Words
from mlflow_stack_cli.progress import Progress
from sandbox import engine as pulumi

PROGRAM = """
import json, pathlib, pulumi, pulumi_kubernetes as k8s
from mlflow_stack import MlflowStack

here = pathlib.Path(__file__).parent
provider = k8s.Provider("files", render_yaml_to_directory=str(here / "out"), enable_secret_mutable=True)
MlflowStack("mlflow", json.loads((here / "args.json").read_text()), pulumi.ResourceOptions(providers=[provider]))
"""
LARGE: dict[str, Any] = {
    "existing_namespace": "team",
    "backend_store": {"mysql": {"host": "db.example.com", "existing_secret": "db"}},
    "artifact_store": {"s3": {"bucket": "bin", "existing_secret": "s"}},
}
ELSEWHERE = copy.deepcopy(LARGE)
ELSEWHERE["backend_store"]["mysql"]["host"] = "other.example.com"
SMALL: dict[str, Any] = {"existing_namespace": "team"}
GUARDS = ("mlflow-records-identity", "mlflow-artifacts-identity", "mlflow-identity")


@dataclass
class Program:
    """Third-party program that uses the component, in its own stack."""

    folder: Path
    env: dict[str, str]

    def pulumi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["pulumi", *arguments, "--stack=dev", "--non-interactive"]
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)

    def up(self, args: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (self.folder / "args.json").write_text(json.dumps(args))
        return self.pulumi("up", "--yes", "--skip-preview")

    def steps(self, args: dict[str, Any]) -> list[Any]:
        """Return the steps of a preview, none of which fails."""
        (self.folder / "args.json").write_text(json.dumps(args))
        return json.loads(self.pulumi("preview", "--json", "--show-sames").stdout)["steps"]

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "export").stdout)

    def take(self, state: dict[str, Any]) -> None:
        file = self.folder / "state.json"
        file.write_text(json.dumps(state))
        done = self.pulumi("stack", "import", f"--file={file}")
        assert done.returncode == 0, done.stderr

    def servers(self) -> dict[str, str]:
        """Return the existing workloads by name, with the database of each."""
        found = {}
        for path in (self.folder / "out").rglob("*.yaml"):
            one = yaml.safe_load(path.read_text())
            if one["kind"] in ("Deployment", "StatefulSet"):
                (container,) = [c for c in one["spec"]["template"]["spec"]["containers"] if c["name"] == "mlflow"]
                (uri,) = [v["value"] for v in container["env"] if v["name"] == "MLFLOW_BACKEND_STORE_URI"]
                found[one["metadata"]["name"]] = uri.partition("?")[0]
        return found


@pytest.fixture
def program(tmp_path: Path) -> Program:
    runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": str(engine.PROJECT / ".venv")}}
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump({"name": "team", "runtime": runtime}))
    (tmp_path / "__main__.py").write_text(PROGRAM)
    (tmp_path / "backend").mkdir()
    env = {
        **os.environ,
        **pulumi.environment(pulumi.ensure(Progress()), None),
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'backend'}",
        "PULUMI_CONFIG_PASSPHRASE": "correct horse",
    }
    made = Program(tmp_path, env)
    assert made.pulumi("stack", "init").returncode == 0
    done = made.up(LARGE)
    assert done.returncode == 0, done.stdout
    return made


def when(said: str, step: str) -> int:
    """Return the line of an update that reports a step."""
    (line, *_) = [number for number, line in enumerate(said.splitlines()) if re.search(step, line)]
    return line


def test_the_providers_have_the_versions_that_their_sdks_ask_for(program: Program) -> None:
    done = program.pulumi("preview", "--expect-no-changes")
    assert done.returncode == 0, done.stdout
    assert "is expected to have version" not in done.stdout + done.stderr


def test_a_plain_update_does_not_go_to_other_data(program: Program) -> None:
    before = program.servers()
    done = program.up(ELSEWHERE)
    assert done.returncode != 0
    assert "unable to replace resource" in done.stdout
    assert "::mlflow-records-identity" in done.stdout
    assert program.servers() == before
    assert list(before.values()) == ["mysql+pymysql://db.example.com:3306/mlflow"]
    # Nor has the schema step run on the other database.
    assert "Job mlflow-schema replaced" not in done.stdout


def test_what_is_acknowledged_happens_once_and_never_on_both(program: Program) -> None:
    (before,) = program.servers()
    program.take(release.let_go(program.state, ["mysql://db.example.com/mlflow"]))
    done = program.up(ELSEWHERE)
    assert done.returncode == 0, done.stdout
    order = [
        "Job mlflow-schema created replacement",
        "Deployment mlflow deleted original",
        r"Deployment mlflow creating replacement",
    ]
    assert [when(done.stdout, step) for step in order] == sorted(when(done.stdout, step) for step in order)
    (after,) = program.servers()
    assert before != after
    assert program.servers()[after] == "mysql+pymysql://other.example.com:3306/mlflow"
    assert program.pulumi("preview", "--expect-no-changes").returncode == 0
    # The acknowledgement covers one change only.
    back = program.up(LARGE)
    assert back.returncode != 0
    assert program.servers() == {after: "mysql+pymysql://other.example.com:3306/mlflow"}


def test_a_server_of_another_kind_starts_when_the_one_before_is_gone(program: Program) -> None:
    left = ["mysql://db.example.com/mlflow", "s3://bin", "mlflow-dumps"]
    state = release.let_go(program.state, left)
    program.take(state)
    told = Words(comparison(state, program.steps(SMALL)), left)
    assert told.refused == []
    assert "- Deployment `mlflow`\n" in told.comment("team", "x").partition("#### Deleted")[2]
    done = program.up(SMALL)
    assert done.returncode == 0, done.stdout
    gone = when(done.stdout, "Deployment mlflow deleted original")
    assert gone < when(done.stdout, "StatefulSet mlflow creating")
    assert list(program.servers().values()) == ["sqlite:////mlflow/mlflow.db"]
    assert program.pulumi("preview", "--expect-no-changes").returncode == 0
    kept = [
        resource
        for resource in program.state["deployment"]["resources"]
        if resource["urn"].endswith("Deployment::mlflow")
    ]
    assert kept == []


def test_a_stack_from_before_the_guards_gets_them_and_nothing_else(program: Program) -> None:
    state = program.state
    guards = [resource["urn"] for resource in state["deployment"]["resources"] if resource["urn"].endswith(GUARDS)]
    assert len(guards) == 3

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key != "replaceWith"}
        return [without(item) for item in value if item not in guards] if isinstance(value, list) else value

    found = [without(resource) for resource in state["deployment"]["resources"] if resource["urn"] not in guards]
    program.take({**state, "deployment": {**state["deployment"], "resources": found}})
    changed = {(step["op"], step["urn"]) for step in program.steps(LARGE) if step["op"] != "same"}
    assert changed == {("create", urn) for urn in guards}
    before = program.servers()
    assert program.up(LARGE).returncode == 0
    assert program.servers() == before
