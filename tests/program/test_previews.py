"""`make preview BASE=…` and `make render` in a repository with a history: no engine, no cluster, no secret.

The engine's own preview of a live stack gives the same comments, and `make up` does what they say: see
tests/e2e/test_previews.py. ACCEPT=1 rewrites the comments, for review as a diff.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from previewed import CHANGES, LARGE, LARGE_CHANGES, REFUSED, START, golden, rename_with_alias
from repository import STACK, Edit, Repository

import engine
from mlflow_stack_cli.paths import cache_dir


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository"), dict(START))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("large"), dict(LARGE))


@pytest.fixture
def branch(repository: Repository) -> Iterator[Repository]:
    """Repository that discards the commits of each test."""
    head, config = repository.git("rev-parse", "HEAD").strip(), dict(repository.config)
    yield repository
    repository.reset(head)
    repository.config = config


def told(repository: Repository, name: str, edit: Edit) -> None:
    config = dict(repository.config)
    repository.commit(edit, name)
    # As in a pipeline for a fork: without a kubeconfig, or with one of other stacks.
    other = yaml.safe_dump({"contexts": [{"name": f"{STACK}-eu"}]})
    done = repository.run("ci/stack", "preview", STACK, "HEAD~1", KUBECONFIG_TEXT=other if name in REFUSED else "")
    assert done.returncode == (2 if name in REFUSED else 0), done.stderr
    if os.environ.get("ACCEPT"):
        golden(name).write_text(done.stdout)
    assert done.stdout == golden(name).read_text()
    assert done.stderr.startswith("error: 1 red line is not acknowledged:\n  - " if name in REFUSED else "")
    assert (done.stderr == "") == (name not in REFUSED)
    red = [
        line.removeprefix("- 🔴 ").replace("**", "") for line in done.stdout.splitlines() if line.startswith("- 🔴 **")
    ]
    assert all(line in done.stderr for line in red)
    assert repository.git("status", "--porcelain") == ""
    assert len(repository.git("worktree", "list").splitlines()) == 1
    if name in REFUSED:
        repository.reset("HEAD~1")
        repository.config = config


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told(repository: Repository, name: str) -> None:
    told(repository, name, CHANGES[name])


@pytest.mark.parametrize("name", LARGE_CHANGES)
def test_a_change_of_a_larger_stack_is_told(large: Repository, name: str) -> None:
    told(large, name, LARGE_CHANGES[name])


def test_a_component_that_is_renamed_with_an_alias_is_the_same(branch: Repository) -> None:
    branch.reset(branch.git("rev-list", "--max-parents=0", "HEAD").strip())
    branch.config = dict(START)
    branch.commit(rename_with_alias, "alias")
    done = branch.make("preview", "BASE=HEAD~1")
    assert (done.returncode, done.stdout) == (0, "### Stack `team`: nothing changes\n\nCompared with `HEAD~1`.\n")


def test_a_stack_that_the_base_does_not_have_is_new(repository: Repository) -> None:
    empty = repository.git("hash-object", "-t", "tree", "--stdin", "-w").strip()
    commit = repository.git("commit-tree", empty, "-m", "empty").strip()
    done = repository.make("preview", f"BASE={commit}")
    assert done.returncode == 0, done.stderr
    assert "- The stack is new." in done.stdout
    assert "| before | 0 | 0 | 0 | 0 | 0 |" in done.stdout


def test_a_revision_that_asks_for_other_packages_runs_in_an_environment_of_its_own(branch: Repository) -> None:
    def older() -> list[Path]:
        return list((cache_dir() / "environments").glob("*/lib/*/site-packages/passlib-1.7.3.dist-info"))

    def asks_for(now: str, then: str) -> Edit:
        def edit(one: Repository) -> None:
            for file in ("requirements.txt", "requirements.lock"):
                one.replace(file, f"passlib=={now}", f"passlib=={then}")
            one.replace("components/pyproject.toml", f"passlib>={now}", f"passlib>={then}")

        return edit

    for made in older():
        shutil.rmtree(made.parents[3])
    branch.commit(asks_for("1.7.4", "1.7.3"), "older")
    branch.commit(asks_for("1.7.3", "1.7.4"), "newer")
    done = branch.make("preview", "BASE=HEAD~1")
    assert done.returncode == 0, done.stderr
    assert "nothing changes" in done.stdout
    assert len(older()) == 1


def test_what_the_program_refuses_is_said_without_a_traceback(branch: Repository) -> None:
    branch.commit(lambda one: one.config.update(users=["a:b"]), "bad")
    done = branch.make("preview", "BASE=HEAD~1")
    assert done.returncode == 2
    assert "error: the program does not accept the stack file:" in done.stderr
    assert 'starting with a letter or a digit (got "a:b")' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("release", 5, "release: must be a list (got 5)"),
        (
            "passwords",
            {"ann": "correct horse battery"},
            "passwords.ann: must be encrypted (value not shown). Encrypt it: pulumi config",
        ),
        ("expose", "ingress", 'expose: must be a map (got "ingress")'),
    ],
)
def test_bad_stack_file_is_refused_by_its_key(branch: Repository, key: str, value: object, message: str) -> None:
    branch.commit(lambda one: one.config.update({key: value}), "bad")
    for verb in (["render", f"OUT={branch.folder / 'objects'}"], ["preview", "BASE=HEAD~1"]):
        done = branch.make(*verb)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_key_without_a_namespace_counts(branch: Repository) -> None:
    file = branch.folder / f"Pulumi.{STACK}.yaml"
    branch.commit(lambda one: file.touch(), "same")
    file.write_text(file.read_text() + "  maxArtifactSize: 3Gi\n")
    done = branch.make("preview", "BASE=HEAD")
    assert done.returncode == 0, done.stderr
    assert "### Stack `team`: 1 changed" in done.stdout or "replaced" in done.stdout


def test_an_unknown_base_is_named(repository: Repository) -> None:
    done = repository.make("preview", "BASE=nowhere")
    assert "error: git cannot check out 'nowhere'" in done.stderr
    assert "Next: name a BASE that `git log` shows" in done.stderr


def test_the_guide_to_previews_shows_a_comment_as_it_is() -> None:
    quoted = "\n".join(f"> {line}".rstrip() for line in golden("removed-user").read_text().rstrip().splitlines())
    assert quoted in (engine.PROJECT / "docs" / "how-to" / "preview-a-change.md").read_text()
