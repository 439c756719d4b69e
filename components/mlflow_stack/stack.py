"""A team's own MLflow, whole: wiring only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict, cast

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import exposure, pod, validate
from mlflow_stack.access import credentials, proxy
from mlflow_stack.access.credentials import HTPASSWD_KEY, LONGEST_NAME, Credentials, Users, UsersArgs
from mlflow_stack.access.proxy import AuthProxy, ExistingUsers
from mlflow_stack.artifacts import s3
from mlflow_stack.artifacts.claim import PvcArtifacts, PvcArtifactsArgs
from mlflow_stack.artifacts.s3 import S3Artifacts, S3ArtifactsArgs
from mlflow_stack.backend import mysql, sqlite
from mlflow_stack.backend.mysql import MysqlStore, MysqlStoreArgs
from mlflow_stack.backend.sqlite import PvcStore, PvcStoreArgs
from mlflow_stack.cluster import CLAIM, CONFIG_MAP, NAMESPACE, SECRET, Need, Place, Reservation
from mlflow_stack.exposure import ExposeArgs, Exposure
from mlflow_stack.pod import claims
from mlflow_stack.pod.claims import PvcPlacementArgs
from mlflow_stack.pod.network import EgressArgs, PeerArgs
from mlflow_stack.servers import encryption_keys as keys
from mlflow_stack.servers import model as models
from mlflow_stack.servers import tracking
from mlflow_stack.servers.encryption_keys import EncryptionKeys, EncryptionKeysArgs
from mlflow_stack.servers.model import ModelArgs, ModelServer
from mlflow_stack.servers.tracking import TrackingServer


class BackendStoreArgs(TypedDict):
    """Where runs, params, metrics and the model registry are kept: one of these."""

    pvc: NotRequired[PvcStoreArgs]
    """SQLite on a claim. Default: a claim of 20Gi."""
    mysql: NotRequired[MysqlStoreArgs]
    """A MySQL or MariaDB database. Default: none."""


@validate.rules(BackendStoreArgs)
def _backend_store(fields: validate.Fields) -> None:
    fields.refuse_together("pvc", "mysql", "runs have one store; none means pvc")


class ArtifactStoreArgs(TypedDict):
    """Where models, figures and other files are kept: one of these."""

    pvc: NotRequired[PvcArtifactsArgs]
    """A claim of their own."""
    s3: NotRequired[S3ArtifactsArgs]
    """A bucket."""


@validate.rules(ArtifactStoreArgs)
def _artifact_store(fields: validate.Fields) -> None:
    fields.refuse_together("pvc", "s3", "artifacts have one store")


class MlflowStackArgs(TypedDict):
    """One MLflow for one team."""

    namespace: NotRequired[pulumi.Input[str]]
    """Namespace to create, with PodSecurity ``restricted`` enforced. Default: the component's name."""
    existing_namespace: NotRequired[pulumi.Input[str]]
    """Namespace that is there already, instead of creating one. Default: none."""
    quota: NotRequired[Mapping[str, str]]
    """What everything in the created namespace may use together, as a ResourceQuota's hard limits, such as
    ``{"limits.memory": "16Gi"}``. Default: {}, no quota."""
    container_defaults: NotRequired[pod.ResourcesArgs]
    """Requests and limits of the created namespace's containers that state none, as a LimitRange. Default: {}, none."""
    platform: NotRequired[pod.Platform]
    """kubernetes or openshift: who states the pods' UID. Default: kubernetes."""
    image: NotRequired[pulumi.Input[str]]
    """MLflow image, 3.17.2 or later, with a tag other than latest or a digest.
    Default: ghcr.io/mlflow/mlflow:v3.17.2-full."""
    proxy_image: NotRequired[pulumi.Input[str]]
    """nginx image with a tag other than latest or a digest. Default: nginxinc/nginx-unprivileged."""
    replicas: NotRequired[int]
    """Tracking servers at once; SQLite, or artifacts on a claim that is not ReadWriteMany, allow one. Default: 1."""
    resources: NotRequired[pod.ResourcesArgs]
    """The tracking server's CPU and memory. Default: requests 250m CPU and 512Mi, limit 1Gi memory."""
    users: NotRequired[Sequence[str]]
    """User names: letters, digits and . _ @ + -; ``models`` is reserved. Default: ["mlflow"]."""
    passwords: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Secret: passwords by user, at least 12 printable ASCII characters. Default: generated."""
    users_existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with more users: an htpasswd file under the key ``htpasswd``, read at each request.
    Names of ``users`` in it do not count, and the outputs have nothing of it. Default: none."""
    rotation: NotRequired[Mapping[str, int]]
    """Generated passwords to renew: raising a user's number makes a new one. Default: {}."""
    encryption_keys: NotRequired[EncryptionKeysArgs]
    """Keys with which MLflow encrypts the secrets of webhooks and of its gateway. Default: generated."""
    backend_store: NotRequired[BackendStoreArgs]
    """Where runs and models are recorded. Default: SQLite on a claim of 20Gi."""
    artifact_store: NotRequired[ArtifactStoreArgs]
    """Where artifacts are kept. Default: the claim of the backend store, where it has one, else one of their own."""
    max_artifact_size: NotRequired[str]
    """The largest artifact, a quantity of bytes; above it 413. Default: 10Gi, with artifact_store.s3 1Gi, as the pod
    then reserves room for artifacts on its node."""
    artifact_locations: NotRequired[Sequence[str]]
    """Artifact locations that the server may use beside its own artifact store, such as ``s3://older-bucket`` or
    ``file:///mlflow/mlruns``, where runs of an adopted database have artifacts. Others are refused. Default: []."""
    max_concurrent_uploads: NotRequired[int]
    """Artifact uploads at once, of which one user has half; one more gets 429, which MLflow's client repeats.
    Default: 2."""
    models: NotRequired[Sequence[ModelArgs]]
    """Models to serve, each by servers of its own. Default: []."""
    expose: NotRequired[ExposeArgs]
    """The public address. Default: none, reachable in the cluster."""
    internal_from: NotRequired[Sequence[PeerArgs]]
    """Pods of other namespaces that may connect to the Services. Default: [], those of the own namespace alone."""
    egress: NotRequired[Sequence[EgressArgs]]
    """Addresses outside the cluster that the servers may connect to. A database or bucket named by a host name is
    reached at these of its port; without one, its port is open to everywhere but link-local addresses. Default: []."""
    rollout_timeout: NotRequired[str]
    """How long ``pulumi up`` waits for the server, schema step included, such as 10m. Default: 10m."""
    labels: NotRequired[Mapping[str, str]]
    """More labels for every object. Default: {}."""


@validate.rules(MlflowStackArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("namespace", validate.dns_label)
    fields.check("existing_namespace", validate.dns_label)
    fields.refuse_together("namespace", "existing_namespace", "one creates, the other adopts")
    for name in ("quota", "container_defaults"):
        fields.refuse_together(name, "existing_namespace", "whoever made the namespace sets its limits")
    fields.check_keys("quota", validate.quota_resource)
    fields.check_each("quota", validate.hard_limit)
    for resource, value in fields.get("quota", {}).items():
        if validate.is_counted(resource) and validate.hard_limit(value) is None and validate.amount(value) % 1:
            fields.refuse_value("quota", resource, "a whole number, as these are counted")
    pod.resource_rules(fields, {}, {}, name="container_defaults")
    fields.check("proxy_image", validate.image)
    fields.check("users_existing_secret", validate.subdomain)
    tracking.server_rules(fields)
    credentials.user_rules(fields)
    proxy.size_rules(fields)
    models.models_rules(fields)
    backend: BackendStoreArgs = fields.get("backend_store", {})
    claim: PvcStoreArgs = backend.get("pvc", {})
    artifacts: ArtifactStoreArgs = fields.get("artifact_store", {})
    passing = _passing_bytes(fields)
    if validate.size(str(tracking.SCRATCH_BYTES + passing)) is None:
        tracking.resource_rules(fields, passing)
    else:
        fields.refuse("max_artifact_size", f"a smaller size: the server's /tmp would have to hold {passing} bytes")
    mounted = "s3" not in artifacts and artifacts.get("pvc", {}).get("access_mode") != "ReadWriteMany"
    if "mysql" not in backend:
        fields.check("replicas", lambda number: None if number == 1 else "1, as SQLite on a claim has one writer")
    elif fields.get("replicas", 1) > 1 and mounted:
        fields.refuse("replicas", "1, as one pod alone may mount a claim with artifacts that is not ReadWriteMany")
    else:
        fields.check("replicas", validate.between(1, 100))
    if "existing_namespace" not in fields:
        kinds = {need.kind for need in needs("", fields)}
        for kind, one in ((CLAIM, "a claim"), (SECRET, "a Secret"), (CONFIG_MAP, "a ConfigMap")):
            if kind in kinds:
                wanted = f"a value, as {one} cannot exist in a namespace that is only made now"
                fields.refuse("existing_namespace", wanted)
    if claim.get("existing_claim") is not None and claim == artifacts.get("pvc"):
        fields.refuse(
            "artifact_store", "it left out, as a pod mounts a claim once; the backend store's holds artifacts, too"
        )


def _max_artifact_size(args: Mapping[str, Any]) -> str:
    in_bucket = "s3" in args.get("artifact_store", {})
    default = s3.DEFAULT_MAX_ARTIFACT_SIZE if in_bucket else proxy.DEFAULT_MAX_ARTIFACT_SIZE
    return args.get("max_artifact_size", default)


def _passing_bytes(args: Mapping[str, Any]) -> int:
    """Return what passes through the server's ``/tmp`` at most."""
    artifacts, largest = args.get("artifact_store", {}), _max_artifact_size(args)
    if "s3" not in artifacts or validate.size(largest) is not None:
        return 0
    uploads = args.get("max_concurrent_uploads", proxy.DEFAULT_MAX_CONCURRENT_UPLOADS)
    return s3.scratch_bytes(artifacts["s3"], validate.bytes_of(largest), uploads)


def needs(name: str, args: Mapping[str, Any], *, spell: Callable[[str], str] = str) -> list[Need]:
    """Return the existing objects that an MlflowStack relies on, from accepted args.

    ``spell`` as for :func:`accept`.
    """
    place = Place(args.get("existing_namespace", args.get("namespace", name)), spell)
    backend, artifacts = args.get("backend_store", {}), args.get("artifact_store", {})
    found = place.need(NAMESPACE, args, "existing_namespace")
    found += place.need(SECRET, args, "users_existing_secret", keys=[HTPASSWD_KEY], why="an htpasswd file")
    found += keys.needs(args.get("encryption_keys", {}), place.under("encryption_keys"))
    if "mysql" in backend:
        found += mysql.needs(backend["mysql"], place.under("backend_store", "mysql"))
    else:
        found += claims.needs(backend.get("pvc", {}), place.under("backend_store", "pvc"))
    if "s3" in artifacts:
        found += s3.needs(artifacts["s3"], place.under("artifact_store", "s3"))
    elif "pvc" in artifacts or "mysql" in backend:
        found += claims.needs(artifacts.get("pvc", {}), place.under("artifact_store", "pvc"))
    for position, model in enumerate(args.get("models", [])):
        found += models.needs(model, place.item("models", position)) if model else []
    return [*found, *exposure.needs(args.get("expose", {}), place.under("expose"))]


def reservations(name: str, args: Mapping[str, Any], *, spell: Callable[[str], str] = str) -> list[Reservation]:
    """Return the room that each kind of pod of an MlflowStack needs on a node, from accepted args.

    Jobs are not among them: they ask for little, and no key changes it. ``spell`` as for :func:`accept`.
    """
    place = Place(args.get("existing_namespace", args.get("namespace", name)), spell)
    resources, backend = args.get("resources", {}), args.get("backend_store", {})
    containers = [
        tracking.container_resources(resources, tracking.SCRATCH_BYTES + _passing_bytes(args)),
        proxy.container_resources(
            None,
            proxy.Limits(
                validate.bytes_of(_max_artifact_size(args)),
                args.get("max_concurrent_uploads", proxy.DEFAULT_MAX_CONCURRENT_UPLOADS),
                tracking.max_body_bytes(resources),
            ),
        ),
    ]
    schema = mysql.step_resources() if "mysql" in backend else pod.resources(None, *sqlite.SCHEMA_RESOURCES)
    steps = [schema, pod.resources(None, *keys.STEP_RESOURCES)]
    follows = {"ephemeral-storage": place.path("max_artifact_size")} if _passing_bytes(args) else {}
    found = [place.reservation("the tracking server", containers, steps, resources, follows)]
    if "deploy" in backend.get("mysql", {}):
        found.append(mysql.reservation(backend["mysql"]["deploy"], place.under("backend_store", "mysql", "deploy")))
    for position, model in enumerate(args.get("models", [])):
        found += models.reservations(model, place.item("models", position))
    return found


def accept(name: str, args: Mapping[str, Any], *, spell: Callable[[str], str] = str) -> MlflowStackArgs:
    """The args of an MlflowStack, judged: for a program that wants to declare nothing at all, not even a provider,
    where they are not accepted. Raises :class:`InvalidArgs` with every problem.

    ``spell`` makes of a field's name what its writer knows it by; :func:`validate.camel` in stack files.
    """
    return validate.accepted("MlflowStack", name, MlflowStackArgs, args, longest=LONGEST_NAME, spell=spell)


class MlflowStack(pulumi.ComponentResource):
    """A complete, authenticated MLflow: ``MlflowStack("mlflow", {})`` is enough."""

    url: pulumi.Output[str]
    """What people open: the public address, or without one the Service's."""
    tracking_uri: pulumi.Output[str]
    """What clients set as MLFLOW_TRACKING_URI."""
    username: pulumi.Output[str]
    """The first user."""
    password: pulumi.Output[str]
    """Secret: the first user's password."""
    passwords: pulumi.Output[Mapping[str, str]]
    """Secret: every user's password."""
    client_env: pulumi.Output[Mapping[str, str]]
    """Secret: the environment of MLflow's client."""
    encryption_keys: pulumi.Output[Mapping[str, str]]
    """Secret: the keys with which MLflow encrypts secrets, by variable; a backup needs them. Empty where a Secret is
    adopted."""
    model_urls: pulumi.Output[Mapping[str, str]]
    """Where each model answers, by its name; ``/invocations`` is below it."""
    model_uris: pulumi.Output[Mapping[str, str]]
    """What each model is, by its name: the URI with its version, where it is pinned."""
    namespace: pulumi.Output[str]
    """The namespace of everything."""

    def __init__(self, name: str, args: MlflowStackArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = accept(name, args)
        super().__init__("mlflow-stack:index:MlflowStack", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = accepted.get("labels", {})
        platform = accepted.get("platform", "kubernetes")
        image = accepted.get("image", tracking.DEFAULT_IMAGE)
        expose = accepted.get("expose", ExposeArgs(kind="none"))
        artifact_store = accepted.get("artifact_store", {})
        max_artifact_size = _max_artifact_size(accepted)
        max_concurrent_uploads = accepted.get("max_concurrent_uploads", proxy.DEFAULT_MAX_CONCURRENT_UPLOADS)

        who = {field: value for field, value in accepted.items() if field in UsersArgs.__annotations__}
        users = Users(name, cast(UsersArgs, who), child)
        if "existing_namespace" in accepted:
            self.namespace = pulumi.Output.from_input(accepted["existing_namespace"])
        else:
            created = _namespace(self, name, accepted.get("namespace", name), labels)
            self.namespace = pod.name_of(created)
            _limits(self, name, self.namespace, accepted)
        addresses = exposure.addresses(name, self.namespace, expose)
        rollout_timeout = accepted.get("rollout_timeout", tracking.DEFAULT_ROLLOUT_TIMEOUT)
        backend = accepted.get("backend_store", {})
        store: PvcStore | MysqlStore
        if "mysql" in backend:
            store = MysqlStore(
                name,
                backend["mysql"],
                {
                    "namespace": self.namespace,
                    "image": image,
                    "platform": platform,
                    "rollout_timeout": rollout_timeout,
                    "labels": labels,
                },
                child,
            )
        else:
            store = PvcStore(
                name,
                backend.get("pvc", {}),
                {"namespace": self.namespace, "image": image, "labels": labels},
                child,
            )
        artifacts: PvcArtifacts | S3Artifacts
        if "s3" in artifact_store:
            artifacts = S3Artifacts(
                name,
                artifact_store["s3"],
                {
                    "namespace": self.namespace,
                    "image": image,
                    "platform": platform,
                    "max_artifact_size": max_artifact_size,
                    "max_concurrent_uploads": max_concurrent_uploads,
                    "labels": labels,
                },
                child,
            )
        else:
            shared: PvcPlacementArgs = {"namespace": self.namespace, "image": image, "labels": labels}
            if isinstance(store, PvcStore):
                shared["claim"] = store.claim
            artifacts = PvcArtifacts(
                name,
                # SQLite's claim holds the artifacts, too; a database has none.
                artifact_store.get("pvc", {} if "mysql" in backend else None),
                shared,
                child,
            )
        secrets = Credentials(
            name,
            {
                "namespace": self.namespace,
                "users": users.everyone,
                "tracking_uri": addresses.apply(lambda names: names.internal_url),
                "client_env": artifacts.client_env,
                "labels": labels,
            },
            child,
        )
        encryption_keys = EncryptionKeys(
            name,
            accepted.get("encryption_keys", {}),
            {"namespace": self.namespace, "image": image, "store": store.parts, "labels": labels},
            child,
        )
        access = exposure.access(expose, accepted.get("internal_from", []))
        if "users_existing_secret" in accepted:
            managed = [user.name for user in users.everyone]
            existing_users = ExistingUsers(accepted["users_existing_secret"], managed)
            access = replace(access, existing_users=existing_users)
        auth_proxy = AuthProxy(
            name,
            {
                "namespace": self.namespace,
                "addresses": addresses,
                "htpasswd": secrets.htpasswd,
                "image": accepted.get("proxy_image", proxy.DEFAULT_IMAGE),
                "max_artifact_size": max_artifact_size,
                "max_request_bytes": tracking.max_body_bytes(accepted.get("resources")),
                "max_concurrent_uploads": max_concurrent_uploads,
                "presigned": artifacts.presigned,
                "linger": not (store.parts.exclusive or artifacts.parts.exclusive),
                "access": access,
                "labels": labels,
            },
            child,
        )
        server = TrackingServer(
            name,
            {
                "namespace": self.namespace,
                "addresses": addresses,
                "parts": [store.parts, encryption_keys.parts, artifacts.parts, secrets.parts, auth_proxy.parts],
                "egress": accepted.get("egress", []),
                "image": image,
                "platform": platform,
                "replicas": accepted.get("replicas", 1),
                "resources": accepted.get("resources", {}),
                "artifact_locations": accepted.get("artifact_locations", []),
                "rollout_timeout": rollout_timeout,
                "labels": labels,
            },
            child,
        )
        served = accepted.get("models", [])
        group = pod.labels(name, models.COMPONENT, labels)
        scripts = models.programs(name, self.namespace, group, child) if served else ""
        servers = {
            model["name"]: ModelServer(
                f"{name}-{model['name']}",
                {
                    "namespace": self.namespace,
                    "model": model,
                    "addresses": addresses,
                    "htpasswd": secrets.htpasswd,
                    "tracking_uri": addresses.apply(lambda names: names.internal_url),
                    "existing_secret": secrets.models,
                    "tracking_pods": server.selector,
                    "scripts": scripts,
                    "image": image,
                    "proxy_image": accepted.get("proxy_image", proxy.DEFAULT_IMAGE),
                    "platform": platform,
                    "access": access,
                    "egress": accepted.get("egress", []),
                    "wait_for": [*secrets.parts.wait_for, secrets.machine],
                    "labels": labels,
                },
                child,
            )
            for model in served
        }
        Exposure(
            name,
            {
                "namespace": self.namespace,
                "service": server.service,
                "selector": server.selector,
                "expose": expose,
                "backends": {f"/serving/{model}": server.service for model, server in servers.items()},
                "max_artifact_size": max_artifact_size,
                "labels": labels,
            },
            child,
        )

        self.url = addresses.apply(lambda names: names.url)
        self.tracking_uri = self.url
        self.username = pulumi.Output.from_input(users.everyone[0].name)
        self.password = pulumi.Output.secret(users.everyone[0].password)
        people = [user for user in users.everyone if user.name != credentials.MACHINE_USER]
        self.passwords = pulumi.Output.secret(pulumi.Output.all(**{user.name: user.password for user in people}))
        env = {**credentials.client_env(self.tracking_uri, users.everyone[0]), **artifacts.client_env}
        self.client_env = pulumi.Output.secret(pulumi.Output.all(**env))
        self.encryption_keys = encryption_keys.values
        self.model_urls = addresses.apply(
            lambda names: {one["name"]: names.serving_url(one["name"], one.get("node_port")) for one in served}
        )
        self.model_uris = pulumi.Output.from_input({model: server.uri for model, server in servers.items()})
        outputs = (
            *("url", "tracking_uri", "username", "password", "passwords", "client_env", "encryption_keys"),
            *("model_urls", "model_uris", "namespace"),
        )
        self.register_outputs({validate.camel(output): getattr(self, output) for output in outputs})


def _namespace(
    parent: MlflowStack, resource: str, name: pulumi.Input[str], labels: Mapping[str, str]
) -> k8s.core.v1.Namespace:
    enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return k8s.core.v1.Namespace(
        resource,
        metadata={"name": name, "labels": {**pod.labels(resource, "namespace", labels), **enforced}},
        # It holds the data.
        opts=pulumi.ResourceOptions(parent=parent, protect=True),
    )


def _limits(parent: MlflowStack, name: str, namespace: pulumi.Output[str], args: MlflowStackArgs) -> None:
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {
        "namespace": namespace,
        "labels": pod.labels(name, "namespace", args.get("labels")),
    }
    child = pulumi.ResourceOptions(parent=parent)
    if quota := args.get("quota"):
        k8s.core.v1.ResourceQuota(name, metadata=metadata, spec={"hard": quota}, opts=child)
    if defaults := args.get("container_defaults"):
        item: k8s.core.v1.LimitRangeItemArgsDict = {
            "type": "Container",
            "default": defaults.get("limits", {}),
            "default_request": defaults.get("requests", {}),
        }
        k8s.core.v1.LimitRange(name, metadata=metadata, spec={"limits": [item]}, opts=child)
