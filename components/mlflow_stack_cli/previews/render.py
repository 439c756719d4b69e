"""Rendered objects of a stack, one file each, as the provider would send them, with placeholders for secrets."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.previews.compare import KUBERNETES, Resource

PLACEHOLDER = "placeholder: made or given when the stack is deployed"
_HEADER = "# Written by `mlflow-stack render`, which overwrites it.\n"
# An empty map has no meaning in these; elsewhere it can, as in `emptyDir: {}`.
_MAPS = frozenset({"annotations", "labels", "matchLabels", "nodeSelector", "limits", "requests", "data"})
# Nor does an empty text in this: a variable without a value is empty.
_TEXTS = frozenset({"value"})
_MARK = {"pulumi.com/autonamed": "true"}


def manifests(resources: Sequence[Resource]) -> dict[str, str]:
    """Return the text of each file, by a path of namespace, kind and object."""
    files: dict[str, str] = {}
    for resource in resources:
        if resource.type.startswith(KUBERNETES):
            content = manifest(resource)
            metadata = content["metadata"]
            path = "/".join(
                [*filter(None, [metadata.get("namespace")]), f"{resource.kind.lower()}-{metadata['name']}.yaml"]
            )
            files[path] = _HEADER + yaml.safe_dump(content, allow_unicode=True, width=120)
    return files


def manifest(one: Resource) -> dict[str, Any]:
    """Return one object as the provider would send it: with its annotation for a generated name, a Secret's text as
    base64, and without empty lists or maps."""
    content = cast("dict[str, Any]", _without_secrets(one, one.inputs, ""))
    if one.autonamed:
        metadata = content["metadata"]
        content["metadata"] = {**metadata, "annotations": {**metadata.get("annotations", {}), **_MARK}}
    if one.kind == "Secret":
        texts = cast("dict[str, str]", content.pop("stringData", {}))
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        content["data"] = {**content.get("data", {}), **encoded}
    return _pruned(content)


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files, and delete those of an earlier run.

    Raises `LocalError` if the folder holds anything else.
    """
    there = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    foreign = [path for path in there if not path.read_bytes().startswith(_HEADER.encode())]
    if foreign:
        raise LocalError(f"{folder} contains {foreign[0].name}, which render did not write. Next: choose another OUT.")
    for path in there:
        path.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _without_secrets(one: Resource, value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        tree = cast("Mapping[str, Any]", value)
        return {key: _without_secrets(one, each, f"{path}.{key}" if path else key) for key, each in tree.items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_without_secrets(one, each, f"{path}[{index}]") for index, each in enumerate(items)]
    return PLACEHOLDER if one.hides(path) else value


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        pairs = ((name, _pruned(one)) for name, one in cast("Mapping[str, Any]", value).items())
        return {name: one for name, one in pairs if not _says_nothing(name, one)}
    if isinstance(value, list):
        return [_pruned(item) for item in cast("list[Any]", value)]
    return value


def _says_nothing(name: str, value: Any) -> bool:
    return value == [] or (value == {} and name in _MAPS) or (value == "" and name in _TEXTS)
