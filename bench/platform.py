"""Measured instance, and the programs that work on it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlflow_stack_cli.errors import LocalError
from sandbox.paths import PROJECT, Instance

INSTANCE = "bench"
NAMESPACE = "mlflow-dev"
"""Namespace of the stack that `up` creates, as in its stack file."""


class Platform:
    """Instance `bench` with the stack `dev`."""

    def __init__(self) -> None:
        self.instance = Instance.open(INSTANCE)
        self._environment: dict[str, str] | None = None

    def url_of(self, port: int) -> str:
        """Return the address of a NodePort."""
        return f"http://{self.instance.node_address}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, overridden by the variables of `make env`."""
        if self._environment is None:
            self._environment = exported(self.local("env").stdout)
        return self._environment

    @property
    def config(self) -> dict[str, Any]:
        """Configuration that `up` wrote for its stack."""
        return yaml.safe_load((self.instance.root / "stacks" / "Pulumi.dev.yaml").read_text())["config"]

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project's command line, as make calls it."""
        return run(sys.executable, "-m", "sandbox", "--instance", INSTANCE, "--stack", "dev", *arguments)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; return its output."""
        return run("kubectl", *arguments, stdin=stdin, env=self.environment).stdout

    def objects(self, kinds: str, namespace: str, *arguments: str) -> list[dict[str, Any]]:
        """Return objects of a namespace."""
        text = self.kubectl("get", kinds, "--namespace", namespace, "--output", "json", *arguments)
        return json.loads(text)["items"]

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply objects. On standard input, because some are Secrets."""
        self.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": [*documents]})
        )

    def client(self, program: str) -> str:
        """Run a program with MLflow's client, as `make client-env` sets it up; return its output."""
        variables = {**os.environ, **exported(self.local("client-env").stdout)}
        return run(sys.executable, "-c", program, env=variables).stdout

    def configure(self, keys: Mapping[str, Any]) -> None:
        """Set keys of the stack file, as a user would by hand."""
        file = self.instance.root / "stacks" / "Pulumi.dev.yaml"
        content = yaml.safe_load(file.read_text())
        content["config"] |= keys
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def tracking_pod(self) -> dict[str, Any]:
        """Return the pod of the stack that `up` created."""
        (pod,) = self.objects("pods", NAMESPACE, "--selector", "app.kubernetes.io/component=tracking")
        return pod

    def secret(self, name: str) -> dict[str, Any]:
        """Return a Secret of the stack that `up` created, with values in base64."""
        return json.loads(self.kubectl("get", "secret", name, "--namespace", NAMESPACE, "--output", "json"))["data"]

    def close(self, keep: bool) -> None:
        """Take the instance down and delete it, unless it is to be kept."""
        if not keep:
            self.local("down")
            self.local("clean", "--force")


@dataclass
class Stack:
    """Stack of a program in the instance's state backend, beside the one that `up` created."""

    platform: Platform
    name: str
    project: str
    program: Path
    config: dict[str, Any]

    def __enter__(self) -> "Stack":
        """Create the stack, empty."""
        with tempfile.TemporaryDirectory(dir=self.platform.instance.root) as scratch:
            # `stack init` writes the salt beside the Pulumi.yaml that it finds, which must not be the checkout's.
            (Path(scratch) / "Pulumi.yaml").write_text(f"name: {self.project}\nruntime: python\n")
            plain = {key: value for key, value in self._environment.items() if key != "PULUMI_OPTION_CONFIG_FILE"}
            run("pulumi", "stack", "init", self.name, "--no-select", "--non-interactive", cwd=Path(scratch), env=plain)
            salt = yaml.safe_load((Path(scratch) / f"Pulumi.{self.name}.yaml").read_text())
        content = {"encryptionsalt": salt["encryptionsalt"], "config": self.config}
        self._file.write_text(yaml.safe_dump(content))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the stack; the caller deletes its objects."""
        self.pulumi("stack", "rm", self.name, "--yes", "--force", "--preserve-config")
        self._file.unlink()

    def pulumi(self, *arguments: str) -> str:
        """Run pulumi; return its output."""
        options = (*arguments, "--non-interactive")
        return run("pulumi", *options, cwd=self.program, env=self._environment).stdout

    @property
    def _environment(self) -> dict[str, str]:
        return self.platform.environment | {
            "PULUMI_OPTION_CONFIG_FILE": str(self._file),
            "PULUMI_STACK": self.name,
        }

    @property
    def _file(self) -> Path:
        return self.platform.instance.root / "stacks" / f"bench.{self.name}.yaml"


def run(
    *argv: str, stdin: str | None = None, cwd: Path = PROJECT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program that must succeed. Raises `LocalError` with its last lines."""
    done = subprocess.run(argv, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise LocalError(f"`{' '.join(argv[:6])[:200]}` failed:\n{last}\nNext: KEEP=1 leaves the instance for a look.")
    return done


def exported(script: str) -> dict[str, str]:
    """Return the environment of a shell that evaluated `script`."""
    shell = run("bash", "-c", 'eval "$1"; env -0', "bash", script, env=os.environ)
    return dict(line.split("=", 1) for line in shell.stdout.split("\0") if "=" in line)
