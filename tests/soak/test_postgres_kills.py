"""Schema Job on PostgreSQL, killed at ten moments (`make test` kills it at named ones)."""

import random
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from process.postgresql import Database, Old, Server, database
from process.steps import HEAD, assert_written, finish

SEEDS = range(10)
LONGEST = 8.0
"""Maximum duration of a step here in seconds; a later kill finds it done."""


def killed(of: Database, seed: int) -> None:
    """Run the Job and kill its last step at some moment."""
    of.step("check")
    of.dump_step()
    before = of.dump()
    process = of.start("migrate")
    time.sleep(random.Random(seed).uniform(0.5, LONGEST))
    process.send_signal(signal.SIGKILL)
    code, _ = finish(process)
    # The server needs a moment to end the session.
    deadline = time.monotonic() + 10
    while len(of.ask(f"select 1 from pg_stat_activity where usename = '{of.user}'")) and time.monotonic() < deadline:
        time.sleep(0.1)
    if code and of.dump() != before:
        assert of.revision == HEAD


@pytest.mark.parametrize("seed", SEEDS)
def test_a_creation_that_is_killed_at_any_moment_leaves_nothing(postgres: Server, tmp_path: Path, seed: int) -> None:
    creation = database(postgres, f"creation-{seed}", tmp_path / "pod")
    killed(creation, seed)
    creation.job()
    assert creation.revision == HEAD
    creation.step("ready")


@pytest.mark.parametrize("seed", SEEDS)
def test_an_upgrade_that_is_killed_at_any_moment_changes_nothing(old_postgres: Old, tmp_path: Path, seed: int) -> None:
    aged = old_postgres.copied(f"upgrade-{seed}", tmp_path / "pod")
    killed(aged, seed)
    aged.job()
    aged.step("ready")
    assert_written(MlflowClient(aged.uri), old_postgres.wrote, converted=False)
