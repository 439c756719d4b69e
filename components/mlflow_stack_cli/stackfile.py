"""Stack files: the configuration of one stack of a project, as the engine reads it."""

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final, cast

from mlflow_stack_cli import yamlfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.yamlfile import Tree

IDENTITY: Final = ("encryptionsalt", "encryptedkey", "secretsprovider")
"""Keys that Pulumi keeps in a stack file beside `config`; never in a tracked one."""
SECURE: Final = "secure"
"""The only key of the map that holds an encrypted value."""


def read(file: Path, project: str, more: Set[str] = frozenset()) -> Tree:
    """Return a stack file's content with full keys, and an empty configuration if it has none. As in the engine, a key
    without a namespace is the project's, and `<project>:config:<key>` is `<project>:<key>`.

    `more`: further keys that the file may have beside its configuration.
    Raises `LocalError` if the file is not a stack file.
    """
    content = yamlfile.load(file)
    unknown = sorted(set(content) - {"config", *more, *IDENTITY})
    if "environment" in unknown:
        raise LocalError(
            f"{file}: environment: not supported, because previews and render do not see what Pulumi ESC adds. "
            "Next: write its values under config."
        )
    if unknown:
        raise LocalError(f"{file}: {unknown[0]}: unknown key. Next: write the keys of the program under config.")
    if not isinstance(content.get("config", {}), dict):
        raise LocalError(f"{file}: config: must be a map of keys. Next: correct it.")
    config: Tree = {}
    for written, value in content.get("config", {}).items():
        namespace, _, name = written.rpartition(":")
        key = f"{namespace.removesuffix(':config') or project}:{name}"
        if key in config:
            raise LocalError(
                f"{file}: {key}: must be set once (got it with and without its namespace). Next: remove one."
            )
        config[key] = value
    return content | {"config": config}


def section(tree: Tree, *keys: str) -> Tree:
    """Return the map at a path; empty if there is none."""
    for key in keys:
        tree = as_map(tree.get(key))
    return tree


def handed(config: Tree) -> tuple[dict[str, str], list[str]]:
    """Return a configuration as the engine passes it to the program, with a placeholder for each encrypted value, and
    the keys that hold one."""
    texts = {key: _text(_without_secrets(value)) for key, value in config.items()}
    return texts, [key for key, value in config.items() if holds_secret(value)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def encrypted(value: object) -> bool:
    """Return whether a value is encrypted."""
    return isinstance(value, dict) and set(cast(Tree, value)) == {SECURE}


def _without_secrets(value: Any) -> Any:
    """Return the value with a placeholder for each encrypted text; different texts have different placeholders."""
    if encrypted(value):
        return f"placeholder-{hashlib.sha256(str(value[SECURE]).encode()).hexdigest()[:12]}"
    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in cast(Tree, value).items()}
    return [_without_secrets(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def holds_secret(value: Any) -> bool:
    """Return whether a value is encrypted or contains an encrypted one."""
    if isinstance(value, dict):
        return encrypted(cast(Tree, value)) or any(map(holds_secret, cast(Tree, value).values()))
    return isinstance(value, list) and any(map(holds_secret, cast("list[Any]", value)))


def as_map(value: object) -> Tree:
    """Return a value as a map; empty if it is not a map."""
    return dict(cast(Mapping[str, Any], value)) if isinstance(value, Mapping) else {}
