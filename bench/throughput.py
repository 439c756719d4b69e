"""Requests through the proxy against the same requests to MLflow's own port, in the same pod."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from bench.platform import NAMESPACE, Platform
from bench.result import Line
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress, Step

GOAL = 0.95
NAMES = {"log_metric": "log_metric", "log_batch": "log_batch, 1000 metrics", "search_runs": "search_runs, 50 runs"}
COUNTS = {"log_metric": 160, "log_batch": 8, "search_runs": 32}
"""Requests of one measurement, which takes about a second: many short pairs are less noisy than few long ones."""
ROUNDS = 21
MOST_SECONDS = 90
"""Seconds after which no round begins; a busy machine has fewer rounds."""
CONNECTIONS = 4


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure each kind of request."""
    pod = platform.tracking_pod()["metadata"]["name"]
    rounds = 3 if short else ROUNDS
    counts = {name: number // 4 if short else number for name, number in COUNTS.items()}
    order = {
        "ways": _ways(platform),
        "counts": counts,
        "connections": CONNECTIONS,
        "rounds": rounds,
        "most_seconds": MOST_SECONDS,
    }
    with progress.step("bench: throughput through the proxy and without", 120) as step:
        program = Path(__file__).with_name("load.py").read_text()
        measured = run_in_pod(platform, pod, "mlflow", program, order, step, rounds * len(counts))
    return [
        Line(
            f"throughput: {label}",
            "requests/s",
            [
                (measurement["proxied"], measurement["direct"])
                for measurement in measured
                if measurement["operation"] == name
            ],
            "at least",
            GOAL,
            "MLflow's own port in the same pod",
        )
        for name, label in NAMES.items()
    ]


def _ways(platform: Platform) -> dict[str, Any]:
    client = platform.secret("mlflow-client")
    user, password = (base64.b64decode(client[f"MLFLOW_TRACKING_{part}"]).decode() for part in ("USERNAME", "PASSWORD"))
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Host": f"mlflow.{NAMESPACE}.svc", "Content-Type": "application/json"}
    return {
        "direct": {"port": 5000, "headers": headers},
        "proxied": {"port": 8081, "headers": {**headers, "Authorization": f"Basic {credentials}"}},
    }


def run_in_pod(
    platform: Platform, pod: str, container: str, program: str, order: dict[str, Any], step: Step, lines: int
) -> list[dict[str, Any]]:
    """Run a program in a container with a task on standard input; return its `lines` lines of JSON."""
    argv = ["kubectl", "exec", "--stdin", pod, "--namespace", NAMESPACE, "--container", container]
    measured: list[dict[str, Any]] = []
    with subprocess.Popen(
        [*argv, "--", "python", "-c", program],
        env=platform.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        other: list[str] = []
        for line in process.stdout:
            if line.startswith("{"):
                measured.append(json.loads(line))
                step.done(len(measured) / lines)
            else:
                other.append(line)
    if process.returncode:
        raise LocalError(f"the load in pod {pod} failed:\n{''.join(other[-10:])}\nNext: `make logs INSTANCE=bench`.")
    return measured
