"""The public contract: what other languages see of the package, and the documents generated from it."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

import engine
import mlflow_stack
from mlflow_stack import validate

COMPONENTS = engine.PROJECT / "components"
MODULES = sorted((COMPONENTS / "mlflow_stack").glob("*.py"))
GENERATE = runpy.run_path(str(engine.PROJECT / "docs" / "generate.py"))
SCHEMA = GENERATE["schema"]()
DOCUMENTS = GENERATE["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_generated_documents_are_the_committed_ones(path: Path) -> None:
    assert path.read_text() == DOCUMENTS[path], "run python docs/generate.py and review the diff"


def test_every_input_and_output_is_described() -> None:
    properties = [
        (token, name, value)
        for kind in ("resources", "types")
        for token, one in SCHEMA[kind].items()
        for part in ("inputProperties", "properties")
        for name, value in one.get(part, {}).items()
    ]
    assert len(properties) > 30
    assert [(token, name) for token, name, value in properties if not value.get("description")] == []


def test_every_default_is_stated_in_the_description_of_its_input() -> None:
    inputs = SCHEMA["resources"]["mlflow-stack:index:MlflowStack"]["inputProperties"]
    assert set(inputs) == {validate.camel(field) for field in validate.hints(mlflow_stack.MlflowStackArgs)}
    undescribed = [name for name, one in inputs.items() if not re.search(r"Default: .+\.$", one["description"], re.S)]
    assert undescribed == []


def test_the_versions_agree() -> None:
    project = tomllib.loads((COMPONENTS / "pyproject.toml").read_text())["project"]
    assert project["version"] == mlflow_stack.__version__ == SCHEMA["version"]


def test_the_distribution_is_not_taken_for_that_of_a_provider() -> None:
    """Pulumi's Python host asks for a plugin for each one whose name begins like this, and generated SDKs do."""
    name = tomllib.loads((COMPONENTS / "pyproject.toml").read_text())["project"]["name"]
    assert not re.match(r"pulumi[-_]", name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_defers_annotations_which_the_analyzer_cannot_read(path: Path) -> None:
    assert "from __future__ import annotations" not in path.read_text()


def test_the_plugin_starts_as_its_own_process() -> None:
    """A plugin's first line is the port it answers on. That an engine constructs through it is shown in tests/e2e."""
    with subprocess.Popen(
        [sys.executable, str(COMPONENTS), "127.0.0.1:1"], stdout=subprocess.PIPE, text=True
    ) as plugin:
        assert plugin.stdout is not None
        port = plugin.stdout.readline().strip()
        plugin.terminate()
    assert port.isdigit(), port


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


STACK_FILES = GENERATE["stack_files"](SCHEMA)


@pytest.mark.parametrize("path", sorted(engine.PROJECT.glob("Pulumi.*.yaml")), ids=lambda path: path.stem)
def test_editors_accept_every_stack_file_and_find_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), STACK_FILES)
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=docs/stack-file.schema.json"


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"mlflow-stack:usres": ["a"]}, "usres"),
        ({"mlflow-stack:replicas": "two"}, "two"),
        ({"mlflow-stack:backendStore": {"pvc": {"sise": "1Gi"}}}, "sise"),
        ({"mlflow-stack:backendStore": {"pvc": {"size": 1}}}, "1 is not"),
        ({"mlflow-stack:release": [1]}, "1 is not"),
    ],
)
def test_editors_name_what_is_wrong(config: dict, where: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=where):
        jsonschema.validate({"config": config}, STACK_FILES)


def test_an_encrypted_value_may_stand_where_text_may() -> None:
    salted = {"encryptionsalt": "v1:x", "config": {"mlflow-stack:passwords": {"ann": {"secure": "v1:y"}}}}
    jsonschema.validate(salted, STACK_FILES)
