"""Deployment of one stack of a project on a platform."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from mlflow_stack.pod import TRACKING
from mlflow_stack_cli import children, interrupted, paused, programs, release
from mlflow_stack_cli.cluster import UnreadableError
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.platform import Platform, Tools
from mlflow_stack_cli.previews import capture
from mlflow_stack_cli.previews.capture import Recording
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.release import State
from mlflow_stack_cli.yamlfile import Tree

_COMPONENT: Final = "mlflow-stack:index:MlflowStack"
_UPDATE_SECONDS = 60.0


class Deployment:
    """Stack of a project on a platform."""

    def __init__(self, project: Project, stack: str, platform: Platform) -> None:
        self.project = project
        self.stack = stack
        self.platform = platform

    @property
    def config(self) -> Tree:
        """Configuration, as the engine passes it to the program; empty without a stack file."""
        return self.project.config(self.platform.stack_file) or {}

    @property
    def released(self) -> list[str]:
        """Names of the resources that the stack file releases."""
        return self.project.released(self.config)

    def record(self) -> Recording:
        """Return what the program registers, without the engine. Raises as `capture.capture`."""
        return capture.capture(self.project, self.stack, self.config)

    def exists(self, tools: Tools) -> bool:
        """Return whether the engine knows the stack."""
        if self.platform.backend is not None and not self.platform.backend.exists():
            return False
        stacks = json.loads(self._ask(tools, "stack", "ls", "--json"))
        name = self.stack.rpartition("/")[2]
        return any(stack["name"].rpartition("/")[2] == name for stack in stacks)

    def outputs(self, tools: Tools) -> dict[str, Any]:
        """Return the stack's outputs, secrets as `[secret]`; empty before the first `up`."""
        return cast(dict[str, Any], json.loads(self._ask(tools, "stack", "output", "--json")))

    def components(self, tools: Tools) -> dict[str, dict[str, Any]]:
        """Return the outputs of each MlflowStack in the state, by its name, secrets encrypted; empty before the first
        `up`."""
        state = self.state(tools) if self.exists(tools) else {}
        return _components(state)

    def client_environment(self, tools: Tools, component: str = "") -> dict[str, str]:
        """Return what MLflow's client needs, password included.

        :param component: Name of the MlflowStack, if the program declares several.

        Raises `LocalError` if the stack is not up.
        """
        found: dict[str, dict[str, Any]] = {}
        if self.exists(tools):
            found = _components(json.loads(self._ask(tools, "stack", "export", "--show-secrets")))
        up = {name: outputs for name, outputs in found.items() if "clientEnv" in outputs}
        if not up:
            raise LocalError(f"{self.platform.label} is not up. Next: `mlflow-stack up`.")
        if component not in up and (component or len(up) > 1):
            raise LocalError(f"--component: name one of {', '.join(sorted(up))}. Next: run the same command with it.")
        outputs = up[component] if component else next(iter(up.values()))
        return {str(name): str(text) for name, text in json.loads(outputs["clientEnv"]["plaintext"]).items()} | (
            self.platform.trust()
        )

    def namespaces(self, tools: Tools) -> list[str]:
        """Return the namespaces of the MlflowStacks in the state; without a state, those that the program declares."""
        state = self.state(tools) if self.exists(tools) else {}
        found = [
            str(resource["inputs"]["metadata"]["namespace"])
            for resource in release.resources(state)
            if f"{_COMPONENT}$" in str(resource["urn"])
            and "namespace" in (resource.get("inputs", {}).get("metadata") or {})
        ]
        return [*dict.fromkeys(found or (stack.namespace for stack in self.record().stacks))]

    def release(self, tools: Tools) -> None:
        """Edit the state so that the engine forgets the resources that the stack file releases."""
        if not self.released:
            return
        state = self.state(tools)
        edited = release.let_go(state, self.released)
        if edited is not state:
            self._import(tools, edited)

    def state(self, tools: Tools) -> State:
        """Return the stack's state, secrets encrypted."""
        return cast(State, json.loads(self._ask(tools, "stack", "export")))

    def leftovers(self, tools: Tools) -> list[Leftover]:
        """Return the objects that a killed update left behind; if the cluster does not answer, those that may exist."""
        found = interrupted.leftovers(self.state(tools)) if self.exists(tools) else []
        try:
            return interrupted.existing(tools.cluster, found)
        except UnreadableError:
            return found

    def recover(self, tools: Tools, say: Callable[[str], None]) -> None:
        """Delete the objects that a killed update left behind, and remove its unfinished creates from the state."""
        state = self.state(tools)
        if not interrupted.creates(state):
            return
        cluster = tools.cluster
        interrupted.remove(cluster, interrupted.existing(cluster, interrupted.leftovers(state)), say)
        self._import(tools, interrupted.settled(state))

    def resume(self, tools: Tools, say: Callable[[str], None], *, servers: bool) -> bool:
        """Scale up the workloads that were scaled to zero by hand; return whether there was one.

        Without `servers`, tracking servers stay scaled down: an upgrade of MySQL's schema needs their pause.
        """
        found = paused.paused(self.state(tools), tools.cluster)
        found = [workload for workload in found if servers or workload.component != TRACKING]
        paused.resume(tools.cluster, found, say)
        return bool(found)

    def changes(self, tools: Tools) -> dict[str, int]:
        """Return what the last update did, as counts by `same`, `create`, `update` and so on."""
        history = json.loads(self._ask(tools, "stack", "history", "--json", "--page-size", "1"))
        return cast(dict[str, int], history[0].get("resourceChanges", {})) if history else {}

    def stream(self, tools: Tools, argv: Sequence[str], next_step: str) -> None:
        """Run a program whose output goes to the user. Raises `LocalError` if it fails."""
        with self._with_scratch(tools.environment) as variables:
            status = children.stream(argv, cwd=self.project.folder, env=variables)
        if status:
            raise LocalError(f"{' '.join(argv[:2])} failed, see above. Next: {next_step}.")

    def tried(
        self, variables: Mapping[str, str], *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the engine to its end, whatever its exit status, with the variables of the tools or changed ones."""
        argv = ["pulumi", *arguments, "--non-interactive"]
        with self._with_scratch(variables) as env:
            return children.run(argv, cwd=cwd or self.project.folder, env=env)

    def asked(self, variables: Mapping[str, str], *arguments: str, cwd: Path | None = None) -> str:
        """Return the engine's output, run as by `tried`. Raises `LocalError` if it fails."""
        done = self.tried(variables, *arguments, cwd=cwd)
        if done.returncode:
            what = f"`pulumi {' '.join(arguments[:2])}`"
            said = (done.stderr + done.stdout).splitlines()
            raise LocalError(programs.failure(what, said, "`mlflow-stack status`, then run the same command again"))
        return done.stdout

    def unlock(self, tools: Tools, say: Callable[[str], None]) -> None:
        """Clean up after an update that was killed on this machine; wait for one that is still running.

        Removes its lock and ends the programs that its engine started.

        Raises `LocalError` if a running update does not end soon.
        """
        locks = self._locks(tools)
        deadline = time.monotonic() + _UPDATE_SECONDS
        told = False
        while running := [pid for pid in _holders(locks) if pid and _is_engine(pid)]:
            if time.monotonic() > deadline:
                raise LocalError(
                    f"another update of {self.platform.label} is under way, "
                    f"process {running[0]}. Next: wait until it ends, or `kill -INT {running[0]}`, "
                    "then run the same command again."
                )
            if not told:
                say(f"waiting for another update of this stack, process {running[0]}")
            told = True
            time.sleep(1)
        holders = _holders(locks)
        for pid in filter(None, holders):
            children.end_left_by(pid)
        if holders and all(holders):
            self._ask(tools, "cancel", "--yes")

    def _locks(self, tools: Tools) -> Path | None:
        """Return the folder of the stack's locks; None if the backend is not on this machine."""
        backend = self.platform.backend
        if backend is None:
            url = urlsplit(str(json.loads(self._ask(tools, "whoami", "--json")).get("url", "")))
            if url.scheme != "file":
                return None
            backend = Path(unquote(url.path)).expanduser()
        stack = self.stack.rpartition("/")[2]
        return next(iter((backend / ".pulumi" / "locks").glob(f"*/{self.project.name}/{stack}")), None)

    def _import(self, tools: Tools, state: State) -> None:
        with tempfile.TemporaryDirectory(dir=self.platform.scratch) as scratch:
            file = Path(scratch) / "state.json"
            file.write_text(json.dumps(state))
            self._ask(tools, "stack", "import", "--file", str(file))

    def _ask(self, tools: Tools, *arguments: str) -> str:
        return self.asked(tools.environment, *arguments)

    @contextmanager
    def _with_scratch(self, variables: Mapping[str, str]) -> Generator[dict[str, str]]:
        """Give an engine a folder of temporary files, deleted afterwards: the provider leaves the kubeconfig there."""
        with tempfile.TemporaryDirectory(dir=self.platform.scratch) as scratch:
            yield {**self.platform.inherited, **variables, "TMPDIR": scratch}


def _components(state: State) -> dict[str, dict[str, Any]]:
    """Return the outputs of each MlflowStack in a state, by its name."""
    return {
        str(resource["urn"]).rpartition("::")[2]: cast("dict[str, Any]", resource.get("outputs") or {})
        for resource in release.resources(state)
        if resource["type"] == _COMPONENT
    }


def _holders(locks: Path | None) -> list[int]:
    """Return the ids of the processes that hold a lock on the stack's state; 0 for one on another machine."""
    found: list[int] = []
    for lock in locks.glob("*.json") if locks else ():
        with suppress(FileNotFoundError):
            holder = json.loads(lock.read_text())
            found.append(int(holder["pid"]) if holder["hostname"] == socket.gethostname() else 0)
    return found


def _is_engine(pid: int) -> bool:
    """Return whether the process is a running Pulumi engine, not another program that was given the same id."""
    try:
        return Path("/proc", str(pid), "comm").read_text().startswith("pulumi")
    except OSError:
        return False
