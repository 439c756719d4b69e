"""Pod templates, and the objects beside a workload."""

from collections.abc import Iterable, Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    LifecycleArgsDict,
    PodSpecArgsDict,
    TopologySpreadConstraintArgsDict,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict

from mlflow_stack.pod.metadata import name_of
from mlflow_stack.pod.parts import PodParts
from mlflow_stack.pod.security import Platform, pod_security


def drained(parts: Iterable[PodParts]) -> LifecycleArgsDict:
    """Of a guarded server: it is told to end 2 s after its proxy has taken the last request."""
    linger = max((part.linger_seconds for part in parts), default=0)
    return {"pre_stop": {"exec_": {"command": ["sleep", str(linger + 2)]}}}


def annotations(platform: Platform, parts: Sequence[PodParts]) -> dict[str, str]:
    """The annotations of all parts, and on OpenShift the admission policy the pod is written for."""
    annotations = {name: value for part in parts for name, value in part.annotations.items()}
    if platform == "openshift":
        annotations["openshift.io/required-scc"] = "restricted-v2"
    return annotations


def spread(selector: Mapping[str, str]) -> list[TopologySpreadConstraintArgsDict]:
    """Several pods of one kind on as many nodes as there are; where there is one node they share it."""
    return [
        {
            "max_skew": 1,
            "topology_key": "kubernetes.io/hostname",
            "when_unsatisfiable": "ScheduleAnyway",
            "label_selector": {"match_labels": selector},
        }
    ]


def disruption_budget(
    name: str,
    *,
    metadata: ObjectMetaArgsDict,
    selector: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> None:
    """Keeps all but one of the pods while nodes are emptied."""
    k8s.policy.v1.PodDisruptionBudget(
        name,
        metadata=metadata,
        spec={"max_unavailable": 1, "selector": {"match_labels": selector}},
        opts=opts,
    )


def service_account(
    name: str, namespace: pulumi.Input[str], labels: Mapping[str, str], opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """An account of a workload's own, which is given no token and no right; its name."""
    made = k8s.core.v1.ServiceAccount(
        name,
        metadata={"namespace": namespace, "labels": labels},
        automount_service_account_token=False,
        opts=opts,
    )
    return name_of(made)


def spec(
    platform: Platform, main: Sequence[ContainerArgsDict], parts: Sequence[PodParts], service_account: pulumi.Input[str]
) -> PodSpecArgsDict:
    """One pod of a server's own containers and what its parts add, hardened."""
    init_containers = [container for part in parts for container in part.init_containers]
    return {
        "service_account_name": service_account,
        "automount_service_account_token": False,
        # A Service called mlflow would otherwise inject MLFLOW_PORT=tcp://…, with which MLflow does not start.
        "enable_service_links": False,
        "security_context": pod_security(platform),
        "init_containers": init_containers,
        "containers": [*main, *(container for part in parts for container in part.containers)],
        "volumes": [volume for part in parts for volume in part.volumes],
    }
