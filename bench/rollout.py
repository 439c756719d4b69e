"""`pulumi up` from nothing to ready, against `kubectl apply` of the same objects."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench.platform import Platform, Stack
from bench.result import Line
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from sandbox.paths import PROJECT

GOAL_FIRST = 1.3
GOAL_END = 1.5
ROUNDS = 3
NAMESPACE = "bench-rollout"
PORT = 30501
_KINDS = "serviceaccounts,services,configmaps,secrets,persistentvolumeclaims,statefulsets"
_OURS = "app.kubernetes.io/managed-by=pulumi"
Objects = list[dict[str, Any]]


@dataclass(frozen=True)
class Took:
    """Seconds from the start of the command."""

    first: float
    """Until the first 200 through the address, from a page that reads the database."""
    end: float
    """Until the end of the command."""


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure the time to the first answer and to the end of the command, alternating the order from round to round."""
    rounds = 1 if short else ROUNDS
    pairs: list[tuple[Took, Took]] = []
    with progress.step("bench: pulumi up and kubectl apply", 75 * rounds) as step:
        objects: Objects = []

        def ours() -> Took:
            took, made = _pulumi(platform)
            objects[:] = made
            return took

        def other() -> Took:
            return _kubectl(platform, objects)

        for number in range(rounds):
            order: list[Callable[[], Took]] = [ours, other] if number % 2 == 0 else [other, ours]
            took: dict[Callable[[], Took], Took] = {}
            for way in order:
                took[way] = way()
                step.done((2 * number + len(took)) / (2 * rounds))
            pairs.append((took[ours], took[other]))
    against = "kubectl apply and rollout status of the same objects"
    return [
        Line("up, to the first 200", "s", [(a.first, b.first) for a, b in pairs], "at most", GOAL_FIRST, against),
        Line("up, to the end", "s", [(a.end, b.end) for a, b in pairs], "at most", GOAL_END, against),
    ]


def _pulumi(platform: Platform) -> tuple[Took, Objects]:
    expose = {"host": platform.instance.node_address, "nodePort": PORT}
    config = platform.config | {"mlflow-stack:namespace": NAMESPACE, "mlflow-stack:expose": expose}
    with Stack(platform, "rollout", "mlflow-stack", PROJECT, config) as stack:
        try:
            took = _timed(platform, lambda: stack.pulumi("up", "--yes", "--skip-preview"))
            return took, _captured(platform)
        finally:
            _delete(platform)


def _kubectl(platform: Platform, objects: Objects) -> Took:
    (name,) = (item["metadata"]["name"] for item in objects if item["kind"] == "StatefulSet")

    def command() -> None:
        platform.apply(*objects)
        platform.kubectl("rollout", "status", f"statefulset/{name}", "--namespace", NAMESPACE, "--timeout=300s")

    try:
        return _timed(platform, command)
    finally:
        _delete(platform)


def _timed(platform: Platform, command: Callable[[], object]) -> Took:
    answered: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not answered and not ended.is_set():
            with suppress(OSError), urllib.request.urlopen(f"{platform.url_of(PORT)}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    answered.append(time.monotonic())
            time.sleep(0.05)

    watch = threading.Thread(target=ask)
    started = time.monotonic()
    watch.start()
    try:
        command()
        end = time.monotonic()
        # The address follows readiness by a moment.
        watch.join(30)
    finally:
        ended.set()
        watch.join()
    if not answered:
        raise LocalError(f"{platform.url_of(PORT)}/readyz did not answer 200 within 30 s of the command's end.")
    return Took(answered[0] - started, end - started)


def _captured(platform: Platform) -> Objects:
    """Return the stack's objects as written by hand. They include Secrets, so they are never written to a file."""
    namespace = json.loads(platform.kubectl("get", "namespace", NAMESPACE, "--output", "json"))
    return [_cleaned(item) for item in (namespace, *platform.objects(_KINDS, NAMESPACE, "--selector", _OURS))]


def _cleaned(live: dict[str, Any]) -> dict[str, Any]:
    """Return an object without the fields that the cluster added."""
    kept = {key: value for key, value in live.items() if key not in ("status", "metadata")}
    metadata = {key: live["metadata"][key] for key in ("name", "namespace", "labels") if key in live["metadata"]}
    if live["kind"] == "Namespace":
        kept.pop("spec")
    for assigned in ("clusterIP", "clusterIPs", "volumeName"):
        kept.get("spec", {}).pop(assigned, None)
    return {**kept, "metadata": metadata}


def _delete(platform: Platform) -> None:
    platform.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=120s")
