"""What every pod has in common: labels, hardening, and the parts that stores and proxies hand to a server."""

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources as package
from typing import Any, Literal, NotRequired, Protocol, TypedDict, cast, get_args

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    LifecycleArgsDict,
    PodSecurityContextArgsDict,
    PodSpecArgsDict,
    ResourceRequirementsArgsDict,
    SecurityContextArgsDict,
    TopologySpreadConstraintArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import validate
from mlflow_stack.cluster import CONFIG_MAP, SECRET, Need, Place

Platform = Literal["kubernetes", "openshift"]
PLATFORMS: Sequence[Platform] = get_args(Platform)

USER_ID = 10001
"""The UID, GID and fsGroup on plain Kubernetes: above 10000, as CKV_K8S_40 wants, so that it is no user of a node."""

SCRATCH = "/tmp"  # noqa: S108 - a volume of the container's own
"""The one path a container may write beside its volumes: an emptyDir of its own."""


class ResourcesArgs(TypedDict):
    """What a container asks for and may use at most, as Kubernetes quantities."""

    requests: NotRequired[Mapping[str, str]]
    """Amounts reserved, by resource: cpu, memory, ephemeral-storage, or a device such as nvidia.com/gpu; none above its
    limit. Default: the container's own."""
    limits: NotRequired[Mapping[str, str]]
    """Amounts not to be passed, by the same resources. Default: the container's own."""


@validate.rules(ResourcesArgs)
def _resources(fields: validate.Fields) -> None:
    for name in ("requests", "limits"):
        fields.check_keys(name, validate.container_resource)
        fields.check_each(name, validate.quantity)
        for resource, value in fields.get(name, {}).items():
            if validate.is_extended(resource) and validate.quantity(value) is None and not value.isdigit():
                fields.refuse_value(name, resource, "a whole number, as devices are not shared")


@dataclass(frozen=True)
class Floor:
    """Smallest limit that a container works with."""

    limit: str
    """Quantity."""
    why: str
    """What takes that much."""


def resource_rules(
    fields: validate.Fields,
    requests: Mapping[str, str],
    limits: Mapping[str, str],
    floors: Mapping[str, Floor] = types.MappingProxyType({}),
    *,
    name: str = "resources",
) -> None:
    """Judge a container's resources with its defaults merged in, as the API server judges its pods.

    :param floors: Smallest limits, by resource.
    :param name: Name of the field of :class:`ResourcesArgs`.
    """
    if name not in fields:
        return
    given, stated = fields.under(name), cast(ResourcesArgs, fields[name])
    own_requests, own_limits = stated.get("requests", {}), stated.get("limits", {})
    all_limits = {**limits, **own_limits}
    for resource, floor in floors.items():
        if resource in own_limits and validate.amount(own_limits[resource]) < validate.amount(floor.limit):
            given.refuse_value("limits", resource, f"at least {floor.limit}: {floor.why}")
    for resource, request in {**requests, **own_requests}.items():
        if resource not in all_limits:
            if validate.is_extended(resource):
                wanted = f"the same number at limits.{resource}, as devices are not shared"
                given.refuse_value("requests", resource, wanted)
            continue
        limit = all_limits[resource]
        excess = validate.amount(request) - validate.amount(limit)
        if excess and validate.is_extended(resource):
            given.refuse_value("requests", resource, f"{limit} as in limits, as devices are not shared")
        elif excess <= 0:
            continue
        elif resource not in own_requests:
            given.refuse_value("limits", resource, f"at least requests.{resource}, which defaults to {request}")
        elif resource in own_limits:
            given.refuse_value("requests", resource, f"at most limits.{resource}, {limit}")
        else:
            given.refuse_value("requests", resource, f"at most limits.{resource}, which defaults to {limit}")


class KeyRefArgs(TypedDict):
    """One key of an existing Secret or ConfigMap."""

    name: pulumi.Input[str]
    """Name of the object, in the servers' namespace."""
    key: str
    """The key in it."""


class EnvSourceArgs(TypedDict):
    """Where the value of a variable comes from: one of the two."""

    secret_key_ref: NotRequired[KeyRefArgs]
    """A key of a Secret. Default: none."""
    config_map_key_ref: NotRequired[KeyRefArgs]
    """A key of a ConfigMap. Default: none."""


class EnvVarArgs(TypedDict):
    """One environment variable."""

    name: str
    """The variable's name: letters, digits and '_'."""
    value: NotRequired[pulumi.Input[str]]
    """Its value, in plain text in the cluster. Default: none, it is given by value_from."""
    value_from: NotRequired[EnvSourceArgs]
    """Where its value comes from. Default: none, it is given by value."""


@validate.rules(KeyRefArgs)
def _key_ref_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.subdomain)
    fields.check("key", validate.data_key)


@validate.rules(EnvSourceArgs)
def _env_source_rules(fields: validate.Fields) -> None:
    _one_of_two(fields, "secret_key_ref", "config_map_key_ref")


@validate.rules(EnvVarArgs)
def _env_var_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.variable)
    _one_of_two(fields, "value", "value_from")


def _one_of_two(fields: validate.Fields, name: str, other: str) -> None:
    fields.refuse_together(name, other, "a variable has one value")
    if not fields.stated & {name, other}:
        fields.refuse(name, f"it or {fields.spell(other)}")


def env_rules(fields: validate.Fields, own: Sequence[str]) -> None:
    """Judge the ``env`` of a server, which must not set the variables of its own container."""
    names = [variable["name"] for variable in fields.get("env", []) if variable and "name" in variable]
    for name in dict.fromkeys(names):
        if name in own:
            fields.refuse_item("env", name, "another name: the server sets this variable itself")
        if names.count(name) > 1:
            fields.refuse_item("env", name, "each variable once")


def env_needs(variables: Sequence[Mapping[str, Any]], place: Place) -> list[Need]:
    """Return what the ``env`` of a server needs of the cluster."""
    found: list[Need] = []
    for position, variable in enumerate(variables):
        source: Mapping[str, Any] = (variable or {}).get("value_from", {})
        for reference, kind in (("secret_key_ref", SECRET), ("config_map_key_ref", CONFIG_MAP)):
            named: Mapping[str, Any] = source.get(reference, {})
            where = place.item("env", position).under("value_from", reference)
            keys = [named["key"]] if "key" in named else []
            found += where.need(kind, named, "name", keys=keys)
    return found


@dataclass(frozen=True)
class Ingress:
    """One kind of connection that a pod answers; everything else is denied to it."""

    port: int
    """The container's TCP port."""
    peers: Sequence[NetworkPolicyPeerArgsDict] = ()
    """From where, any of these. Without: from everywhere."""


@dataclass(frozen=True)
class Egress:
    """One kind of connection that a pod opens; everything else but DNS is denied to it."""

    port: pulumi.Input[int]
    """The TCP port."""
    cidrs: pulumi.Input[Sequence[str]] = ()
    """Where to. Without these and without ``pods``: everywhere but link-local addresses."""
    pods: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of pods of the same namespace, instead of addresses."""


@dataclass(frozen=True)
class PodParts:
    """What a store or a proxy adds to a pod. The server that owns the pod adds the parts up; nothing looks back."""

    containers: Sequence[ContainerArgsDict] = ()
    """Containers beside the server's own."""
    init_containers: Sequence[ContainerArgsDict] = ()
    """Containers that must end well before the server starts, in order."""
    env: Sequence[EnvVarArgsDict] = ()
    """Environment of the server's own container."""
    volumes: Sequence[VolumeArgsDict] = ()
    """Volumes of the pod."""
    mounts: Sequence[VolumeMountArgsDict] = ()
    """Mounts of the server's own container."""
    python_path: Sequence[str] = ()
    """Folders of the server's own container in which Python finds modules and MLflow's plugins."""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Annotations of the pod."""
    wait_for: Sequence[pulumi.Resource] = ()
    """What must exist before the pod is made."""
    egress: Sequence[Egress] = ()
    """Connections that the pod opens."""
    ingress: Sequence[Ingress] = ()
    """Connections that the pod answers."""
    exclusive: bool = False
    """Whether one pod alone may hold what is mounted: SQLite, or a claim that is not ReadWriteMany."""
    identity: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Identity of the data behind the part, by its purpose."""
    linger_seconds: int = 0
    """How long a pod that ends still takes requests."""
    scratch_bytes: int = 0
    """What passes through the server's ``/tmp`` at most, beyond the server's own."""


def drained(parts: Iterable[PodParts]) -> LifecycleArgsDict:
    """Of a guarded server: it is told to end 2 s after its proxy has taken the last request."""
    linger = max((part.linger_seconds for part in parts), default=0)
    return {"pre_stop": {"exec_": {"command": ["sleep", str(linger + 2)]}}}


def labels(instance: str, component: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The labels of an object: the caller's own first, so that none of ours is overridden."""
    return {
        **(extra or {}),
        **selector(instance, component),
        "app.kubernetes.io/part-of": "mlflow",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def selector(instance: str, component: str) -> dict[str, str]:
    """The labels that select a pod: never a version, since a selector cannot be changed in place."""
    return {
        "app.kubernetes.io/name": "mlflow",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": component,
    }


def label_rules(fields: validate.Fields) -> None:
    """Judge the labels that a user adds to objects."""
    fields.check_keys("labels", validate.label_key)
    fields.check_each("labels", validate.label_value)


def container_security() -> SecurityContextArgsDict:
    """PodSecurity ``restricted`` and OpenShift ``restricted-v2``, stated on each container."""
    return {
        "allow_privilege_escalation": False,
        "privileged": False,
        "read_only_root_filesystem": True,
        "run_as_non_root": True,
        "capabilities": {"drop": ["ALL"]},
        "seccomp_profile": {"type": "RuntimeDefault"},
    }


def pod_security(platform: Platform) -> PodSecurityContextArgsDict:
    """The pod's security context: OpenShift fills in UID, GID and fsGroup itself and refuses any fixed ones."""
    context: PodSecurityContextArgsDict = {"run_as_non_root": True, "seccomp_profile": {"type": "RuntimeDefault"}}
    if platform == "openshift":
        return context
    return {
        **context,
        "run_as_user": USER_ID,
        "run_as_group": USER_ID,
        "fs_group": USER_ID,
        "fs_group_change_policy": "OnRootMismatch",
    }


def pod_annotations(platform: Platform, parts: Sequence[PodParts]) -> dict[str, str]:
    """The annotations of all parts, and on OpenShift the admission policy the pod is written for."""
    annotations = {name: value for part in parts for name, value in part.annotations.items()}
    if platform == "openshift":
        annotations["openshift.io/required-scc"] = "restricted-v2"
    return annotations


def scratch(name: str, size: str) -> tuple[VolumeArgsDict, VolumeMountArgsDict]:
    """A container's own ``/tmp``: on disk and bounded, as memory-backed files would count against its memory."""
    return {"name": name, "empty_dir": {"size_limit": size}}, {"name": name, "mount_path": SCRATCH}


def env(variables: Mapping[str, pulumi.Input[str]]) -> list[EnvVarArgsDict]:
    """Environment of a container, plain values."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def env_given(variables: Sequence[EnvVarArgs]) -> list[EnvVarArgsDict]:
    """Return the variables that a user gave, as a container takes them."""
    return [cast(EnvVarArgsDict, variable) for variable in variables]


STEP_CPU = "20m"
"""What a container asks for that ends before the server starts. A pod reserves the largest request of such for all its
life, so it is small: what the server's ``resources`` ask for decides. Nothing limits what a step takes."""


def resources(
    given: ResourcesArgs | None, requests: Mapping[str, str], limits: Mapping[str, str]
) -> ResourceRequirementsArgsDict:
    """The caller's amounts over the defaults, resource by resource."""
    given = given or {}
    return {"requests": {**requests, **given.get("requests", {})}, "limits": {**limits, **given.get("limits", {})}}


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


def pod_spec(
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


def script(name: str) -> str:
    """The text of a program that containers run."""
    return package.files("mlflow_stack").joinpath("scripts", name).read_text(encoding="utf-8")


def scripts(*names: str) -> dict[str, str]:
    """Return the texts of programs that containers run, by name."""
    return {name: script(name) for name in names}


def plugin(distribution: str, group: str, entry_point: str) -> dict[str, str]:
    """Return the two files, by path, by which Python finds an entry point in a folder of its path."""
    folder = f"{distribution.replace('-', '_')}-1.dist-info"
    return {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n",
        f"{folder}/entry_points.txt": f"[{group}]\n{entry_point}\n",
    }


def text_volume(
    name: str,
    volume: str,
    texts: Mapping[str, pulumi.Input[str]],
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> VolumeArgsDict:
    """Return a volume of texts by their paths, in an immutable ConfigMap.

    :param volume: Name of the volume in the pod.
    """
    keys = {path: path.replace("/", "_") for path in texts}
    made = k8s.core.v1.ConfigMap(
        name,
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        data={keys[path]: text for path, text in texts.items()},
        opts=opts,
    )
    return {
        "name": volume,
        "config_map": {
            "name": name_of(made),
            "default_mode": 0o444,
            "items": [{"key": key, "path": path} for path, key in keys.items()],
        },
    }


class Named(Protocol):
    """An object with a name."""

    @property
    def metadata(self) -> pulumi.Output[k8s.meta.v1.outputs.ObjectMeta]:
        """What it is called."""
        ...


def name_of(made: Named) -> pulumi.Output[str]:
    """The name that an object has in the cluster."""
    return made.metadata.apply(lambda metadata: metadata.name or "")


def claim(
    name: str,
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    size: str,
    storage_class: pulumi.Input[str] | None,
    access_mode: str = "ReadWriteOnce",
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.PersistentVolumeClaim:
    """A claim of that very name. It holds data: `destroy --exclude-protected` leaves it, and the namespace it is in."""
    spec: k8s.core.v1.PersistentVolumeClaimSpecArgsDict = {
        "access_modes": [access_mode],
        "resources": {"requests": {"storage": size}},
    }
    if storage_class is not None:
        spec["storage_class_name"] = storage_class
    return k8s.core.v1.PersistentVolumeClaim(
        name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels,
            # A class that binds when the first pod comes would be awaited for ever.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec=spec,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=True)),
    )
