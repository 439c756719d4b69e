"""Paths of the checkout and of each instance's data."""

import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import user_folder

PROJECT = Path(__file__).resolve().parent.parent
"""Root of the checkout."""

_LINKS = Path("/sys/class/net")
_MOST_INSTANCES = 64
_INSTANCE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?")


def data_dir() -> Path:
    """Return the folder of the instances: cluster data, volumes, Pulumi state and passphrase, which cannot be
    re-created.

    `$MLFLOW_STACK_DATA`, else `$XDG_DATA_HOME/mlflow-stack`, else `~/.local/share/mlflow-stack`. It need not exist.
    """
    return user_folder("MLFLOW_STACK_DATA", "XDG_DATA_HOME", ".local/share")


@dataclass(frozen=True)
class Instance:
    """Local platform with its own data and address ranges."""

    name: str
    """RFC 1123 label of at most 20 characters."""
    index: int
    """0 to 63, allocated by `open`; determines every address."""

    @property
    def root(self) -> Path:
        """Folder of everything that the instance owns."""
        return _instances() / self.name

    @property
    def node(self) -> Path:
        """Folder of the one-node cluster's data, volumes included."""
        return self.root / "node"

    @property
    def state(self) -> Path:
        """Folder of Pulumi's file backend."""
        return self.root / "state"

    @property
    def passphrase(self) -> Path:
        """File with the passphrase that encrypts secrets in the state."""
        return self.root / "passphrase"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig with admin access to the instance's cluster."""
        return self.root / "kubeconfig"

    @property
    def machine_address(self) -> str:
        """The machine's end of the link to the node, a /30."""
        return f"10.213.{self.index}.1"

    @property
    def node_address(self) -> str:
        """The node's end of that link, with the API server and NodePorts."""
        return f"10.213.{self.index}.2"

    @property
    def domain(self) -> str:
        """Domain of the stacks' addresses, `<stack>.<domain>`; .test is reserved for such use (RFC 6761)."""
        return "mlflow.test" if self.name == "default" else f"{self.name}.mlflow.test"

    @property
    def pod_cidr(self) -> str:
        """Address range of pods."""
        return f"10.214.{self.index}.0/24"

    @property
    def service_cidr(self) -> str:
        """Address range of Services."""
        return f"10.215.{self.index}.0/24"

    @property
    def dns_address(self) -> str:
        """Address of the cluster's DNS Service."""
        return f"10.215.{self.index}.10"

    @property
    def link(self) -> str:
        """Name of the machine's end of the veth pair."""
        return f"mls{self.index}"

    @property
    def cgroup(self) -> str:
        """The cgroup of the node and its pods, relative to the root of each hierarchy."""
        return f"mlflow-stack-{self.name}"

    @staticmethod
    def open(name: str) -> "Instance":
        """Return the instance of that name, created with the lowest free index if it does not exist.

        Raises `LocalError` if the name is not an RFC 1123 label of at most 20 characters, or if 64 instances exist.
        """
        if not _INSTANCE_NAME.fullmatch(name):
            raise LocalError(
                f"instance {name!r} is invalid: it must be at most 20 of a-z, 0-9 and '-', "
                "and start and end with a letter or digit. Next: choose another INSTANCE."
            )
        with _allocation():
            known = {instance.name: instance for instance in Instance.existing()}
            if name in known:
                return known[name]
            used = {instance.index for instance in known.values()}
            # An existing link belongs to a running node, whose data may be in another data folder.
            free = {
                index
                for index in set(range(_MOST_INSTANCES)) - used
                if not (_LINKS / Instance(name, index).link).exists()
            }
            if not free:
                raise LocalError(
                    f"{_MOST_INSTANCES} instances exist in {_instances()}, which is the maximum. "
                    "Next: delete an unused one by `make clean INSTANCE=<name>`."
                )
            instance = Instance(name, min(free))
            instance.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            (instance.root / "index").write_text(f"{instance.index}\n")
            return instance

    @staticmethod
    def existing() -> "list[Instance]":
        """Return all instances on this machine, by name."""
        return [Instance(index.parent.name, int(index.read_text())) for index in sorted(_instances().glob("*/index"))]

    def forget(self) -> None:
        """Delete everything that the instance owns and free its index. The node must be down. A missing one is no
        error."""
        with _allocation():
            if self.root.exists():
                shutil.rmtree(self.root)
            if not Instance.existing():
                shutil.rmtree(_instances())
                with suppress(OSError):
                    data_dir().rmdir()


def _instances() -> Path:
    return data_dir() / "instances"


@contextmanager
def _allocation() -> Generator[None]:
    _instances().mkdir(parents=True, mode=0o700, exist_ok=True)
    with FileLock(_instances() / ".lock"):
        yield
