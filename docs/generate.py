"""Writes what is derived from declarations: the components' schema, the stack files' schema, the tables of keys.

    python docs/generate.py

A test fails where a committed file is not what this would write.
"""

import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import mlflow_stack
from mlflow_stack import MlflowStackArgs, exposure, models, plugin, validate

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
READERS = ("kubernetes", "pulumi", "random")
"""Namespaces of keys beside the project's own, as in ``settings.py``, which a script in this folder cannot import."""
# What Pulumi itself keeps in a stack file.
_PULUMIS = ("encryptionsalt", "encryptedkey", "secretsprovider", "environment")


def schema() -> dict[str, Any]:
    """The schema that the plugin has for other languages."""
    document: dict[str, Any] = json.loads(str(plugin.Provider(mlflow_stack.__version__).schema))
    return document


def configuration(document: dict[str, Any]) -> str:
    """The configuration keys as markdown, one table for each map of keys."""
    component = document["resources"]["mlflow-stack:index:MlflowStack"]
    words = {_title(token): [value["value"] for value in one["enum"]] for token, one in _enums(document)}
    sections = [_HEAD, "## Keys\n", _table(component["inputProperties"], component.get("requiredInputs", []), words)]
    for token, one in sorted(document["types"].items()):
        if "enum" in one:
            continue
        fields = _table(one["properties"], one.get("required", []), words)
        sections += [f"## {_title(token)}\n", one["description"] + "\n", fields]
    sections += ["## Outputs\n", _table(component["properties"], [], words), _ENVIRONMENTS, environments()]
    return "\n".join(sections)


def _enums(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(token, one) for token, one in document["types"].items() if "enum" in one]


def _title(reference: str) -> str:
    return reference.rsplit(":", 1)[-1].rsplit("/", 1)[-1]


def _table(properties: dict[str, Any], required: list[str], words: dict[str, list[str]]) -> str:
    rows = ["| key | type | what it is |", "| --- | --- | --- |"]
    for name, one in properties.items():
        text = " ".join(one["description"].split()) + (" Required." if name in required else "")
        rows.append(f"| `{name}` | {_type(one, words)} | {text} |")
    return "\n".join(rows) + "\n"


def _type(one: dict[str, Any], words: dict[str, list[str]]) -> str:
    if "$ref" in one:
        name = _title(one["$ref"])
        return f"one of {', '.join(words[name])}" if name in words else f"[{name}](#{name.lower()})"
    if one["type"] == "array":
        return f"list of {_type(one['items'], words)}"
    if one["type"] == "object":
        return f"map to {_type(one['additionalProperties'], words)}"
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


_NAME = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_QUANTITY = "^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|m)?$"
FORMATS: dict[Any, str] = {
    validate.absolute_path: "^/",
    validate.bucket: "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    validate.certificates: "-----BEGIN CERTIFICATE-----",
    validate.cidr: "^[0-9a-fA-F:.]+/[0-9]{1,3}$",
    validate.data_key: "^[A-Za-z0-9._-]+$",
    validate.database: "^[A-Za-z0-9_-]{1,64}$",
    validate.database_user: "^[A-Za-z0-9_.@-]{1,80}$",
    validate.dns_label: "^[a-z]([a-z0-9-]*[a-z0-9])?$",
    validate.duration: "^[1-9][0-9]*(s|m|h)$",
    validate.endpoint: "^https?://[^/:@?#]+(:[0-9]{1,5})?$",
    validate.folder: "^[A-Za-z0-9._/-]+$",
    validate.host: _NAME,
    validate.image: "^[a-z0-9][^ @]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$",
    validate.key_prefix: "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
    validate.label_value: "^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$",
    validate.namespaced_name: "^[a-z0-9-]+/[a-z0-9.-]+$",
    validate.quantity: _QUANTITY,
    validate.region: "^[A-Za-z0-9-]{1,32}$",
    validate.size: _QUANTITY,
    validate.subdomain: _NAME,
    validate.url_path: "^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$",
    validate.user: "^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$",
    validate.variable: "^[A-Za-z_][A-Za-z0-9_]*$",
    models.model_uri: "^(models:/|runs:/|s3://)",
}
"""What a schema can say of a value's form; each admits all that its rule does."""


class _Read(validate.Fields):
    """Notes what the rules of a map of keys say of each field, without a value."""

    def __init__(self) -> None:
        super().__init__("", {}, frozenset(), False, validate.Problems(validate.camel))
        self.forms: dict[str, dict[str, Any]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.exclusive: list[list[str]] = []

    def check(self, name: str, predicate: Any) -> None:
        self.forms.setdefault(validate.camel(name), {}).update(_form(predicate))

    def check_each(self, name: str, predicate: Any) -> None:
        self.items.setdefault(validate.camel(name), {}).update(_form(predicate))

    def refuse_together(self, name: str, other: str, why: str) -> None:
        self.exclusive.append([validate.camel(name), validate.camel(other)])


def _form(predicate: Any) -> dict[str, Any]:
    if predicate is validate.not_empty:
        return {"minItems": 1}
    if predicate in FORMATS:
        return {"pattern": FORMATS[predicate]}
    bounds = inspect.getclosurevars(predicate).nonlocals
    return {"minimum": bounds["lowest"], "maximum": bounds["highest"]} if "lowest" in bounds else {}


def stack_files(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a stack file: the same keys, types, words and descriptions, and what the rules say of forms.
    A secret is an encrypted value."""
    declared = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"]
    component = document["resources"]["mlflow-stack:index:MlflowStack"]
    top = _fields(component["inputProperties"], [], MlflowStackArgs)
    keys = {f"mlflow-stack:{name}": one for name, one in top["properties"].items()}
    for name, one in declared.items():
        keys.setdefault(f"mlflow-stack:{name}", {"description": one["description"], **_shape(one)})
    pairs = [[f"mlflow-stack:{name}" for name in one["not"]["required"]] for one in top.get("allOf", [])]
    kinds = {one.__name__: one for one in vars(mlflow_stack).values() if typing.is_typeddict(one)}
    definitions: dict[str, Any] = {}
    for token, one in document["types"].items():
        title = _title(token)
        if "enum" in one:
            content: dict[str, Any] = {"enum": [value["value"] for value in one["enum"]]}
        else:
            content = _fields(one["properties"], one.get("required"), kinds[title])
        definitions[title] = {"description": one["description"], **content}
    definitions["ExposeArgs"].setdefault("allOf", []).extend(_exposures())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stack file of mlflow-stack",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": keys,
                "patternProperties": {f"^({'|'.join(READERS)}):": {}},
                "additionalProperties": False,
                "allOf": [{"not": {"required": pair}} for pair in pairs],
            },
            **{name: {} for name in _PULUMIS},
        },
        "required": ["config"],
        "additionalProperties": False,
        "$defs": {
            "encrypted": {
                "description": "As `pulumi config set --secret --path` writes it.",
                "type": "object",
                "properties": {"secure": {"type": "string"}},
                "required": ["secure"],
                "additionalProperties": False,
            },
            **dict(sorted(definitions.items())),
        },
    }


def _exposures() -> list[dict[str, Any]]:
    """What each kind of address needs, and what it knows."""
    return [
        {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {
                "required": [validate.camel(name) for name in exposure.REQUIRED[kind]],
                "propertyNames": {"enum": sorted({"kind", *map(validate.camel, exposure.FIELDS[kind])})},
            },
        }
        for kind in exposure.FIELDS
    ]


def _fields(properties: dict[str, Any], required: list[str] | None, kind: type) -> dict[str, Any]:
    read = _Read()
    validate.rules_of(kind)(read)
    fields = {name: _shape(one) for name, one in properties.items()}
    for name, form in read.forms.items():
        if "$ref" not in fields[name]:
            fields[name].update(form)
    for name, form in read.items.items():
        inner = fields[name].get("items") or fields[name].get("additionalProperties")
        if isinstance(inner, dict) and "$ref" not in inner:
            inner.update(form)
    said = {"type": "object", "properties": fields, "required": required or [], "additionalProperties": False}
    pairs = [{"not": {"required": pair}} for pair in read.exclusive]
    return {**said, "allOf": pairs} if pairs else said


def _shape(one: dict[str, Any], secret: bool = False) -> dict[str, Any]:
    said = {"description": " ".join(one["description"].split())} if "description" in one else {}
    secret = secret or one.get("secret", False)
    if "$ref" in one:
        return {**said, "$ref": f"#/$defs/{_title(one['$ref'])}"}
    if one["type"] == "array":
        return {**said, "type": "array", "items": _shape(one["items"], secret)}
    if one["type"] == "object":
        return {**said, "type": "object", "additionalProperties": _shape(one["additionalProperties"], secret)}
    return {**said, "$ref": "#/$defs/encrypted"} if secret else {**said, "type": one["type"]}


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
