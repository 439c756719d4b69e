"""Migration of the SQLite database of an MLflow server to the schema of the installed MLflow.

Runs in the MLflow image before the server, with the database's path in ``DATABASE``. The database is never changed in
place: the new or upgraded one is another file, which is checked and then replaces the database atomically; the old one
is kept beside it as ``<database>.<revision>.bak``. A run that is killed at any moment leaves the old or the new
database, and the next run continues from there. An unknown state is left unchanged: the step exits with 1, and the last
line on standard error says why and what to do.
"""

import logging
import os
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import claim_lock
from revisions import COUNTED, RefusedError, installed_version, known_revisions, say

LOCK_SECONDS: Final = 600
BUSY_SECONDS: Final = 20
# A migration may copy a table in the database, with a journal of the replaced pages.
ROOM: Final = 3
SPARE_BYTES: Final = 32 << 20
COPIED_PAGES: Final = 4096  # pages at once
SIDECARS: Final = ("-journal", "-wal", "-shm")


def beside(database: Path, ending: str) -> Path:
    """Return the path of the file with the database's name and a suffix."""
    return database.with_name(database.name + ending)


def discard(database: Path) -> None:
    """Delete a database file and SQLite's files beside it."""
    for ending in ("", *SIDECARS):
        beside(database, ending).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(database: Path) -> Generator[None]:
    """Exclude every other step and every server from the database, until this step ends or is killed."""
    try:
        descriptor = claim_lock.take(beside(database, ".lock"), "schema step", LOCK_SECONDS)
    except claim_lock.LockError as error:
        raise RefusedError(str(error)) from error
    try:
        yield
    finally:
        os.close(descriptor)


def connect(database: Path) -> sqlite3.Connection:
    """Open an existing database. The first read rolls back what a killed server had not committed."""
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def revision(connection: sqlite3.Connection) -> str | None:
    """Return the schema revision of a database; None if nothing was ever created in it."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    revisions: list[str] = []
    if "alembic_version" in tables:
        revisions = [number for (number,) in connection.execute("select version_num from alembic_version")]
    if not tables - {"alembic_version", "sqlite_sequence"} and not revisions:
        return None
    if len(revisions) != 1 or "experiments" not in tables:
        raise RefusedError(
            "the database holds a half-made schema (no single revision beside its tables): whatever made it was "
            "stopped half-way, and MLflow cannot go on from there. Nothing was changed. Restore a copy from before, "
            "or move the file away if nothing was ever logged into it; the next start then makes a new one."
        )
    return revisions[0]


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of the tables that a migration must preserve."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    return {
        table: connection.execute(f"select count(*) from {table}").fetchone()[0]  # noqa: S608
        for table in COUNTED
        if table in tables
    }


def need_room(folder: Path, wanted: int, what: str) -> None:
    """Refuse to begin if the volume has not enough space."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise RefusedError(
            f"{what} needs {wanted / 2**20:.0f} MiB free beside the database, and the volume has "
            f"{free / 2**20:.0f} MiB. Nothing was changed. Make the claim larger or free that much, then start again."
        )


def no_orphans(database: Path) -> None:
    """Refuse to create a database beside the journal of a deleted one: SQLite would apply it to the new one."""
    orphans = [path.name for ending in SIDECARS if (path := beside(database, ending)).exists() and path.stat().st_size]
    if orphans:
        raise RefusedError(
            f"there is no {database.name}, but {', '.join(orphans)} of one. Nothing was changed. "
            f"Put the database back, or move {' and '.join(orphans)} away to start with an empty one."
        )


def copying(_status: int, remaining: int, total: int) -> None:
    """Log the progress of a long copy."""
    if total > 100 * COPIED_PAGES and (total - remaining) // COPIED_PAGES % 100 == 0:
        say(f"  copied {total - remaining} of {total} pages")


def copy(source: Path, target: Path) -> None:
    """Copy the committed content of a database into a new file, which has no journal beside it afterwards."""
    discard(target)
    with closing(connect(source)) as whole, closing(sqlite3.connect(target, isolation_level=None)) as into:
        into.execute("pragma synchronous = off")  # synced when it is complete
        whole.backup(into, pages=COPIED_PAGES, progress=copying)
        into.execute("pragma journal_mode = delete")


def run_migrations(database: Path, migrate: Callable[[Any, Any], None]) -> None:
    """Give MLflow's own schema functions an engine on the file; log each migration."""
    import sqlalchemy
    import sqlalchemy.event
    from mlflow.store.db import utils

    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)

    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("sqlite", database=str(database)), poolclass=sqlalchemy.pool.NullPool
    )

    def hasten(raw: sqlite3.Connection, _: object) -> None:
        raw.execute("pragma synchronous = off")  # discarded if this run is killed, synced when it is complete

    sqlalchemy.event.listen(engine, "connect", hasten)
    try:
        migrate(utils, engine)
    finally:
        engine.dispose()


def verify(database: Path, head: str, rows: dict[str, int]) -> None:
    """Fail unless the file is an intact database of that revision with those rows."""
    with closing(connect(database)) as connection:
        found = revision(connection)
        if found != head:
            raise RefusedError(f"the new schema is at revision {found}, not {head}. Nothing was changed; report this.")
        sound = connection.execute("pragma integrity_check").fetchone()[0]
        if sound != "ok":
            raise RefusedError(
                f"the new database is not sound ({sound}). Nothing was changed. "
                "Check the old one with `pragma integrity_check` and restore a copy if it is not sound either."
            )
        now = counts(connection)
        lost = [f"{table} {number}, now {now.get(table)}" for table, number in rows.items() if now.get(table) != number]
        if lost:
            raise RefusedError(
                f"the new database has not the rows of the old one ({'; '.join(lost)}). Nothing was changed."
            )
        connection.execute("pragma journal_mode = delete")


def keep(database: Path, old: str) -> Path:
    """Give the database a second name, which it keeps when it is replaced."""
    number = 0
    while True:
        backup = beside(database, f".{old}{f'.{number}' if number else ''}.bak")
        if not backup.exists():
            break
        if backup.samefile(database):
            return backup
        number += 1
    try:
        os.link(database, backup)
    except OSError:  # a volume without hard links
        partial = beside(database, ".bak")
        shutil.copyfile(database, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(backup)
    return backup


def publish(new: Path, database: Path) -> None:
    """Replace the database by a finished file, atomically and durably."""
    for path in (beside(new, ending) for ending in SIDECARS):
        if path.exists():
            raise RefusedError(f"{path.name} is left beside the finished database. Nothing was changed; report this.")
    with new.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(database.parent)
    new.replace(database)
    sync_folder(database.parent)


def create(database: Path, head: str) -> None:
    """Create an empty database with the newest schema."""
    no_orphans(database)
    need_room(database.parent, SPARE_BYTES, "a new database")
    new = beside(database, ".new")
    discard(new)
    say(f"Making {database.name} with the schema of MLflow {installed_version()}.")
    run_migrations(new, lambda utils, engine: utils._initialize_tables(engine))
    verify(new, head, {})
    for ending in SIDECARS:
        beside(database, ending).unlink(missing_ok=True)
    publish(new, database)
    say(f"{database.name} is ready, at revision {head}.")


def upgrade(database: Path, connection: sqlite3.Connection, old: str, head: str) -> None:
    """Replace the database by an upgraded copy."""
    started = time.monotonic()
    size = database.stat().st_size
    need_room(database.parent, ROOM * size + SPARE_BYTES, f"upgrading {size / 2**20:.0f} MiB")
    # No journal may remain beside the replacement, and nobody writes to the database until it is replaced.
    mode = connection.execute("pragma journal_mode = delete").fetchone()[0]
    if mode != "delete":
        raise RefusedError(
            f"{database.name} is in use (journal mode {mode}). End whatever has it open, then start again."
        )
    connection.execute("begin immediate")
    rows = counts(connection)
    new = beside(database, ".new")
    say(f"Copying {database.name} ({size / 2**20:.1f} MiB), which is at revision {old}.")
    copy(database, new)
    say(f"Upgrading the copy to the schema of MLflow {installed_version()}.")
    try:
        run_migrations(new, lambda utils, engine: utils._upgrade_db(engine))
    except Exception as error:
        traceback.print_exc()
        summary = str(error).strip().splitlines()
        raise RefusedError(
            f"{database.name} at revision {old} cannot be upgraded to {head} "
            f"({type(error).__name__}: {summary[0] if summary else ''}): its schema may be half-made. Nothing was "
            "changed. Restore a copy from before, or go back to the image that wrote it."
        ) from None
    say("Checking the copy.")
    verify(new, head, rows)
    with suppress(PermissionError):
        new.chmod(database.stat().st_mode & 0o777)
    backup = keep(database, old)
    for ending in SIDECARS:
        if beside(database, ending).exists():
            raise RefusedError(f"{database.name} is in use. End whatever has it open, then start again.")
    publish(new, database)
    say(
        f"{database.name} is upgraded from revision {old} to {head} in {time.monotonic() - started:.0f} s, "
        f"{', '.join(f'{number} {table}' for table, number in rows.items() if number)}. "
        f"The one from before is {backup.name}; delete it when you no longer want it."
    )


def run(database: Path) -> None:
    """Run the schema step; see the module's docstring."""
    head, known = known_revisions()
    with alone(database):
        discard(beside(database, ".new"))
        if not database.exists():
            create(database, head)
            return
        with closing(connect(database)) as connection:
            found = revision(connection)
            if found == head:
                say(f"{database.name} is at revision {head}: nothing to do.")
                return
            if found is not None and found not in known:
                raise RefusedError(
                    f"{database.name} is at schema revision {found}, which MLflow {installed_version()} does not know "
                    f"(its newest is {head}): a newer MLflow wrote it. Nothing was changed. Use that version's image, "
                    f"or put a {database.name}.<revision>.bak of an older one in its place."
                )
            if found is not None:
                upgrade(database, connection, found, head)
                return
        create(database, head)


def guarded(step: Callable[[], None]) -> int:
    """Run a step; an error becomes the last line of the log and the exit code."""
    try:
        step()
    except RefusedError as refusal:
        say(f"Refused: {refusal}")
    except sqlite3.Error as error:
        say(
            f"Failed: SQLite cannot work on the database: {error}. Nothing was changed. If it is locked, end whatever "
            "has it open; if it is malformed or no database, restore a copy."
        )
    except OSError as error:
        say(f"Failed: {error}. Nothing was changed. Check the volume and who may write to it, then start again.")
    except Exception as error:
        traceback.print_exc()
        say(f"Failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}. Nothing was changed; report this.")
    else:
        return 0
    return 1


def main() -> int:
    """Run the step as in the pod."""
    return guarded(lambda: run(Path(os.environ["DATABASE"]).absolute()))


if __name__ == "__main__":
    sys.exit(main())
