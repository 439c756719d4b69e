"""Schema step killed at random moments of an upgrade; `make test` kills it at five named ones."""

import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from process.steps import HEAD, revision, start, step

SEEDS = range(20)
LONGEST = 6.0
"""Maximum duration of an upgrade here in seconds; a later kill finds it done."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("version", ["1.12.0", "2.5.0"])
def test_killed_at_any_moment_it_leaves_old_or_new_and_then_goes_on(
    claims: dict, tmp_path: Path, version: str, seed: int
) -> None:
    database = claims[version, "database"].copied(tmp_path / "claim") / "mlflow.db"
    before = revision(database)
    rows = count(database)
    process = start("sqlite_schema.py", database)
    time.sleep(random.Random(seed).uniform(0.0, LONGEST))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert revision(database) in (before, HEAD)
    assert count(database) == rows
    step(database)
    assert revision(database) == HEAD
    assert count(database) == rows
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


def count(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        tables = ("experiments", "runs", "metrics", "params", "tags", "registered_models", "model_versions")
        return [connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables]
