"""Programs in `examples/`, run by the commands of their READMEs: up, purpose, no change, down, delete."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.platform_under_test import Platform, Stack, Visitor, blocks
from mlflow import MlflowClient
from repository import Repository

import engine
from mlflow_stack import pod
from mlflow_stack.access import proxy
from mlflow_stack_cli.previews import capture, render
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project
from sandbox import authority, services
from sandbox.builds import go_binary
from sandbox.cluster.crds import ROUTE, definitions

SMALL = {"requests": {"cpu": "50m"}}
ELSEWHERE = "elsewhere"
LANGUAGE_YAML = Path(__file__).parent / "language_yaml"
ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "not the old default"}
"""First user of an MLflow with its own authentication."""

# Status and body of one request, with or without a password.
ASK = """
import json, sys, requests
url, user, body = sys.argv[1:4]
pair = tuple(user.split(":", 1)) if user else None
kind = {"Content-Type": "application/json"} if body else {}
answer = requests.request("POST" if body else "GET", url, data=body or None, headers=kind, auth=pair, timeout=60)
print(json.dumps([answer.status_code, answer.text if answer.ok else ""]))
"""
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


class Example:
    """Folder of `examples/` in its own checkout, with the shell of a user who follows its README."""

    def __init__(self, platform: Platform, name: str, checkout: Path, settings: Mapping[str, Any]) -> None:
        self.platform = platform
        self.name = name
        self.checkout = checkout
        self.folder = checkout / "examples" / name
        self.commands = blocks(self.folder / "README.md")
        # In addition to the README's settings: images of this node, small requests, other names.
        config = {f"{name}:{key}": value for key, value in settings.items()}
        (self.folder / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))
        self.env = {
            name: value
            for name, value in platform.environment.items()
            if name not in ("PULUMI_STACK", "PULUMI_OPTION_CONFIG_FILE", "PULUMI_OPTION_PRESERVE_CONFIG")
        }
        # The lock's versions are installed; no other plugin version is requested.
        self.env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"

    def shell(self, script: str, cwd: Path) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=cwd, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, **instead: str) -> None:
        """Run the README's first commands; ``instead`` replaces configuration values for this node."""
        script = self.commands[0]
        for key, value in instead.items():
            script, count = re.subn(rf"^(pulumi config set {key}) \S+", rf"\1 {value}", script, flags=re.M)
            assert count == 1, key
        self.shell(script, self.checkout)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.shell("pulumi stack output --json --show-secrets", self.folder))

    def ends(self, namespace: str, kept: set[str], left: set[str]) -> None:
        """Check that nothing changes; run the README's last commands: the last but one keeps data, the last deletes
        it."""
        self.shell("pulumi preview --expect-no-changes", self.folder)
        self.shell(self.commands[-2], self.folder)
        assert kinds(self.platform, namespace) == kept
        self.shell(self.commands[-1], self.folder)
        assert kinds(self.platform, namespace) == left
        listed = self.shell("pulumi stack ls --all --json", self.folder)
        assert not [stack for stack in json.loads(listed) if f"/{self.name}/" in stack["name"]]


@pytest.fixture(scope="module")
def args(platform: Platform) -> dict[str, Any]:
    return {
        "image": platform.images["mlflow"],
        "proxy_image": platform.images["proxy"],
        "resources": SMALL,
        "rollout_timeout": "5m",
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Parts of the checkout that the examples use."""
    (tmp_path / ".venv").symlink_to(engine.PROJECT / ".venv")
    shutil.copytree(engine.PROJECT / "examples", tmp_path / "examples")
    return tmp_path


def ask(visitor: Visitor, url: str, user: str = "", password: str = "", body: str = "") -> tuple[int, str]:
    status, text = json.loads(visitor.python(ASK, url, f"{user}:{password}" if user else "", body))
    return status, text


def kinds(platform: Platform, namespace: str) -> set[str]:
    """Return the objects in a namespace, except those of Kubernetes itself and of a visitor."""
    listed = platform.kubectl(
        *("get", "all,secrets,configmaps,persistentvolumeclaims,networkpolicies,serviceaccounts,ingresses"),
        *("--namespace", namespace, "--output", "name"),
    )
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default", "pod/visitor"}
    return set(listed.split()) - own


def gone(platform: Platform, namespace: str) -> bool:
    return not platform.kubectl("get", "namespace", namespace, "--ignore-not-found")


def test_the_guide_to_reuse_leads_to_a_secret_password(
    platform: Platform, args: dict[str, Any], tmp_path: Path
) -> None:
    """By pip, from a commit of this checkout's own content, in a folder beside it."""
    namespace = "vision"
    repository = Repository(tmp_path / "checkout", {})
    guide = repository.folder / "docs" / "how-to" / "reuse-the-component.md"
    example = Example(platform, "reuse-python", repository.folder, {"args": args})
    commands, *_ = blocks(guide)
    said = example.shell(commands, repository.folder)
    example.folder = tmp_path / "vision"

    outputs = example.outputs()
    assert said.splitlines()[-1] == outputs["password"]
    assert len(outputs["password"]) == 40
    assert outputs["username"] == "ann"
    assert "password  [secret]" in re.sub(r" +", "  ", example.shell("pulumi stack output", example.folder))
    assert outputs["password"] not in example.shell("pulumi stack export", example.folder)
    (installed,) = example.folder.glob("venv/lib/*/site-packages/mlflow_stack/stack.py")
    assert installed.is_file()
    visitor = platform.visitor(namespace)
    assert ask(visitor, outputs["url"] + SEARCH, "ann", outputs["password"])[0] == 200
    assert ask(visitor, outputs["url"] + SEARCH, "ann", "wrong")[0] == 401
    visitor.leave()

    example.env["lock"] = str(repository.folder / "requirements.lock")
    found = blocks(repository.folder / "components" / "README.md")
    (commands,) = [block for block in found if "mlflow-stack preflight" in block]
    said = example.shell(commands, example.folder)
    assert "### Stack `dev`: nothing changes\n" in said
    assert f"URL       {outputs['url']}\n" in said
    check_red_line(example)
    check_pin(example, namespace, outputs["password"])

    example.ends(namespace, kept={"persistentvolumeclaim/mlflow-data"}, left=set())
    platform.kubectl("delete", "namespace", namespace)


def command_line(example: Example, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `mlflow-stack` of the example's environment, whatever its exit status."""
    command = [example.folder / "venv" / "bin" / "mlflow-stack", *arguments]
    return subprocess.run(command, cwd=example.folder, env=example.env, capture_output=True, text=True, check=False)


def check_red_line(example: Example) -> None:
    """The preview refuses a change that loses data, before preflight looks for the other claim."""
    before = (example.folder / "Pulumi.dev.yaml").read_text()
    example.shell("pulumi config set --path args.backend_store.pvc.existing_claim other", example.folder)
    preview = command_line(example, "preview")
    assert preview.returncode == 3, preview.stderr
    assert "The runs and registered models recorded so far stay in `pvc://vision/mlflow-data`" in preview.stdout
    preflight = command_line(example, "preflight")
    assert preflight.returncode == 1
    assert "backend_store.pvc.existing_claim: PersistentVolumeClaim other is not in" in preflight.stderr
    (example.folder / "Pulumi.dev.yaml").write_text(before)
    up = command_line(example, "up")
    assert up.returncode == 0, up.stderr
    assert "nothing changed\n" in up.stderr


def check_pin(example: Example, namespace: str, password: str) -> None:
    """`pin` turns an alias into a version of the stack's own registry, through a forwarded port."""
    file = example.folder / "Pulumi.dev.yaml"
    before = file.read_text()
    content = yaml.safe_load(before)
    content["config"]["reuse-python:args"]["models"] = [{"name": "iris", "uri": "models:/iris@champion"}]
    file.write_text(yaml.safe_dump(content))
    forward = ["kubectl", "port-forward", f"--namespace={namespace}", "service/mlflow", ":80"]
    with subprocess.Popen(forward, env=example.env, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout
            port = re.search(r":(\d+) ->", forwarding.stdout.readline())
            assert port
            server = {
                "MLFLOW_TRACKING_URI": f"http://localhost:{port[1]}",
                "MLFLOW_TRACKING_USERNAME": "ann",
                "MLFLOW_TRACKING_PASSWORD": password,
            }
            register = (
                "from mlflow import MlflowClient; client = MlflowClient(); client.create_registered_model('iris');"
                "run = client.create_run('0').info;"
                "client.create_model_version('iris', run.artifact_uri, run.run_id);"
                "client.set_registered_model_alias('iris', 'champion', '1')"
            )
            env = {**example.env, **server}
            subprocess.run([sys.executable, "-c", register], env=env, check=True)
            # From this environment, which has the extra `pin`; installing it in the example's takes minutes.
            pin = [Path(sys.executable).with_name("mlflow-stack"), "--cwd", example.folder, "pin"]
            moved = subprocess.run([*pin, "--check"], env=env, capture_output=True, text=True, check=False)
            assert (moved.returncode, moved.stdout) == (1, "iris: not pinned → 1 (models:/iris@champion)\n")
            pinned = subprocess.run(pin, env=env, capture_output=True, text=True, check=False)
            assert pinned.returncode == 0, pinned.stderr
        finally:
            forwarding.terminate()
    (model,) = yaml.safe_load(file.read_text())["config"]["reuse-python:args"]["models"]
    assert model == {"name": "iris", "uri": "models:/iris@champion", "version": 1}
    file.write_text(before)


@pytest.fixture
def plugin(checkout: Path) -> None:
    """The components are in the checkout, as a plugin."""
    for name in subprocess.run(
        ["git", "ls-files", "components", "requirements.lock"],
        cwd=engine.PROJECT, capture_output=True, text=True, check=True,
    ).stdout.split():  # fmt: skip
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(engine.PROJECT / name, checkout / name)


@pytest.fixture
def yaml_host() -> Path:
    """Return the folder of Pulumi's host for YAML programs."""
    with Progress() as progress:
        package = "github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml"
        return go_binary(progress, "pulumi-language-yaml", LANGUAGE_YAML, package, estimate=120).parent


def check_plugin(example: Example, namespace: str) -> None:
    """Run a program that uses the component as a plugin, from `up` to deletion."""
    declared = yaml.safe_load((example.folder / "Pulumi.yaml").read_text())["config"]
    assert declared["image"]["default"] == pod.DEFAULT_IMAGE
    assert declared["proxyImage"]["default"] == proxy.DEFAULT_IMAGE
    example.platform.namespace(namespace)
    example.up(namespace=namespace)

    assert len(example.outputs()["password"]) == 40
    outputs = json.loads(example.shell("pulumi stack output --json", example.folder))
    assert outputs == {"url": f"http://mlflow.{namespace}.svc", "username": "ann", "password": "[secret]"}
    maps = [item.get("data", {}) for item in example.platform.objects("configmaps", namespace)]
    (configuration,) = [configuration["nginx.conf"] for configuration in maps if "nginx.conf" in configuration]
    assert re.search(r"^\s*limit_conn uploads 3;$", configuration, re.M)

    example.ends(namespace, kept={"persistentvolumeclaim/mlflow-data"}, left=set())
    example.platform.kubectl("delete", "namespace", namespace)


def test_a_program_in_yaml_keeps_secrets_secret_and_numbers_whole(
    platform: Platform, args: dict[str, Any], checkout: Path, plugin: None, yaml_host: Path
) -> None:
    images = {"image": args["image"], "proxyImage": args["proxy_image"]}
    example = Example(platform, "reuse-yaml", checkout, images)
    example.env["PATH"] = f"{yaml_host}{os.pathsep}{example.env['PATH']}"
    check_plugin(example, "in-yaml")


def test_a_program_with_the_generated_sdk_keeps_secrets_secret_and_numbers_whole(
    platform: Platform, args: dict[str, Any], checkout: Path, plugin: None
) -> None:
    images = {"image": args["image"], "proxyImage": args["proxy_image"]}
    example = Example(platform, "reuse-sdk", checkout, images)
    check_plugin(example, "by-sdk")
    # The exit status is ignored: a Python host built here does not know its last step.
    told = example.shell("pulumi package add ../../components 2>&1 || true", example.folder)
    assert "Successfully generated an SDK for the mlflow-stack package" in told


def test_two_teams_in_one_namespace_have_nothing_else_in_common(
    platform: Platform, args: dict[str, Any], checkout: Path
) -> None:
    example = Example(platform, "two-teams", checkout, {"args": args})
    example.up()
    outputs = example.outputs()
    visitor = platform.visitor("teams")
    for team, status in (("red", 200), ("blue", 401)):
        url, password = outputs["red"]["MLFLOW_TRACKING_URI"], outputs[team]["MLFLOW_TRACKING_PASSWORD"]
        assert ask(visitor, url + SEARCH, team, password)[0] == status
    url, password = outputs["blue"]["MLFLOW_TRACKING_URI"], outputs["blue"]["MLFLOW_TRACKING_PASSWORD"]
    assert ask(visitor, url + SEARCH, "blue", password)[0] == 200
    visitor.leave()

    example.ends("teams", kept={"persistentvolumeclaim/red-data", "persistentvolumeclaim/blue-data"}, left=set())
    assert gone(platform, "teams")


def test_what_was_there_before_is_used_and_stays(platform: Platform, args: dict[str, Any], checkout: Path) -> None:
    namespace, host = "team", f"adopt.{platform.instance.domain}"
    certificate = authority.certificate(platform.instance)
    platform.namespace(namespace)
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "mlflow-pvc", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "mlflow-tls", "namespace": namespace},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.chain, "tls.key": certificate.key},
        },
    )
    before = kinds(platform, namespace)
    example = Example(platform, "adopt", checkout, {"args": args})
    example.up(host=host)

    env = example.outputs()["clientEnv"]
    assert env["MLFLOW_TRACKING_URI"] == f"https://{host}"
    told = subprocess.run(
        ["curl", "--silent", "--show-error", "--cacert", str(authority.root(platform.instance)),
         "--resolve", f"{host}:443:{platform.instance.node_address}", "--write-out", "%{http_code}",
         "--user", f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}",
         "--output", os.devnull, f"https://{host}{SEARCH}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == "200"

    example.ends(namespace, kept=before, left=before)
    platform.kubectl("delete", "namespace", namespace)


@pytest.fixture
def registry(platform: Platform) -> Iterator[str]:
    """MLflow that no stack created, with its own authentication and a model."""
    platform.namespace(ELSEWHERE)
    visitor = platform.visitor(ELSEWHERE)
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "tracking", "namespace": ELSEWHERE},
            "spec": {"selector": {"role": "visitor"}, "ports": [{"port": 5000}]},
        }
    )
    host = f"tracking.{ELSEWHERE}.svc"
    visitor.python(
        f"""
import os, subprocess, sys, time, urllib.request
os.makedirs("/tmp/mlflow")
env = {{**os.environ, "HOME": "/tmp/mlflow", "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
       "MLFLOW_AUTH_ADMIN_PASSWORD": {ADMIN["MLFLOW_TRACKING_PASSWORD"]!r}, "MLFLOW_DISABLE_TELEMETRY": "true",
       "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}}
with open("/tmp/mlflow/log", "w") as log:
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1",
         "--backend-store-uri", "sqlite:////tmp/mlflow/mlflow.db", "--artifacts-destination", "/tmp/mlflow/artifacts",
         "--serve-artifacts", "--app-name", "basic-auth", "--allowed-hosts", "{host},{host}:*,localhost,localhost:*"],
        env=env, cwd="/tmp/mlflow", stdout=log, stderr=log, start_new_session=True,
    )
for _ in range(120):
    try:
        urllib.request.urlopen("http://localhost:5000/health", timeout=1)
        break
    except OSError:
        if server.poll() is not None:
            sys.exit(open("/tmp/mlflow/log").read()[-2000:])
        time.sleep(0.5)
else:
    sys.exit(open("/tmp/mlflow/log").read()[-2000:])
"""
    )
    visitor.python(
        f"""
import os
os.environ.update({ADMIN!r}, MLFLOW_TRACKING_URI="http://localhost:5000", HOME="/tmp/mlflow")
import mlflow
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
mlflow.sklearn.log_model(model, name="m", registered_model_name="diabetes")
"""
    )
    yield f"http://{host}:5000"
    visitor.leave()
    platform.kubectl("delete", "namespace", ELSEWHERE)


def test_a_model_of_somebody_else_s_mlflow_is_served(
    platform: Platform, args: dict[str, Any], checkout: Path, registry: str
) -> None:
    namespace = "serving"
    platform.namespace(namespace)
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "registry", "namespace": namespace},
            "stringData": ADMIN,
        }
    )
    images = {key: args[key] for key in ("image", "proxy_image")}
    example = Example(platform, "models-only", checkout, {"args": images})
    example.up(trackingUri=registry)

    outputs = example.outputs()
    visitor = platform.visitor(namespace)
    url, body = f"{outputs['url']}/invocations", json.dumps({"inputs": [[2.0], [3.0]]})
    status, answer = ask(visitor, url, outputs["username"], outputs["password"], body)
    assert status == 200
    assert json.loads(answer)["predictions"] == pytest.approx([5.0, 7.0])
    assert ask(visitor, url, *ADMIN.values(), body)[0] == 401
    visitor.leave()

    example.ends(namespace, kept={"secret/registry"}, left={"secret/registry"})
    platform.kubectl("delete", "namespace", namespace)


def test_a_job_finds_its_mlflow_in_the_outputs_of_another_stack(
    platform: Platform, client: dict[str, str], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in client.items():
        monkeypatch.setenv(name, value)
    example = Example(platform, "stack-reference", checkout, {})
    namespace = json.loads(platform.run("pulumi", "stack", "output", "--json").stdout)["namespace"]
    before = kinds(platform, namespace)
    example.up(image=platform.images["mlflow"])

    assert example.outputs()["clientEnv"]["MLFLOW_TRACKING_PASSWORD"] == client["MLFLOW_TRACKING_PASSWORD"]
    assert "[secret]" in example.shell("pulumi stack output clientEnv", example.folder)
    runs = MlflowClient()
    experiment = runs.get_experiment_by_name("stack-reference")
    assert experiment is not None
    (run,) = runs.search_runs([experiment.experiment_id], max_results=1)
    assert run.info.status == "FINISHED"
    assert 0.4 < run.data.metrics["r2"] < 0.6
    assert [artifact.path for artifact in runs.list_artifacts(run.info.run_id)] == ["model.json"]

    example.ends(namespace, kept=before, left=before)


RAHTI = engine.PROJECT / "examples" / "csc-rahti" / "Pulumi.rahti.yaml"
INSTEAD: dict[str, dict[str, Any]] = {
    "endpoint": {"artifactStore": {"s3": {"endpointUrl": f"http://s3.{services.NAMESPACE}.svc:9000"}}},
    "exposure kind": {"expose": {"route": None, "ingress": {"className": "traefik"}, "tls": {}}},
    "claim": {"backendStore": {"pvc": {"existingClaim": "of-one-node"}}},
}
"""Differences from `examples/csc-rahti`: no public host, nobody serves Routes, volumes are local to the node."""
PARTS_OF_THE_PLATFORM = {"platform": "kubernetes"}
"""On OpenShift, `restricted-v2` sets UID and fsGroup of the pods; here the stack sets them."""

# File store with one run, as the template's server left it.
FILE_STORE = """
import pathlib
run, experiment = "0" * 31 + "1", pathlib.Path("/mlflow/mlruns/0")
for folder in ("artifacts", "metrics", "params", "tags"):
    (experiment / run / folder).mkdir(parents=True)
place = "/mnt/storage-pvc/mlruns/0"
stage = "lifecycle_stage: active\\nexperiment_id: '0'\\n"
(experiment / "meta.yaml").write_text(f"artifact_location: {place}\\nname: Default\\n{stage}")
(experiment / run / "meta.yaml").write_text(
    f"artifact_uri: {place}/{run}/artifacts\\nrun_id: '{run}'\\nrun_uuid: '{run}'\\nrun_name: old\\n{stage}"
    "user_id: ann\\n"
    "start_time: 1600000000000\\nend_time: 1600000001000\\nstatus: 3\\nsource_type: 4\\nsource_name: ''\\n"
    "source_version: ''\\nentry_point_name: ''\\ntags: []\\n"
)
(experiment / run / "params" / "alpha").write_text("0.5")
"""
RUNS = "/api/2.0/mlflow/runs/search"


def merged(tree: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return both merged, `other` overriding; None removes a key."""
    both = tree | {
        key: merged(tree[key], value) if isinstance(value, dict) and key in tree else value
        for key, value in other.items()
    }
    return {key: value for key, value in both.items() if value is not None}


def test_what_rahti_would_be_sent_is_accepted_by_a_server(platform: Platform, tmp_path: Path) -> None:
    """Sent to a server that knows Routes, as it is."""
    project = Project.read(engine.PROJECT)
    recording = capture.capture(project, "rahti", project.config(RAHTI) or {})
    render.write(render.manifests(recording.resources), tmp_path)
    routes = definitions(Progress(), ROUTE)
    platform.kubectl("apply", "--server-side", "--filename", "-", stdin=routes)
    platform.kubectl("wait", "--for=condition=Established", "crd/routes.route.openshift.io", "--timeout=60s")
    platform.namespace("team")
    told = platform.kubectl("apply", "--dry-run=server", "--recursive", "--filename", str(tmp_path))
    assert told.count("server dry run") == len(list(tmp_path.rglob("*.yaml")))
    assert {"route.route.openshift.io/", "statefulset.apps/", "deployment.apps/"} <= set(re.findall(r"\S+?/", told))
    platform.kubectl("delete", "namespace", "team")
    platform.kubectl("delete", "crd", "routes.route.openshift.io")


def test_the_template_s_deployment_comes_up_with_its_runs(platform: Platform, args: dict[str, Any]) -> None:
    config = {
        key.removeprefix("mlflow-stack:"): value for key, value in yaml.safe_load(RAHTI.read_text())["config"].items()
    }
    namespace = config["existingNamespace"]
    for other in (*INSTEAD.values(), PARTS_OF_THE_PLATFORM):
        config = merged(config, other)
    claim = config["backendStore"]["pvc"]["existingClaim"]
    platform.namespace(namespace)
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace},
            "spec": spec,
        }
    )
    old = platform.visitor(namespace, claim)
    old.python(FILE_STORE)
    old.leave()
    platform.serve(services.S3, **config)
    before = kinds(platform, namespace)
    stack = Stack(platform, "rahti", {**config, "image": args["image"], "proxyImage": args["proxy_image"]})
    stack.up()

    host = config["expose"]["host"]
    password = stack.output("password")
    visitor = platform.visitor(namespace)
    status, body = ask(visitor, f"http://mlflow.{namespace}.svc{RUNS}", "team", password, '{"experiment_ids": ["0"]}')
    assert status == 200
    (run,) = json.loads(body)["runs"]
    assert run["data"]["params"] == [{"key": "alpha", "value": "0.5"}]
    assert ask(visitor, f"http://mlflow.{namespace}.svc{SEARCH}", "team", "wrong")[0] == 401
    visitor.leave()
    # Clients outside its networks are refused, even with the password. The certificate has another name here.
    own = platform.instance.domain
    told = subprocess.run(
        ["curl", "--silent", "--show-error", "--cacert", str(authority.root(platform.instance)),
         "--resolve", f"rahti.{own}:443:{platform.instance.node_address}", "--header", f"Host: {host}",
         "--user", f"team:{password}", "--output", os.devnull, "--write-out", "%{http_code}",
         f"https://rahti.{own}{SEARCH}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == "403"
    (models,) = platform.objects("deployments", namespace)
    assert models["spec"]["replicas"] == 0

    stack.unchanged()
    stack.destroy()
    assert kinds(platform, namespace) == before
    platform.kubectl("delete", "namespace", namespace)
