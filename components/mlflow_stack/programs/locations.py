"""Allowed artifact locations of the tracking server, enforced wherever MLflow takes one.

A location is allowed by scheme and prefix: the server's own artifact store, and the entries of ``ARTIFACT_LOCATIONS``.
Other locations are refused when MLflow would record them, and again when MLflow would read or write them, which covers
the rows of an adopted database. Run as a program in the environment of the server's container, this module lists the
recorded locations that are not allowed.
"""

# MLflow and SQLAlchemy have no types.
# pyright: basic

import os
import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from urllib.parse import unquote, urlsplit

LOCAL = ("", "file")
REFERENCES = ("models", "runs")
"""Schemes that refer to a row of the database, whose own location is checked when it is used."""

OWN = "mlflow-artifacts:/"
KEY = "artifactLocations"
"""Key of the stack file that allows further locations."""

LONGEST = 4096
"""Characters of a location: each layer of encoding needs one more pass over all of it."""
SHOWN = 200
"""Characters of a location shown in an error."""

TAGS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
"""Tags of traces by which MLflow finds their data."""


class MalformedError(ValueError):
    """The text is not a location; the message says why."""


@dataclass(frozen=True)
class Location:
    """Normalised location."""

    scheme: str
    authority: str
    segments: tuple[str, ...]

    def is_within(self, root: "Location") -> bool:
        """Return whether the location is the root or below it."""
        return (self.scheme, self.authority) == (root.scheme, root.authority) and (
            self.segments[: len(root.segments)] == root.segments
        )

    def __str__(self) -> str:
        authority = f"//{self.authority}" if self.authority or self.scheme == "file" else ""
        path = "/".join(("", *self.segments))
        return f"{self.scheme}:{authority}{path if path or self.authority else '/'}"


def parse(text: str) -> Location:
    """Normalise a location: case, encoding, empty parts, and ``file:`` if it has no scheme.

    MLflow parses one location with several parsers. A location that they could read differently is refused.
    """
    if len(text) > LONGEST:
        raise MalformedError(f"is longer than {LONGEST} characters")
    if text != text.strip() or re.search(r"[\x00-\x1f\x7f\\]", text):
        raise MalformedError("has white space at an end, a control character or a backslash")
    decoded = text
    while (once := unquote(decoded)) != decoded:
        decoded = once
    if re.search(r"[\x00-\x1f\x7f\\]", decoded):
        raise MalformedError("has an encoded control character or backslash")
    if ".." in re.split(r"[/?#;&=:]", decoded):
        raise MalformedError('has a part ".."')
    try:
        parts = urlsplit(text)
        authority = parts.netloc
    except ValueError as error:
        raise MalformedError(f"is no URI ({error})") from error
    scheme = parts.scheme
    if text.partition(":")[0] != scheme and text.partition(":")[0].lower() == scheme:
        raise MalformedError("has a scheme that is not in lower case")
    if len(scheme) == 1:
        raise MalformedError("starts with the letter of a drive")
    if scheme in LOCAL:
        if authority.lower() not in ("", "localhost") or (not scheme and parts.netloc):
            raise MalformedError("is a path with a host")
        # MLflow decodes these once, and resolves relative paths against its working directory.
        path = posixpath.abspath(unquote(parts.path if scheme else text))
        return Location("file", "", tuple(filter(None, path.split("/"))))
    # The path of other locations is literal: in a bucket, `%61` is not `a`.
    path = parts.path
    segments = path.removeprefix("/").removesuffix("/").split("/") if path.strip("/") else []
    if "" in segments and scheme != "mlflow-artifacts":
        raise MalformedError("has an empty part")
    return Location(scheme, authority, tuple(filter(None, segments)))


def _shown(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


@dataclass(frozen=True)
class Rules:
    """Allowed locations of one server."""

    chosen: tuple[Location, ...]
    """Roots below which clients may place artifacts."""
    used: tuple[Location, ...]
    """Roots below which the server reads and writes, including the artifact store's own."""
    hint: str
    """The roots in words, for an error."""

    def reason(self, text: str, *, chosen: bool = False, references: bool = False) -> str | None:
        """Return why a location is refused; None if it is allowed."""
        try:
            location = parse(text)
        except MalformedError as error:
            return str(error)
        if references and location.scheme in REFERENCES:
            return None
        roots = self.chosen if chosen else self.used
        return (
            None if any(location.is_within(root) for root in roots) else "is outside this server's artifact locations"
        )

    def check(self, text: str, field: str, *, chosen: bool = False, references: bool = False) -> None:
        """Raise MLflow's error if a location is refused."""
        reason = self.reason(text, chosen=chosen, references=references)
        if reason is None:
            return
        from mlflow.exceptions import MlflowException

        raise MlflowException.invalid_parameter_value(
            f"{field}: {reason} (got {_shown(text)}). Use a location below {self.hint}, or list its root under {KEY} "
            "in the stack file."
        )


def from_environment() -> Rules:
    """Return the rules from the container's environment."""
    listed = [parse(line) for line in os.environ.get("ARTIFACT_LOCATIONS", "").splitlines() if line]
    root = parse(os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or OWN)
    # Without a proxy, MLflow itself fails at these, but a run without artifacts can still be recorded.
    chosen = list(dict.fromkeys([root, parse(OWN), *listed]))
    used = list(chosen)
    if os.environ.get("MLFLOW_SERVE_ARTIFACTS", "true") == "true" and "MLFLOW_ARTIFACTS_DESTINATION" in os.environ:
        used.append(parse(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]))
    return Rules(tuple(chosen), tuple(used), " or ".join(str(root) for root in chosen))


@dataclass(frozen=True)
class Column:
    """Column that holds locations."""

    model: str
    """Module and class of the row."""
    table: str
    name: str
    field: str
    """Name of the field in an error."""
    chosen: bool = False
    """True if a client states the location, instead of MLflow deriving it from a parent row."""
    references: bool = False
    placeholders: bool = False
    """True if prompts, which have no artifacts, record a placeholder."""


_TRACKING = "mlflow.store.tracking.dbmodels.models"
_REGISTRY = "mlflow.store.model_registry.dbmodels.models"
_WORKSPACES = "mlflow.store.workspace.dbmodels.models"
COLUMNS = (
    Column(f"{_TRACKING}.SqlExperiment", "experiments", "artifact_location", "artifact_location", chosen=True),
    Column(f"{_TRACKING}.SqlRun", "runs", "artifact_uri", "artifact_location of the experiment"),
    Column(f"{_TRACKING}.SqlLoggedModel", "logged_models", "artifact_location", "artifact_location of the experiment"),
    Column(f"{_REGISTRY}.SqlModelVersion", "model_versions", "source", "source", references=True, placeholders=True),
    Column(
        f"{_REGISTRY}.SqlModelVersion",
        *("model_versions", "storage_location", "source"),
        references=True,
        placeholders=True,
    ),
    Column(f"{_TRACKING}.SqlTraceTag", "trace_tags", "value", "tag"),
    Column(f"{_WORKSPACES}.SqlWorkspace", "workspaces", "default_artifact_root", "default_artifact_root", chosen=True),
    Column(
        f"{_WORKSPACES}.SqlWorkspace",
        *("workspaces", "trace_archival_location", "trace_archival_config.location"),
        chosen=True,
    ),
)


def _model(column: Column) -> Any:
    import importlib

    module, name = column.model.rsplit(".", 1)
    model = getattr(importlib.import_module(module), name)
    if column.name not in model.__table__.columns or model.__tablename__ != column.table:
        raise RuntimeError(f"this MLflow has no column {column.table}.{column.name}: its locations cannot be judged")
    return model


def _judge(column: Column, rules: Rules, row: Any, *, changed: bool) -> None:
    from mlflow.prompt.constants import _PROMPT_SOURCE_PLACEHOLDERS
    from sqlalchemy import inspect

    value = getattr(row, column.name)
    if not value or (changed and not inspect(row).attrs[column.name].history.has_changes()):
        return
    field = column.field
    if column.table == "trace_tags":
        if row.key not in TAGS:
            return
        field = f"tag {row.key}"
    if not (column.placeholders and value in _PROMPT_SOURCE_PLACEHOLDERS):
        rules.check(value, field, chosen=column.chosen, references=column.references)


def guard(rules: Rules) -> None:
    """Make MLflow in this process enforce the rules. Raises if MLflow's internals are not as expected."""
    from functools import wraps

    import mlflow.server.handlers as handlers
    from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
    from sqlalchemy import event

    # Every route, client and job writes a row through its class.
    for column in COLUMNS:
        model = _model(column)

        def before_insert(mapper: Any, connection: Any, row: Any, column: Column = column) -> None:
            _judge(column, rules, row, changed=False)

        def before_update(mapper: Any, connection: Any, row: Any, column: Column = column) -> None:
            _judge(column, rules, row, changed=True)

        event.listen(model, "before_insert", before_insert)
        event.listen(model, "before_update", before_update)

    repository = ArtifactRepositoryRegistry.get_artifact_repository
    served = handlers._is_servable_proxied_run_artifact_root
    decoding = handlers._validate_non_local_source_contains_relative_paths

    @wraps(repository)
    def get_artifact_repository(self: Any, artifact_uri: str, *args: Any, **options: Any) -> Any:
        rules.check(artifact_uri, "artifact location", references=True)
        return repository(self, artifact_uri, *args, **options)

    @wraps(served)
    def is_servable(run_artifact_root: str) -> bool:
        rules.check(run_artifact_root, "artifact location", references=True)
        return served(run_artifact_root)

    @wraps(decoding)
    def decode(source: str) -> None:
        rules.check(source, "source", references=True)
        decoding(source)

    # MLflow decodes a source repeatedly until nothing is encoded, before it writes a row.
    handlers._validate_non_local_source_contains_relative_paths = decode
    ArtifactRepositoryRegistry.get_artifact_repository = get_artifact_repository
    # MLflow asks this first. It serves accepted locations from its own store, whatever host the location names.
    handlers._is_servable_proxied_run_artifact_root = is_servable


def common_root(locations: Sequence[Location]) -> Location:
    """Return the deepest root of locations with one scheme and one authority."""
    first = locations[0]
    shared = takewhile(
        lambda level: len(set(level)) == 1, zip(*(location.segments for location in locations), strict=False)
    )
    return Location(first.scheme, first.authority, tuple(level[0] for level in shared))


def outside(rules: Rules, rows: Iterable[tuple[str, int]], column: Column) -> list[str]:
    """Return a line for each refused root, with the number of its rows."""
    groups: defaultdict[tuple[str, ...], list[tuple[Location, int]]] = defaultdict(list)
    malformed: list[str] = []
    for text, count in rows:
        if rules.reason(text, references=column.references) is None:
            continue
        try:
            location = parse(text)
        except MalformedError as error:
            malformed.append(f"{column.table}.{column.name}: {_shown(text)} ({count}): {error}")
            continue
        groups[location.scheme, location.authority, *location.segments[:1]].append((location, count))
    found = [
        f"{column.table}.{column.name}: {common_root([location for location, _ in group])} "
        f"({sum(count for _, count in group)})"
        for group in groups.values()
    ]
    return sorted(found) + sorted(malformed)


def recorded(engine: Any, column: Column) -> list[tuple[str, int]]:
    """Return the locations in a column, each with the number of its rows."""
    import sqlalchemy as sql

    table = _model(column).__table__
    value = table.columns[column.name]
    query = sql.select(value, sql.func.count()).where(value.is_not(None), value != "").group_by(value)
    if column.table == "trace_tags":
        query = query.where(table.columns["key"].in_(TAGS))
    if column.placeholders:
        from mlflow.prompt.constants import _PROMPT_SOURCE_PLACEHOLDERS

        query = query.where(value.not_in(_PROMPT_SOURCE_PLACEHOLDERS))
    with engine.connect() as connection:
        return [(str(text), count) for text, count in connection.execute(query)]


def main() -> int:
    """List the recorded locations that are refused, by table and root."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    rules = from_environment()
    engine = create_sqlalchemy_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
    lines = [line for column in COLUMNS for line in outside(rules, recorded(engine, column), column)]
    print("\n".join(lines) or "every recorded location is below " + rules.hint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
