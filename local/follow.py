"""What the pods of a stack are busy with, said while somebody waits for them: fetching, installing, loading, ready."""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from local.preflight import Cluster
from local.stackfile import Tree

PAUSE = 2.0
_SELECTOR = "--selector=app.kubernetes.io/part-of=mlflow"
_QUIET = ("ContainerCreating", "PodInitializing")

LastLine = Callable[[str, str], str]
"""Takes the names of a pod and of a container in it; returns the last line of its log."""


def standing(pod: Tree, last_line: LastLine) -> str:
    """What one pod is at, in a line."""
    name, status = pod["metadata"]["name"], pod["status"]
    limits = {one["name"]: one.get("resources", {}).get("limits", {}) for one in pod["spec"]["containers"]}
    steps = cast("list[Tree]", status.get("initContainerStatuses", []))
    servers = cast("list[Tree]", status.get("containerStatuses", []))
    for container in [*(one for one in steps if not _ended_well(one)), *(one for one in servers if not one["ready"])]:
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
    if servers and all(one["ready"] for one in servers):
        return "ready"
    conditions = cast("list[Tree]", status.get("conditions", []))
    messages = [str(one.get("message", "")) for one in conditions if one["type"] == "PodScheduled"]
    return next((one for one in messages if one), "starting")


def _ended_well(container: Tree) -> bool:
    return container["state"].get("terminated", {}).get("exitCode") == 0


def _end(ended: Tree, limits: Tree) -> str:
    if ended.get("reason") == "OOMKilled":
        return f"needs more memory than its limit, {limits.get('memory', 'the node’s')}"
    lines = ended.get("message", "").strip().splitlines()
    return lines[-1] if lines else f"ended with {ended.get('exitCode')}"


def pods(cluster: Cluster, namespace: str) -> list[Tree]:
    """The stack's pods that are not on their way out; none while the cluster does not say."""
    done = cluster.run("get", "pods", f"--namespace={namespace}", _SELECTOR, "--output=json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"] if done.returncode == 0 else []
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def follow(cluster: Cluster, namespace: str, say: Callable[[str], None], ended: threading.Event) -> None:
    """Says what each pod is at, whenever that changes, until `ended`. Nothing is said of those that are ready from the
    start."""

    def last_line(pod: str, container: str) -> str:
        done = cluster.run("logs", pod, f"--namespace={namespace}", f"--container={container}", "--tail=1")
        return done.stdout.strip() or "starting"

    said: dict[str, str] = {}
    last = False
    while True:
        for pod in pods(cluster, namespace):
            name, text = pod["metadata"]["name"], standing(pod, last_line)
            if said.get(name) != text and not (name not in said and text == "ready"):
                say(f"  {name}  {text}")
            said[name] = text
        if last:
            return
        # Once more after the end: what they came to.
        last = ended.wait(PAUSE)


@contextmanager
def following(cluster: Cluster, namespace: str, say: Callable[[str], None]) -> Generator[None]:
    """Follows beside what is done in the block."""
    ended = threading.Event()
    follower = threading.Thread(target=follow, args=(cluster, namespace, say, ended), daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
