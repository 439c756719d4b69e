"""Options of Pulumi on an MlflowStack, with a real engine: transforms and aliases reach every part.

The programs are those of docs/how-to/change-what-no-key-covers.md. The provider writes files instead of objects, so
there is no cluster.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import engine
from mlflow_stack_cli.progress import Progress
from sandbox import engine as pulumi

TRANSFORM, MOVE = re.findall(
    r"^```python\n(.*?)^```$",
    (engine.PROJECT / "docs/how-to/change-what-no-key-covers.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
ARGS = {
    "existing_namespace": "team",
    "backend_store": {"mysql": {"deploy": {}}},
    "artifact_store": {"s3": {"bucket": "bin", "existing_secret": "s"}},
    "models": [{"name": "iris", "uri": "models:/iris/1"}],
}


class Program:
    """Program with a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": str(engine.PROJECT / ".venv")}}
        (folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": "team", "runtime": runtime}))
        (folder / "backend").mkdir()
        self.env = {
            **os.environ,
            **pulumi.environment(pulumi.ensure(Progress()), None),
            "PULUMI_BACKEND_URL": f"file://{folder / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "correct horse",
        }

    def pulumi(self, *arguments: str) -> str:
        command = ["pulumi", *arguments, "--stack=dev", "--non-interactive"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, text: str) -> None:
        (self.folder / "__main__.py").write_text(text)

    def templates(self) -> dict[str, Any]:
        """Return the pod templates of the objects, by the component that they belong to."""
        objects = [yaml.safe_load(path.read_text()) for path in (self.folder / "out").rglob("*.yaml")]
        return {
            made["metadata"]["labels"]["app.kubernetes.io/component"]: made["spec"]["template"]["spec"]
            for made in objects
            if "template" in made.get("spec", {})
        }


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    made = Program(tmp_path_factory.mktemp("options"))
    made.pulumi("stack", "init")
    made.pulumi("config", "set", "kubernetes:renderYamlToDirectory", str(made.folder / "out"))
    made.pulumi("config", "set", "args", json.dumps(ARGS))
    made.write(TRANSFORM)
    made.pulumi("up", "--yes", "--skip-preview")
    return made


def test_transform_reaches_every_pod(program: Program) -> None:
    found = program.templates()
    assert set(found) == {"tracking", "model", "database", "schema", "bucket-check"}
    assert {name: pod["schedulerName"] for name, pod in found.items()} == dict.fromkeys(found, "volcano")


def test_alias_reaches_every_part(program: Program) -> None:
    declared, _, _ = TRANSFORM.rpartition("\n\nmlflow = ")
    program.write(f"{declared}\n\n{MOVE}")
    steps = json.loads(program.pulumi("preview", "--json", "--show-sames"))["steps"]
    changed = [(step["op"], step["urn"].rpartition("::")[2]) for step in steps if step["op"] != "same"]
    assert changed == [("create", "vision")]
    assert len(steps) > 30
