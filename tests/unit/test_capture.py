"""Recordings of any program: each MlflowStack with its needs, in the program's spelling of the keys."""

from fractions import Fraction
from pathlib import Path

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.previews.capture import Recording, capture
from mlflow_stack_cli.project import Project

TWO = """
import pulumi
import pulumi_kubernetes as k8s
from mlflow_stack import MlflowStack

team = k8s.core.v1.Namespace("team", metadata={"name": "team"})
people = pulumi.Output.from_input("people")
MlflowStack("a", {"existing_namespace": team.metadata["name"], "users_existing_secret": people})
MlflowStack("b", {"expose": {"ingress": {}, "host": "b.example.com"}, "resources": {"requests": {"cpu": "300m"}}})
"""


def recorded(folder: Path, program: str) -> Recording:
    (folder / "__main__.py").write_text(program)
    return capture(Project(folder, "vision"), "dev", {})


def test_reports_the_needs_of_each_stack_in_the_spelling_of_the_program(tmp_path: Path) -> None:
    one, two = sorted(recorded(tmp_path, TWO).stacks, key=lambda stack: stack.name)
    assert (one.name, one.namespace) == ("a", "team")
    named = [(need.key, need.name, need.namespace) for need in one.needs if need.name]
    assert named == [("existing_namespace", "team", None), ("users_existing_secret", "people", "team")]
    assert (two.namespace, two.expose) == ("b", {"host": "b.example.com"})
    assert [(claim.key, claim.name) for claim in two.claims] == [("backend_store.pvc.size", "b-data")]
    (server,) = two.reservations
    assert server.requests["cpu"] == Fraction(32, 100)
    assert server.keys["cpu"] == "resources.requests.cpu"


def test_program_without_a_stack_needs_nothing(tmp_path: Path) -> None:
    found = recorded(tmp_path, "import pulumi\npulumi.export('a', 1)\n")
    assert (found.resources, found.stacks) == ([], [])


def test_program_of_another_file_runs_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "names.py").write_text("NAME = 'c'\n")
    (tmp_path / "src" / "app.py").write_text(
        "from mlflow_stack import MlflowStack\nfrom names import NAME\nMlflowStack(NAME, {})\n"
    )
    found = capture(Project(tmp_path, "vision", program=Path("src/app.py")), "dev", {})
    assert [stack.name for stack in found.stacks] == ["c"]


def test_refusal_of_a_program_is_told_without_a_traceback(tmp_path: Path) -> None:
    program = "from mlflow_stack import MlflowStack\nMlflowStack('a', {'replicas': 'x'})\n"
    with pytest.raises(LocalError, match="the program does not accept stack dev:") as refused:
        recorded(tmp_path, program)
    assert 'replicas: must be a whole number (got "x")' in str(refused.value)
    assert "Traceback" not in str(refused.value)
