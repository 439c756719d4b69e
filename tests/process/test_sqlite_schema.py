"""Schema step on real databases: killed, concurrent, and with files that it must not change."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from process.claims import Claim
from process.oldmlflow import VERSIONS
from process.steps import HEAD, ask, assert_written, finish, kill_at, refusal, revision, sha256, start, step

MOMENTS = ("half of the copy", "tenth migration", "before the check", "backup made", "just replaced")
REVISIONS = {"1.12.0": "84291f40a231", "2.5.0": "7f2a7d5fae7d"}


@pytest.fixture
def database(claims: dict[tuple[str, str], Claim], tmp_path: Path) -> Path:
    """Database of MLflow 2.5.0."""
    return claims["2.5.0", "database"].copied(tmp_path / "claim") / "mlflow.db"


def _assert_upgraded(database: Path, claim: Claim) -> None:
    assert revision(database) == HEAD
    assert ask(database, "pragma integrity_check") == [("ok",)]
    backup = database.with_name(f"mlflow.db.{REVISIONS[claim.version]}.bak")
    assert sha256(backup) == sha256(claim.mount / "mlflow.db")
    there = {path.name for path in claim.mount.iterdir()}
    assert {path.name for path in database.parent.iterdir()} == there | {"mlflow.db.lock", backup.name}
    assert_written(MlflowClient(f"sqlite:///{database}"), claim.wrote, converted=False)


def test_it_makes_a_database_once(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    step(database)
    assert revision(database) == HEAD
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    before = sha256(database)
    started = time.monotonic()
    assert step(database) == f"mlflow.db is at revision {HEAD}: nothing to do.\n"
    assert time.monotonic() - started < 1
    assert sha256(database) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_it_upgrades(claims: dict[tuple[str, str], Claim], tmp_path: Path, version: str) -> None:
    claim = claims[version, "database"]
    database = claim.copied(tmp_path / "claim") / "mlflow.db"
    database.chmod(0o660)
    step(database)
    assert database.stat().st_mode & 0o777 == 0o660
    _assert_upgraded(database, claim)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_leaves_old_or_new_and_then_goes_on(
    claims: dict[tuple[str, str], Claim], database: Path, moment: str
) -> None:
    claim = claims["2.5.0", "database"]
    kill_at(moment, "sqlite_schema.py", database)
    if moment == "just replaced":
        assert revision(database) == HEAD
    else:
        assert sha256(database) == sha256(claim.mount / "mlflow.db")
        assert database.with_name("mlflow.db.new").exists()
    step(database)
    _assert_upgraded(database, claim)


def test_what_a_killed_server_had_not_committed_is_rolled_back(
    claims: dict[tuple[str, str], Claim], database: Path
) -> None:
    # With a cache of ten pages, most of the transaction is already in the file, and the replaced pages in the journal.
    writer = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma cache_size = 10")
connection.execute("begin")
connection.execute("update metrics set value = 4711.0")
connection.execute("update tags set value = 'lost' || hex(randomblob(500))")
connection.execute("delete from params")
print("ready", flush=True)
time.sleep(100)
"""
    process = subprocess.Popen([sys.executable, "-c", writer, str(database)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    claim = claims["2.5.0", "database"]
    journal = database.with_name("mlflow.db-journal")
    assert journal.stat().st_size > 10 * 4096
    # The file by itself, as in a copy without the journal, is no longer the database.
    alone = Path(shutil.copy(database, database.with_name("alone.db")))
    try:
        whole = ask(alone, "pragma integrity_check") == [("ok",)]
        whole = whole and ask(alone, "select count(*) from metrics where value = 4711.0") == [(0,)]
    except sqlite3.DatabaseError:
        whole = False
    assert not whole
    alone.unlink()

    kill_at("tenth migration", "sqlite_schema.py", database)
    step(database)
    assert not journal.exists()
    assert revision(database) == HEAD
    assert ask(database, "pragma integrity_check") == [("ok",)]
    assert ask(database.with_name(f"mlflow.db.{REVISIONS['2.5.0']}.bak"), "pragma integrity_check") == [("ok",)]
    assert_written(MlflowClient(f"sqlite:///{database}"), claim.wrote, converted=False)


def test_two_at_once_upgrade_it_once(claims: dict[tuple[str, str], Claim], database: Path) -> None:
    both = [start("sqlite_schema.py", database) for _ in range(2)]
    logs = [finish(process) for process in both]
    assert [code for code, _ in logs] == [0, 0], logs
    assert sorted("nothing to do" in log for _, log in logs) == [False, True], logs
    _assert_upgraded(database, claims["2.5.0", "database"])


def test_a_backup_of_before_is_never_overwritten(claims: dict[tuple[str, str], Claim], database: Path) -> None:
    earlier = database.with_name(f"mlflow.db.{REVISIONS['2.5.0']}.bak")
    earlier.write_text("kept")
    step(database)
    assert earlier.read_text() == "kept"
    second = database.with_name(f"mlflow.db.{REVISIONS['2.5.0']}.1.bak")
    assert sha256(second) == sha256(claims["2.5.0", "database"].mount / "mlflow.db")


def test_refuses_a_newer_database(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()  # as a server leaves it if it is killed at once: not a database yet
    step(database)
    assert revision(database) == HEAD
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")
    before = sha256(database)
    assert refusal(database) == (
        "Refused: mlflow.db is at schema revision ffffffffffff, which MLflow 3.17.2 does not know (its newest is "
        f"{HEAD}): a newer MLflow wrote it. Nothing was changed. Use that version's image, or put a "
        "mlflow.db.<revision>.bak of an older one in its place."
    )
    assert sha256(database) == before
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("drop table alembic_version", id="tables without a revision"),
        pytest.param("delete from alembic_version", id="no revision"),
        pytest.param("drop table experiments", id="no experiments"),
    ],
)
def test_refuses_an_incomplete_schema(database: Path, damage: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(damage)
    before = sha256(database)
    assert refusal(database).startswith("Refused: the database holds a half-made schema")
    assert sha256(database) == before


def test_refuses_an_interrupted_migration(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("alter table model_versions add column storage_location varchar(500)")
    before = sha256(database)
    line = refusal(database)
    assert line.startswith(f"Refused: mlflow.db at revision {REVISIONS['2.5.0']} cannot be upgraded to {HEAD}"), line
    assert "duplicate column name: storage_location" in line
    assert sha256(database) == before
    step_left = {path.name for path in database.parent.iterdir()}
    assert not [name for name in step_left if name.endswith(".bak")]


def test_the_journal_of_a_database_that_is_gone_is_not_applied_to_a_new_one(tmp_path: Path) -> None:
    journal = tmp_path / "mlflow.db-journal"
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + os.urandom(8192))
    before = sha256(journal)
    assert refusal(tmp_path / "mlflow.db").startswith("Refused: there is no mlflow.db, but mlflow.db-journal of one.")
    assert sha256(journal) == before
    assert not (tmp_path / "mlflow.db").exists()


def test_no_database_at_all(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(os.urandom(8192))
    before = sha256(database)
    assert "file is not a database" in refusal(database)
    assert sha256(database) == before


def test_a_volume_too_small_is_said_before_anything_is_written(database: Path) -> None:
    # A gigabyte of zeros, of which a copy would need three times the space.
    free = shutil.disk_usage(database).free
    with database.open("r+b") as file:
        file.truncate(free // 3)
    line = refusal(database)
    assert "MiB free beside the database, and the volume has" in line
    assert not database.with_name("mlflow.db.new").exists()
