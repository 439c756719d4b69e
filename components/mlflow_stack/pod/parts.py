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
    """Connection that a pod accepts. All others are denied."""

    port: int
    """TCP port of the container."""
    peers: Sequence[NetworkPolicyPeerArgsDict] = ()
    """Peers that may connect. An empty sequence allows all peers."""


@dataclass(frozen=True)
class Egress:
    """Connection that a pod opens. All others except DNS are denied."""

    port: pulumi.Input[int]
    """TCP port."""
    cidrs: pulumi.Input[Sequence[str]] = ()
    """Address ranges of the destination. Without ranges and without ``pods``: all except link-local addresses."""
    pods: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of the destination's pods in the same namespace, instead of address ranges."""


@dataclass(frozen=True)
class PodParts:
    """Parts that a store or a proxy adds to a server's pod. The server merges the parts of its pod; parts never modify
    a pod they do not own."""

    containers: Sequence[ContainerArgsDict] = ()
    """Additional containers."""
    init_containers: Sequence[ContainerArgsDict] = ()
    """Init containers, which must succeed in order before the server starts."""
    env: Sequence[EnvVarArgsDict] = ()
    """Environment of the server's container."""
    volumes: Sequence[VolumeArgsDict] = ()
    """Volumes of the pod."""
    mounts: Sequence[VolumeMountArgsDict] = ()
    """Mounts of the server's container."""
    programs: Sequence[str] = ()
    """Programs that the tracking server imports, beside its own."""
    python_path: Sequence[str] = ()
    """Folders of the server's container with Python modules and MLflow plugins."""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Annotations of the pod."""
    wait_for: Sequence[pulumi.Resource] = ()
    """Resources that must exist before the pod is created."""
    egress: Sequence[Egress] = ()
    """Connections that the pod opens."""
    ingress: Sequence[Ingress] = ()
    """Connections that the pod accepts."""
    exclusive: bool = False
    """True if only one pod at a time may use the mounted volumes: SQLite, or a claim that is not ReadWriteMany."""
    identity: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Identities of the data behind the part, by purpose."""
    linger_seconds: int = 0
    """Seconds for which a terminating pod still accepts requests."""
    scratch_bytes: int = 0
    """Most bytes that pass through the server's ``/tmp`` at once, in addition to the server's own."""
