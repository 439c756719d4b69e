"""Checkout of the project with its own history, in which a team changes its stack file and its program."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import engine

STACK = "team"
Edit = Callable[["Repository"], None]


def files() -> list[str]:
    """Return the paths of the project's files, those not yet committed included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=engine.PROJECT, capture_output=True, text=True, check=True).stdout
    return [name for name in filter(None, names.split("\0")) if (engine.PROJECT / name).exists()]


class Repository:
    """Copy of the project's present files in a folder, as the first commit."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        for name in files():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(engine.PROJECT / name, target, follow_symlinks=False)
        self._environment(engine.PROJECT / ".venv")
        self.git("init", "--quiet", "--initial-branch=main")
        self.config = config
        self.commit(lambda _: None, "Start")

    def _environment(self, whole: Path) -> None:
        """Create an environment with the packages of another one, and the components of this folder."""
        home = self.folder / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        (packages,) = home.glob("lib/*/site-packages")
        (shared,) = whole.glob("lib/*/site-packages")
        # A path added like this has no editable install.
        (packages / "shared.pth").write_text(f"{self.folder / 'components'}\n{shared}\n")
        (home / "bin" / "uv").symlink_to(whole / "bin" / "uv")
        (home / ".ready").touch()

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def commit(self, edit: Edit, message: str) -> None:
        """Edit the stack's configuration or other files, and commit."""
        edit(self)
        content = {"config": {f"mlflow-stack:{key}": value for key, value in self.config.items() if value is not None}}
        (self.folder / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(content))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self._settle()

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace a text that occurs exactly once in a file."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, (file, old)
        path.write_text(text.replace(old, new))

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the Makefile, whatever its exit status."""
        return self.run("make", "--silent", *arguments, f"STACK={STACK}")

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder, whatever its exit status."""
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )

    def reset(self, head: str) -> None:
        """Discard later commits."""
        self.git("reset", "--quiet", "--hard", head)
        self._settle()

    def _settle(self) -> None:
        """Mark the environment as up to date: it is the tests' own, and make must not rebuild it for this history."""
        for name in ("requirements.txt", "requirements.lock", "components/pyproject.toml"):
            os.utime(self.folder / name, (0, 0))
