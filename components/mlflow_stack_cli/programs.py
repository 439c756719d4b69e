"""Programs that are run to completion, and error messages for those that fail."""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Step

_TRACE = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


def run(
    argv: list[str],
    *,
    what: str,
    next_step: str = "fix the errors above, then run the same command again",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    step: Step | None = None,
) -> str:
    """Run a program to completion and return its standard output and standard error, combined.

    `what` names the work in the error; each line becomes the detail of `step`. Raises `LocalError` with the last lines
    of the output if the program fails or does not exist.
    """
    try:
        process = subprocess.Popen(
            argv, cwd=cwd, env=env, text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        raise LocalError(f"{what} failed: {argv[0]}: {error.strerror}. Next: {next_step}.") from error
    lines: list[str] = []
    with process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if step:
                step.detail(line)
    if process.returncode:
        raise LocalError(failure(what, lines, next_step))
    return "".join(lines)


def failure(what: str, log: Iterable[str], next_step: str) -> str:
    """Return the message of a `LocalError`: what failed, the last lines of its log, and the next step."""
    last = "".join(f"  {line.rstrip()}\n" for line in without_traces(log)[-15:])
    return f"{what} failed:\n{last}Next: {next_step}."


def without_traces(log: Iterable[str]) -> list[str]:
    """Return the lines without Python's stack traces; the messages of exceptions are kept."""
    kept: list[str] = []
    trace = False
    for line in log:
        trace = line.strip() == _TRACE or (trace and (line.startswith((" ", "\t")) or not line.strip()))
        if not trace and line.strip() not in _CHAINED:
            kept.append(line)
    return kept
