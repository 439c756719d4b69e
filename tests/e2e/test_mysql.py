"""MariaDB in the cluster under three tracking servers: killed, unreachable, refusing and re-keyed during writes."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests
from e2e.platform_under_test import DEV_PORT, Platform, Stack, Visitor, blocks, eventually, status
from e2e.test_stacks import args, consumer

import engine
from mlflow_stack.backend.mariadb import PROGRAMS
from mlflow_stack_cli.progress import Progress
from sandbox import images

NAMESPACE = "mysql"
NAME = "team"
PORT = DEV_PORT + 20
API = "/api/2.0/mlflow"
KILLS = 5 if "KILLS" in os.environ else 1
"""`make soak` sets a number of kills."""
# Nothing here stores an artifact.
BUCKET = {
    "bucket": "nowhere",
    "endpoint_url": "http://127.0.0.1:9",
    "access_key_id": "none",
    "secret_access_key": "none",
    "bucket_check": False,
}


@dataclass
class Team:
    """The stack, as its users see it."""

    platform: Platform
    stack: Stack
    interrupted: subprocess.CompletedProcess[str]
    """The first `up`, whose schema Job was killed while it created the tables."""

    def env(self) -> dict[str, str]:
        return self.stack.output(NAME)

    def objects(self, kind: str, component: str) -> list[dict]:
        return self.platform.objects(kind, NAMESPACE, "--selector", f"app.kubernetes.io/component={component}")

    def servers(self) -> list[dict]:
        return self.objects("pods", "tracking")

    def ready(self) -> int:
        """Return the number of ready servers."""
        conditions = [condition for pod in self.servers() for condition in pod["status"].get("conditions", [])]
        return sum((condition["type"], condition["status"]) == ("Ready", "True") for condition in conditions)

    def restarts(self) -> list[int]:
        return [container["restartCount"] for pod in self.servers() for container in pod["status"]["containerStatuses"]]

    def sql(self, statement: str) -> str:
        """Return the answer of the deployed server to its own administrator."""
        (secret,) = [
            item
            for item in self.platform.objects("secrets", NAMESPACE)
            if item["metadata"]["name"].startswith(f"{NAME}-database-server-")
        ]
        program = (
            "root=$(sed -n \"s/^ALTER USER 'root'@'localhost' IDENTIFIED BY '\\(.*\\)';$/\\1/p\" "
            "/etc/mlflow-stack-mariadb/init.sql); "
            'printf "[client]\\nuser=root\\npassword=$root\\nsocket=/tmp/mariadb.sock\\n" >/tmp/root.cnf; '
            'exec mariadb --defaults-file=/tmp/root.cnf --skip-column-names --batch --execute="$0" mlflow'
        )
        assert secret["immutable"]
        (pod,) = self.objects("pods", "database")
        where = ("--namespace", NAMESPACE, pod["metadata"]["name"], "--container", "mariadb")
        return self.platform.kubectl("exec", *where, "--", "sh", "-c", program, statement).strip()

    def login(self, password: str) -> str:
        """Return the server's answer to MLflow's user with this password, as to any client in the network."""
        program = (
            "umask 077; cat >/tmp/login.cnf; "
            "mariadb --defaults-file=/tmp/login.cnf --skip-column-names --batch --execute='select 1' 2>&1; "
            "rm /tmp/login.cnf"
        )
        options = f"[client]\nuser=mlflow\npassword={password}\nprotocol=tcp\nhost=127.0.0.1\n"
        (pod,) = self.objects("pods", "database")
        where = ("--stdin", pod["metadata"]["name"], "--namespace", NAMESPACE, "--container", "mariadb")
        return self.platform.kubectl("exec", *where, "--", "sh", "-c", program, stdin=options).strip()

    def inside(self, path: str) -> int:
        """Return the status of a path, requested in a server's pod."""
        program = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1], timeout=20).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)"
        )
        name = self.servers()[0]["metadata"]["name"]
        where = ("--namespace", NAMESPACE, name, "--container", "mlflow")
        url = f"http://127.0.0.1:8081{path}"
        return int(self.platform.kubectl("exec", *where, "--", "python", "-c", program, url))


@dataclass
class Writers:
    """Four clients that log one metric after the other, and record what the server acknowledged."""

    url: str
    auth: tuple[str, str]
    run: str
    acknowledged: list[int] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    """Times of requests without a 200."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def post(self, path: str, body: dict) -> requests.Response | None:
        try:
            return requests.post(f"{self.url}{API}{path}", json=body, auth=self.auth, timeout=60)
        except requests.RequestException:
            return None

    def write(self, number: int) -> None:
        step = number
        while not self.stopped.is_set():
            point = {"run_id": self.run, "key": "m", "value": step, "timestamp": 1, "step": step}
            answer = self.post("/runs/log-metric", point)
            if answer is not None and answer.status_code == 200:
                self.acknowledged.append(step)
                step += 4
            else:
                self.failures.append(time.monotonic())
                time.sleep(0.2)


@contextmanager
def writing(team: Team) -> Iterator[Writers]:
    env = team.env()
    auth = (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])
    created = requests.post(
        f"{env['MLFLOW_TRACKING_URI']}{API}/runs/create", json={"experiment_id": "0"}, auth=auth, timeout=60
    )
    writers = Writers(env["MLFLOW_TRACKING_URI"], auth, created.json()["run"]["info"]["run_id"])
    threads = [threading.Thread(target=writers.write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually("writers write", lambda: len(writers.acknowledged) > 20)
        yield writers
    finally:
        writers.stopped.set()
        for thread in threads:
            thread.join()


def assert_kept(team: Team, writers: Writers) -> None:
    stored = team.sql(f"select step from metrics where run_uuid = '{writers.run}'").split()
    assert set(writers.acknowledged) - {int(step) for step in stored} == set()


def _migration(platform: Platform) -> psutil.Process | None:
    """Return the process that creates the tables, once it is connected to the database."""
    for process, words in platform.processes().items():
        with suppress(FileNotFoundError):
            migrates = words[-2:] == [f"{PROGRAMS}/mysql_schema.py", "migrate"]
            # In the pod's network, which psutil does not inspect: a connection to port 3306.
            if migrates and ":0CEA 01 " in Path(f"/proc/{process.pid}/net/tcp").read_text():
                return process
    return None


@pytest.fixture(scope="module")
def team(platform: Platform) -> Iterator[Team]:
    image = images.mariadb(Progress())
    platform.node.load(Progress(), image)
    platform.namespace(NAMESPACE)
    store = {"mysql": {"deploy": {"size": "1Gi", "image": image.reference}, "dumps": {"size": "1Gi"}}}
    wanted = args(platform, NAMESPACE, PORT, backend_store=store, artifact_store={"s3": BUCKET}, replicas=3)
    stack = consumer(platform, NAME, {NAME: wanted})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stack.up, check=False)
        migration = eventually("the schema Job is at work", lambda: _migration(platform), seconds=300, pause=0.2)
        time.sleep(1)
        migration.kill()
    yield Team(platform, stack, first.result())
    stack.destroy()
    platform.kubectl("delete", "namespace", NAMESPACE)


def test_a_creation_that_was_killed_is_explained_and_repeated_by_the_next_up(team: Team) -> None:
    assert team.interrupted.returncode != 0
    assert re.search(rf"{NAME}-schema\S* .*failed", team.interrupted.stdout)
    team.stack.up()
    assert team.sql("select count(*) from alembic_version") == "1"


def test_three_servers_start_on_an_empty_database_without_a_race(team: Team) -> None:
    assert team.ready() == 3
    assert team.restarts() == [0] * 6
    (job,) = team.objects("jobs", "schema")
    assert job["status"]["succeeded"] == 1
    (budget,) = team.objects("poddisruptionbudgets", "tracking")
    assert budget["status"]["disruptionsAllowed"] == 1
    team.stack.unchanged()


def test_other_pods_reach_neither_the_database_nor_mlflow(team: Team, stranger: Visitor) -> None:
    (database,) = team.objects("pods", "database")
    server = team.servers()[0]
    stores = [f"{database['status']['podIP']}:3306", f"{NAME}-database.{NAMESPACE}.svc:3306"]
    ports = [f"{server['status']['podIP']}:{port}" for port in (5000, 8081, 8080)]
    colleague = team.platform.visitor(NAMESPACE)
    wanted = ["closed", "closed", "closed", "open", "open"]
    eventually("a colleague is let in", lambda: colleague.connects(*stores, *ports) == wanted, 30)
    # A node port's public side is open to everyone.
    assert stranger.connects(*stores, *ports) == ["closed", "closed", "closed", "closed", "open"]
    assert Visitor(team.platform, NAMESPACE, server["metadata"]["name"], "mlflow").connects(*stores) == ["open", "open"]
    colleague.leave()


def test_what_was_acknowledged_outlives_a_killed_database(team: Team) -> None:
    with writing(team) as writers:
        for _ in range(KILLS):
            # The node has no program called kill, only its shell's.
            kill = "kill -9 $(grep -lx mariadbd /proc/[0-9]*/comm | cut -d/ -f3)"
            assert team.platform.node.run("sh", "-c", kill).returncode == 0
            count = len(writers.acknowledged)
            # A kubelet waits longer before each further restart.
            eventually("writers go on", lambda: len(writers.acknowledged) > count + 100, seconds=300)  # noqa: B023
    assert_kept(team, writers)
    assert team.restarts() == [0] * 6
    assert writers.failures != []

    def restarted() -> int:
        (database,) = team.objects("pods", "database")
        return database["status"]["containerStatuses"][0]["restartCount"]

    # A kubelet reports it later than it does it.
    eventually("the database's restarts are told", lambda: restarted() == KILLS)


def test_without_a_database_servers_are_alive_and_not_ready(team: Team) -> None:
    scale = ("scale", "statefulset", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/component=database")
    team.platform.kubectl(*scale, "--replicas=0")
    eventually("no server is ready", lambda: team.ready() == 0)
    assert team.inside("/healthz") == 200
    assert team.inside("/readyz") == 500
    team.platform.kubectl(*scale, "--replicas=1")
    eventually("all servers are ready", lambda: team.ready() == 3)
    assert team.restarts() == [0] * 6


def test_a_documented_backup_brings_back_what_was_lost(team: Team, tmp_path: Path) -> None:
    """Runs the commands of the documents verbatim, except for namespace, name and home."""
    prepare, dump, restore = blocks(engine.PROJECT / "docs" / "how-to" / "back-up-mysql.md")
    env = team.env()
    auth = (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])

    def documented(*commands: str) -> list[str]:
        text = "".join(commands)
        for theirs, own in {"$(pulumi stack output namespace)": NAMESPACE, "=mlflow\n": f"={NAME}\n"}.items():
            assert text.count(theirs) == 1
            text = text.replace(theirs, own)
        return team.platform.run("bash", "-euo", "pipefail", "-c", text, HOME=str(tmp_path)).stdout.splitlines()

    def create(name: str) -> None:
        url = f"{env['MLFLOW_TRACKING_URI']}{API}/experiments/create"
        assert requests.post(url, json={"name": name}, auth=auth, timeout=60).status_code == 200

    def stored() -> str:
        return team.sql("checksum table experiments, runs, metrics, alembic_version")

    create("Ä 漢 🙂")
    before = stored()
    assert [line.partition(" on ")[0] for line in documented(prepare, dump) if line[0] == "-"] == ["-- Dump completed"]

    create("after the backup")
    team.sql("delete from metrics")
    assert stored() != before

    documented(prepare, restore)
    assert stored() == before
    assert team.ready() == 3
    assert team.restarts() == [0] * 6
    found = requests.get(f"{env['MLFLOW_TRACKING_URI']}{API}/experiments/search?max_results=9", auth=auth, timeout=60)
    assert {experiment["name"] for experiment in found.json()["experiments"]} == {"Default", "Ä 漢 🙂"}
    assert "hands" not in {pod["metadata"]["name"] for pod in team.objects("pods", "schema")}


def test_a_refused_schema_job_is_explained_by_up_and_runs_again_with_the_next(team: Team) -> None:
    team.sql("alter database mlflow character set latin1")
    stacks = json.loads(json.dumps(team.stack.config["stacks"]))
    stacks[NAME]["labels"] = {"changed": "yes"}  # to make it another Job
    team.stack.configure(stacks=stacks)
    refused = team.stack.up(check=False)
    assert refused.returncode != 0
    assert "the database's character set is latin1" in refused.stdout
    assert "ALTER DATABASE `mlflow` CHARACTER SET utf8mb4;" in refused.stdout
    env = team.env()
    auth = (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])
    assert status(f"{env['MLFLOW_TRACKING_URI']}{API}/experiments/search?max_results=1", auth) == 200
    team.sql("alter database mlflow character set utf8mb4")
    team.stack.up()
    team.stack.unchanged()


def test_a_new_database_password_counts_and_the_old_one_no_longer(team: Team) -> None:
    def own() -> str:
        secrets = [
            item
            for item in team.platform.objects("secrets", NAMESPACE)
            if set(item.get("data", {})) == {"password"} and item["metadata"]["name"].startswith(f"{NAME}-database-")
        ]
        (secret,) = secrets
        return base64.b64decode(secret["data"]["password"]).decode()

    before = own()
    assert team.login(before) == "1"
    assert team.sql("select authentication_string <> '' from mysql.user where user = 'mlflow'") == "1"
    digest = team.sql("select authentication_string from mysql.user where user = 'mlflow'")
    stacks = json.loads(json.dumps(team.stack.config["stacks"]))
    stacks[NAME]["backend_store"]["mysql"]["deploy"]["rotation"] = 1
    team.stack.configure(stacks=stacks)
    with writing(team) as writers:
        team.stack.up()
        count = len(writers.acknowledged)
        eventually("writers go on", lambda: len(writers.acknowledged) > count + 50)
    assert_kept(team, writers)
    assert own() != before
    assert team.login(own()) == "1"
    refused = "ERROR 1045 (28000): Access denied for user 'mlflow'@'127.0.0.1' (using password: YES)"
    assert team.login(before) == refused
    assert team.sql("select authentication_string from mysql.user where user = 'mlflow'") != digest
    seconds = max(writers.failures, default=0) - min(writers.failures, default=0)
    print(f"database password rotated: {len(writers.failures)} of {len(writers.acknowledged)} requests had to be made "
          f"again, within {seconds:.1f} s")  # fmt: skip
    team.stack.unchanged()
