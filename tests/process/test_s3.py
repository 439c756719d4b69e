"""Check of the bucket, and MLflow's access to it, against a real S3 server on loopback."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from process.claims import free_port
from process.s3server import S3Server

import engine
from mlflow_stack.artifacts import s3

SCRIPTS = engine.PROJECT / "components/mlflow_stack/programs"
MEBIBYTE = 2**20
LARGEST = 64 * MEBIBYTE
KEYS = "artifactStore.s3.accessKeyId and secretAccessKey (or the existingSecret)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    server.client().create_bucket(Bucket="team")
    yield server
    server.stop()


def check(server: S3Server, tmp_path: Path, root: str = "s3://team/vision", **env: str) -> tuple[int, str]:
    """Run the check as in its Job; return exit code and last line."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "s3_check.py"],
        env={**server.env(tmp_path / "keys"), "S3_ROOT": root, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def test_a_good_bucket_passes_and_keeps_nothing(server: S3Server, tmp_path: Path) -> None:
    assert check(server, tmp_path) == (0, "bucket team: lists, writes, reads and deletes")
    assert server.client().list_objects_v2(Bucket="team")["KeyCount"] == 0


def test_what_is_wrong_with_a_bucket_is_said(server: S3Server, tmp_path: Path) -> None:
    assert check(server, tmp_path, "s3://other") == (
        1,
        "bucket other: cannot list it (NoSuchBucket): it does not exist; make it, or put artifactStore.s3.bucket right",
    )
    for pair, code, why in (
        (("AKIANOBODY", "secret"), "InvalidAccessKeyId", "the server does not know the access key; put"),
        (("AKIAROOT", "wrong"), "SignatureDoesNotMatch", "the secret key is wrong; put"),
    ):
        keys = tmp_path / code
        server.env(keys, pair)
        answer = check(server, tmp_path, AWS_SHARED_CREDENTIALS_FILE=str(keys))
        assert answer == (1, f"bucket team: cannot list vision ({code}): {why} {KEYS} right")


def test_a_bucket_that_may_only_be_read_is_refused(server: S3Server, tmp_path: Path) -> None:
    server.user("AKIAREADER", "reader")
    server.client().create_bucket(Bucket="readonly")
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": ["AKIAREADER"]},
        "Action": ["s3:ListBucket", "s3:GetObject"],
        "Resource": ["arn:aws:s3:::readonly", "arn:aws:s3:::readonly/*"],
    }
    server.client().put_bucket_policy(Bucket="readonly", Policy=json.dumps({"Statement": [allowed]}))
    keys = tmp_path / "reader"
    server.env(keys, ("AKIAREADER", "reader"))
    code, line = check(server, tmp_path, "s3://readonly", AWS_SHARED_CREDENTIALS_FILE=str(keys))
    assert code == 1
    assert line.startswith("bucket readonly: cannot write .bucket-check-")
    assert line.endswith(f"(AccessDenied): the keys do not allow it; allow it, or put {KEYS} right")


def test_a_server_that_is_not_there_is_named(server: S3Server, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    code, line = check(server, tmp_path, MLFLOW_S3_ENDPOINT_URL=nowhere)
    assert code == 1
    assert line.startswith(
        f'bucket team: the S3 server does not answer (Could not connect to the endpoint URL: "{nowhere}'
    )
    assert line.endswith("put artifactStore.s3.endpointUrl right, or start the server")


@dataclass
class MLflow:
    """MLflow's real server with the plugin, and its artifacts in the bucket."""

    url: str
    tmp: Path

    def artifact(self, name: str) -> str:
        return f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{name}"

    def get(self, name: str, **options: object) -> requests.Response:
        return requests.get(self.artifact(name), timeout=60, **options)

    def spooled(self) -> int:
        """Return the files in the server's `/tmp`."""
        return sum(file.stat().st_size for file in self.tmp.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def mlflow(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    home = tmp_path_factory.mktemp("mlflow")
    for path, text in s3.programs().items():
        file = home / "plugin" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (home / "tmp").mkdir()
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server"],
        env={
            **server.env(home / "keys"),
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": str(home / "plugin"),
            "SPOOL_LARGEST": str(LARGEST),
            "SPOOL_BYTES": str(2 * LARGEST),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home}/mlflow.db",
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/vision",
            "MLFLOW_SERVE_ARTIFACTS": "true",
            "MLFLOW_PORT": str(port),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        stdout=(home / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    served = MLflow(f"http://127.0.0.1:{port}", home / "tmp")
    for _ in range(600):
        try:
            if requests.get(f"{served.url}/health", timeout=1).ok:
                break
        except requests.RequestException:
            time.sleep(0.2)
    else:
        raise AssertionError((home / "log").read_text()[-3000:])
    yield served
    process.terminate()
    process.wait(20)


def test_what_passes_through_comes_back_and_leaves_nothing(mlflow: MLflow, server: S3Server) -> None:
    content = b"artifact" * MEBIBYTE
    assert requests.put(mlflow.artifact("1/a.bin"), data=content, timeout=60).status_code == 200
    assert server.client().head_object(Bucket="team", Key="vision/1/a.bin")["ContentLength"] == len(content)
    assert mlflow.get("1/a.bin").content == content
    assert mlflow.get("1/none.bin").status_code == 404
    assert mlflow.spooled() == 0


def test_an_artifact_above_the_limit_is_not_taken_in(mlflow: MLflow, server: S3Server) -> None:
    server.client().put_object(Bucket="team", Key="vision/1/huge.bin", Body=b"x" * (LARGEST + 1))
    answer = mlflow.get("1/huge.bin")
    assert answer.status_code == 400
    assert f"huge.bin has {LARGEST + 1} bytes; through this server pass at most {LARGEST}" in answer.text
    server.client().delete_object(Bucket="team", Key="vision/1/huge.bin")


def test_however_many_ask_tmp_keeps_its_size(mlflow: MLflow, server: S3Server) -> None:
    for number in range(5):
        server.client().put_object(Bucket="team", Key=f"vision/2/{number}.bin", Body=b"x" * (LARGEST - number))
    # A whole folder: MLflow would fetch all of it before it detects that it is not a file.
    assert mlflow.get("2").status_code == 503
    held = [mlflow.get(f"2/{number}.bin", stream=True) for number in range(2)]
    assert [response.status_code for response in held] == [200, 200]
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda number: mlflow.get(f"2/{number}.bin"), range(2, 5)))
    assert [other.status_code for other in others] == [503] * 3
    assert "other artifacts are on their way through this server; try again" in others[0].text
    assert mlflow.spooled() <= 2 * LARGEST
    assert mlflow.get("1/a.bin").status_code == 503
    assert [len(response.content) for response in held] == [LARGEST, LARGEST - 1]
    assert mlflow.get("2/4.bin").status_code == 200
    assert mlflow.spooled() == 0


def test_a_server_that_is_gone_is_named_and_needs_no_restart(mlflow: MLflow, server: S3Server) -> None:
    server.stop()
    try:
        answers = [
            requests.put(mlflow.artifact("3/late.bin"), data=b"late", timeout=90),
            mlflow.get("1/a.bin"),
            requests.get(mlflow.artifact("").rstrip("/"), params={"path": "1"}, timeout=90),
        ]
    finally:
        server.start()
    for answer in answers:
        assert answer.status_code == 503
        assert "the artifact store does not answer" in answer.text
    assert mlflow.get("1/a.bin").status_code == 200
    listed = requests.get(mlflow.artifact("").rstrip("/"), params={"path": "3"}, timeout=60).json()
    assert listed == {}
    assert requests.put(mlflow.artifact("3/late.bin"), data=b"late", timeout=60).status_code == 200
    assert mlflow.get("3/late.bin").content == b"late"
