"""One-node cluster: start, stop and deletion."""

import base64
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template
from typing import Final

from filelock import FileLock

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.programs import failure, run
from mlflow_stack_cli.progress import Progress
from sandbox import authority
from sandbox.authority import Certificate
from sandbox.cluster import config, link
from sandbox.cluster.api import Api
from sandbox.cluster.cgroups import Cgroup
from sandbox.cluster.process import Launch, Process
from sandbox.cluster.programs import Programs, ensure
from sandbox.cluster.supervisor import Supervisor
from sandbox.images import Image
from sandbox.paths import Instance

_MANIFESTS: Final = Path(__file__).with_name("manifests")
_TOOLS: Final = ("ip", "nsenter", "setsid", "sh", "unshare")
_DATA: Final = ("etcd", "containerd", "kubelet", "volumes", "log")
_SECONDS: Final = 120.0
_GRACE: Final = 5.0
# Measured speed of an import, in bytes a second.
_SPEED: Final = 30e6


def manifests(instance: Instance, programs: Programs, certificate: Certificate) -> str:
    """Return the node's own pods and the access rules of its programs, as YAML."""
    text = "---\n".join(file.read_text() for file in sorted(_MANIFESTS.glob("*.yaml")))
    return Template(text).substitute(
        dns_address=instance.dns_address,
        coredns=programs.coredns.reference,
        provisioner=programs.provisioner.reference,
        shell=programs.shell.reference,
        traefik=programs.traefik.reference,
        node_address=instance.node_address,
        domain=instance.domain,
        certificate=base64.b64encode(certificate.chain.encode()).decode(),
        key=base64.b64encode(certificate.key.encode()).decode(),
    )


class Node:
    """One-node cluster of an instance. It runs detached from the process that started it, until `down` or a reboot."""

    def __init__(self, instance: Instance) -> None:
        """`instance`: owner of the node. Nothing is started yet."""
        self.instance = instance
        self._cgroup = Cgroup(instance.cgroup)
        self._etc = instance.node / "etc"
        self._record = instance.node / "process.json"

    def up(self, progress: Progress) -> None:
        """Start the node; return when it, its DNS, storage and ingress are ready and the kubeconfig is written.

        Whatever exists is kept: programs in the cache, the node's data, and the running node itself, unless it was
        started with another version of its configuration. Failed components are restarted.

        Raises `LocalError` with the component that failed and the last lines of its log. A failed start leaves nothing
        running.
        """
        _check_machine()
        programs = ensure(progress)
        with self._lock():
            texts = config.files(self.instance, programs.pause.reference)
            revision = hashlib.sha256(repr((sorted(texts.items()), programs)).encode()).hexdigest()
            process = Process.read(self._record)
            if process and self._revision.read_text() != revision:
                self._stop(process)
                process = None
            if process is None:
                self._clear()
                with progress.step("node: keys and configuration", 3):
                    self._prepare(programs, texts)
                self._revision.write_text(revision)
                process = self._launch(programs)
                try:
                    self._complete(progress, programs, process)
                except LocalError:
                    process.end(seconds=5)
                    self._clear()
                    raise
            else:
                Supervisor(process).revive()
                self._complete(progress, programs, process)

    def down(self) -> None:
        """Stop the node: pods get up to five seconds to terminate. The data is kept."""
        if not self.instance.root.exists():
            return
        with self._lock():
            process = Process.read(self._record)
            if process:
                self._stop(process)
            self._clear()

    def clean(self) -> None:
        """Run `down`, then delete the node's data, volumes included."""
        self.down()
        node = self.instance.node
        # Volumes are mounted in the node's own mount namespace only. Any mount here is foreign.
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        if foreign := [mount for mount in mounts if Path(mount).is_relative_to(node)]:
            raise LocalError(f"something is mounted at {foreign[0]}. Next: `umount` it, then run this again.")
        if node.exists():
            shutil.rmtree(node)
        self.instance.kubeconfig.unlink(missing_ok=True)

    def running(self) -> bool:
        """Return whether the node's first process runs; its pods need not be ready."""
        return self.pid() is not None

    def pid(self) -> int | None:
        """Return the id of the node's first process on the machine; None if it does not run."""
        process = Process.read(self._record)
        return process.pid if process else None

    def load(self, progress: Progress, *images: Image) -> None:
        """Import the images that are missing."""
        with self._lock():
            self._import(progress, self._running(), *images)

    def logs(self, component: str | None, lines: int) -> str:
        """Return the last lines of a component's log (`config.COMPONENTS`, `supervisord`, `init`), or of all, with
        titles.

        Raises `LocalError` if a component has no log.
        """
        folder = self.instance.node / "log"
        known = [path.stem for path in sorted(folder.glob("*.log"))]
        if component is not None and component not in known:
            raise LocalError(
                f"there is no log of {component!r}. Next: choose one of: {', '.join(known) or 'none yet'}."
            )
        if component is not None:
            return "\n".join(_tail(folder / f"{component}.log", lines))
        return "\n".join(line for name in known for line in (f"==> {name}", *_tail(folder / f"{name}.log", lines)))

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the node's root filesystem in all of the node's namespaces, and return its result.

        Raises `LocalError` if the node does not run.
        """
        argv = tuple(self._running().enter(*argv))
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    @property
    def _revision(self) -> Path:
        return self.instance.node / "revision"

    @contextmanager
    def _lock(self) -> Generator[None]:
        with FileLock(self.instance.root / ".node.lock"):
            yield

    def _running(self) -> Process:
        process = Process.read(self._record)
        if process is None:
            raise LocalError(f"the node of instance {self.instance.name} does not run. Next: `make up`.")
        return process

    def _prepare(self, programs: Programs, texts: dict[str, str]) -> None:
        for name in _DATA:
            (self.instance.node / name).mkdir(parents=True, exist_ok=True)
        if not self._etc.exists():
            fresh = self.instance.node / "etc.new"
            shutil.rmtree(fresh, ignore_errors=True)
            self._keys(programs.binaries / "kubeadm", fresh)
            fresh.rename(self._etc)
        for name in config.USERS:
            if not (self._etc / f"{name}.conf").exists():
                self._user(programs.binaries / "kubeadm", name)
        for name, text in texts.items():
            file = self._etc / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)

    def _keys(self, kubeadm: Path, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        shared = self._stated(folder)
        what = "making the cluster's keys"
        run([str(kubeadm), "init", "phase", "certs", "all", *shared], what=what)
        run([str(kubeadm), "init", "phase", "kubeconfig", "all", *shared, "--kubeconfig-dir", str(folder)], what=what)

    def _user(self, kubeadm: Path, name: str) -> None:
        argv = [str(kubeadm), "kubeconfig", "user", *self._stated(self._etc), "--client-name", f"system:{name}"]
        user = run(argv, what=f"making the key of {name}")
        (self._etc / f"{name}.conf").write_text(user[user.index("apiVersion:") :])

    def _stated(self, folder: Path) -> list[str]:
        """Return kubeadm's options for keys in that folder."""
        stated = folder / "kubeadm.yaml"
        stated.write_text(config.kubeadm(self.instance, folder / "pki"))
        return ["--config", str(stated)]

    def _complete(self, progress: Progress, programs: Programs, process: Process) -> None:
        """Wait for a started node, and apply its manifests and images."""
        api = Api(self.instance, self._etc, programs.binaries / "kubectl")
        with progress.step("node: control plane", 8):
            self._await(process, api.ready)
            process.path(config.API_READY).touch()
        with progress.step("node: images of its own pods", 5):
            self._await(process, lambda: _listing(process).stderr)
            self._import(progress, process, *programs.images)
            process.path(config.IMAGES_LOADED).touch()
        with progress.step("node: DNS, storage and ingress", 15):
            wanted = manifests(self.instance, programs, authority.certificate(self.instance))
            # Separately and first: objects are refused until their kind is defined.
            self._await(process, lambda: api.apply(programs.gateway_api))
            self._await(process, lambda: api.apply(wanted))
            process.path(config.OBJECTS_APPLIED).touch()
            self._publish()
            self._await(process, lambda: api.settled(process.since))

    def _publish(self) -> None:
        kubeconfig = self.instance.kubeconfig
        fresh = kubeconfig.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text((self._etc / "admin.conf").read_text())
        fresh.replace(kubeconfig)

    def _import(self, progress: Progress, process: Process, *images: Image) -> None:
        present = _listing(process).stdout.split()
        for image in images:
            if image.reference in present:
                continue
            name = image.reference.rpartition("/")[2].partition(":")[0]
            seconds = image.archive.stat().st_size / _SPEED
            argv = process.enter("ctr", "--namespace=k8s.io", "images", "import", "-")
            with progress.step(f"load image {name}", seconds), image.archive.open("rb") as archive:
                done = subprocess.run(argv, stdin=archive, capture_output=True, text=True, check=False)
            if done.returncode:
                log = [done.stderr, *_tail(self.instance.node / "log" / "containerd.log", 10)]
                raise LocalError(failure(f"loading the image {image.reference}", log, self._look))

    def _launch(self, programs: Programs) -> Process:
        environment = {
            "NODE": str(self.instance.node),
            "ROOT": str(programs.root),
            "BINARIES": str(programs.binaries),
            "ROUTER": str(programs.router),
            "SUPERVISOR": str(programs.supervisor),
            "NAME": self.instance.cgroup,
            "ADDRESS": self.instance.node_address,
            "SERVICES": self.instance.service_cidr,
            "PODS": self.instance.pod_cidr,
        }
        start = Launch(environment, self._cgroup.create(), self.instance.node / "log" / "init.log")
        try:
            # Recorded before it has lasting effects, so that a later command can end it.
            start.process.write(self._record)
            link.attach(self.instance, start.process.pid)
            start.go()
        finally:
            start.close()
        return start.process

    def _stop(self, process: Process) -> None:
        # The kubelet first, or it would restart the containers.
        Supervisor(process).stop("kubelet")
        self._signal(signal.SIGTERM, "kubepods")
        deadline = time.monotonic() + _GRACE
        while self._cgroup.processes("kubepods") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.end(seconds=10)

    def _clear(self) -> None:
        """Clean up after a node that has ended, for whatever reason."""
        self._refuse_other()
        self._signal(signal.SIGKILL)
        self._cgroup.remove()
        link.detach(self.instance)
        self._record.unlink(missing_ok=True)

    def _refuse_other(self) -> None:
        """Raise `LocalError` for another node's cgroup: instances in different data folders can have the same name."""
        for pid in self._cgroup.processes():
            with suppress(OSError):  # it has ended
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                owners = [os.fsdecode(variable[5:]) for variable in variables if variable.startswith(b"NODE=")]
                if owners and owners[0] != str(self.instance.node):
                    raise LocalError(
                        f"the cgroup {self.instance.cgroup} belongs to the node in {owners[0]}. "
                        "Next: stop that one with `make down` from where it was started, or choose another INSTANCE."
                    )

    def _signal(self, number: signal.Signals, child: str = "") -> None:
        for pid in self._cgroup.processes(child):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _await(self, process: Process, missing: Callable[[], str]) -> None:
        """Wait until nothing is missing; fail as soon as a component has given up, or after a timeout."""
        start = looked = time.monotonic()
        while reason := missing():
            now = time.monotonic()
            if not process.runs():
                self._fail("its first process has ended", "init")
            if now - looked > 2:
                looked = now
                states = Supervisor(process).states()
                for name in config.COMPONENTS:
                    state = states.get(name, "unknown")
                    if state == "FATAL" or (now - start > _SECONDS and state != "RUNNING"):
                        self._fail(f"{name} is in state {state}", name)
            if now - start > _SECONDS:
                what = f"starting the node (all components run, but after {_SECONDS:.0f} s one thing is missing)"
                raise LocalError(failure(what, reason.splitlines(), self._look))
            time.sleep(0.2)

    def _fail(self, why: str, component: str) -> None:
        log = _tail(self.instance.node / "log" / f"{component}.log", 15)
        raise LocalError(failure(f"starting the node ({why})", log, self._look))

    @property
    def _look(self) -> str:
        return f"look at {self.instance.node / 'log'}, then run the same command again"


def _check_machine() -> None:
    if platform.system() != "Linux" or os.geteuid():
        raise LocalError(
            "the one-node cluster requires Linux and root. Next: run the same command as root, or name your own "
            "cluster: `make up CONTEXT=<context>`."
        )
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        raise LocalError(f"{', '.join(missing)}: not found. Next: install util-linux and iproute2.")


def _listing(process: Process) -> subprocess.CompletedProcess[str]:
    """Return the names of the node's images; an error message if containerd does not answer."""
    argv = process.enter("ctr", "--namespace=k8s.io", "images", "list", "--quiet")
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _tail(file: Path, lines: int) -> list[str]:
    try:
        with file.open(errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, lines)]
    except FileNotFoundError:
        return []
