"""Lock on a claim whose volume does not support locks."""

import errno
import fcntl
from pathlib import Path

import pytest

from mlflow_stack.programs import claim_lock


def test_a_volume_without_locks_is_not_taken_for_a_held_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(claim_lock.LockError) as refused:
        claim_lock.take(tmp_path / "lock", "server", 0)
    assert str(refused.value) == (
        f"{tmp_path}/lock cannot be locked (No locks available), and without a lock two servers could write at once. "
        "Take a StorageClass whose volumes have POSIX locks."
    )
