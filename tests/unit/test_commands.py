"""The command line's own words: what a shell gets to evaluate, and how failures are told."""

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from local.__main__ import Asked, exports, main

AWKWARD = {"PASSWORD": "a'b\"c$d `e` \\ f\ng", "PATH": "/a b:/c", "EMPTY": ""}


def test_a_shell_reads_back_what_was_exported() -> None:
    script = exports(AWKWARD) + '\nprintf \'%s\\0\' "$PASSWORD" "$PATH" "$EMPTY"'
    read = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read.split("\0")[:-1] == list(AWKWARD.values())


@pytest.mark.parametrize("command", ["status", "logs", "watch", "client-env"])
def test_an_unknown_instance_is_told_without_a_traceback(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    result = CliRunner().invoke(main, ["--instance", "nobody", command])
    assert result.exit_code == 1
    assert result.stderr == "error: there is no instance nobody (there are: none). Next: `make up`.\n"
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["down", "clean"])
def test_taking_away_what_is_not_there_succeeds(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    assert CliRunner().invoke(main, ["--instance", "nobody", command]).exit_code == 0


def test_clean_names_what_is_lost_and_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    kept = Asked("one", "dev", "", "").deployment().instance.root / "passphrase"
    kept.touch()
    refused = CliRunner().invoke(main, ["--instance", "one", "clean"])
    assert refused.exit_code == 1
    assert f"deletes instance one, {kept.parent}" in refused.stderr
    assert "every run, model and artifact" in refused.stderr
    assert "FORCE=1" in refused.stderr
    assert kept.exists()


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (Asked("default", "dev", "", ""), "make -s env"),
        (Asked("mine", "prod", "kind kind", ""), "make -s env INSTANCE=mine STACK=prod CONTEXT='kind kind'"),
    ],
)
def test_the_make_command_that_is_named_has_the_same_options(asked: Asked, command: str) -> None:
    assert asked.make("env") == command


def test_another_context_is_refused_for_a_stack_that_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    root = Asked("one", "dev", "", "").deployment().instance.root
    (root / "stacks").mkdir()
    (root / "stacks" / "dev.context").write_text("\n")
    result = CliRunner().invoke(main, ["--instance", "one", "--context", "kind", "status"])
    assert result.stderr.startswith(
        "error: stack dev of instance one runs on its own node, not in the kube context kind."
    )
