"""Writes what is derived from the components' declarations: their schema and the table of configuration keys.

    python docs/generate.py

A test fails where a committed file is not what this would write.
"""

import json
from pathlib import Path
from typing import Any

from pulumi.provider.experimental.component import ComponentProvider

import mlflow_stack

PROJECT = Path(__file__).parents[1]
SCHEMA = PROJECT / "components" / "schema.json"
CONFIGURATION = PROJECT / "docs" / "configuration.md"

_HEAD = """\
# Configuration

Generated from the components' declarations by `python docs/generate.py`; edit those.

Keys of a stack file (`Pulumi.<stack>.yaml`, prefix `mlflow-stack:`) are the args of `MlflowStack`; in Python they are
spelled with underscores. A key that is a map of its own has a table below. `name` (default `mlflow`) is the stack
file's own: the component's name, from which its objects are named, at most 40 characters.
"""


def schema() -> dict[str, Any]:
    """The schema that a plugin host infers for other languages."""
    provider = ComponentProvider([mlflow_stack.MlflowStack], "mlflow-stack", None, mlflow_stack.__version__)
    document: dict[str, Any] = json.loads(str(provider.schema))
    return document


def configuration(document: dict[str, Any]) -> str:
    """The configuration keys as markdown, one table for each map of keys."""
    component = document["resources"]["mlflow-stack:index:MlflowStack"]
    sections = [_HEAD, "## Keys\n", _table(component["inputProperties"], component.get("requiredInputs", []))]
    for token, one in sorted(document["types"].items()):
        title = token.rsplit(":", 1)[-1]
        sections += [f"## {title}\n", one["description"] + "\n", _table(one["properties"], one.get("required", []))]
    sections += ["## Outputs\n", _table(component["properties"], [])]
    return "\n".join(sections)


def _table(properties: dict[str, Any], required: list[str]) -> str:
    rows = ["| key | type | what it is |", "| --- | --- | --- |"]
    for name, one in properties.items():
        text = " ".join(one["description"].split()) + (" Required." if name in required else "")
        rows.append(f"| `{name}` | {_type(one)} | {text} |")
    return "\n".join(rows) + "\n"


def _type(one: dict[str, Any]) -> str:
    if "$ref" in one:
        name = one["$ref"].rsplit(":", 1)[-1].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if one["type"] == "array":
        return f"list of {_type(one['items'])}"
    if one["type"] == "object":
        return f"map to {_type(one['additionalProperties'])}"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}[one["type"]]


def documents() -> dict[Path, str]:
    """Each generated file with its text."""
    document = schema()
    return {SCHEMA: json.dumps(document, indent=2) + "\n", CONFIGURATION: configuration(document)}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(PROJECT))
