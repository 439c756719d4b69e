"""Child programs that end with the command that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_stack_cli import children

# Prints its id, then waits for an interrupt and records it.
ENGINE = """
import os, pathlib, signal, sys, time
def interrupted(*_):
    pathlib.Path(sys.argv[1]).write_text("interrupted")
    sys.exit(7)
signal.signal(signal.SIGINT, interrupted)
print(os.getpid(), flush=True)
time.sleep(60)
"""
# The command, which streams the engine.
COMMAND = """
import os, pathlib, sys
from mlflow_stack_cli import children
argv = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
print("status", children.stream(argv, cwd=pathlib.Path("/"), env=os.environ), flush=True)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def ends(pid: int) -> bool:
    """Wait for the end of a process; return whether it ended within 30 s."""
    deadline = time.monotonic() + 30
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return gone(pid)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_an_engine_is_interrupted_when_its_command_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, ENGINE, str(noted)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout
        pid = int(command.stdout.readline())
        command.send_signal(number)
        rest = command.stdout.read()
    assert ends(pid)
    assert noted.read_text() == "interrupted"
    # A command that is not killed waits until the engine has recorded its work.
    assert rest == ("" if number == signal.SIGKILL else "status 7\n")


def test_a_closed_terminal_does_not_end_an_engine_itself() -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    assert children.run([sys.executable, "-c", script]).stdout == "goes on\n"


@pytest.mark.parametrize("way", ["run", "stream"])
def test_what_a_killed_engine_started_ends_with_it(way: str, tmp_path: Path) -> None:
    noted = tmp_path / "host"
    host = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    engine = f"""
import os, pathlib, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {host!r}], start_new_session=True)
noted = pathlib.Path({str(noted)!r})
while not noted.exists() or not noted.read_text():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = getattr(children, way)([sys.executable, "-c", engine], cwd=tmp_path, env=os.environ)
    assert getattr(done, "returncode", done) == -signal.SIGKILL
    pid = int(noted.read_text())
    assert ends(pid)


def test_what_an_engine_killed_with_its_command_started_is_ended_by_its_id() -> None:
    host = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    engine = f"import os, subprocess, sys; print(os.getpid()); subprocess.run([sys.executable, '-c', {host!r}])"
    with subprocess.Popen(children.tied([sys.executable, "-uc", engine]), stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        left_by, left = int(program.stdout.readline()), int(program.stdout.readline())
        program.kill()
        program.wait()
        children.end_left_by(left_by + 1)
        assert not gone(left)
        children.end_left_by(left_by)
        assert program.stdout.read() == ""
    # Its output closes before the process has ended.
    assert ends(left)


def test_output_status_and_errors_are_the_program_s() -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = children.run([sys.executable, "-c", script], env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_missing_program_is_named_without_a_trace() -> None:
    done = children.run(["no-such-program"])
    assert (done.returncode, done.stderr) == (1, "no-such-program: No such file or directory\n")
