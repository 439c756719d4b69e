"""Requests that once read files, ran code or reached other servers, against MLflow behind its proxy, with a valid
password; the environment is the pod's own."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from process.claims import free_port
from process.test_nginx import AUTH, HOST, Nginx, root, running  # noqa: F401 - root is a fixture
from process.test_nginx_paths import chunked
from process.trackingserver import install

import engine
from mlflow_stack import Addresses, MlflowStack
from mlflow_stack.access.nginx import Limits, nginx_conf

ORIGIN = f"http://{HOST}:30500"
EXPOSE = {"host": HOST, "node_port": 30500}
UP = "../../../../../../"
ENCODED = "..%2f..%2f..%2f..%2f..%2f..%2f"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"


@contextmanager
def server(root: Path, folder: Path, path: str = "") -> Iterator[tuple[Nginx, int]]:  # noqa: F811
    """MLflow behind its proxy under a path, and MLflow's process."""
    expose = EXPOSE | ({"path": path} if path else {})
    deployment = engine.deploy(lambda: MlflowStack("mlflow", {"namespace": "team", "expose": expose}) and None)
    pod = deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]
    port = free_port()
    env = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"] if "value" in variable} | {
        "MLFLOW_PORT": str(port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "HOME": str(folder),
        "PYTHONPATH": str(folder / "programs"),
        "SCRATCH_FOLDER": str(folder / "scratch"),
        "CLAIM_LOCK": str(folder / "mlflow.db.lock"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    install(folder / "programs")
    (folder / "scratch").mkdir()
    with (folder / "mlflow.log").open("w") as log:
        program = [sys.executable, folder / "programs/tracking_server.py"]
        process = subprocess.Popen(program, env=env, stdout=log, stderr=log, cwd=folder)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}/health").close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "mlflow.log").read_text()
                    time.sleep(0.5)
            addresses = Addresses("mlflow", "team", host=HOST, port=30500, path=path)
            conf = nginx_conf(addresses, Limits(2**30, 2))
            with running(root, folder, conf, upstream=port) as made:
                yield made, process.pid
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def mlflow(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:  # noqa: F811
    with server(root, tmp_path_factory.mktemp("requests")) as (made, _):
        yield made


@pytest.fixture(scope="module")
def run(mlflow: Nginx) -> str:
    """Run with an artifact, and a registered model, which the requests need to reach the vulnerable code."""
    made = post(mlflow, f"{API}/runs/create", {"experiment_id": "0"})
    identifier = json.loads(made[1])["run"]["info"]["run_id"]
    path = f"{ARTIFACTS}/0/{identifier}/artifacts/a.txt"
    assert mlflow.status(path, method="PUT", body=b"content", **AUTH) == 200
    assert mlflow.ask(path, **AUTH)[2] == b"content"
    assert post(mlflow, f"{API}/registered-models/create", {"name": "m"})[0] == 200
    return identifier


def post(mlflow: Nginx, path: str, content: object, **headers: str) -> tuple[int, bytes]:
    body = json.dumps(content).encode()
    code, _, answer = mlflow.ask(path, method="POST", body=body, Content_Type="application/json", **AUTH, **headers)
    return code, answer


READS = [
    "/get-artifact?run_uuid={run}&path=" + UP + "etc/passwd",
    "/get-artifact?run_uuid={run}&path=" + ENCODED + "etc%2fpasswd",
    "/get-artifact?run_uuid={run}&path=%252e%252e%252fetc%252fpasswd",
    "/get-artifact?run_uuid={run}&path=/etc/passwd",
    "/get-artifact?run_uuid={run}&path=%2fetc%2fpasswd",
    "/get-artifact?run_uuid={run}&path=file:///etc/passwd",
    "/get-artifact?run_uuid={run}&path=a.txt%00.png",
    "/get-artifact?run_uuid={run}&path=..%5c..%5cetc%5cpasswd",
    "/model-versions/get-artifact?name=m&version=1&path=" + UP + "etc/passwd",
    ARTIFACTS + "/" + UP + "etc/passwd",
    ARTIFACTS + "/" + ENCODED + "etc/passwd",
    ARTIFACTS + "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    ARTIFACTS + "/%252e%252e%252f%252e%252e%252fetc/passwd",
    ARTIFACTS + "/..;/..;/..;/etc/passwd",
    ARTIFACTS + "/....//....//etc/passwd",
    ARTIFACTS + "//etc/passwd",
    ARTIFACTS + "?path=" + UP + "etc",
    ARTIFACTS + "?path=/etc",
    API + "/artifacts/list?run_id={run}&path=" + UP + "etc",
    API + "/artifacts/list?run_id={run}&path=/etc",
    "/static-files/" + UP + "etc/passwd",
    "/static-files/" + ENCODED + "etc/passwd",
    "/static-files/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/ajax-api/2.0/mlflow/get-trace-artifact?request_id=" + UP + "etc/passwd",
    "/ajax-api/3.0/jobs/x",
    "/ajax-api/3.0/mlflow/assistant/config",
]
WRITES = [
    ("PUT", ARTIFACTS + "/" + ENCODED + "tmp/x", None),
    ("PUT", ARTIFACTS + "/" + UP + "tmp/x", None),
    ("DELETE", ARTIFACTS + "/" + ENCODED + "tmp", None),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=" + UP + "tmp/x", {}),
    ("POST", "/ajax-api/3.0/jobs/", {"job_name": "invoke_scorer", "params": {}}),
    ("POST", API + "/experiments/create", {"name": "a", "artifact_location": "http://host#/" + UP + "etc/"}),
    ("POST", API + "/experiments/create", {"name": "c", "artifact_location": "http://host?/" + UP + "etc/"}),
    ("POST", API + "/model-versions/create", {"name": "m", "source": "file:///etc"}),
    ("POST", API + "/model-versions/create", {"name": "m", "source": "//proc/self/root"}),
    ("POST", API + "/model-versions/create", {"name": "m", "source": "mlflow-artifacts:/" + UP + "etc"}),
    ("POST", API + "/model-versions/create", {"name": "m", "source": "http://host#/" + UP + "etc"}),
    ("POST", API + "/webhooks", {"name": "w", "url": "http://169.254.169.254/x", "events": []}),
]


@pytest.mark.parametrize("path", READS)
def test_nothing_outside_is_read(mlflow: Nginx, run: str, path: str) -> None:
    code, _, body = mlflow.ask(path.format(run=run), **AUTH)
    assert 400 <= code < 500, body
    assert b"root:" not in body


@pytest.mark.parametrize(("method", "path", "content"), WRITES, ids=range(len(WRITES)))
def test_nothing_outside_is_written_or_named(mlflow: Nginx, run: str, method: str, path: str, content: object) -> None:
    body = b"x" if content is None else json.dumps(content).encode()
    code, _, answer = mlflow.ask(
        path.format(run=run), method=method, body=body, Content_Type="application/json", **AUTH
    )
    assert code >= 400, answer


def test_an_artifact_location_outside_is_refused(mlflow: Nginx) -> None:
    location = {"name": "outside", "artifact_location": f"mlflow-artifacts:/{UP}etc"}
    code, body = post(mlflow, f"{API}/experiments/create", location)
    assert (code, json.loads(body)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_another_origin_may_not_write(mlflow: Nginx) -> None:
    search = f"{API}/experiments/search"
    assert post(mlflow, search, {"max_results": 1}, Origin=ORIGIN)[0] == 200
    for origin in ("https://evil.example", f"http://{HOST}", f"https://{HOST}:30500", "null"):
        assert post(mlflow, search, {"max_results": 1}, Origin=origin)[0] == 403, origin


def test_bodies_without_a_length_are_read(mlflow: Nginx, run: str) -> None:
    """MLflow's Flask routes would answer an empty search with 200."""
    parts = [b'{"experiment_ids":["0"],', b'"max_results":1}']
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: chunked(mlflow.public, f"{API}/runs/search", parts, 0.05), range(40)))
    assert {status for status, _ in answers} == {200}
    assert {len(json.loads(body).get("runs", [])) for _, body in answers} == {1}


@pytest.mark.parametrize("path", ["", "/ml.flow"])
def test_large_artifacts_are_streamed(root: Path, tmp_path: Path, path: str) -> None:  # noqa: F811
    """Also under a path, where MLflow's own streaming routes lack the prefix."""
    size = 300 * 2**20
    with server(root, tmp_path, path) as (made, pid):
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

        def peak(reset: bool = False) -> int:
            if reset:
                for process in processes:
                    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            lines = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
            return sum(int(text.split("VmHWM:")[1].split()[0]) for text in lines) * 1024

        for api in ("api", "ajax-api"):
            artifact = f"{path}/{api}/2.0/mlflow-artifacts/artifacts/{api}/large"
            before = peak(reset=True)
            assert made.status(artifact, method="PUT", body=bytes(size), **AUTH) == 200
            assert (tmp_path / "artifacts" / api / "large").stat().st_size == size
            code, headers, body = made.ask(artifact, **AUTH)
            assert (code, len(body), headers["Content-Disposition"]) == (200, size, "attachment; filename=large")
            assert peak() - before < size / 2
            listing = made.ask(f"{path}/{api}/2.0/mlflow-artifacts/artifacts?path={api}", **AUTH)[2]
            assert [file["path"] for file in json.loads(listing)["files"]] == ["large"]
            assert made.status(artifact, method="DELETE", **AUTH) == 200
            assert not (tmp_path / "artifacts" / api / "large").exists()


def test_no_other_origin_writes_to_any_route(mlflow: Nginx) -> None:
    """MLflow itself admits pages of localhost, and checks neither GraphQL nor its gateway."""
    for path in ("/graphql", "/gateway/mlflow/v1/chat/completions", f"{API}/experiments/search"):
        for origin in ("http://localhost:3000", "https://evil.example"):
            assert post(mlflow, path, {}, Origin=origin)[0] == 403
        assert post(mlflow, path, {}, Origin=ORIGIN)[0] != 403
    _, headers, _ = mlflow.ask(f"{API}/experiments/search?max_results=1", Origin="http://localhost:3000", **AUTH)
    # Flask's own check always sends its one configured origin.
    assert headers.get("access-control-allow-origin") == ORIGIN
