"""Pulumi projects, as the command line reads them from their folder."""

import sys
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.project import Project


def project(folder: Path, text: str) -> Project:
    (folder / "Pulumi.yaml").write_text(text)
    return Project.read(folder)


def test_reads_name_program_environment_and_stacks(tmp_path: Path) -> None:
    text = "name: vision\nmain: program\nstackConfigDir: stacks\nruntime: {name: python, options: {virtualenv: venv}}\n"
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "Pulumi.dev.yaml").write_text("")
    found = project(tmp_path, text)
    assert (found.name, found.program, found.environment) == ("vision", Path("program"), tmp_path / "venv")
    assert found.stacks == ["dev"]
    assert found.stack_file("team/vision/dev") == tmp_path / "stacks" / "Pulumi.dev.yaml"


def test_finds_the_project_of_a_folder_below_it(tmp_path: Path) -> None:
    project(tmp_path, "name: vision\nruntime: python\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert Project.find(below).folder == tmp_path


def test_rejects_a_folder_without_a_project(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"is not in a Pulumi project\. Next: name the folder of one with --cwd\."):
        Project.find(tmp_path)


def test_configuration_has_the_defaults_of_the_project_and_full_keys(tmp_path: Path) -> None:
    declared = (
        "{size: {type: string, default: 1Gi}, zone: {value: a}, plain: b, secret: {secret: true}, x:y: {default: c}}"
    )
    found = project(tmp_path, f"name: vision\nruntime: python\nconfig: {declared}\n")
    file = tmp_path / "Pulumi.dev.yaml"
    assert found.config(file) is None
    file.write_text("config:\n  size: 2Gi\n  kubernetes:context: kind\n")
    assert found.config(file) == {
        "vision:size": "2Gi",
        "vision:zone": "a",
        "vision:plain": "b",
        "x:y": "c",
        "kubernetes:context": "kind",
    }


def test_interpreter_is_that_of_the_named_environment(tmp_path: Path) -> None:
    assert project(tmp_path, "name: a\nruntime: python\n").python == Path(sys.executable)
    named = project(tmp_path, "name: a\nruntime: {name: python, options: {toolchain: uv}}\n")
    with pytest.raises(
        LocalError, match=r"\.venv: the program's environment does not exist\. Next: `pulumi install`\."
    ):
        _ = named.python
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert named.python == python


def test_program_in_another_language_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"runtime: only programs in Python can be recorded \(got yaml\)"):
        _ = project(tmp_path, "name: a\nruntime: yaml\n").python


def test_released_names_are_those_of_the_projects_own_key(tmp_path: Path) -> None:
    found = project(tmp_path, "name: a\nruntime: python\n")
    assert found.released({"a:release": ["mlflow-data"], "b:release": ["other"]}) == ["mlflow-data"]
    assert found.released({}) == []
