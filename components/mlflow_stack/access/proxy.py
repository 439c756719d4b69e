"""The auth proxy: nginx in the pod of the server it guards, the only way in."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ResourceRequirementsArgsDict,
    SecretVolumeSourceArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import pod, validate
from mlflow_stack.access.credentials import HTPASSWD_KEY, LONGEST_NAME
from mlflow_stack.access.nginx import (
    AUTH,
    CERTIFICATE,
    CERTIFICATE_KEYS,
    CONFIG,
    DEFAULT_MAX_REQUEST_BYTES,
    EXISTING_USERS,
    LIVE,
    PORTS,
    PUBLIC_PORT,
    SCRATCH_MI,
    Access,
    Limits,
    nginx_conf,
)
from mlflow_stack.addresses import Addresses
from mlflow_stack.pod import PodParts

DEFAULT_IMAGE = "nginxinc/nginx-unprivileged:1.29.4"
DEFAULT_MAX_ARTIFACT_SIZE = "10Gi"
DEFAULT_MAX_CONCURRENT_UPLOADS = 2

REQUESTS = {"cpu": "20m", "memory": "32Mi"}
LIMITS = {"memory": "128Mi"}

PASSWORDS_VOLUME = "htpasswd"
USERS_VOLUME = "existing-users"
CERTIFICATE_VOLUME = "certificate"
LINGER_SECONDS = 5
"""Seconds for which a terminating pod still accepts requests, because controllers learn of it late: Traefik within two
seconds."""
QUIT = f"nginx -e stderr -c {CONFIG}/nginx.conf -s quit; while [ -e /tmp/nginx.pid ]; do sleep 0.2; done"


class AuthProxyArgs(TypedDict):
    """Guarded server, its users and the size limits of requests."""

    namespace: pulumi.Input[str]
    """Namespace of the configuration."""
    addresses: pulumi.Input[Addresses]
    """Accepted host names. Requests with any other host get 421."""
    htpasswd: pulumi.Input[str]
    """Name of the Secret with the password file, key ``htpasswd``."""
    image: NotRequired[pulumi.Input[str]]
    """The nginx image, 1.19.5 or later, with auth_request. Default: nginxinc/nginx-unprivileged:1.29.4."""
    resources: NotRequired[pod.ResourcesArgs]
    """Default: requests 20m CPU and 32Mi, limit 128Mi."""
    max_artifact_size: NotRequired[str]
    """The largest artifact, or a model server's largest request, a quantity of bytes; above it 413. Default: 10Gi."""
    max_request_bytes: NotRequired[int]
    """Bytes of the largest body of any other request; above it 413. Default: 4194304."""
    max_concurrent_uploads: NotRequired[int]
    """Artifact uploads at once, of which one user has half; one more gets 429, which MLflow's client repeats.
    Default: 2."""
    presigned: NotRequired[bool]
    """Permission for MLflow to offer clients signed addresses of its artifact store. Default: true."""
    serving: NotRequired[str]
    """Name of a model: the guarded server is that model's, which answers under ``/serving/<name>/`` of the addresses.
    Default: none, it is MLflow's tracking server."""
    answer_timeout: NotRequired[str]
    """Time limit of an answer of a served model. Default: 1h."""
    linger: NotRequired[bool]
    """Drain: a terminating pod accepts requests for 5 s more, for rollouts that start another pod first.
    Default: false."""
    access: NotRequired[Access]
    """Access rules of the ports. Default: those of :class:`Access`."""
    labels: NotRequired[Mapping[str, str]]
    """More labels. Default: {}."""


@validate.rules(
    AuthProxyArgs,
    defaults={
        "image": DEFAULT_IMAGE,
        "resources": {},
        "max_artifact_size": DEFAULT_MAX_ARTIFACT_SIZE,
        "max_request_bytes": DEFAULT_MAX_REQUEST_BYTES,
        "max_concurrent_uploads": DEFAULT_MAX_CONCURRENT_UPLOADS,
        "presigned": True,
        "answer_timeout": "1h",
        "linger": False,
        "access": Access(),
        "labels": {},
    },
)
def _rules(fields: validate.Fields) -> None:
    fields.check("image", validate.image)
    fields.check("serving", validate.dns_label)
    pod.resource_rules(fields, REQUESTS, LIMITS)
    fields.check("answer_timeout", validate.duration)
    size_rules(fields)


def size_rules(fields: validate.Fields) -> None:
    """Check the size fields. MlflowStack's args have the same two."""
    fields.check("max_artifact_size", validate.size)
    fields.check("max_concurrent_uploads", validate.between(1, 1000))


class AuthProxy(pulumi.ComponentResource):
    """nginx with basic authentication as a sidecar."""

    parts: PodParts
    """Parts for the guarded server's pod."""

    def __init__(self, name: str, args: AuthProxyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("AuthProxy", name, AuthProxyArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:AuthProxy", name, {}, opts)
        limits = Limits(
            validate.bytes_of(accepted["max_artifact_size"]),
            accepted["max_concurrent_uploads"],
            accepted["max_request_bytes"],
        )
        serving = accepted.get("serving")
        answer_seconds = validate.seconds_of(accepted["answer_timeout"])
        linger = LINGER_SECONDS if accepted["linger"] else 0
        presigned = accepted["presigned"]
        access = accepted["access"]
        config = k8s.core.v1.ConfigMap(
            f"{name}-proxy",
            metadata={
                "namespace": accepted["namespace"],
                "labels": pod.labels(name, "proxy", accepted["labels"]),
            },
            immutable=True,
            data={
                "nginx.conf": pulumi.Output.from_input(accepted["addresses"]).apply(
                    lambda addresses: nginx_conf(addresses, limits, access, serving, presigned, answer_seconds)
                ),
                "ready": "ready\n",
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        scratch, scratch_mount = pod.scratch("proxy-tmp", _scratch_size(limits, serving))
        secrets = [*_users(access), *_certificate(access)]
        self.parts = PodParts(
            containers=[
                {
                    "name": "proxy",
                    "image": accepted["image"],
                    "command": ["nginx"],
                    "args": ["-e", "stderr", "-c", f"{CONFIG}/nginx.conf", "-g", "daemon off;"],
                    "ports": [{"name": port, "container_port": number} for port, number in PORTS.items()],
                    "resources": container_resources(accepted["resources"], limits, serving),
                    "security_context": pod.container_security(),
                    "termination_message_policy": "FallbackToLogsOnError",
                    "startup_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 1,
                        "failure_threshold": 60,
                    },
                    "liveness_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 10,
                        "timeout_seconds": 5,
                    },
                    "readiness_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 5,
                        "timeout_seconds": 5,
                    },
                    # SIGTERM would cut requests off at once; quit lets them end, and it comes when this command ends.
                    "lifecycle": {
                        "pre_stop": {"exec_": {"command": ["sh", "-c", f"sleep {linger}; {QUIT}" if linger else QUIT]}}
                    },
                    "volume_mounts": [
                        {"name": "proxy", "mount_path": CONFIG, "read_only": True},
                        # A whole folder, not a subPath: only so a changed Secret reaches the container.
                        {"name": PASSWORDS_VOLUME, "mount_path": AUTH, "read_only": True},
                        *(mount for _, mount in secrets),
                        scratch_mount,
                    ],
                }
            ],
            volumes=[
                {
                    "name": "proxy",
                    "config_map": {
                        "name": pod.name_of(config),
                        "default_mode": 0o444,
                    },
                },
                {"name": PASSWORDS_VOLUME, "secret": {"secret_name": accepted["htpasswd"], "default_mode": 0o440}},
                *(volume for volume, _ in secrets),
                scratch,
            ],
            ingress=access.ingress,
            linger_seconds=linger,
        )
        self.register_outputs({})


def service(
    name: str,
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    selector: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.Service:
    """The Service of a guarded server, with the proxy's ports for clients.

    :param labels: Of the Service.
    :param selector: Of the server's pods. They are awaited by their own workload: to wait for endpoints as well costs
        4 s more, and a model without replicas has none.
    """
    return k8s.core.v1.Service(
        name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={
            "selector": selector,
            "ports": [
                {"name": "http", "port": 80, "target_port": "internal"},
                {"name": "public", "port": PUBLIC_PORT, "target_port": "public"},
            ],
        },
        opts=opts,
    )


def _scratch_size(limits: Limits, serving: str | None) -> str:
    # A model server's requests are not held.
    return f"{SCRATCH_MI if serving else limits.scratch // 2**20 + 1}Mi"


def container_resources(
    given: pod.ResourcesArgs | None, limits: Limits, serving: str | None = None
) -> ResourceRequirementsArgsDict:
    """Return the resources of the proxy's container.

    :param serving: Name of the model, if the proxy guards a model server.
    """
    return pod.resources(given, {**REQUESTS, "ephemeral-storage": _scratch_size(limits, serving)}, LIMITS)


def reserved(limits: Limits, serving: str | None = None) -> list[ResourceRequirementsArgsDict]:
    """Return the resources of each container that the proxy adds to a pod.

    :param serving: Name of the model, if the proxy guards a model server.
    """
    return [container_resources(None, limits, serving)]


def _users(access: Access) -> list[tuple[VolumeArgsDict, VolumeMountArgsDict]]:
    """Return the volume and the mount of existing users, if there are any."""
    if access.existing_users is None:
        return []
    return [_secret(USERS_VOLUME, access.existing_users.secret, [HTPASSWD_KEY], EXISTING_USERS)]


def _certificate(access: Access) -> list[tuple[VolumeArgsDict, VolumeMountArgsDict]]:
    """Return the volume and the mount of the public port's certificate, if it has one."""
    if access.certificate is None:
        return []
    return [_secret(CERTIFICATE_VOLUME, access.certificate, CERTIFICATE_KEYS, CERTIFICATE)]


def _secret(
    volume: str, secret: pulumi.Input[str], keys: Sequence[str], folder: str
) -> tuple[VolumeArgsDict, VolumeMountArgsDict]:
    """Return the volume and the mount of some keys of a Secret. A change of the Secret reaches the container."""
    source: SecretVolumeSourceArgsDict = {
        "secret_name": secret,
        "default_mode": 0o440,
        "items": [{"key": key, "path": key} for key in keys],
    }
    mount: VolumeMountArgsDict = {"name": volume, "mount_path": folder, "read_only": True}
    return {"name": volume, "secret": source}, mount
