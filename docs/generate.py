"""Writes what is derived from declarations: the components' schema, the stack files' schema, the tables of keys.

    python docs/generate.py

A test fails where a committed file is not what this would write.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pulumi.provider.experimental.component import ComponentProvider

import mlflow_stack

PROJECT = Path(__file__).parents[1]
SCHEMA = PROJECT / "components" / "schema.json"
STACK_FILES = PROJECT / "docs" / "stack-file.schema.json"
CONFIGURATION = PROJECT / "docs" / "configuration.md"

_HEAD = """\
# Configuration

Generated from the components' declarations by `python docs/generate.py`; edit those.

Keys of a stack file (`Pulumi.<stack>.yaml`, prefix `mlflow-stack:`) are the args of `MlflowStack`; in Python they are
spelled with underscores. A key that is a map of its own has a table below. `name` (default `mlflow`) is the stack
file's own: the component's name, from which its objects are named, at most 40 characters. So is `release`
(default `[]`): names of protected resources that may leave the stack, with their objects left in the cluster, and
identities of data that the stack may leave behind; no component gets it. `docs/stack-file.schema.json` is the same for
editors, which find it by the first line of each stack file.
"""
_ENVIRONMENTS = """\
## Environments

What differs between the stack files; a dash is the default.
"""
_ORDER = ("dev", "staging", "prod")
# What Pulumi itself keeps in a stack file.
_PULUMIS = ("encryptionsalt", "encryptedkey", "secretsprovider", "environment")


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
    sections += ["## Outputs\n", _table(component["properties"], []), _ENVIRONMENTS, environments()]
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


def environments() -> str:
    """A row for each key in which the stack files differ."""
    files = {path.name.split(".")[1]: yaml.safe_load(path.read_text()) for path in PROJECT.glob("Pulumi.*.yaml")}
    order = sorted(files, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    stacks = {name: dict(_leaves(files[name]["config"], "")) for name in order}
    rows = [f"| key | {' | '.join(stacks)} |", "| --- |" + " --- |" * len(stacks)]
    for key in sorted({key for leaves in stacks.values() for key in leaves}):
        values = [f"`{leaves[key]}`" if key in leaves else "-" for leaves in stacks.values()]
        if len(set(values)) > 1 or len(values) == 1:
            rows.append(f"| `{key}` | {' | '.join(values)} |")
    return "\n".join(rows) + "\n"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, f"{path}.{key}" if path else key.removeprefix("mlflow-stack:"))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def stack_files(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a stack file: the same keys, types and descriptions; any text may be an encrypted one."""
    declared = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"]
    component = document["resources"]["mlflow-stack:index:MlflowStack"]
    keys = {f"mlflow-stack:{name}": _shape(one) for name, one in component["inputProperties"].items()}
    for name, one in declared.items():
        keys.setdefault(f"mlflow-stack:{name}", {"description": one["description"], **_shape(one)})
    secure = {"type": "object", "properties": {"secure": {"type": "string"}}, "required": ["secure"]}
    definitions = {
        token.rsplit(":", 1)[-1]: {"description": one["description"], **_fields(one["properties"], one.get("required"))}
        for token, one in document["types"].items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stack file of mlflow-stack",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": keys,
                "patternProperties": {"^(?!mlflow-stack:).+:": {}},
                "additionalProperties": False,
            },
            **{name: {} for name in _PULUMIS},
        },
        "required": ["config"],
        "additionalProperties": False,
        "$defs": {
            "text": {"anyOf": [{"type": "string"}, {**secure, "additionalProperties": False}]},
            **dict(sorted(definitions.items())),
        },
    }


def _fields(properties: dict[str, Any], required: list[str] | None) -> dict[str, Any]:
    fields = {name: _shape(one) for name, one in properties.items()}
    return {"type": "object", "properties": fields, "required": required or [], "additionalProperties": False}


def _shape(one: dict[str, Any]) -> dict[str, Any]:
    said = {"description": " ".join(one["description"].split())} if "description" in one else {}
    if "$ref" in one:
        return {**said, "$ref": f"#/$defs/{one['$ref'].rsplit(':', 1)[-1].rsplit('/', 1)[-1]}"}
    if one["type"] == "array":
        return {**said, "type": "array", "items": _shape(one["items"])}
    if one["type"] == "object":
        return {**said, "type": "object", "additionalProperties": _shape(one["additionalProperties"])}
    if one["type"] == "string":
        return {**said, "$ref": "#/$defs/text"}
    return {**said, "type": one["type"]}


def documents() -> dict[Path, str]:
    """Each generated file with its text."""
    document = schema()
    return {
        SCHEMA: json.dumps(document, indent=2) + "\n",
        STACK_FILES: json.dumps(stack_files(document), indent=2) + "\n",
        CONFIGURATION: configuration(document),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(PROJECT))
