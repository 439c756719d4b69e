"""Platforms: the cluster, the state and the tools of a stack."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mlflow_stack_cli import programs, stackfile
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.yamlfile import Tree


@dataclass(frozen=True)
class Tools:
    """Programs for one stack."""

    cluster: Cluster
    """The cluster, queried through kubectl."""
    environment: Mapping[str, str]
    """Environment in which `pulumi` and `kubectl` are found and work on the stack."""


class Platform(Protocol):
    """Cluster of one stack, the engine's state and the stack file that the engine uses."""

    @property
    def label(self) -> str:
        """Name of the stack and its location, for messages."""
        ...

    @property
    def where(self) -> str:
        """Name of the cluster, for `status`."""
        ...

    @property
    def stack_file(self) -> Path:
        """Stack file that the engine uses, with everything that the platform merges into it."""
        ...

    @property
    def backend(self) -> Path | None:
        """Folder of the engine's state, if it is on this machine and known in advance."""
        ...

    @property
    def scratch(self) -> Path:
        """Folder of temporary files."""
        ...

    @property
    def inherited(self) -> Mapping[str, str]:
        """Variables of this process that programs inherit."""
        ...

    def home(self, key: str) -> Path:
        """Return the file to edit to change the value of a key."""
        ...

    def tools(self, progress: Progress) -> Tools:
        """Return the tools, built if necessary. Starts nothing."""
        ...

    def prepare(self, progress: Progress) -> Tools:
        """Return the tools, with the stack file up to date. Starts nothing."""
        ...

    def start(self, progress: Progress) -> Tools:
        """Return the tools, with the cluster running and everything in it that the stack expects."""
        ...

    def running(self) -> bool:
        """Return whether the cluster can be queried."""
        ...

    def settle(self) -> None:
        """Record where the stack runs, before the first change."""
        ...

    def introduce(self, cluster: Cluster) -> None:
        """Make the stack's public address resolvable on this machine, once the stack is up."""
        ...

    def trust(self) -> dict[str, str]:
        """Return the variables with which MLflow's client trusts the stack's certificate."""
        ...

    def logs(self, component: str, lines: int) -> str:
        """Return the last lines of a component of the node. Raises `LocalError` if the platform has no node."""
        ...


class ExistingCluster:
    """Cluster of a kube context, as Pulumi's Kubernetes provider takes it, with the user's own state and stack file.

    Order of precedence: `--context`, `kubernetes:kubeconfig` and `kubernetes:context` of the stack file, and the
    current context of KUBECONFIG or the user's kubeconfig.
    """

    def __init__(self, project: Project, stack: str, context: str = "") -> None:
        self._project = project
        self._stack = stack
        self._context = context

    @property
    def label(self) -> str:
        return f"stack {self._stack} of project {self._project.name}"

    @property
    def where(self) -> str:
        context = self._context or self._config.get("kubernetes:context")
        return f"kube context {context}" if context else "current kube context"

    @property
    def stack_file(self) -> Path:
        return self._project.stack_file(self._stack)

    @property
    def backend(self) -> Path | None:
        return None

    @cached_property
    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="mlflow-stack-")

    @property
    def scratch(self) -> Path:
        return Path(self._folder.name)

    @property
    def inherited(self) -> Mapping[str, str]:
        return os.environ

    def home(self, key: str) -> Path:
        return self.stack_file

    def tools(self, progress: Progress) -> Tools:
        """Return `pulumi` and `kubectl` on PATH. Raises `LocalError` if one is missing."""
        # The program runs in this environment unless its project names another.
        folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        variables = {
            "PATH": os.pathsep.join(folders),
            "PULUMI_STACK": self._stack,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        for program in ("pulumi", "kubectl"):
            if shutil.which(program, path=variables["PATH"]) is None:
                raise LocalError(f"{program} is not on PATH. Next: install it.")
        kubectl = Path(str(shutil.which("kubectl", path=variables["PATH"])))
        kubeconfig, context = self._reached(kubectl, variables)
        if self._context and kubeconfig:
            variables["KUBECONFIG"] = str(kubeconfig)
        return Tools(Cluster(kubectl, kubeconfig, context), variables)

    def prepare(self, progress: Progress) -> Tools:
        return self.tools(progress)

    def start(self, progress: Progress) -> Tools:
        return self.tools(progress)

    def running(self) -> bool:
        return True

    def settle(self) -> None:
        pass

    def introduce(self, cluster: Cluster) -> None:
        pass

    def trust(self) -> dict[str, str]:
        return {}

    def logs(self, component: str, lines: int) -> str:
        raise LocalError(f"{component}: only the sandbox has logs of a node. Next: ask the cluster's administrator.")

    @cached_property
    def _config(self) -> Tree:
        return self._project.config(self.stack_file) or {}

    def _reached(self, kubectl: Path, variables: Mapping[str, str]) -> tuple[Path | None, str]:
        """Return the kubeconfig and the context for kubectl; None and empty for kubectl's defaults."""
        stated = str(self._config.get("kubernetes:context", ""))
        if self._context:
            if stated not in ("", self._context):
                raise LocalError(
                    f"kubernetes:context: the stack file names another context (got {stated}, --context names "
                    f"{self._context}). Next: omit --context, or correct the stack file."
                )
            # The provider has no option for the context: it uses the current one of its kubeconfig.
            return minified(kubectl, self._context, self.scratch / "kubeconfig"), ""
        kubeconfig = self._config.get("kubernetes:kubeconfig")
        if kubeconfig is None:
            return None, stated
        if stackfile.encrypted(kubeconfig):
            kubeconfig = programs.run(
                ["pulumi", "config", "get", "kubernetes:kubeconfig", "--non-interactive"],
                what="reading kubernetes:kubeconfig",
                cwd=self._project.folder,
                env={**self.inherited, **variables},
            )
        text = str(kubeconfig).strip()
        if "\n" not in text and not text.startswith("{"):
            return Path(text).expanduser(), stated
        file = self.scratch / "kubeconfig"
        written(file, text)
        return file, stated


def minified(kubectl: Path, context: str, file: Path) -> Path:
    """Write a kubeconfig with one of the user's contexts as the current one; return its path."""
    view = ["config", "view", "--raw", "--minify", "--flatten", f"--context={context}"]
    written(file, programs.run([str(kubectl), *view], what=f"reading the kube context {context}"))
    return file


def written(file: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)


def has_context(kubectl: Path, context: str) -> bool:
    """Return whether the user's kubeconfig has a context."""
    argv = [str(kubectl), "config", "get-contexts", context, "--output=name"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
