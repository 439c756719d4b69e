"""Pod templates, and the auxiliary objects of a workload."""

from collections.abc import Iterable, Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    LifecycleArgsDict,
    PodSpecArgsDict,
    PodTemplateSpecArgsDict,
    TopologySpreadConstraintArgsDict,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict

from mlflow_stack.pod.metadata import name_of
from mlflow_stack.pod.parts import PodParts
from mlflow_stack.pod.placement import REQUIRED_SCC, PodArgs, placed, with_variables
from mlflow_stack.pod.security import Platform, pod_security


def drained(parts: Iterable[PodParts]) -> LifecycleArgsDict:
    """Return the preStop hook that lets the proxy drain before the server gets SIGTERM, 2 s after the proxy's last
    request."""
    linger = max((part.linger_seconds for part in parts), default=0)
    return {"pre_stop": {"exec_": {"command": ["sleep", str(linger + 2)]}}}


def _annotations(platform: Platform, parts: Sequence[PodParts]) -> dict[str, str]:
    """Return the annotations of all parts, and on OpenShift the SecurityContextConstraints that the pod requires."""
    annotations = {name: value for part in parts for name, value in part.annotations.items()}
    if platform == "openshift":
        annotations[REQUIRED_SCC] = "restricted-v2"
    return annotations


def _spread(selector: Mapping[str, str]) -> list[TopologySpreadConstraintArgsDict]:
    """Return the constraint that spreads pods of one kind over the nodes. Pods may share a node if there are too
    few."""
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
    """Declare a budget that keeps all but one of the pods while nodes are drained."""
    k8s.policy.v1.PodDisruptionBudget(
        name,
        metadata=metadata,
        spec={"max_unavailable": 1, "selector": {"match_labels": selector}},
        opts=opts,
    )


def service_account(
    name: str,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    settings: PodArgs,
    opts: pulumi.ResourceOptions,
) -> pulumi.Input[str]:
    """Declare a workload's ServiceAccount, which gets no token and no permission, unless the pod settings name an
    existing one. Return its name."""
    given = settings.get("service_account", {})
    if "name" in given:
        return given["name"]
    metadata: ObjectMetaArgsDict = {"namespace": namespace, "labels": labels}
    if given.get("annotations"):
        metadata["annotations"] = given.get("annotations", {})
    made = k8s.core.v1.ServiceAccount(
        name,
        metadata=metadata,
        automount_service_account_token=False,
        opts=opts,
    )
    return name_of(made)


def pod_template(
    platform: Platform,
    *,
    settings: PodArgs,
    labels: Mapping[str, str],
    selector: Mapping[str, str],
    main: Sequence[ContainerArgsDict],
    parts: Sequence[PodParts],
    service_account: pulumi.Input[str],
    restart_policy: str | None = None,
    grace_seconds: int | None = None,
    replicas: int | None = None,
) -> PodTemplateSpecArgsDict:
    """Return the template of a hardened pod with a server's or a step's containers and the parts.

    :param settings: Pod settings of the server.
    :param selector: Labels that select the pods.
    :param main: Containers, before those of the parts.
    :param restart_policy: Restart policy; None for the default.
    :param grace_seconds: Termination grace period; None for Kubernetes' default.
    :param replicas: Number of pods, which are spread over the nodes; None if there is never more than one.
    """
    spec: PodSpecArgsDict = {
        "service_account_name": service_account,
        "automount_service_account_token": False,
        # A Service named mlflow would otherwise inject MLFLOW_PORT=tcp://…, and MLflow would not start.
        "enable_service_links": False,
        "security_context": pod_security(platform),
        "init_containers": [with_variables(step, settings) for part in parts for step in part.init_containers],
        "containers": [
            *(with_variables(container, settings) for container in main),
            *(container for part in parts for container in part.containers),
        ],
        "volumes": [volume for part in parts for volume in part.volumes],
    }
    if restart_policy is not None:
        spec["restart_policy"] = restart_policy
    if grace_seconds is not None:
        spec["termination_grace_period_seconds"] = grace_seconds
    if replicas is not None:
        spec["topology_spread_constraints"] = _spread(selector) if replicas > 1 else []
    return placed(settings, selector, labels, _annotations(platform, parts), spec)
