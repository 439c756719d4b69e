"""User who follows the documented commands of a backup, on real databases and with a stand-in for kubectl."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process.databases import inside
from process.steps import SCRIPTS

import engine
from mlflow_stack import MlflowStack, MlflowStackArgs
from sandbox.images.databases import Database as Files

KUBECTL = Path(__file__).with_name("kubectl_stand_in.py")


@dataclass(frozen=True)
class Person:
    """User who follows the documents, with the cluster as their commands see it."""

    folder: Path
    """Mounts of the pod."""
    home: Path
    files: Files
    """Files of the image for dumps."""

    @property
    def cluster(self) -> Path:
        return self.home / "cluster"

    def follow(self, *commands: str, fails: bool = False) -> str:
        """Run the commands and return their output."""
        env = os.environ | {
            "HOME": str(self.home),
            "PATH": f"{self.home}:{os.environ['PATH']}",
            "CLUSTER": str(self.cluster),
            "ENTER": json.dumps(inside(self.files, self.folder, user=0)),
            "SCRIPTS": str(SCRIPTS),
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(commands)], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    @property
    def calls(self) -> list[list[str]]:
        """Return the words of each call of kubectl."""
        return [json.loads(line) for line in (self.cluster / "calls").read_text().splitlines()]


def person(kind: str, folder: Path, home: Path, files: Files, store: Mapping[str, Any]) -> Person:
    """User with a stack on a database: the Job is the component's, with the test's paths instead of mounts."""
    args: MlflowStackArgs = {
        "existing_namespace": "team",
        "backend_store": {kind: {"host": "127.0.0.1", "existing_secret": "db", **store}},
    }
    job = engine.deploy(lambda: MlflowStack("mlflow", args) and None).one("Job", "mlflow-schema").inputs
    template = job["spec"]["template"]
    # As the Job controller adds it.
    template["metadata"]["labels"] |= {"batch.kubernetes.io/job-name": "mlflow-schema", "job-name": "mlflow-schema"}
    mounted = {"PASSWORD_FILE": "/mnt/password", "CA_FILE": "/mnt/ca.pem"}
    for variable in template["spec"]["initContainers"][0]["env"]:
        variable["value"] = mounted.get(variable["name"], variable["value"])
    result = Person(folder, home, files)
    result.cluster.mkdir()
    (result.cluster / "jobs.json").write_text(json.dumps({"items": [job]}))
    for name, program in (
        ("kubectl", f'#!/bin/sh\nexec {sys.executable} {KUBECTL} "$@"\n'),
        ("pulumi", "#!/bin/sh\necho team\n"),
    ):
        (home / name).write_text(program)
        (home / name).chmod(0o755)
    return result
