"""Schema Job killed at random moments, on each kind of server (`make test` kills it at named ones), and MariaDB
killed five times during writes of four clients."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from process.databases import Database, database
from process.steps import HEAD, assert_written, finish

SEEDS = range(10)
LONGEST = 12.0
"""Maximum duration of a step here in seconds; a later kill finds it done."""


def killed(of: Database, seed: int) -> None:
    """Run the Job and kill its last step at some moment."""
    of.step("check")
    of.dump_step()
    process = of.start("migrate")
    time.sleep(random.Random(seed).uniform(0.5, LONGEST))
    process.send_signal(signal.SIGKILL)
    finish(process)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["mariadb", "mysql8", "mysql9"])
def test_a_creation_that_is_killed_at_any_moment_is_repeated(
    servers: dict, tmp_path: Path, kind: str, seed: int
) -> None:
    one = database(servers[kind], f"creation-{seed}", tmp_path / "pod")
    killed(one, seed)
    one.job()
    assert one.ask("select version_num from alembic_version") == ((HEAD,),)
    one.step("ready")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["mariadb", "mysql8", "mysql9"])
def test_an_upgrade_that_is_killed_at_any_moment_loses_nothing(
    servers: dict, old: Callable, tmp_path: Path, kind: str, seed: int
) -> None:
    one = database(servers[kind], f"upgrade-{seed}", tmp_path / "pod")
    one.restore(old(one.server).dump)
    killed(one, seed)
    one.job()
    one.step("ready")
    assert_written(MlflowClient(one.uri), old(one.server).wrote, converted=False)
