"""Pod settings: nodes, priority, pull Secrets and metadata of pods, for the whole stack or one kind of server."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

import pulumi
from pulumi_kubernetes.core.v1 import PodSpecArgsDict, PodTemplateSpecArgsDict

from mlflow_stack import validate
from mlflow_stack.cluster import PRIORITY_CLASS, RUNTIME_CLASS, SECRET, Need, Place
from mlflow_stack.pod.metadata import OWN_LABELS
from mlflow_stack.pod.scheduling import MOST, AffinityArgs, TolerationArgs, TopologySpreadConstraintArgs

PULL_SECRET_KEYS: Sequence[str] = [".dockerconfigjson"]
"""Keys of a Secret with a registry's credentials."""
REQUIRED_SCC = "openshift.io/required-scc"
"""Annotation with the SecurityContextConstraints that a pod requires."""
SECURITY_ANNOTATIONS = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
"""Prefixes of annotations that set security profiles."""
KUBERNETES_GRACE_SECONDS = 30
"""Kubernetes' default of the termination grace period."""


class LocalReferenceArgs(TypedDict):
    """Existing object in the stack's namespace."""

    name: pulumi.Input[str]
    """Name of the object."""


class PodArgs(TypedDict):
    """Settings of pods, spelled as in a pod. A field of a server's own settings replaces the stack's field as a
    whole."""

    node_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels that a node must have. Default: none."""
    tolerations: NotRequired[Sequence[TolerationArgs]]
    """Taints of nodes that the pods tolerate. Default: none."""
    affinity: NotRequired[AffinityArgs]
    """Affinity to nodes and to other pods. Default: none."""
    topology_spread_constraints: NotRequired[Sequence[TopologySpreadConstraintArgs]]
    """Spread of each server's pods. Default: the nodes, as far as possible, for servers with several pods."""
    priority_class_name: NotRequired[pulumi.Input[str]]
    """Name of an existing PriorityClass. Default: the cluster's default priority."""
    runtime_class_name: NotRequired[pulumi.Input[str]]
    """Name of an existing RuntimeClass. Default: the nodes' own container runtime."""
    image_pull_secrets: NotRequired[Sequence[LocalReferenceArgs]]
    """Existing Secrets with credentials of image registries. Default: none."""
    labels: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional labels of the pods, except those that the stack sets. Default: none."""
    annotations: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional annotations of the pods, except those of security profiles. Default: none."""
    termination_grace_period_seconds: NotRequired[int]
    """Least time in seconds in which a terminating pod may drain. Default: the server's own, which a lower value does
    not shorten: 60 for the tracking server, 120 for a deployed database, and the drain of its predictions for a
    model."""


_GUARANTEED = "not supported, because the stack guarantees it. Remove it."
_ISOLATED = "not supported, because the stack's pods use no namespace of the node. Remove it."
_CONTAINERS = "not supported, because the stack's pods have the containers that it needs. Use Pulumi's transforms."
_NOT_OFFERED = {
    "active_deadline_seconds": "not supported, because servers run until they are replaced. Remove it.",
    "automount_service_account_token": _GUARANTEED,
    "containers": _CONTAINERS,
    "enable_service_links": _GUARANTEED,
    "host_ipc": _ISOLATED,
    "host_network": f"{_ISOLATED[:-11]} Set expose for an address outside the cluster.",
    "host_pid": _ISOLATED,
    "host_users": _ISOLATED,
    "init_containers": _CONTAINERS,
    "node_name": "not supported, because the pod would bypass the scheduler. Set node_selector instead.",
    "priority": "not supported, because Kubernetes computes it. Set priority_class_name instead.",
    "resources": "not supported, because containers differ. Set resources of each server instead.",
    "restart_policy": _GUARANTEED,
    "security_context": (
        "not supported, because the stack sets the one that PodSecurity restricted requires. Set platform: openshift "
        "where the platform assigns the UID."
    ),
    "share_process_namespace": _GUARANTEED,
}
"""Fields of a pod that the stack owns, with the key that does it instead."""


@validate.rules(PodArgs, not_offered=_NOT_OFFERED)
def _rules(fields: validate.Fields) -> None:
    for name in ("node_selector", "labels"):
        fields.check_keys(name, validate.label_key)
        fields.check_each(name, validate.label_value)
    fields.check_keys("annotations", validate.label_key)
    fields.check("priority_class_name", validate.subdomain)
    fields.check("runtime_class_name", validate.subdomain)
    fields.check("termination_grace_period_seconds", validate.between(1, MOST))
    for label in fields.get("labels", {}):
        if label in OWN_LABELS:
            fields.refuse_key("labels", label, "must not be a label that the stack sets, because selectors use it")
    for annotation in fields.get("annotations", {}):
        if annotation == REQUIRED_SCC:
            fields.refuse_key(
                "annotations", annotation, "must not be an annotation that the stack sets", "Set platform instead."
            )
        elif annotation.startswith(SECURITY_ANNOTATIONS):
            fields.refuse_key("annotations", annotation, "must not set a security profile, which the stack sets")
    _unique(fields, "image_pull_secrets", "name")
    _unique(fields, "topology_spread_constraints", "topology_key")


def _unique(fields: validate.Fields, name: str, item: str) -> None:
    """Report the items of a list that have a field's value in common."""
    found = [entry[item] for entry in fields.get(name, []) if entry and isinstance(entry.get(item), str)]
    for value in sorted({value for value in found if found.count(value) > 1}):
        fields.refuse_item(name, value, f"must not have a {fields.spell(item)} twice")


@validate.rules(LocalReferenceArgs)
def _reference_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.subdomain)


def needs(pod: PodArgs, place: Place) -> list[Need]:
    """Return the existing objects that pods require.

    :param place: Place of ``pod``.
    """
    found = [
        *place.need(PRIORITY_CLASS, pod, "priority_class_name"),
        *place.need(RUNTIME_CLASS, pod, "runtime_class_name"),
    ]
    for position, secret in enumerate(pod.get("image_pull_secrets", [])):
        where = place.item("image_pull_secrets", position)
        found += where.need(SECRET, secret, "name", keys=PULL_SECRET_KEYS, why="a registry's credentials")
    return found


_SPEC: Sequence[str] = (
    *("node_selector", "tolerations", "affinity", "priority_class_name", "runtime_class_name", "image_pull_secrets"),
)
"""Fields that are those of a pod's spec."""


def placed(
    pod: PodArgs,
    selector: Mapping[str, str],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    template: PodSpecArgsDict,
) -> PodTemplateSpecArgsDict:
    """Return the template of a pod with the pod settings.

    :param selector: Labels that select the pods.
    """
    given = cast("Mapping[str, Any]", validate.plain(pod))
    spec = cast("dict[str, Any]", {**template})
    spec |= {field: given[field] for field in _SPEC if field in given}
    if "topology_spread_constraints" in given:
        spec["topology_spread_constraints"] = [
            {**constraint, "label_selector": {"match_labels": selector}}
            for constraint in given["topology_spread_constraints"]
        ]
    if "termination_grace_period_seconds" in given:
        own = spec.get("termination_grace_period_seconds", KUBERNETES_GRACE_SECONDS)
        spec["termination_grace_period_seconds"] = max(own, given["termination_grace_period_seconds"])
    return {
        "metadata": {
            "labels": {**labels, **given.get("labels", {})},
            "annotations": {**given.get("annotations", {}), **annotations},
        },
        "spec": cast(PodSpecArgsDict, spec),
    }
