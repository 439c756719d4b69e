"""Pulumi project of a folder: its name, program, environment and stack files."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mlflow_stack_cli import stackfile, yamlfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.yamlfile import Tree

_FILES: Final = ("Pulumi.yaml", "Pulumi.yml")
_ENVIRONMENTS: Final = {"uv": ".venv"}
"""Default virtual environments of toolchains."""


@dataclass(frozen=True)
class Project:
    """Pulumi project."""

    folder: Path
    name: str
    runtime: str = "python"
    program: Path = Path()
    """File or folder of the program, relative to the project's folder."""
    stacks_folder: Path = Path()
    """Folder of the stack files, relative to the project's folder."""
    environment: Path | None = None
    """Folder of the program's virtual environment, if the project names one."""
    defaults: Mapping[str, Any] | None = None
    """Configuration that the project itself states, by full key."""

    @staticmethod
    def find(folder: Path) -> "Project":
        """Return the project of a folder or its nearest parent. Raises `LocalError` if there is none."""
        for parent in (folder.resolve(), *folder.resolve().parents):
            if any((parent / name).exists() for name in _FILES):
                return Project.read(parent)
        raise LocalError(f"{folder} is not in a Pulumi project. Next: name the folder of one with --cwd.")

    @staticmethod
    def read(folder: Path) -> "Project":
        """Return the project of exactly this folder. Raises `LocalError` if there is none."""
        file = next((folder / name for name in _FILES if (folder / name).exists()), folder / _FILES[0])
        content = yamlfile.load(file)
        if not isinstance(content.get("name"), str):
            raise LocalError(f"{file}: name: required. Next: write it.")
        name: str = content["name"]
        runtime = content.get("runtime", "python")
        options: Tree = {}
        if isinstance(runtime, dict):
            options = stackfile.section(cast(Tree, runtime), "options")
            runtime = cast(Tree, runtime).get("name", "python")
        environment = options.get("virtualenv") or _ENVIRONMENTS.get(str(options.get("toolchain")))
        return Project(
            folder,
            name,
            str(runtime),
            Path(str(content.get("main", ""))),
            Path(str(content.get("stackConfigDir", ""))),
            folder / str(environment) if environment else None,
            _defaults(name, stackfile.section(content, "config")),
        )

    @property
    def stacks(self) -> list[str]:
        """Names of the stacks that have a stack file."""
        found = (self.folder / self.stacks_folder).glob("Pulumi.*.yaml")
        return sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in found)

    def stack_file(self, stack: str) -> Path:
        """Return the path of a stack's file, which need not exist."""
        return self.folder / self.stacks_folder / f"Pulumi.{stack.rpartition('/')[2]}.yaml"

    def config(self, file: Path) -> Tree | None:
        """Return the configuration that the engine passes to the program for a stack file, by full key; None if the
        file does not exist."""
        if not file.exists():
            return None
        return {**(self.defaults or {}), **stackfile.read(file, self.name)["config"]}

    def released(self, config: Tree) -> list[str]:
        """Return the names in the key `release` of a configuration."""
        found = config.get(f"{self.name}:release", [])
        return [str(name) for name in cast("list[object]", found)] if isinstance(found, list) else []

    @property
    def python(self) -> Path:
        """Python interpreter of the program: of the project's virtual environment, else the one that runs this command.

        Raises `LocalError` if the program is not in Python, or if its environment does not exist.
        """
        if self.runtime != "python":
            raise LocalError(
                f"{self.folder}: runtime: only programs in Python can be recorded (got {self.runtime}). "
                "Next: preview what runs, without --base."
            )
        if self.environment is None:
            return Path(sys.executable)
        python = self.environment / "bin" / "python"
        if not python.exists():
            raise LocalError(f"{self.environment}: the program's environment does not exist. Next: `pulumi install`.")
        return python


def _defaults(project: str, declared: Tree) -> Tree:
    """Return the values of a project file's `config`, each given directly, as `value` or as `default`."""
    found: Tree = {}
    for key, stated in declared.items():
        full = key if ":" in key else f"{project}:{key}"
        if not isinstance(stated, dict):
            found[full] = stated
            continue
        one = cast(Tree, stated)
        for field in ("value", "default"):
            if field in one:
                found[full] = one[field]
                break
    return found
