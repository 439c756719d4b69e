"""One comment and one issue, edited in place, on a server that keeps them as GitHub and GitLab do."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.previews import forge

TOKEN = "canary-of-a-token"


class Server(http.server.BaseHTTPRequestHandler):
    """Lists of items under paths, at most a hundred to a page; each item also has its own path."""

    lists: dict[str, list[dict[str, Any]]]
    edits: str
    status = 200

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        assert TOKEN in str(self.headers)
        url = urlparse(self.path)
        query = {name: value[0] for name, value in parse_qs(url.query).items()}
        page, size = int(query["page"]), int(query["per_page"])
        items = [
            item for item in self.lists.get(url.path, []) if "state" not in query or item["state"] == query["state"]
        ]
        self._answer(items[(page - 1) * size : page * size])

    def do_POST(self) -> None:
        item = self._body()
        items = self.lists.setdefault(self.path, [])
        number = len(items) + 1
        state = "opened" if self.edits == "PUT" else "open"
        items.append({"id": number, "number": number, "iid": number, "state": state, **item})
        self._answer(items[-1])

    def _edit(self) -> None:
        assert self.command == self.edits
        number = int(self.path.rpartition("/")[2])
        item = next(item for items in self.lists.values() for item in items if item["id"] == number)
        change = self._body()
        if change.pop("state_event", "") == "close":
            change = {"state": "closed"}
        item.update(change)
        self._answer(item)

    do_PATCH = do_PUT = _edit  # noqa: N815 - named by the methods

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["GitHub", "GitLab"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[forge.Forge]:
    Server.lists, Server.status = {}, 200
    for name in ("GITHUB_REPOSITORY", "CI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        if request.param == "GitHub":
            Server.edits = "PATCH"
            values = {"GITHUB_REPOSITORY": "team/mlflow", "GITHUB_API_URL": url, "GITHUB_TOKEN": TOKEN}
        else:
            Server.edits = "PUT"
            values = {"CI_PROJECT_ID": "7", "CI_API_V4_URL": url, "FORGE_TOKEN": TOKEN}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield forge.here()
        server.shutdown()


def test_a_comment_is_edited_in_place_also_behind_a_hundred_others(there: forge.Forge) -> None:
    for number in range(120):
        there.say("5", f"other {number}", "x")
    there.say("5", "preview prod", "first")
    there.say("5", "preview prod", "second")
    there.say("5", "preview staging", "third")
    (items,) = Server.lists.values()
    assert [item["body"] for item in items[120:]] == [
        "<!-- preview prod -->\nsecond",
        "<!-- preview staging -->\nthird",
    ]


def test_an_issue_is_opened_edited_and_closed(there: forge.Forge) -> None:
    there.report("Stack prod is no longer as deployed", "drift prod", "")
    assert not any(Server.lists.values())
    there.report("Stack prod is no longer as deployed", "drift prod", "one")
    there.report("Stack prod is no longer as deployed", "drift prod", "two")
    (items,) = Server.lists.values()
    assert [item["title"] for item in items] == ["Stack prod is no longer as deployed"]
    assert "<!-- drift prod -->\ntwo" in items[0].values()
    there.report("Stack prod is no longer as deployed", "drift prod", "")
    assert items[0]["state"] == "closed"
    there.report("Stack prod is no longer as deployed", "drift prod", "three")
    assert len(items) == 2


def test_a_refusal_is_said_without_the_token(there: forge.Forge) -> None:
    Server.status = 403
    with pytest.raises(LocalError, match=r"answered with 403\. Next: check that the token may write") as refused:
        there.say("5", "preview prod", "first")
    assert TOKEN not in str(refused.value)


def test_without_a_pipeline_or_a_token_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_REPOSITORY", "CI_PROJECT_ID", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LocalError, match="this is not a pipeline"):
        forge.here()
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/mlflow")
    with pytest.raises(LocalError, match="GITHUB_TOKEN is not set"):
        forge.here()
