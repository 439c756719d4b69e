"""Pinning: detection of moved references, and the one line of the stack file that changes."""

import difflib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_stack_cli import pin
from mlflow_stack_cli.errors import LocalError
from sandbox.paths import Instance
from sandbox.stackfile import StackFile

FILE = """\
# Models of the team.
config:
  mlflow-stack:namespace:   team   # odd spacing stays
  mlflow-stack:models:
    - name: diabetes          # the first
      uri: models:/diabetes@champion   # who is best
      replicas: 2
    -   name: "houses"
        version: 7
        uri: 'models:/houses/latest'
    - {name: flow, uri: models:/flow@prod}
    - name: fixed
      uri: models:/fixed/3
    - name: later
"""
NOW = {"models:/diabetes@champion": 4, "models:/houses/latest": 8, "models:/flow@prod": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Pulumi.team.yaml"
    path.write_text(FILE)
    return path


def changed(file: Path) -> list[str]:
    lines = difflib.unified_diff(FILE.splitlines(), file.read_text().splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_only_what_can_move_is_asked(file: Path) -> None:
    assert [reference.uri for reference in pin.references(file)] == list(NOW)


def test_what_has_moved_is_named_with_both_versions(file: Path) -> None:
    assert [str(move) for move in pin.moved(pin.references(file), NOW.__getitem__)] == [
        "diabetes: not pinned → 4 (models:/diabetes@champion)",
        "houses: 7 → 8 (models:/houses/latest)",
        "flow: not pinned → 1 (models:/flow@prod)",
    ]


def test_one_line_changes_for_each_model_and_nothing_else(file: Path) -> None:
    pin.write(file, pin.moved(pin.references(file), NOW.__getitem__))
    assert changed(file) == [
        "+      version: 4",
        "-        version: 7",
        "+        version: 8",
        "-    - {name: flow, uri: models:/flow@prod}",
        "+    - {name: flow, uri: models:/flow@prod, version: 1}",
    ]
    assert pin.moved(pin.references(file), NOW.__getitem__) == []
    before = file.read_text()
    pin.write(file, [])
    assert file.read_text() == before


def test_a_file_without_a_last_line_end_is_edited_too(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text("config:\n  mlflow-stack:models:\n  - name: a\n    uri: models:/a@b")
    pin.write(file, pin.moved(pin.references(file), lambda _: 2))
    assert file.read_text() == "config:\n  mlflow-stack:models:\n  - name: a\n    uri: models:/a@b\n    version: 2"


def test_a_reference_that_stands_elsewhere_is_left_to_hands(tmp_path: Path) -> None:
    text = "config:\n  x: [&uri models:/a@b]\n  mlflow-stack:models:\n    - {name: a, uri: *uri}\n"
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(text)
    with pytest.raises(LocalError, match="write by hand\n  version: 2 beside uri: models:/a@b"):
        pin.write(file, pin.moved(pin.references(file), lambda _: 2))
    assert file.read_text() == text


def test_the_registry_is_asked_for_aliases_and_the_newest(tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_registered_model("diabetes")
    for _ in range(11):
        client.create_model_version("diabetes", f"file://{tmp_path}/model")
    client.set_registered_model_alias("diabetes", "champion", "9")
    assert pin.asked(client, "models:/diabetes@champion") == 9
    assert pin.asked(client, "models:/diabetes/latest") == 11
    with pytest.raises(LocalError, match=r"cannot resolve models:/diabetes@nobody: .*nobody.*\nNext:"):
        pin.asked(client, "models:/diabetes@nobody")
    with pytest.raises(LocalError, match=r"the registry has no version of nothing\. Next:"):
        pin.asked(client, "models:/nothing/latest")


def test_the_file_to_edit_is_the_one_that_has_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.stackfile.PROJECT", tmp_path)
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path / "data"))
    (tmp_path / "Pulumi.team.yaml").write_text(FILE)
    stack = StackFile(Instance.open("pins"), "team")
    assert stack.home("mlflow-stack:models") == stack.tracked
    stack.remake({})
    assert stack.home("mlflow-stack:models") == stack.tracked
    overlay = tmp_path / "sandbox" / "overlays" / "team.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text("config:\n  mlflow-stack:models: []\n")
    assert stack.home("mlflow-stack:models") == overlay
    stack.remake({})
    stack.path.write_text(stack.path.read_text().replace("mlflow-stack:models: []", "mlflow-stack:models: [{name: a}]"))
    assert stack.home("mlflow-stack:models") == stack.path
