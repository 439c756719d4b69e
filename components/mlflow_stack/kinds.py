"""Kinds: the ways in which a stack can provide one of its parts, such as a store or a public address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import pulumi
from pulumi_kubernetes.core.v1 import ResourceRequirementsArgsDict

from mlflow_stack.cluster import Claim, Need, Place, Reservation
from mlflow_stack.pod import Context, PodParts

K = TypeVar("K")


def chosen(kinds: Mapping[str, type[K]], given: Mapping[str, Any]) -> tuple[str, type[K]]:
    """Return the key and the kind that args choose, or the first one."""
    first = next(iter(kinds))
    key = next((key for key in kinds if key in given), first)
    return key, kinds[key]


class Kind:
    """One kind, with its args and their place in the args of a stack. Its file holds the args, the rules, and a
    subclass of this; the registry of its part lists that subclass by the key that chooses it."""

    def __init__(self, name: str, args: Mapping[str, Any], place: Place) -> None:
        """``name`` is that of the stack, and ``args`` are resolved."""
        self.name = name
        self.args = args
        self.place = place

    def needs(self) -> Sequence[Need]:
        """Return the existing objects that it relies on."""
        return []

    def reservations(self) -> Sequence[Reservation]:
        """Return the room on nodes that pods of its own need."""
        return []

    def claims(self) -> Sequence[Claim]:
        """Return the claims that it creates."""
        return []


class Store(Protocol):
    """Component of a store."""

    parts: PodParts
    """Parts of the tracking server's pod."""


class ArtifactStore(Store, Protocol):
    """Component of an artifact store."""

    presigned: bool
    """Whether MLflow may offer clients signed addresses of the store."""
    client_env: Mapping[str, pulumi.Input[str]]
    """Variables that clients need beside the tracking URI and a password."""


class BackendKind(Kind):
    """Kind of backend store: runs, metrics and registered models."""

    volume: ClassVar[str | None] = None
    """Mount path of a volume that has room for artifacts as well; None if it has none."""

    def single_writer(self) -> str:
        """Return why at most one tracking server may run; empty if several may."""
        return ""

    def steps(self) -> Sequence[ResourceRequirementsArgsDict]:
        """Return the resources of the containers that run before the tracking server starts."""
        return []

    def build(self, context: Context, opts: pulumi.ResourceOptions) -> Store:
        """Declare the store."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transfers:
    """Limits of artifact transfers."""

    largest: int
    """Bytes of the largest artifact."""
    uploads: int
    """Uploads at once."""


class ArtifactKind(Kind):
    """Kind of artifact store."""

    default_max_artifact_size: ClassVar[str] = "10Gi"
    """Largest artifact, if no key says."""

    def single_writer(self) -> str:
        """Return why at most one tracking server may run; empty if several may."""
        return ""

    def scratch_bytes(self, transfers: Transfers) -> int:
        """Return the bytes of artifacts that pass through the tracking server's ``/tmp`` at most."""
        return 0

    def build(
        self, context: Context, backend: Store, transfers: Transfers, opts: pulumi.ResourceOptions
    ) -> ArtifactStore:
        """Declare the store."""
        raise NotImplementedError
