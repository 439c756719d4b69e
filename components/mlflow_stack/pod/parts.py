"""Parts that stores and proxies add to a server's pod."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict


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
