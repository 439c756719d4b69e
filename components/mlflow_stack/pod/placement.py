"""Pod settings: nodes, priority, pull Secrets and metadata of pods, for the whole stack or one kind of server."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

import pulumi
from pulumi_kubernetes.core.v1 import ContainerArgsDict, EnvVarArgsDict, PodSpecArgsDict, PodTemplateSpecArgsDict

from mlflow_stack import validate
from mlflow_stack.cluster import CONFIG_MAP, PRIORITY_CLASS, RUNTIME_CLASS, SECRET, SERVICE_ACCOUNT, Need, Place
from mlflow_stack.pod.metadata import OWN_LABELS
from mlflow_stack.pod.names import DnsConfigArgs, HostAliasArgs
from mlflow_stack.pod.scheduling import MOST, AffinityArgs, TolerationArgs, TopologySpreadConstraintArgs
from mlflow_stack.pod.variables import EnvFromArgs, EnvVarArgs, LocalReferenceArgs, env_needs, variable_rules

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


class ServiceAccountArgs(TypedDict):
    """ServiceAccount of pods, created by the stack (``annotations``) or existing (``name``). No pod gets its token."""

    annotations: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Annotations of the ServiceAccounts that the stack creates, one for each server, such as a cloud's role.
    Default: none."""
    name: NotRequired[pulumi.Input[str]]
    """Name of an existing ServiceAccount. Default: none, the stack creates one for each server."""


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
    env: NotRequired[Sequence[EnvVarArgs]]
    """Variables of all containers but the proxy, except those that the stack sets. A model's code can read them, and
    the model's own ``env`` prevails. Default: none."""
    env_from: NotRequired[Sequence[EnvFromArgs]]
    """Existing Secrets and ConfigMaps whose keys become variables of the same containers. Variables that the stack sets
    prevail. Default: none."""
    service_account: NotRequired[ServiceAccountArgs]
    """ServiceAccount of the pods. Default: none, one for each server without annotations."""
    host_aliases: NotRequired[Sequence[HostAliasArgs]]
    """Host names that the pods resolve without DNS. Default: none."""
    dns_config: NotRequired[DnsConfigArgs]
    """DNS settings in addition to those of the cluster. Default: none."""
    labels: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional labels of the pods, except those that the stack sets. Default: none."""
    annotations: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional annotations of the pods, except those of security profiles. Default: none."""
    termination_grace_period_seconds: NotRequired[int]
    """Least time in seconds in which a terminating pod may drain. Default: the server's own, which a lower value does
    not shorten: 60 for the tracking server, 120 for a deployed database, and the drain of its predictions for a
    model."""


_GUARANTEED = "not supported, because the stack guarantees it. Remove it."
_ISOLATED = "not supported, because the stack's pods use no namespace of the node."
_CONTAINERS = "not supported, because the stack's pods have the containers that it needs. Use Pulumi's transforms."
_NOT_OFFERED = {
    "active_deadline_seconds": "not supported, because servers run until they are replaced. Remove it.",
    "automount_service_account_token": _GUARANTEED,
    "containers": _CONTAINERS,
    "dns_policy": "not supported, because pods resolve the names of the cluster. Set dns_config instead.",
    "enable_service_links": _GUARANTEED,
    "host_ipc": f"{_ISOLATED} Remove it.",
    "host_network": f"{_ISOLATED} Set expose for an address outside the cluster.",
    "host_pid": f"{_ISOLATED} Remove it.",
    "host_users": f"{_ISOLATED} Remove it.",
    "init_containers": _CONTAINERS,
    "node_name": "not supported, because the pod would bypass the scheduler. Set node_selector instead.",
    "priority": "not supported, because Kubernetes computes it. Set priority_class_name instead.",
    "resources": "not supported, because containers differ. Set resources of each server instead.",
    "restart_policy": _GUARANTEED,
    "security_context": (
        "not supported, because the stack sets the one that PodSecurity restricted requires. Set platform: openshift "
        "where the platform assigns the UID."
    ),
    "service_account_name": "not supported, because it is part of a map. Set service_account.name instead.",
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
    variable_rules(fields)
    _unique(fields, "image_pull_secrets", "name")
    _unique(fields, "host_aliases", "ip")
    _unique(fields, "topology_spread_constraints", "topology_key")


def _unique(fields: validate.Fields, name: str, item: str) -> None:
    """Report the items of a list that have a field's value in common."""
    found = [entry[item] for entry in fields.get(name, []) if entry and isinstance(entry.get(item), str)]
    for value in sorted({value for value in found if found.count(value) > 1}):
        article = "an" if item[0] in "aeiou" else "a"
        fields.refuse_item(name, value, f"must not have {article} {fields.spell(item)} twice")


@validate.rules(ServiceAccountArgs)
def _account_rules(fields: validate.Fields) -> None:
    fields.check_keys("annotations", validate.label_key)
    fields.check("name", validate.subdomain)
    fields.refuse_together("annotations", "name", "Annotate that ServiceAccount instead.")


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
    found += env_needs(pod.get("env", []), place)
    for position, source in enumerate(pod.get("env_from", [])):
        where = place.item("env_from", position)
        found += where.under("secret_ref").need(SECRET, source.get("secret_ref", {}), "name")
        found += where.under("config_map_ref").need(CONFIG_MAP, source.get("config_map_ref", {}), "name")
    account = pod.get("service_account", {})
    return [*found, *place.under("service_account").need(SERVICE_ACCOUNT, account, "name")]


_SPEC: Sequence[str] = (
    *("node_selector", "tolerations", "affinity", "priority_class_name", "runtime_class_name", "image_pull_secrets"),
    *("host_aliases", "dns_config"),
)
"""Fields that are those of a pod's spec."""


def with_variables(container: ContainerArgsDict, pod: PodArgs) -> ContainerArgsDict:
    """Return a container with the variables of pod settings. Those that it has itself prevail."""
    given = cast("Mapping[str, Any]", validate.plain(pod))
    made: ContainerArgsDict = {**container}
    own = cast("Sequence[EnvVarArgsDict]", container.get("env", []))
    names = [variable.get("name") for variable in own]
    if more := [variable for variable in given.get("env", []) if variable["name"] not in names]:
        made["env"] = [*own, *more]
    if "env_from" in given:
        made["env_from"] = given["env_from"]
    return made


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
