"""Tracking server with this project's app: bodies, downloads, searches, its claim, and recovery after a kill."""

import gzip
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import requests
from process import trackingserver
from process.trackingserver import BODY, MEBIBYTE, Server, served

BOMB = 256 * MEBIBYTE
"""Decompressed size of a compressed body: more memory than all limits allow together."""
OTLP = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
JSON = {"content-type": "application/json"}
TOO_LARGE = f"the request's body is larger than {BODY} bytes (unpacked, if it is compressed); send less"
DOWNLOAD = 300 * MEBIBYTE


@pytest.fixture(scope="module", params=["", "/team/mlflow"], ids=["root", "path"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server"), request.param) as server:
        yield server


@pytest.fixture(scope="module")
def large(server: Server) -> tuple[str, str]:
    """Run with a large artifact, and the artifact's path."""
    run = server.run()
    folder = server.home / "artifacts/0" / run / "artifacts"
    folder.mkdir(parents=True)
    with (folder / "large.bin").open("wb") as file:
        file.truncate(DOWNLOAD)
    return run, f"0/{run}/artifacts/large.bin"


def zipped(size: int, bits: int) -> bytes:
    """Return a compressed body that expands to so many bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return b"".join(packer.compress(bytes(MEBIBYTE)) for _ in range(size // MEBIBYTE)) + packer.flush()


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("GZIP", 31), ("deflate", 15), ("deflate", -15)], ids=str)
def test_counts_compressed_traces_by_what_they_become(server: Server, encoding: str, bits: int) -> None:
    before = server.peak()
    body = zipped(BOMB, bits)
    assert len(body) < MEBIBYTE
    url = f"{server.url}{server.path}/v1/traces"
    answer = requests.post(url, data=body, headers={**OTLP, "content-encoding": encoding}, timeout=60)
    assert (answer.status_code, answer.json()["message"]) == (413, TOO_LARGE)
    assert server.peak() - before < BOMB // 4


def test_refuses_gzip_of_many_members(server: Server) -> None:
    body = gzip.compress(b"") * 50_000
    url = f"{server.url}{server.path}/v1/traces"
    answer = requests.post(url, data=body, headers={**OTLP, "content-encoding": "gzip"}, timeout=60)
    assert (answer.status_code, answer.json()["message"]) == (400, "a gzip body of more than 100 members")


def test_takes_compressed_traces_within_the_bound(server: Server) -> None:
    url = f"{server.url}{server.path}/v1/traces"
    for encoding, body in (("gzip", gzip.compress(bytes(1000))), ("deflate", zlib.compress(bytes(1000)))):
        answer = requests.post(url, data=body, headers={**OTLP, "content-encoding": encoding}, timeout=60)
        # MLflow's own answer to the decompressed content.
        assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid OpenTelemetry format"})


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("call", ["runs/log-batch", "runs/search", "gateway"])
def test_refuses_bodies_above_the_bound(server: Server, call: str, chunked: bool) -> None:
    before = server.peak()
    body = b'{"x": "' + b"x" * (64 * MEBIBYTE) + b'"}'
    url = f"{server.url}{server.path}/gateway/none/mlflow/invocations" if call == "gateway" else server.api(call)
    data = (body[start : start + MEBIBYTE] for start in range(0, len(body), MEBIBYTE)) if chunked else body
    try:
        answer = requests.post(url, data=data, headers=JSON, timeout=60)
    except requests.ConnectionError:
        # The server answered and closed while the client was still sending.
        pass
    else:
        assert (answer.status_code, answer.json()["message"]) == (413, TOO_LARGE)
    assert requests.get(f"{server.url}{server.path}/version", timeout=60).ok
    assert server.peak() - before < 64 * MEBIBYTE


def test_bounds_graphql_on_its_own(server: Server) -> None:
    answer = requests.post(f"{server.url}{server.path}/graphql", json={"query": "{" + "a " * 50_000 + "}"}, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["message"].startswith("the request's body is larger than 65536 bytes")


def test_takes_uploads_of_the_ui_up_to_mlflow_s_own_limit(server: Server) -> None:
    url = f"{server.url}{server.path}/ajax-api/2.0/mlflow/upload-artifact"
    for size, status in ((10 * MEBIBYTE, 200), (10 * MEBIBYTE + 1, 413)):
        params = {"run_uuid": server.run(), "path": "x.json"}
        assert requests.post(url, params=params, data=bytes(size), timeout=60).status_code == status


def test_bounds_the_memory_of_bodies_at_once(server: Server) -> None:
    before = server.peak()
    run = server.run()
    items = b"{}," * (MEBIBYTE // 3)
    body = b'{"run_id": "' + run.encode() + b'", "metrics": [' + items + b"{}]}"
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(requests.post, server.api("runs/log-batch"), body, headers=JSON) for _ in range(8)]
        assert {call.result().status_code for call in calls} == {400}
    # A byte of such a body takes 74: 8 at once would take 600 MB.
    assert server.peak() - before < 74 * BODY


def test_large_downloads_with_slow_readers_take_neither_memory_nor_threads(
    server: Server, large: tuple[str, str]
) -> None:
    run, artifact = large
    before = server.peak()
    paths = [f"/get-artifact?run_id={run}&path=large.bin", f"/api/2.0/mlflow-artifacts/artifacts/{artifact}"]
    streams = []
    for number in range(60):  # more than MLflow has threads
        stream = requests.get(f"{server.url}{server.path}{paths[number % 2]}", stream=True, timeout=60)
        assert stream.status_code == 200
        next(stream.iter_content(1000))
        streams.append(stream)
    assert server.post("experiments/search", {"max_results": 1}).status_code == 200
    assert server.peak() - before < DOWNLOAD // 2
    assert sum(map(len, streams[0].iter_content(MEBIBYTE))) == DOWNLOAD - 1000
    for stream in streams:
        stream.close()


def test_ends_downloads_whose_reader_is_gone(server: Server, large: tuple[str, str]) -> None:
    run, _ = large
    host, port = server.url.removeprefix("http://").split(":")

    def opened() -> int:
        return sum(file.path.endswith("large.bin") for file in server.worker.open_files())

    def ended() -> bool:
        deadline = time.monotonic() + 30
        while opened() and time.monotonic() < deadline:
            time.sleep(0.1)
        return opened() == 0

    # Readers of the test before this one are gone as well.
    assert ended()
    with socket.create_connection((host, int(port))) as client:
        path = f"{server.path}/get-artifact?run_id={run}&path=large.bin"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        client.recv(1000)
        assert opened() == 1
    assert ended()


def test_large_artifacts_pass_in_both_directions(server: Server) -> None:
    before = server.peak()
    size = 200 * MEBIBYTE
    chunks = (bytes(MEBIBYTE) for _ in range(size // MEBIBYTE))
    assert requests.put(server.artifact("0/a/up.bin"), data=chunks, timeout=120).status_code == 200
    assert (server.home / "artifacts/0/a/up.bin").stat().st_size == size
    with requests.get(server.artifact("0/a/up.bin"), stream=True, timeout=120) as answer:
        assert sum(map(len, answer.iter_content(MEBIBYTE))) == size
    assert server.peak() - before < size // 2
    assert requests.delete(server.artifact("0/a/up.bin"), timeout=60).status_code == 200
    assert not (server.home / "artifacts/0/a/up.bin").exists()


def test_ends_an_upload_that_is_too_slow(tmp_path: Path) -> None:
    """Yield one byte now and then, for half a minute: the limit's own time."""
    with served(tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as client:
            head = f"PUT /api/2.0/mlflow-artifacts/artifacts/0/a HTTP/1.1\r\nHost: {host}:{port}\r\n"
            client.sendall(f"{head}Content-Length: 1000000\r\n\r\nx".encode())
            ended = threading.Event()

            def drip() -> None:
                while not ended.wait(2):
                    try:
                        client.sendall(b"x")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            answer = client.recv(1000).decode()
            ended.set()
            dripping.join()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "connection: close" in answer
        assert list((tmp_path / "artifacts").rglob("*")) == [tmp_path / "artifacts/0"]


def traced(server: Server, text: str) -> None:
    """Record a trace whose name is that text."""
    info = {
        "trace_id": f"tr-{abs(hash(text)):032x}"[:35],
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "tags": {"mlflow.traceName": text},
    }
    url = server.api("traces").replace("/2.0/", "/3.0/")
    answer = requests.post(url, json={"trace": {"trace_info": info}}, timeout=60)
    assert answer.status_code == 200, answer.text


def search(server: Server, pattern: str) -> requests.Response:
    url = server.api("traces/search").replace("/2.0/", "/3.0/")
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    body = {"locations": [location], "filter": f"tags.`mlflow.traceName` RLIKE '{pattern}'", "max_results": 10}
    return requests.post(url, json=body, timeout=60)


def names(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return sorted(trace["tags"]["mlflow.traceName"] for trace in answer.json().get("traces", []))


def test_regular_expressions_end(server: Server) -> None:
    traced(server, "a" * 40 + "!")
    traced(server, "predict-42")
    with ThreadPoolExecutor(8) as pool:
        assert {tuple(names(answer)) for answer in pool.map(lambda _: search(server, "^(a+)+$"), range(8))} == {()}
    assert names(search(server, "^predict-[0-9]+$")) == ["predict-42"]
    refused = search(server, "(?=x)")
    assert refused.status_code == 400
    assert refused.json()["message"].startswith("RLIKE takes a regular expression of RE2 (got '(?=x)'): ")


def test_bounds_filters(server: Server) -> None:
    answer = server.post("runs/search", {"experiment_ids": ["0"], "filter": "a " * 50_001})
    assert (answer.status_code, answer.json()["message"]) == (400, "filter: has 100002 characters; at most 100000")


def test_another_server_waits_for_the_claim_and_says_why(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with served(tmp_path) as server:
        server.run()
        port = trackingserver.free_port()
        environment = trackingserver.environment(other, port) | {
            "CLAIM_LOCK": f"{tmp_path}/mlflow.db.lock",
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        }
        second = trackingserver.launch(other, environment)
        message = f"Waiting for {tmp_path}/mlflow.db.lock, which the server of pod {socket.gethostname()} holds.\n"
        deadline = time.monotonic() + 30
        while (other / "log").read_text() != message and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (other / "log").read_text() == message
        # The schema step, too, because another pod would run it first.
        step = subprocess.Popen(
            [sys.executable, trackingserver.SCRIPTS / "sqlite_schema.py"],
            env=os.environ | {"DATABASE": f"{tmp_path}/mlflow.db"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert step.stderr is not None
        assert step.stderr.readline() == message
        step.kill()
        step.communicate()
        assert second.poll() is None
    # The first one has ended.
    waiting = Server(f"http://127.0.0.1:{port}", "", other, second)
    try:
        trackingserver.wait(waiting)
        assert len(waiting.post("runs/search", {"experiment_ids": ["0"]}).json()["runs"]) == 1
    finally:
        trackingserver.end(second)


def test_a_server_that_waits_for_the_claim_ends_at_once_when_it_is_told_to(tmp_path: Path) -> None:
    with closing(os.fdopen(trackingserver.locked(tmp_path / "mlflow.db.lock"))):
        process = trackingserver.launch(tmp_path, trackingserver.environment(tmp_path, trackingserver.free_port()))
        deadline = time.monotonic() + 30
        while "Waiting for" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


def test_what_a_killed_server_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    """Return the files of an upload, in the claim and in the server's `/tmp`."""
    with served(tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"PUT /api/2.0/mlflow-artifacts/artifacts/0/a/whole.bin HTTP/1.1\r\nHost: {host}:{port}\r\n"
            client.sendall(f"{head}Content-Length: 10000000\r\n\r\n".encode() + bytes(100_000))
            deadline = time.monotonic() + 30
            while not list((tmp_path / "artifacts").rglob(".artifact.uploading.*")) and time.monotonic() < deadline:
                time.sleep(0.1)
            (tmp_path / "tmp/tmpabandoned").mkdir()
            (tmp_path / "tmp/tmpabandoned/large.bin").write_bytes(bytes(1000))
            trackingserver.kill(server.process)
        (left,) = (tmp_path / "artifacts").rglob(".artifact.uploading.*")
    (left.parent / "kept.bin").write_bytes(b"kept")
    with served(tmp_path):
        deadline = time.monotonic() + 30
        while left.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [file.name for file in left.parent.iterdir()] == ["kept.bin"]
        assert not (tmp_path / "tmp/tmpabandoned").exists()


def hangs(url: str) -> bool:
    try:
        requests.get(url, timeout=3)
    except requests.Timeout:
        return True
    return False


def test_no_search_imports_what_is_missing(tmp_path: Path) -> None:
    """MLflow imports in each search; concurrent ones find a half-imported module, and it answers 500."""
    script = "import sys, tracking_app; tracking_app.create_app(); print('mlflow.server.auth' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=trackingserver.environment(tmp_path, 1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_health_answers_while_every_thread_is_taken(tmp_path: Path) -> None:
    """Threads taken by writers that wait for a lock of the database: the server is alive, but not ready."""
    with served(tmp_path) as server:
        run = server.run()
        with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as writer:
            writer.execute("begin exclusive")
            body = {"run_id": run, "key": "k", "value": "v"}
            with ThreadPoolExecutor(50) as pool:
                calls = [pool.submit(server.post, "runs/set-tag", body) for _ in range(50)]
                # MLflow answers this one in a thread, and without the database.
                assert any(hangs(f"{server.url}/version") for _ in range(100))
                assert requests.get(f"{server.url}/health", timeout=5).text == "OK"
                assert hangs(f"{server.api('experiments/search')}?max_results=1")
                writer.execute("rollback")
                assert 200 in {call.result().status_code for call in calls}
        assert requests.get(f"{server.api('experiments/search')}?max_results=1", timeout=60).status_code == 200
