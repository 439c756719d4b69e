"""Wait of `make up` for an address that is up before its new password is active."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from mlflow_stack_cli.errors import LocalError
from sandbox import quickstart


class Server(http.server.BaseHTTPRequestHandler):
    """Server that answers 401 a given number of times."""

    refusals = 0
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.headers["Authorization"])
        code = 401 if len(self.asked) <= self.refusals else 200
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setattr(quickstart.time, "sleep", lambda _seconds: None)
    Server.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_address[1]}",
            "MLFLOW_TRACKING_USERNAME": "ann",
            "MLFLOW_TRACKING_PASSWORD": "p",
        }
        server.shutdown()


def test_it_waits_until_the_password_counts(environment: dict[str, str]) -> None:
    Server.refusals = 2
    quickstart._await_password(environment)
    assert Server.asked == ["Basic YW5uOnA="] * 3


def test_a_password_that_never_counts_is_said(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "_SECRET_SECONDS", 0.5)
    Server.refusals = 10**9
    with pytest.raises(LocalError, match="still answers 401 to the stack's own password") as refused:
        quickstart._await_password(environment)
    assert "ann" not in str(refused.value)
