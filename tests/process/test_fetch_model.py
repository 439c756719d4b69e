"""Download of a model into its pod, with the steps as processes: from a real registry behind a gate, and an index."""

import base64
import contextlib
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from process.claims import free_port
from process.steps import SCRIPTS

PASSWORD = "correct horse battery"
KNOWN = "Basic " + base64.b64encode(f"models:{PASSWORD}".encode()).decode()


class Gate(http.server.BaseHTTPRequestHandler):
    """Proxy of the registry that checks the password first."""

    registry = ""
    refusals = 0
    """Number of further requests that get 401 despite a valid password, as before a changed Secret arrives."""

    def do_GET(self) -> None:
        if Gate.refusals > 0 or self.headers.get("Authorization") != KNOWN:
            Gate.refusals -= 1
            self.send_error(401)
            return
        length = int(self.headers.get("Content-Length", 0))
        request = urllib.request.Request(
            Gate.registry + self.path, self.rfile.read(length) or None, method=self.command
        )
        request.add_header("Content-Type", self.headers.get("Content-Type", "application/json"))
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Registry:
    """Registry with two versions of a model, and the gate's address."""

    url: str
    run: str
    versions: list[Path]
    """Logged models, as local folders."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    server = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server", "--port", str(port), "--workers", "1"],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    Gate.registry = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{Gate.registry}/health", timeout=10):
            break
        time.sleep(0.2)
    client = MlflowClient(Gate.registry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", Gate.registry)
        versions, run = [], ""
        client.create_registered_model("iris")
        for number in (1, 2):
            made = folder / f"made-{number}"
            (made / "data").mkdir(parents=True)
            (made / "MLmodel").write_text(f"model_uuid: {number}\n")
            (made / "data" / "weights").write_bytes(os.urandom(3_000_000))
            run = client.create_run("0").info.run_id
            client.log_artifacts(run, str(made), "model")
            source = f"{client.get_run(run).info.artifact_uri}/model"
            client.create_model_version("iris", source, run)
            versions.append(made)
        client.set_registered_model_alias("iris", "champion", "1")
    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    yield Registry(f"http://127.0.0.1:{gate.server_address[1]}", run, versions)
    gate.shutdown()
    server.terminate()
    server.wait(30)


def step(program: str, volume: Path, **env: str) -> tuple[int, list[str]]:
    """Run a step with short timeouts; return exit code and log."""
    secret = volume.parent / f"{volume.name}-secret"
    secret.mkdir(exist_ok=True)
    (secret / "MLFLOW_TRACKING_USERNAME").write_text("models")
    (secret / "MLFLOW_TRACKING_PASSWORD").write_text(PASSWORD)
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / program)],
        env={
            **os.environ,
            "VOLUME": str(volume),
            "VOLUME_BYTES": "10000000",
            "CREDENTIALS": str(secret),
            "WAIT_SECONDS": "1",
            "PAUSE_SECONDS": "0.1",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done.returncode, done.stderr.splitlines()


def fetch(registry: Registry, uri: str, volume: Path, **env: str) -> tuple[int, list[str]]:
    volume.mkdir(exist_ok=True)
    return step("fetch_model.py", volume, MODEL_URI=uri, **{"MLFLOW_TRACKING_URI": registry.url, **env})


def files(folder: Path) -> dict[str, str]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    # MLflow records the model's origin there.
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if name != "registered_model_meta"
    }


@pytest.mark.parametrize(
    ("uri", "version", "said"),
    [
        ("models:/iris/1", 1, None),
        ("models:/iris@champion", 1, "models:/iris@champion is version 1"),
        ("models:/iris/latest", 2, "models:/iris/latest is version 2"),
        ("runs:/RUN/model", 2, None),
    ],
)
def test_every_reference_brings_the_model_whole(
    registry: Registry, tmp_path: Path, uri: str, version: int, said: str | None
) -> None:
    uri = uri.replace("RUN", registry.run)
    volume = tmp_path / "volume"
    half = volume / ".model" / "data"
    half.mkdir(parents=True)
    (half / "left-by-a-killed-attempt").write_text("x")
    code, log = fetch(registry, uri, volume)
    assert code == 0, log
    assert files(volume / "model") == files(registry.versions[version - 1])
    assert f"Fetching {uri}: 3 MB in 2 files" in log
    assert log[-1] == f"Fetched {uri}"
    assert said is None or said in log


def test_a_password_that_is_not_known_yet_is_waited_for(registry: Registry, tmp_path: Path) -> None:
    Gate.refusals = 2
    code, log = fetch(registry, "models:/iris/1", tmp_path / "volume", WAIT_SECONDS="60")
    assert code == 0, log
    waiting = [line for line in log if line.startswith("Waiting: ")]
    assert waiting == [
        f"Waiting: the registry {registry.url} answers 401 to user models: "
        "the password is wrong, or not known there yet, which takes up to two minutes"
    ]


def test_a_registry_that_is_not_there_is_waited_for_within_a_bound(registry: Registry, tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    code, log = fetch(registry, "models:/iris/1", tmp_path / "volume", MLFLOW_TRACKING_URI=gone)
    assert code == 1
    assert log[0].startswith(f"Waiting: the registry {gone} cannot be reached (")
    assert "Connection refused" in log[0]
    assert log[-1].startswith(f"Failed: the registry {gone} cannot be reached (")
    assert log[-1].endswith("; waited 1 s. It is tried again.")
    assert not (tmp_path / "volume" / "refused").exists()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("models:/iris/7", "models:/iris/7 is not in the registry"),
        ("models:/nothing/1", "models:/nothing/1 is not in the registry"),
        ("models:/iris@nobody", "models:/iris@nobody is not in the registry"),
        (f"runs:/{'0' * 32}/model", f"runs:/{'0' * 32}/model is not in the registry"),
        ("runs:/RUN/elsewhere", "there is no model at runs:/RUN/elsewhere: no file MLmodel"),
    ],
)
def test_what_is_not_there_is_noted_for_the_server_to_say(
    registry: Registry, tmp_path: Path, uri: str, why: str
) -> None:
    volume = tmp_path / "volume"
    code, log = fetch(registry, uri.replace("RUN", registry.run), volume)
    assert code == 0, log
    assert log[-1].startswith(f"Refused: {why.replace('RUN', registry.run)}")
    assert (volume / "refused").read_text() == log[-1] + "\n"
    assert not (volume / "model").exists()
    assert step("install_libraries.py", volume) == (0, [])


def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(registry: Registry, tmp_path: Path) -> None:
    code, log = fetch(registry, "models:/iris/1", tmp_path / "volume", VOLUME_BYTES="2000000")
    assert code == 0
    assert log == [
        "Refused: models:/iris/1 has 3 MB, and `size` allows 2 MB for the model and its libraries. Raise `size`"
    ]


def test_a_model_that_is_here_needs_no_registry(registry: Registry, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "model").mkdir(parents=True)
    gone = f"http://127.0.0.1:{free_port()}"
    assert fetch(registry, "models:/iris/1", volume, MLFLOW_TRACKING_URI=gone) == (
        0,
        ["models:/iris/1 is here already"],
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Package index with one library."""
    folder = tmp_path_factory.mktemp("index")
    name = "shouting-1.0-py3-none-any.whl"
    (folder / "shouting").mkdir()
    with zipfile.ZipFile(folder / "shouting" / name, "w") as wheel:
        wheel.writestr("shouting.py", "def loud(text):\n    return text.upper()\n")
        wheel.writestr("shouting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
        wheel.writestr("shouting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("shouting-1.0.dist-info/RECORD", "")
    (folder / "shouting" / "index.html").write_text(f'<a href="{name}">{name}</a>')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def with_model(volume: Path, *requirements: str) -> Path:
    (volume / "model").mkdir(parents=True)
    (volume / "model" / "requirements.txt").write_text("".join(f"{requirement}\n" for requirement in requirements))
    return volume


def test_only_what_the_image_lacks_is_installed(index: str, tmp_path: Path) -> None:
    volume = with_model(tmp_path / "volume", "mlflow==1.0", f"requests=={version('requests')}", "shouting==1.0")
    code, log = step("install_libraries.py", volume, INDEX_URL=index)
    assert code == 0, log
    assert log[-1] == "Installed shouting==1.0"
    assert {path.name for path in (volume / "libraries").iterdir()} >= {"shouting.py", "shouting-1.0.dist-info"}
    assert not (volume / "libraries" / "requests").exists()
    assert sorted(path.name for path in volume.iterdir()) == ["libraries", "model"]
    assert step("install_libraries.py", volume) == (0, ["The libraries are here already"])


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def test_an_image_that_has_all_needs_no_index(tmp_path: Path) -> None:
    volume = with_model(tmp_path / "volume", f"mlflow=={mlflow.__version__}", f"requests=={version('requests')}")
    gone = f"http://127.0.0.1:{free_port()}/"
    code, log = step("install_libraries.py", volume, INDEX_URL=gone)
    assert (code, log) == (0, ["The image has all that the model needs"])


def test_a_library_that_the_index_lacks_is_noted_by_name(index: str, tmp_path: Path) -> None:
    volume = with_model(tmp_path / "volume", "shouting==2.0")
    code, log = step("install_libraries.py", volume, INDEX_URL=index)
    assert code == 0, log
    assert log[-1].startswith(f"Refused: the model's libraries cannot be installed from {index}: ERROR: ")
    assert "No matching distribution found for shouting==2.0" in log[-1]
    assert (volume / "refused").read_text() == log[-1] + "\n"


def test_an_index_that_is_not_there_is_waited_for_within_a_bound(tmp_path: Path) -> None:
    volume = with_model(tmp_path / "volume", "shouting==1.0")
    gone = f"http://127.0.0.1:{free_port()}/"
    code, log = step("install_libraries.py", volume, INDEX_URL=gone)
    assert code == 1
    assert f"Failed: the package index {gone} cannot be reached (" in log[-1]
    assert not (volume / "refused").exists()
