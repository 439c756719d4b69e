"""What the containers of a model's pod share: a volume, and how they say what goes on.

The steps before the server (``fetch_model.py``, ``install_libraries.py``) wait for what may still come, and end with 1
where it does not come in time, so that they are started again. What no waiting changes they leave in the volume as a
note and end well: the server's container then says it and fails, since that is the container whose end ``pulumi up``
reports.
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
    """The step cannot go on, and no waiting changes that; the message says why and what to do."""


class NotYetError(Exception):
    """Something does not answer, which may pass; the message says what."""


class Volume:
    """The pod's volume of one model: what is in it is whole, as everything gets its name when it is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.libraries = folder / "libraries"
        self.note = folder / "refused"

    def fresh(self, name: str) -> Path:
        """An empty folder for what is not complete yet."""
        unfinished = self.folder / f".{name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        return unfinished

    @staticmethod
    def complete(unfinished: Path, target: Path) -> None:
        """Gives what is complete its name; after a power loss it is still whole."""
        os.sync()
        unfinished.rename(target)


def say(text: str) -> None:
    """One line for whoever reads the container's log."""
    print(text, file=sys.stderr, flush=True)


def seconds(name: str, default: float) -> float:
    """A number of seconds from the environment."""
    return float(os.environ.get(name, default))


def patiently(attempt: Callable[[], None]) -> None:
    """Tries until it works or the time is up. Each reason to wait is said once."""
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
    """The answer of a server that must be there. Raises `NotYetError` where there is none, or one of trouble."""
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
    """Runs a step before the server; its exit code."""
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
    """The text of an error in one line of bounded length."""
    return " ".join(str(error).split())[:500]


def requirements(model: Path) -> Iterator[Requirement]:
    """What the model says it needs beside MLflow, as far as it names packages of an index."""
    file = model / "requirements.txt"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            wanted = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:  # an empty line, a comment, an option of pip's
            continue
        if canonicalize_name(wanted.name) not in SERVED_BY and (wanted.marker is None or wanted.marker.evaluate()):
            yield wanted


def installed() -> dict[str, str]:
    """The packages that Python finds here, with their versions; of two with one name the first counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        found.setdefault(canonicalize_name(distribution.name), distribution.version)
    return found


def absent(model: Path) -> list[Requirement]:
    """What the model needs and this Python has in no version."""
    here = installed()
    return [wanted for wanted in requirements(model) if canonicalize_name(wanted.name) not in here]


def unmet(model: Path) -> list[Requirement]:
    """What the model needs and this Python has not, or in another version."""
    here = installed()
    return [
        wanted
        for wanted in requirements(model)
        if (version := here.get(canonicalize_name(wanted.name))) is None or version not in wanted.specifier
    ]
