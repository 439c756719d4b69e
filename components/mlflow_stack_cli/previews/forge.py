"""Comments and issues on GitHub and compatible platforms: one comment per change, one drift issue, edited in place.

Platform, repository and token come from the environment of the pipeline.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mlflow_stack_cli.errors import LocalError

_PAGE: Final = 100
_TIMEOUT: Final = 30
Item = dict[str, Any]


@dataclass(frozen=True)
class Forge:
    """Platform for changes and issues."""

    root: str
    """URL of the repository in the platform's API."""
    headers: Mapping[str, str]
    comments: str
    """Path of the comments on change `{change}`."""
    comment: str
    """Path of one comment."""
    edit: str
    """HTTP method of an edit."""
    text: str
    """Key of an issue's text."""
    number: str
    """Key of an issue's number."""
    opened: str
    """State of an open issue."""
    close: Mapping[str, str]
    """Edit that closes an issue."""

    def say(self, change: str, marker: str, text: str) -> None:
        """Write a comment on a change, or edit the existing one with this marker."""
        body = {"body": f"<!-- {marker} -->\n{text}"}
        comments = self.comments.format(change=change)
        found = self._find(comments, "body", marker)
        if found is None:
            self._call("POST", comments, body)
        else:
            self._call(self.edit, self.comment.format(change=change, id=found["id"]), body)

    def report(self, title: str, marker: str, text: str) -> None:
        """Open an issue, or edit the open one with this marker; close it if the text is empty."""
        found = self._find(f"issues?state={self.opened}", self.text, marker)
        body = {"title": title, self.text: f"<!-- {marker} -->\n{text}"}
        if found is None and text:
            self._call("POST", "issues", body)
        elif found is not None:
            self._call(self.edit, f"issues/{found[self.number]}", body if text else dict(self.close))

    def _find(self, path: str, field: str, marker: str) -> Item | None:
        page = 1
        while True:
            joint = "&" if "?" in path else "?"
            items = cast("list[Item]", self._call("GET", f"{path}{joint}per_page={_PAGE}&page={page}"))
            found = next((item for item in items if f"<!-- {marker} -->" in (item.get(field) or "")), None)
            if found is not None or len(items) < _PAGE:
                return found
            page += 1

    def _call(self, method: str, path: str, body: Item | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the platform's own address
            f"{self.root}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={**self.headers, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise LocalError(
                f"{method} {self.root}/{path} was answered with {error.code}. "
                "Next: check that the token may write comments and issues."
            ) from error
        except OSError as error:
            raise LocalError(f"{self.root} does not answer: {error}. Next: run the same command again.") from error


def here() -> Forge:
    """Return the platform of the pipeline that runs this process. Raises `LocalError` if there is none."""
    env = os.environ
    if "GITHUB_REPOSITORY" in env:
        return Forge(
            root=f"{env.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{env['GITHUB_REPOSITORY']}",
            headers={"Authorization": f"Bearer {_token('GITHUB_TOKEN')}", "Accept": "application/vnd.github+json"},
            comments="issues/{change}/comments",
            comment="issues/comments/{id}",
            edit="PATCH",
            text="body",
            number="number",
            opened="open",
            close={"state": "closed"},
        )
    if "CI_PROJECT_ID" in env:
        return Forge(
            root=f"{env['CI_API_V4_URL']}/projects/{env['CI_PROJECT_ID']}",
            headers={"PRIVATE-TOKEN": _token("FORGE_TOKEN")},
            comments="merge_requests/{change}/notes",
            comment="merge_requests/{change}/notes/{id}",
            edit="PUT",
            text="description",
            number="iid",
            opened="opened",
            close={"state_event": "close"},
        )
    raise LocalError("this is not a pipeline of GitHub or GitLab. Next: run `mlflow-stack preview` instead.")


def _token(name: str) -> str:
    if not os.environ.get(name):
        raise LocalError(f"{name} is not set. Next: set it in the environment of this step.")
    return os.environ[name]
