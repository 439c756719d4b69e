"""Shared code of the schema steps of every database: the revisions of the installed MLflow, and logging.

Revisions are read from the text of MLflow's migrations: importing MLflow takes seconds, and most runs change nothing.
"""

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Tables of which no migration drops a row.
COUNTED: Final = ("experiments", "runs", "params", "metrics", "registered_models", "model_versions")


class RefusedError(Exception):
    """Permanent error of the step; the message says why and what to do."""


def say(text: str) -> None:
    """Print one line to the container's log."""
    print(text, file=sys.stderr, flush=True)


def installed_version() -> str:
    """Return the version of the installed MLflow."""
    return importlib.metadata.version("mlflow")


def _migrations() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Return for each migration its revision, the revisions before it, and its text."""
    package = importlib.util.find_spec("mlflow")
    if package is None or not package.submodule_search_locations:
        raise RefusedError("MLflow is not installed in this image. Use an image that has it.")
    for script in Path(package.submodule_search_locations[0], "store", "db_migrations", "versions").glob("*.py"):
        text = script.read_text("utf-8")
        found = dict(re.findall(r"^((?:down_)?revision)\b[^=\n]*=\s*(.+)$", text, re.MULTILINE))
        if "revision" in found:
            before: str | tuple[str, ...] | None = ast.literal_eval(found.get("down_revision", "None"))
            yield str(ast.literal_eval(found["revision"])), (before,) if isinstance(before, str) else before or (), text


def known_revisions() -> tuple[str, frozenset[str]]:
    """Return the newest schema revision of the installed MLflow, and all that it can upgrade from."""
    migrations = list(_migrations())
    revisions = {revision for revision, _, _ in migrations}
    heads = revisions - {before for _, befores, _ in migrations for before in befores}
    if len(heads) != 1:
        raise RefusedError(
            f"MLflow {installed_version()} has {len(heads)} newest schema revisions. Use a released image."
        )
    return heads.pop(), frozenset(revisions)


def made_after(revision: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the tables, and the columns with their tables, that the migrations directly after a revision add."""
    texts = [text for _, befores, text in _migrations() if revision in befores]
    tables = {table for text in texts for table in re.findall(r"op\.create_table\(\s*\"(\w+)\"", text)}
    columns = {
        pair for text in texts for pair in re.findall(r"op\.add_column\(\s*\"(\w+)\",\s*sa\.Column\(\s*\"(\w+)\"", text)
    }
    return tables, columns
