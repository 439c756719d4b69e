"""Workloads paused by hand: scaled to zero, which the engine's state does not record."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from mlflow_stack.pod import COMPONENT_LABEL
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.release import State, resources

_KINDS: Final = ("kubernetes:apps/v1:Deployment", "kubernetes:apps/v1:StatefulSet")
_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Paused:
    """Workload without a pod that is declared with at least one."""

    kind: str
    namespace: str
    name: str
    component: str
    """The label, such as `tracking`."""
    replicas: int
    """Number of declared pods."""

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    @property
    def command(self) -> str:
        """Command that ends the pause."""
        return f"kubectl scale --namespace {self.namespace} --replicas={self.replicas} {self}"


def paused(state: State, cluster: Cluster) -> list[Paused]:
    """Return the workloads of a state that have no pod in the cluster."""
    found: list[Paused] = []
    for resource in resources(state):
        if resource["type"] not in _KINDS or resource.get("delete"):
            continue
        inputs = cast("State", resource["inputs"])
        metadata, declared = cast("State", inputs["metadata"]), cast("State", inputs["spec"])
        replicas = int(declared.get("replicas", 1))
        namespace, name, kind = str(metadata["namespace"]), str(metadata["name"]), str(inputs["kind"])
        live = cluster.get(kind.lower(), name, f"--namespace={namespace}") if replicas else None
        if live and live["spec"].get("replicas") == 0:
            component = str(cast("State", metadata.get("labels") or {}).get(COMPONENT_LABEL, ""))
            found.append(Paused(kind, namespace, name, component, replicas))
    return found


def resume(cluster: Cluster, found: list[Paused], say: Callable[[str], None]) -> None:
    """Scale the workloads to the declared number, and return when their pods are ready.

    Raises `LocalError` if the cluster refuses, or a pod does not become ready.
    """
    for workload in found:
        say(f"{workload} of namespace {workload.namespace} was paused (0 replicas); scaling it to {workload.replicas}")
        scale = ("scale", str(workload), f"--namespace={workload.namespace}", f"--replicas={workload.replicas}")
        done = cluster.run(*scale)
        if done.returncode:
            raise LocalError(f"{workload} stays paused: {done.stderr.strip()}\nNext: `{workload.command}`.")
    deadline = time.monotonic() + _SECONDS
    while rest := [workload for workload in found if not _ready(cluster, workload)]:
        if time.monotonic() > deadline:
            raise LocalError(
                f"{rest[0]} is not ready {_SECONDS:.0f} s after its pause. "
                f"Next: `kubectl describe pods --namespace {rest[0].namespace}`, then run the same command again."
            )
        time.sleep(1)


def _ready(cluster: Cluster, one: Paused) -> bool:
    live = cluster.get(one.kind.lower(), one.name, f"--namespace={one.namespace}") or {}
    status = cast("State", live.get("status") or {})
    return int(status.get("readyReplicas", 0)) >= one.replicas
