"""`make up` and the next steps of a user, on the node that it created. Runs first: later modules reuse the stack."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from e2e.platform_under_test import Platform, blocks, eventually, quickstart, sent, status
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import engine
from mlflow_stack_cli.paths import cache_dir
from sandbox.paths import data_dir

NAMESPACE = "mlflow-dev"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=10"
KILLS = int(os.environ.get("KILLS", "3"))


@pytest.fixture(scope="module")
def url(platform: Platform, client: dict[str, str]) -> str:
    return f"https://dev.{platform.instance.domain}"


@pytest.fixture
def auth(client: dict[str, str]) -> tuple[str, str]:
    return client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"]


def test_up_ends_with_the_address_the_user_and_the_run(first_up: str, url: str, client: dict[str, str]) -> None:
    last = first_up.strip().splitlines()[-4:]
    assert url in last[0]
    assert "mlflow" in last[1]
    assert "password" in last[2]
    assert re.search(re.escape(url) + r"/#/experiments/\d+/runs/[0-9a-f]{32}$", last[3]), last[3]
    assert client["MLFLOW_TRACKING_PASSWORD"] not in first_up


def test_a_second_up_builds_and_changes_nothing(platform: Platform) -> None:
    before = platform.server(NAMESPACE)["metadata"]["uid"]
    second = platform.local("up")
    assert "unchanged" in second.stdout
    assert not re.search(r"\b(created|updated|replaced|deleted)\b", second.stdout)
    assert not re.search(r"build |image: |compil", second.stderr)
    assert platform.server(NAMESPACE)["metadata"]["uid"] == before


def test_by_hand_pulumi_sees_no_change_and_git_none_either(platform: Platform) -> None:
    platform.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")
    # Other files may be the developer's own edits; no stack file is ever touched.
    assert platform.run("git", "diff", "--stat", "--", "Pulumi*.yaml").stdout == ""
    assert platform.run("git", "ls-files", "--others", "--exclude-standard", "Pulumi*").stdout == ""


def test_a_key_set_by_hand_is_kept_by_the_next_up(platform: Platform) -> None:
    platform.run("pulumi", "config", "set", "maxArtifactSize", "350Mi", "--non-interactive")
    platform.local("up")
    assert platform.run("pulumi", "config", "get", "maxArtifactSize").stdout.strip() == "350Mi"
    platform.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")


def test_what_runs_is_told(platform: Platform, url: str) -> None:
    pod = "pod/" + platform.server(NAMESPACE)["metadata"]["name"]
    told = platform.local("status").stdout
    assert url in told
    assert re.search(rf"{pod} +2/2 +Running", told), told
    lines = platform.local("logs").stdout
    for container in ("schema", "mlflow", "proxy"):
        assert f"[{pod}/{container}] " in lines
    assert re.search(r"^[IWE]\d{4} ", platform.local("logs", "kubelet").stdout, re.M)
    assert platform.local("preflight").stderr.endswith("the cluster has what the stack names\n")


def test_the_password_is_asked_for(url: str, auth: tuple[str, str]) -> None:
    assert status(url + SEARCH) == 401
    assert status(url + SEARCH, (auth[0], "wrong")) == 401
    assert status(url + SEARCH, ("nobody", auth[1])) == 401
    assert status(url + SEARCH, auth) == 200
    assert status(url + "/healthz") == 200
    assert status(url + "/readyz") == 200
    assert requests.get(url + "/readyz", timeout=10).text == "ready\n"


def test_other_origins_and_the_assistant_are_refused(url: str, auth: tuple[str, str]) -> None:
    assert status(url + "/ajax-api/3.0/mlflow/assistant/config", auth) == 403
    experiment = {"json": {"name": "cross-site"}, "method": "POST"}
    create = url + "/api/2.0/mlflow/experiments/create"
    assert status(create, auth, headers={"Origin": "http://evil.example"}, **experiment) == 403
    assert status(create, auth, headers={"Origin": url}, **experiment) == 200


def test_other_pods_reach_only_the_proxy(platform: Platform) -> None:
    address = platform.server(NAMESPACE)["status"]["podIP"]
    visitor = platform.visitor(NAMESPACE)
    probe = """
import sys, urllib.request, urllib.error
for url in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(url, timeout=10).status)
    except urllib.error.HTTPError as error:
        print(error.code)
    except urllib.error.URLError as error:
        print(type(error.reason).__name__)
"""
    answers = visitor.python(
        probe,
        f"http://{address}:5000/health",
        f"http://{address}:8081/",
        f"http://mlflow.{NAMESPACE}.svc/",
        f"http://mlflow.{NAMESPACE}.svc/healthz",
    )
    assert answers.split() == ["ConnectionRefusedError", "421", "401", "200"]
    visitor.leave()


def test_an_in_cluster_job_needs_only_the_client_secret(platform: Platform) -> None:
    platform.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "log-a-run", "namespace": NAMESPACE},
            "spec": {
                "backoffLimit": 0,
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": 10001,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [
                            {
                                "name": "job",
                                "image": platform.images["mlflow"],
                                "command": [
                                    "python",
                                    "-c",
                                    "import mlflow; mlflow.set_experiment('from-a-job'); mlflow.log_metric('m', 1)",
                                ],
                                "env": [{"name": "HOME", "value": "/tmp"}],
                                "envFrom": [{"secretRef": {"name": "mlflow-client"}}],
                                "securityContext": {
                                    "allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]},
                                },
                                "workingDir": "/tmp",
                            }
                        ],
                    }
                },
            },
        }
    )
    platform.kubectl("wait", "--for=condition=Complete", "job/log-a-run", "-n", NAMESPACE, "--timeout=90s")
    platform.kubectl("delete", "job/log-a-run", "-n", NAMESPACE)


def test_the_quickstart_comes_back_bit_for_bit(client: dict[str, str]) -> None:
    output = quickstart(client, "--megabytes", "300")
    assert "models:/diabetes@champion is version 1" in output
    assert re.search(r"large\.bin: sha256 [0-9a-f]{64}, the same both ways", output)


def test_sizes_and_numbers_of_uploads_are_bounded_and_nothing_is_evicted(
    platform: Platform, url: str, auth: tuple[str, str], client: dict[str, str]
) -> None:
    before = platform.server(NAMESPACE)
    artifact = url + "/api/2.0/mlflow-artifacts/artifacts/bounds/"
    mebibyte = b"x" * 2**20

    def body(mebibytes: int, pause: float = 0.0):
        for _ in range(mebibytes):
            yield mebibyte
            time.sleep(pause)

    assert status(artifact + "small", auth, method="PUT", data=body(2)) == 200
    assert status(artifact + "small", auth) == 200

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(status, artifact + "slow", auth, method="PUT", data=body(8, 0.5))
        time.sleep(1.5)
        # Of two places, each user has one.
        assert status(artifact + "second", auth, method="PUT", data=b"x") == 429
        assert status(url + SEARCH, auth) == 200
        assert slow.result() == 200
    assert status(artifact + "second", auth, method="PUT", data=b"x") == 200

    for chunked in (False, True):
        large = {"mebibytes": 351, "chunked": chunked}
        assert sent(artifact + "above", auth, client["MLFLOW_TRACKING_SERVER_CERT_PATH"], **large) == 413
    after = platform.server(NAMESPACE)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [container["restartCount"] for container in after["status"]["containerStatuses"]] == [0, 0]
    names = json.loads(
        requests.get(url + "/api/2.0/mlflow-artifacts/artifacts?path=bounds", auth=auth, timeout=30).text
    )["files"]
    assert sorted(artifact["path"] for artifact in names) == ["second", "slow", "small"]


def test_users_come_and_go_without_a_restart(platform: Platform, url: str, auth: tuple[str, str]) -> None:
    before = platform.server(NAMESPACE)
    failed: list[int] = []
    stop = threading.Event()

    def steady() -> None:
        while not stop.is_set():
            answer = status(url + SEARCH, auth)
            if answer != 200:
                failed.append(answer)
            time.sleep(0.1)

    background = threading.Thread(target=steady)
    background.start()
    try:
        platform.run("pulumi", "config", "set", "--path", "users[0]", "mlflow", "--non-interactive")
        platform.run("pulumi", "config", "set", "--path", "users[1]", "alice", "--non-interactive")
        platform.run("pulumi", "config", "set", "--path", "users[2]", "bob", "--non-interactive")
        platform.run(
            "pulumi",
            "config",
            "set",
            "--path",
            "--secret",
            "passwords.alice",
            "--non-interactive",
            stdin="correct horse battery",
        )
        alice = ("alice", "correct horse battery")
        assert status(url + SEARCH, alice) == 401
        platform.local("up")
        eventually("alice comes in", lambda: status(url + SEARCH, alice) == 200)
        platform.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")
        before_it = passwords(platform)
        assert {user: before_it[user] for user in (auth[0], alice[0])} == dict([auth, alice])
        bob = ("bob", before_it["bob"])
        assert status(url + SEARCH, bob) == 200
        platform.run("pulumi", "config", "rm", "--path", "users[1]", "--non-interactive")
        platform.run("pulumi", "config", "rm", "passwords", "--non-interactive")
        platform.run("pulumi", "config", "set", "--path", "rotation.bob", "1", "--non-interactive")
        platform.local("up")
        eventually("alice is out", lambda: status(url + SEARCH, alice) == 401)
        assert status(url + SEARCH, bob) == 401
        assert status(url + SEARCH, ("bob", passwords(platform)["bob"])) == 200
    finally:
        stop.set()
        background.join()
    # The next `up` removes the user.
    platform.run("pulumi", "config", "rm", "--path", "users[1]", "--non-interactive")
    platform.run("pulumi", "config", "rm", "rotation", "--non-interactive")
    assert failed == []
    after = platform.server(NAMESPACE)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [container["restartCount"] for container in after["status"]["containerStatuses"]] == [0, 0]


def passwords(platform: Platform) -> dict[str, str]:
    """Run as the documents say."""
    return json.loads(platform.run("pulumi", "stack", "output", "--show-secrets", "passwords").stdout)


def server_process(platform: Platform) -> psutil.Process:
    """Return MLflow's process in the shared node, as the machine sees it."""
    (found,) = [process for process, words in platform.processes().items() if words[1:4] == ["-m", "mlflow", "server"]]
    return found


def test_no_acknowledged_write_is_lost_when_the_server_is_killed(
    platform: Platform, url: str, auth: tuple[str, str]
) -> None:
    """Process and pod are killed; a power loss is not tested."""
    api = url + "/api/2.0/mlflow/"
    experiment = requests.post(api + "experiments/create", json={"name": "killed"}, auth=auth, timeout=30).json()
    acknowledged: list[set[int]] = [set() for _ in range(4)]
    runs = [
        requests.post(
            api + "runs/create", json={"experiment_id": experiment["experiment_id"]}, auth=auth, timeout=30
        ).json()["run"]["info"]["run_id"]
        for _ in range(4)
    ]
    stop = threading.Event()

    def write(number: int) -> None:
        step = 0
        while not stop.is_set():
            step += 1
            metric = {"run_id": runs[number], "key": "m", "value": step, "step": step, "timestamp": step}
            if status(api + "runs/log-metric", auth, method="POST", json=metric, timeout=10) == 200:
                acknowledged[number].add(step)
            else:
                time.sleep(0.1)

    def total() -> int:
        return sum(len(steps) for steps in acknowledged)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for kill in range(KILLS):
            before = total()
            eventually("writes are acknowledged", lambda before=before: total() > before + 20, pause=0.1)
            if kill % 2:
                platform.kubectl(
                    "delete",
                    "pod",
                    "--grace-period=0",
                    "--force",
                    "-n",
                    NAMESPACE,
                    "-l",
                    "app.kubernetes.io/component=tracking",
                )
            else:
                server_process(platform).kill()
        before = total()
        eventually("writes are acknowledged again", lambda: total() > before + 20, pause=0.1)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    for number, run in enumerate(runs):
        history: set[int] = set()
        token = ""
        while True:
            page = requests.get(
                api + "metrics/get-history",
                params={"run_id": run, "metric_key": "m", "max_results": 20000, "page_token": token},
                auth=auth,
                timeout=60,
            ).json()
            history |= {int(metric["step"]) for metric in page.get("metrics", [])}
            token = page.get("next_page_token", "")
            if not token:
                break
        assert acknowledged[number] - history == set()
    assert total() > 20 * KILLS
    check = (
        "import sqlite3; print(sqlite3.connect('/mlflow/mlflow.db').execute('pragma integrity_check').fetchone()[0])"
    )
    pod = platform.server(NAMESPACE)["metadata"]["name"]
    answer = platform.kubectl("exec", "-n", NAMESPACE, pod, "-c", "mlflow", "--", "python", "-c", check)
    assert answer.strip() == "ok"


def test_the_namespace_is_restricted_and_secrets_are_only_in_secrets(
    platform: Platform, client: dict[str, str], url: str
) -> None:
    namespace = json.loads(platform.kubectl("get", "namespace", NAMESPACE, "--output", "json"))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    htpasswd = json.loads(platform.kubectl("get", "secret", "mlflow-htpasswd", "-n", NAMESPACE, "--output", "json"))
    assert set(htpasswd["data"]) == {"htpasswd"}
    password = client["MLFLOW_TRACKING_PASSWORD"]
    kinds = "pods,statefulsets,services,configmaps,serviceaccounts,persistentvolumeclaims,events,controllerrevisions"
    haystacks = {
        "objects": platform.kubectl("get", kinds, "-n", NAMESPACE, "--output", "yaml"),
        "logs": platform.kubectl(
            "logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=tracking", "--all-containers", "--tail=-1"
        ),
        "state": "".join(path.read_text() for path in platform.instance.state.rglob("*.json*") if path.is_file()),
        "stack file": (platform.instance.root / "stacks" / "Pulumi.dev.yaml").read_text(),
    }
    assert len(haystacks["logs"]) > 1000
    assert len(haystacks["state"]) > 1000
    for where, text in haystacks.items():
        assert password not in text, where
    arguments = [" ".join(words) for words in platform.processes().values()]
    assert not any(password in line for line in arguments)


def test_down_and_up_keep_runs_and_passwords(platform: Platform, url: str, auth: tuple[str, str]) -> None:
    def names() -> set[str]:
        answer = requests.get(url + SEARCH, auth=auth, timeout=30)
        return {experiment["name"] for experiment in answer.json()["experiments"]}

    before = names()
    assert {"quickstart", "from-a-job", "killed"} <= before
    platform.local("down")
    assert not platform.node.running()
    left, started = killed_up(platform)
    again = platform.local("up")
    assert f"a killed update left StatefulSet {NAMESPACE}/{left} behind; deleting it\n" in again.stderr
    assert [process.name() for process in started if process.is_running()] == []
    (server,) = platform.objects("statefulsets", NAMESPACE)
    assert server["metadata"]["name"] != left
    assert names() == before


def test_an_up_ends_a_pause(platform: Platform, url: str, auth: tuple[str, str]) -> None:
    (server,) = platform.objects("statefulsets", NAMESPACE)
    name = f"statefulset/{server['metadata']['name']}"
    platform.kubectl("scale", name, "--replicas=0", "--namespace", NAMESPACE)
    eventually("the server is gone", lambda: not platform.objects("pods", NAMESPACE))
    up = platform.local("up")
    assert f"{name} of namespace {NAMESPACE} was paused (0 replicas); scaling it to 1\n" in up.stderr
    assert "nothing changed" not in up.stderr
    assert status(url + SEARCH, auth) == 200


def killed_up(platform: Platform) -> tuple[str, list[psutil.Process]]:
    """Start `up`, and kill it and its engine while the server is created; return the name of the StatefulSet and the
    processes left behind."""
    state = platform.instance.state / ".pulumi" / "stacks" / "mlflow-stack" / "dev.json"

    def begun() -> list[str]:
        checkpoint = json.loads(state.read_text())["checkpoint"]["latest"]
        pending = [operation["resource"] for operation in checkpoint.get("pending_operations") or []]
        named = [
            operation["inputs"]["metadata"]["name"]
            for operation in pending
            if operation["type"].endswith(":StatefulSet")
        ]
        return named if named and platform.objects("statefulsets", NAMESPACE) else []

    command = [sys.executable, "-m", "sandbox", "--instance", platform.instance.name, "--stack", "dev", "up"]
    with subprocess.Popen(command, cwd=engine.PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
        engines = eventually(
            "the engine creates the server",
            lambda: begun() and [child for child in psutil.Process(up.pid).children() if child.name() == "pulumi"],
            300, 0.2,
        )  # fmt: skip
        started = engines[0].children(recursive=True)
        up.kill()
        engines[0].kill()
    (left,) = begun()
    return left, started


def test_a_backup_brings_back_what_was_lost(
    platform: Platform, client: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the commands of the documents verbatim, with another home for the copies."""
    for name, value in client.items():
        monkeypatch.setenv(name, value)
    api = MlflowClient()

    def names() -> set[str]:
        return {experiment.name for experiment in api.search_experiments()}

    backup, restore = blocks(engine.PROJECT / "docs" / "how-to" / "back-up-sqlite.md")

    def documented(commands: str) -> str:
        home = {"HOME": str(tmp_path), "MLFLOW_STACK_CACHE": str(cache_dir())}
        home |= {"MLFLOW_STACK_DATA": str(data_dir()), "INSTANCE": platform.instance.name}
        return platform.run("bash", "-euo", "pipefail", "-c", commands, **home).stdout

    quickstart = api.get_experiment_by_name("quickstart")
    assert quickstart
    run = api.search_runs([quickstart.experiment_id], order_by=["attributes.start_time"])[0]
    figure = Path(api.download_artifacts(run.info.run_id, "predictions.png", str(tmp_path))).read_bytes()
    before = names()
    assert documented(backup) == "ok\n"
    keys = json.loads((tmp_path / "encryption-keys.json").read_text())
    assert keys["MLFLOW_CRYPTO_KEK_VERSION"] == "2"
    assert len(keys["MLFLOW_CRYPTO_KEK_PASSPHRASE"]) == 40

    api.create_experiment("after the backup")
    get_artifact_repository(run.info.artifact_uri).delete_artifacts("predictions.png")
    assert "predictions.png" not in {artifact.path for artifact in api.list_artifacts(run.info.run_id)}

    documented(restore)
    (tmp_path / "artifacts.tar").unlink()
    assert names() == before
    assert Path(api.download_artifacts(run.info.run_id, "predictions.png", str(tmp_path))).read_bytes() == figure


def test_stored_secrets_are_reported(platform: Platform) -> None:
    """Runs the commands of the documents: nothing is stored, so neither the step nor the report lists anything."""
    (commands,) = blocks(engine.PROJECT / "docs" / "how-to" / "rotate-encryption-keys.md")
    assert platform.run("bash", "-euo", "pipefail", "-c", commands).stdout == ""


def test_a_killed_node_comes_back_with_its_data(platform: Platform, url: str, auth: tuple[str, str]) -> None:
    platform.first_process().kill()
    eventually("the node is gone", lambda: not platform.node.running(), 30)
    platform.local("up")
    answer = requests.get(url + SEARCH, auth=auth, timeout=30)
    assert "quickstart" in {experiment["name"] for experiment in answer.json()["experiments"]}
