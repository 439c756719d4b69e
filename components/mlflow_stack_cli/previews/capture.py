"""Resources that a revision's program registers for a stack, captured without a cluster, an engine or secrets."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from mlflow_stack.cluster import Claim, Need, ObjectKind, Reservation
from mlflow_stack_cli import programs, stackfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.previews.compare import Resource
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.yamlfile import Tree

_RECORDER: Final = Path(__file__).with_name("recorder.py")
_PROJECTS: Final = ("pyproject.toml", "components/pyproject.toml")
"""Files that state dependencies beside requirements.txt."""


@dataclass(frozen=True)
class Declared:
    """MlflowStack that a program declares, and its requirements on the cluster."""

    name: str
    namespace: str
    expose: Mapping[str, str]
    """Host and path of the public address, if a controller may serve others on that host."""
    needs: Sequence[Need]
    claims: Sequence[Claim]
    reservations: Sequence[Reservation]


@dataclass(frozen=True)
class Recording:
    """Resources that a program registers."""

    resources: Sequence[Resource] = ()
    stacks: Sequence[Declared] = ()

    @property
    def size_keys(self) -> Mapping[str, str]:
        """Full path of the key that sets a claim's size, by the claim's name."""
        return {claim.name: claim.key for stack in self.stacks for claim in stack.claims}

    @staticmethod
    def parse(recorded: Mapping[str, Any]) -> "Recording":
        """Return the recording that the recorder writes."""
        return Recording(
            [Resource(**resource) for resource in recorded["resources"]],
            [_declared(stack) for stack in recorded["stacks"]],
        )


def _declared(one: Mapping[str, Any]) -> Declared:
    needs: list[Need] = [Need(**each | {"kind": ObjectKind(**each["kind"])}) for each in one["needs"]]
    reservations = [
        Reservation(**each | {"requests": {name: Fraction(text) for name, text in each["requests"].items()}})
        for each in one["reservations"]
    ]
    claims = [Claim(**each) for each in one["claims"]]
    return Declared(one["name"], str(one["namespace"]), one["expose"], needs, claims, reservations)


@contextmanager
def checkout(project: Project, revision: str) -> Generator[Path]:
    """Check the project's folder out at a revision for the duration of the block.

    Raises `LocalError` if git does not know the revision.
    """
    git = ["git", "-C", str(project.folder)]
    with tempfile.TemporaryDirectory(prefix="mlflow-stack-") as scratch:
        folder = Path(scratch) / "revision"
        added = [*git, "worktree", "add", "--quiet", "--detach", str(folder), revision]
        done = subprocess.run(added, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalError(
                f"git cannot check out {revision!r}: {done.stderr.strip()}\n"
                "Next: name a BASE that `git log` shows; a shallow clone needs `git fetch --unshallow`."
            )
        try:
            inside = subprocess.run([*git, "rev-parse", "--show-prefix"], capture_output=True, text=True, check=True)
            yield folder / inside.stdout.strip()
        finally:
            remove = [*git, "worktree", "remove", "--force", str(folder)]
            subprocess.run(remove, capture_output=True, check=False)


def at_revision(project: Project, folder: Path, stack: str) -> Recording | None:
    """Return what the project's program registered at another revision, checked out in a folder; None if the stack did
    not exist. Raises as `capture`."""
    if not (folder / "Pulumi.yaml").exists():
        return None
    then = Project.read(folder)
    config = then.config(then.stack_file(stack))
    return None if config is None else capture(then, stack, config, _interpreter(project, folder))


def capture(project: Project, stack: str, config: Tree, python: Path | None = None) -> Recording:
    """Return what the project's program registers for a stack with a configuration.

    Raises `LocalError` with the program's own message if the program fails.
    """
    texts, secret = stackfile.handed(config)
    request = {
        "project": project.name,
        "stack": stack.rpartition("/")[2],
        "program": str(project.program),
        "config": texts,
        "secrets": secret,
    }
    done = subprocess.run(
        [str(python or project.python), str(_RECORDER), str(project.folder)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        cwd=project.folder,
    )
    if done.returncode:
        lines = "\n".join(programs.without_traces(done.stderr.strip().splitlines())[-15:])
        raise LocalError(f"the program does not accept stack {stack}:\n{lines}\nNext: fix the errors above.")
    return Recording.parse(json.loads(done.stdout))


def _interpreter(project: Project, folder: Path) -> Path:
    """Return the Python of a revision's environment: the project's if its requirements are the same, else a new one."""
    digest = _digest(folder)
    if digest == _digest(project.folder):
        return project.python
    home = cache_dir() / "environments" / digest
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not home.exists():
            _make_environment(home, folder)
    return home / "bin" / "python"


def _make_environment(home: Path, folder: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    lock = folder / "requirements.lock"
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text("".join(f"{line}\n" for line in _requirements(folder)))
        stated = ["--quiet", *(["--constraint", str(lock)] if lock.exists() else []), "--requirement", str(wanted)]
        python = str(home / "bin" / "python")
        commands = [[sys.executable, "-m", "venv", str(home)], [python, "-m", "pip", "install", *stated]]
        if uv:
            commands = [
                [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
                [uv, "pip", "install", "--python", python, *stated],
            ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(home, ignore_errors=True)
                raise LocalError(
                    f"the environment of the other revision cannot be made:\n{done.stderr.strip()}\n"
                    "Next: check that PyPI answers, then run the same command again."
                )


def _requirements(folder: Path) -> list[str]:
    """Return the requirements of a revision's program.

    Without `-e ./components`: the recorder imports the components of the checked-out revision.
    """
    file = folder / "requirements.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    own = [line for line in lines if line[:1] not in "-#"]
    projects = [folder / name for name in _PROJECTS if (folder / name).exists()]
    return own + [requirement for project in projects for requirement in _dependencies(project)]


def _dependencies(project: Path) -> list[str]:
    return tomllib.loads(project.read_text()).get("project", {}).get("dependencies", [])


def _digest(folder: Path) -> str:
    state = hashlib.sha256("\0".join(_requirements(folder)).encode())
    lock = folder / "requirements.lock"
    state.update(lock.read_bytes() if lock.exists() else b"")
    return state.hexdigest()[:12]
