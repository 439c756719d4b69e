"""Creates that a killed update began and did not record.

Before the engine asks the cluster to create an object, it writes the create and the object's name into the state.
After a kill the object may exist, and the next update creates a second one: a second server on one claim. The
recorded name ends in random letters, so an object of that name belongs to this stack.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, cast

from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.release import State, resources

_AUTONAMED: Final = "pulumi.com/autonamed"
_KUBERNETES: Final = "kubernetes:"
_SECONDS: Final = 180.0


@dataclass(frozen=True)
class Leftover:
    """Object whose create began and was not recorded."""

    api: str
    """Its API version, such as `apps/v1`."""
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def resource(self) -> str:
        """The type with version and group, as kubectl takes it, so that it is unambiguous."""
        group, _, version = self.api.rpartition("/")
        return f"{self.kind}.{version}.{group}" if group else self.kind


def creates(state: State) -> list[State]:
    """Return the operations of a state that are unfinished creates."""
    deployment = cast("State", state.get("deployment") or {})
    pending = cast("list[State]", deployment.get("pending_operations") or [])
    return [operation for operation in pending if operation.get("type") == "creating"]


def leftovers(state: State) -> list[Leftover]:
    """Return the objects that may exist although the state has no resource for them.

    Objects with a fixed name (Services, claims) are not among them: the next update takes these over.
    """
    known = {(resource["type"], resource.get("id")) for resource in resources(state)}
    found: list[Leftover] = []
    for operation in creates(state):
        resource = cast("State", operation["resource"])
        inputs = cast("State", resource.get("inputs") or {})
        metadata = cast("State", inputs.get("metadata") or {})
        annotations = cast("State", metadata.get("annotations") or {})
        name, namespace = str(metadata.get("name", "")), str(metadata.get("namespace", ""))
        if not str(resource["type"]).startswith(_KUBERNETES) or annotations.get(_AUTONAMED) != "true":
            continue
        # If only the server knows the namespace, no input of ours has it, and nothing is searched for.
        if name and namespace and (resource["type"], f"{namespace}/{name}") not in known:
            found.append(Leftover(str(inputs["apiVersion"]), str(inputs["kind"]), namespace, name))
    return list(dict.fromkeys(found))


def settled(state: State) -> State:
    """Return the state without its unfinished creates."""
    edited = deepcopy(state)
    deployment = cast("dict[str, Any]", edited["deployment"])
    deployment["pending_operations"] = [
        operation for operation in deployment["pending_operations"] if operation.get("type") != "creating"
    ]
    return edited


def existing(cluster: Cluster, found: list[Leftover]) -> list[Leftover]:
    """Return those objects that exist in the cluster."""
    return [leftover for leftover in found if _live(cluster, leftover) is not None]


def remove(cluster: Cluster, found: list[Leftover], say: Callable[[str], None]) -> None:
    """Delete the objects, each with its pods, and return when all are gone.

    Raises `LocalError` if an object is not deleted in time.
    """
    for leftover in found:
        say(f"a killed update left {leftover} behind; deleting it")
        arguments = ("--ignore-not-found", "--cascade=foreground", "--wait=false")
        done = cluster.run("delete", leftover.resource, leftover.name, f"--namespace={leftover.namespace}", *arguments)
        if done.returncode:
            raise LocalError(
                f"{leftover}, which a killed update left behind, cannot be deleted: {done.stderr.strip()}\n"
                f"Next: `kubectl delete {leftover.resource} {leftover.name} --namespace {leftover.namespace}`, "
                "then run the same command again."
            )
    deadline = time.monotonic() + _SECONDS
    while rest := existing(cluster, found):
        if time.monotonic() > deadline:
            names = ", ".join(map(str, rest))
            raise LocalError(
                f"{names}, which a killed update left behind, remained after {_SECONDS:.0f} s. "
                "Next: `mlflow-stack status` shows its pods; end them, then run the same command again."
            )
        time.sleep(1)


def _live(cluster: Cluster, leftover: Leftover) -> State | None:
    return cluster.get(leftover.resource, leftover.name, f"--namespace={leftover.namespace}")
