"""Node for all end-to-end tests: the instance `test`, created by the command that `make up` runs.

KEEP=1 leaves it running, and reuses it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml
from e2e.isolation import ways_out
from e2e.platform_under_test import INSTANCE, Platform, Visitor

import engine
from sandbox.cluster import Node
from sandbox.paths import Instance


def local(*arguments: str) -> str:
    """Run a command of the project's command line; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "--instance", INSTANCE, "--stack", "dev", *arguments],
        cwd=engine.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def exported(script: str) -> dict[str, str]:
    """Return the environment of a shell that evaluated the output of `make env`."""
    shell = subprocess.run(
        ["bash", "-c", 'eval "$1"; env -0', "bash", script], capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in shell.stdout.split("\0") if "=" in line)


@pytest.fixture(scope="session")
def first_up() -> Iterator[str]:
    """Output of the first `up` from an empty machine."""
    keep = bool(os.environ.get("KEEP"))
    if not keep:
        local("clean", "--force")
    yield local("up")
    if not keep:
        local("down")
        local("clean", "--force")


@pytest.fixture(scope="session")
def platform(first_up: str) -> Platform:
    instance = Instance.open(INSTANCE)
    # Before any test sends a packet.
    if ways := ways_out(instance, Node(instance).run("ip", "route").stdout):
        pytest.exit(f"a packet of the tests could leave this machine: {'; '.join(ways)}", returncode=1)
    config = yaml.safe_load((instance.root / "stacks" / "Pulumi.dev.yaml").read_text())["config"]
    images = {"mlflow": config["mlflow-stack:image"], "proxy": config["mlflow-stack:proxyImage"]}
    return Platform(instance, Node(instance), exported(local("env")), images)


@pytest.fixture(scope="session")
def client(platform: Platform) -> dict[str, str]:
    """Variables that `make client-env` exports for the stack of `make up`."""
    script = platform.local("client-env").stdout
    given = exported(script)
    # For requests of the tests themselves with `requests`.
    os.environ["REQUESTS_CA_BUNDLE"] = given["REQUESTS_CA_BUNDLE"]
    return {name: value for name, value in given.items() if name.startswith("MLFLOW_")}


@pytest.fixture(scope="session")
def stranger(platform: Platform) -> Iterator[Visitor]:
    """Foreign pod, in its own namespace, that no policy selects."""
    platform.namespace("stranger")
    yield platform.visitor("stranger")
    platform.kubectl("delete", "namespace", "stranger")
