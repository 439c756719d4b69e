"""First process of a node, whose lifetime is the node's."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn, Self

from mlflow_stack_cli.errors import LocalError

_INIT: Final = Path(__file__).with_name("init.sh")
_NAMESPACES: Final = ("--net", "--mount", "--pid", "--uts", "--ipc")
_PATH: Final = "/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# unshare(1) stays as the parent of the new process in the cgroup: the end of a login session ends neither.
_JOIN: Final = 'for procs in $CGROUPS; do echo 0 > "$procs" || exit; done; exec unshare "$@"'
_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Process:
    """Process that is distinguished from a later one with the same id."""

    pid: int
    """Process id on the machine."""
    ticks: int
    """Start time, in clock ticks since the machine's start."""
    since: float
    """Start time, in seconds since 1970."""

    @classmethod
    def read(cls, record: Path) -> Self | None:
        """Return the process recorded in that file, if it still runs."""
        try:
            process = cls(**json.loads(record.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # the machine lost power during the write
            return None
        return process if process.runs() else None

    def write(self, record: Path) -> None:
        """Record the process in that file."""
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(record)

    def runs(self) -> bool:
        """Return whether the process still runs."""
        return _ticks(self.pid) == self.ticks

    def end(self, seconds: float) -> None:
        """Ask the process to end, kill it after that time, and return when it has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.runs():
                return
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, _SECONDS)):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
                if ended.poll(patience * 1000):
                    return
            raise LocalError(f"process {self.pid} does not end. Next: find out with `ps` what it waits for.")
        finally:
            os.close(handle)

    def enter(self, *argv: str) -> list[str]:
        """Return the command line that runs this one in all of the process's namespaces, with its own environment."""
        environment = [f"PATH={_PATH}", "HOME=/root", "PYTHONPATH=/opt/supervisor", "LC_ALL=C.UTF-8"]
        return ["nsenter", f"--target={self.pid}", *_NAMESPACES, "--", "/usr/bin/env", "-i", *environment, *argv]

    def path(self, name: str) -> Path:
        """Return the path of a file in the process's own root filesystem."""
        return Path(f"/proc/{self.pid}/root") / name.lstrip("/")


class Launch:
    """First process with its root filesystem, which waits for `go` until the node has a network."""

    def __init__(self, environment: dict[str, str], cgroups: Sequence[Path], log: Path) -> None:
        """Start it, detached from our session. `cgroups`: files to enter cgroups by; `log`: file for errors.

        Raises `LocalError` if it ends early.
        """
        self._log = log
        with log.open("wb") as errors:
            self._starter = subprocess.Popen(
                ["setsid", "--fork", "sh", "-c", _JOIN, "sh", *_NAMESPACES, "--fork", "--kill-child", "sh", str(_INIT)],
                env={"PATH": os.environ.get("PATH", os.defpath), "CGROUPS": " ".join(map(str, cgroups))} | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
            )
        assert self._starter.stdout
        if not select.select([self._starter.stdout], [], [], _SECONDS)[0]:
            self._fail("is not ready")
        told = self._starter.stdout.readline().decode().strip()
        ticks = _ticks(int(told)) if told.isdigit() else None
        if ticks is None:
            self._fail("has ended")
        self.process = Process(int(told), ticks, time.time())

    def go(self) -> None:
        """Let it continue, once its network exists."""
        assert self._starter.stdin
        self._starter.stdin.write(b"go\n")
        self.close()

    def close(self) -> None:
        """Release it: it ends, unless `go` was called."""
        assert self._starter.stdin
        assert self._starter.stdout
        self._starter.stdin.close()
        self._starter.stdout.close()
        self._starter.wait()

    def _fail(self, what: str) -> NoReturn:
        self.close()
        raise LocalError(f"the node's first process {what}:\n{self._log.read_text()}Next: fix the errors above.")


def _ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks; None if it does not exist or has ended."""
    try:
        # The second field, the program's name, is in brackets and may hold any characters.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
