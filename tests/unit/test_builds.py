"""Builds: once per content, with the reason of a failure. The Go command here is a script."""

import os
import threading
from pathlib import Path

import pytest

from mlflow_stack_cli import programs
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from sandbox import builds

GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version go1.26.8 linux/amd64"; exit; fi
echo run >> "$RUNS"
if [ -f fail ]; then for i in $(seq 40); do echo "line $i"; done; exit 3; fi
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
echo "$1 GOFLAGS=$GOFLAGS CGO_ENABLED=$CGO_ENABLED GOTOOLCHAIN=$GOTOOLCHAIN" > "$out"
if [ -f embedded ]; then cat embedded >> "$out"; fi
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    commands, module = tmp_path / "commands", tmp_path / "module"
    commands.mkdir()
    module.mkdir()
    (commands / "go").write_text(GO)
    (commands / "go").chmod(0o755)
    (module / "go.mod").write_text("module m\n")
    (module / "main.go").write_text("package main\n")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MLFLOW_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    builds.go.cache_clear()
    builds._go_version_text.cache_clear()
    yield module
    builds.go.cache_clear()
    builds._go_version_text.cache_clear()


def runs(module: Path) -> int:
    file = module.parent / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def build(module: Path, **options: object) -> Path:
    return builds.go_binary(Progress(), "tool", module, "./cmd", estimate=1, **options)


def test_the_users_settings_do_not_reach_a_build(module: Path) -> None:
    assert build(module).read_text() == "./cmd GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOTOOLCHAIN=local\n"


def test_the_same_content_is_built_once_and_another_again(module: Path) -> None:
    first = build(module)
    assert build(module) == first
    assert runs(module) == 1
    (module / "README").write_text("no source")
    assert build(module) == first
    for change in (
        lambda: (module / "main.go").write_text("package main // changed\n"),
        lambda: (module / "go.sum").write_text("x"),
    ):
        change()
        assert build(module) != first
    assert build(module, ldflags="-X a=b") != build(module, cgo=True)
    assert runs(module) == 5


def test_at_once_it_is_built_once(module: Path) -> None:
    threads = [threading.Thread(target=build, args=(module,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs(module) == 1


def test_what_is_embedded_goes_into_a_copy(module: Path) -> None:
    built = build(module, embed=lambda copy: (copy / "embedded").write_text("schema\n") and None)
    assert built.read_text().endswith("schema\n")
    assert not (module / "embedded").exists()


def test_a_failed_build_leaves_nothing_and_shows_the_last_lines(module: Path) -> None:
    (module / "fail").touch()
    with pytest.raises(LocalError) as caught:
        build(module)
    lines = str(caught.value).splitlines()
    assert lines[0] == "building tool failed:"
    assert lines[1:-1] == [f"  line {number}" for number in range(26, 41)]
    assert lines[-1].startswith("Next: check that the Go module proxy")
    kept = (module.parent / "cache" / "bin").iterdir()
    assert [path.name for path in kept if not path.name.endswith(".lock")] == []


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(LocalError, match=r"^doing it failed: /no/such: No such file or directory\. Next: "):
        programs.run(["/no/such"], what="doing it")


def test_tasks_overlap_two_at_a_time_and_keep_their_order() -> None:
    met = threading.Barrier(2, timeout=10)

    def task(number: int) -> int:
        met.wait()
        return number

    assert builds.overlap(*(lambda number=number: task(number) for number in range(4))) == [0, 1, 2, 3]


def test_after_a_failure_nothing_new_begins() -> None:
    begun: list[int] = []
    release = threading.Event()

    def fail() -> None:
        release.wait(10)
        raise LocalError("broken")

    def late() -> None:
        begun.append(1)

    def slow() -> None:
        release.set()

    with pytest.raises(LocalError, match="broken"):
        builds.overlap(fail, slow, *[lambda: threading.Event().wait(0.2)] * 3, *[late] * 50)
    assert not begun


def test_a_failure_keeps_messages_and_drops_stack_traces() -> None:
    log = [
        "before\n",
        "Traceback (most recent call last):\n",
        '  File "train.py", line 1, in <module>\n',
        "    connect()\n",
        "ConnectionError: refused\n",
        "\n",
        "During handling of the above exception, another exception occurred:\n",
        "\n",
        "Traceback (most recent call last):\n",
        '  File "train.py", line 2, in <module>\n',
        "mlflow.exceptions.MlflowException: no answer\n",
    ]
    assert programs.failure("logging a run", log, "`make logs`") == (
        "logging a run failed:\n  before\n  ConnectionError: refused\n  \n  \n"
        "  mlflow.exceptions.MlflowException: no answer\nNext: `make logs`."
    )
