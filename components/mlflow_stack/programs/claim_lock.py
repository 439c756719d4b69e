"""Exclusive lock on the claim of the SQLite database, held by every writer: schema steps and server.

The lock is a POSIX lock. It excludes processes on the same node, in any pod, and on a network volume with working locks
(NFS) also those on other nodes. It ends with its process. It has no effect on volumes whose locks are local to each
node, or on writers that do not take it.
"""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path


class LockError(Exception):
    """The lock was not acquired; the message names the reason and the remedy."""


def take(file: Path, purpose: str, seconds: float) -> int:
    """Wait for the lock, log what it waits for, and return the descriptor that holds it.

    Raises `LockError` if the lock is not free in time or the volume has no locks. Closing any descriptor of the file
    releases the lock.
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
