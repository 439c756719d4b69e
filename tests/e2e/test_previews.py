"""Pipeline of a team's stack: previews of the live stack, deployments, drift. Each statement of a preview is compared
with what the deployment does. The comments equal those of tests/program/previews, word for word."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.platform_under_test import Platform, Visitor, eventually
from previewed import CHANGES, DATABASE, IMAGE, LARGE, LARGE_CHANGES, NEWER, NEWEST, PROXY, REFUSED, START, golden
from repository import STACK, Edit, Repository

import engine
from mlflow_stack_cli.progress import Progress
from sandbox import images, services

DONE = {"created": "Created", "updated": "Changed", "replaced": "Replaced", "deleted": "Deleted"}


@dataclass
class Team:
    """Repository, cluster and backend of a pipeline; each run starts on a fresh machine."""

    platform: Platform
    namespace: str
    repository: Repository
    scratch: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kubeconfig = yaml.safe_load(self.platform.instance.kubeconfig.read_text())
        kubeconfig["contexts"][0]["name"] = kubeconfig["current-context"] = STACK
        for folder in ("backend", "tmp"):
            (self.scratch / folder).mkdir()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")},
            "MLFLOW_STACK_DATA": str(self.scratch / "data"),
            "TMPDIR": str(self.scratch / "tmp"),
            "KUBECONFIG_TEXT": yaml.safe_dump(kubeconfig),
            "BACKEND": f"file://{self.scratch / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "correct horse",
        }

    def pipeline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a step of a pipeline, whatever its exit status."""
        shutil.rmtree(self.scratch / "data", ignore_errors=True)
        command = [str(self.repository.folder / "ci" / "stack"), *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def by_hand(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a shell that evaluated `make env`."""
        kubeconfig = self.scratch / "kubeconfig"
        kubeconfig.write_text(self.env["KUBECONFIG_TEXT"])
        where = f"STACK={STACK} CONTEXT={STACK} BACKEND={shlex.quote(self.env['BACKEND'])}"
        script = f'eval "$(make -s env {where})" && {command}'
        env = {**self.env, "KUBECONFIG": str(kubeconfig)}
        return subprocess.run(
            ["bash", "-c", script], cwd=self.repository.folder, env=env, capture_output=True, text=True, check=False
        )

    def preview(self) -> subprocess.CompletedProcess[str]:
        return self.pipeline("preview", STACK, "HEAD~1")

    def deploy(self) -> dict[str, set[tuple[str, str]]]:
        """Deploy; return which objects were changed, by the titles of a comment."""
        done = self.pipeline("deploy", STACK)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, set[tuple[str, str]]] = {title: set() for title in DONE.values()}
        for kind, name, ended in re.findall(rf":(\w+) (\S+) ({'|'.join(DONE)})\b", done.stdout):
            if ended in DONE and not re.search(rf":index:{kind} ", done.stdout.replace("random:index", "random")):
                found[DONE[ended]].add((kind, name))
        # A replacement is also reported by its two halves.
        for half in ("Created", "Deleted"):
            found[half] -= found["Replaced"]
        return found

    def claims(self) -> dict[str, tuple[str, str]]:
        """Return identity and requested size of each claim."""
        return {
            item["metadata"]["name"]: (item["metadata"]["uid"], item["spec"]["resources"]["requests"]["storage"])
            for item in self.platform.objects("persistentvolumeclaims", self.namespace)
        }

    def pod(self) -> dict[str, Any]:
        return self.platform.server(self.namespace)

    def servers(self) -> list[dict[str, Any]]:
        return self.platform.objects("pods", self.namespace, "--selector=app.kubernetes.io/component=tracking")

    def change(self, name: str, edit: Edit) -> str:
        """Commit a change that loses nothing, preview and deploy it; return the preview, which matches the
        deployment."""
        self.repository.commit(edit, name)
        preview = self.preview()
        assert (preview.returncode, preview.stdout) == (0, live(name)), preview.stderr
        self.pause(preview.stdout)
        assert self.deploy() == told(preview.stdout)
        assert self.preview().stdout.startswith("### Stack `team`: nothing changes\n")
        return preview.stdout

    def pause(self, comment: str) -> None:
        """Stop the servers if the comment asks for it, by its own command."""
        if command := re.search(r"`(kubectl scale [^`]+)`", comment):
            self.platform.run(*shlex.split(command[1]))
            eventually("no server runs", lambda: not self.servers())


def told(comment: str) -> dict[str, set[tuple[str, str]]]:
    """Return the entries of a comment, by title."""
    found: dict[str, set[tuple[str, str]]] = {title: set() for title in DONE.values()}
    for section in comment.split("\n#### ")[1:]:
        title, _, rest = section.partition("\n")
        found[title] = set(re.findall(r"^- (\w+) `(\S+)`$", rest, re.M))
    return found


def live(name: str) -> str:
    return golden(name).read_text().replace("Compared with `HEAD~1`.", "Compared with what runs.")


@pytest.fixture(scope="module")
def tagged(platform: Platform) -> None:
    """The images on the node, under the names that the changes use."""
    mariadb = images.mariadb(Progress())
    platform.node.load(Progress(), mariadb)
    mlflow, proxy = platform.images["mlflow"], platform.images["proxy"]
    names = {IMAGE: mlflow, NEWER: mlflow, NEWEST: mlflow, PROXY: proxy, DATABASE: mariadb.reference}
    for name, image in names.items():
        done = platform.node.run("ctr", "--namespace=k8s.io", "images", "tag", "--force", image, name)
        assert done.returncode == 0, done.stderr


def deployed(platform: Platform, namespace: str, config: dict[str, Any], scratch: Path) -> Team:
    team = Team(platform, namespace, Repository(scratch / "repository", config), scratch)
    team.deploy()
    return team


@pytest.fixture(scope="module")
def team(platform: Platform, tagged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    yield deployed(platform, START["namespace"], dict(START), tmp_path_factory.mktemp("team"))
    platform.kubectl("delete", "namespace", START["namespace"], "--ignore-not-found")


def test_a_stack_as_deployed_has_no_changes_and_no_drift(team: Team) -> None:
    assert team.preview().stdout == "### Stack `team`: nothing changes\n\nCompared with what runs.\n"
    drift = team.pipeline("drift", STACK)
    assert (drift.returncode, drift.stdout) == (0, ""), drift.stderr


def test_a_pipeline_leaves_no_kubeconfig_behind(team: Team) -> None:
    """Neither the command's own, nor those that the Kubernetes provider writes at each start."""
    kept = [path for path in (team.scratch / "tmp").rglob("*") if path.is_file() and b"clusters:" in path.read_bytes()]
    assert kept == []


def test_an_object_that_was_edited_by_hand_is_named_with_its_field(team: Team) -> None:
    edit = ("label", "service", "mlflow", f"--namespace={team.namespace}", "--overwrite")
    team.platform.kubectl(*edit, "app.kubernetes.io/part-of=other")
    drift = team.pipeline("drift", STACK)
    assert drift.returncode != 0
    assert drift.stdout == (
        "### Stack `team`: 1 object is no longer as deployed\n\n"
        "- Service `mlflow`\n"
        "  - `metadata.labels.app.kubernetes.io/part-of` is `other`, and `mlflow` in the stack\n"
    )
    # As documented: the engine reads the edit, and the next deployment reverts it.
    refreshed = team.by_hand("pulumi refresh --yes")
    assert refreshed.returncode == 0, refreshed.stdout + refreshed.stderr
    preview = team.preview()
    assert preview.returncode == 0, preview.stderr
    assert "  - `metadata.labels.app.kubernetes.io/part-of`: `other` → `mlflow`\n" in preview.stdout
    assert team.deploy() == told(preview.stdout)
    assert team.pipeline("drift", STACK).stdout == ""


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_told_is_what_happens(team: Team, name: str) -> None:
    if name in REFUSED:
        config = dict(team.repository.config)
        team.repository.commit(CHANGES[name], name)
        preview = team.preview()
        assert preview.stdout == live(name), preview.stderr
        assert preview.returncode != 0
        team.repository.reset("HEAD~1")
        team.repository.config = config
        return
    before, claims = team.pod(), team.claims()
    comment = team.change(name, CHANGES[name])
    after = team.pod()
    told_so = re.search(r"- (Restarts|Replaces) the tracking server", comment) is not None
    assert (after["metadata"]["uid"] != before["metadata"]["uid"]) == told_so
    expected = {"image": NEWER, "mysql-image": NEWEST}
    if name in expected:
        assert {container["image"] for container in after["spec"]["initContainers"]} == {expected[name]}
    if name == "size":
        assert team.claims()["mlflow-data"] == (claims["mlflow-data"][0], "2Gi")
    if name == "mysql":
        # Acknowledged: the claim has left the stack, and is unchanged.
        assert team.claims()["mlflow-data"] == claims["mlflow-data"]
        team.platform.kubectl("delete", "persistentvolumeclaim", "mlflow-data", "--namespace", team.namespace)
        eventually("it is gone", lambda: "mlflow-data" not in team.claims())


@pytest.fixture(scope="module")
def large(platform: Platform, tagged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Stack with a bucket, whose registry has four versions of a model that reports its version."""
    platform.serve(services.S3, **LARGE)
    namespace = LARGE["existingNamespace"]
    team = deployed(platform, namespace, {**LARGE, "models": []}, tmp_path_factory.mktemp("large"))
    visitor = platform.visitor(namespace, secrets=["mlflow-client"])
    visitor.python(_REGISTER)
    team.repository.commit(lambda one: one.config.update(models=LARGE["models"]), "model")
    team.deploy()
    yield team
    platform.kubectl("delete", "namespace", namespace)


_REGISTER = """
import mlflow
from sklearn.linear_model import LinearRegression
for versions, says in ((3, 3.0), (1, 4.0)):
    model = LinearRegression().fit([[0.0], [1.0]], [says, says])
    logged = mlflow.sklearn.log_model(model, name="m", pip_requirements=[])
    for _ in range(versions):
        mlflow.register_model(logged.model_uri, "diabetes")
"""


def test_more_servers_come_without_an_outage_as_told(large: Team) -> None:
    visitor = Visitor(large.platform, large.namespace)
    with ThreadPoolExecutor() as beside:
        asked = beside.submit(visitor.python, _ASK)
        try:
            large.change("replicas", LARGE_CHANGES["replicas"])
        finally:
            visitor.python("open('/tmp/enough', 'w')")
    answered, others = json.loads(asked.result())
    assert others == []
    assert answered > 20
    # The previous one still ends.
    servers = [server for server in large.servers() if "deletionTimestamp" not in server["metadata"]]
    assert len(servers) == 3
    assert all(status["ready"] for server in servers for status in server["status"]["containerStatuses"])


_ASK = """
import json, os, pathlib, time, requests
user = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/experiments/search?max_results=1"
answered, others = 0, []
while not pathlib.Path("/tmp/enough").exists():
    try:
        requests.get(url, auth=user, timeout=30).raise_for_status()
        answered += 1
    except Exception as error:
        others.append(repr(error))
    time.sleep(0.2)
print(json.dumps([answered, others]))
"""


def test_a_model_s_other_version_is_served_as_told(large: Team) -> None:
    visitor = Visitor(large.platform, large.namespace)
    assert json.loads(visitor.python(_PREDICT)) == [3.0, 3.0]
    large.change("model", LARGE_CHANGES["model"])
    assert json.loads(visitor.python(_PREDICT)) == [4.0, 4.0]


_PREDICT = """
import json, os, requests
user = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
url = "http://mlflow-diabetes/serving/diabetes/invocations"
print(json.dumps(requests.post(url, json={"inputs": [[5.0], [6.0]]}, auth=user).json()["predictions"]))
"""


def test_render_writes_what_the_provider_would_send(platform: Platform, tmp_path: Path) -> None:
    """Every stack file, as rendered by the provider itself, except for secrets and generated names."""
    for file in sorted(engine.PROJECT.glob("Pulumi.*.yaml")):
        stack = file.name.split(".")[1]
        rendered = tmp_path / stack
        provider = _rendered_by_the_provider(platform, tmp_path / f"{stack}-program", stack)
        command = ["make", "--silent", "render", f"STACK={stack}", f"OUT={rendered}"]
        subprocess.run(command, cwd=engine.PROJECT, capture_output=True, check=True)
        ours, theirs = _plain(rendered), _plain(provider)
        assert ours.keys() == theirs.keys()
        for one, plain in ours.items():
            assert plain == theirs[one], one
        # A server accepts them: namespaces first, because everything else needs one.
        names = {item["metadata"]["namespace"] for item in _objects(rendered) if "namespace" in item["metadata"]}
        made = [name for name in names if not platform.kubectl("get", "namespace", name, "--ignore-not-found")]
        for name in made:
            platform.kubectl("create", "namespace", name)
        platform.kubectl("apply", "--dry-run=server", "--recursive", "--filename", str(rendered))
        for name in made:
            platform.kubectl("delete", "namespace", name)


def _rendered_by_the_provider(platform: Platform, folder: Path, stack: str) -> Path:
    (folder / "state").mkdir(parents=True)
    runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": str(engine.PROJECT / ".venv")}}
    declared = yaml.safe_load((engine.PROJECT / "Pulumi.yaml").read_text())["config"]
    (folder / "Pulumi.yaml").write_text(
        yaml.safe_dump({"name": "mlflow-stack", "runtime": runtime, "config": declared})
    )
    (folder / "__main__.py").write_text(
        "import functools, runpy, sys\n"
        "import pulumi_kubernetes as k8s\n"
        f"sys.path.insert(0, {str(engine.PROJECT)!r})\n"
        f"k8s.Provider = functools.partial(k8s.Provider, render_yaml_to_directory={str(folder / 'out')!r})\n"
        f"runpy.run_path({str(engine.PROJECT / '__main__.py')!r}, run_name='__main__')\n"
    )
    shutil.copy(engine.PROJECT / f"Pulumi.{stack}.yaml", folder)
    # A provider that renders accepts no kubeconfig.
    env = {name: value for name, value in platform.environment.items() if name != "KUBECONFIG"} | {
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        "PULUMI_OPTION_CONFIG_FILE": str(folder / f"Pulumi.{stack}.yaml"),
        "PULUMI_STACK": stack,
    }
    for command in (("stack", "init", stack), ("up", "--yes", "--skip-preview")):
        argv = ["pulumi", *command, "--non-interactive"]
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def _objects(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.rglob("*.yaml"))]


def _plain(folder: Path) -> dict[tuple[str, str], Any]:
    """Return the objects by kind and name, without the suffixes of generated names and without the data of Secrets."""
    found = {}
    for item in _objects(folder):
        if item["kind"] == "Secret":
            item["data"] = sorted(item["data"])
        text = re.sub(r"-[0-9a-f]{8}\b", "-#", json.dumps(item))
        plain = json.loads(text)
        found[plain["kind"], plain["metadata"]["name"]] = plain
    return found
