"""Instance as the platform of a stack: its own node, or a context of the user's with the instance's state."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import yaml

from mlflow_stack.pod import INSTANCE_LABEL
from mlflow_stack_cli import platform, preflight
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.deployment import Deployment
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.platform import Tools
from mlflow_stack_cli.progress import Progress
from mlflow_stack_cli.project import Project
from mlflow_stack_cli.stackfile import section
from mlflow_stack_cli.yamlfile import Tree
from sandbox import authority, builds, engine, guard, hosts, images, services
from sandbox.cluster import Node, kubernetes
from sandbox.engine import Engine
from sandbox.images import Image
from sandbox.paths import PROJECT, Instance
from sandbox.stackfile import StackFile

PROJECT_NAME = "mlflow-stack"
_PART_OF = "app.kubernetes.io/part-of=mlflow"


class Sandbox:
    """Platform of a stack in an instance: the instance's own node, or the user's kube context."""

    def __init__(self, instance: Instance, stack: str, context: str, backend: str = "") -> None:
        """`context`: the user's kube context; empty for the one of the first deployment, else the instance's node.
        `backend`: URL of the user's Pulumi backend, whose passphrase is in the environment as Pulumi reads it; empty
        for the instance's own state and passphrase.

        Raises `LocalError` if the stack was deployed in another context before.
        """
        self.instance = instance
        self.url = backend
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
        """Name of the stack."""
        return self.file.stack

    @property
    def label(self) -> str:
        return f"stack {self.stack} of instance {self.instance.name}"

    @property
    def where(self) -> str:
        if not self.local:
            return f"kube context {self.context}"
        pid = self.node.pid()
        return f"node {self.instance.node_address}, " + (f"runs (pid {pid})" if pid else "does not run")

    @property
    def stack_file(self) -> Path:
        return self.file.path

    @property
    def backend(self) -> Path | None:
        return None if self.url else self.instance.state

    @property
    def scratch(self) -> Path:
        return self.instance.root

    @property
    def inherited(self) -> Mapping[str, str]:
        if self.url:
            return dict(os.environ)
        # A passphrase in the environment would override the instance's file.
        return {key: value for key, value in os.environ.items() if key != "PULUMI_CONFIG_PASSPHRASE"}

    def home(self, key: str) -> Path:
        return self.file.home(key)

    def running(self) -> bool:
        return not self.local or self.node.running()

    def logs(self, component: str, lines: int) -> str:
        return self.node.logs(component, lines)

    @property
    def local(self) -> bool:
        """True if the stack runs on the instance's own node."""
        return not self.context

    def tools(self, progress: Progress) -> Tools:
        """Return engine and kubectl, built if they do not exist."""
        ready, kubectl = builds.overlap(lambda: engine.ensure(progress), lambda: self._kubectl(progress))
        return self._tools(ready, kubectl)

    def start(self, progress: Progress) -> Tools:
        """Return the tools for a `pulumi up`, with the cluster running and the images loaded."""
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
        tools = self._settle(self._tools(ready, self._kubectl(progress)), progress)
        if self._services:
            services.start(progress, tools.cluster.command, self.instance, self.file.config, self._services)
        return tools

    def settle(self) -> None:
        """Record where the stack runs; from now on no other context is accepted for it."""
        self._context_file.write_text(f"{self.context}\n")

    @property
    def public(self) -> bool:
        """True if the stack has a public address."""
        return "host" in self._expose

    @property
    def _expose(self) -> Tree:
        return section(self.file.config, f"{PROJECT_NAME}:expose")

    def trust(self) -> dict[str, str]:
        """Return the certificate authority for https addresses: for MLflow's client, and for other users of
        requests."""
        if not self.local:
            return {}
        return {
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority.root(self.instance)),
            "REQUESTS_CA_BUNDLE": str(authority.bundle(self.instance)),
        }

    def introduce(self, cluster: Cluster) -> None:
        """Make the public addresses of this stack and of others on the node resolvable on this machine, if they are
        names of the instance."""
        if self.local:
            known = {str(self._expose.get("host", "")), *preflight.hosts(cluster)}
            hosts.add(self.instance, *(host for host in known if host.endswith(f".{self.instance.domain}")))

    def others(self, tools: Tools) -> list[str]:
        """Return namespace and name of each other server on the node, once this stack is down."""
        found = tools.cluster.get("deployments,statefulsets", "--all-namespaces", f"--selector={_PART_OF}") or {}
        metadata = [item["metadata"] for item in found.get("items", [])]
        return sorted({f"{server['namespace']}/{server['labels'][INSTANCE_LABEL]}" for server in metadata})

    def leave(self) -> None:
        """Remove the stack's address, and keep the node running for the other stacks on it."""
        hosts.drop(self.instance, str(self._expose.get("host", "")))

    def stop(self, progress: Progress) -> None:
        """Stop the node if it is the instance's own; its addresses no longer resolve."""
        if self.local:
            with progress.step("stop the node", 5):
                self.node.down()
            hosts.remove(self.instance)

    def prepare(self, progress: Progress) -> Tools:
        """Return tools, stack and stack file for commands run by hand. Starts nothing."""
        return self._settle(self.tools(progress), progress)

    def shell(self, tools: Tools) -> dict[str, str]:
        """Return the variables with which a shell works on this stack: those of the tools, a `pulumi` that refuses
        other projects, and the Makefile's variables."""
        variables = dict(tools.environment)
        if pulumi := shutil.which("pulumi", path=variables["PATH"]):
            guard.write(self.instance, Path(pulumi))
            variables["PATH"] = f"{guard.folder(self.instance)}{os.pathsep}{variables['PATH']}"
        return variables | {
            "MLFLOW_STACK_INSTANCE": self.instance.name,
            "MLFLOW_STACK_STACK": self.stack,
            "MLFLOW_STACK_BACKEND": self.url,
        }

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig of the cluster."""
        return self.instance.kubeconfig if self.local else self.file.path.with_name(f"{self.stack}.kubeconfig")

    def _tools(self, ready: Engine, kubectl: Path) -> Tools:
        variables = engine.environment(ready, None if self.url else self.instance)
        if self.url:
            variables["PULUMI_BACKEND_URL"] = self.url
        variables |= {
            "PATH": f"{kubectl.parent}{os.pathsep}{variables['PATH']}" if self.local else variables["PATH"],
            "PULUMI_STACK": self.stack,
            "PULUMI_OPTION_CONFIG_FILE": str(self.file.path),
            # `pulumi stack rm` would delete the tracked file, which is shared.
            "PULUMI_OPTION_PRESERVE_CONFIG": "true",
            "KUBECONFIG": str(self.kubeconfig),
        }
        return Tools(Cluster(kubectl, self.kubeconfig), variables)

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
            self._write_kubeconfig(Path(tools.cluster.command[0]))
        here = Deployment(Project.read(PROJECT), self.stack, self)
        identity = None if here.exists(tools) and self.file.salted else self._initialise(here, tools)
        # A deleted stack takes its keys along, and its secrets are encrypted with its salt.
        if identity and not self.url and (gone := self.file.forget(lambda _: True)):
            progress.say(f"keys set by hand are forgotten, as stack {self.stack} was deleted: {', '.join(gone)}")
        self.file.remake(self._overlay(progress) if self.local else {}, identity)
        return tools

    def _initialise(self, here: Deployment, tools: Tools) -> Tree | None:
        """Create the stack, and return what Pulumi wrote into its stack file."""
        # `stack init` has no option for the file: in the checkout it would write the salt into the tracked one.
        with tempfile.TemporaryDirectory(dir=self.instance.root) as scratch:
            (Path(scratch) / "Pulumi.yaml").write_text(f"name: {PROJECT_NAME}\nruntime: python\n")
            if here.exists(tools):
                return None
            here.asked(tools.environment, "stack", "init", self.stack, "--no-select", cwd=Path(scratch))
            noted = yaml.safe_load((Path(scratch) / self.file.path.name).read_text())
            return {"encryptionsalt": noted["encryptionsalt"]}

    def _overlay(self, progress: Progress) -> Tree:
        overlay: Tree = {
            f"{PROJECT_NAME}:image": images.mlflow(progress).reference,
            f"{PROJECT_NAME}:proxyImage": images.nginx(progress).reference,
            **self._address,
        }
        if self._deploys_database:
            deploy = {"image": images.mariadb(progress).reference}
            overlay[f"{PROJECT_NAME}:backendStore"] = {"mysql": {"deploy": deploy}}
        return overlay

    @property
    def _address(self) -> Tree:
        return {
            f"{PROJECT_NAME}:expose": {
                "ingress": {"className": "traefik"},
                "host": f"{self.stack}.{self.instance.domain}",
                # Traefik's default certificate covers all names of the instance.
                "tls": {},
                # Traefik is a pod; no other pod may reach the public port.
                "trustedProxies": [self.instance.pod_cidr],
            },
        }

    @property
    def _services(self) -> list[services.Service]:
        return services.named(self.file.services)

    @property
    def _further(self) -> list[Callable[[Progress], Image]]:
        """Return the images that this stack needs besides MLflow's and nginx's."""
        needed = [service.program for service in self._services]
        return [*needed, images.mariadb] if self._deploys_database else needed

    @property
    def _deploys_database(self) -> bool:
        return "deploy" in section(self.file.declared, f"{PROJECT_NAME}:backendStore", "mysql")

    def _write_kubeconfig(self, kubectl: Path) -> None:
        # A later command may run without the user's KUBECONFIG; the recorded one still leads to the cluster.
        if not self.kubeconfig.exists() or platform.has_context(kubectl, self.context):
            # The provider takes one file and its current context.
            platform.minified(kubectl, self.context, self.kubeconfig)

    @property
    def _context_file(self) -> Path:
        return self.file.path.with_name(f"{self.stack}.context")


def _where(context: str) -> str:
    return f"in the kube context {context}" if context else "on its own node"
