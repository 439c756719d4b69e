"""The command line's own words: what a shell gets to evaluate, and how failures are told."""

import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from local.__main__ import Asked, _stop_all, exports, main
from preview.__main__ import main as previews

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


VERBS = [
    (main, ["up"]), (main, ["env"]), (main, ["preflight"]), (main, ["pin"]), (main, ["lock"]),
    (previews, ["preview"]), (previews, ["preview", "--base", "HEAD"]), (previews, ["drift"]),
    (previews, ["render", "--out", "out"]),
]  # fmt: skip


@pytest.mark.parametrize(("group", "verb"), VERBS, ids=[" ".join(verb) for _, verb in VERBS])
def test_a_misspelt_stack_is_refused_and_nothing_is_made(
    group: click.Group, verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(group, ["--instance", "one", "--stack", "prodd", *verb])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: Pulumi.prodd.yaml does not exist. Did you mean prod? "
        "Next: choose a STACK of dev, prod, staging, or write the file.\n"
    )
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["down", "status", "logs", "watch", "client-env"])
def test_a_misspelt_stack_of_an_instance_is_refused(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    root = Asked("one", "dev", "", "").deployment().instance.root
    (root / "stacks").mkdir()
    (root / "stacks" / "Pulumi.team.yaml").write_text("config: {}\n")
    result = CliRunner().invoke(main, ["--instance", "one", "--stack", "teem", verb])
    assert result.exit_code == 1
    assert "Pulumi.teem.yaml does not exist. Did you mean team?" in result.stderr
    assert "dev, prod, staging, team" in result.stderr


def test_a_stack_whose_file_left_git_can_still_be_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    root = Asked("one", "dev", "", "").deployment().instance.root
    (root / "stacks").mkdir()
    (root / "stacks" / "Pulumi.team.yaml").write_text("config: {}\n")
    assert Asked("one", "team", "", "").running().stack == "team"


@pytest.mark.parametrize(("force", "stopped"), [(True, True), (False, False)])
def test_a_node_with_other_servers_is_stopped_only_when_that_is_asked_for(
    force: bool, stopped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked("one", "a", "", "")
    assert _stop_all(asked, ["team/mlflow", "vision/mlflow"], force) is stopped
    said = capsys.readouterr().err
    assert "other servers run on the node of instance one: team/mlflow, vision/mlflow\n" in said
    assert ("To stop it with all of them: `make -s down INSTANCE=one STACK=a FORCE=1`" in said) is not stopped
