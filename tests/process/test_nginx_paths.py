"""Kinds of paths at the proxy: what each accepts, buffers and forwards, in a real nginx before a stub of MLflow.

The stub drops a body without Content-Length, like Flask.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from process import newmlflow
from process.test_nginx import (  # noqa: F401 - root and nginx are fixtures
    AUTH,
    BASIC,
    BOB,
    HOST,
    LARGE,
    LIMITS,
    PASSWORD,
    Nginx,
    Upstream,
    basic,
    nginx,
    raw,
    root,
    running,
)

from mlflow_stack import Addresses
from mlflow_stack.access.nginx import CONNECTIONS_PER_CLIENT, Limits, nginx_conf

API = "/api/2.0/mlflow/runs/search"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/model.bin"
ORIGIN = f"http://{HOST}:30500"
PREFIX = "/ml.flow"


@pytest.fixture(scope="module")
def prefixed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:  # noqa: F811
    """Proxy at a node's port, under a path."""
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500, path=PREFIX), LIMITS)
    with running(root, tmp_path_factory.mktemp("prefixed"), conf) as made:
        yield made


@pytest.fixture(scope="module")
def kinds(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:  # noqa: F811
    """Sizes of a deployment, except for artifacts."""
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), Limits(LARGE, 2))
    with running(root, tmp_path_factory.mktemp("kinds"), conf) as made:
        yield made


def chunked(
    port: int, path: str, parts: list[bytes], pause: float = 0, credentials: bytes = BASIC
) -> tuple[int, bytes]:
    """Send a body without Content-Length."""
    head = [f"POST {path} HTTP/1.1".encode(), f"Host: {HOST}".encode(), credentials, b"Transfer-Encoding: chunked"]
    head.append(b"Content-Type: application/json")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*head, b"", b""]))
        for part in parts:
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            time.sleep(pause)
        connection.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize("path", [API, "/ajax-api/2.0/mlflow/runs/log-batch", "/v1/traces", "/graphql", "/unknown"])
def test_passes_bodies_without_a_length_on_whole(kinds: Nginx, path: str) -> None:
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: chunked(kinds.public, path, [b"x" * 100, b"y" * 50], 0.05), range(40)))
    assert {(status, json.loads(body)["length"]) for status, body in answers} == {(200, 150)}


MI = 2**20
SIZES = {
    "api": (API, "POST", 4 * MI),
    "ajax": ("/ajax-api/3.0/mlflow/traces/search", "POST", 4 * MI),
    "otlp": ("/v1/traces", "POST", 4 * MI),
    "gateway": ("/gateway/mlflow/v1/chat/completions", "POST", 4 * MI),
    "graphql": ("/graphql", "POST", 64 * 1024),
    "UI upload": ("/ajax-api/2.0/mlflow/upload-artifact?run_uuid=1&path=a", "POST", 10 * MI),
    "multipart upload": ("/api/2.0/mlflow-artifacts/mpu/complete/1/a", "POST", 4 * MI),
    "listing": ("/api/2.0/mlflow-artifacts/artifacts", "PUT", 4 * MI),
    "download": ("/get-artifact?path=a", "POST", 1024),
    "page": ("/static-files/main.js", "POST", 1024),
    "artifact": (ARTIFACT, "PUT", LARGE),
    "artifact of the UI": ("/ajax-api" + ARTIFACT.removeprefix("/api"), "PUT", LARGE),
    "deleted artifact": (ARTIFACT, "DELETE", 0),
    "posted artifact": (ARTIFACT, "POST", 0),
    "unknown": ("/api/9.9/mlflow/new", "POST", 4 * MI),
    # nginx classifies these as API requests, or forwards the normalised path.
    "API after an artifact": ("/api/2.0/mlflow-artifacts/artifacts/../../mlflow/runs/search", "POST", 4 * MI),
    "encoded": ("/%61pi/2.0/mlflow/runs/search", "POST", 4 * MI),
}


@pytest.mark.parametrize("name", SIZES)
def test_each_kind_of_path_has_a_size_limit(kinds: Nginx, name: str) -> None:
    path, method, limit = SIZES[name]
    assert kinds.status(path, method=method, body=bytes(limit), **AUTH) == 200
    assert kinds.status(path, method=method, body=bytes(limit + 1), **AUTH) == 413


def test_limits_a_body_without_a_length(kinds: Nginx) -> None:
    assert chunked(kinds.public, "/graphql", [bytes(2**15)] * 2)[0] == 200
    assert chunked(kinds.public, "/graphql", [bytes(2**15)] * 2 + [b"x"])[0] == 413
    assert chunked(kinds.public, ARTIFACT, [b"x"])[0] == 413


def test_an_api_path_that_ends_as_an_artifact_is_passed_on_as_one(kinds: Nginx) -> None:
    """Otherwise MLflow would treat a large body as an API request."""
    path = f"{API}/../../../..{ARTIFACT.removeprefix('/api')}"
    code, _, body = kinds.ask(path, method="PUT", body=bytes(5 * MI), **AUTH)
    assert (code, json.loads(body)["path"]) == (200, ARTIFACT)


@pytest.mark.parametrize(
    ("method", "path", "passed"),
    [
        ("PUT", ARTIFACT, ARTIFACT),
        ("GET", ARTIFACT, ARTIFACT),
        ("GET", "/ajax-api/2.0/mlflow-artifacts/artifacts/a%20b/%3Fc%25d?x=%2f", None),
        ("DELETE", ARTIFACT, PREFIX + ARTIFACT),
        ("HEAD", ARTIFACT, PREFIX + ARTIFACT),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=a", PREFIX + "/api/2.0/mlflow-artifacts/artifacts?path=a"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/a", PREFIX + "/api/2.0/mlflow-artifacts/mpu/create/a"),
        ("POST", API, PREFIX + API),
    ],
)
def test_strips_the_prefix_only_from_streamed_artifacts(
    prefixed: Nginx, method: str, path: str, passed: str | None
) -> None:
    Upstream.asked.clear()
    assert prefixed.status(PREFIX + path, method=method, **AUTH) == 200
    assert Upstream.asked == [passed or path]


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_probes_take_nothing_but_a_probe(kinds: Nginx, path: str) -> None:
    Upstream.asked.clear()
    for port in (kinds.public, kinds.internal):
        for host in ("10.1.2.3", HOST if port == kinds.public else "mlflow"):
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                assert kinds.status(path, method=method, host=host, port=port) == 405, (method, host)
            assert kinds.status(path, method="POST", body=bytes(MI), host=host, port=port) == 405
            assert kinds.status(path, method="GET", body=b"x", host=host, port=port) == 405
            assert chunked(port, path, [b"x"])[0] == 405
    assert Upstream.asked == []
    for method in ("GET", "HEAD"):
        assert kinds.status(f"{path}?token=secret", method=method) in (200, 204)
    assert all("secret" not in asked and "token" not in asked for asked in Upstream.asked)


def test_a_flood_of_probes_is_one_request_a_second(kinds: Nginx) -> None:
    began = time.monotonic()
    Upstream.asked.clear()
    with ThreadPoolExecutor(60) as pool:
        codes = list(pool.map(lambda _: kinds.status("/readyz"), range(600)))
    seconds = time.monotonic() - began
    assert set(codes) <= {200, 429}
    assert codes.count(429) > 0
    assert len(Upstream.asked) <= seconds + 2
    # The kubelet uses another address and port.
    assert kinds.status("/livez", port=kinds.internal) in (204, 429)


def test_probes_of_one_address_do_not_limit_another(kinds: Nginx) -> None:
    def ask(source: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", kinds.internal, timeout=15, source_address=(source, 0))
        connection.request("GET", "/readyz", headers={"Host": "10.1.2.3"})
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: ask("127.0.3.1"), range(200)))
    assert 429 in codes
    assert ask("127.0.3.2") == 200


@contextmanager
def held(port: int, request: bytes, number: int, host: str = HOST) -> Iterator[list[socket.socket]]:
    """Open requests whose body never arrives."""
    request = request.replace(HOST.encode(), host.encode())
    with ExitStack() as opened:
        made = [opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(number)]
        for connection in made:
            connection.sendall(request)
        time.sleep(0.5)
        yield made


def head(method: str, path: str, credentials: str | None, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {length}"]
    lines += [] if credentials is None else [f"Authorization: {credentials}"]
    return "\r\n".join([*lines, "", "x"]).encode()


def test_slow_posts_to_a_probe_take_no_place_of_users(nginx: Nginx) -> None:  # noqa: F811
    with held(nginx.public, head("POST", "/healthz", None, 900), 105):
        assert [nginx.status(API, method="POST", body=b"{}", **AUTH) for _ in range(5)] == [200] * 5
        assert nginx.status("/livez") == 204


def test_requests_without_a_password_take_no_place_of_users(nginx: Nginx) -> None:  # noqa: F811
    with held(nginx.public, head("POST", API, None, 900), 105):
        assert [nginx.status(API, method="POST", body=b"{}", **AUTH) for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("user", ["ann", "bob"])
def test_a_wrong_password_takes_no_place_of_an_upload(nginx: Nginx, user: str) -> None:  # noqa: F811
    path = "/api/2.0/mlflow-artifacts/artifacts/a"
    with held(nginx.public, head("PUT", path, basic(user, "wrong"), 900), 10):
        assert nginx.status(path, method="PUT", body=b"x", **AUTH) == 200
        assert nginx.status(API, method="POST", body=bytes(50_000), **AUTH) == 200


def test_slow_uploads_of_one_user_leave_places_to_others(nginx: Nginx) -> None:  # noqa: F811
    """Each sends one byte only: two of the four places belong to one user."""
    path = "/api/2.0/mlflow-artifacts/artifacts/a"
    with held(nginx.public, head("PUT", path, AUTH["Authorization"], 900), 2):
        assert nginx.status(path, method="PUT", body=b"x", **AUTH) == 429
        assert nginx.status(path, method="PUT", body=b"x", **BOB) == 200


def test_held_bodies_fit_into_the_scratch_volume(root: Path, tmp_path: Path) -> None:  # noqa: F811
    """Send as many requests as the proxy accepts, each without its last byte."""
    limits = Limits(LARGE, 2, request=32 * MI)
    assert (limits.held, limits.held_of_user) == (16, 8)
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), limits)
    with running(root, tmp_path, conf) as made, ExitStack() as opened:
        codes: list[int] = []
        for user in (AUTH, BOB):
            for _ in range(9):
                connection = opened.enter_context(socket.create_connection(("127.0.0.1", made.public), timeout=30))
                length = limits.request
                connection.sendall(head("POST", API, user["Authorization"], length))
                connection.settimeout(2)
                try:
                    connection.sendall(bytes(length - 2))
                except OSError:
                    codes.append(int(connection.recv(100).split()[1]))
                else:
                    connection.settimeout(0.2)
                    try:
                        codes.append(int(connection.recv(100).split()[1]))
                    except TimeoutError:
                        continue
        assert codes == [429, 429]
        # Temporary files no longer have a name.
        used = _scratch(tmp_path / "tmp")
        assert 16 * (limits.request - 2 * MI) < used <= limits.scratch


def _scratch(folder: Path) -> int:
    """Return the bytes that processes hold in files of a folder, with or without a name."""
    found: dict[tuple[int, int], int] = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target, status = str(link.readlink()), link.stat()
        except OSError:
            continue
        if "/client_body/" in target and status.st_dev == folder.stat().st_dev:
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def test_the_scratch_volume_follows_from_the_limits() -> None:
    assert [Limits(1, 2, size * MI).held for size in (1, 4, 16, 32)] == [96, 96, 24, 16]
    assert Limits(10 * 2**30, 2).scratch == (96 * 4 + 4 * 10 + 16) * MI
    assert all(Limits(10 * 2**30, 1000, size * MI).scratch <= 600 * MI for size in range(1, 33))


def paused(port: int, path: str, seconds: float) -> int:
    """Return the bytes received by a reader that pauses after the first one."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {HOST}",
            f"Authorization: {AUTH['Authorization']}",
            "Connection: close",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        connection.recv(1)
        time.sleep(seconds)
        total = 1
        try:
            while part := connection.recv(2**16):
                total += len(part)
        except ConnectionError:
            pass
        return total


def test_a_reader_of_an_artifact_may_pause_and_one_of_the_api_is_cut_off(kinds: Nginx) -> None:
    paths = {
        "/api/2.0/mlflow-artifacts/artifacts/large": True,
        "/get-artifact?path=large": True,
        "/model-versions/get-artifact?path=large": True,
        "/ajax-api/2.0/mlflow/logged-models/m/artifacts/files?x=large": True,
        "/ajax-api/3.0/mlflow/get-trace-artifact?x=large": True,
        "/api/2.0/mlflow/large": False,
    }
    with ThreadPoolExecutor(len(paths)) as pool:
        got = dict(zip(paths, pool.map(lambda path: paused(kinds.public, path, 14), paths), strict=True))
    assert {path: total > LARGE for path, total in got.items()} == paths
    lines = [line for line in kinds.log.read_text().splitlines() if "/large" in line or "artifact" in line]
    assert [line.endswith('""') for line in lines if "GET /api/2.0/mlflow/large " in line] == [True]
    assert all(line.endswith('"OK"') for line in lines if "GET /get-artifact " in line)


FOREIGN = ("http://localhost:3000", "http://localhost", "http://127.0.0.1:8080", "https://evil.example", "null", HOST)


@pytest.mark.parametrize("path", [API, "/graphql", "/gateway/mlflow/v1/chat/completions", ARTIFACT, "/v1/traces", "/x"])
def test_no_other_origin_may_write(kinds: Nginx, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for origin in FOREIGN:
            assert kinds.status(path, method=method, Origin=origin, **AUTH) == 403, (method, origin)
        assert kinds.status(path, method=method, Origin=ORIGIN, **AUTH) == 200
    # A page behind `kubectl port-forward` has its own origin; only this one is accepted.
    forwarded = {"host": "localhost:8081", "port": kinds.internal}
    assert kinds.status(path, method="PUT", **forwarded, Origin="http://localhost:8081", **AUTH) == 200
    for origin in ("http://localhost:3000", "http://localhost", ORIGIN):
        assert kinds.status(path, method="PUT", **forwarded, Origin=origin, **AUTH) == 403, origin


def test_mlflow_hears_of_no_other_origin(kinds: Nginx) -> None:
    """It would let pages of localhost read with the user's password."""
    for origin, passed in ((ORIGIN, ORIGIN), ("http://localhost:3000", None), ("null", None)):
        assert json.loads(kinds.ask(API, Origin=origin, **AUTH)[2])["headers"].get("Origin") == passed


GATEWAY = "/gateway/endpoint/mlflow/invocations"


@pytest.mark.parametrize("key", ["Bearer sk-provider", "Basic a2V5Og==", "sk-raw", None])
def test_the_gateway_takes_the_password_beside_a_providers_key(kinds: Nginx, key: str | None) -> None:
    headers = {"X_MLflow_Authorization": AUTH["Authorization"]} | ({} if key is None else {"Authorization": key})
    code, _, body = kinds.ask(GATEWAY, method="POST", body=b"{}", **headers)
    seen = json.loads(body)["headers"]
    assert (code, seen.get("Authorization")) == (200, key)
    assert "X-Mlflow-Authorization" not in {name.title() for name in seen}


def test_the_gateway_asks_for_a_right_password_in_either_header(kinds: Nginx) -> None:
    assert kinds.ask(GATEWAY, method="POST", body=b"{}", **AUTH)[0] == 200
    assert "Authorization" not in json.loads(kinds.ask(GATEWAY, method="POST", body=b"{}", **AUTH)[2])["headers"]
    assert kinds.status(GATEWAY, X_MLflow_Authorization="", **AUTH) == 200
    for headers in (
        {},
        {"Authorization": "Bearer sk-provider"},
        {"X_MLflow_Authorization": basic("ann", "wrong")},
        {"X_MLflow_Authorization": basic("ann", "wrong"), **AUTH},
        {"X_MLflow_Authorization": "Bearer x", **AUTH},
    ):
        began = time.monotonic()
        code, answer, _ = kinds.ask(GATEWAY, method="POST", body=b"{}", **headers)
        assert (code, answer.get("WWW-Authenticate")) == (401, 'Basic realm="MLflow"'), headers
        # A guess takes a second in this header, too.
        assert time.monotonic() - began > 0.9


def test_no_other_path_takes_the_password_from_the_gateways_header(kinds: Nginx) -> None:
    for path in (API, "/", "/gateway", "/gatewayx/y", "/gateway/../api/2.0/x", "//gateway/..", ARTIFACT):
        assert kinds.status(path, X_MLflow_Authorization=AUTH["Authorization"]) == 401, path


def test_the_log_holds_no_query_and_no_name_that_was_not_verified(root: Path, tmp_path: Path) -> None:  # noqa: F811
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), LIMITS)
    forged = 'ann [2026-01-01T00:00:00+00:00] "GET / HTTP/1.1" 200 0 0.1\nbob \x1b[31m'
    with running(root, tmp_path, conf) as made:
        for name in (forged, "eve"):
            assert made.status("/x?token=canary", Authorization=basic(name, "wrong")) == 401
            assert made.status(GATEWAY + "?key=canary", X_MLflow_Authorization=basic(name, "wrong")) == 401
            assert (
                made.status("/api?token=canary", Authorization=basic(name), method="POST", body=bytes(200_000)) == 413
            )
            assert made.status("/livez", Authorization=basic(name)) == 204
        assert made.status("/x?token=canary", **AUTH) == 200
        key = {"Authorization": "Bearer canary", "X_MLflow_Authorization": AUTH["Authorization"]}
        assert made.status(GATEWAY + "?key=canary", **key) == 200
        assert raw(made.public, b"GET /x?token=canary\x00 HTTP/1.1\r\n\r\n") == 400
        assert made.status('/x"y?token=canary', **AUTH) == 200
        time.sleep(0.2)
        log = made.log.read_text()
    for secret in ("canary", "eve", "\x1b", forged, "2026-01-01"):
        assert secret not in log, secret
    users = [line.split(" ")[1] for line in log.splitlines()]
    assert users.count("ann") == 3
    assert set(users) == {"ann", "-"}
    assert all(line.count('"') == 6 for line in log.splitlines())


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow-artifacts/artifacts/{}",
        "/ajax-api/2.0/mlflow-artifacts/artifacts/{}",
        "/get-artifact?path={}",
        "/model-versions/get-artifact?path={}",
        "/ajax-api/2.0/mlflow/logged-models/m/artifacts/files?path={}",
        "/ajax-api/2.0/mlflow/get-trace-artifact?path={}",
    ],
)
def test_files_of_users_never_run_as_the_site(kinds: Nginx, path: str) -> None:
    for name, disposition in (
        ("a.html", "attachment"),
        ("inline.svg", "attachment"),
        ("attached.html", "attachment; filename=page.html"),
    ):
        _, headers, _ = kinds.ask(path.format(name), **AUTH)
        assert headers["Content-Disposition"] == disposition
        assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, headers, _ = kinds.ask("/", **AUTH)
    assert "Content-Disposition" not in headers
    assert "Content-Security-Policy" not in headers


CLIENT = """
import sys
import mlflow
from mlflow.protos.service_pb2 import CreateRun
from mlflow.utils.rest_utils import MlflowHostCreds, call_endpoint, http_request
version, url, file = sys.argv[1:]
assert mlflow.__version__.startswith(version), mlflow.__version__
creds = MlflowHostCreds(url, username="ann", password="correct horse battery")
if file:
    with open(file, "rb") as data:
        path = "/api/2.0/mlflow-artifacts/artifacts/retried"
        print(http_request(creds, path, "PUT", data=data).status_code)
else:
    call_endpoint(creds, "/api/2.0/mlflow/runs/create", "POST", '{"experiment_id": "0"}', CreateRun.Response())
    print(200)
"""


@pytest.mark.parametrize("version", ["3.17", "3.18"])
@pytest.mark.parametrize("action", ["upload", "create"])
def test_clients_retry_what_the_limits_refuse(nginx: Nginx, tmp_path: Path, version: str, action: str) -> None:  # noqa: F811
    """Oldest and newest accepted client, at an upload and at a request that is not idempotent."""
    (tmp_path / "file").write_bytes(b"x" * 900)
    env = os.environ | {"MLFLOW_TRACKING_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    if version == "3.18":
        env["PYTHONPATH"] = str(newmlflow.folder())
    file = str(tmp_path / "file") if action == "upload" else ""
    program = [sys.executable, "-c", CLIENT, version, f"http://localhost:{nginx.internal}", file]
    upload = head("PUT", "/api/2.0/mlflow-artifacts/artifacts/a", AUTH["Authorization"], 900)
    search = head("POST", API, AUTH["Authorization"], 900)
    taken = (upload, 2) if action == "upload" else (search, CONNECTIONS_PER_CLIENT)
    before = len(nginx.log.read_text())

    def refused() -> bool:
        for _ in range(300):
            if re.search(r'"(PUT .*/retried|POST .*/runs/create) HTTP/1.1" (429|503) ', nginx.log.read_text()[before:]):
                return True
            time.sleep(0.1)
        return False

    with ThreadPoolExecutor(1) as pool:
        with held(nginx.internal, *taken, "localhost"):
            client = pool.submit(subprocess.run, program, env=env, capture_output=True, text=True, check=False)
            assert refused()
        done = client.result(180)
    assert done.stdout.split() == ["200"], done.stderr[-2000:]
