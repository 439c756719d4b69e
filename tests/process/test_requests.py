"""Requests that once read files, ran code or reached other servers, against MLflow itself behind its proxy, with the
right password: the environment is the pod's own."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.claims import free_port
from process.test_nginx import AUTH, HOST, Nginx, root, running  # noqa: F401 - root is a fixture

import engine
from mlflow_stack import Addresses, MlflowStack, proxy

ORIGIN = f"http://{HOST}:30500"
EXPOSE = {"kind": "nodeport", "host": HOST, "node_port": 30500}
UP = "../../../../../../"
ENCODED = "..%2f..%2f..%2f..%2f..%2f..%2f"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
API = "/api/2.0/mlflow"


@pytest.fixture(scope="module")
def mlflow(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:  # noqa: F811
    folder = tmp_path_factory.mktemp("requests")
    deployment = engine.deploy(lambda: MlflowStack("mlflow", {"namespace": "team", "expose": EXPOSE}) and None)
    pod = deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]
    port = free_port()
    env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]} | {
        "MLFLOW_PORT": str(port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(["mlflow", "server"], env=env, stdout=log, stderr=log, cwd=folder)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "mlflow.log").read_text()
                    time.sleep(0.5)
            conf = proxy.nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), 10**6, 2)
            with running(root, folder, conf, upstream=port) as made:
                yield made
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def run(mlflow: Nginx) -> str:
    """A run with an artifact, and a registered model: what the requests need to get as far as they once did."""
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


def test_an_artifact_location_outside_is_kept_and_leads_nowhere(mlflow: Nginx) -> None:
    """MLflow accepts the name; what it would lead to is judged when it is followed."""
    location = {"name": "outside", "artifact_location": f"mlflow-artifacts:/{UP}etc"}
    experiment = json.loads(post(mlflow, f"{API}/experiments/create", location)[1])["experiment_id"]
    made = json.loads(post(mlflow, f"{API}/runs/create", {"experiment_id": experiment})[1])
    identifier = made["run"]["info"]["run_id"]
    for path in (
        f"/get-artifact?run_uuid={identifier}&path=passwd",
        f"/get-artifact?run_uuid={identifier}&path=hostname",
        f"{API}/artifacts/list?run_id={identifier}",
    ):
        code, _, body = mlflow.ask(path, **AUTH)
        assert code >= 400, (path, body)
        assert b"root:" not in body


def test_another_origin_may_not_write(mlflow: Nginx) -> None:
    search = f"{API}/experiments/search"
    assert post(mlflow, search, {"max_results": 1}, Origin=ORIGIN)[0] == 200
    for origin in ("https://evil.example", f"http://{HOST}", f"https://{HOST}:30500", "null"):
        assert post(mlflow, search, {"max_results": 1}, Origin=origin)[0] == 403, origin
