"""Other stacks on the shared node: refused ones, data of older MLflow releases, a consumer's own provider."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from e2e.platform_under_test import DEV_PORT, Platform, Stack, eventually, status
from mlflow import MlflowClient
from process.steps import assert_written, sha256

PROGRAM = Path(__file__).parent / "programs" / "consumer"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
# MLflow release of the data, kind of store: names of the component and of its claim.
OLD = {
    ("1.12.0", "database"): "db-112",
    ("2.5.0", "database"): "db-25",
    ("1.12.0", "file"): "files-112",
    ("2.5.0", "file"): "files-25",
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"backendStore": {"pvc": {"size": "10 Gi"}}},
            "backendStore.pvc.size: must be a size above zero and below 8Ei as a Kubernetes quantity, "
            'such as 10Gi (got "10 Gi")',
        ),
        ({"users": ["a:b"], "usres": ["x"]}, "usres: unknown key. Did you mean users?"),
        ({"replicas": 2}, "replicas: must be 1, because SQLite on a claim allows one writer (got 2)"),
        ({"replicas": "two"}, "replicas"),
        (
            {"users": ["ann"], "passwords": {"ann": "too short"}},
            "passwords.ann: must be 12 to 1024 printable ASCII characters (value not shown)",
        ),
    ],
)
def test_bad_input_ends_the_preview_by_name(platform: Platform, config: dict, message: str) -> None:
    refused = Stack(platform, "refused", config)
    try:
        preview = refused.pulumi("preview", check=False)
        output = preview.stdout + preview.stderr
        assert preview.returncode != 0
        assert message in output
        assert "Traceback" not in output
        assert "too short" not in output
        assert not re.search(r"\b(kubernetes|random|mlflow-stack:index):\S* \S+ create", output)
        assert "providers" not in output
    finally:
        refused.destroy()


def consumer(platform: Platform, name: str, stacks: dict) -> Stack:
    return Stack(platform, name, {"stacks": stacks}, program=PROGRAM, project="consumer")


def args(platform: Platform, namespace: str, port: int, **more: object) -> dict:
    return {
        "existing_namespace": namespace,
        "image": platform.images["mlflow"],
        "proxy_image": platform.images["proxy"],
        "expose": {"host": platform.instance.node_address, "node_port": port},
        "resources": {"requests": {"cpu": "100m"}},
        "rollout_timeout": "5m",
        **more,
    }


def claim(name: str, namespace: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


@pytest.fixture(scope="module")
def adopted(platform: Platform, claims: dict, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Four stacks side by side in one namespace, each on a claim of an older release."""
    namespace = "adopted"
    platform.namespace(namespace)
    stacks = {}
    for number, (old, name) in enumerate(OLD.items()):
        platform.apply(claim(name, namespace))
        visitor = platform.visitor(namespace, name)
        visitor.copy(claims[old].mount, "/mlflow")
        visitor.leave()
        store: dict[str, str] = {"existing_claim": name}
        if old[1] == "file":
            store |= {"file_store": "mlruns", "file_store_mount": str(claims[old].mount)}
        stacks[name] = args(platform, namespace, DEV_PORT + 1 + number, backend_store={"pvc": store})
    stack = consumer(platform, "adopted", stacks)
    stack.up()
    yield stack
    stack.destroy()
    names = {item["metadata"]["name"] for item in platform.objects("persistentvolumeclaims", namespace)}
    assert names == set(OLD.values()), "a claim that was there before is not deleted with the stack"
    platform.kubectl("delete", "namespace", namespace)


@pytest.mark.parametrize("old", OLD, ids=OLD.get)
def test_data_of_an_older_release_is_all_there(
    adopted: Stack, claims: dict, old: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in adopted.output(OLD[old]).items():
        monkeypatch.setenv(name, value)
    wrote = claims[old].wrote
    assert_written(MlflowClient(), wrote, converted=old[1] == "file")
    if old[1] == "file":
        for run, then in wrote["runs"].items():
            if then["artifacts"] and not then["deleted"]:
                folder = Path(mlflow.artifacts.download_artifacts(run_id=run, dst_path=str(tmp_path / run)))
                assert {name: sha256(folder / name) for name in then["artifacts"]} == then["artifacts"]


def test_an_adopted_stack_is_as_declared(adopted: Stack) -> None:
    adopted.unchanged()


def test_a_node_port_answers_only_its_own_host_name(adopted: Stack) -> None:
    env = adopted.output(OLD["2.5.0", "database"])
    url, own = env["MLFLOW_TRACKING_URI"], (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])
    assert status(url + SEARCH, own) == 200
    assert status(url + SEARCH, own, headers={"Host": "evil.example"}) == 421


def test_users_come_and_go_under_a_provider_that_replaces_secrets(adopted: Stack, platform: Platform) -> None:
    """Fixed-name Secrets are deleted and re-created; the pod keeps the mounted file meanwhile."""
    name = OLD["2.5.0", "database"]
    env = adopted.output(name)
    url, own = env["MLFLOW_TRACKING_URI"], (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])

    def pod() -> dict:
        (found,) = platform.objects("pods", "adopted", "--selector", f"app.kubernetes.io/instance={name}")
        return found

    before = pod()
    stacks = json.loads(json.dumps(adopted.config["stacks"]))
    stacks[name] |= {"users": ["mlflow", "alice"], "passwords": {"alice": "correct horse battery"}}
    adopted.configure(stacks=stacks)
    adopted.up()
    alice = ("alice", "correct horse battery")
    eventually("alice comes in", lambda: status(url + SEARCH, alice) == 200)
    assert status(url + SEARCH, own) == 200
    adopted.unchanged()
    stacks[name] |= {"users": ["mlflow"], "passwords": {}}
    adopted.configure(stacks=stacks)
    adopted.up()
    eventually("alice is out", lambda: status(url + SEARCH, alice) == 401)
    assert status(url + SEARCH, own) == 200
    assert adopted.output(name) == env
    after = pod()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [container["restartCount"] for container in after["status"]["containerStatuses"]] == [0, 0]


def test_a_database_newer_than_the_image_is_refused_by_name(platform: Platform, tmp_path: Path) -> None:
    namespace = "newer"
    platform.namespace(namespace)
    database = tmp_path / "claim" / "mlflow.db"
    database.parent.mkdir()
    with sqlite3.connect(database) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) not null)")
        connection.execute("insert into alembic_version values ('fffffffffff0')")
        connection.execute("create table experiments (experiment_id integer)")
    connection.close()
    platform.apply(claim("newer", namespace))
    visitor = platform.visitor(namespace, "newer")
    visitor.copy(database.parent, "/mlflow")
    visitor.leave()
    store = {"pvc": {"existing_claim": "newer"}}
    wanted = args(platform, namespace, DEV_PORT + 9, backend_store=store, rollout_timeout="40s")
    stack = consumer(platform, "newer", {"newer": wanted})
    refused = stack.up(check=False)
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "schema" in output

    def said() -> str:
        """Return the log of the step's last run: between two runs a kubelet may have no log."""
        status = platform.server(namespace)["status"]["initContainerStatuses"][0]
        ended = status["state"].get("terminated") or status["lastState"].get("terminated") or {}
        return ended.get("message", "")

    assert "fffffffffff0" in eventually("the schema step has ended", said)
    stack.destroy()
    platform.kubectl("delete", "namespace", namespace)
