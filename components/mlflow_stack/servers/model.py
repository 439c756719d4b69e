"""Models to serve: args, rules, and the needs and reservations of their servers."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args
from urllib.parse import urlsplit

import pulumi
from pulumi_kubernetes.core.v1 import ResourceRequirementsArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.access import nginx, proxy
from mlflow_stack.artifacts import s3
from mlflow_stack.cluster import SECRET, Need, Place, Reservation
from mlflow_stack.pod import EnvVarArgs, PodArgs

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
OWN_VARIABLES = (
    *("MODEL_URI", "VOLUME", "PORT", "MAX_REQUEST_BYTES", "REQUEST_SECONDS", "PREDICTIONS", "MEMORY_BYTES"),
    "DRAIN_SECONDS",
    *("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PYTHONPATH"),
    *COMMON_ENV,
)
"""Variables that the server's container sets itself."""
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
    pod: NotRequired[PodArgs]
    """Pod settings of the servers, which override those of the stack. Default: {}."""
    size: NotRequired[str]
    """Disk space on the node for the model and its libraries, a quantity of bytes. Default: 2Gi."""
    max_request_size: NotRequired[str]
    """Largest request, a quantity of bytes, before and after decompression. A larger request gets 413, and so does one
    that needs more than the server's memory. Default: 20Mi."""
    request_timeout: NotRequired[str]
    """Time limit of one prediction, queueing included; then 504. Default: 60s."""
    max_concurrent_predictions: NotRequired[int]
    """Concurrent predictions in one server. Four times as many may wait; further ones get 429. Default: 8."""
    env: NotRequired[Sequence[EnvVarArgs]]
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
        "pod": {},
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

    uri, rejected = fields.get("uri", ""), "uri" in fields.stated and "uri" not in fields
    if "uri" not in fields.stated:
        for name in ("replicas", "autoscale", "version"):
            if fields.get(name):
                fields.forbid(name, "uri is not set")
    elif not rejected and "version" in fields and model_uri(uri) is None and not moves(uri):
        fields.forbid("version", "uri is neither an alias nor latest")
    fields.refuse_together("replicas", "autoscale", f"Set autoscale.{fields.spell('min_replicas')} instead.")
    if "index_url" in fields and fields.resolved("environment") != "install":
        fields.forbid("index_url", "environment is not install")
    if not rejected and not uri.startswith("s3://"):
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
    return [*keys, *pod.env_needs(model["env"], place), *pod.needs(model["pod"], place.under("pod"))]


def server_resources(model: ModelArgs) -> ResourceRequirementsArgsDict:
    """Return the resources of the container with the model."""
    return pod.resources(model["resources"], SERVER_REQUESTS, LIMITS)


def step_resources(size: str) -> ResourceRequirementsArgsDict:
    """Return the resources of a container that fills a volume of this size."""
    # The request covers the whole volume, so that other pods cannot use its space on the node's disk.
    requests, limits = STEP_RESOURCES
    return pod.resources(None, {**requests, "ephemeral-storage": size}, limits)


def most_servers(model: ModelArgs) -> int:
    """Return the largest number of a model's servers."""
    if "autoscale" in model:
        return model["autoscale"]["max_replicas"]
    return model.get("replicas", 1 if "uri" in model else 0)


def _proxy_limits(model: ModelArgs) -> nginx.Limits:
    return nginx.Limits(validate.bytes_of(model["max_request_size"]), 0)


def reservations(model: ModelArgs, place: Place) -> list[Reservation]:
    """Return the reservation of a pod of the model's servers; nothing if there are no servers."""
    if not most_servers(model):
        return []
    containers = [
        server_resources(model),
        *proxy.reserved(_proxy_limits(model), model["name"]),
    ]
    steps = [step_resources(model["size"])]
    keys = {"ephemeral-storage": place.path("size")}
    what = f"the server of model {model['name']}"
    at = place.under("pod")
    return [place.reservation(what, containers, steps, model["resources"], keys, model["pod"], at)]


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
