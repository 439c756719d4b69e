"""Tracking server: MLflow on loopback in its own pod, with the parts of stores and proxy, behind one Service."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ResourceRequirementsArgsDict

from mlflow_stack import identity, pod, validate
from mlflow_stack.access import nginx, proxy
from mlflow_stack.addresses import Addresses
from mlflow_stack.pod import LONGEST_NAME, PodArgs, PodParts, network
from mlflow_stack.pod.claims import ARTIFACTS_VOLUME, DATA
from mlflow_stack.pod.network import EgressArgs
from mlflow_stack.programs import locations

PROGRAMS = "/opt/mlflow-stack-tracking"
"""Mount path of the server's start program and of MLflow's plugin."""

DEFAULT_REPLICAS = 1
REQUESTS = {"cpu": "250m", "memory": "512Mi"}
LIMITS = {"memory": "1Gi"}
"""Measured with one worker and without jobs: 487 MB resident when idle, 526 MB under load, and 60 to 90 MB for
transfers."""

SERVER_BYTES = 640 * 2**20
"""Memory of the server without the bodies of API requests, from the measurements above."""
BODY_COST = 96
"""Memory that MLflow needs for each byte of an API body, at worst. Measured: 73 for JSON of many small items, 81 for
OTLP of empty spans, 90 for a long search filter."""
SMALLEST_BODY_LIMIT = 2**20
"""MLflow's client sends batches of up to 1,000,000 bytes."""
SMALLEST_LIMIT = f"{(SERVER_BYTES + BODY_COST * SMALLEST_BODY_LIMIT) // 2**20}Mi"
"""Smallest memory limit with which a request of the smallest body limit does not kill the server."""
LARGEST_BODY_LIMIT = 32 * 2**20
"""Largest body limit. Beyond it more memory serves more concurrent requests. A larger body would block the interpreter
for minutes."""

SCRIPTS = (
    "tracking_server.py",
    "tracking_app.py",
    "claim_lock.py",
    "locations.py",
    "request_bodies.py",
    "searches.py",
    "wsgi_bridge.py",
)

SCRATCH_BYTES = 512 * 2**20
"""Bytes of MLflow's ``/tmp`` for uploads from the UI, 10 MB each. The artifact store's bytes are added."""

GRACE_SECONDS = 60
STUCK_GRACE_SECONDS = 5
"""Grace period if the liveness probe ends a server that does not respond."""


class TrackingArgs(TypedDict):
    """Settings of the tracking server only."""

    pod: NotRequired[PodArgs]
    """Pod settings of the tracking server and of its Jobs, which override those of the stack. Default: {}."""


@validate.rules(TrackingArgs, defaults={"pod": {}})
def _tracking_rules(_fields: validate.Fields) -> None:
    """Accept every value of the right shape."""


class TrackingServerArgs(TypedDict):
    """Tracking server to declare."""

    namespace: pulumi.Input[str]
    """Namespace of the server."""
    addresses: pulumi.Input[Addresses]
    """Addresses of the server. MLflow answers 403 to requests with any other Host."""
    parts: Sequence[PodParts]
    """Parts of stores and proxy: env with a backend store URI and an artifact destination, a proxy."""
    egress: NotRequired[Sequence[EgressArgs]]
    """Addresses outside the cluster that it may connect to. Default: none but what the parts open."""
    image: NotRequired[pulumi.Input[str]]
    """MLflow image, 3.17.2 or later, with its database drivers. Default: ghcr.io/mlflow/mlflow:v3.17.2-full."""
    platform: NotRequired[pod.Platform]
    """Platform of the cluster: kubernetes or openshift. Default: kubernetes."""
    replicas: NotRequired[int]
    """Number of pods; one, if a part allows no more. Default: 1."""
    artifact_locations: NotRequired[Sequence[str]]
    """Artifact locations that the server may use in addition to its own artifact store. Default: []."""
    resources: NotRequired[pod.ResourcesArgs]
    """CPU, memory and disk space of the server. Default: requests 250m CPU, 512Mi memory and what ``/tmp`` may hold as
    ephemeral storage, limit 1Gi memory."""
    pod: NotRequired[PodArgs]
    """Pod settings. Default: {}."""
    rollout_timeout: NotRequired[str]
    """Time limit of ``pulumi up`` for the server's rollout, schema step included, such as 10m. Default: 10m."""
    labels: NotRequired[Mapping[str, str]]
    """Additional labels. Default: {}."""


@validate.rules(
    TrackingServerArgs,
    defaults={
        "egress": [],
        "image": pod.DEFAULT_IMAGE,
        "platform": pod.DEFAULT_PLATFORM,
        "replicas": DEFAULT_REPLICAS,
        "artifact_locations": [],
        "resources": {},
        "pod": {},
        "rollout_timeout": pod.DEFAULT_ROLLOUT_TIMEOUT,
        "labels": {},
    },
)
def _rules(fields: validate.Fields) -> None:
    server_rules(fields)
    fields.check("replicas", validate.between(1, 100))
    parts: Sequence[PodParts] = fields.get("parts", ())
    resource_rules(fields, sum(part.scratch_bytes for part in parts))
    if fields.resolved("replicas") > 1 and any(part.exclusive for part in parts):
        fields.refuse("replicas", "must be 1, because one of the parts supports only one pod")


def server_rules(fields: validate.Fields) -> None:
    """Check the fields of the tracking server, which MlflowStack's args have as well."""
    fields.check("image", validate.image)
    fields.check("platform", validate.one_of(*pod.PLATFORMS))
    fields.check("rollout_timeout", validate.duration)
    pod.label_rules(fields)
    fields.check_each("artifact_locations", artifact_location)


def resource_rules(fields: validate.Fields, passing_bytes: int) -> None:
    """Check the server's resources.

    :param passing_bytes: Most bytes that pass through ``/tmp`` at once, in addition to the server's own.
    """
    scratch = str(SCRATCH_BYTES + passing_bytes)
    floors = {
        "memory": pod.Floor(SMALLEST_LIMIT, "MLflow holds 487 MB when idle, and requests need the rest"),
        "ephemeral-storage": pod.Floor(scratch, "the server's /tmp can hold that many bytes"),
    }
    pod.resource_rules(fields, {**REQUESTS, "ephemeral-storage": scratch}, LIMITS, floors)


def container_resources(given: pod.ResourcesArgs | None, scratch_bytes: int) -> ResourceRequirementsArgsDict:
    """Return the resources of the server's container.

    :param scratch_bytes: Most bytes in its ``/tmp``.
    """
    return pod.resources(given, {**REQUESTS, "ephemeral-storage": str(scratch_bytes)}, LIMITS)


def artifact_location(value: str) -> str | None:
    """Check the root of artifact locations that a server may use."""
    wrong = "must be a URI such as s3://bucket/prefix, or a folder's path such as file:///mlflow/mlruns"
    try:
        location = locations.parse(value)
    except locations.MalformedError as error:
        return f"{wrong}; this one {error}"
    if location.scheme in locations.REFERENCES or not (location.authority or location.segments):
        return wrong
    if location.scheme == "file":
        claims = [locations.parse(claim) for claim in (DATA, ARTIFACTS_VOLUME)]
        absolute = value.removeprefix("file:").startswith("/")
        if not absolute or not any(location.is_within(claim) and location != claim for claim in claims):
            return f"{wrong}; a path must be below {DATA} or {ARTIFACTS_VOLUME}, where claims are mounted"
    return None


def programs(*more: str) -> dict[str, str]:
    """Return the server's start program, the programs that its parts add, and MLflow's plugin, by path."""
    return {
        **pod.programs(*SCRIPTS, *more),
        **pod.plugin("mlflow-stack-tracking", "mlflow.app", "mlflow-stack = tracking_app:create_app"),
    }


def max_body_bytes(resources: pod.ResourcesArgs | None) -> int:
    """Return the size limit of an API request's body, which follows from the server's memory limit.

    The bodies of all concurrent requests together may have this size.
    """
    limits = {**LIMITS, **(resources or {}).get("limits", {})}
    spare = validate.bytes_of(limits["memory"]) - SERVER_BYTES
    return min(max(spare // BODY_COST, SMALLEST_BODY_LIMIT), LARGEST_BODY_LIMIT)


class TrackingServer(pulumi.ComponentResource):
    """Tracking server of MLflow with one worker. Clients reach it only through the proxy among its parts."""

    service: pulumi.Output[str]
    """Name of the Service. Port 80 leads to the proxy's internal port."""
    selector: Mapping[str, str]
    """Labels that select the pod."""
    workload: k8s.apps.v1.StatefulSet | k8s.apps.v1.Deployment
    """Workload with the pods."""

    def __init__(self, name: str, args: TrackingServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("TrackingServer", name, TrackingServerArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:TrackingServer", name, {}, opts)
        namespace = accepted["namespace"]
        platform = accepted["platform"]
        timeout = accepted["rollout_timeout"]
        replicas = accepted["replicas"]
        labels = pod.labels(name, pod.TRACKING, accepted["labels"])
        self.selector = pod.selector(name, pod.TRACKING)
        addresses = pulumi.Output.from_input(accepted["addresses"])
        scratch_bytes = SCRATCH_BYTES + sum(part.scratch_bytes for part in accepted["parts"])
        scratch, scratch_mount = pod.scratch("tmp", str(scratch_bytes))
        programs_volume = pod.text_volume(
            f"{name}-tracking",
            "tracking",
            programs(*(program for part in accepted["parts"] for program in part.programs)),
            namespace=namespace,
            labels=labels,
            opts=pulumi.ResourceOptions(parent=self),
        )
        parts = [
            *accepted["parts"],
            PodParts(
                volumes=[scratch, programs_volume],
                mounts=[{"name": "tracking", "mount_path": PROGRAMS, "read_only": True}],
                python_path=[PROGRAMS],
            ),
        ]

        account = pod.service_account(name, namespace, labels, accepted["pod"], pulumi.ResourceOptions(parent=self))
        service = proxy.service(
            name, namespace=namespace, labels=labels, selector=self.selector, opts=pulumi.ResourceOptions(parent=self)
        )
        network.policy(
            name,
            namespace=namespace,
            labels=labels,
            selector=self.selector,
            ingress=[connection for part in parts for connection in part.ingress],
            egress=network.opened([connection for part in parts for connection in part.egress], accepted["egress"]),
            opts=pulumi.ResourceOptions(parent=self),
        )
        exclusive = any(part.exclusive for part in parts)
        body_limit = max_body_bytes(accepted["resources"])
        container: k8s.core.v1.ContainerArgsDict = {
            "name": "mlflow",
            "image": accepted["image"],
            "command": ["python", f"{PROGRAMS}/tracking_server.py"],
            "args": [],
            "env": [
                {"name": "PYTHONPATH", "value": ":".join(folder for part in parts for folder in part.python_path)},
                {"name": "SCRATCH_FOLDER", "value": pod.SCRATCH},
                {"name": "MAX_BODY_BYTES", "value": str(body_limit)},
                {"name": "MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE", "value": str(body_limit)},
                # One location per line, because locations may contain commas.
                {"name": "ARTIFACT_LOCATIONS", "value": "\n".join(accepted["artifact_locations"])},
                {"name": "MLFLOW_HOST", "value": "127.0.0.1"},
                {"name": "MLFLOW_PORT", "value": str(nginx.UPSTREAM_PORT)},
                # More workers need more memory and add no throughput on the same cores; more replicas do.
                {"name": "MLFLOW_WORKERS", "value": "1"},
                {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"},
                # The proxy logs every request, and probes would fill this log.
                {"name": "MLFLOW_UVICORN_OPTS", "value": "--no-access-log"},
                {
                    "name": "MLFLOW_SERVER_ALLOWED_HOSTS",
                    "value": addresses.apply(lambda names: ",".join(names.allowed_hosts)),
                },
                {
                    "name": "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
                    "value": addresses.apply(lambda names: ",".join(names.origins)),
                },
                # An empty value disables the prefix.
                {"name": "MLFLOW_STATIC_PREFIX", "value": addresses.apply(lambda names: names.path)},
                {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
                # With an empty value MLflow uses its package's list of models instead of one from GitHub.
                {"name": "MLFLOW_MODEL_CATALOG_URI", "value": ""},
                {"name": "HOME", "value": pod.SCRATCH},
                {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
                # The C library returns the memory of large requests, instead of keeping some for each thread.
                {"name": "MALLOC_ARENA_MAX", "value": "2"},
                {"name": "MALLOC_TRIM_THRESHOLD_", "value": str(128 * 2**10)},
                *(variable for part in parts for variable in part.env),
            ],
            "resources": container_resources(accepted["resources"], scratch_bytes),
            "security_context": pod.container_security(),
            "termination_message_policy": "FallbackToLogsOnError",
            # Probes go through the proxy, because MLflow listens on loopback only.
            "startup_probe": _probe(nginx.HEALTHY, period=1, failures=180),
            # A server that has not responded for a minute has nothing to drain.
            "liveness_probe": {
                **_probe(nginx.HEALTHY, period=10, failures=6),
                "termination_grace_period_seconds": STUCK_GRACE_SECONDS,
            },
            "readiness_probe": _probe(nginx.READY, period=5, failures=2),
            "lifecycle": pod.drained(parts),
            "volume_mounts": [*(mount for part in parts for mount in part.mounts), scratch_mount],
        }
        template = pod.pod_template(
            platform,
            settings=accepted["pod"],
            labels=labels,
            selector=self.selector,
            main=[container],
            parts=parts,
            service_account=account,
            grace_seconds=GRACE_SECONDS,
            replicas=replicas,
        )
        steps = [resource for part in parts for resource in part.wait_for]
        identities = {purpose: value for part in parts for purpose, value in part.identity.items()}
        handover = identity.handover(name, identities, steps, self)
        after = pulumi.ResourceOptions(
            parent=self,
            depends_on=[*steps, handover],
            replace_with=[handover],
            # A replacement created first would be a second writer.
            delete_before_replace=True,
            custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
        )
        metadata: k8s.meta.v1.ObjectMetaArgsDict = {"namespace": namespace, "labels": labels}
        if exclusive:
            self.workload = _single(name, metadata, self.selector, template, service, after)
        else:
            self.workload = _replicated(name, metadata, self.selector, template, replicas, after)
        self.service = pod.name_of(service)
        self.register_outputs({"service": self.service})


def _single(
    name: str,
    metadata: k8s.meta.v1.ObjectMetaArgsDict,
    selector: Mapping[str, str],
    template: k8s.core.v1.PodTemplateSpecArgsDict,
    service: k8s.core.v1.Service,
    opts: pulumi.ResourceOptions,
) -> k8s.apps.v1.StatefulSet:
    """Declare a single pod that starts only after its predecessor is gone, even after an eviction: SQLite has one
    writer."""
    return k8s.apps.v1.StatefulSet(
        name,
        metadata=metadata,
        spec={
            "replicas": 1,
            "service_name": pod.name_of(service),
            # OrderedReady would wait for a broken pod to become ready before it applies a fixed template.
            "pod_management_policy": "Parallel",
            "selector": {"match_labels": selector},
            "template": template,
        },
        opts=opts,
    )


def _replicated(
    name: str,
    metadata: k8s.meta.v1.ObjectMetaArgsDict,
    selector: Mapping[str, str],
    template: k8s.core.v1.PodTemplateSpecArgsDict,
    replicas: int,
    opts: pulumi.ResourceOptions,
) -> k8s.apps.v1.Deployment:
    """Declare replicated pods, each of which is replaced only while another one is ready."""
    if replicas > 1:
        child = pulumi.ResourceOptions(parent=opts.parent)
        pod.disruption_budget(name, metadata=metadata, selector=selector, opts=child)
    return k8s.apps.v1.Deployment(
        name,
        metadata=metadata,
        spec={
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 1, "max_unavailable": 0}},
            "selector": {"match_labels": selector},
            "template": template,
        },
        opts=opts,
    )


def _probe(path: str, *, period: int, failures: int) -> k8s.core.v1.ProbeArgsDict:
    return {
        "http_get": {"path": path, "port": nginx.INTERNAL_PORT},
        "period_seconds": period,
        "timeout_seconds": 5,
        "failure_threshold": failures,
    }
