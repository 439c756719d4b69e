"""Duration of `make up`, step by step: warm as measured here, cold as in this machine's last build."""

import json
import re
import time

from bench.platform import Platform
from bench.result import Steps
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.progress import Progress

_LINE = re.compile(r"\s*(?:(\d+) min )?([\d.]+) s  (\S.*?)\s*$")
# Steps that only empty caches cause; the others are measured.
_COLD = ("build ", "debian-", "image: ", "install ", "supervisor ")


def measure(platform: Platform, progress: Progress) -> list[Steps]:
    """Measure a new instance, a repetition, and an `up` after `down`. Returns with the instance up."""
    new = "new instance" if not platform.instance.node.exists() else "instance kept from before (KEEP=1)"
    with progress.step("bench: up", 70):
        first = _up(platform, new)
    with progress.step("bench: up again", 15):
        again = _up(platform, "again, nothing changed")
    with progress.step("bench: down and up", 60):
        platform.local("down")
        after = _up(platform, "after `make down`")
    return [first, again, after, cold()]


def cold() -> Steps:
    """Return the durations of the last builds, which the command line records beside the caches."""
    known: dict[str, float] = json.loads((cache_dir() / "timings.json").read_text())
    return Steps(
        "what empty caches add: each build as it last really ran on this machine (Go's own cache may have been warm)",
        None,
        [(name, seconds) for name, seconds in known.items() if name.startswith(_COLD)],
    )


def steps_of(text: str) -> list[tuple[str, float]]:
    """Return the table that `up` ends with."""
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return [(match[3], 60 * int(match[1] or 0) + float(match[2])) for match in found if match]


def _up(platform: Platform, name: str) -> Steps:
    started = time.monotonic()
    done = platform.local("up")
    return Steps(f"make up: {name}", round(time.monotonic() - started, 1), steps_of(done.stderr))
