"""Progress of a stack's pods, reported during a rollout: fetching, installing, loading, ready."""

import json
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.yamlfile import Tree

PAUSE = 2.0
_SELECTOR = "--selector=app.kubernetes.io/part-of=mlflow"
_QUIET = ("ContainerCreating", "PodInitializing")

# Reasons that the kubelet keeps retrying, although only a changed image, Secret or setting resolves them.
_BLOCKED = (
    *("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
)
_VOLUMES = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_UNCREATED = ("FailedCreate", "ProvisioningFailed")
_PATIENCE = 20.0
"""Seconds before a reason is reported: a Secret or a claim may be created a moment after its pod."""

LastLine = Callable[[str, str], str]
"""Function of a pod's and a container's name; returns the last line of the container's log."""


def standing(pod: Tree, last_line: LastLine) -> str:
    """Return the state of one pod, in one line."""
    name, status = pod["metadata"]["name"], pod["status"]
    limits = {
        container["name"]: container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]
    }
    steps = cast("list[Tree]", status.get("initContainerStatuses", []))
    servers = cast("list[Tree]", status.get("containerStatuses", []))
    for container in [
        *(step for step in steps if not _ended_well(step)),
        *(server for server in servers if not server["ready"]),
    ]:
        waiting = container["state"].get("waiting", {})
        ended = container["state"].get("terminated") or container.get("lastState", {}).get("terminated")
        if "running" in container["state"]:
            text = last_line(name, container["name"])
        elif ended:
            text = _end(ended, limits.get(container["name"], {}))
        elif waiting.get("reason") in _QUIET:
            continue
        else:
            text = f"{waiting.get('reason', '')} {waiting.get('message', '')}"
        return f"{container['name']}: {text}".strip()
    if servers and all(server["ready"] for server in servers):
        return "ready"
    conditions = cast("list[Tree]", status.get("conditions", []))
    messages = [str(condition.get("message", "")) for condition in conditions if condition["type"] == "PodScheduled"]
    return next((message for message in messages if message), "starting")


def blocked(pod: Tree, events: Sequence[Tree]) -> str:
    """Return why a pod cannot start without intervention, in the kubelet's or the scheduler's words; else empty."""
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in containers:
        waiting = container["state"].get("waiting", {})
        if waiting.get("reason") in _BLOCKED:
            return f"{container['name']}: {waiting['reason']}: {waiting.get('message', 'no message')}"
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("reason") == "Unschedulable":
        return f"Unschedulable: {scheduled.get('message', 'no message')}"
    # No status names a missing volume's Secret, ConfigMap or disk. If all of them exist, the image may still be pulled.
    mounted = conditions.get("PodReadyToStartContainers", {}).get("status") == "True"
    of_pod = [event for event in events if event["involvedObject"].get("uid") == pod["metadata"].get("uid")]
    if not mounted and any(container["state"].get("waiting", {}).get("reason") in _QUIET for container in containers):
        return next((_said(event) for event in reversed(of_pod) if event["reason"] in _VOLUMES), "")
    return ""


def _said(event: Tree) -> str:
    return f"{event['reason']}: {event.get('message', '').strip()}"


def uncreated(events: Sequence[Tree], before: Collection[str]) -> dict[str, str]:
    """Return the workloads whose pods the cluster refuses to create, such as for a quota, with its reason.

    `before`: ids and counts of the events from before this wait.
    """
    return {
        f"{event['involvedObject']['kind']} {event['involvedObject']['name']}": _said(event)
        for event in events
        if event["reason"] in _UNCREATED and _mark(event) not in before
    }


def _mark(event: Tree) -> str:
    return f"{event['metadata'].get('uid')} {event.get('count')}"


def _ended_well(container: Tree) -> bool:
    return container["state"].get("terminated", {}).get("exitCode") == 0


def _end(ended: Tree, limits: Tree) -> str:
    if ended.get("reason") == "OOMKilled":
        return f"needs more memory than its limit, {limits.get('memory', 'the node’s')}"
    lines = ended.get("message", "").strip().splitlines()
    return lines[-1] if lines else f"ended with {ended.get('exitCode')}"


def pods(cluster: Cluster, namespace: str) -> list[Tree]:
    """Return the stack's pods that are not terminating; empty if the cluster does not answer."""
    done = cluster.run("get", "pods", f"--namespace={namespace}", _SELECTOR, "--output=json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"] if done.returncode == 0 else []
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def warnings(cluster: Cluster, namespace: str) -> list[Tree]:
    """Return the namespace's warnings, oldest first; empty if the cluster does not answer."""
    arguments = ("--field-selector=type=Warning", "--sort-by=.lastTimestamp", "--output=json")
    done = cluster.run("get", "events", f"--namespace={namespace}", *arguments)
    return json.loads(done.stdout)["items"] if done.returncode == 0 else []


class Blocked:
    """Workloads and pods that cannot start, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        """Reasons that have lasted for some time, by the object they are about."""

    def see(self, found: Mapping[str, str], now: float) -> list[str]:
        """Record the reasons found at a time; return those to report now, each only once."""
        self._since = {name: self._since.get(name, now) for name in found}
        lasting = {name: text for name, text in found.items() if now - self._since[name] >= _PATIENCE}
        fresh = [name for name in lasting if name not in self.reasons]
        self.reasons = lasting
        return [f"  {name} cannot start: {lasting[name]}" for name in fresh]


def follow(
    cluster: Cluster, namespace: str, say: Callable[[str], None], ended: threading.Event, stuck: Blocked | None = None
) -> None:
    """Report each change of a pod's state until `ended`, and pods that cannot start. Pods that are ready from the start
    are not mentioned."""

    def last_line(pod: str, container: str) -> str:
        done = cluster.run("logs", pod, f"--namespace={namespace}", f"--container={container}", "--tail=1")
        return done.stdout.strip() or "starting"

    stuck = stuck or Blocked()
    old = {_mark(event) for event in warnings(cluster, namespace)}
    said: dict[str, str] = {}
    last = False
    while True:
        events = warnings(cluster, namespace)
        found = uncreated(events, old)
        for pod in pods(cluster, namespace):
            name, text = pod["metadata"]["name"], standing(pod, last_line)
            if said.get(name) != text and not (name not in said and text == "ready"):
                say(f"  {name}  {text}")
            said[name] = text
            if why := blocked(pod, events):
                found[f"Pod {name}"] = why
        for line in stuck.see(found, time.monotonic()):
            say(line)
        if last:
            return
        # Once more at the end, for the final states.
        last = ended.wait(PAUSE)


@contextmanager
def following(cluster: Cluster, namespace: str, say: Callable[[str], None]) -> Generator[None]:
    """Follow the pods while the block runs. If the block fails, the error names what could not start."""
    ended, stuck = threading.Event(), Blocked()
    follower = threading.Thread(target=follow, args=(cluster, namespace, say, ended, stuck), daemon=True)
    follower.start()
    try:
        yield
    except LocalError as error:
        ended.set()
        follower.join()
        reasons = "".join(f"\n{name} could not start: {text}" for name, text in stuck.reasons.items())
        raise LocalError(f"{error}{reasons}") from error
    finally:
        ended.set()
        follower.join()
