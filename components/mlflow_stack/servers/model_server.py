"""Model servers. Each named model has its own Deployment and proxy, and shares no pod with another model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ContainerArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.access import nginx, proxy
from mlflow_stack.access.nginx import Access
from mlflow_stack.access.proxy import AuthProxy
from mlflow_stack.addresses import Addresses
from mlflow_stack.artifacts import s3
from mlflow_stack.pod import Egress, PodArgs, PodParts, network
from mlflow_stack.pod.network import EgressArgs
from mlflow_stack.servers import model as models
from mlflow_stack.servers import model_volume
from mlflow_stack.servers.model import LONGEST_NAME, AutoscaleArgs, ModelArgs
from mlflow_stack.servers.model_volume import SCRIPTS, VOLUME

NO_TRACKING = "none://this-model-server-has-no-tracking-server"
"""Tracking URI that MLflow rejects at once. Without a tracking URI it opens a SQLite file in the working folder."""
NO_LIMIT = str(10**6)
GRACE_MARGIN_SECONDS = 10
"""Seconds for which a terminating pod may live longer than its drain, because requests still arrive for a while."""


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
    """Name of a ConfigMap made by :func:`model_volume.programs`. Default: the server creates one."""
    image: NotRequired[pulumi.Input[str]]
    """Image for models without one. Default: ghcr.io/mlflow/mlflow:v3.17.2-full."""
    proxy_image: NotRequired[pulumi.Input[str]]
    """nginx image. Default: nginxinc/nginx-unprivileged:1.29.4."""
    platform: NotRequired[pod.Platform]
    """Platform of the cluster: kubernetes or openshift. Default: kubernetes."""
    pod: NotRequired[PodArgs]
    """Pod settings, which the model's own override. Default: {}."""
    access: NotRequired[Access]
    """Access rules of the proxy. Default: those of :class:`Access`."""
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
        "pod": {},
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
        most = models.most_servers(model)
        self.uri = models.pinned(model.get("uri", ""), model.get("version"))
        if models.moves(self.uri):
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
        if "scripts" in accepted:
            scripts = accepted["scripts"]
        else:
            scripts = model_volume.programs(name, namespace, labels, child)
        volume = model_volume.parts(
            model,
            image=_image(accepted),
            scripts=scripts,
            tracking_uri=accepted["tracking_uri"],
            existing_secret=accepted.get("existing_secret"),
        )
        parts = [volume, auth_proxy.parts]

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
        settings = validate.overridden(accepted["pod"], model["pod"])
        account = pod.service_account(name, namespace, labels, settings, child)
        rollout: k8s.apps.v1.DeploymentSpecArgsDict = {
            "selector": {"match_labels": selector},
            # The old version serves until the new one is ready.
            "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 1, "max_unavailable": 0}},
            "progress_deadline_seconds": validate.seconds_of(timeout),
            "template": pod.pod_template(
                platform,
                settings=settings,
                labels=labels,
                selector=selector,
                main=[_server(self.uri, accepted, parts)],
                parts=parts,
                service_account=account,
                grace_seconds=_drain_seconds(model) + GRACE_MARGIN_SECONDS,
                replicas=most,
            ),
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
    memory = {**models.LIMITS, **model["resources"].get("limits", {})}["memory"]
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
        **models.COMMON_ENV,
    }
    return {
        "name": "model",
        "image": _image(args),
        "command": ["python", f"{SCRIPTS}/model_server.py"],
        "args": [],
        "working_dir": pod.SCRATCH,
        "env": [*pod.env(env), *pod.env_given(model["env"])],
        "resources": models.server_resources(model),
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
