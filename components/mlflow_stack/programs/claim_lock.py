"""An exclusive lock on the claim with the SQLite database, which every writer holds: steps and server.

A POSIX lock: it excludes processes on one node, whatever pods they are in, and on a network volume with working locks
(NFS) those of other nodes. It ends with its process. It proves nothing on a volume whose locks are local to each node,
and nothing against a writer that does not take it.
"""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path


class LockError(Exception):
    """The lock was not given; the message names why and what to do."""


def take(file: Path, purpose: str, seconds: float) -> int:
    """Wait for the lock, saying for what, and return the descriptor that holds it.

    Raises `LockError` where it is not free within the time or the volume has no locks. To close any descriptor of the
    file gives the lock back.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o660)
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except (BlockingIOError, PermissionError):
            holder = os.pread(descriptor, 500, 0).decode(errors="replace").strip() or "another process"
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LockError(
                    f"{holder} has held {file} for {seconds:.0f} s, and SQLite has one writer. Find the other pod that "
                    "mounts this claim and delete its workload; this one tries again by itself."
                ) from None
            if holder != told:
                print(f"Waiting for {file}, which {holder} holds.", file=sys.stderr, flush=True)
                told = holder
        except OSError as error:
            os.close(descriptor)
            raise LockError(
                f"{file} cannot be locked ({error.strerror}), and without a lock two servers could write at once. "
                "Take a StorageClass whose volumes have POSIX locks."
            ) from error
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"the {purpose} of pod {socket.gethostname()}\n".encode(), 0)
    return descriptor
