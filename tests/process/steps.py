"""Pod's steps as processes, and comparison of MLflow's answers with the data that was written."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from sandbox.paths import PROJECT

SCRIPTS = PROJECT / "components/mlflow_stack/programs"
KILLED = Path(__file__).with_name("killed.py")
LARGEST = sys.float_info.max


HEAD = "dc11669786a5"
"""Revision of MLflow 3.17.2's schema."""


def start(script: str, database: Path, *, moment: str | None = None, **paths: Path | str) -> subprocess.Popen[str]:
    program = [str(SCRIPTS / script)] if moment is None else [str(KILLED), str(SCRIPTS / script), moment]
    return subprocess.Popen(
        [sys.executable, *program],
        env=os.environ | {"DATABASE": str(database)} | {key: str(path) for key, path in paths.items()},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Run a step; return exit code and log."""
    log = process.communicate(timeout=120)[1]
    return process.returncode, log


def step(database: Path) -> str:
    """Run the schema step, which must succeed."""
    code, log = finish(start("sqlite_schema.py", database))
    assert code == 0, log
    return log


def refusal(database: Path) -> str:
    """Run the schema step, which must refuse; return the last line of its log."""
    code, log = finish(start("sqlite_schema.py", database))
    assert code == 1, log
    return log.splitlines()[-1]


def kill_at(moment: str, script: str, database: Path, **paths: Path | str) -> None:
    code, log = finish(start(script, database, moment=moment, **paths))
    assert code == -signal.SIGKILL, f"{code}: {log}"


def ask(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def revision(database: Path) -> str:
    return ask(database, "select version_num from alembic_version")[0][0]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Return content and modification time of every file."""
    return {
        str(path.relative_to(folder)): (sha256(path), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _stored(value: str) -> str:
    number = float(value)
    return str(max(min(number, LARGEST), -LARGEST)) if number == number else value


def assert_written(client: MlflowClient, wrote: dict[str, Any], *, converted: bool) -> None:
    """Check every experiment, run, param, metric value, tag, model, version and alias, and that there is nothing
    else."""
    experiments = {e.experiment_id: e for e in client.search_experiments(view_type=ViewType.ALL)}
    assert {
        key: {"name": e.name, "deleted": e.lifecycle_stage == "deleted"} for key, e in experiments.items()
    } == wrote["experiments"]
    runs = {r.info.run_id: r for r in client.search_runs(list(experiments), run_view_type=ViewType.ALL)}
    assert set(runs) == set(wrote["runs"])
    for run_id, then in wrote["runs"].items():
        run = runs[run_id]
        assert run.info.experiment_id == then["experiment"]
        assert run.info.lifecycle_stage == (
            ("deleted" if then["deleted"] else "active") if converted else then["lifecycle"]
        )
        assert (run.info.status, run.info.start_time, run.info.end_time) == (
            then["status"],
            then["start_time"],
            then["end_time"],
        )
        assert run.info.run_name == then["tags"]["mlflow.runName"]
        assert run.data.params == then["params"]
        assert run.data.tags == then["tags"]
        assert set(run.data.metrics) == set(then["metrics"])
        for key, values in then["metrics"].items():
            now = [(m.timestamp, m.step, str(m.value)) for m in client.get_metric_history(run_id, key)]
            assert sorted(now) == sorted((at, number, _stored(value)) for at, number, value in values), key
    models = {m.name: m for m in client.search_registered_models()}
    assert set(models) == set(wrote["models"])
    for name, then in wrote["models"].items():
        assert models[name].description == f"about {name}"
        versions = {str(v.version): v for v in client.search_model_versions(f"name='{name}'")}
        assert {number: v.run_id for number, v in versions.items()} == then["versions"]
        first = versions[next(iter(then["versions"]))]
        assert first.current_stage == "Production"
        assert first.tags == then["tags"]
        assert {alias: str(number) for alias, number in models[name].aliases.items()} == then["aliases"]
