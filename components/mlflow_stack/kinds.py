"""Kinds: implementations of a part of the stack, such as a store or a public address."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import pulumi
from pulumi_kubernetes.core.v1 import ResourceRequirementsArgsDict

from mlflow_stack import identity
from mlflow_stack.access.proxy import DEFAULT_MAX_ARTIFACT_SIZE
from mlflow_stack.cluster import Claim, Need, Place, Reservation
from mlflow_stack.pod import Context, PodParts

K = TypeVar("K")


def chosen(kinds: Mapping[str, type[K]], given: Mapping[str, Any]) -> tuple[str, type[K]]:
    """Return the key and the kind that the args select, or the first kind."""
    first = next(iter(kinds))
    key = next((key for key in kinds if key in given), first)
    return key, kinds[key]


class Kind:
    """Base class of kinds, with the args of a kind and their place in the args of a stack. The file of a kind has its
    args, its rules and a subclass of this class. The registry of the part lists the subclass by the key that selects
    it."""

    def __init__(self, name: str, args: Mapping[str, Any], place: Place) -> None:
        """Create a kind from the stack's name and resolved args."""
        self.name = name
        self.args = args
        self.place = place

    def needs(self) -> Sequence[Need]:
        """Return the existing objects that the kind requires."""
        return []

    def reservations(self) -> Sequence[Reservation]:
        """Return the reservations of the kind's own pods."""
        return []

    def claims(self) -> Sequence[Claim]:
        """Return the claims that the kind creates."""
        return []


class Store(Protocol):
    """Component of a store."""

    parts: PodParts
    """Parts of the tracking server's pod."""


class ArtifactStore(Store, Protocol):
    """Component of an artifact store."""

    presigned: bool
    """True if MLflow may offer clients presigned URLs of the store."""
    client_env: Mapping[str, pulumi.Input[str]]
    """Variables that clients need in addition to the tracking URI and a password."""


@dataclass(frozen=True)
class Unguarded:
    """Tracking server of a stack that was deployed before stores had guards."""

    namespace: str
    env: Mapping[str, str]
    """Environment of MLflow's container."""
    claims: Mapping[str, str]
    """Claims of the pod, by volume."""

    def on_claim(self, volume: str) -> str:
        """Return the identity of the data on a volume's claim; empty if there is no such volume."""
        return identity.claim(self.namespace, self.claims[volume]) if volume in self.claims else ""


class StoreKind(Kind):
    """Kind of store."""

    @classmethod
    def identity_of(cls, server: Unguarded) -> str:
        """Return the identity of a server's data; empty if this kind does not store it, or always had guards."""
        return ""

    def single_writer(self) -> str:
        """Return the reason why only one tracking server may run; empty if several may."""
        return ""


class BackendKind(StoreKind):
    """Kind of backend store, for runs, metrics and registered models."""

    volume: ClassVar[str | None] = None
    """Mount path of a volume with room for artifacts; None if there is none."""
    sentences: ClassVar[Mapping[str, tuple[str, str]]] = types.MappingProxyType({})
    """Sentences of previews by init container: for one that is added or changed, and for one that is removed."""

    def steps(self) -> Sequence[ResourceRequirementsArgsDict]:
        """Return the resources of the init containers that run before the tracking server starts."""
        return []

    def build(self, context: Context, opts: pulumi.ResourceOptions) -> Store:
        """Declare the store."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transfers:
    """Limits of artifact transfers."""

    largest: int
    """Size of the largest artifact in bytes."""
    uploads: int
    """Concurrent uploads."""


class ArtifactKind(StoreKind):
    """Kind of artifact store."""

    default_max_artifact_size: ClassVar[str] = DEFAULT_MAX_ARTIFACT_SIZE
    """Default size of the largest artifact."""

    def scratch_bytes(self, transfers: Transfers) -> int:
        """Return the most bytes of artifacts in the tracking server's ``/tmp`` at once."""
        return 0

    def build(
        self, context: Context, backend: Store, transfers: Transfers, opts: pulumi.ResourceOptions
    ) -> ArtifactStore:
        """Declare the store."""
        raise NotImplementedError
