"""Shared code of the containers of a model's pod: their volume, logging and error handling.

The steps before the server (``fetch_model.py``, ``install_libraries.py``) retry temporary errors, and exit with 1 after
a timeout, so that they are restarted. Permanent errors are written to a marker file in the volume, and the step exits
with 0: the server's container then reports the error and fails, because ``pulumi up`` reports the exit of that
container only.
"""

import importlib.metadata
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import requests
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

WAIT_SECONDS: Final = 300
PAUSE_SECONDS: Final = 2.0
REFUSED_STATUSES: Final = (401, 403)
# The image's own MLflow serves the model, whatever release wrote it.
SERVED_BY: Final = ("mlflow", "mlflow-skinny", "mlflow-tracing")


class RefusedError(Exception):
    """Permanent error; the message says why and what to do."""


class NotYetError(Exception):
    """Temporary error, such as a server that does not answer; the message says what."""


class Volume:
    """Volume of one model's pod. Everything gets its final name when it is complete, so existing names are complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.libraries = folder / "libraries"
        self.note = folder / "refused"

    def fresh(self, name: str) -> Path:
        """Return an empty folder for incomplete content."""
        unfinished = self.folder / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        return unfinished

    @staticmethod
    def complete(unfinished: Path, target: Path) -> None:
        """Give complete content its final name, durable across a power loss."""
        os.sync()
        unfinished.rename(target)


def say(text: str) -> None:
    """Print one line to the container's log."""
    print(text, file=sys.stderr, flush=True)


def seconds(name: str, default: float) -> float:
    """Return a number of seconds from the environment."""
    return float(os.environ.get(name, default))


def patiently(attempt: Callable[[], None]) -> None:
    """Retry until success or the deadline. Each reason for waiting is logged once."""
    deadline = time.monotonic() + seconds("WAIT_SECONDS", WAIT_SECONDS)
    said = ""
    while True:
        try:
            return attempt()
        except NotYetError as reason:
            if time.monotonic() > deadline:
                raise
            if str(reason) != said:
                said = str(reason)
                say(f"Waiting: {said}")
        time.sleep(seconds("PAUSE_SECONDS", PAUSE_SECONDS))


def reach(url: str, what: str, **options: object) -> requests.Response:
    """Return the answer of a required server. Raises `NotYetError` if it does not answer, or answers with an outage."""
    try:
        answer = requests.get(url, timeout=10, **options)  # pyright: ignore[reportArgumentType]
    except requests.RequestException as error:
        raise NotYetError(f"{what} cannot be reached ({_cause(error)})") from error
    if answer.status_code >= 500:
        raise NotYetError(f"{what} answers {answer.status_code}")
    return answer


def _cause(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def step(volume: Volume, run: Callable[[], None]) -> int:
    """Run a step before the server; return its exit code."""
    if volume.note.exists():
        return 0
    try:
        run()
    except RefusedError as refusal:
        say(f"Refused: {refusal}")
        volume.note.write_text(f"Refused: {refusal}\n")
    except NotYetError as reason:
        say(f"Failed: {reason}; waited {seconds('WAIT_SECONDS', WAIT_SECONDS):.0f} s. It is tried again.")
        return 1
    except Exception as error:
        traceback.print_exc()
        say(f"Failed: {type(error).__name__}: {brief(error)}. It is tried again.")
        return 1
    return 0


def brief(error: object) -> str:
    """Return the text of an error in one line of limited length."""
    return " ".join(str(error).split())[:500]


def requirements(model: Path) -> Iterator[Requirement]:
    """Return the model's requirements besides MLflow that are packages of an index."""
    file = model / "requirements.txt"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            wanted = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:  # an empty line, a comment, an option of pip's
            continue
        if canonicalize_name(wanted.name) not in SERVED_BY and (wanted.marker is None or wanted.marker.evaluate()):
            yield wanted


def installed() -> dict[str, str]:
    """Return the packages that Python finds here, with their versions; the first of each name counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        found.setdefault(canonicalize_name(distribution.name), distribution.version)
    return found


def absent(model: Path) -> list[Requirement]:
    """Return the model's requirements that this Python lacks in any version."""
    here = installed()
    return [wanted for wanted in requirements(model) if canonicalize_name(wanted.name) not in here]


def unmet(model: Path) -> list[Requirement]:
    """Return the model's requirements that this Python lacks, or has in another version."""
    here = installed()
    return [
        wanted
        for wanted in requirements(model)
        if (version := here.get(canonicalize_name(wanted.name))) is None or version not in wanted.specifier
    ]
