"""Conversion of file stores written by MLflow 1.12.0 and 2.5.0, and a client's view of them afterwards."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from process import oldmlflow
from process.claims import Claim, free_port
from process.steps import ask, assert_written, finish, kill_at, sha256, start, step, tree

ARTIFACTS = 8 * 4
"""Eight runs with four artifacts each."""


def _paths(claim: Claim, folder: Path) -> dict[str, Path]:
    return {"FILE_STORE": folder / "mlruns", "FILE_STORE_MOUNT": claim.mount, "ARTIFACTS": folder / "artifacts"}


@pytest.fixture
def claim(claims: dict[tuple[str, str], Claim]) -> Claim:
    """File store of MLflow 1.12.0."""
    return claims["1.12.0", "file"]


@pytest.mark.parametrize("version", oldmlflow.VERSIONS)
def test_everything_is_there_and_downloads(
    claims: dict[tuple[str, str], Claim], tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claims[version, "file"]
    folder = claim.copied(tmp_path / "claim")
    database = folder / "mlflow.db"
    before = {name: tree(folder / name) for name in ("mlruns", "own")}
    code, log = finish(start("file_store.py", database, **_paths(claim, folder)))
    assert code == 0, log
    for line in ("5 experiments", "1 deleted experiments", "9 runs", "3 deleted runs", f"{ARTIFACTS} artifacts"):
        assert f" {line}" in log, log
    assert {name: tree(folder / name) for name in before} == before
    assert "nothing to do" in step(database)
    locations = {
        location
        for (location,) in ask(
            database,
            "select artifact_uri from runs union select artifact_location from experiments "
            "union select source from model_versions union select storage_location from model_versions",
        )
        if location is not None
    }
    assert {location.partition(":")[0] for location in locations} == {"mlflow-artifacts", "s3"}

    options = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", folder / "artifacts"]
    with oldmlflow.server(Path(sys.prefix), free_port(), *options, log=tmp_path / "server.log") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(url)
        assert_written(client, claim.wrote, converted=True)
        downloaded = 0
        for run_id, then in claim.wrote["runs"].items():
            if not then["artifacts"]:
                continue
            got = Path(client.download_artifacts(run_id, "", str(tmp_path / run_id)))
            files = {str(path.relative_to(got)): sha256(path) for path in got.rglob("*") if path.is_file()}
            assert files == then["artifacts"]
            downloaded += len(files)
        assert downloaded == ARTIFACTS
        for name, then in claim.wrote["models"].items():
            for number, run_id in then["versions"].items():
                got = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
                assert sha256(got / "MLmodel") == claim.wrote["runs"][run_id]["artifacts"]["model/MLmodel"]
        # The store can be used further.
        run = client.create_run("0")
        (tmp_path / "new.txt").write_text("new")
        client.log_artifact(run.info.run_id, str(tmp_path / "new.txt"))
        again = Path(client.download_artifacts(run.info.run_id, "new.txt", str(tmp_path / "again.d")))
        assert again.read_text() == "new"


@pytest.mark.parametrize("moment", ["half of the copy", "before the check"])
def test_killed_it_begins_again(claim: Claim, tmp_path: Path, moment: str) -> None:
    folder = claim.copied(tmp_path / "claim")
    database = folder / "mlflow.db"
    kill_at(moment, "file_store.py", database, **_paths(claim, folder))
    assert not database.exists()
    code, log = finish(start("file_store.py", database, **_paths(claim, folder)))
    assert code == 0, log
    assert f" {ARTIFACTS} artifacts" in log
    names = {path.name for path in claim.mount.iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"mlflow.db", "mlflow.db.lock", "artifacts"}
    assert_written(MlflowClient(f"sqlite:///{database}"), claim.wrote, converted=True)


def test_does_not_change_an_existing_database(claim: Claim, tmp_path: Path) -> None:
    folder = claim.copied(tmp_path / "claim")
    database = folder / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table alembic_version (version_num text)")
    before = sha256(database)
    code, log = finish(start("file_store.py", database, **_paths(claim, folder)))
    assert (code, log) == (
        0,
        "mlflow.db is there: the file store was converted before, or is not wanted.\n",
    )
    assert sha256(database) == before
    assert not (folder / "artifacts").exists()


def test_without_hard_links_artifacts_are_copied(claim: Claim, tmp_path: Path) -> None:
    folder = claim.copied(tmp_path / "claim")
    # Another file system, which hard links cannot reach.
    elsewhere = Path("/dev/shm") / f"mlflow-stack-{os.getpid()}"
    assert elsewhere.parent.stat().st_dev != folder.stat().st_dev
    try:
        paths = _paths(claim, folder) | {"ARTIFACTS": elsewhere}
        code, log = finish(start("file_store.py", folder / "mlflow.db", **paths))
        assert code == 0, log
        assert f" {ARTIFACTS} artifacts" in log
        assert f"{ARTIFACTS} of them copied" in log
        assert len(tree(elsewhere)) == ARTIFACTS
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def _last_line(claim: Claim, folder: Path) -> str:
    code, log = finish(start("file_store.py", folder / "mlflow.db", **_paths(claim, folder)))
    assert code == 1, log
    assert not (folder / "mlflow.db").exists()
    assert not (folder / "artifacts").exists()
    return log.splitlines()[-1]


def test_an_experiment_whose_file_is_lost_is_named(claim: Claim, tmp_path: Path) -> None:
    folder = claim.copied(tmp_path / "claim")
    (folder / "mlruns/0/meta.yaml").unlink()
    assert _last_line(claim, folder) == (
        f"Refused: {folder}/mlruns/0 holds 2 runs, but no readable meta.yaml. Nothing was changed. "
        f"Restore that file, or move the folder out of {folder}/mlruns."
    )


def test_a_metric_that_is_none_is_named(claim: Claim, tmp_path: Path) -> None:
    folder = claim.copied(tmp_path / "claim")
    metric = next(folder.glob("mlruns/0/*/metrics/loss"))
    metric.write_text("1600000000000 0.5 1\n16000")
    assert _last_line(claim, folder).startswith(f"Refused: {metric} has a line that is no metric (16000).")


def test_a_folder_without_experiments_is_refused(claim: Claim, tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    assert "holds no experiment" in _last_line(claim, tmp_path)
    (tmp_path / "mlruns").rmdir()
    assert f"there is no folder {tmp_path}/mlruns on the claim" in _last_line(claim, tmp_path)


def test_what_the_conversion_loses_is_noticed(claim: Claim, tmp_path: Path) -> None:
    folder = claim.copied(tmp_path / "claim")
    database = folder / "mlflow.db"
    process = start("file_store.py", database, moment="a tag lost", **_paths(claim, folder))
    code, log = finish(process)
    assert code == 1, log
    assert log.splitlines()[-1] == (
        "Refused: the conversion is not complete (tags 36, converted 35), so there is no database. Report this."
    )
    assert not database.exists()
