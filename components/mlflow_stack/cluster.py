"""Requirements of a stack on its cluster: existing objects, and nodes with room for its pods. Callers with access to
the cluster check them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final, cast

import pulumi
from pulumi_kubernetes.core.v1 import ResourceRequirementsArgsDict

from mlflow_stack import validate


@dataclass(frozen=True)
class ObjectKind:
    """Kind of object that a stack requires in its cluster."""

    name: str
    """Kind as manifests spell it."""
    resource: str
    """Resource as ``kubectl get`` takes it."""
    api: str | None = None
    """API group and version, if not every cluster serves it."""
    remedy: str = ""
    """Remedy if a cluster does not serve the API."""
    namespaced: bool = True
    default: str | None = None
    """Annotation of the default object, which is used if none is named."""


_CERT_MANAGER: Final = "install cert-manager, or name a Secret with a certificate instead"

CLAIM: Final = ObjectKind("PersistentVolumeClaim", "persistentvolumeclaim")
CLUSTER_ISSUER: Final = ObjectKind(
    "ClusterIssuer",
    "clusterissuers.cert-manager.io",
    api="cert-manager.io/v1",
    remedy=_CERT_MANAGER,
    namespaced=False,
)
CONFIG_MAP: Final = ObjectKind("ConfigMap", "configmap")
INGRESS_CLASS: Final = ObjectKind(
    "IngressClass", "ingressclass", namespaced=False, default="ingressclass.kubernetes.io/is-default-class"
)
ISSUER: Final = ObjectKind("Issuer", "issuers.cert-manager.io", api="cert-manager.io/v1", remedy=_CERT_MANAGER)
NAMESPACE: Final = ObjectKind("Namespace", "namespace", namespaced=False)
PRIORITY_CLASS: Final = ObjectKind("PriorityClass", "priorityclass", namespaced=False)
RUNTIME_CLASS: Final = ObjectKind("RuntimeClass", "runtimeclass", namespaced=False)
SECRET: Final = ObjectKind("Secret", "secret")
SERVICE_ACCOUNT: Final = ObjectKind("ServiceAccount", "serviceaccount")
STORAGE_CLASS: Final = ObjectKind(
    "StorageClass", "storageclass", namespaced=False, default="storageclass.kubernetes.io/is-default-class"
)


@dataclass(frozen=True)
class Need:
    """Existing object that a key of the args requires."""

    key: str
    """Full path of the key."""
    kind: ObjectKind
    name: pulumi.Input[str] | None
    """Name of the object. None means the default object of its kind, or only the API of a kind without defaults."""
    namespace: pulumi.Input[str] | None = None
    """Namespace of the object, if its kind is namespaced."""
    keys: Sequence[str] = ()
    """Keys that the object's data must have."""
    why: str = ""
    """Use of the object in the stack, as a noun phrase."""


@dataclass(frozen=True)
class Reservation:
    """Resources that one node must have free for a pod."""

    pod: str
    """Name of the pod, as a noun phrase."""
    requests: Mapping[str, Fraction]
    """Requested amounts, by resource, as the scheduler counts them."""
    keys: Mapping[str, str]
    """Full path of the key that sets the amount, by resource."""
    node_selector: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Labels that the node must have."""
    node_selector_key: str = ""
    """Full path of the key that sets them."""
    tolerations: Sequence[Mapping[str, Any]] = ()
    """Taints that the pod tolerates, in Python's spelling."""


@dataclass(frozen=True)
class Claim:
    """PersistentVolumeClaim that the stack creates."""

    key: str
    """Full path of the key that sets its size."""
    name: str
    """Name of the claim."""
    size: str
    """Size, a Kubernetes quantity."""


@dataclass(frozen=True)
class Place:
    """Path of one args value in the args of a stack."""

    namespace: pulumi.Input[str]
    """Namespace of the stack."""
    spell: Callable[[str], str] = str
    """Function that returns the user's spelling of a field."""
    key: str = ""
    """Path of the value."""
    pod: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Pod settings of the whole stack."""

    def path(self, *fields: str) -> str:
        """Return the path of a field below this place."""
        key = self.key
        for name in fields:
            key = validate.join(key, self.spell(name))
        return key

    def under(self, *fields: str) -> "Place":
        """Return the place of a field's value."""
        return replace(self, key=self.path(*fields))

    def item(self, field: str, position: int) -> "Place":
        """Return the place of an item of a list."""
        return replace(self, key=f"{self.path(field)}[{position}]")

    def need(
        self, kind: ObjectKind, args: Mapping[str, Any], field: str, *, keys: Sequence[str] = (), why: str = ""
    ) -> list[Need]:
        """Return the need of a field that names an object. An unset field needs the kind's default object, or nothing
        if the kind has no default."""
        if field not in args and kind.default is None:
            return []
        namespace = self.namespace if kind.namespaced else None
        return [Need(self.path(field), kind, args.get(field), namespace, keys, why)]

    def reservation(
        self,
        pod: str,
        containers: Sequence[ResourceRequirementsArgsDict],
        steps: Iterable[ResourceRequirementsArgsDict],
        stated: Mapping[str, Any],
        keys: Mapping[str, str],
        settings: Mapping[str, Any],
        at: "Place",
    ) -> Reservation:
        """Return the reservation of a pod whose first container has the field ``resources`` at this place.

        :param steps: Resources of init containers, which run one after the other before the other containers start.
        :param stated: Value of the field ``resources``.
        :param keys: Keys that set the amounts which are not stated, by resource.
        :param settings: Pod settings of the server itself, which override the stack's.
        :param at: Place of these settings.
        """
        requests = pod_requests(containers, steps)
        own = cast("Mapping[str, Mapping[str, str]]", containers[0])
        found: dict[str, str] = {}
        for resource in requests:
            limited = resource in own.get("limits", {}) and resource not in own.get("requests", {})
            part = "limits" if limited else "requests"
            key = f"{self.path('resources', part)}.{resource}"
            found[resource] = key if resource in stated.get(part, {}) else keys.get(resource, key)
        placed = {**self.pod, **settings}
        selects = at if "node_selector" in settings else replace(self, key=self.spell("pod"))
        return Reservation(
            pod,
            requests,
            found,
            placed.get("node_selector", {}),
            selects.path("node_selector"),
            cast("Sequence[Mapping[str, Any]]", validate.plain(placed.get("tolerations", []))),
        )


def pod_requests(
    containers: Iterable[ResourceRequirementsArgsDict], steps: Iterable[ResourceRequirementsArgsDict]
) -> dict[str, Fraction]:
    """Return the requests of a pod by resource, as the scheduler counts them: the sum of its containers, or one init
    container that requests more.

    :param containers: Field ``resources`` of each container.
    :param steps: Field ``resources`` of each init container.
    """
    found: dict[str, Fraction] = {}
    for container in containers:
        for resource, amount in _requests(container).items():
            found[resource] = found.get(resource, Fraction(0)) + amount
    for step in steps:
        for resource, amount in _requests(step).items():
            found[resource] = max(found.get(resource, Fraction(0)), amount)
    return found


def _requests(container: ResourceRequirementsArgsDict) -> dict[str, Fraction]:
    """Return the requests of a container. A limit without a request counts as the request."""
    parts = cast("Mapping[str, Mapping[str, str]]", container)
    amounts = {**parts.get("limits", {}), **parts.get("requests", {})}
    return {resource: validate.amount(str(amount)) for resource, amount in amounts.items()}
