"""Habits: pre-commit runs what `make lint` runs."""

import re

import yaml

import engine


def test_hooks_are_the_commands_of_make_lint() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (engine.PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    commands = [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    (repository,) = yaml.safe_load((engine.PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == commands
    assert {hook["language"] for hook in repository["hooks"]} == {"unsupported"}
