"""Conversion of an older MLflow's file store on the same volume, once, before the first start of a server there.

Runs in the MLflow image, with these paths in its environment:

- ``DATABASE``: the database to create; if it exists, there is nothing to do. Its folder is the claim's mount point.
- ``FILE_STORE``: the folder of the experiments (``mlruns``). It is only read.
- ``FILE_STORE_MOUNT``: the older server's mount point of the claim, as in its artifact locations. Default: the mount
  point here.
- ``ARTIFACTS``: the folder that the new server serves artifacts from.

MLflow's own converter does the conversion. This program adds what it lacks: artifacts on the claim become served ones
(linked, or copied if the volume has no hard links), an experiment in the trash stays deleted, and a metric that was
written twice in the same millisecond does not stop the conversion. Everything is counted in the file store and again in
the database, which gets its final name only if nothing is missing. A link shares its bytes with the file store: an
artifact that is later overwritten under its old name changes in both.
"""

import contextlib
import io
import os
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import sqlite_schema
from revisions import RefusedError, known_revisions, say
from sqlite_schema import beside

TRASH: Final = ".trash"
META: Final = "meta.yaml"
NOT_RUNS: Final = frozenset({"tags", "datasets", "traces", "models", TRASH})
# Columns of a database that hold artifact locations: table, column, condition on the rows.
LOCATIONS: Final = (
    ("runs", "artifact_uri", "true"),
    ("logged_models", "artifact_location", "true"),
    ("model_versions", "source", "true"),
    ("model_versions", "storage_location", "true"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)
COUNTS: Final = {
    "experiments": "select count(*) from experiments",
    "deleted experiments": "select count(*) from experiments where lifecycle_stage = 'deleted'",
    "runs": "select count(*) from runs",
    "deleted runs": "select count(*) from runs where lifecycle_stage = 'deleted'",
    "params": "select count(*) from params",
    "tags": "select count(*) from tags",
    "metric values": "select count(*) from metrics",
    "registered models": "select count(*) from registered_models",
    "model versions": "select count(*) from model_versions",
    "model aliases": "select count(*) from registered_model_aliases",
}


@dataclass
class FileStore:
    """Content of a file store, as its server showed it."""

    folder: Path
    counts: Counter[str] = field(default_factory=Counter[str])
    deleted: dict[int, int] = field(default_factory=dict[int, int])
    """Experiments in the trash, with the time of deletion: milliseconds since 1970."""
    deleted_runs: dict[str, int] = field(default_factory=dict[str, int])
    """Individually deleted runs, with the time of deletion."""
    unreadable: list[str] = field(default_factory=list[str])
    """Folders that the old server could not read either."""
    text_bytes: int = 0


def distinct(lines: Iterable[str]) -> list[str]:
    """Return the lines of a metric file, without duplicates of value, time and step."""
    seen: dict[tuple[int, int, str], str] = {}
    for line in lines:
        words = line.split()
        if not words:
            continue
        if len(words) < 2:
            raise ValueError(line)
        step = int(words[2]) if len(words) > 2 else 0
        # A database does not keep the sign of zero, or values beyond the largest number.
        value = str(max(min(float(words[1]), sys.float_info.max), -sys.float_info.max) + 0.0)
        seen.setdefault((int(words[0]), step, value), line)
    return list(seen.values())


def _meta(folder: Path) -> dict[str, Any] | None:
    import yaml

    try:
        content: object = yaml.safe_load((folder / META).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def _milliseconds(path: Path) -> int:
    """Return when a file was last changed, renamed or moved."""
    return path.stat().st_ctime_ns // 1_000_000


def _read_run(store: FileStore, folder: Path, trashed: bool) -> None:
    meta = _meta(folder)
    if meta is None:
        store.unreadable.append(str(folder.relative_to(store.folder)))
        return
    store.counts["runs"] += 1
    if trashed or meta.get("lifecycle_stage") == "deleted":
        store.counts["deleted runs"] += 1
    if meta.get("lifecycle_stage") == "deleted":
        store.deleted_runs[str(meta.get("run_uuid") or meta.get("run_id"))] = _milliseconds(folder / META)
    store.counts["params"] += len(_files(folder / "params"))
    store.counts["tags"] += len(_files(folder / "tags"))
    for file in _files(folder / "metrics"):
        text = file.read_text()
        try:
            store.counts["metric values"] += len(distinct(text.splitlines()))
        except ValueError as error:
            raise RefusedError(
                f"{file} has a line that is no metric ({error}). Nothing was changed. Repair it."
            ) from error
        store.text_bytes += len(text)


def read(folder: Path) -> FileStore:
    """Count the content of a file store."""
    if not folder.is_dir():
        raise RefusedError(
            f"there is no folder {folder} on the claim. Nothing was changed. Say where the experiments are."
        )
    # The converter accepts both, too.
    store = FileStore(folder / "mlruns" if (folder / "mlruns").is_dir() else folder)
    for parent in (store.folder, store.folder / TRASH):
        trashed = parent.name == TRASH
        for experiment in _folders(parent):
            if not experiment.name.isdecimal():
                continue
            runs = [run for run in _folders(experiment) if run.name not in NOT_RUNS and (run / META).is_file()]
            meta = _meta(experiment)
            if meta is None:
                if runs:
                    raise RefusedError(
                        f"{experiment} holds {len(runs)} runs, but no readable {META}. Nothing was changed. "
                        f"Restore that file, or move the folder out of {store.folder}."
                    )
                store.unreadable.append(str(experiment.relative_to(store.folder)))
                continue
            store.counts["experiments"] += 1
            if trashed or meta.get("lifecycle_stage") == "deleted":
                store.counts["deleted experiments"] += 1
            if trashed:
                store.deleted[int(experiment.name)] = _milliseconds(experiment)
            for run in runs:
                _read_run(store, run, trashed)
    for model in _folders(store.folder / "models"):
        if _meta(model) is None:
            store.unreadable.append(str(model.relative_to(store.folder)))
            continue
        versions = [version for version in _folders(model) if version.name.startswith("version-")]
        store.counts["registered models"] += 1
        store.counts["model versions"] += sum(_meta(version) is not None for version in versions)
        store.counts["model aliases"] += len(_files(model / "aliases"))
    if not store.counts["experiments"]:
        raise RefusedError(f"{store.folder} holds no experiment. Nothing was changed. Say which folder holds them.")
    return store


@dataclass(frozen=True)
class Claim:
    """Paths of the same files: for the older server, here, and for the new server."""

    mount: PurePosixPath
    folder: Path
    store: Path
    artifacts: Path

    def here(self, location: str) -> Path | None:
        """Return the path here of an artifact location; None if it is not on the claim."""
        parts = urlsplit(location)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            path = unquote(parts.path)
        elif not parts.scheme:
            path = location
        else:
            return None
        # A server with ./mlruns had the claim as its working folder.
        there = PurePosixPath(os.path.normpath(self.mount / path))
        return self.folder / there.relative_to(self.mount) if there.is_relative_to(self.mount) else None

    def served(self, path: Path) -> str:
        """Return the artifact path under which the new server serves a path here."""
        for root in (self.artifacts, self.store, self.folder):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        raise AssertionError(path)

    def files(self, path: Path) -> Path:
        """Return the present path of something that was at a path: deleting an experiment moved it to the trash."""
        if path.exists() or not path.is_relative_to(self.store):
            return path
        return self.store / TRASH / path.relative_to(self.store)


class _Progress(io.TextIOBase):
    """Log the current experiment, but not the advice to start a server on the unfinished file."""

    def write(self, text: str, /) -> int:
        if text.startswith("["):
            say(f"  {text}")
        return len(text)


def convert(store: FileStore, database: Path) -> None:
    """Run MLflow's converter from the file store into a new database."""
    import mlflow.store.fs2db
    from mlflow.store.fs2db import _tracking, _utils

    read_lines = _utils.read_metric_lines

    def read_distinct(folder: Path) -> dict[str, list[str]]:
        return {key: distinct(lines) for key, lines in read_lines(folder).items()}

    _tracking.__dict__["read_metric_lines"] = read_distinct
    with contextlib.redirect_stdout(_Progress()):
        mlflow.store.fs2db.migrate(store.folder, f"sqlite:///{database}")


def delete(store: FileStore, connection: sqlite3.Connection) -> None:
    """Delete in the database what was deleted in the older server, in MLflow's present form: an experiment with its
    runs, and with the time, without which garbage collection would never find them."""
    for experiment, since in store.deleted.items():
        connection.execute("update experiments set lifecycle_stage = 'deleted' where experiment_id = ?", [experiment])
        connection.execute(
            "update runs set lifecycle_stage = 'deleted', deleted_time = coalesce(deleted_time, ?) "
            "where experiment_id = ?",
            [since, experiment],
        )
    connection.executemany(
        "update runs set deleted_time = coalesce(deleted_time, ?) where run_uuid = ?",
        [(since, run) for run, since in store.deleted_runs.items()],
    )


def relocate(claim: Claim, connection: sqlite3.Connection) -> tuple[list[Path], int]:
    """Turn locations on the claim into served ones; return the paths to serve, and the number of locations elsewhere
    on a disk that no server can read."""
    paths: set[Path] = set()
    elsewhere = 0
    for table, column, rows in (("experiments", "artifact_location", "true"), *LOCATIONS):
        found = connection.execute(f"select distinct {column} from {table} where {rows} and {column} is not null")  # noqa: S608
        locations: list[tuple[str]] = found.fetchall()
        for (location,) in locations:
            path = claim.here(location)
            if path is None:
                elsewhere += urlsplit(location).scheme in ("", "file")
                continue
            connection.execute(
                f"update {table} set {column} = ? where {rows} and {column} = ?",  # noqa: S608
                [f"mlflow-artifacts:/{claim.served(path)}", location],
            )
            if table != "experiments":
                paths.add(path)
    return sorted(paths), elsewhere


def _trees(claim: Claim, paths: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield every file under the paths, with the path to serve it from. Nested paths are yielded once."""
    done: Path | None = None
    for path in paths:  # sorted: nested paths follow their parents
        if path.is_relative_to(claim.artifacts) or (done is not None and path.is_relative_to(done)):
            continue
        done = path
        source = claim.files(path)
        target = claim.artifacts / claim.served(path)
        for folder, _, files in os.walk(source):
            for name in files:
                file = Path(folder, name)
                if file.is_file() and not file.is_symlink():
                    yield file, target / file.relative_to(source)


def serve(claim: Claim, paths: Iterable[Path]) -> tuple[int, int, int]:
    """Place the artifacts where the new server serves them from; return the number of files, the number of copied
    ones, and their bytes."""
    count = copied = size = 0
    for file, target in _trees(claim, paths):
        length = file.stat().st_size
        count += 1
        size += length
        if target.exists() and target.stat().st_size == length:
            continue  # by an earlier run
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
        except OSError:
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(file, partial)
            partial.rename(target)
            copied += 1
    return count, copied, size


def _compare(store: FileStore, connection: sqlite3.Connection) -> None:
    found = {what: connection.execute(query).fetchone()[0] for what, query in COUNTS.items()}
    wrong = [
        f"{what} {store.counts[what]}, converted {number}"
        for what, number in found.items()
        if number != store.counts[what]
    ]
    if wrong:
        raise RefusedError(
            f"the conversion is not complete ({'; '.join(wrong)}), so there is no database. Report this."
        )


def run(database: Path, folder: Path, mount: PurePosixPath, artifacts: Path) -> None:
    """Run the conversion; see the module's docstring."""
    with sqlite_schema.alone(database):
        scratch, new = beside(database, ".converted"), beside(database, ".new")
        sqlite_schema.discard(scratch)
        sqlite_schema.discard(new)
        if database.exists() and database.stat().st_size:
            say(f"{database.name} is there: the file store was converted before, or is not wanted.")
            return
        sqlite_schema.no_orphans(database)
        head, _ = known_revisions()
        store = read(folder)
        for name in store.unreadable:
            say(f"Left out, as the older server left it out: {store.folder / name} has no readable {META}.")
        claim = Claim(mount, database.parent, store.folder, artifacts)
        # A row takes a few times the bytes of its line, and the finished database is copied once.
        rows = store.counts.total() * 1024
        sqlite_schema.need_room(
            database.parent, 8 * store.text_bytes + 2 * rows + 2 * sqlite_schema.SPARE_BYTES, "the converted database"
        )
        convert(store, scratch)
        with closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
            connection.execute("begin")
            delete(store, connection)
            paths, elsewhere = relocate(claim, connection)
            connection.execute("commit")
            _compare(store, connection)
            say("Serving the artifacts.")
            count, copied, size = serve(claim, paths)
            missing = [target for file, target in _trees(claim, paths) if file.stat().st_size != target.stat().st_size]
            if missing:
                raise RefusedError(
                    f"{len(missing)} artifacts are not complete, the first is {missing[0]}. Start again."
                )
            os.sync()  # thousands of new names in as many folders
            sqlite_schema.copy(scratch, new)
            sqlite_schema.verify(new, head, sqlite_schema.counts(connection))
        sqlite_schema.publish(new, database)
        sqlite_schema.discard(scratch)
        for what, number in store.counts.items():
            say(f"  {number:>9} {what}")
        say(f"  {count:>9} artifacts, {size / 2**20:.1f} MiB{f', {copied} of them copied' if copied else ''}")
        if elsewhere:
            say(f"  {elsewhere:>9} locations are on no part of this claim: they stay as they are.")
        say(f"{store.folder} is converted; it is no longer needed, and was not changed.")


def main() -> int:
    """Run the conversion as in the pod."""
    database = Path(os.environ["DATABASE"]).absolute()
    folder = Path(os.environ["FILE_STORE"]).absolute()
    mount = PurePosixPath(os.environ.get("FILE_STORE_MOUNT") or database.parent)
    artifacts = Path(os.environ["ARTIFACTS"]).absolute()
    return sqlite_schema.guarded(lambda: run(database, folder, mount, artifacts))


if __name__ == "__main__":
    sys.exit(main())
