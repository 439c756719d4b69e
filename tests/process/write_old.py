"""Writer of a team's typical data over the years, run by an old MLflow's Python (compatible with 1.12.0 and 2.5.0): it
writes through the server and prints the data as JSON.

Arguments: tracking URI, folder of the claim, whether the store has a model registry (yes or no).
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

url, claim, registry = sys.argv[1:]
client = MlflowClient(url)
START = 1600000000000
scratch = Path(tempfile.mkdtemp())
record = {"experiments": {}, "runs": {}, "models": {}}


def content(run_id, name, size):
    block = hashlib.sha256((run_id + name).encode()).digest()
    return (block * (size // 32 + 1))[:size]


def artifact(run_id, name, size):
    data = content(run_id, name, size)
    file = scratch / run_id / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    folder = str(Path(name).parent)
    client.log_artifact(run_id, str(file), None if folder == "." else folder)
    record["runs"][run_id]["artifacts"][name] = hashlib.sha256(data).hexdigest()


def run(experiment_id, number, artifacts=True):
    run_id = client.create_run(experiment_id, start_time=START, tags={"mlflow.runName": f"run {number}"}).info.run_id
    record["runs"][run_id] = {"experiment": experiment_id, "artifacts": {}, "deleted": False}
    params = [Param(f"p{i}", f"value {number}.{i} äß漢") for i in range(5)] + [Param("long", "x" * 240)]
    metrics = [Metric("loss", 1.0 / (step + 1) + number, START + step * 10, step) for step in range(100)]
    metrics += [Metric("group/accuracy", 0.5, START, 0), Metric("never", float("nan"), START, 0)]
    metrics += [Metric("endless", float("inf"), START, 0), Metric("endless", float("-inf"), START + 1, 1)]
    tags = [RunTag("team", "schöne Grüße"), RunTag("note", "line 1\nline 2"), RunTag("a/b", "with a slash")]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    # A loop without steps writes the same value in the same millisecond.
    for _ in range(2):
        client.log_metric(run_id, "twice", 1.0, timestamp=START, step=0)
    if artifacts:
        artifact(run_id, "readme.txt", 100)
        artifact(run_id, "plots/deep/figure 1.png", 50000)
        artifact(run_id, "model/MLmodel", 300)
        artifact(run_id, "empty", 0)
    client.set_terminated(run_id, "FINISHED", START + 5000)
    return run_id


def experiment(name, location=None):
    return client.create_experiment(name, artifact_location=location)


runs = [run("0", 0), run("0", 1)]
kept = experiment("kept / Ä")
client.set_experiment_tag(kept, "owner", "alice")
runs += [run(kept, number) for number in (2, 3, 4)]
elsewhere = experiment("in a bucket", "s3://bucket/path")
runs.append(run(elsewhere, 5, artifacts=False))
custom = experiment("own folder", "file://" + claim + "/own/folder")
runs.append(run(custom, 6))
gone = experiment("gone")
runs += [run(gone, 7), run(gone, 8)]

if registry == "yes":
    for name, sources in {"wine": runs[:2], "beer": runs[2:3]}.items():
        client.create_registered_model(name)
        versions = {}
        for run_id in sources:
            source = client.get_run(run_id).info.artifact_uri + "/model"
            version = client.create_model_version(name, source, run_id).version
            versions[str(version)] = run_id
        client.transition_model_version_stage(name, next(iter(versions)), "Production")
        client.update_registered_model(name, description="about " + name)
        aliases = {}
        if hasattr(client, "set_registered_model_alias"):
            client.set_registered_model_alias(name, "champion", next(iter(versions)))
            aliases = {"champion": next(iter(versions))}
        tags = {}
        if hasattr(client, "set_model_version_tag"):
            client.set_model_version_tag(name, next(iter(versions)), "checked", "yes")
            tags = {"checked": "yes"}
        record["models"][name] = {"versions": versions, "aliases": aliases, "tags": tags}

for run_id in runs:
    found = client.get_run(run_id)
    # JSON has no NaN; and a database stores infinity as its largest number.
    keys = sorted(found.data.metrics)
    record["runs"][run_id].update(
        params=found.data.params,
        tags=found.data.tags,
        status=found.info.status,
        start_time=found.info.start_time,
        end_time=found.info.end_time,
        metrics={
            key: sorted({(m.timestamp, m.step, str(m.value)) for m in client.get_metric_history(run_id, key)})
            for key in keys
        },
    )
    assert found.data.params["p0"].endswith("äß漢"), found.data.params
    assert len(record["runs"][run_id]["metrics"]["loss"]) == 100, keys
    assert keys == ["endless", "group/accuracy", "loss", "never", "twice"], keys

client.delete_run(runs[4])
record["runs"][runs[4]]["deleted"] = True
client.delete_experiment(gone)
for run_id in runs:
    record["runs"][run_id]["lifecycle"] = client.get_run(run_id).info.lifecycle_stage
for run_id in runs[-2:]:
    record["runs"][run_id]["deleted"] = True
names = {"0": "Default", kept: "kept / Ä", elsewhere: "in a bucket", custom: "own folder", gone: "gone"}
record["experiments"] = {key: {"name": name, "deleted": key == gone} for key, name in names.items()}
print(json.dumps(record))
