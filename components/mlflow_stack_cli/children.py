"""Programs that do not outlive the command that started them, nor leave programs of their own behind."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Final

# Code between fork and exec is not safe beside threads, so the program is entered through an interpreter of its own.
# An interrupt asks an engine to finish what it began and to record it; a closed terminal must not end it before that.
_ENTER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.environ["MLFLOW_STACK_STARTED_BY"] = str(os.getpid())
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def tied(argv: Sequence[str]) -> list[str]:
    """The command line that runs a program which is interrupted when this thread or process ends, however it ends."""
    return [sys.executable, "-IS", "-c", _ENTER, str(os.getpid()), *argv]


def run(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a tied program to its end and return its output as text."""
    # Files, not pipes: what a killed program leaves behind would hold these open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _started(argv, cwd, env, out, err) as program:
            status = program.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, status, out.read(), err.read())


def stream(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a tied program whose output is the user's to see; return its exit status.

    An interrupt from the terminal reaches the program itself. SIGTERM and SIGHUP, which only reach this process, are
    passed on as an interrupt.
    """
    with _started(argv, cwd, env) as program, _signals(program):
        return program.wait()


@contextmanager
def _started(
    argv: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str],
    out: IO[str] | None = None,
    err: IO[str] | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """A tied program. A killed engine leaves its language host and its providers: those that it started end, too."""
    with subprocess.Popen(tied(argv), cwd=cwd, env=env, stdout=out, stderr=err) as program:
        yield program
    if program.returncode == -signal.SIGKILL:
        end_left_by(program.pid)


def end_left_by(pid: int) -> None:
    """Kill what a tied program that is gone, this process of then, has started. Only Linux shows it."""
    mark = f"MLFLOW_STACK_STARTED_BY={pid}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@contextmanager
def _signals(program: subprocess.Popen[bytes]) -> Generator[None]:
    def passed_on(_number: int, _frame: FrameType | None) -> None:
        program.send_signal(signal.SIGINT)

    def left_to_it(_number: int, _frame: FrameType | None) -> None:
        return

    wanted = {signal.SIGINT: left_to_it, signal.SIGTERM: passed_on, signal.SIGHUP: passed_on}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
