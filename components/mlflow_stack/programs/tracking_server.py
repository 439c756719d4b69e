"""The tracking server's start: the lock on its claim, then ``mlflow server`` with this project's app.

The lock is this process's, which stays the container's first process as ``mlflow server``: another pod's server on the
same claim waits until the container has ended, whatever made it.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import claim_lock

WAIT_SECONDS = 150
"""Less than the start probe allows, so that the last words of a pod that waits are these."""


def empty(folder: Path) -> None:
    """Delete what is in a folder: a container that was killed leaves its ``/tmp`` to the next, artifacts and all."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def claim(lock: Path) -> None:
    """Wait for the claim's lock, and keep it for as long as this process lives, as whatever program."""
    try:
        descriptor = claim_lock.take(lock, "server", WAIT_SECONDS)
    except claim_lock.LockError as error:
        sys.exit(f"Refused: {error}")
    os.set_inheritable(descriptor, True)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Replace this process by MLflow's, once the claim is its own."""
    # The first process of a container ignores what it does not handle.
    signal.signal(signal.SIGTERM, _end)
    if lock := os.environ.get("CLAIM_LOCK"):
        claim(Path(lock))
    if scratch := os.environ.get("SCRATCH_FOLDER"):
        empty(Path(scratch))
    server = [sys.executable, "-m", "mlflow", "server", "--app-name", "mlflow-stack", *sys.argv[1:]]
    os.execv(sys.executable, server)  # noqa: S606 - there is no shell


if __name__ == "__main__":
    main()
