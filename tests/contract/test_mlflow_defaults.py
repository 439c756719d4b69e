"""Decisions about MLflow's variables and options, against the installed MLflow and the containers' environment."""

import functools
import math
import re
from pathlib import Path
from typing import Any

import click
import mlflow
import pytest
import yaml
from mlflow import environment_variables
from mlflow.cli import cli
from mlflow.models.cli import commands as models_cli

import engine
from mlflow_stack import MlflowStack, MlflowStackArgs, S3ArtifactsArgs

TABLE = yaml.safe_load((engine.PROJECT / "docs" / "mlflow-defaults.yaml").read_text())
DECIDED: dict[str, dict[str, Any]] = TABLE["decided"]
HOLDS: dict[str, Any] = {name: value for group in TABLE["holds"] for name, value in group["variables"].items()}
KINDS = {"path", "random", "per-process", "published-secret", "address"}
"""Reasons for which a default of a laptop is unfit for a pod."""

NAMES = (
    re.compile(r"""["'](_?MLFLOW_[A-Z0-9_]+)["']"""),
    re.compile(r"""(?:environ(?:\.get|\.pop|\.setdefault)?\s*[\[(]|getenv\()\s*["'](\w+)["']"""),
    re.compile(r"""^\s*_?[A-Z_]+_ENV(?:_VAR)? *= *["'](\w+)["']""", re.MULTILINE),
)
"""Forms in which MLflow's source names a variable: by its prefix, where it is read, or as a constant."""


@functools.cache
def defaults() -> dict[str, Any]:
    """Return the variables of MLflow's registry with their defaults, as the table writes them."""
    home = str(Path.home())
    found: dict[str, Any] = {}
    for variable in vars(environment_variables).values():
        if isinstance(variable, environment_variables._EnvironmentVariable):
            value = variable.default
            if isinstance(value, str) and value.startswith(home):
                value = f"~{value.removeprefix(home)}"
            if isinstance(value, float) and math.isinf(value):
                value = "inf"
            found[variable.name] = value
    return found


@functools.cache
def variables() -> frozenset[str]:
    """Return every name that MLflow's source uses as a variable, except in skills, which are shipped as text only."""
    sources = [path for path in Path(mlflow.__file__).parent.rglob("*.py") if "skills" not in path.parts]
    texts = [path.read_text() for path in sources]
    return frozenset(defaults()) | {name for text in texts for pattern in NAMES for name in pattern.findall(text)}


@functools.cache
def containers() -> dict[str, list[dict[str, str]]]:
    """Return the environments of the servers' containers, with a claim and with a bucket."""
    bucket: S3ArtifactsArgs = {"bucket": "team", "endpoint_url": "https://s3.example", "existing_secret": "keys"}
    programs: list[MlflowStackArgs] = [
        {"models": [{"name": "iris", "uri": "models:/iris/2"}]},
        {"existing_namespace": "team", "artifact_store": {"s3": bucket}},
        {"existing_namespace": "team", "artifact_store": {"s3": {**bucket, "proxied": False}}},
    ]
    found: dict[str, list[dict[str, str]]] = {"tracking": [], "model": []}
    for args in programs:
        deployment = engine.deploy(lambda args=args: MlflowStack("mlflow", args) and None)
        for workload in [*deployment.all("StatefulSet"), *deployment.all("Deployment")]:
            for container in workload.inputs["spec"]["template"]["spec"]["containers"]:
                server = {"mlflow": "tracking", "model": "model"}.get(container["name"])
                if server:
                    found[server].append({entry["name"]: entry.get("value", "") for entry in container["env"]})
    return found


def test_table_is_for_the_installed_release() -> None:
    assert TABLE["mlflow"] == mlflow.__version__


def test_every_variable_has_a_decision() -> None:
    assert sorted(variables() - DECIDED.keys() - HOLDS.keys()) == [], "decide about these in docs/mlflow-defaults.yaml"


def test_no_decision_is_left_over() -> None:
    assert sorted((DECIDED.keys() | HOLDS.keys()) - variables()) == []
    assert sorted(DECIDED.keys() & HOLDS.keys()) == []


def test_defaults_are_those_decided_about() -> None:
    written = {**{name: entry.get("default") for name, entry in DECIDED.items()}, **HOLDS}
    assert {name: written[name] for name in defaults() if name in written} == {
        name: value for name, value in defaults().items() if name in written
    }


def test_every_option_has_a_decision() -> None:
    commands = {"server": cli.commands["server"], "serve": models_cli.commands["serve"]}
    for name, command in commands.items():
        options = [option for option in command.params if isinstance(option, click.Option)]
        named = {str(option.envvar) for option in options if option.envvar}
        assert sorted(named - DECIDED.keys() - HOLDS.keys()) == []
        assert sorted(option.opts[0] for option in options if not option.envvar) == sorted(TABLE["options"][name])


@pytest.mark.parametrize("server", ["tracking", "model"])
def test_containers_set_what_is_decided(server: str) -> None:
    entries = {name: entry[server] for name, entry in DECIDED.items()}
    assert set(entries.values()) <= {"set", "unset", "unused"}
    wanted = {name for name, decision in entries.items() if decision == "set"}
    present = {name for env in containers()[server] for name in env} & variables()
    assert present == wanted


def test_decisions_name_a_known_kind_and_a_reason() -> None:
    for name, entry in DECIDED.items():
        assert entry["why"], name
        assert set(entry["kind"]) <= KINDS, name
        assert entry["kind"] or "set" in (entry["tracking"], entry["model"]), name


def test_models_are_listed_without_a_public_address() -> None:
    for env in containers()["tracking"]:
        assert env["MLFLOW_MODEL_CATALOG_URI"] == ""
