"""Node shared by the end-to-end tests: the command line, kubectl, stacks of other programs."""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

import engine
from mlflow_stack_cli.progress import Progress
from sandbox import services
from sandbox.cluster import Node
from sandbox.paths import Instance

INSTANCE = os.environ.get("MLFLOW_STACK_TEST_INSTANCE", "test")
"""Instance that tests create and delete; another name allows two checkouts to test at the same time."""
DEV_PORT = 30500
"""NodePort that the local overlay gives to the stack of `make up`."""
WAIT = 120
"""Seconds in which a mounted Secret reaches its pod, with a kubelet's default settings."""


def eventually(what: str, probe: Callable[[], object], seconds: float = WAIT, pause: float = 1) -> Any:
    """Return the first true answer of a probe; fail with the last one after a timeout."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}; last answer: {answer!r}"
        time.sleep(pause)


def status(url: str, auth: tuple[str, str] | None = None, **options: Any) -> int:
    """Return the HTTP status of a request; 0 without a complete answer: no connection, a cut one, none in time."""
    method = options.pop("method", "GET")
    try:
        return requests.request(method, url, auth=auth, timeout=options.pop("timeout", 30), **options).status_code
    except requests.RequestException as error:
        print(f"{method} {url}: {error!r}")
        return 0


def sent(url: str, auth: tuple[str, str], trust: str, *, mebibytes: int, chunked: bool, method: str = "PUT") -> int:
    """Return the status of a large request, even if the server answers and closes the connection before all is sent."""
    _, _, host, path = url.split("/", 3)
    token = base64.b64encode(":".join(auth).encode()).decode()
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {mebibytes * 2**20}"
    head = f"{method} /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {token}\r\n"
    head += f"Content-Type: application/json\r\n{size}\r\n\r\n"
    block = b"x" * 2**20
    context = ssl.create_default_context(cafile=trust)
    with context.wrap_socket(socket.create_connection((host, 443), timeout=60), server_hostname=host) as connection:
        with suppress(OSError):
            connection.sendall(head.encode())
            for _ in range(mebibytes):
                connection.sendall(b"100000\r\n" + block + b"\r\n" if chunked else block)
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        return int(connection.recv(64).split()[1])


def blocks(document: Path) -> list[str]:
    """Return the commands of a document, a text for each block."""
    return re.findall(r"^```sh\n(.*?)^```$", document.read_text(), re.M | re.S)


@dataclass
class Platform:
    """Running node, with the environment in which pulumi and kubectl reach it."""

    instance: Instance
    node: Node
    environment: dict[str, str]
    images: dict[str, str]
    """References of the local images: mlflow, proxy."""

    def local(self, *arguments: str, check: bool = True, stack: str = "dev") -> subprocess.CompletedProcess[str]:
        """Run a command of the project's command line, as make calls it."""
        command = [sys.executable, "-m", "sandbox", "--instance", INSTANCE, "--stack", stack, *arguments]
        done = subprocess.run(command, cwd=engine.PROJECT, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None, cwd: Path = engine.PROJECT, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the environment of `make env`."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, **env},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run("kubectl", *arguments, stdin=stdin).stdout

    def objects(self, kind: str, namespace: str, *arguments: str) -> list[dict[str, Any]]:
        return json.loads(self.kubectl("get", kind, "--namespace", namespace, "--output", "json", *arguments))["items"]

    def first_process(self) -> psutil.Process:
        """Id of the node's PID 1 on the machine; all other processes of the node are below it."""
        pid = self.node.pid()
        assert pid is not None
        return psutil.Process(pid)

    def processes(self) -> dict[psutil.Process, list[str]]:
        """Return the arguments of the node's processes, except those that ended meanwhile."""
        found: dict[psutil.Process, list[str]] = {}
        for process in self.first_process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found[process] = process.cmdline()
        return found

    def server(self, namespace: str) -> dict[str, Any]:
        """The only tracking pod."""
        (pod,) = self.objects("pods", namespace, "--selector", "app.kubernetes.io/component=tracking")
        return pod

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(documents))

    def serve(self, service: services.Service, **config: Any) -> None:
        """Start a local service for a stack with this configuration."""
        with Progress() as progress:
            self.node.load(progress, service.program(progress))
            full = {f"mlflow-stack:{key}": value for key, value in config.items()}
            kubectl = shutil.which("kubectl", path=self.environment["PATH"])
            assert kubectl
            services.start(
                progress, [kubectl, f"--kubeconfig={self.instance.kubeconfig}"], self.instance, full, [service]
            )

    def namespace(self, name: str, **labels: str) -> None:
        """Create a namespace that exists before the stack, with PodSecurity enforced."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted", **labels}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def visitor(self, namespace: str, claim: str | None = None, secrets: Sequence[str] = ()) -> "Visitor":
        """Run another pod in the namespace, with Python, these Secrets as its environment, and optionally a claim
        mounted at /mlflow."""
        volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else []
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "visitor", "namespace": namespace, "labels": {"role": "visitor"}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 0,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "fsGroup": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "python",
                            "image": self.images["mlflow"],
                            "command": ["sleep", "infinity"],
                            "env": [{"name": "HOME", "value": "/tmp"}],
                            "envFrom": [{"secretRef": {"name": name}} for name in secrets],
                            "workingDir": "/tmp",
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "volumeMounts": [{"name": "data", "mountPath": "/mlflow"}] if claim else [],
                        }
                    ],
                    "volumes": volumes,
                },
            }
        )
        self.kubectl("wait", "--for=condition=Ready", "pod/visitor", "--namespace", namespace, "--timeout=120s")
        return Visitor(self, namespace)


_CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print("open")
    except OSError:
        print("closed")
"""
_LISTEN = """
import subprocess, sys
# With this command's own output, the command would not end.
subprocess.Popen(
    [sys.executable, "-m", "http.server", sys.argv[1], "--directory", sys.argv[2]],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
)
"""
_LOOK = """
import json, os, sys
canaries = [line.strip().encode() for line in sys.stdin]
found, read = [], 0
places = ["/model", "/opt/mlflow-stack", "/tmp", "/run", "/etc"]
paths = [os.path.join(folder, name) for place in places for folder, _, names in os.walk(place) for name in names]
paths = [path for path in paths if os.path.isfile(path)]
for path in [*paths, "/proc/1/environ", "/proc/1/cmdline"]:
    try:
        content = open(path, "rb").read()
    except PermissionError:
        continue
    read += 1
    found += [path for canary in canaries if canary in content]
print(json.dumps([read, found]))
"""


@dataclass
class Visitor:
    """Pod in which tests run Python."""

    platform: Platform
    namespace: str
    pod: str = "visitor"
    container: str = "python"

    def python(self, program: str, *arguments: str, stdin: str = "") -> str:
        where = ("--stdin", self.pod, f"--namespace={self.namespace}", f"--container={self.container}")
        return self.platform.kubectl("exec", *where, "--", "python", "-c", program, *arguments, stdin=stdin).strip()

    def connects(self, *targets: str) -> list[str]:
        """Return for each address with a port whether it is open or closed."""
        return self.python(_CONNECT, *targets).split()

    def address(self) -> str:
        name = ("pod", self.pod, f"--namespace={self.namespace}")
        return self.platform.kubectl("get", *name, "--output=jsonpath={.status.podIP}")

    def listen(self, port: int, folder: str = "/tmp") -> str:
        """Serve a folder; return its address."""
        self.python(_LISTEN, str(port), folder)
        return f"{self.address()}:{port}"

    def holds(self, *canaries: str) -> tuple[int, list[str]]:
        """Return the number of files and process entries that the container could read, and those that contain a
        text."""
        read, found = json.loads(self.python(_LOOK, stdin="\n".join(canaries)))
        return read, found

    def copy(self, source: Path, target: str) -> None:
        """Copy the content of a folder into the pod."""
        names = sorted(path.name for path in source.iterdir())
        archive = subprocess.run(["tar", "-C", str(source), "-cf", "-", *names], capture_output=True, check=True).stdout
        done = subprocess.run(
            ["kubectl", "exec", "-i", "visitor", "--namespace", self.namespace, "--", "sh", "-c",
             f"mkdir -p {target} && tar -C {target} -xf - --no-same-owner"],
            env=self.platform.environment,
            input=archive,
            capture_output=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()

    def leave(self) -> None:
        self.platform.kubectl("delete", "pod", "visitor", "--namespace", self.namespace, "--wait=true")


class Secret(str):
    """Encrypted value in a stack file."""


def _secrets(tree: Any, path: str) -> Iterator[tuple[str, Secret]]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, Secret):
            yield f"{path}{key}", value
        yield from _secrets(value, f"{path}{key}.")


def _without_secrets(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: _without_secrets(value) for key, value in tree.items() if not isinstance(value, Secret)}


@dataclass
class Stack:
    """Stack of a program, in the shared instance's state backend."""

    platform: Platform
    name: str
    config: dict[str, Any]
    program: Path = engine.PROJECT
    project: str = "mlflow-stack"
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Beside the instance's own stack files: its `pulumi` refuses to keep another project's keys in them.
        self.file = self.platform.instance.root / f"e2e.{self.name}.yaml"
        self._initialise()
        self.configure()

    def _initialise(self) -> None:
        """Create the stack. `stack init` has no option for the stack file: in the program's folder it would write the
        salt."""
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "Pulumi.yaml").write_text(f"name: {self.project}\nruntime: python\n")
            init = ("pulumi", "stack", "init", self.name, "--no-select", "--non-interactive")
            self.platform.run(*init, cwd=Path(scratch), PULUMI_OPTION_CONFIG_FILE=str(self.file))
            self.file.write_text((Path(scratch) / f"Pulumi.{self.name}.yaml").read_text())

    def configure(self, **config: Any) -> None:
        """Merge keys into the stack's configuration."""
        self.config.update(config)
        content = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        stated = {f"{self.project}:{key}": value for key, value in self.config.items() if value is not None}
        content["config"] = _without_secrets(stated)
        self.file.write_text(yaml.safe_dump(content))
        for path, text in _secrets(stated, ""):
            set_secret = ("pulumi", "config", "set", "--secret", "--path", path, "--stack", self.name)
            self.platform.run(*set_secret, stdin=text, cwd=self.program, PULUMI_OPTION_CONFIG_FILE=str(self.file))

    def pulumi(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {"PULUMI_OPTION_CONFIG_FILE": str(self.file), **self.env}
        options = () if arguments[:2] == ("stack", "rm") else ("--stack", self.name)
        return self.platform.run(
            "pulumi", *arguments, *options, "--non-interactive", check=check, cwd=self.program, **environment
        )

    def up(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.pulumi("up", "--yes", "--skip-preview", check=check)

    def unchanged(self) -> None:
        """Check that a preview proposes no change."""
        self.pulumi("preview", "--expect-no-changes")

    def output(self, name: str) -> Any:
        return json.loads(self.pulumi("stack", "output", "--json", "--show-secrets").stdout)[name]

    def destroy(self) -> None:
        """Destroy the whole stack, including its protected data."""
        self.pulumi("state", "unprotect", "--all", "--yes")
        self.pulumi("destroy", "--yes", "--skip-preview")
        self.pulumi("stack", "rm", self.name, "--yes", "--force")
        self.file.unlink(missing_ok=True)


def quickstart(client: Mapping[str, str], *arguments: str) -> str:
    """Run the quickstart with MLflow's client; return its output."""
    done = subprocess.run(
        [sys.executable, str(engine.PROJECT / "examples/quickstart/train.py"), *arguments],
        # Do not wait long for a server that is gone.
        env={**os.environ, **client, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
