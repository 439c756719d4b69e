"""What a revision's program registers for a stack, without a cluster, an engine or the environment's secrets."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from filelock import FileLock

from mlflow_stack_cli import programs, stackfile, yamlfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.previews.compare import Resource
from sandbox.paths import PROJECT
from sandbox.stackfile import judged

Tree = dict[str, Any]

_RECORDER: Final = Path(__file__).with_name("recorder.py")
# What a revision's environment is made from.
_REQUIREMENTS: Final = ("requirements.txt", "requirements.lock", "components/pyproject.toml")


@contextmanager
def checkout(revision: str) -> Generator[Path]:
    """A folder with the revision's files, as long as the block runs.

    Raises `LocalError` where git does not know the revision.
    """
    git = ["git", "-C", str(PROJECT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="mlflow-stack-") as scratch:
        folder = Path(scratch) / "revision"
        added = [*git, "add", "--quiet", "--detach", str(folder), revision]
        done = subprocess.run(added, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalError(
                f"git cannot check out {revision!r}: {done.stderr.strip()}\n"
                "Next: name a BASE that `git log` shows; a shallow clone needs `git fetch --unshallow`."
            )
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True, check=False)


def stack_config(folder: Path, stack: str, file: Path | None = None) -> Tree | None:
    """The configuration of a stack as the CLI hands it to the program, by full key; None where there is no such stack.

    `file`: the stack file, where it is not the one in the folder.
    """
    path = file or folder / f"Pulumi.{stack}.yaml"
    if not path.exists():
        return None
    project = yamlfile.load(folder / "Pulumi.yaml")
    declared = cast("Mapping[str, Tree]", project.get("config", {}))
    defaults = {f"{project['name']}:{key}": one["default"] for key, one in declared.items() if "default" in one}
    return {**defaults, **stackfile.read(path, project["name"])["config"]}


def capture(folder: Path, stack: str, file: Path | None = None) -> list[Resource]:
    """What the program in the folder registers; nothing where it has no such stack.

    Raises `LocalError` with the program's own message when it refuses.
    """
    config = stack_config(folder, stack, file)
    if config is None:
        return []
    if folder == PROJECT:
        judged(config)
    texts, secret = stackfile.handed(config)
    project: str = yamlfile.load(folder / "Pulumi.yaml")["name"]
    request = {"project": project, "stack": stack, "config": texts, "secrets": secret}
    done = subprocess.run(
        [str(_interpreter(folder)), str(_RECORDER), str(folder)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode:
        lines = "\n".join(programs.without_traces(done.stderr.strip().splitlines())[-15:])
        raise LocalError(f"the program does not accept stack {stack}:\n{lines}\nNext: put right what it names.")
    return [Resource(**one) for one in json.loads(done.stdout)]


def released(folder: Path, stack: str) -> list[str]:
    """What the stack file's `release` names."""
    return list(judged(stack_config(folder, stack) or {}).release)


def _interpreter(folder: Path) -> Path:
    """The Python of the revision's own environment: this one where it asks for the same, else one made for it."""
    digest = _digest(folder)
    if digest == _digest(PROJECT):
        return Path(sys.executable)
    home = cache_dir() / "environments" / digest
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not home.exists():
            _make_environment(home, folder)
    return home / "bin" / "python"


def _make_environment(home: Path, folder: Path) -> None:
    uv = [str(Path(sys.executable).with_name("uv"))]
    python = ["--python", str(home / "bin" / "python")]
    requirements = [line for line in (folder / "requirements.txt").read_text().splitlines() if line[:1] not in "-#"]
    # Not `-e ./components`: the recorder imports the revision's own, wherever it is checked out.
    wanted = [*requirements, *_dependencies(folder / "components" / "pyproject.toml")]
    lock = folder / "requirements.lock"
    constraint = ["--constraint", str(lock)] if lock.exists() else []
    commands = (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(home)],
        [*uv, "pip", "install", "--quiet", *python, *constraint, *wanted],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            raise LocalError(
                f"the environment of the other revision cannot be made:\n{done.stderr.strip()}\n"
                "Next: check that PyPI answers, then the same command again."
            )


def _dependencies(project: Path) -> list[str]:
    return tomllib.loads(project.read_text())["project"].get("dependencies", [])


def _digest(folder: Path) -> str:
    state = hashlib.sha256()
    for name in _REQUIREMENTS:
        file = folder / name
        state.update(f"{name}\0".encode() + (file.read_bytes() if file.exists() else b""))
    return state.hexdigest()[:12]
