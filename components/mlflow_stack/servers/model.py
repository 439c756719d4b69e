"""Model servers. Each named model has its own Deployment and proxy, and shares no pod with another model."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    ResourceRequirementsArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import pod, validate
from mlflow_stack.access import nginx, proxy
from mlflow_stack.access.nginx import Access
from mlflow_stack.access.proxy import AuthProxy
from mlflow_stack.addresses import Addresses
from mlflow_stack.artifacts import s3
from mlflow_stack.cluster import SECRET, Need, Place, Reservation
from mlflow_stack.pod import Egress, PodParts, network
from mlflow_stack.pod.network import EgressArgs

VOLUME = "/model"
"""Mount path of the model's volume."""
SCRIPTS = "/opt/mlflow-stack"
REGISTRY = "/etc/mlflow-stack-registry"
"""Mount path of the registry's user and password in the fetch container."""

PROGRAMS = ("model_volume.py", "fetch_model.py", "install_libraries.py", "prediction_size.py", "model_server.py")

SCRATCH_SIZE = "256Mi"
SERVER_REQUESTS = {"cpu": "100m", "memory": "384Mi", "ephemeral-storage": SCRATCH_SIZE}
LIMITS = {"memory": "1Gi"}
"""A server of a small scikit-learn model has 260 MB resident. Users must set larger limits for larger models."""
SMALLEST_LIMIT = pod.Floor("256Mi", "a server of a small scikit-learn model holds 260 MB")
STEP_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": pod.STEP_CPU, "memory": "256Mi"},
    {"memory": "1Gi"},
)

USER = "model"
COMMON_ENV = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HOME": pod.SCRATCH,
    # The image's /etc/passwd has no entry for the UID.
    "USER": USER,
    "LOGNAME": USER,
}
NO_TRACKING = "none://this-model-server-has-no-tracking-server"
"""Tracking URI that MLflow rejects at once. Without a tracking URI it opens a SQLite file in the working folder."""
NO_LIMIT = str(10**6)
OWN_VARIABLES = (
    *("MODEL_URI", "VOLUME", "PORT", "MAX_REQUEST_BYTES", "REQUEST_SECONDS", "PREDICTIONS", "MEMORY_BYTES"),
    "DRAIN_SECONDS",
    *("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PYTHONPATH"),
    *COMMON_ENV,
)
"""Variables that the server's container sets itself."""

GRACE_MARGIN_SECONDS = 10
"""Seconds for which a terminating pod may live longer than its drain, because requests still arrive for a while."""
Environment = Literal["image", "install"]
validate.enum(Environment, "ModelEnvironment", "Source of a model's libraries.")

LONGEST_NAME = 63
"""Longest name of the server and its Service."""
LONGEST_MODEL = LONGEST_NAME - pod.LONGEST_NAME - 1
"""Longest name of a model: the characters left after the stack's name and a dash."""
TAKEN = ("public", "database")
"""Reserved model names: with them the model's Service would have the name of another Service of the stack."""

_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_REFERENCE = re.compile(rf"(?P<model>models:/{_PART})(?:/(?P<version>[1-9][0-9]*)|/latest|@[A-Za-z0-9_-]+)", re.ASCII)
_PLACE = re.compile(rf"models:/m-[0-9a-f]{{32}}|runs:/[0-9a-f]{{32}}(/{_PART})+|s3://[a-z0-9.-]{{3,63}}(/{_PART})*/?")


def model_uri(value: str) -> str | None:
    """Check a model's URI. Only plain characters are accepted, because the registry's client interprets some others."""
    if _REFERENCE.fullmatch(value) or _PLACE.fullmatch(value):
        return None
    return (
        "must be models:/<name>/<version>, models:/<name>@<alias>, models:/<name>/latest, models:/m-<id>, "
        "runs:/<run id>/<path> or s3://<bucket>/<path>, of letters, digits, '.', '_' and '-'"
    )


def moves(uri: str) -> bool:
    """Return whether the URI may lead to another version later: an alias, or ``latest``."""
    match = _REFERENCE.fullmatch(uri)
    return match is not None and match["version"] is None


def pinned(uri: str, version: int | None) -> str:
    """Return the URI pinned to a version, if one is known."""
    match = _REFERENCE.fullmatch(uri)
    return uri if match is None or version is None else f"{match['model']}/{version}"


class AutoscaleArgs(TypedDict):
    """Autoscaling of the servers of a model by their CPU utilization."""

    min_replicas: NotRequired[int]
    """Smallest number of servers. Default: 1."""
    max_replicas: int
    """Largest number of servers."""
    cpu_percent: NotRequired[int]
    """Target utilization of the requested CPU, in percent. Default: 80."""


@validate.rules(AutoscaleArgs, defaults={"min_replicas": 1, "cpu_percent": 80})
def _autoscale_rules(fields: validate.Fields) -> None:
    fields.check("min_replicas", validate.between(1, 1000))
    fields.check("max_replicas", validate.between(1, 1000))
    fields.check("cpu_percent", validate.between(1, 1000))
    least, most = fields.resolved("min_replicas"), fields.get("max_replicas")
    if most is not None and least > most:
        fields.refuse("max_replicas", f"must be at least {fields.spell('min_replicas')}, which is {least}")


class ModelArgs(TypedDict):
    """Model to serve."""

    name: str
    """Name of the model in URLs and object names: an RFC 1123 label of at most 22 characters."""
    uri: NotRequired[str]
    """URI of the model: models:/<name>/<version>, models:/<name>@<alias>, models:/<name>/latest, models:/m-<id>,
    runs:/<run id>/<path> or s3://<bucket>/<path>. Default: none, then there are no servers yet."""
    version: NotRequired[int]
    """Version to which an alias or ``latest`` is pinned, as written by ``make pin``. Default: none; then each pod looks
    it up when it starts, with a warning."""
    environment: NotRequired[Environment]
    """Source of the model's libraries. image: they are in the image. install: missing ones are installed before the
    server starts. Default: image."""
    index_url: NotRequired[pulumi.Input[str]]
    """Package index for environment install, without user or password. Default: PyPI."""
    image: NotRequired[pulumi.Input[str]]
    """Image with MLflow 3.17.2 or later and the model's libraries. Default: the tracking server's."""
    replicas: NotRequired[int]
    """Number of servers. Default: 1, without a uri 0."""
    autoscale: NotRequired[AutoscaleArgs]
    """Autoscaling, instead of replicas. Default: none."""
    resources: NotRequired[pod.ResourcesArgs]
    """CPU and memory of the server. Default: requests 100m CPU and 384Mi, limit 1Gi memory."""
    size: NotRequired[str]
    """Disk space on the node for the model and its libraries, a quantity of bytes. Default: 2Gi."""
    max_request_size: NotRequired[str]
    """Largest request, a quantity of bytes, before and after decompression. A larger request gets 413, and so does one
    that needs more than the server's memory. Default: 20Mi."""
    request_timeout: NotRequired[str]
    """Time limit of one prediction, queueing included; then 504. Default: 60s."""
    max_concurrent_predictions: NotRequired[int]
    """Concurrent predictions in one server. Four times as many may wait; further ones get 429. Default: 8."""
    env: NotRequired[Sequence[pod.EnvVarArgs]]
    """Variables of the server's container, as Kubernetes spells them. The model's code can read them. Default: []."""
    load_timeout: NotRequired[str]
    """Time limit of loading the model. After it the server is restarted. Default: 3m."""
    rollout_timeout: NotRequired[str]
    """Time limit of ``pulumi up`` for the servers' rollout: fetching, installing and loading. Default: 10m."""
    node_port: NotRequired[int]
    """Port of every node, 30000 to 32767, if the stack has ``expose.node_port``. Default: none, reachable in the
    cluster."""
    s3_existing_secret: NotRequired[pulumi.Input[str]]
    """For s3://: name of an existing Secret with an AWS shared credentials file under the key ``credentials``.
    Default: none."""
    s3_endpoint_url: NotRequired[pulumi.Input[str]]
    """For s3://: URL of the S3 server. Default: AWS."""
    s3_region: NotRequired[pulumi.Input[str]]
    """For s3://: region of the bucket. Default: us-east-1."""


_ONE_SERVER = (
    "not supported, because a name leads to one model. Give each version a name of its own under models, "
    "and let the client choose."
)
_NO_CONDA = "For a conda environment, set image to an image that contains it."


@validate.rules(
    ModelArgs,
    defaults={
        "environment": "image",
        "resources": {},
        "size": "2Gi",
        "max_request_size": "20Mi",
        "request_timeout": "60s",
        "max_concurrent_predictions": 8,
        "env": [],
        "load_timeout": "3m",
        "rollout_timeout": pod.DEFAULT_ROLLOUT_TIMEOUT,
        "s3_region": s3.DEFAULT_REGION,
    },
    not_offered=dict.fromkeys(("weight", "weights", "canary", "traffic"), _ONE_SERVER),
)
def _model_rules(fields: validate.Fields) -> None:
    fields.check("name", lambda value: validate.dns_label(value, LONGEST_MODEL))
    if fields.get("name") in TAKEN:
        fields.refuse("name", "must not be the name of another Service of the stack")
    fields.check("uri", model_uri)
    fields.check("version", validate.between(1, 2**31))
    fields.check("environment", validate.one_of(*get_args(Environment)), _NO_CONDA)
    fields.check("index_url", _index)
    fields.check("image", validate.image)
    fields.check("replicas", validate.between(0, 1000))
    for name in ("size", "max_request_size"):
        fields.check(name, validate.size)
    for name in ("request_timeout", "load_timeout", "rollout_timeout"):
        fields.check(name, validate.duration)
    pod.resource_rules(fields, SERVER_REQUESTS, LIMITS, {"memory": SMALLEST_LIMIT})
    fields.check("max_concurrent_predictions", validate.between(1, 1000))
    pod.env_rules(fields, OWN_VARIABLES)
    fields.check("node_port", validate.between(30000, 32767))
    fields.check("s3_existing_secret", validate.subdomain)
    fields.check("s3_endpoint_url", validate.endpoint)
    fields.check("s3_region", validate.region)

    uri = fields.get("uri", "")
    if "uri" not in fields:
        for name in ("replicas", "autoscale", "version"):
            if fields.get(name):
                fields.forbid(name, "uri is not set")
    elif "version" in fields and model_uri(uri) is None and not moves(uri):
        fields.forbid("version", "uri is neither an alias nor latest")
    fields.refuse_together("replicas", "autoscale", f"Set autoscale.{fields.spell('min_replicas')} instead.")
    if "index_url" in fields and fields.resolved("environment") != "install":
        fields.forbid("index_url", "environment is not install")
    if not uri.startswith("s3://"):
        for name in ("s3_existing_secret", "s3_endpoint_url", "s3_region"):
            if name in fields:
                fields.forbid(name, "uri does not start with s3://")


def _index(value: str) -> str | None:
    parts = urlsplit(value)
    if re.fullmatch(r"https?://[A-Za-z0-9.:/_~-]+", value, re.ASCII) and parts.hostname:
        return None
    return "must be the URL of a package index without user or password, such as https://pypi.org/simple/"


def needs(model: ModelArgs, place: Place) -> list[Need]:
    """Return the existing objects that a model's servers require."""
    keys = place.need(SECRET, model, "s3_existing_secret", keys=[s3.KEYS_FILE], why="an AWS shared credentials file")
    return [*keys, *pod.env_needs(model["env"], place)]


def _server_resources(model: ModelArgs) -> ResourceRequirementsArgsDict:
    return pod.resources(model["resources"], SERVER_REQUESTS, LIMITS)


def _step_resources(size: str) -> ResourceRequirementsArgsDict:
    # The request covers the whole volume, so that other pods cannot use its space on the node's disk.
    requests, limits = STEP_RESOURCES
    return pod.resources(None, {**requests, "ephemeral-storage": size}, limits)


def _servers(model: ModelArgs) -> int:
    """Return the largest number of a model's servers."""
    if "autoscale" in model:
        return model["autoscale"]["max_replicas"]
    return model.get("replicas", 1 if "uri" in model else 0)


def _proxy_limits(model: ModelArgs) -> nginx.Limits:
    return nginx.Limits(validate.bytes_of(model["max_request_size"]), 0)


def reservations(model: ModelArgs, place: Place) -> list[Reservation]:
    """Return the reservation of a pod of the model's servers; nothing if there are no servers."""
    if not _servers(model):
        return []
    containers = [
        _server_resources(model),
        proxy.container_resources(None, _proxy_limits(model), model["name"]),
    ]
    steps = [_step_resources(model["size"])]
    keys = {"ephemeral-storage": place.path("size")}
    what = f"the server of model {model['name']}"
    return [place.reservation(what, containers, steps, model["resources"], keys)]


def models_rules(fields: validate.Fields) -> None:
    """Check the rules across the models of one stack and its ``expose``. MlflowStack's args have both."""
    models = fields.each("models")
    names = [model["name"] for model in models if "name" in model]
    for name in sorted({name for name in names if names.count(name) > 1}):
        fields.refuse_item("models", name, "must not have a name twice")
    expose: Mapping[str, object] = fields.get("expose", {})
    ports = [model["node_port"] for model in models if "node_port" in model]
    for model in models:
        if "node_port" not in model:
            continue
        if "node_port" not in expose:
            model.forbid("node_port", f"expose.{fields.spell('node_port')} is not set")
        elif [*ports, expose.get("node_port")].count(model["node_port"]) > 1:
            model.refuse("node_port", "must be used once in the stack")


class ModelServerArgs(TypedDict):
    """Model to serve, its registry and its access rules."""

    namespace: pulumi.Input[str]
    """Namespace of the servers."""
    model: ModelArgs
    """Model to serve."""
    addresses: pulumi.Input[Addresses]
    """Addresses of the MLflow that the model belongs to. ``service`` is its Service, which is the component's name
    without ``-`` and the model's name."""
    htpasswd: pulumi.Input[str]
    """Name of the Secret with the password file, key ``htpasswd``."""
    tracking_uri: pulumi.Input[str]
    """URI of the registry for ``models:/`` and ``runs:/``."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of the Secret with the registry's user: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
    MLFLOW_TRACKING_TOKEN. Default: none, the registry needs no password."""
    tracking_pods: NotRequired[Mapping[str, str]]
    """Labels of the registry's pods, if they are in the same namespace. Default: the registry is anywhere."""
    scripts: NotRequired[pulumi.Input[str]]
    """Name of a ConfigMap made by :func:`programs`. Default: the server creates one."""
    image: NotRequired[pulumi.Input[str]]
    """Image for models without one. Default: ghcr.io/mlflow/mlflow:v3.17.2-full."""
    proxy_image: NotRequired[pulumi.Input[str]]
    """nginx image. Default: nginxinc/nginx-unprivileged:1.29.4."""
    platform: NotRequired[pod.Platform]
    """Platform of the cluster: kubernetes or openshift. Default: kubernetes."""
    access: NotRequired[Access]
    """Access rules of the proxy. Default: the pods of the same namespace, to the internal port."""
    egress: NotRequired[Sequence[EgressArgs]]
    """Addresses, by port, that are the only ones the pods may connect to. Default: [], everywhere but link-local
    addresses."""
    wait_for: NotRequired[Sequence[pulumi.Resource]]
    """Resources that must exist before the pods are created, such as the Secrets. Default: nothing."""
    labels: NotRequired[Mapping[str, str]]
    """Additional labels. Default: {}."""


@validate.rules(
    ModelServerArgs,
    defaults={
        "image": pod.DEFAULT_IMAGE,
        "proxy_image": proxy.DEFAULT_IMAGE,
        "platform": pod.DEFAULT_PLATFORM,
        "access": Access(),
        "egress": [],
        "wait_for": [],
        "labels": {},
    },
)
def _server_rules(fields: validate.Fields) -> None:
    fields.check("existing_secret", validate.subdomain)
    fields.check("image", validate.image)
    fields.check("platform", validate.one_of(*pod.PLATFORMS))
    pod.label_rules(fields)


class ModelServer(pulumi.ComponentResource):
    """Servers of one model: MLflow's scoring app behind the auth proxy. An init container fetches the model, and only
    it has the registry's password."""

    service: pulumi.Output[str]
    """Name of the Service. Port 80 leads to the proxy's internal port, ``public`` to its public one."""
    uri: str
    """URI of the served model, pinned to its version if one is known."""
    workload: k8s.apps.v1.Deployment
    """Workload with the pods."""

    def __init__(self, name: str, args: ModelServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("ModelServer", name, ModelServerArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:ModelServer", name, {}, opts)
        model = accepted["model"]
        namespace = accepted["namespace"]
        platform = accepted["platform"]
        child = pulumi.ResourceOptions(parent=self)
        instance = name.removesuffix(f"-{model['name']}")
        selector = {**pod.selector(instance, pod.MODEL), pod.MODEL_LABEL: model["name"]}
        labels = {**pod.labels(instance, pod.MODEL, accepted["labels"]), **selector}
        timeout = model["rollout_timeout"]
        scaled = model.get("autoscale")
        most = _servers(model)
        self.uri = pinned(model.get("uri", ""), model.get("version"))
        if moves(self.uri):
            pulumi.log.warn(
                f"models.{model['name']}.uri: {self.uri} is not pinned, so that each pod asks the registry when it "
                "starts. `make pin` writes the version beside it.",
                self,
            )

        node_port = model.get("node_port")
        auth_proxy = AuthProxy(
            name,
            {
                "namespace": namespace,
                "addresses": pulumi.Output.from_input(accepted["addresses"]).apply(
                    lambda names: dataclasses.replace(names, service=name, port=node_port)
                ),
                "htpasswd": accepted["htpasswd"],
                "image": accepted["proxy_image"],
                "max_artifact_size": model["max_request_size"],
                "serving": model["name"],
                "answer_timeout": model["request_timeout"],
                "linger": True,
                "access": accepted["access"],
                "labels": labels,
            },
            child,
        )
        parts = [_volumes(self, name, accepted, labels), auth_proxy.parts]

        service = proxy.service(name, namespace=namespace, labels=labels, selector=selector, opts=child)
        if node_port is not None:
            k8s.core.v1.Service(
                f"{name}-nodes",
                metadata={
                    "namespace": namespace,
                    "labels": labels,
                    "annotations": {"pulumi.com/skipAwait": "true"},
                },
                spec={
                    "type": "NodePort",
                    "external_traffic_policy": "Local",
                    "selector": selector,
                    "ports": [{"name": "public", "port": 80, "target_port": "public", "node_port": node_port}],
                },
                opts=child,
            )
        network.policy(
            name,
            namespace=namespace,
            labels=labels,
            selector=selector,
            ingress=[connection for part in parts for connection in part.ingress],
            egress=network.opened(_egress(accepted), accepted["egress"]),
            opts=child,
        )
        account = pod.service_account(name, namespace, labels, child)
        spec = pod.spec(platform, [_server(self.uri, accepted, parts)], parts, account)
        rollout: k8s.apps.v1.DeploymentSpecArgsDict = {
            "selector": {"match_labels": selector},
            # The old version serves until the new one is ready.
            "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 1, "max_unavailable": 0}},
            "progress_deadline_seconds": validate.seconds_of(timeout),
            "template": {
                "metadata": {"labels": labels, "annotations": pod.annotations(platform, parts)},
                "spec": {
                    **spec,
                    "topology_spread_constraints": pod.spread(selector) if most > 1 else [],
                    "termination_grace_period_seconds": _drain_seconds(model) + GRACE_MARGIN_SECONDS,
                },
            },
        }
        if scaled is None:
            # With an autoscaler, the next `up` would reset its number of replicas.
            rollout["replicas"] = most
        self.workload = k8s.apps.v1.Deployment(
            name,
            metadata={"namespace": namespace, "labels": labels},
            spec=rollout,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=accepted["wait_for"],
                custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
            ),
        )
        if most > 1:
            metadata: k8s.meta.v1.ObjectMetaArgsDict = {"namespace": namespace, "labels": labels}
            pod.disruption_budget(name, metadata=metadata, selector=selector, opts=child)
        if scaled is not None:
            _autoscaler(name, namespace, labels, self.workload, scaled, child)
        self.service = pod.name_of(service)
        self.register_outputs({"service": self.service, "uri": self.uri})


def programs(
    name: str, namespace: pulumi.Input[str], labels: Mapping[str, str], opts: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Declare the ConfigMap with the programs of a model's containers, and return its name. Several models can share
    it."""
    made = k8s.core.v1.ConfigMap(
        f"{name}-programs",
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        data={program: pod.program(program) for program in PROGRAMS},
        opts=opts,
    )
    return pod.name_of(made)


def _image(args: ModelServerArgs) -> pulumi.Input[str]:
    return args["model"].get("image", args["image"])


def _request_seconds(model: ModelArgs) -> int:
    return validate.seconds_of(model["request_timeout"])


def _drain_seconds(model: ModelArgs) -> int:
    return nginx.drain_seconds(_request_seconds(model))


def _server(uri: str, args: ModelServerArgs, parts: Sequence[PodParts]) -> ContainerArgsDict:
    """Return the container that runs the model's code. Its only credentials are those in the model's ``env``, and it
    writes only to its ``/tmp``."""
    model = args["model"]
    load = validate.seconds_of(model["load_timeout"])
    memory = {**LIMITS, **model["resources"].get("limits", {})}["memory"]
    env = {
        "MODEL_URI": uri,
        "VOLUME": VOLUME,
        "PORT": str(nginx.UPSTREAM_PORT),
        "MAX_REQUEST_BYTES": str(validate.bytes_of(model["max_request_size"])),
        "REQUEST_SECONDS": str(_request_seconds(model)),
        "DRAIN_SECONDS": str(_drain_seconds(model)),
        "PREDICTIONS": str(model["max_concurrent_predictions"]),
        "MEMORY_BYTES": str(validate.bytes_of(memory)),
        # The wrapper enforces the limit. The app would stop waiting, but the thread would continue unnoticed.
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": NO_LIMIT,
        "MLFLOW_TRACKING_URI": NO_TRACKING,
        "PYTHONPATH": f"{VOLUME}/libraries",
        **COMMON_ENV,
    }
    return {
        "name": "model",
        "image": _image(args),
        "command": ["python", f"{SCRIPTS}/model_server.py"],
        "args": [],
        "working_dir": pod.SCRATCH,
        "env": [*pod.env(env), *pod.env_given(model["env"])],
        "resources": _server_resources(model),
        "security_context": pod.container_security(),
        # `pulumi up` prints these log lines of a server that does not start.
        "termination_message_policy": "FallbackToLogsOnError",
        "startup_probe": {**_probe(nginx.HEALTHY, 1), "failure_threshold": load},
        # A prediction in Python may block the interpreter for a while without being stuck.
        "liveness_probe": {**_probe(nginx.HEALTHY, 10), "timeout_seconds": 10, "failure_threshold": 6},
        "readiness_probe": {**_probe(nginx.READY, 5), "failure_threshold": 2},
        "lifecycle": pod.drained(parts),
        "volume_mounts": [
            {"name": "model", "mount_path": VOLUME, "read_only": True},
            {"name": "programs", "mount_path": SCRIPTS, "read_only": True},
            {"name": "tmp", "mount_path": pod.SCRATCH},
        ],
    }


def _probe(path: str, period: int) -> k8s.core.v1.ProbeArgsDict:
    return {"http_get": {"path": path, "port": nginx.INTERNAL_PORT}, "period_seconds": period, "timeout_seconds": 5}


def _volumes(parent: ModelServer, name: str, args: ModelServerArgs, labels: Mapping[str, str]) -> PodParts:
    """Return the model's volume and the steps that fill it."""
    model = args["model"]
    child = pulumi.ResourceOptions(parent=parent)
    scripts = args["scripts"] if "scripts" in args else programs(name, args["namespace"], labels, child)
    size = model["size"]
    scratch, _ = pod.scratch("tmp", SCRATCH_SIZE)
    step_scratch, step_scratch_mount = pod.scratch("step-tmp", SCRATCH_SIZE)
    volumes: list[VolumeArgsDict] = [
        {"name": "model", "empty_dir": {"size_limit": size}},
        {"name": "programs", "config_map": {"name": scripts, "default_mode": 0o444}},
        scratch,
        step_scratch,
    ]
    mounts: list[VolumeMountArgsDict] = [
        {"name": "model", "mount_path": VOLUME},
        {"name": "programs", "mount_path": SCRIPTS, "read_only": True},
        step_scratch_mount,
    ]

    def step(
        name: str, program: str, env: list[EnvVarArgsDict], more: Sequence[VolumeMountArgsDict]
    ) -> ContainerArgsDict:
        return {
            "name": name,
            "image": _image(args),
            "command": ["python", f"{SCRIPTS}/{program}"],
            "args": [],
            "working_dir": pod.SCRATCH,
            "env": [*pod.env({"VOLUME": VOLUME, **COMMON_ENV}), *env],
            "resources": _step_resources(size),
            "security_context": pod.container_security(),
            "termination_message_policy": "FallbackToLogsOnError",
            "volume_mounts": [*mounts, *more],
        }

    secrets: list[VolumeMountArgsDict] = []
    fetch: dict[str, pulumi.Input[str]] = {
        "MODEL_URI": pinned(model.get("uri", ""), model.get("version")),
        "VOLUME_BYTES": str(validate.bytes_of(size)),
        "MLFLOW_TRACKING_URI": args["tracking_uri"],
        "CREDENTIALS": REGISTRY,
        # The step itself retries and logs the reason.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        # Downloads must pass through the tracking server, because the pod cannot connect to a bucket behind it.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    if "existing_secret" in args:
        registry = args["existing_secret"]
        volumes.append({"name": "registry", "secret": {"secret_name": registry, "default_mode": 0o440}})
        secrets.append({"name": "registry", "mount_path": REGISTRY, "read_only": True})
    if model.get("uri", "").startswith("s3://"):
        fetch |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": model["s3_region"]}
        if "s3_endpoint_url" in model:
            fetch["MLFLOW_S3_ENDPOINT_URL"] = model["s3_endpoint_url"]
        if "s3_existing_secret" in model:
            keys = model["s3_existing_secret"]
            volumes.append({"name": "s3-keys", "secret": {"secret_name": keys, "default_mode": 0o440}})
            secrets.append({"name": "s3-keys", "mount_path": s3.KEYS, "read_only": True})
            fetch["AWS_SHARED_CREDENTIALS_FILE"] = f"{s3.KEYS}/{s3.KEYS_FILE}"
    steps = [step("fetch", "fetch_model.py", pod.env(fetch), secrets)]
    if model["environment"] == "install":
        index = {"INDEX_URL": model["index_url"]} if "index_url" in model else {}
        steps.append(step("install", "install_libraries.py", pod.env(index), []))
    return PodParts(init_containers=steps, volumes=volumes)


def _egress(args: ModelServerArgs) -> list[Egress]:
    """Return the pod's connections: to the registry or the bucket, and to the package index of libraries."""
    model = args["model"]
    found: list[Egress] = []
    if model.get("uri", "").startswith("s3://"):
        found.append(network.to_url(model.get("s3_endpoint_url", s3.AWS)))
    elif "tracking_pods" in args:
        found.append(Egress(nginx.INTERNAL_PORT, pods=args["tracking_pods"]))
    else:
        found.append(network.to_url(args["tracking_uri"]))
    if model["environment"] == "install":
        found.append(network.to_url(model.get("index_url", "https://pypi.org")))
    return found


def _autoscaler(
    name: str,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    deployment: k8s.apps.v1.Deployment,
    scaled: AutoscaleArgs,
    opts: pulumi.ResourceOptions,
) -> None:
    k8s.autoscaling.v2.HorizontalPodAutoscaler(
        name,
        metadata={"namespace": namespace, "labels": labels, "annotations": {"pulumi.com/skipAwait": "true"}},
        spec={
            "scale_target_ref": {
                "api_version": "apps/v1",
                "kind": "Deployment",
                "name": pod.name_of(deployment),
            },
            "min_replicas": scaled["min_replicas"],
            "max_replicas": scaled["max_replicas"],
            "metrics": [
                {
                    "type": "ContainerResource",
                    # Not the proxy's CPU: more servers would not reduce it.
                    "container_resource": {
                        "name": "cpu",
                        "container": "model",
                        "target": {
                            "type": "Utilization",
                            "average_utilization": scaled["cpu_percent"],
                        },
                    },
                }
            ],
        },
        opts=opts,
    )
