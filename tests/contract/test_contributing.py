"""Habits: pre-commit runs what `make lint` runs, Dependabot updates what is pinned, code owners own what exists."""

import re
from fnmatch import fnmatch

import pytest
import yaml
from repository import files

import engine

HELD = {
    "pip": {
        "examples/adopt": "no pin but the component's",
        "examples/models-only": "no pin but the component's",
        "examples/reuse-python": "no pin but the component's",
        "examples/stack-reference": "ranges, as in a consumer's project",
        "examples/two-teams": "no pin but the component's",
        "sandbox/images/mlflow": "solved as a whole for one MLflow",
    },
    "gomod": {
        "sandbox/cluster/modules/kube-router": "replaced by the release of a fork",
        "sandbox/cluster/modules/kubernetes": "replaces its modules at a version that config.py repeats",
        "sandbox/engine/modules/language-python": "compiles with pkg and sdk of one commit only",
        "sandbox/engine/modules/provider-kubernetes": "the commit of the SDK that requirements.txt pins",
        "sandbox/engine/modules/provider-random": "the release of the SDK that requirements.txt pins",
        "sandbox/engine/modules/provider-random/shim": "follows the provider",
        "sandbox/services/modules/cert-manager": "the last release whose module has the controller",
    },
}
"""Folders whose pins Dependabot ignores, with the reason."""
MANIFESTS = {"pip": ("requirements.txt", "pyproject.toml"), "gomod": ("go.mod",)}


def test_hooks_are_the_commands_of_make_lint() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (engine.PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    commands = [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    (repository,) = yaml.safe_load((engine.PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == commands
    assert {hook["language"] for hook in repository["hooks"]} == {"unsupported"}


@pytest.mark.parametrize("ecosystem", ["pip", "gomod"])
def test_dependabot_updates_every_folder_with_pins_that_is_not_held(ecosystem: str) -> None:
    (update,) = (
        update
        for update in yaml.safe_load((engine.PROJECT / ".github" / "dependabot.yml").read_text())["updates"]
        if update["package-ecosystem"] == ecosystem
    )
    folders = {folder.strip("/") for folder in update["directories"]}
    pinned = {name.rpartition("/")[0] for name in files() if name.rpartition("/")[2] in MANIFESTS[ecosystem]}
    assert folders | HELD[ecosystem].keys() == pinned
    assert folders & HELD[ecosystem].keys() == set()


def test_code_owners_name_paths_that_exist() -> None:
    names = files()
    for line in (engine.PROJECT / "CODEOWNERS").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, *owners = line.split()
            path = pattern.strip("/")
            assert any(fnmatch(name, path) or fnmatch(name, f"{path}/*") for name in names), pattern
            assert owners, pattern
            assert all(re.fullmatch(r"@[\w-]+(/[\w-]+)?", owner) for owner in owners), line
