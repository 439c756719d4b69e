"""Pins models to the versions that their references mean now: writes ``version`` beside ``uri`` where that stands.

A file is edited in place, by the marks of its YAML nodes, so that nothing else of it changes: one line for each model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_stack.servers.model import moves
from mlflow_stack_cli import stackfile
from mlflow_stack_cli.errors import LocalError

KEY = "mlflow-stack:models"
"""Where a stack file has its models."""


@dataclass(frozen=True)
class Reference:
    """A model whose reference can mean another version tomorrow."""

    name: str
    uri: str
    version: int | None
    """What it is pinned to; None where it is not."""


@dataclass(frozen=True)
class Move:
    """A reference that means another version than the stack file says."""

    reference: Reference
    version: int

    def __str__(self) -> str:
        before = "not pinned" if self.reference.version is None else self.reference.version
        return f"{self.reference.name}: {before} → {self.version} ({self.reference.uri})"


def references(file: Path) -> list[Reference]:
    """The moving references among the models of a stack file."""
    found: object = stackfile.read(file)["config"].get(KEY)
    models = cast("list[object]", found) if isinstance(found, list) else []
    known = [cast("dict[str, Any]", one) for one in models if isinstance(one, dict)]
    return [
        Reference(one["name"], one["uri"], one.get("version"))
        for one in known
        if "name" in one and moves(str(one.get("uri", "")))
    ]


def registry() -> Callable[[str], int]:
    """Asks the registry that the environment names, as MLflow's client does."""
    client = MlflowClient()
    return lambda uri: asked(client, uri)


def asked(client: MlflowClient, uri: str) -> int:
    """The version that a reference means now. Raises `LocalError` where the registry does not say."""
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        if alias:
            return int(client.get_model_version_by_alias(name, alias).version)
        name = name.removesuffix("/latest")
        newest = client.search_model_versions(f"name='{name}'", 1, order_by=["version_number DESC"])
    except MlflowException as error:
        raise LocalError(
            f"the registry does not say what {uri} is: {error.message.splitlines()[0]}\n"
            "Next: `make status` if it does not answer, else register the model or set the alias."
        ) from error
    if not newest:
        raise LocalError(f"the registry has no version of {name}. Next: register one, or take the model out.")
    return int(newest[0].version)


def moved(known: list[Reference], ask: Callable[[str], int]) -> list[Move]:
    """What has moved since it was pinned, or was never pinned."""
    answers = [(one, ask(one.uri)) for one in known]
    return [Move(one, version) for one, version in answers if version != one.version]


def write(file: Path, moves: list[Move]) -> None:
    """Writes the new versions into a stack file. Raises `LocalError` where it is not written as expected."""
    text = file.read_text(encoding="utf-8")
    edited = text
    # From the end, so that earlier marks stay right.
    for start, end, new in sorted(_edits(text, moves), reverse=True):
        edited = edited[:start] + new + edited[end:]
    wanted = yaml.safe_load(text)
    versions = {move.reference.name: move.version for move in moves}
    for one in wanted["config"][KEY]:
        if one.get("name") in versions:
            one["version"] = versions[one["name"]]
    if yaml.safe_load(edited) != wanted:
        raise LocalError(
            f"{file} cannot be edited line by line. Next: write by hand\n"
            + "".join(f"  version: {move.version} beside uri: {move.reference.uri}\n" for move in moves)
        )
    fresh = file.with_suffix(".new")
    fresh.touch(mode=file.stat().st_mode & 0o777)
    fresh.write_text(edited, encoding="utf-8")
    fresh.replace(file)


def _edits(text: str, moves: list[Move]) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement of each change."""
    versions = {move.reference.name: move.version for move in moves}
    root = cast("Any", yaml.compose(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
    for model in _below(_below(root, "config"), KEY).value:
        name = _below(model, "name")
        if name is None or name.value not in versions:
            continue
        wanted = versions[name.value]
        version, uri = _below(model, "version"), _below(model, "uri")
        if version is not None:
            yield version.start_mark.index, version.end_mark.index, str(wanted)
        elif model.flow_style:
            yield uri.end_mark.index, uri.end_mark.index, f", version: {wanted}"
        else:
            line_end = text.find("\n", uri.end_mark.index)
            at = len(text) if line_end < 0 else line_end
            # The keys of a map stand below each other, also where the first one follows a dash.
            column = model.start_mark.column
            yield at, at, f"\n{' ' * column}version: {wanted}"


def _below(node: Any, key: str) -> Any:
    return next((value for name, value in node.value if name.value == key), None)
