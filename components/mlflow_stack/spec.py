"""Specification of a stack: the args of MlflowStack with rules and defaults, and the values derived from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NotRequired, TypedDict, cast

import pulumi

from mlflow_stack import artifacts, backend, expose, pod, validate
from mlflow_stack.access import credentials, nginx, proxy
from mlflow_stack.access.credentials import HTPASSWD_KEY
from mlflow_stack.artifacts import ArtifactStoreArgs
from mlflow_stack.artifacts.claim import SharedArtifactKind
from mlflow_stack.backend import BackendStoreArgs
from mlflow_stack.cluster import CLAIM, CONFIG_MAP, NAMESPACE, SECRET, SERVICE_ACCOUNT, Claim, Need, Place, Reservation
from mlflow_stack.expose import ExposeArgs, ExposeKind
from mlflow_stack.kinds import ArtifactKind, BackendKind, Transfers, chosen
from mlflow_stack.pod import LONGEST_NAME, PodArgs
from mlflow_stack.pod.network import EgressArgs, PeerArgs
from mlflow_stack.servers import encryption_keys, model, tracking
from mlflow_stack.servers.encryption_keys import EncryptionKeysArgs
from mlflow_stack.servers.model import ModelArgs
from mlflow_stack.servers.tracking import TrackingArgs


class MlflowStackArgs(TypedDict):
    """MLflow for one team."""

    namespace: NotRequired[pulumi.Input[str]]
    """Namespace to create, with PodSecurity ``restricted`` enforced. Default: the component's name."""
    existing_namespace: NotRequired[pulumi.Input[str]]
    """Existing namespace to deploy into, instead of creating one. Default: none."""
    quota: NotRequired[Mapping[str, str]]
    """Hard limits of a ResourceQuota for the created namespace, such as ``{"limits.memory": "16Gi"}``. Default: {}, no
    quota."""
    container_defaults: NotRequired[pod.ResourcesArgs]
    """Default requests and limits of containers in the created namespace, as a LimitRange. Default: {}, none."""
    platform: NotRequired[pod.Platform]
    """Platform of the cluster: kubernetes, where the stack sets the pods' UID, or openshift, which assigns it.
    Default: kubernetes."""
    image: NotRequired[pulumi.Input[str]]
    """MLflow image, 3.17.2 or later, with a tag other than latest or a digest.
    Default: ghcr.io/mlflow/mlflow:v3.17.2-full."""
    proxy_image: NotRequired[pulumi.Input[str]]
    """nginx image, with a tag other than latest or a digest. Default: nginxinc/nginx-unprivileged:1.29.4."""
    replicas: NotRequired[int]
    """Number of tracking servers. SQLite, or artifacts on a claim that is not ReadWriteMany, allow one. Default: 1."""
    resources: NotRequired[pod.ResourcesArgs]
    """CPU and memory of the tracking server. Default: requests 250m CPU and 512Mi, limit 1Gi memory."""
    pod: NotRequired[PodArgs]
    """Settings of all pods of the stack: nodes, priority, pull Secrets, labels. The key ``pod`` of a server overrides
    them field by field. Default: {}."""
    tracking: NotRequired[TrackingArgs]
    """Settings of the tracking server only. Default: {}."""
    users: NotRequired[Sequence[str]]
    """User names of letters, digits and . _ @ + -; ``models`` is reserved. Default: ["mlflow"]."""
    passwords: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Secret: passwords by user, at least 12 printable ASCII characters. Default: generated."""
    users_existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with additional users, an htpasswd file under the key ``htpasswd`` that is read at
    each request. Its entries for names in ``users`` are ignored, and the outputs do not include its users.
    Default: none."""
    rotation: NotRequired[Mapping[str, int]]
    """Rotation number of generated passwords, by user: a higher number generates a new password. Default: {}."""
    encryption_keys: NotRequired[EncryptionKeysArgs]
    """Keys that encrypt the secrets of webhooks and of MLflow's gateway in the database. Default: generated."""
    backend_store: NotRequired[BackendStoreArgs]
    """Storage of runs and registered models. Default: SQLite on a claim of 20Gi."""
    artifact_store: NotRequired[ArtifactStoreArgs]
    """Storage of artifacts. Default: the claim of the backend store, where it has one, else one of their own."""
    max_artifact_size: NotRequired[str]
    """Largest artifact, a quantity of bytes. A larger one gets 413. Default: 10Gi, with artifact_store.s3 1Gi, as the
    pod then reserves room for artifacts on its node."""
    artifact_locations: NotRequired[Sequence[str]]
    """Artifact locations that the tracking server may use in addition to its own artifact store, such as
    ``s3://older-bucket`` or ``file:///mlflow/mlruns`` for the runs of an adopted database. It refuses all others.
    Default: []."""
    max_concurrent_uploads: NotRequired[int]
    """Concurrent artifact uploads. One user may have half of them. Further uploads get 429, which MLflow's client
    retries. Default: 2."""
    models: NotRequired[Sequence[ModelArgs]]
    """Models to serve, each by its own servers. Default: []."""
    expose: NotRequired[ExposeArgs]
    """Public address. Default: none, reachable in the cluster."""
    internal_from: NotRequired[Sequence[PeerArgs]]
    """Pods of other namespaces that may connect to the Services. Default: [], only those of the own namespace."""
    egress: NotRequired[Sequence[EgressArgs]]
    """Addresses outside the cluster that the servers may connect to. A database or bucket with a host name is reached
    only at those for its port. Without any for it, the port is open to everywhere but link-local addresses.
    Default: []."""
    rollout_timeout: NotRequired[str]
    """Time limit of ``pulumi up`` for the tracking server's rollout, schema step included, such as 10m.
    Default: 10m."""
    labels: NotRequired[Mapping[str, str]]
    """Additional labels of every object. Default: {}."""


@validate.rules(
    MlflowStackArgs,
    defaults={
        "quota": {},
        "container_defaults": {},
        "platform": pod.DEFAULT_PLATFORM,
        "image": pod.DEFAULT_IMAGE,
        "proxy_image": proxy.DEFAULT_IMAGE,
        "replicas": tracking.DEFAULT_REPLICAS,
        "resources": {},
        "pod": {},
        "tracking": {},
        "users": credentials.DEFAULT_USERS,
        "passwords": {},
        "rotation": {},
        "encryption_keys": {},
        "backend_store": {},
        "artifact_store": {},
        "artifact_locations": [],
        "max_concurrent_uploads": proxy.DEFAULT_MAX_CONCURRENT_UPLOADS,
        "models": [],
        "expose": {},
        "internal_from": [],
        "egress": [],
        "rollout_timeout": pod.DEFAULT_ROLLOUT_TIMEOUT,
        "labels": {},
    },
)
def _rules(fields: validate.Fields) -> None:
    fields.check("namespace", validate.dns_label)
    fields.check("existing_namespace", validate.dns_label)
    fields.refuse_together("namespace", "existing_namespace")
    for name in ("quota", "container_defaults"):
        fields.refuse_together(name, "existing_namespace", "Set the limits in that namespace instead.")
    fields.check_keys("quota", validate.quota_resource)
    fields.check_each("quota", validate.hard_limit)
    for resource, value in fields.resolved("quota").items():
        if validate.is_counted(resource) and validate.hard_limit(value) is None and validate.amount(value) % 1:
            fields.refuse_value("quota", resource, "must be a whole number, because these objects are counted")
    pod.resource_rules(fields, {}, {}, name="container_defaults")
    fields.check("proxy_image", validate.image)
    fields.check("users_existing_secret", validate.subdomain)
    tracking.server_rules(fields)
    credentials.user_rules(fields)
    proxy.size_rules(fields)
    model.models_rules(fields)
    _rules_across(fields)


def _rules_across(fields: validate.Fields) -> None:
    """Check the rules across several fields, as far as these are valid."""
    valid = {name: value for name, value in fields.items() if name != "max_artifact_size" or not validate.size(value)}
    spec = Spec("", validate.filled(MlflowStackArgs, valid, fields.spell))
    passing = spec.artifacts.scratch_bytes(spec.transfers)
    if validate.size(str(tracking.SCRATCH_BYTES + passing)) is None:
        tracking.resource_rules(fields, passing)
    else:
        fields.refuse("max_artifact_size", f"must be smaller, because the server's /tmp would hold {passing} bytes")
    reason = spec.backend.single_writer()
    if reason:
        fields.check("replicas", lambda number: None if number == 1 else f"must be 1, because {reason}")
    elif fields.resolved("replicas") > 1 and spec.artifacts.single_writer():
        fields.refuse("replicas", f"must be 1, because {spec.artifacts.single_writer()}")
    else:
        fields.check("replicas", validate.between(1, 100))
    if "existing_namespace" not in fields.stated:
        adopting = [need.key for need in spec.needs if need.kind in (CLAIM, SECRET, CONFIG_MAP, SERVICE_ACCOUNT)]
        if adopting:
            fields.require("existing_namespace", f"{', '.join(adopting)} must already exist in the namespace")
    adopted = [need.name for need in spec.needs if need.kind is CLAIM and isinstance(need.name, str)]
    if len(set(adopted)) < len(adopted):
        backend, artifacts = fields.spell("backend_store"), fields.spell("artifact_store")
        fields.forbid(
            "artifact_store",
            f"it names the claim of {backend}",
            f"Without {artifacts}, that claim holds the artifacts as well.",
        )


@dataclass(frozen=True)
class Spec:
    """Specification of one stack, created by :func:`resolve`."""

    name: str
    """Name of the stack and prefix of its objects' names."""
    args: MlflowStackArgs
    """Accepted args, with defaults filled in."""

    @property
    def spell(self) -> Callable[[str], str]:
        """Function that returns the user's spelling of a field."""
        return cast(validate.Resolved, self.args).spell

    @cached_property
    def place(self) -> Place:
        """Place of the stack's args."""
        namespace = self.args.get("existing_namespace", self.args.get("namespace", self.name))
        return Place(namespace, self.spell, pod=self.args["pod"])

    @cached_property
    def users(self) -> Sequence[str]:
        """Names of the users, without the machine user."""
        return self.args["users"]

    @cached_property
    def backend(self) -> BackendKind:
        """Backend store."""
        stores = cast("Mapping[str, Any]", self.args["backend_store"])
        key, kind = chosen(backend.KINDS, stores)
        return kind(self.name, _given(stores, key, BackendStoreArgs), self.place.under("backend_store", key))

    @cached_property
    def artifacts(self) -> ArtifactKind:
        """Artifact store."""
        stores = cast("Mapping[str, Any]", self.args["artifact_store"])
        if not stores and self.backend.volume:
            return SharedArtifactKind(self.name, {}, self.place.under("artifact_store"))
        key, kind = chosen(artifacts.KINDS, stores)
        return kind(self.name, _given(stores, key, ArtifactStoreArgs), self.place.under("artifact_store", key))

    @cached_property
    def exposure(self) -> ExposeKind:
        """Public address."""
        given = cast("Mapping[str, Any]", self.args["expose"])
        return expose.chosen(given)(self.name, given, self.place.under("expose"))

    @cached_property
    def max_artifact_size(self) -> str:
        """Largest artifact, a quantity of bytes."""
        return self.args.get("max_artifact_size", self.artifacts.default_max_artifact_size)

    @cached_property
    def transfers(self) -> Transfers:
        """Limits of artifact transfers."""
        return Transfers(validate.bytes_of(self.max_artifact_size), self.args["max_concurrent_uploads"])

    @cached_property
    def limits(self) -> nginx.Limits:
        """Limits of the tracking server's proxy."""
        body = tracking.max_body_bytes(self.args["resources"])
        return nginx.Limits(self.transfers.largest, self.transfers.uploads, body)

    @cached_property
    def needs(self) -> Sequence[Need]:
        """Existing objects that the stack requires."""
        args, place = self.args, self.place
        found = [
            *place.need(NAMESPACE, args, "existing_namespace"),
            *place.need(SECRET, args, "users_existing_secret", keys=[HTPASSWD_KEY], why="an htpasswd file"),
            *pod.needs(args["pod"], place.under("pod")),
            *pod.needs(args["tracking"]["pod"], place.under("tracking", "pod")),
            *encryption_keys.needs(args["encryption_keys"], place.under("encryption_keys")),
            *self.backend.needs(),
            *self.artifacts.needs(),
        ]
        for position, served in enumerate(args["models"]):
            found += model.needs(served, place.item("models", position))
        return [*found, *self.exposure.needs()]

    @cached_property
    def claims(self) -> Sequence[Claim]:
        """Claims that the stack creates."""
        return [*self.backend.claims(), *self.artifacts.claims()]

    @cached_property
    def reservations(self) -> Sequence[Reservation]:
        """Reservations of each kind of pod of the stack. Jobs are not included: they need little, and no key changes
        it."""
        args, place = self.args, self.place
        passing = self.artifacts.scratch_bytes(self.transfers)
        containers = [
            tracking.container_resources(args["resources"], tracking.SCRATCH_BYTES + passing),
            *proxy.reserved(self.limits),
        ]
        steps = [*self.backend.steps(), pod.resources(None, *encryption_keys.STEP_RESOURCES)]
        follows = {"ephemeral-storage": place.path("max_artifact_size")} if passing else {}
        own, at = args["tracking"]["pod"], place.under("tracking", "pod")
        found = [place.reservation("the tracking server", containers, steps, args["resources"], follows, own, at)]
        found += self.backend.reservations()
        for position, served in enumerate(args["models"]):
            found += model.reservations(served, place.item("models", position))
        return found


def _given(stores: Mapping[str, Any], key: str, kind: type) -> Mapping[str, Any]:
    """Return the args of a store, or its defaults."""
    return validate.filled(validate.hints(kind)[key], stores.get(key, {}))


def resolve(name: str, args: Mapping[str, Any], *, spell: Callable[[str], str] = str) -> Spec:
    """Return the specification of an MlflowStack, or raise :class:`InvalidArgs` with every problem. Declares nothing.

    :param spell: Function that returns the user's spelling of a field: :func:`validate.camel` for stack files.
    """
    return Spec(name, validate.resolved("MlflowStack", name, MlflowStackArgs, args, longest=LONGEST_NAME, spell=spell))


observers: Final[list[Callable[[Spec], None]]] = []
"""Functions that receive the specification of each MlflowStack before it is declared, for recorders of a program."""
