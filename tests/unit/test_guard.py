"""`pulumi` wrapper of a shell that evaluated `make env`: the folders in which it runs the real program."""

import os
import subprocess
from pathlib import Path

import pytest

from sandbox import guard
from sandbox.paths import Instance


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, str]]:
    """Two projects, and the environment of such a shell."""
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    project, other = tmp_path / "project's", tmp_path / "other"
    for folder in (project, other):
        (folder / "under").mkdir(parents=True)
        (folder / "Pulumi.yaml").touch()
    monkeypatch.setattr(guard, "PROJECT", project)
    real = tmp_path / "real"
    real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    real.chmod(0o755)
    instance = Instance.open("one")
    guard.write(instance, real)
    config = str(instance.root / "stacks" / "Pulumi.dev.yaml")
    path = f"{guard.folder(instance)}{os.pathsep}{os.environ['PATH']}"
    return tmp_path, {"PATH": path, "PULUMI_OPTION_CONFIG_FILE": config, "PULUMI_STACK": "dev"}


def pulumi(where: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["pulumi", *arguments], cwd=where, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", ["project's", "project's/under", "."])
def test_the_project_s_own_folders_and_those_of_none_run_pulumi(folder: str, shell: tuple) -> None:
    root, env = shell
    assert pulumi(root / folder, env, "config", "set", "a", "b c").stdout == "config\nset\na\nb c\n"


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        ("other", ["config", "set", "a", "b"]),
        ("other/under", ["up"]),
        ("project's", ["-C", "../other", "up"]),
        ("project's", ["--cwd=../other", "up"]),
        ("project's", ["up", "--cwd", "../other"]),
        ("project's", ["-C../other", "up"]),
        (".", ["new", "python"]),
    ],
)
def test_another_project_is_refused_by_name(folder: str, arguments: list[str], shell: tuple) -> None:
    root, env = shell
    done = pulumi(root / folder, env, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: this shell works on stack dev of {root}/project's; ")
    assert "unset PULUMI_STACK PULUMI_OPTION_CONFIG_FILE" in done.stderr


def test_refuses_every_project_with_another_stack_file(shell: tuple) -> None:
    root, env = shell
    assert pulumi(root / "other", env | {"PULUMI_OPTION_CONFIG_FILE": "mine.yaml"}, "up").stdout == "up\n"
    del env["PULUMI_OPTION_CONFIG_FILE"]
    assert pulumi(root / "other", env, "up").stdout == "up\n"


def test_the_project_s_own_commands_find_the_real_program(shell: tuple) -> None:
    _, env = shell
    assert guard.unguarded(env["PATH"]) == os.environ["PATH"]
