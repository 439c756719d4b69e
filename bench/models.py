"""Model server against `mlflow models serve` of the same model, and its two ports against each other."""

import base64
import time
from pathlib import Path
from typing import Any

from bench import memory
from bench.platform import NAMESPACE, Platform
from bench.result import Line
from bench.throughput import run_in_pod
from mlflow_stack_cli.progress import Progress

MEMORY_GOAL = 0.6
LATENCY_GOAL = 1.15
KEPT_GOAL = 1.05
"""Limit of memory after malformed requests, relative to that after the first few: none of them is kept."""
MALFORMED = 6
"""The first few, two of each kind: modules that the server loads once for an answer are not counted."""
COUNT = 300
"""Predictions of one measurement: the 99th percentile ignores the three slowest."""
ROUNDS = 15
MOST_SECONDS = 60
SERVED = "bench-served"
MODEL = "ridge"
_MIB = 2**20

_TRAIN = """
import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
data = load_diabetes(as_frame=True)
model = Ridge().fit(data.data, data.target)
mlflow.set_experiment("bench-models")
signature = infer_signature(data.data, model.predict(data.data))
info = mlflow.sklearn.log_model(model, name="m", signature=signature, registered_model_name="ridge")
print(info.registered_model_version)
"""


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure memory of both, idle after the same requests, and the 99th percentile of both ports, in turns."""
    with progress.step("bench: models", 120) as step:
        try:
            step.detail("training and serving one")
            version = platform.client(_TRAIN).strip().splitlines()[-1]
            ours = _serve(platform, version)
            step.detail("`mlflow models serve` of the same")
            other = _start_other(platform, version)
            pod = ours["metadata"]["name"]
            order = {
                "ways": _ways(platform),
                "count": COUNT // 4 if short else COUNT,
                "rounds": 3 if short else ROUNDS,
                "most_seconds": MOST_SECONDS,
            }
            program = Path(__file__).with_name("predictions.py").read_text()
            step.detail("predictions")
            measured = run_in_pod(platform, pod, "model", program, order, step, order["rounds"])
            other_order = {**order, "ways": {"direct": order["ways"]["direct"]}}
            run_in_pod(platform, SERVED, "mlflow", program, other_order, step, order["rounds"])
            step.detail("both idle")
            time.sleep(5)
            pairs = [(memory.anonymous(ours) / _MIB, memory.anonymous(other) / _MIB) for _ in range(3)]
            step.detail("malformed requests")
            kept = []
            for number in (MALFORMED, 20 if short else 200):
                run_in_pod(platform, pod, "model", program, {"ways": order["ways"], "malformed": number}, step, 1)
                time.sleep(5)
                kept.append(memory.anonymous(ours) / _MIB)
        finally:
            platform.configure({"mlflow-stack:models": []})
            platform.local("up")
            platform.kubectl("delete", "pod", SERVED, "-n", NAMESPACE, "--ignore-not-found", "--wait=false")
    latencies = [(measurement["proxied"] * 1000, measurement["direct"] * 1000) for measurement in measured]
    return [
        Line(
            "memory of a model's pod", "MiB", pairs, "at most", MEMORY_GOAL, "`mlflow models serve` of the same model"
        ),
        Line("memory after malformed requests", "MiB", [(kept[1], kept[0])], "at most", KEPT_GOAL, "after a first few"),
        Line("predictions: 99th percentile", "ms", latencies, "at most", LATENCY_GOAL, "the model's own port"),
    ]


def _serve(platform: Platform, version: str) -> dict[str, Any]:
    model = {"name": MODEL, "uri": f"models:/ridge/{version}", "resources": {"requests": {"cpu": "50m"}}}
    platform.configure({"mlflow-stack:models": [model]})
    platform.local("up")
    (pod,) = platform.objects("pods", NAMESPACE, "--selector", f"mlflow-stack/model={MODEL}")
    return pod


def _ways(platform: Platform) -> dict[str, Any]:
    client = platform.secret("mlflow-client")
    user, password = (base64.b64decode(client[f"MLFLOW_TRACKING_{part}"]).decode() for part in ("USERNAME", "PASSWORD"))
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Host": f"mlflow-{MODEL}.{NAMESPACE}.svc", "Content-Type": "application/json"}
    return {
        "direct": {"port": 5000, "path": "", "headers": headers},
        "proxied": {
            "port": 8081,
            "path": f"/serving/{MODEL}",
            "headers": {**headers, "Authorization": f"Basic {credentials}"},
        },
    }


def _start_other(platform: Platform, version: str) -> dict[str, Any]:
    """Return a pod that serves the model as in MLflow's documentation, with the image's packages."""
    serve = f"mlflow models serve --model-uri models:/ridge/{version} --env-manager local --host 127.0.0.1 --port 5000"
    container = {
        "name": "mlflow",
        "image": platform.config["mlflow-stack:image"],
        "command": ["bash", "-c", serve],
        "envFrom": [{"secretRef": {"name": "mlflow-client"}}],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "workingDir": "/tmp",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {
            "exec": {"command": ["bash", "-c", "echo > /dev/tcp/127.0.0.1/5000"]},
            "periodSeconds": 1,
            "failureThreshold": 300,
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": SERVED, "namespace": NAMESPACE},
            "spec": {
                "containers": [container],
                "enableServiceLinks": False,
                "securityContext": security,
                "terminationGracePeriodSeconds": 1,
            },
        }
    )
    platform.kubectl("wait", "--for=condition=Ready", f"pod/{SERVED}", "--namespace", NAMESPACE, "--timeout=180s")
    (pod,) = [item for item in platform.objects("pods", NAMESPACE) if item["metadata"]["name"] == SERVED]
    return pod
