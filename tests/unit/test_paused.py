"""Workloads that were scaled to zero by hand: detection and resumption."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlflow_stack_cli import paused as module
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paused import Paused, paused, resume

SERVER = Paused("Deployment", "team", "mlflow-1a2b", "tracking", 3)
DATABASE = Paused("StatefulSet", "team", "mlflow-database", "database", 1)


def state(*found: Paused, **spec: Any) -> dict[str, Any]:
    return {"deployment": {"resources": [resource(workload, **spec) for workload in found]}}


def resource(one: Paused, **spec: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": one.component}
    metadata = {"name": one.name, "namespace": one.namespace, "labels": labels}
    inputs = {"kind": one.kind, "metadata": metadata, "spec": {"replicas": one.replicas} | spec}
    return {"type": f"kubernetes:apps/v1:{one.kind}", "urn": f"urn::{one.name}", "inputs": inputs}


class Pods(Cluster):
    """Cluster with a number of pods for each workload; scaled ones become ready, unless they cannot."""

    def __init__(self, stuck: bool = False, **replicas: int) -> None:
        super().__init__(Path("kubectl"), Path("kubeconfig"))
        self.replicas = {name.replace("_", "-"): count for name, count in replicas.items()}
        self.stuck = stuck
        self.scaled: list[tuple[str, ...]] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "scale":
            self.scaled.append(arguments)
            self.replicas[arguments[1].partition("/")[2]] = int(arguments[3].partition("=")[2])
            return subprocess.CompletedProcess(arguments, 0, "", "")
        count = self.replicas.get(arguments[2])
        if count is None:
            return subprocess.CompletedProcess(arguments, 1, "", "Error from server (NotFound): no")
        ready = {} if self.stuck else {"readyReplicas": count}
        return subprocess.CompletedProcess(arguments, 0, json.dumps({"spec": {"replicas": count}, "status": ready}), "")


def test_names_workloads_that_the_cluster_has_without_a_pod() -> None:
    assert paused(state(SERVER, DATABASE), Pods(mlflow_1a2b=0, mlflow_database=1)) == [SERVER]
    assert paused(state(SERVER, DATABASE), Pods(mlflow_1a2b=0, mlflow_database=0)) == [SERVER, DATABASE]


@pytest.mark.parametrize("live", [{}, {"mlflow_1a2b": 3}, {"mlflow_1a2b": 1}])
def test_a_workload_that_is_gone_or_has_pods_is_not_paused(live: dict[str, int]) -> None:
    assert paused(state(SERVER), Pods(**live)) == []


def test_a_workload_declared_without_a_pod_is_not_paused() -> None:
    assert paused(state(SERVER, replicas=0), Pods(mlflow_1a2b=0)) == []


def test_an_autoscaled_workload_comes_back_with_one_pod() -> None:
    automatic = state(SERVER)
    del automatic["deployment"]["resources"][0]["inputs"]["spec"]["replicas"]
    assert [workload.replicas for workload in paused(automatic, Pods(mlflow_1a2b=0))] == [1]


def test_a_pause_ends_with_what_is_declared_and_says_so() -> None:
    cluster, said = Pods(mlflow_1a2b=0), list[str]()
    resume(cluster, [SERVER], said.append)
    assert cluster.scaled == [("scale", "deployment/mlflow-1a2b", "--namespace=team", "--replicas=3")]
    assert said == ["deployment/mlflow-1a2b of namespace team was paused (0 replicas); scaling it to 3"]


def test_a_pod_that_does_not_become_ready_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", -1.0)
    with pytest.raises(LocalError, match=r"^deployment/mlflow-1a2b is not ready -1 s after its pause\. Next: `kubectl"):
        resume(Pods(stuck=True, mlflow_1a2b=0), [SERVER], lambda _: None)


def test_the_command_that_ends_a_pause_is_whole() -> None:
    assert SERVER.command == "kubectl scale --namespace team --replicas=3 deployment/mlflow-1a2b"
