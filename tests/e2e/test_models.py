"""Model servers of the stack of `make up`: from training to predictions, with failures in between. Runs before other
stacks share the node."""

import base64
import difflib
import json
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import requests
import yaml
from e2e.platform_under_test import DEV_PORT, Platform, Visitor, eventually, quickstart, sent
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import engine

NAMESPACE = "mlflow-dev"
DATA = load_diabetes(as_frame=True).data
TARGET = load_diabetes().target
SMALL = {"requests": {"cpu": "20m", "memory": "128Mi"}}
JSON = "application/json"


class Registry:
    """Models that are served here, registered with MLflow's client."""

    def __init__(self, client: dict[str, str], folder: Path) -> None:
        self.folder = folder
        quickstart(client, "--megabytes", "1")
        self.client = MlflowClient()
        self.first = int(self.client.get_model_version_by_alias("diabetes", "champion").version)
        mlflow.set_experiment("served")
        model = Ridge(alpha=10).fit(DATA, TARGET)
        logged = mlflow.sklearn.log_model(model, name="m", signature=infer_signature(DATA, model.predict(DATA)))
        self.second = int(mlflow.register_model(logged.model_uri, "diabetes").version)
        self.shout = self._custom("shout", ["shouting==1.0"], "from shouting import loud\nfrom ours import mark")
        (self.folder / "no_such_library.py").touch()
        self.lacking = self._custom("lacking", ["no-such-library==6.1"], "import no_such_library")
        self.big = self._custom("big", [], "block = bytearray(2**30)\nblock[::4096] = b'x' * len(block[::4096])")

    def _custom(self, name: str, requirements: list[str], begins: str) -> str:
        """Log a model from code, with its own module beside it."""
        (self.folder / "ours.py").write_text("mark = '!'\n")
        code = self.folder / f"{name}.py"
        code.write_text(
            f"import mlflow\n{begins}\n"
            "class Model(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input, params=None):\n"
            "        return [loud(text) + mark for text in model_input['text']]\n"
            "mlflow.models.set_model(Model())\n"
        )
        # As a model is logged where its libraries are installed: MLflow runs its code once.
        library = self.folder / "shouting.py"
        library.write_text("def loud(text):\n    return text.upper()\n")
        logged = mlflow.pyfunc.log_model(
            python_model=str(code), name=name, code_paths=[str(self.folder / "ours.py")], pip_requirements=requirements
        )
        return f"models:/{name}/{mlflow.register_model(logged.model_uri, name).version}"

    def predictions(self, version: int) -> list[float]:
        return mlflow.pyfunc.load_model(f"models:/diabetes/{version}").predict(DATA).tolist()


@pytest.fixture(scope="module")
def registry(client: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("code")
        patch.syspath_prepend(str(folder))
        yield Registry(client, folder)


class Served:
    """Models of the stack, and their addresses."""

    def __init__(self, platform: Platform, client: dict[str, str]) -> None:
        self.platform = platform
        self.auth = client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"]
        self.verify = client["MLFLOW_TRACKING_SERVER_CERT_PATH"]
        self.file = platform.instance.root / "stacks" / "Pulumi.dev.yaml"

    def configure(self, *models: dict[str, Any]) -> None:
        """Write the models into the stack file, as a user would by hand."""
        content = yaml.safe_load(self.file.read_text())
        ports = content["config"]["mlflow-stack:expose"].get("nodePort") is not None
        for number, model in enumerate(models):
            model |= {"nodePort": DEV_PORT + 20 + number} if ports else {}
        content["config"]["mlflow-stack:models"] = list(models)
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))

    def up(self, check: bool = True) -> str:
        done = self.platform.local("up", check=check)
        return done.stdout + done.stderr

    def url(self, model: str) -> str:
        return json.loads(self.platform.run("pulumi", "stack", "output", "modelUrls", "--json").stdout)[model]

    def post(self, url: str, body: str, content_type: str = JSON, **options: Any) -> requests.Response:
        headers = {"Content-Type": content_type}
        options = {"auth": self.auth, "verify": self.verify, "timeout": 60, **options}
        return requests.post(f"{url}/invocations", data=body, headers=headers, **options)

    def serves(self, url: str, expected: list[float]) -> bool:
        """Return whether two rows are answered as expected; a missing answer counts as no."""
        try:
            answer = self.post(url, TWO)
        except requests.RequestException:
            return False
        return answer.ok and answer.json()["predictions"] == expected

    def pods(self, model: str) -> list[dict[str, Any]]:
        found = self.platform.objects("pods", NAMESPACE, "--selector", f"mlflow-stack/model={model}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @contextmanager
    def load(self, url: str, body: str) -> Iterator[list[Any]]:
        """Run eight connections that send requests all the time; yield their answers and errors."""
        answers: list[Any] = []
        stop = threading.Event()

        def ask() -> None:
            with requests.Session() as session:
                while not stop.is_set():
                    try:
                        answer = session.post(
                            f"{url}/invocations",
                            data=body,
                            headers={"Content-Type": JSON},
                            auth=self.auth,
                            verify=self.verify,
                            timeout=60,
                        )
                        answers.append(answer.json()["predictions"] if answer.ok else answer.status_code)
                    except requests.RequestException as error:
                        answers.append(repr(error))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def served(platform: Platform, client: dict[str, str]) -> Iterator[Served]:
    made = Served(platform, client)
    yield made
    made.configure()
    made.up()


@pytest.fixture(scope="module")
def colleague(platform: Platform) -> Iterator[Visitor]:
    """Pod in the namespace of the servers."""
    visitor = platform.visitor(NAMESPACE)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="module")
def index(colleague: Visitor, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Package index in the cluster, with one library; its address."""
    folder = tmp_path_factory.mktemp("index") / "shouting"
    folder.mkdir()
    name = "shouting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("shouting.py", "def loud(text):\n    return text.upper()\n")
        wheel.writestr("shouting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
        wheel.writestr("shouting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("shouting-1.0.dist-info/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')
    colleague.copy(folder.parent, "/tmp/index")
    return f"http://{colleague.listen(8000, '/tmp/index')}/"


def diabetes(registry: Registry, version: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": "diabetes",
        "uri": "models:/diabetes@champion",
        "version": registry.first if version is None else version,
        "resources": SMALL,
        "rolloutTimeout": "5m",
        **more,
    }


def shout(registry: Registry, index: str) -> dict[str, Any]:
    return {
        "name": "shout",
        "uri": registry.shout,
        "environment": "install",
        "indexUrl": index,
        "resources": SMALL,
        "rolloutTimeout": "5m",
    }


BODIES = {
    "split": (json.dumps({"dataframe_split": {"columns": list(DATA.columns), "data": DATA.to_numpy().tolist()}}), JSON),
    "records": (json.dumps({"dataframe_records": DATA.to_dict(orient="records")}), JSON),
    "inputs": (json.dumps({"inputs": DATA.to_dict(orient="list")}), JSON),
    "csv": (DATA.to_csv(index=False), "text/csv"),
}
TWO = json.dumps({"dataframe_records": DATA.head(2).to_dict(orient="records")})


def test_a_model_is_named_and_pinned_by_commands(served: Served, registry: Registry) -> None:
    for key, value in (("name", "diabetes"), ("uri", "models:/diabetes@champion")):
        served.platform.run("pulumi", "config", "set", "--path", f"models[0].{key}", value, "--non-interactive")
    served.platform.local("pin")
    content = yaml.safe_load(served.file.read_text())["config"]
    wanted = {"name": "diabetes", "uri": "models:/diabetes@champion", "version": registry.first}
    assert content["mlflow-stack:models"] == [wanted]


def test_two_models_of_different_flavors_answer_as_they_do_locally(
    served: Served, registry: Registry, index: str, client: dict[str, str]
) -> None:
    served.configure(diabetes(registry), shout(registry, index))
    told = served.up()
    for model in ("diabetes", "shout"):
        assert re.search(rf"mlflow-{model}-\S+  ready", told), told
    url = served.url("diabetes")
    refused = served.post(url, TWO, auth=None)
    assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHORIZED")
    wanted = registry.predictions(registry.first)
    assert len(wanted) == 442
    for name, (body, content_type) in BODIES.items():
        answer = served.post(url, body, content_type)
        assert answer.json() == {"predictions": wanted}, name
    urls = served.platform.run("pulumi", "stack", "output", "modelUrls", "--json").stdout
    example = (sys.executable, str(engine.PROJECT / "examples/predictions/predict.py"), "diabetes", urls)
    printed = served.platform.run(*example, stdin=BODIES["csv"][0], **client).stdout
    assert [float(line) for line in printed.splitlines()] == wanted
    loud = served.post(served.url("shout"), json.dumps({"dataframe_records": [{"text": "hello"}]}))
    assert loud.json() == {"predictions": ["HELLO!"]}


def test_malformed_and_large_requests_are_refused_through_the_proxy(served: Served, registry: Registry) -> None:
    url = served.url("diabetes")
    answers = {body: served.post(url, body) for body in ("{", '{"dataframe_records": [{"age": 1}]}')}
    assert [answer.status_code for answer in answers.values()] == [400, 400]
    assert all(set(answer.json()) == {"error_code", "message"} for answer in answers.values())
    large = {"mebibytes": 50, "chunked": False, "method": "POST"}
    assert sent(f"{url}/invocations", served.auth, served.verify, **large) == 413
    assert served.post(url, TWO).status_code == 200


def test_a_stack_with_models_is_as_declared(served: Served) -> None:
    served.platform.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")


def test_the_server_s_container_holds_no_secret(served: Served, client: dict[str, str]) -> None:
    secret = json.loads(served.platform.kubectl("get", "secret", "mlflow-models", "-n", NAMESPACE, "-o", "json"))
    machine = base64.b64decode(secret["data"]["MLFLOW_TRACKING_PASSWORD"]).decode()
    (pod,) = served.pods("diabetes")
    server = Visitor(served.platform, NAMESPACE, pod["metadata"]["name"], "model")
    read, found = server.holds(machine, client["MLFLOW_TRACKING_PASSWORD"])
    assert read > 20
    assert found == []
    log = served.platform.kubectl("logs", pod["metadata"]["name"], "-n", NAMESPACE, "--all-containers", "--tail=-1")
    assert "Fetched models:/diabetes/" in log
    assert machine not in log


def test_other_pods_reach_only_the_proxies_as_allowed(
    served: Served, index: str, stranger: Visitor, colleague: Visitor
) -> None:
    """The public port accepts only the controller, the internal port only the same namespace."""
    (model,) = served.pods("diabetes")
    addresses = [pod["status"]["podIP"] for pod in (model, served.platform.server(NAMESPACE))]
    ports = [f"{address}:{port}" for address in addresses for port in (8080, 8081, 5000)]
    eventually("a colleague is let in", lambda: colleague.connects(*ports) == ["closed", "open", "closed"] * 2, 30)
    assert stranger.connects(*ports, index.split("/")[2]) == [*["closed"] * 6, "open"]


def test_removing_a_model_touches_nothing_of_another(served: Served, registry: Registry) -> None:
    (before,) = served.pods("diabetes")
    tracking = served.platform.server(NAMESPACE)["metadata"]["uid"]
    served.configure(diabetes(registry))
    served.up()
    (after,) = served.pods("diabetes")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [status["restartCount"] for status in after["status"]["containerStatuses"]] == [0, 0]
    assert served.platform.server(NAMESPACE)["metadata"]["uid"] == tracking
    assert served.pods("shout") == []


def test_a_moved_alias_is_a_line_of_the_stack_file_and_no_failed_prediction(served: Served, registry: Registry) -> None:
    for before, after in ((registry.first, registry.second), (registry.second, registry.first)):
        _move(served, registry, before, after)


def _move(served: Served, registry: Registry, before: int, after: int) -> None:
    url = served.url("diabetes")
    old, new = (registry.predictions(version)[:2] for version in (before, after))
    assert old != new
    registry.client.set_registered_model_alias("diabetes", "champion", str(after))
    moved = f"diabetes: {before} → {after} (models:/diabetes@champion)"
    checked = served.platform.local("pin", "--check", check=False)
    assert (checked.returncode, checked.stdout.strip()) == (1, moved)
    file = served.file.read_text().splitlines()
    assert served.platform.local("pin").stdout.strip() == moved
    diff = difflib.unified_diff(file, served.file.read_text().splitlines(), n=0, lineterm="")
    changed = [line.replace(" ", "") for line in diff if re.match(r"[+-](?![+-])", line)]
    assert changed == [f"-version:{before}", f"+version:{after}"]
    preview = served.platform.run("pulumi", "preview", "--non-interactive").stdout
    assert re.search(rf'diabetes\s*: "models:/diabetes/{before}" => "models:/diabetes/{after}"', preview)
    with served.load(url, TWO) as answers:
        eventually("the old version answers", lambda: old in answers)
        served.up()
        seen = len(answers)
        eventually("a hundred more answers", lambda: len(answers) > seen + 100)
    assert [answer for answer in answers if answer not in (old, new)] == []
    assert all(answer == new for answer in answers[-100:])
    assert served.platform.local("pin", "--check").stdout == ""


def test_a_broken_rollout_names_its_cause_and_the_version_before_serves_on(served: Served, registry: Registry) -> None:
    url = served.url("diabetes")
    expected = registry.predictions(registry.first)[:2]
    broken = {"rolloutTimeout": "60s", "resources": SMALL}
    with served.load(url, TWO) as answers:
        served.configure(
            diabetes(registry, **broken, version=999),
            {"name": "lacking", "uri": registry.lacking, **broken},
            {"name": "big", "uri": registry.big, **broken, "resources": {**SMALL, "limits": {"memory": "512Mi"}}},
        )
        told = served.up(check=False)
    assert "Refused: models:/diabetes/999 is not in the registry" in told
    lacks = "needs the library no_such_library, and the image lacks no-such-library==6.1"
    assert f"Refused: {registry.lacking} {lacks}" in told
    assert "OOMKilled" in told
    assert "pulumi up failed" in told
    assert len(answers) > 50
    assert [answer for answer in answers if answer != expected] == []
    served.configure(diabetes(registry))
    served.up()
    assert served.post(url, TWO).json() == {"predictions": expected}


def model_process(platform: Platform) -> psutil.Process:
    (found,) = [
        process for process, words in platform.processes().items() if any("model_server.py" in word for word in words)
    ]
    return found


def test_without_the_registry_a_killed_server_serves_and_a_new_pod_waits_for_it(
    served: Served, registry: Registry
) -> None:
    url, platform = served.url("diabetes"), served.platform
    expected = registry.predictions(registry.first)[:2]

    (tracking,) = platform.objects("statefulsets", NAMESPACE, "--selector", "app.kubernetes.io/component=tracking")
    scale = ("scale", f"statefulset/{tracking['metadata']['name']}", "-n", NAMESPACE)
    platform.kubectl(*scale, "--replicas=0")
    try:
        (pod,) = served.pods("diabetes")
        model_process(platform).kill()
        eventually("the container is started again", lambda: _restarts(served) == 1)
        eventually("it serves again", lambda: served.serves(url, expected))
        platform.kubectl("delete", "pod", pod["metadata"]["name"], "-n", NAMESPACE, "--wait=false")
        name = eventually("a new pod", lambda: [pod["metadata"]["name"] for pod in served.pods("diabetes")])[0]

        def said() -> bool:
            done = platform.run("kubectl", "logs", name, "-n", NAMESPACE, "-c", "fetch", check=False)
            return bool(re.search(r"Waiting: the registry http://mlflow\.\S+ cannot be reached", done.stdout))

        eventually("it says that it waits", said)
    finally:
        platform.kubectl(*scale, "--replicas=1")
    eventually("it has recovered by itself", lambda: served.serves(url, expected))


def _restarts(served: Served) -> int:
    (pod,) = served.pods("diabetes")
    return next(status["restartCount"] for status in pod["status"]["containerStatuses"] if status["name"] == "model")


def test_a_killed_node_serves_again(served: Served, registry: Registry) -> None:
    url = served.url("diabetes")
    served.platform.first_process().kill()
    eventually("the node is gone", lambda: not served.platform.node.running(), 30)
    served.up()
    expected = registry.predictions(registry.first)[:2]
    eventually("it serves again", lambda: served.serves(url, expected))
