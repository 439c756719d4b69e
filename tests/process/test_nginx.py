"""Configuration of the proxy in a real nginx: the image's own, in its root filesystem, on loopback.

tests/e2e covers what needs a kubelet (a Secret that changes, a pod that drains).
"""

import base64
import http.client
import http.server
import json
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process.claims import free_port
from render.linters import gixy, waived

from mlflow_stack import Addresses, validate
from mlflow_stack.access import htpasswd
from mlflow_stack.access.nginx import AUTH as AUTH_FOLDER
from mlflow_stack.access.nginx import (
    CONFIG,
    EXISTING_USERS,
    INTERNAL_PORT,
    PUBLIC_PORT,
    UPSTREAM_PORT,
    VERIFY_PORT,
    Access,
    ExistingUsers,
    Limits,
    nginx_conf,
)
from mlflow_stack_cli.progress import Progress
from sandbox import images
from sandbox.images.debian import debian

PASSWORD = "correct horse battery"


def basic(user: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


AUTH = {"Authorization": basic("ann")}
BOB = {"Authorization": basic("bob")}
HOST = "mlflow.example.com"
LIMITS = Limits(artifact=1000, uploads=4, request=100_000)
LARGE = 20_000_000
"""Bytes that exceed all buffers between two sockets."""


class Upstream(http.server.BaseHTTPRequestHandler):
    """Server that echoes requests; the search behaves like a database that can be stopped.

    Like Flask, it ignores a body without Content-Length.
    """

    protocol_version = "HTTP/1.1"
    database = True
    slow = threading.Event()
    asked: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.asked.append(self.path)
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if "slow" in self.path:
            self.slow.wait(20)
        code = 503 if self.path.startswith("/api/2.0/mlflow/experiments/search") and not self.database else 200
        asked = {"path": self.path, "method": self.command, "headers": dict(self.headers), "length": length}
        body = json.dumps(asked).encode()
        if "large" in self.path:
            body = bytes(LARGE)
        self.send_response(code)
        if self.path.endswith("/server-info"):
            body = b'{"multipart_downloads_enabled":true,"multipart_uploads_enabled":true,"store_type":"SqlStore"}'
            self.send_header("Content-Type", "application/json")
        self.send_header("X-Frame-Options", "DENY")
        if "inline" in self.path:
            self.send_header("Content-Disposition", "inline")
        if "attached" in self.path:
            self.send_header("Content-Disposition", "attachment; filename=page.html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Nginx:
    """Running proxy with its two ports."""

    def __init__(self, public: int, internal: int, auth: Path, existing: Path, log: Path) -> None:
        self.public = public
        self.internal = internal
        self.auth = auth
        self.existing = existing
        self.log = log

    def ask(
        self,
        path: str,
        *,
        host: str = HOST,
        port: int | None = None,
        method: str = "GET",
        body: bytes | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.public, timeout=15)
        connection.request(method, path, body, {"Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def status(self, path: str, **options: object) -> int:
        return self.ask(path, **options)[0]


@pytest.fixture(scope="session")
def root() -> Path:
    with Progress() as progress:
        return debian(progress, "nginx", images._NGINX_BASE)


@contextmanager
def running(root: Path, folder: Path, conf: str, upstream: int | None = None, level: str = "crit") -> Iterator[Nginx]:
    """Run nginx with a configuration, in front of the server at port ``upstream``, or of our own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    public, internal, verify = free_port(), free_port(), free_port()
    for old, new in (
        (f"127.0.0.1:{UPSTREAM_PORT}", f"127.0.0.1:{upstream or server.server_address[1]}"),
        (f"listen {PUBLIC_PORT}", f"listen 127.0.0.1:{public}"),
        (f"listen {INTERNAL_PORT}", f"listen 127.0.0.1:{internal}"),
        (f"127.0.0.1:{VERIFY_PORT}", f"127.0.0.1:{verify}"),
        # It warns of each temporary file.
        ("error_log stderr crit", f"error_log stderr {level}"),
    ):
        assert old in conf
        conf = conf.replace(old, new)
    # A copy, so that the root filesystem is unchanged.
    etc, scratch = folder / "etc", folder / "tmp"
    shutil.copytree(root / "etc", etc, symlinks=True)
    config, auth, existing = (folder / path.lstrip("/") for path in (CONFIG, AUTH_FOLDER, EXISTING_USERS))
    for path in (config, auth, existing, scratch):
        path.mkdir()
    scratch.chmod(0o777)
    (config / "nginx.conf").write_text(conf)
    (config / "ready").write_text("ready\n")
    users = [htpasswd.line(user, PASSWORD, "A" * 16) for user in ("ann", "bob")]
    (auth / "htpasswd").write_text("\n".join(users) + "\n")
    binds = [(etc, "/etc"), (scratch, "/tmp"), (Path("/dev"), "/dev"), (Path("/proc"), "/proc")]
    script = "".join(f'mount --rbind "{source}" "{root}{target}" && ' for source, target in binds)
    script += f'exec chroot "{root}" nginx -e stderr -c {CONFIG}/nginx.conf -g "daemon off;"'
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=log, stderr=log)
        nginx = Nginx(public, internal, auth, existing, folder / "log")
        for _ in range(100):
            try:
                nginx.status("/livez")
                break
            except OSError:
                assert process.poll() is None, nginx.log.read_text()
                time.sleep(0.1)
        yield nginx
        process.terminate()
        process.wait(20)
        server.shutdown()


@pytest.fixture(scope="module")
def nginx(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Proxy at a node's port, reached by clients directly."""
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), LIMITS)
    with running(root, tmp_path_factory.mktemp("nginx"), conf) as made:
        yield made


@pytest.fixture(scope="module")
def behind(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Proxy for https under a path behind a controller, which is trusted for the client's address."""
    addresses = Addresses("mlflow", "team", host=HOST, scheme="https", path="/ml.flow")
    access = Access(allow_from=["192.0.2.0/24", "2001:db8::/32"], trusted_proxies=["127.0.0.0/8"])
    with running(
        root, tmp_path_factory.mktemp("behind"), nginx_conf(addresses, LIMITS, access, presigned=False)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def serving(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Proxy of a model server."""
    addresses = Addresses("mlflow-iris", "team", host=HOST, port=30501, path="/mlflow")
    with running(root, tmp_path_factory.mktemp("serving"), nginx_conf(addresses, LIMITS, serving="iris")) as made:
        yield made


def test_existing_users_come_in_beside_those_of_the_stack(root: Path, tmp_path: Path) -> None:
    """Existing users are looked up in their own file; a name of the stack never is, in upper case or lower."""

    users = ExistingUsers("people", ["ann", "a.b+c@example.com", "models"])
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), LIMITS, Access(existing_users=users))
    with running(root, tmp_path, conf) as made:
        theirs = [
            ("eve", "theirs-of-eve-1"),
            ("ann", "theirs-of-ann-1"),
            ("models", "theirs-of-models"),
            ("Ann", "A-b-c-d-e-f-g"),
        ]
        lines = [htpasswd.line(user, password, "B" * 16) for user, password in theirs]
        (made.existing / "htpasswd").write_text("".join(f"{line}\n" for line in lines))
        assert made.status("/", **AUTH) == 200
        assert made.status("/", Authorization=basic("eve", "theirs-of-eve-1")) == 200
        assert made.status("/", Authorization=basic("Ann", "A-b-c-d-e-f-g")) == 200
        for user, password in (("eve", "wrong"), *theirs[1:3], ("carl", PASSWORD), ("axb+c@example.com", PASSWORD)):
            assert made.status("/", Authorization=basic(user, password)) == 401, user
        # In the gateway's header, too.
        beside = {"Authorization": "Bearer key", "X_MLflow_Authorization": basic("eve", "theirs-of-eve-1")}
        assert made.status("/gateway/x/mlflow/invocations", **beside) == 200
        beside["X_MLflow_Authorization"] = basic("ann", "theirs-of-ann-1")
        assert made.status("/gateway/x/mlflow/invocations", **beside) == 401
        assert made.status("/") == 401
        (made.existing / "htpasswd").write_text("")
        assert made.status("/", Authorization=basic("eve", "theirs-of-eve-1")) == 401
        assert "[emerg]" not in made.log.read_text()


def test_it_starts_without_a_warning(nginx: Nginx, behind: Nginx, serving: Nginx) -> None:
    for made in (nginx, behind, serving):
        log = made.log.read_text()
        assert "[warn]" not in log
        assert "[emerg]" not in log


def test_the_password_is_asked_for_everywhere_but_at_the_probes(nginx: Nginx) -> None:
    for path in (
        "/",
        "/api/2.0/mlflow/runs/get",
        "//",
        "/healthz/..",
        "/x/%2e%2e/",
        "/healthz/../api",
        "/static-files/x",
    ):
        assert nginx.status(path) == 401, path
        assert nginx.status(path, **AUTH) == 200, path
    assert nginx.status("/", method="OPTIONS") == 401
    wrong = "Basic " + base64.b64encode(b"ann:wrong").decode()
    assert nginx.status("/", Authorization=wrong) == 401
    for path, code in (("/livez", 204), ("/healthz", 200), ("/readyz", 200), ("/-/ready", 404)):
        assert nginx.status(path) == code, path


def test_probes_are_answered_under_any_host_and_nothing_else_is(nginx: Nginx) -> None:
    for port in (nginx.public, nginx.internal):
        for path, code in (("/livez", 204), ("/healthz", 200), ("/readyz", 200), ("/", 421), ("/api", 421)):
            assert nginx.status(path, host="10.1.2.3", port=port) == code, (path, port)
    assert nginx.status("/", host="mlflow.team.svc", port=nginx.internal, **AUTH) == 200
    assert nginx.status("/", host="localhost:8080", port=nginx.internal, **AUTH) == 200
    assert nginx.status("/", host="mlflow.team.svc", port=nginx.public, **AUTH) == 421
    assert nginx.status("/", host="localhost", port=nginx.public, **AUTH) == 421
    assert nginx.status("/", port=nginx.internal, **AUTH) == 421


def test_ready_follows_the_database_and_tells_nothing_of_it(nginx: Nginx) -> None:
    assert nginx.ask("/readyz")[2] == b"ready\n"
    Upstream.database = False
    try:
        for _ in range(100):
            code, _, body = nginx.ask("/readyz")
            if code != 200:
                break
            time.sleep(0.1)
        assert code == 500
        assert b"experiments" not in body
        assert nginx.status("/healthz") == 200
    finally:
        Upstream.database = True


def test_the_server_sees_who_asks_and_never_the_password(nginx: Nginx) -> None:
    code, headers, body = nginx.ask("/x", X_Forwarded_For="203.0.113.9", **AUTH)
    seen = json.loads(body)["headers"]
    assert code == 200
    assert seen["Host"] == HOST
    assert seen["X-Forwarded-For"] == "127.0.0.1"
    assert "Authorization" not in seen
    assert headers["Server"] == "nginx"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"


def test_the_assistant_is_denied_in_every_spelling(nginx: Nginx) -> None:
    for path in (
        "/ajax-api/3.0/mlflow/assistant/config",
        "/api/3.0/mlflow/assistant",
        "//ajax-api//3.0/mlflow/assistant/x",
        "/AJAX-API/3.0/mlflow/assistant/x",
        "/x/../api/3.0/mlflow/%61ssistant/x",
    ):
        assert nginx.status(path, **AUTH) == 403, path


def test_a_body_above_the_limit_is_413(nginx: Nginx) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/a"
    assert nginx.status(path, method="PUT", body=b"x" * 1000, **AUTH) == 200
    assert nginx.status(path, method="PUT", body=b"x" * 1001, **AUTH) == 413


def test_one_upload_too_many_of_a_user_is_429_and_everything_else_goes_on(nginx: Nginx) -> None:
    path = "/ajax-api/2.0/mlflow-artifacts/artifacts/slow"
    Upstream.slow.clear()
    uploads = [
        threading.Thread(target=nginx.status, args=(path,), kwargs={"method": "PUT", "body": b"x", **AUTH})
        for _ in range(2)
    ]
    for upload in uploads:
        upload.start()
    time.sleep(1)
    try:
        code, headers, _ = nginx.ask(path, method="PUT", body=b"x", **AUTH)
        assert (code, headers.get("Retry-After")) == (429, None)
        # Another user has a place, and so does another file of the same user.
        assert nginx.status("/api/2.0/mlflow-artifacts/artifacts/a", method="PUT", body=b"x", **BOB) == 200
        assert nginx.status("/api/2.0/mlflow-artifacts/artifacts/a", **AUTH) == 200
        assert nginx.status("/api/2.0/mlflow/runs/log-metric", method="POST", body=b"x", **AUTH) == 200
    finally:
        Upstream.slow.set()
        for upload in uploads:
            upload.join()


def test_an_upload_that_the_server_still_holds_counts_although_its_client_is_gone(nginx: Nginx) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/slow"
    Upstream.slow.clear()
    try:
        for _ in range(2):
            gone = http.client.HTTPConnection("127.0.0.1", nginx.public, timeout=15)
            gone.request("PUT", path, b"x", {"Host": HOST, **AUTH})
            time.sleep(0.5)
            gone.close()
        time.sleep(0.5)
        assert nginx.status(path, method="PUT", body=b"x", **AUTH) == 429
    finally:
        Upstream.slow.set()
    for _ in range(100):
        if nginx.status("/api/2.0/mlflow-artifacts/artifacts/a", method="PUT", body=b"x", **AUTH) == 200:
            return
        time.sleep(0.1)
    raise AssertionError("the places were not given back")


def test_large_artifacts_pass_without_a_temporary_file(root: Path, tmp_path: Path) -> None:
    """nginx warns of each temporary file. The clients here are slower than the server, in both directions."""
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=30500), Limits(LARGE, 2))
    path = "/api/2.0/mlflow-artifacts/artifacts/large"
    with running(root, tmp_path, conf, level="warn") as nginx:
        client = http.client.HTTPConnection("127.0.0.1", nginx.public, timeout=15)
        client.putrequest("PUT", path, skip_host=True)
        for name, value in {"Host": HOST, "Content-Length": str(LARGE), **AUTH}.items():
            client.putheader(name, value)
        client.endheaders(bytes(LARGE // 2))
        time.sleep(0.5)
        client.send(bytes(LARGE // 2))
        answer = client.getresponse()
        time.sleep(0.5)
        assert (answer.status, len(answer.read())) == (200, LARGE)
        client.close()
        assert "temporary file" not in nginx.log.read_text()
        assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and path.name != "nginx.pid"] == []


def test_two_hundred_slow_clients_do_not_stop_a_fast_one(nginx: Nginx) -> None:
    """Half of the clients never end their headers, half never their body; ten share an address.

    Not tested: MLflow's own timeouts.
    """
    head = f"POST /api/2.0/mlflow/runs/log-metric HTTP/1.1\r\nHost: {HOST}\r\n"
    body = f"{head}Authorization: {AUTH['Authorization']}\r\nContent-Length: 900\r\n\r\nx"
    held: list[socket.socket] = []
    with ExitStack() as opened:
        for number in range(200):
            source = (f"127.0.1.{number // 10 + 1}", 0)
            slow = socket.create_connection(("127.0.0.1", nginx.public), timeout=15, source_address=source)
            held.append(slow)
            opened.enter_context(slow).sendall((head if number % 2 else body).encode())
        statuses = [nginx.status("/api/2.0/mlflow/runs/search", **AUTH) for _ in range(20)]
        # An end or an answer would make a socket readable: all two hundred are still held.
        assert not select.select(held, [], [], 0)[0]
    assert statuses == [200] * 20


def test_signed_addresses_are_offered_only_where_that_is_meant(nginx: Nginx, behind: Nginx) -> None:
    page = "3.0/mlflow/server-info"
    offered = {"multipart_downloads_enabled": True, "multipart_uploads_enabled": True, "store_type": "SqlStore"}
    for api in ("api", "ajax-api"):
        assert json.loads(nginx.ask(f"/{api}/{page}", **AUTH)[2]) == offered
        assert nginx.status(f"/{api}/{page}") == 401
        answer = behind.ask(f"/ml.flow/{api}/{page}", port=behind.internal, host="mlflow", **AUTH)
        assert json.loads(answer[2]) == {name: value is not True and value for name, value in offered.items()}
        assert behind.status(f"/ml.flow/{api}/{page}", port=behind.internal, host="mlflow") == 401


def test_a_changed_password_file_is_read_at_the_next_request(nginx: Nginx) -> None:
    file = nginx.auth / "htpasswd"
    before = file.read_text()
    changed = nginx.auth / "new"
    changed.write_text(htpasswd.line("eve", PASSWORD, "B" * 16) + "\n")
    changed.rename(file)
    try:
        eve = {"Authorization": "Basic " + base64.b64encode(f"eve:{PASSWORD}".encode()).decode()}
        assert nginx.status("/", **eve) == 200
        assert nginx.status("/", **AUTH) == 401
    finally:
        file.write_text(before)


def test_the_delay_of_a_wrong_password_is_configured() -> None:
    """The delay is measured in bench/; a test of times would fail on a busy machine."""
    assert "auth_delay 1s;" in nginx_conf(Addresses("mlflow", "team"), LIMITS)


CLIENT = {"X_Forwarded_For": "192.0.2.7", "X_Forwarded_Proto": "https"}
"""Headers of a controller for an allowed client."""


def test_under_a_path_everything_is_passed_on_as_it_is(behind: Nginx) -> None:
    code, _, body = behind.ask("/ml.flow/api/2.0/x?a=%2f", **CLIENT, **AUTH)
    seen = json.loads(body)
    assert (code, seen["path"]) == (200, "/ml.flow/api/2.0/x?a=%2f")
    assert seen["headers"]["X-Forwarded-Proto"] == "https"
    assert behind.status("/ml.flow/", **CLIENT) == 401
    code, headers, _ = behind.ask("/ml.flow", **CLIENT)
    assert (code, headers["Location"]) == (308, "/ml.flow/")
    for path in ("/ml.flow/ajax-api/3.0/mlflow/assistant/config", "/ml.flow//API/3.0/mlflow/assistant"):
        assert behind.status(path, **CLIENT, **AUTH) == 403, path


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_nothing_outside_the_path_reaches_mlflow(behind: Nginx, method: str) -> None:
    """Addresses of in-cluster callers have the path, too."""
    ports = ((behind.public, HOST, CLIENT), (behind.internal, "mlflow.team.svc", {}))
    artifact = "2.0/mlflow-artifacts/artifacts/page.html"
    for port, host, forwarded in ports:
        request = {"port": port, "host": host, "method": method, **forwarded}
        Upstream.asked.clear()
        paths = [
            "/",
            "/version",
            f"/api/{artifact}",
            f"/ajax-api/{artifact}",
            "/api/3.0/mlflow/assistant/config",
            "/ml.flowx/version",
            "/mlxflow/version",
            "/ML.FLOW/version",
            "/ml.flow/../version",
            "/ml.flow/..%2fversion",
        ]
        # Each takes a second (auth_delay).
        with ThreadPoolExecutor(len(paths)) as pool:
            refused = pool.map(partial(behind.status, **request), paths)
        assert dict(zip(paths, refused, strict=True)) == dict.fromkeys(paths, 401)
        for path in paths:
            assert behind.status(path, **request, **AUTH) == 404, path
        assert Upstream.asked == []
        assert behind.status("/ml.flow/version", **request, **AUTH) == 200


def test_probes_are_under_the_path_for_people_and_at_the_root_for_the_kubelet(behind: Nginx) -> None:
    for path, code in (("/livez", 204), ("/healthz", 200), ("/readyz", 200)):
        assert behind.status(f"/ml.flow{path}", **CLIENT) == code, path
        assert behind.status(path, **CLIENT) == 401, path
        assert behind.status(path, host="10.1.2.3", port=behind.internal) == code, path
    asked = [json.loads(behind.ask("/healthz", host="10.1.2.3", port=behind.internal)[2])["path"]]
    assert asked == ["/ml.flow/health"]


def test_http_is_led_to_https_before_a_password_is_asked_for(behind: Nginx) -> None:
    code, headers, _ = behind.ask("/ml.flow/x?y", X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="http")
    assert (code, headers["Location"]) == (308, f"https://{HOST}/ml.flow/x?y")
    _, headers, _ = behind.ask("/ml.flow/", **CLIENT)
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    _, headers, body = behind.ask("/ml.flow/", host="mlflow", port=behind.internal, **AUTH)
    assert "Strict-Transport-Security" not in headers
    assert json.loads(body)["headers"]["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize(
    ("forwarded", "code"),
    [
        ("192.0.2.7", 200),
        ("2001:db8::1", 200),
        ("203.0.113.9, 192.0.2.7", 200),
        ("192.0.2.7, 127.0.0.2", 200),
        ("203.0.113.9", 403),
        ("192.0.2.7, 203.0.113.9", 403),
        ("203.0.113.9, 127.0.0.2", 403),
        ("192.0.2.7.evil", 403),
        (None, 403),
    ],
)
def test_the_allow_list_judges_the_last_address_that_no_trusted_proxy_has(
    behind: Nginx, forwarded: str | None, code: int
) -> None:
    """A client can send any value before the one that proxies append."""
    headers = {} if forwarded is None else {"X_Forwarded_For": forwarded}
    assert behind.status("/ml.flow/", **headers, **AUTH) == code


def test_the_allow_list_restricts_only_the_public_port(behind: Nginx) -> None:
    assert behind.status("/ml.flow/", host="mlflow.team.svc", port=behind.internal, **AUTH) == 200
    code, _, body = behind.ask("/ml.flow/", host="mlflow", port=behind.internal, X_Forwarded_For="192.0.2.7", **AUTH)
    assert (code, json.loads(body)["headers"]["X-Forwarded-For"]) == (200, "127.0.0.1")


def test_a_model_answers_four_pages_under_its_prefix_and_no_others(serving: Nginx) -> None:
    base = "/mlflow/serving/iris"
    for name in ("ping", "health", "version", "invocations"):
        assert serving.status(f"{base}/{name}") == 401, name
        code, _, body = serving.ask(f"{base}/{name}?x=1", method="POST", body=b"{}", **AUTH)
        assert (code, json.loads(body)["path"]) == (200, f"/{name}?x=1")
    for path in (
        f"{base}/docs",
        f"{base}/openapi.json",
        f"{base}/",
        base,
        "/ping",
        "/",
        f"{base}/ping/x",
        "/etc/passwd",
    ):
        assert serving.status(path) == 401, path
        assert serving.status(path, **AUTH) == 404, path
        assert serving.status(path, method="PUT", **AUTH) == 404, path


def test_a_models_liveness_asks_its_health_and_its_readiness_its_ping(serving: Nginx) -> None:
    assert serving.status("/livez", host="10.1.2.3") == 204
    assert json.loads(serving.ask("/healthz", host="10.1.2.3")[2])["path"] == "/health"
    Upstream.asked.clear()
    assert serving.ask("/readyz", host="10.1.2.3", port=serving.internal)[2] == b"ready\n"
    assert set(Upstream.asked) <= {"/ping"}
    assert serving.status("/mlflow/serving/iris/healthz") == 200


def test_errors_before_a_model_are_json_as_the_models_own(serving: Nginx) -> None:
    predict = "/mlflow/serving/iris/invocations"
    answers = {
        401: serving.ask(predict, method="POST", body=b"{}"),
        404: serving.ask("/mlflow/serving/iris/docs", **AUTH),
        413: serving.ask(predict, method="POST", body=b"x" * 1001, **AUTH),
    }
    for status, (code, headers, body) in answers.items():
        assert code == status
        assert headers["Content-Type"] == "application/json"
        assert set(json.loads(body)) == {"error_code", "message"}, body
    assert answers[401][1]["WWW-Authenticate"] == 'Basic realm="MLflow"'
    assert json.loads(answers[413][2])["error_code"] == "REQUEST_ENTITY_TOO_LARGE"


def raw(port: int, request: bytes) -> int | None:
    """Return the status of the first answer to raw bytes; None if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        connection.sendall(request)
        answer = connection.recv(4096)
    return int(answer.split(b" ", 2)[1]) if answer else None


BASIC = f"Authorization: {AUTH['Authorization']}".encode()
LINE = b"POST /api/2.0/mlflow/runs/search HTTP/1.1"
NAMED = f"Host: {HOST}".encode()
SMUGGLED = {
    "length and chunks": (
        [LINE, NAMED, BASIC, b"Content-Length: 4", b"Transfer-Encoding: chunked", b"", b"0", b"", b""],
        400,
    ),
    "two lengths": ([LINE, NAMED, BASIC, b"Content-Length: 4", b"Content-Length: 5", b"", b"abcde"], 400),
    "negative length": ([LINE, NAMED, BASIC, b"Content-Length: -1", b"", b""], 400),
    "two hosts": ([LINE, NAMED, b"Host: evil.example", BASIC, b"Content-Length: 0", b"", b""], 400),
    "no host": ([b"GET / HTTP/1.1", BASIC, b"", b""], 400),
    "folded header": ([LINE, NAMED, BASIC, b"X-A: b", b" c", b"Content-Length: 0", b"", b""], 400),
    "NUL in the path": ([b"GET /\x00 HTTP/1.1", NAMED, BASIC, b"", b""], 400),
    "encoded NUL": ([b"GET /%00 HTTP/1.1", NAMED, BASIC, b"", b""], 400),
    "NUL in a header": ([LINE, NAMED, BASIC, b"X-A: b\x00c", b"Content-Length: 0", b"", b""], 400),
    "space before the colon": ([LINE, NAMED, BASIC, b"Transfer-Encoding : chunked", b"", b"0", b"", b""], 400),
    "unknown coding": ([LINE, NAMED, BASIC, b"Transfer-Encoding: xchunked", b"", b"0", b"", b""], 501),
    "another host in the target": ([b"GET http://evil.example/ HTTP/1.1", NAMED, BASIC, b"", b""], 421),
    "trace": ([b"TRACE / HTTP/1.1", NAMED, BASIC, b"", b""], 405),
    "connect": ([b"CONNECT mlflow:80 HTTP/1.1", NAMED, BASIC, b"", b""], 400),
    "above the root": ([b"GET /../../etc/passwd HTTP/1.1", NAMED, BASIC, b"", b""], 400),
    "two slashes": ([b"GET // HTTP/1.1", NAMED, b"", b""], 401),
    "up from a probe": ([b"GET /healthz/.. HTTP/1.1", NAMED, b"", b""], 401),
    "encoded up from a probe": ([b"GET /healthz%2f..%2f HTTP/1.1", NAMED, b"", b""], 401),
    "options": ([b"OPTIONS / HTTP/1.1", NAMED, b"", b""], 401),
    "no user": ([b"GET / HTTP/1.1", NAMED, b"Authorization: Basic Og==", b"", b""], 401),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_could_read_differently_has_one_answer(nginx: Nginx, name: str) -> None:
    lines, code = SMUGGLED[name]
    assert raw(nginx.public, b"\r\n".join(lines)) == code


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: validate.host(name) is None)
SEGMENTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
ADDRESSES = st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")
RANGES = ADDRESSES.filter(lambda cidr: validate.cidr(cidr) is None)


def test_nginx_and_gixy_accept_whatever_is_accepted(root: Path, tmp_path: Path) -> None:
    """One process validates many configurations, each in its own file."""
    made: list[Path] = []

    @settings(max_examples=25, deadline=None, database=None)
    @given(
        host=HOSTS,
        path=PATHS,
        scheme=st.sampled_from(["http", "https"]),
        port=st.sampled_from([None, 30500]),
        size=st.integers(1, 2**60),
        uploads=st.integers(1, 1000),
        request=st.integers(2**20, 2**25),
        allow=st.lists(RANGES, max_size=5),
        trusted=st.lists(RANGES, max_size=5),
        serving=st.none() | LABEL,
    )
    def judge(host, path, scheme, port, size, uploads, request, allow, trusted, serving) -> None:
        addresses = Addresses("mlflow", "team", host=host, port=port, scheme=scheme, path=path)
        access = Access(allow_from=allow, trusted_proxies=trusted)
        made.append(tmp_path / f"{len(made)}.conf")
        made[-1].write_text(nginx_conf(addresses, Limits(size, uploads, request), access, serving))

    judge()
    auth = tmp_path / "mlflow-stack-auth"
    auth.mkdir()
    (auth / "htpasswd").touch()
    tests = "".join(f"nginx -e stderr -t -c /mnt/{conf.name} || exit 1; " for conf in made)
    binds = " && ".join(
        f'mount --rbind "{source}" "{root}{target}"'
        for source, target in ((tmp_path, "/mnt"), ("/dev", "/dev"), ("/proc", "/proc"))
    )
    script = f"{binds} && mount -t tmpfs none {root}/tmp && exec chroot {root} sh -c '{tests}'"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("test is successful") == len(made)
    assert "[warn]" not in done.stderr
    for conf in made[:: max(1, len(made) // 5)]:
        assert {problem["plugin"] for problem in gixy(conf)} <= waived("gixy", "kubernetes")
