"""One stack in one instance: what it needs to run, and the programs that then run on it."""

import base64
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import yaml

from mlflow_stack_cli import children, interrupted, paused, preflight, programs, release
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.preflight import Cluster, UnreadableError
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.release import State
from mlflow_stack_cli.stackfile import section
from mlflow_stack_cli.yamlfile import Tree
from sandbox import authority, builds, engine, guard, hosts, images, services
from sandbox.cluster import Node, kubernetes
from sandbox.engine import Engine
from sandbox.images import Image
from sandbox.paths import PROJECT, Instance
from sandbox.stackfile import StackFile

_PROJECT_NAME = "mlflow-stack"
_PART_OF = "app.kubernetes.io/part-of=mlflow"
_INSTANCE_LABEL = "app.kubernetes.io/instance"
_SECRET_SECONDS = 150.0
_UPDATE_SECONDS = 60.0


@dataclass(frozen=True)
class Tools:
    """The programs that a deployment needs on this machine."""

    engine: Engine
    kubectl: Path


class Deployment:
    """A stack in an instance, on the instance's own node or in the user's kube context."""

    def __init__(self, instance: Instance, stack: str, context: str, backend: str = "") -> None:
        """`context`: the user's kube context, empty for what the stack was brought up with before, else our own node.
        `backend`: URL of the user's Pulumi backend, whose passphrase is in the environment as Pulumi reads it; empty
        for the instance's own state and passphrase.

        Raises `LocalError` when the stack was brought up in another context before.
        """
        self.instance = instance
        self.backend = backend
        self.file = StackFile(instance, stack)
        self.node = Node(instance)
        known = self._context_file.read_text().strip() if self._context_file.exists() else None
        if context and known is not None and known != context:
            raise LocalError(
                f"stack {stack} of instance {instance.name} runs {_where(known)}, not {_where(context)}. "
                "Next: name another INSTANCE for this context, or `make down clean` first."
            )
        self.context = context or known or ""

    @property
    def stack(self) -> str:
        """The stack's name."""
        return self.file.stack

    @property
    def local(self) -> bool:
        """Whether it runs on the instance's own node."""
        return not self.context

    def tools(self, progress: Progress) -> Tools:
        """Engine and kubectl, built where they are not there yet."""
        ready, kubectl = builds.overlap(lambda: engine.ensure(progress), lambda: self._kubectl(progress))
        return Tools(ready, kubectl)

    def start(self, progress: Progress) -> Tools:
        """Everything a `pulumi up` needs: tools, cluster and images. Returns with the cluster running."""
        self.file.judge(self._address if self.local else {})
        if not self.local:
            return self.prepare(progress)
        ready, _, *loaded = builds.overlap(
            lambda: engine.ensure(progress),
            lambda: self.node.up(progress),
            lambda: images.mlflow(progress),
            lambda: images.nginx(progress),
            *(partial(program, progress) for program in self._further),
        )
        self.node.load(progress, *loaded)
        tools = self._settle(Tools(ready, self._kubectl(progress)), progress)
        if self._services:
            kubectl = [str(tools.kubectl), f"--kubeconfig={self.kubeconfig}"]
            services.start(progress, kubectl, self.instance, self.file.config, self._services)
        return tools

    def settle_on_context(self) -> None:
        """Notes where the stack runs; from now on no other context is taken for it."""
        self._context_file.write_text(f"{self.context}\n")

    @property
    def public(self) -> bool:
        """Whether the stack states a public address."""
        return self._expose.get("kind", "none") != "none"

    @property
    def _expose(self) -> Tree:
        return section(self.file.config, f"{_PROJECT_NAME}:expose")

    def _trust(self) -> dict[str, str]:
        """The authority behind https addresses: for MLflow's client alone, and for whatever else uses requests."""
        if not self.local:
            return {}
        return {
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority.root(self.instance)),
            "REQUESTS_CA_BUNDLE": str(authority.bundle(self.instance)),
        }

    def introduce(self, cluster: Cluster) -> None:
        """Lets this machine find the stack's public address, and those that came back with the node, where they are
        names of the instance's own."""
        if self.local:
            known = {str(self._expose.get("host", "")), *preflight.hosts(cluster)}
            hosts.add(self.instance, *(host for host in known if host.endswith(f".{self.instance.domain}")))

    def others(self, tools: Tools) -> list[str]:
        """The other servers on the node, each as its namespace and its name, once this stack is down."""
        found = self.cluster(tools).get("deployments,statefulsets", "--all-namespaces", f"--selector={_PART_OF}") or {}
        metadata = [one["metadata"] for one in found.get("items", [])]
        return sorted({f"{one['namespace']}/{one['labels'][_INSTANCE_LABEL]}" for one in metadata})

    def leave(self) -> None:
        """Take the stack's address away, and leave the node to the stacks that run on it."""
        hosts.drop(self.instance, str(self._expose.get("host", "")))

    def close(self, progress: Progress) -> None:
        """Stops the node, where it is our own; its addresses are no longer found."""
        if self.local:
            with progress.step("stop the node", 5):
                self.node.down()
            hosts.remove(self.instance)

    def prepare(self, progress: Progress) -> Tools:
        """What commands by hand need: tools, stack and stack file. Starts nothing."""
        return self._settle(self.tools(progress), progress)

    def shell(self, tools: Tools) -> dict[str, str]:
        """The variables with which a shell works on this deployment: `environment`, a `pulumi` that refuses another
        project, and what the Makefile takes in place of its defaults."""
        variables = self.environment(tools)
        if pulumi := shutil.which("pulumi", path=variables["PATH"]):
            guard.write(self.instance, Path(pulumi))
            variables["PATH"] = f"{guard.folder(self.instance)}{os.pathsep}{variables['PATH']}"
        return variables | {
            "MLFLOW_STACK_INSTANCE": self.instance.name,
            "MLFLOW_STACK_STACK": self.stack,
            "MLFLOW_STACK_BACKEND": self.backend,
        }

    def environment(self, tools: Tools) -> dict[str, str]:
        """The variables with which `pulumi` and `kubectl` work on this deployment."""
        variables = engine.environment(tools.engine, None if self.backend else self.instance)
        if self.backend:
            variables["PULUMI_BACKEND_URL"] = self.backend
        return variables | {
            "PATH": f"{tools.kubectl.parent}{os.pathsep}{variables['PATH']}" if self.local else variables["PATH"],
            "PULUMI_STACK": self.stack,
            "PULUMI_OPTION_CONFIG_FILE": str(self.file.path),
            # `pulumi stack rm` would delete the tracked file, which is not the stack's own.
            "PULUMI_OPTION_PRESERVE_CONFIG": "true",
            "KUBECONFIG": str(self.kubeconfig),
        }

    @property
    def kubeconfig(self) -> Path:
        """Which cluster, and who asks."""
        return self.instance.kubeconfig if self.local else self.file.path.with_name(f"{self.stack}.kubeconfig")

    def cluster(self, tools: Tools) -> Cluster:
        """The cluster, to be asked."""
        return Cluster(tools.kubectl, self.kubeconfig)

    def exists(self, tools: Tools) -> bool:
        """Whether the engine knows the stack."""
        if not self.backend and not self.instance.state.exists():
            return False
        stacks = json.loads(self._ask(tools, "stack", "ls", "--json"))
        return any(stack["name"].rpartition("/")[2] == self.stack for stack in stacks)

    def outputs(self, tools: Tools) -> dict[str, Any]:
        """The stack's outputs, secrets as `[secret]`; empty before the first `up`."""
        return cast(dict[str, Any], json.loads(self._ask(tools, "stack", "output", "--json")))

    def client_environment(self, tools: Tools) -> dict[str, str]:
        """What MLflow's client needs, password included. Raises `LocalError` where the stack is not up."""
        if not self.exists(tools) or "clientEnv" not in self.outputs(tools):
            raise LocalError(f"stack {self.stack} of instance {self.instance.name} is not up. Next: `make up`.")
        variables = json.loads(self._ask(tools, "stack", "output", "--json", "--show-secrets", "clientEnv"))
        return variables | self._trust()

    @property
    def released(self) -> list[str]:
        """The names of resources that the stack file lets go."""
        return list(self.file.settings.release)

    def release(self, tools: Tools) -> None:
        """Edits the state so that the engine forgets the resources that the stack file lets go."""
        if not self.released:
            return
        state = self.state(tools)
        edited = release.let_go(state, self.released)
        if edited is not state:
            self._import(tools, edited)

    def state(self, tools: Tools) -> State:
        """The stack's state, secrets encrypted."""
        return cast(State, json.loads(self._ask(tools, "stack", "export")))

    def leftovers(self, tools: Tools) -> list[Leftover]:
        """The objects that a killed update left behind; where the cluster does not answer, those that may exist."""
        found = interrupted.leftovers(self.state(tools)) if self.exists(tools) else []
        try:
            return interrupted.existing(self.cluster(tools), found)
        except UnreadableError:
            return found

    def recover(self, tools: Tools, say: Callable[[str], None]) -> None:
        """Delete the objects that a killed update left behind, and take its unfinished creates out of the state."""
        state = self.state(tools)
        if not interrupted.creates(state):
            return
        cluster = self.cluster(tools)
        interrupted.remove(cluster, interrupted.existing(cluster, interrupted.leftovers(state)), say)
        self._import(tools, interrupted.settled(state))

    def resume(self, tools: Tools, say: Callable[[str], None], *, servers: bool) -> bool:
        """End the pauses of workloads that were scaled to no pod by hand; return whether there was one.

        Without `servers` the tracking servers stay as they are: an upgrade of MySQL's schema needs their pause.
        """
        cluster = self.cluster(tools)
        found = [one for one in paused.paused(self.state(tools), cluster) if servers or one.component != "tracking"]
        paused.resume(cluster, found, say)
        return bool(found)

    def changes(self, tools: Tools) -> dict[str, int]:
        """What the last update did, as counts by `same`, `create`, `update` and so on."""
        history = json.loads(self._ask(tools, "stack", "history", "--json", "--page-size", "1"))
        return cast(dict[str, int], history[0].get("resourceChanges", {})) if history else {}

    def stream(self, tools: Tools, argv: Sequence[str], next_step: str) -> None:
        """Runs a program whose output is the user's to see. Raises `LocalError` when it fails."""
        with self._alone(self.environment(tools)) as variables:
            status = children.stream(argv, cwd=PROJECT, env=variables)
        if status:
            raise LocalError(f"{' '.join(argv[:2])} failed, see above. Next: {next_step}.")

    def tried(
        self, variables: Mapping[str, str], *arguments: str, cwd: Path = PROJECT
    ) -> subprocess.CompletedProcess[str]:
        """Runs the engine with what `environment` gives, or a change of it, to its end, however it ends."""
        argv = ["pulumi", *arguments, "--non-interactive"]
        with self._alone(variables) as env:
            return children.run(argv, cwd=cwd, env=env)

    def asked(self, variables: Mapping[str, str], *arguments: str, cwd: Path = PROJECT) -> str:
        """What the engine prints, run as by `tried`. Raises `LocalError` when it fails."""
        done = self.tried(variables, *arguments, cwd=cwd)
        if done.returncode:
            what = f"`pulumi {' '.join(arguments[:2])}`"
            said = (done.stderr + done.stdout).splitlines()
            raise LocalError(programs.failure(what, said, "`make status`, then the same command again"))
        return done.stdout

    def unlock(self, tools: Tools, say: Callable[[str], None]) -> None:
        """Take away what is left of an update that was killed on this machine; wait for one that is still under way.

        Left are its lock and the programs that its engine had started.

        Raises `LocalError` where that one does not end soon.
        """
        deadline = time.monotonic() + _UPDATE_SECONDS
        told = False
        while running := [pid for pid in self._holders() if pid and _is_engine(pid)]:
            if time.monotonic() > deadline:
                raise LocalError(
                    f"another update of stack {self.stack} of instance {self.instance.name} is under way, "
                    f"process {running[0]}. Next: wait for its end, or `kill -INT {running[0]}`, then the same again."
                )
            if not told:
                say(f"waiting for another update of this stack, process {running[0]}")
            told = True
            time.sleep(1)
        holders = self._holders()
        for pid in filter(None, holders):
            children.end_left_by(pid)
        if holders and all(holders):
            self._ask(tools, "cancel", "--yes")

    def _holders(self) -> list[int]:
        """The processes that hold a lock of the stack's state; 0 for one on another machine."""
        found: list[int] = []
        for lock in (self.instance.state / ".pulumi" / "locks").glob(f"**/{self.stack}/*.json"):
            with suppress(FileNotFoundError):
                holder = json.loads(lock.read_text())
                found.append(int(holder["pid"]) if holder["hostname"] == socket.gethostname() else 0)
        return found

    def _kubectl(self, progress: Progress) -> Path:
        found = None if self.local else shutil.which("kubectl")
        return Path(found) if found else kubernetes(progress) / "kubectl"

    def _settle(self, tools: Tools, progress: Progress) -> Tools:
        if not self.instance.passphrase.exists():
            fresh = self.instance.passphrase.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_urlsafe(32))
            fresh.replace(self.instance.passphrase)
        self.instance.state.mkdir(exist_ok=True)
        if not self.local:
            self._write_kubeconfig(tools)
        identity = None if self.exists(tools) and self.file.salted else self._initialise(tools)
        # A deleted stack takes its keys along; secrets among them are encrypted with its salt.
        if identity and not self.backend and (gone := self.file.forget(lambda _: True)):
            progress.say(f"keys set by hand are forgotten, as stack {self.stack} was deleted: {', '.join(gone)}")
        self.file.remake(self._overlay(progress) if self.local else {}, identity)
        return tools

    def _initialise(self, tools: Tools) -> Tree | None:
        """Makes the stack, and returns what Pulumi noted in its stack file."""
        # `stack init` has no option for the file: in the checkout it would write the salt into the tracked one.
        with tempfile.TemporaryDirectory(dir=self.instance.root) as scratch:
            (Path(scratch) / "Pulumi.yaml").write_text(f"name: {_PROJECT_NAME}\nruntime: python\n")
            if self.exists(tools):
                return None
            self._ask(tools, "stack", "init", self.stack, "--no-select", cwd=Path(scratch))
            noted = yaml.safe_load((Path(scratch) / self.file.path.name).read_text())
            return {"encryptionsalt": noted["encryptionsalt"]}

    def _overlay(self, progress: Progress) -> Tree:
        overlay: Tree = {
            f"{_PROJECT_NAME}:image": images.mlflow(progress).reference,
            f"{_PROJECT_NAME}:proxyImage": images.nginx(progress).reference,
            **self._address,
        }
        if self._deploys_database:
            deploy = {"image": images.mariadb(progress).reference}
            overlay[f"{_PROJECT_NAME}:backendStore"] = {"mysql": {"deploy": deploy}}
        return overlay

    @property
    def _address(self) -> Tree:
        return {
            f"{_PROJECT_NAME}:expose": {
                "kind": "ingress",
                "className": "traefik",
                "host": f"{self.stack}.{self.instance.domain}",
                # Traefik's own certificate, which is of all names of the instance.
                "tls": {},
                # Traefik is a pod; others are not let to the public port.
                "trustedProxies": [self.instance.pod_cidr],
            },
        }

    @property
    def _services(self) -> list[services.Service]:
        return services.named(self.file.services)

    @property
    def _further(self) -> list[Callable[[Progress], Image]]:
        """The images that this stack needs beside MLflow's and nginx's."""
        needed = [service.program for service in self._services]
        return [*needed, images.mariadb] if self._deploys_database else needed

    @property
    def _deploys_database(self) -> bool:
        return "deploy" in section(self.file.declared, f"{_PROJECT_NAME}:backendStore", "mysql")

    def _write_kubeconfig(self, tools: Tools) -> None:
        # A later command may run where the user's kubeconfig is not named; what was noted still leads there.
        if self.kubeconfig.exists() and not self._named(tools):
            return
        # The provider takes one file, and the context that is current in it.
        view = ["config", "view", "--raw", "--minify", "--flatten", f"--context={self.context}"]
        text = programs.run([str(tools.kubectl), *view], what=f"reading the kube context {self.context}")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(text)

    def _named(self, tools: Tools) -> bool:
        argv = [str(tools.kubectl), "config", "get-contexts", self.context, "--output=name"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def _import(self, tools: Tools, state: State) -> None:
        with tempfile.TemporaryDirectory(dir=self.instance.root) as scratch:
            file = Path(scratch) / "state.json"
            file.write_text(json.dumps(state))
            self._ask(tools, "stack", "import", "--file", str(file))

    def _ask(self, tools: Tools, *arguments: str, cwd: Path = PROJECT) -> str:
        return self.asked(self.environment(tools), *arguments, cwd=cwd)

    @contextmanager
    def _alone(self, variables: Mapping[str, str]) -> Generator[dict[str, str]]:
        """The environment of an engine whose temporary files go with it: the provider leaves the kubeconfig as one."""
        with tempfile.TemporaryDirectory(dir=self.instance.root) as scratch:
            yield {**self.inherited, **variables, "TMPDIR": scratch}

    @cached_property
    def inherited(self) -> dict[str, str]:
        """What programs have of this process's environment."""
        if self.backend:
            return dict(os.environ)
        # A passphrase in the environment would win over the instance's file.
        return {key: value for key, value in os.environ.items() if key != "PULUMI_CONFIG_PASSPHRASE"}

    @property
    def _context_file(self) -> Path:
        return self.file.path.with_name(f"{self.stack}.context")


def client(environment: Mapping[str, str], progress: Progress) -> str:
    """Logs a run with MLflow's real client, as the quickstart does; returns the run's address."""
    with progress.step("the password counts", 2):
        _await_password(environment)
    train = PROJECT / "examples" / "quickstart" / "train.py"
    with progress.step("log a run with MLflow's client", 15) as step:
        text = programs.run(
            [sys.executable, str(train), "--short"],
            what="logging a run with MLflow's client",
            next_step="`make logs` shows the server's side",
            env=os.environ | environment, step=step,
        )  # fmt: skip
    lines = text.strip().splitlines()
    if not lines or not lines[-1].startswith("run: "):
        raise LocalError(programs.failure("logging a run with MLflow's client", lines, "`make logs`"))
    return lines[-1].removeprefix("run: ")


def _await_password(environment: Mapping[str, str]) -> None:
    """Waits until the server no longer answers 401: a kubelet brings a changed Secret to its pod within two minutes."""
    pair = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    request = urllib.request.Request(f"{environment['MLFLOW_TRACKING_URI']}/version", headers=headers)  # noqa: S310
    trusted = ssl.create_default_context(cafile=environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    deadline = time.monotonic() + _SECRET_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted):  # noqa: S310 - our own address
                return
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                return  # not about the password: the client says more
        except OSError:
            return
        time.sleep(1)
    raise LocalError(
        f"the address still answers 401 to the stack's own password after {_SECRET_SECONDS:.0f} s. "
        "Next: `make status`; if the pod runs, `make up` again."
    )


def _is_engine(pid: int) -> bool:
    """Whether the process runs and is a Pulumi engine, not a later one that has got its id."""
    try:
        return Path("/proc", str(pid), "comm").read_text().startswith("pulumi")
    except OSError:
        return False


def _where(context: str) -> str:
    return f"in the kube context {context}" if context else "on its own node"
