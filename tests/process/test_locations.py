"""Artifact locations: those that the tracking server records, and those that it reads and writes."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from process import trackingserver
from process.trackingserver import Server, served

from mlflow_stack.programs import locations

LISTED = "s3://older/runs"
HINT = (
    f"Use a location below mlflow-artifacts:/ or {LISTED} or file:///mlflow/mlruns, or list its root under "
    "artifactLocations in the stack file."
)
OUTSIDE = "is outside this server's artifact locations"
FOREIGN = (
    "file:///mlflow",
    "/mlflow",
    "/mlflow/mlruns2",
    "file:/tmp/x",
    "file://localhost/etc",
    "FILE:///mlflow",
    "mlruns/0",
    "./x",
    "s3://x/y",
    "S3://older/other",
    "s3://older",
    "s3://OLDER/runs",
    "s3://older/runs2",
    "s3://older/runs%2f..%2fother",
    "s3://older/runs/../other",
    "s3://older//runs",
    "s3://user@older/runs",
    "gs://bucket/x",
    "dbfs:/x",
    "models:/a/1",
    "http://169.254.169.254/api/2.0/mlflow-artifacts/artifacts/x",
    "mlflow-artifacts://host/x",
    "mlflow-artifacts:/../../etc",
    "mlflow-artifacts:/%2e%2e/etc",
    "mlflow-artifacts:/%252e%252e/etc",
    "mlflow-artifacts:/a\\..\\b",
    "C:/mlflow",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server"), ARTIFACT_LOCATIONS=f"{LISTED}\nfile:///mlflow/mlruns") as server:
        yield server


def execute(server: Server, statement: str, *values: object) -> None:
    """Write into the database as an older server did."""
    with closing(sqlite3.connect(server.home / "mlflow.db", timeout=30)) as connection, connection:
        connection.execute(statement, values)


def refused(answer: requests.Response, field: str, reason: str, location: str) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"] == f"{field}: {reason} (got {location!r}). {HINT}"


@pytest.mark.parametrize("location", FOREIGN)
def test_refuses_experiments_elsewhere(server: Server, location: str) -> None:
    before = len(server.post("experiments/search", {"max_results": 1000}).json()["experiments"])
    answer = server.post("experiments/create", {"name": location, "artifact_location": location})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    after = len(server.post("experiments/search", {"max_results": 1000}).json()["experiments"])
    assert after == before


def test_says_which_key_allows_a_location(server: Server) -> None:
    answer = server.post("experiments/create", {"name": "said", "artifact_location": "file:///mlflow"})
    refused(answer, "artifact_location", OUTSIDE, "file:///mlflow")


@pytest.mark.parametrize(
    "location",
    ["mlflow-artifacts:/team", "s3://older/runs", "s3://older/runs/1", "file:///mlflow/mlruns/7", "/mlflow/mlruns/8"],
)
def test_takes_the_server_s_own_and_listed_locations(server: Server, location: str) -> None:
    answer = server.post("experiments/create", {"name": f"ok {location}", "artifact_location": location})
    assert answer.status_code == 200, answer.text
    run = server.run(answer.json()["experiment_id"])
    info = server.post("runs/search", {"experiment_ids": [answer.json()["experiment_id"]]}).json()["runs"][0]["info"]
    assert info["artifact_uri"] == f"{location}/{run}/artifacts"


def test_refuses_model_versions_elsewhere(server: Server) -> None:
    server.post("registered-models/create", {"name": "m"})
    for source in ("s3://x/y", "gs://x/y"):
        refused(server.post("model-versions/create", {"name": "m", "source": source}), "source", OUTSIDE, source)
    for source in ("/etc", "file:///mlflow", "mlflow-artifacts:/../x", "mlflow-artifacts://host/x"):
        assert server.post("model-versions/create", {"name": "m", "source": source}).status_code == 400
    run = server.run()
    for source in (f"runs:/{run}/model", f"mlflow-artifacts:/0/{run}/artifacts/model", "s3://older/runs/1/model"):
        made = server.post("model-versions/create", {"name": "m", "source": source, "run_id": run})
        assert made.status_code == 200, made.text


@pytest.mark.parametrize("call", ["source", "mlflow.artifactLocation"])
def test_does_not_decode_a_location_without_end(server: Server, call: str) -> None:
    # Decoding layer by layer would block a thread for seconds, and a location ten times as long for minutes.
    location = "s3://x/%" + "25" * 60_000
    if call == "source":
        server.post("registered-models/create", {"name": "decoded"})
        answer = server.post("model-versions/create", {"name": "decoded", "source": location})
    else:
        answer = trace(server, 100, **{call: location})
    assert answer.status_code == 400, answer.text
    field = call if call == "source" else f"tag {call}"
    assert answer.json()["message"] == (f"{field}: is longer than 4096 characters (got {location[:200]!r}…). {HINT}")


def test_takes_prompts_which_have_no_artifacts(server: Server) -> None:
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}, {"key": "mlflow.prompt.text", "value": "Hi"}]
    assert server.post("registered-models/create", {"name": "p", "tags": tags}).status_code == 200
    made = server.post("model-versions/create", {"name": "p", "source": "prompt-template", "tags": tags})
    assert made.status_code == 200, made.text


def trace(server: Server, number: int, **tags: str) -> requests.Response:
    info = {
        "trace_id": f"tr-{number:032x}",
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "tags": tags,
    }
    url = server.api("traces").replace("/2.0/", "/3.0/")
    return requests.post(url, json={"trace": {"trace_info": info}}, timeout=60)


@pytest.mark.parametrize("tag", locations.TAGS)
def test_refuses_traces_whose_tags_lead_elsewhere(server: Server, tag: str) -> None:
    number = locations.TAGS.index(tag) * 2
    refused(trace(server, number, **{tag: "file:///etc"}), f"tag {tag}", OUTSIDE, "file:///etc")
    assert trace(server, number + 1).status_code == 200
    url = server.api(f"traces/tr-{number + 1:032x}/tags")
    for version in ("2.0", "3.0"):
        answer = requests.patch(url.replace("2.0", version), json={"key": tag, "value": "s3://x/y"}, timeout=60)
        assert answer.status_code in (400, 404), answer.text
    with closing(sqlite3.connect(server.home / "mlflow.db")) as connection:
        values = connection.execute("select value from trace_tags where key = ?", [tag]).fetchall()
    assert all(value.startswith("mlflow-artifacts:/") for (value,) in values)


@pytest.mark.parametrize(
    "root",
    [
        "file:///etc",
        "/etc",
        "s3://x/y",
        "mlflow-artifacts:/../../../../../../etc",
        "http://x/api/2.0/mlflow-artifacts/artifacts/a",
    ],
)
def test_neither_reads_nor_writes_recorded_locations_elsewhere(server: Server, root: str) -> None:
    run = server.run()
    execute(server, "update runs set artifact_uri = ? where run_uuid = ?", root, run)
    listed = requests.get(server.api("artifacts/list"), params={"run_id": run}, timeout=60)
    read = requests.get(f"{server.url}/get-artifact", params={"run_id": run, "path": "passwd"}, timeout=60)
    written = requests.post(
        f"{server.url}/ajax-api/2.0/mlflow/upload-artifact",
        params={"run_uuid": run, "path": "x.json"},
        data=b"{}",
        timeout=60,
    )
    for answer in (listed, read, written):
        assert answer.status_code == 400, answer.text
    assert HINT in listed.json()["message"]
    # Everything that it has in the database is still there.
    assert server.post("runs/search", {"experiment_ids": ["0"], "filter": f"run_id = '{run}'"}).json()["runs"]


def test_refuses_runs_models_and_traces_of_an_experiment_elsewhere_and_lets_it_be_renamed(server: Server) -> None:
    experiment = server.experiment("adopted")
    execute(server, "update experiments set artifact_location = 's3://gone/1' where experiment_id = ?", experiment)
    field = "artifact_location of the experiment"
    answer = server.post("runs/create", {"experiment_id": experiment})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"{field}: {OUTSIDE} (got 's3://gone/1/")
    answer = server.post("logged-models", {"experiment_id": experiment, "name": "m"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"{field}: {OUTSIDE} (got 's3://gone/1/")
    renamed = server.post("experiments/update", {"experiment_id": experiment, "new_name": "renamed"})
    assert renamed.status_code == 200, renamed.text
    assert server.post("experiments/delete", {"experiment_id": experiment}).status_code == 200


def test_names_the_locations_elsewhere_of_an_adopted_database(tmp_path: Path) -> None:
    environment = trackingserver.environment(tmp_path, 1)
    with served(tmp_path) as server:
        for name, location in (("a", "/mnt/old/mlruns/1"), ("b", "/mnt/old/mlruns/2"), ("c", "s3://old/x")):
            experiment = server.experiment(name)
            execute(
                server, "update experiments set artifact_location = ? where experiment_id = ?", location, experiment
            )
    program = [sys.executable, tmp_path / "programs/locations.py"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "experiments.artifact_location: file:///mnt/old/mlruns (2)\nexperiments.artifact_location: s3://old/x (1)\n"
    )
    with served(tmp_path) as server:
        lines = [line for line in server.log().splitlines() if "does not use" in line]
        assert [line.rpartition("use: ")[2] for line in lines] == done.stdout.splitlines()
    more = environment | {"ARTIFACT_LOCATIONS": "file:///mnt/old/mlruns\ns3://old"}
    done = subprocess.run(program, env=more, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "every recorded location is below mlflow-artifacts:/ or file:///mnt/old/mlruns or s3://old\n"
    )


def test_every_column_that_holds_locations_is_judged() -> None:
    """Fails if a newer MLflow records locations in further columns, until the column is listed in one of the two."""
    from mlflow.store.model_registry.dbmodels import models as registry
    from mlflow.store.tracking.dbmodels import models as tracking
    from mlflow.store.workspace.dbmodels import models as workspaces

    assert registry
    assert tracking
    assert workspaces
    words = ("location", "uri", "url", "source", "root", "path")
    found = {
        f"{table.name}.{column.name}"
        for table in tracking.Base.metadata.tables.values()
        for column in table.columns
        if column.name.rpartition("_")[2] in words
    }
    # Descriptions, and addresses that are not of artifacts.
    assert found == {f"{column.table}.{column.name}" for column in locations.COLUMNS} - {"trace_tags.value"} | {
        "datasets.dataset_source",
        "evaluation_dataset_records.source",
        "mcp_access_endpoints.url",
        "mcp_server_versions.source",
        "webhooks.url",
    }
