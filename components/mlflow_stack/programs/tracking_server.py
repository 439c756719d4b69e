"""Start of the tracking server: lock its claim, then run ``mlflow server`` with this project's app.

This process holds the lock and becomes ``mlflow server``, as the container's first process. Any other pod's server on
the same claim waits until the container has ended.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import claim_lock

WAIT_SECONDS = 150
"""Less than the startup probe allows, so that this error is the last line of a waiting pod's log."""


def empty(folder: Path) -> None:
    """Delete the content of a folder: a killed container leaves its ``/tmp`` to the next one, including artifacts."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def claim(lock: Path) -> None:
    """Wait for the claim's lock, and keep it for the lifetime of this process, across `exec`."""
    try:
        descriptor = claim_lock.take(lock, "server", WAIT_SECONDS)
    except claim_lock.LockError as error:
        sys.exit(f"Refused: {error}")
    os.set_inheritable(descriptor, True)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Replace this process by MLflow's, once it holds the claim's lock."""
    # The first process of a container ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, _end)
    if lock := os.environ.get("CLAIM_LOCK"):
        claim(Path(lock))
    if scratch := os.environ.get("SCRATCH_FOLDER"):
        empty(Path(scratch))
    server = [sys.executable, "-m", "mlflow", "server", "--app-name", "mlflow-stack", *sys.argv[1:]]
    os.execv(sys.executable, server)  # noqa: S606 - there is no shell


if __name__ == "__main__":
    main()
