"""Programs that do not outlive the command that started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

# Code between fork and exec is not safe beside threads, so the program is entered through an interpreter of its own.
# An interrupt asks an engine to finish what it began and to record it; a closed terminal must not end it before that.
_ENTER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def tied(argv: Sequence[str]) -> list[str]:
    """The command line that runs a program which is interrupted when this thread or process ends, however it ends."""
    return [sys.executable, "-IS", "-c", _ENTER, str(os.getpid()), *argv]


def run(argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a tied program to its end and return its output as text."""
    return subprocess.run(tied(argv), capture_output=True, text=True, check=False, **options)


def stream(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a tied program whose output is the user's to see; return its exit status.

    An interrupt from the terminal reaches the program itself. SIGTERM and SIGHUP, which only reach this process, are
    passed on as an interrupt.
    """
    with subprocess.Popen(tied(argv), cwd=cwd, env=env) as program, _signals(program):
        return program.wait()


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
