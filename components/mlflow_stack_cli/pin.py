"""Pinned model versions: the current version of each reference, written as ``version`` beside ``uri``.

A file is edited in place by the marks of its YAML nodes, so that only one line for each model changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from mlflow_stack.servers.model import moves
from mlflow_stack_cli import yamlfile
from mlflow_stack_cli.errors import LocalError

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Reference:
    """Model whose reference can resolve to another version later."""

    name: str
    uri: str
    version: int | None
    """The pinned version; None if it is not pinned."""


@dataclass(frozen=True)
class Move:
    """Reference that resolves to another version than the stack file states."""

    reference: Reference
    version: int

    def __str__(self) -> str:
        before = "not pinned" if self.reference.version is None else self.reference.version
        return f"{self.reference.name}: {before} → {self.version} ({self.reference.uri})"


def references(file: Path) -> list[Reference]:
    """Return the moving references among the models of a stack file, at any depth of its configuration."""
    return in_values(yamlfile.load(file).get("config"))


def in_values(value: object) -> list[Reference]:
    """Return the moving references in a value of a configuration."""
    return [Reference(model["name"], model["uri"], model.get("version")) for model in _models(value)]


def _models(value: object) -> Iterator[dict[str, Any]]:
    """Yield the models in a value whose reference can move."""
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _models(item)
    if isinstance(value, dict):
        one = cast("dict[str, Any]", value)
        if "name" in one and moves(str(one.get("uri", ""))):
            yield one
        for item in one.values():
            yield from _models(item)


def registry() -> Callable[[str], int]:
    """Return a function that queries the registry of the environment, as MLflow's client does.

    Raises `LocalError` if MLflow is not installed.
    """
    try:
        # Imported here because the import takes seconds, and only this command needs it.
        from mlflow import MlflowClient
    except ModuleNotFoundError as error:
        raise LocalError(
            "pin requires MLflow to ask the registry. Next: `pip install 'mlflow-stack[cli,pin]'`."
        ) from error
    client = MlflowClient()
    return lambda uri: asked(client, uri)


def asked(client: "MlflowClient", uri: str) -> int:
    """Return the version that a reference resolves to now. Raises `LocalError` if the registry does not answer."""
    from mlflow.exceptions import MlflowException

    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        if alias:
            return int(client.get_model_version_by_alias(name, alias).version)
        name = name.removesuffix("/latest")
        newest = client.search_model_versions(f"name='{name}'", 1, order_by=["version_number DESC"])
    except MlflowException as error:
        raise LocalError(
            f"the registry cannot resolve {uri}: {error.message.splitlines()[0]}\n"
            "Next: `mlflow-stack status` if it does not answer, else register the model or set the alias."
        ) from error
    if not newest:
        raise LocalError(f"the registry has no version of {name}. Next: register one, or remove the model.")
    return int(newest[0].version)


def moved(known: list[Reference], ask: Callable[[str], int]) -> list[Move]:
    """Return the references that have moved since they were pinned, or were never pinned."""
    answers = [(reference, ask(reference.uri)) for reference in known]
    return [Move(one, version) for one, version in answers if version != one.version]


def write(file: Path, moves: list[Move]) -> None:
    """Write the new versions into a stack file. Raises `LocalError` if the file does not have the expected form."""
    text = file.read_text(encoding="utf-8")
    edited = text
    # From the end, so that earlier marks stay valid.
    for start, end, new in sorted(_edits(text, moves), reverse=True):
        edited = edited[:start] + new + edited[end:]
    wanted = yaml.safe_load(text)
    versions = _versions(moves)
    for model in _models(wanted["config"]):
        model["version"] = versions.get((model["name"], model["uri"]), model.get("version"))
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
    """Yield start, end and replacement of each change."""
    versions = _versions(moves)
    root = cast("Any", yaml.compose(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
    for model in _maps(_below(root, "config")):
        name, version, uri = (_below(model, key) for key in ("name", "version", "uri"))
        wanted = versions.get((name and name.value, uri and uri.value))
        if wanted is None:
            continue
        if version is not None:
            yield version.start_mark.index, version.end_mark.index, str(wanted)
        elif model.flow_style:
            yield uri.end_mark.index, uri.end_mark.index, f", version: {wanted}"
        else:
            line_end = text.find("\n", uri.end_mark.index)
            at = len(text) if line_end < 0 else line_end
            # The keys of a map are in one column, also if the first one follows a dash.
            column = model.start_mark.column
            yield at, at, f"\n{' ' * column}version: {wanted}"


def _versions(moves: list[Move]) -> dict[tuple[Any, Any], int]:
    """Return the new version of each model, by its name and its reference."""
    return {(move.reference.name, move.reference.uri): move.version for move in moves}


def _maps(node: Any) -> Iterator[Any]:
    """Yield the maps among a node and those below it."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _maps(value)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _maps(item)


def _below(node: Any, key: str) -> Any:
    return next((value for name, value in node.value if name.value == key), None)
