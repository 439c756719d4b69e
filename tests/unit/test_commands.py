"""Output of the command line: variables for a shell, and error messages."""

import json
import os
import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlflow_stack_cli.commands import Commands, exports
from sandbox.__main__ import Asked, _stop_all, main
from sandbox.paths import PROJECT
from sandbox.platform import Sandbox

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
    kept = Asked("one", "dev", "", "").platform().instance.root / "passphrase"
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
    assert asked.command("env") == command


def test_another_context_is_refused_for_a_stack_that_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    root = Asked("one", "dev", "", "").platform().instance.root
    (root / "stacks").mkdir()
    (root / "stacks" / "dev.context").write_text("\n")
    result = CliRunner().invoke(main, ["--instance", "one", "--context", "kind", "status"])
    assert result.stderr.startswith(
        "error: stack dev of instance one runs on its own node, not in the kube context kind."
    )


VERBS = [
    ["up"], ["env"], ["preflight"], ["pin"], ["lock"], ["preview"], ["preview", "--base", "HEAD"], ["drift"],
    ["render", "--out", "out"],
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_misspelt_stack_is_refused_and_nothing_is_made(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["--instance", "one", "--stack", "prodd", *verb])
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
    root = Asked("one", "dev", "", "").platform().instance.root
    (root / "stacks").mkdir()
    (root / "stacks" / "Pulumi.team.yaml").write_text("config: {}\n")
    result = CliRunner().invoke(main, ["--instance", "one", "--stack", "teem", verb])
    assert result.exit_code == 1
    assert "Pulumi.teem.yaml does not exist. Did you mean team?" in result.stderr
    assert "dev, prod, staging, team" in result.stderr


def test_a_stack_whose_file_left_git_can_still_be_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    root = Asked("one", "dev", "", "").platform().instance.root
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


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instance whose stack file was edited by hand; returns the file."""
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    file = Asked("one", "dev", "", "").platform().file
    file.remake({})
    written = file.path.read_text()
    file.path.write_text(re.sub("maxArtifactSize: .*", "maxArtifactSize: 2Gi", written))
    return file.path


def test_every_command_says_its_stack_and_the_keys_set_by_hand(edited: Path) -> None:
    result = CliRunner().invoke(main, ["--instance", "one", "preflight"])
    assert result.stderr.splitlines()[:2] == [
        "stack dev of instance one",
        '  maxArtifactSize: "2Gi"  set by hand on this machine; '
        "`make -s config INSTANCE=one REMOVE=maxArtifactSize` removes it",
    ]


def test_keys_set_by_hand_are_listed(edited: Path) -> None:
    assert CliRunner().invoke(main, ["--instance", "one", "config"]).stdout == 'maxArtifactSize: "2Gi"\n'
    unknown = CliRunner().invoke(main, ["--instance", "one", "config", "--remove", "users"])
    assert unknown.exit_code == 1
    assert "users was not set by hand (keys that were: maxArtifactSize)" in unknown.stderr


def test_a_key_set_by_hand_is_removed(edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "prepare", lambda self, _progress: self.file.remake({}))
    removed = CliRunner().invoke(main, ["--instance", "one", "config", "--remove", "maxArtifactSize"])
    assert removed.stderr.endswith("removed: maxArtifactSize. Next: `make -s up INSTANCE=one` deploys it.\n")
    assert "maxArtifactSize: 1Gi" in edited.read_text()
    assert CliRunner().invoke(main, ["--instance", "one", "config"]).stdout == ""


def test_make_follows_the_shell_that_evaluated_env() -> None:
    def asked(*given: str, **shell: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", "status", *given]
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_STACK_S", "MAKE"))}
        return subprocess.run(command, cwd=PROJECT, env=env | shell, capture_output=True, text=True).stdout

    assert "--instance 'default' --stack 'dev'" in asked()
    shell = {"MLFLOW_STACK_INSTANCE": "mine", "MLFLOW_STACK_STACK": "team", "MLFLOW_STACK_BACKEND": "s3://b"}
    assert "--instance 'mine' --stack 'team' --context '' --backend 's3://b'" in asked(**shell)
    assert "--instance 'mine' --stack 'prod'" in asked("STACK=prod", **shell)


def test_the_make_command_names_the_stack_that_the_shell_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_STACK_STACK", "team")
    assert Asked("default", "team", "", "").command("up") == "make -s up"
    assert Asked("default", "dev", "", "").command("up") == "make -s up STACK=dev"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (FileNotFoundError(2, "No such file or directory", "/usr/bin/kubectl"), "/usr/bin/kubectl: No such file"),
        (PermissionError(13, "Permission denied", "/data"), "/data: Permission denied. Next: "),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "a program's output is not JSON (Expecting value"),
    ],
)
def test_a_failure_of_a_called_program_is_told_without_a_trace(raised: Exception, told: str) -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    def fails() -> None:
        raise raised

    result = CliRunner().invoke(group, ["fails"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {told}")
    assert "Traceback" not in result.stderr
