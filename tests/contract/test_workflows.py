"""Files of platforms and pre-commit, validated by linters and by the readers' own schemas; pins have a source."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import engine
from mlflow_stack_cli.progress import Progress
from sandbox import linters

GITHUB = engine.PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
GITLAB = engine.PROJECT / "ci" / "gitlab.yml"
HOOKS = engine.PROJECT / ".pre-commit-config.yaml"
BIN = engine.PROJECT / ".venv" / "bin"


def accepted(*command: object) -> None:
    argv = [str(part) for part in command]
    done = subprocess.run(argv, cwd=engine.PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_accepts_the_workflows() -> None:
    accepted(linters.actionlint(Progress()), "-shellcheck=", "-pyflakes=", *WORKFLOWS)


def test_zizmor_accepts_workflows_dependabot_and_hooks() -> None:
    accepted(BIN / "zizmor", "--offline", "--no-progress", GITHUB, HOOKS)


def test_the_platforms_schemas_accept_them() -> None:
    accepted(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    accepted(BIN / "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", GITLAB)
    accepted(BIN / "check-jsonschema", "--builtin-schema", "vendor.dependabot", GITHUB / "dependabot.yml")
    forms = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    accepted(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)


def test_pre_commit_accepts_its_hooks() -> None:
    accepted(BIN / "pre-commit", "validate-config", HOOKS)


def test_every_stack_is_rendered_and_previewed_on_both_platforms() -> None:
    stacks = sorted(path.name.split(".")[1] for path in engine.PROJECT.glob("Pulumi.*.yaml"))
    checks, preview = (
        yaml.safe_load((WORKFLOWS[0].parent / f"{name}.yml").read_text()) for name in ("checks", "preview")
    )
    gitlab = yaml.safe_load(GITLAB.read_text())
    listed = [
        checks["jobs"]["render"]["strategy"]["matrix"]["stack"],
        preview["jobs"]["preview"]["strategy"]["matrix"]["stack"],
        gitlab["render"]["parallel"]["matrix"][0]["STACK"],
        gitlab["preview"]["parallel"]["matrix"][0]["STACK"],
    ]
    assert all(set(stacks) <= set(names) == {"dev", "staging", "prod"} for names in listed)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_whose_source_is_noted(path: Path) -> None:
    sources = (engine.PROJECT / "docs" / "explanation" / "decisions" / "previews.md").read_text()
    for action in re.findall(r"uses: *(.*)", path.read_text()):
        pin = re.fullmatch(r"([\w-]+/[\w-]+@[0-9a-f]{40}) # (v\d+\.\d+\.\d+)", action)
        assert pin, action
        assert pin[1] in sources, action
