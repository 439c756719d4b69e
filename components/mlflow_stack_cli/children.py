"""Child programs that end with the command that started them, together with their own children."""

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

# Code between fork and exec is unsafe if there are threads, so the program is started through its own interpreter.
# On an interrupt, an engine finishes and records what it began. A closed terminal must not end it before that.
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
    """Return the command line of a program that is interrupted whenever this thread or process ends."""
    return [sys.executable, "-IS", "-c", _ENTER, str(os.getpid()), *argv]


def run(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a tied program to its end and return its output as text."""
    # Files, not pipes: processes that a killed program leaves behind would keep pipes open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _started(argv, cwd, env, out, err) as program:
            status = program.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, status, out.read(), err.read())


def stream(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a tied program whose output goes to the user; return its exit status.

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
    """Run a tied program. If the engine is killed, also end the language host and the providers that it started."""
    with subprocess.Popen(tied(argv), cwd=cwd, env=env, stdout=out, stderr=err) as program:
        yield program
    if program.returncode == -signal.SIGKILL:
        end_left_by(program.pid)


def end_left_by(pid: int) -> None:
    """Kill the processes started by a tied program that has ended. Works on Linux only."""
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
