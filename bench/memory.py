"""Idle memory of the tracking pod against the same image with MLflow's own default settings."""

import time
from pathlib import Path
from typing import Any

from bench.platform import Platform
from bench.result import Line
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress

GOAL = 0.25
IDLE = 15.0
"""Seconds without a request before memory is read."""
SETTLES = 60.0
"""Seconds after which memory is read even if it still changes: the default server's job runners start late."""
SAMPLES = 3
DEFAULTS = "bench-defaults"
_MIB = 2**20


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure anonymous memory of all processes of each pod, both idle at the same time."""
    with progress.step("bench: idle memory", 50) as step:
        try:
            defaults = _start_defaults(platform)
            ours = platform.tracking_pod()
            step.detail("both idle")
            time.sleep(5 if short else IDLE)
            _settle(defaults)
            pairs: list[tuple[float, float]] = []
            for _ in range(SAMPLES):
                pairs.append((anonymous(ours) / _MIB, anonymous(defaults) / _MIB))
                time.sleep(1)
        finally:
            platform.kubectl("delete", "namespace", DEFAULTS, "--ignore-not-found", "--wait=false")
    return [Line("idle memory of the tracking pod", "MiB", pairs, "at most", GOAL, "`mlflow server` with its defaults")]


def _settle(pod: dict[str, Any]) -> None:
    """Wait until the pod's memory changes by less than one in a hundred within five seconds."""
    deadline = time.monotonic() + SETTLES
    before, now = 0, anonymous(pod)
    while abs(now - before) > now / 100 and time.monotonic() < deadline:
        time.sleep(5)
        before, now = now, anonymous(pod)


def anonymous(pod: dict[str, Any]) -> int:
    """Return the anonymous memory of a pod's processes on this machine, in bytes. Raises `LocalError` for none."""
    uid = f"pod{pod['metadata']['uid']}"
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if uid not in (process / "cgroup").read_text():
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
    if not total:
        raise LocalError(f"no process of pod {pod['metadata']['name']} was found on this machine.")
    return total


def _start_defaults(platform: Platform) -> dict[str, Any]:
    """Return a pod that runs `mlflow server` as in its documentation: SQLite, four workers, jobs."""
    container = {
        "name": "mlflow",
        "image": platform.config["mlflow-stack:image"],
        "command": ["mlflow", "server", "--host", "0.0.0.0"],
        "args": ["--backend-store-uri", "sqlite:////tmp/mlflow.db", "--allowed-hosts", "*"],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "workingDir": "/tmp",
        "readinessProbe": {"httpGet": {"path": "/health", "port": 5000}, "periodSeconds": 1, "failureThreshold": 300},
    }
    platform.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULTS}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": DEFAULTS, "namespace": DEFAULTS},
            "spec": {"containers": [container], "enableServiceLinks": False, "terminationGracePeriodSeconds": 1},
        },
    )
    wait = ("--for=condition=Ready", f"pod/{DEFAULTS}", "--namespace", DEFAULTS, "--timeout=180s")
    platform.kubectl("wait", *wait)
    (pod,) = platform.objects("pods", DEFAULTS)
    return pod
