"""The proxy's configuration in a real nginx: the image's own, in its root filesystem, on loopback.

What needs a kubelet (a Secret that changes, a pod that drains) is shown in tests/e2e.
"""

import base64
import http.client
import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.claims import free_port

from local import images
from local.images.debian import debian
from local.progress import Progress
from mlflow_stack import Addresses, htpasswd, proxy

PASSWORD = "correct horse battery"
AUTH = {"Authorization": "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
HOST = "mlflow.example.com"


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked; /health as MLflow does, the search as a database that can be stopped."""

    protocol_version = "HTTP/1.1"
    database = True
    slow = threading.Event()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if "slow" in self.path:
            self.slow.wait(20)
        code = 503 if self.path.startswith("/api/2.0/mlflow/experiments/search") and not self.database else 200
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(code)
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_OPTIONS = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Nginx:
    """A running proxy and its two ports."""

    def __init__(self, public: int, internal: int, auth: Path) -> None:
        self.public = public
        self.internal = internal
        self.auth = auth

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


@pytest.fixture(scope="module")
def nginx(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    public, internal = free_port(), free_port()
    conf = proxy.nginx_conf(Addresses("mlflow", "team", host=HOST), 1000, 2)
    for old, new in (
        (f"127.0.0.1:{proxy.UPSTREAM_PORT}", f"127.0.0.1:{server.server_address[1]}"),
        (f"listen {proxy.PUBLIC_PORT}", f"listen 127.0.0.1:{public}"),
        (f"listen {proxy.INTERNAL_PORT}", f"listen 127.0.0.1:{internal}"),
    ):
        assert old in conf
        conf = conf.replace(old, new)
    config, auth, scratch = (folder / name for name in ("config", "auth", "tmp"))
    for path in (config, auth, scratch):
        path.mkdir()
    scratch.chmod(0o777)
    (config / "nginx.conf").write_text(conf)
    (config / "ready").write_text("ready\n")
    (auth / "htpasswd").write_text(htpasswd.line("ann", PASSWORD, "A" * 16) + "\n")
    mounts = [(config, proxy.CONFIG), (auth, proxy.AUTH), (scratch, "/tmp")]
    made = [root / target.lstrip("/") for _, target in mounts[:2]]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
    binds = [*mounts, (Path("/dev"), "/dev"), (Path("/proc"), "/proc")]
    script = "".join(f'mount --rbind "{source}" "{root}{target}" && ' for source, target in binds)
    script += f'exec chroot "{root}" nginx -e stderr -c {proxy.CONFIG}/nginx.conf -g "daemon off;"'
    log = (folder / "log").open("w")
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=log, stderr=log)
    running = Nginx(public, internal, auth)
    for _ in range(100):
        try:
            running.status("/livez")
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
    yield running
    process.terminate()
    process.wait(20)
    server.shutdown()
    log.close()
    for path in made:
        shutil.rmtree(path)


def test_it_starts_without_a_warning(root: Path, nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = (tmp_path_factory.getbasetemp() / "nginx0" / "log").read_text()
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
        code, _, body = nginx.ask("/readyz")
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


def test_one_upload_too_many_is_503_and_everything_else_goes_on(nginx: Nginx) -> None:
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
        assert nginx.status(path, method="PUT", body=b"x", **AUTH) == 503
        assert nginx.status("/api/2.0/mlflow-artifacts/artifacts/a", **AUTH) == 200
        assert nginx.status("/api/2.0/mlflow/runs/log-metric", method="POST", body=b"x", **AUTH) == 200
    finally:
        Upstream.slow.set()
        for upload in uploads:
            upload.join()


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
    """That it delays is measured in bench/; a clock in a test would fail on a busy machine."""
    assert "auth_delay 1s;" in proxy.nginx_conf(Addresses("mlflow", "team"), 1, 1)
