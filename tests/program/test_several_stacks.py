"""Previews of a program with several MlflowStacks: each sentence is about one of them, and names it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlflow_stack_cli.previews import recorder
from mlflow_stack_cli.previews.capture import Recording
from mlflow_stack_cli.previews.compare import Resource, compare
from mlflow_stack_cli.previews.words import Words

PROGRAM = """
import pulumi
from mlflow_stack import MlflowStack

for name, given in pulumi.Config().require_object("stacks").items():
    aliases = [pulumi.Alias(name=former) for former in given["formerly"]]
    MlflowStack(name, given["args"], pulumi.ResourceOptions(aliases=aliases))
"""
CLAIMED = {"existing_namespace": "teams", "backend_store": {"pvc": {"existing_claim": "old"}}, "users": ["ann"]}
MOVED = {**CLAIMED, "backend_store": {"pvc": {"existing_claim": "new"}}}
RED, BLUE = "MlflowStack `red`: ", "MlflowStack `blue`: "
LEFT = "pvc://teams/old"


def resources(folder: Path, stacks: Mapping[str, Mapping[str, Any]], **formerly: list[str]) -> list[Resource]:
    (folder / "__main__.py").write_text(PROGRAM)
    given = {name: {"args": args, "formerly": formerly.get(name, [])} for name, args in stacks.items()}
    config = {"vision:stacks": json.dumps(given)}
    found = recorder.record(folder, {"project": "vision", "stack": "dev", "config": config, "secrets": []})
    return [*Recording.parse(json.loads(json.dumps(found))).resources]


def told(old: list[Resource], new: list[Resource], *release: str) -> tuple[list[str], list[str]]:
    """Return the red lines that fail a preview, and all lines above the table."""
    found = Words(compare(old, new), release)
    summary = found.comment("dev", "x").partition("\n| reserved")[0].partition("\n#### ")[0]
    return found.refused, [line.removeprefix("- ") for line in summary.splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("moved", ["red", "blue"])
def test_refuses_other_data_of_either_stack(tmp_path: Path, moved: str) -> None:
    both = {"red": CLAIMED, "blue": {**CLAIMED, "backend_store": {"pvc": {"existing_claim": "other"}}}}
    refused, _ = told(resources(tmp_path, both), resources(tmp_path, both | {moved: MOVED}))
    left = {"red": LEFT, "blue": "pvc://teams/other"}[moved]
    assert len(refused) == 2
    assert all(line.startswith(f"MlflowStack `{moved}`: **") and f"`{left}`" in line for line in refused)


def test_tells_a_user_of_one_stack_from_the_same_user_of_another(tmp_path: Path) -> None:
    two = {"red": {"users": ["ann", "bob"]}, "blue": {"users": ["ann", "bob"]}}
    before, after = (resources(tmp_path, each) for each in (two, two | {"blue": {"users": ["bob"]}}))
    refused, lines = told(before, after)
    assert refused == []
    assert f"{BLUE}Revokes access for user `ann` within two minutes, without a restart." in lines
    assert not any(line.startswith(RED) for line in lines)
    refused, lines = told(after, before)
    assert refused == []
    assert f"{BLUE}Grants access to user `ann`, without a restart." in lines


def test_tells_the_address_and_the_restart_of_the_stack_that_changes(tmp_path: Path) -> None:
    expose = {"ingress": {}, "host": "blue.example.com"}
    two: dict[str, dict[str, Any]] = {"red": {}, "blue": {"expose": expose}}
    moved = two | {"blue": {"expose": {**expose, "path": "/mlflow"}}}
    _, lines = told(resources(tmp_path, two), resources(tmp_path, moved))
    assert any("`http://blue.example.com/mlflow`" in line for line in lines)
    assert all(line.startswith(BLUE) for line in lines)


def test_tells_the_end_and_the_start_of_each_server(tmp_path: Path) -> None:
    """Name a deleted stack and a new one beside one that stays."""
    three = dict.fromkeys(("green", "red", "blue"), CLAIMED)
    before, after = resources(tmp_path, three), resources(tmp_path, {"green": CLAIMED, "white": CLAIMED})
    refused, lines = told(before, after, LEFT)
    assert "MlflowStack `white`: The stack is new." in lines
    for stack in (RED, BLUE):
        assert any(line.startswith(f"{stack}Stops the tracking server") for line in lines)
    assert not any(line.startswith("MlflowStack `green`") for line in lines if line not in refused)


def test_a_renamed_stack_is_the_same(tmp_path: Path) -> None:
    before = resources(tmp_path, {"red": CLAIMED, "blue": CLAIMED})
    after = resources(tmp_path, {"red": CLAIMED, "white": CLAIMED}, white=["blue"])
    refused, lines = told(before, after)
    assert refused == []
    assert "MlflowStack `white`: The stack is new." not in lines
    assert all(line.startswith("MlflowStack `white`: ") for line in lines)


def test_a_program_with_two_new_stacks_is_new(tmp_path: Path) -> None:
    assert told([], resources(tmp_path, {"red": {}, "blue": {}})) == ([], ["The stack is new."])


def test_names_no_stack_where_there_is_one(tmp_path: Path) -> None:
    before, after = resources(tmp_path, {"red": CLAIMED}), resources(tmp_path, {"red": MOVED})
    assert not any("MlflowStack" in line for line in told(before, after)[1])
