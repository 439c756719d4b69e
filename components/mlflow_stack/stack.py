"""Root component of the stack, which connects the other components."""

from collections.abc import Mapping
from dataclasses import replace

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import pod, validate
from mlflow_stack.access import credentials
from mlflow_stack.access.credentials import Credentials, Users, UsersArgs
from mlflow_stack.access.nginx import ExistingUsers
from mlflow_stack.access.proxy import AuthProxy
from mlflow_stack.expose import exposure
from mlflow_stack.expose.exposure import Exposure
from mlflow_stack.pod import Context
from mlflow_stack.servers import model_volume
from mlflow_stack.servers.encryption_keys import EncryptionKeys
from mlflow_stack.servers.model_server import ModelServer
from mlflow_stack.servers.tracking import TrackingServer
from mlflow_stack.spec import MlflowStackArgs, observers, resolve


class MlflowStack(pulumi.ComponentResource):
    """Complete, authenticated MLflow: ``MlflowStack("mlflow", {})`` is enough."""

    url: pulumi.Output[str]
    """URL for users: the public address, or the Service's if there is none."""
    tracking_uri: pulumi.Output[str]
    """Value of MLFLOW_TRACKING_URI for clients."""
    username: pulumi.Output[str]
    """Name of the first user."""
    password: pulumi.Output[str]
    """Secret: the first user's password."""
    passwords: pulumi.Output[Mapping[str, str]]
    """Secret: passwords by user."""
    client_env: pulumi.Output[Mapping[str, str]]
    """Secret: environment variables of MLflow's client."""
    encryption_keys: pulumi.Output[Mapping[str, str]]
    """Secret: the keys with which MLflow encrypts secrets, by variable. A backup needs them. Empty with
    encryption_keys.existing_secret."""
    model_urls: pulumi.Output[Mapping[str, str]]
    """URLs of the models, by name. Append ``/invocations`` for predictions."""
    model_uris: pulumi.Output[Mapping[str, str]]
    """URIs of the served models, by name, with the version if it is pinned."""
    namespace: pulumi.Output[str]
    """Namespace of all objects."""

    def __init__(self, name: str, args: MlflowStackArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        spec = resolve(name, args)
        for observe in observers:
            observe(spec)
        args = spec.args
        super().__init__("mlflow-stack:index:MlflowStack", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = args["labels"]

        # Parts are attributes without an annotation, which would make them outputs in other languages.
        self.users = users = Users(name, validate.part(args, UsersArgs), child)
        if "existing_namespace" in args:
            self.namespace = pulumi.Output.from_input(args["existing_namespace"])
        else:
            created = _namespace(self, name, args.get("namespace", name), labels)
            self.namespace = pod.name_of(created)
            _limits(self, name, self.namespace, args)
        context = Context(
            self.namespace,
            args["image"],
            args["platform"],
            args["rollout_timeout"],
            labels,
            args["pod"],
            validate.overridden(args["pod"], args["tracking"]["pod"]),
        )
        addresses = exposure.addresses(name, self.namespace, spec.exposure)
        self.backend_store = store = spec.backend.build(context, child)
        self.artifact_store = artifacts = spec.artifacts.build(context, store, spec.transfers, child)
        self.credentials = secrets = Credentials(
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
            {"context": context, "keys": args["encryption_keys"], "store": store.parts},
            child,
        )
        access = exposure.access(spec.exposure, args["internal_from"])
        if "users_existing_secret" in args:
            managed = [user.name for user in users.everyone]
            existing_users = ExistingUsers(args["users_existing_secret"], managed)
            access = replace(access, existing_users=existing_users)
        self.proxy = AuthProxy(
            name,
            {
                "namespace": self.namespace,
                "addresses": addresses,
                "htpasswd": secrets.htpasswd,
                "image": args["proxy_image"],
                "max_artifact_size": spec.max_artifact_size,
                "max_request_bytes": spec.limits.request,
                "max_concurrent_uploads": spec.transfers.uploads,
                "presigned": artifacts.presigned,
                "linger": not (store.parts.exclusive or artifacts.parts.exclusive),
                "access": access,
                "labels": labels,
            },
            child,
        )
        self.tracking = TrackingServer(
            name,
            {
                "namespace": self.namespace,
                "addresses": addresses,
                "parts": [store.parts, encryption_keys.parts, artifacts.parts, secrets.parts, self.proxy.parts],
                "egress": args["egress"],
                "image": context.image,
                "platform": context.platform,
                "replicas": args["replicas"],
                "resources": args["resources"],
                "pod": context.tracking_pod,
                "artifact_locations": args["artifact_locations"],
                "rollout_timeout": context.rollout_timeout,
                "labels": labels,
            },
            child,
        )
        served = args["models"]
        group = pod.labels(name, pod.MODEL, labels)
        scripts = model_volume.programs(name, self.namespace, group, child) if served else ""
        self.models = {
            served_model["name"]: ModelServer(
                f"{name}-{served_model['name']}",
                {
                    "namespace": self.namespace,
                    "model": served_model,
                    "addresses": addresses,
                    "htpasswd": secrets.htpasswd,
                    "tracking_uri": addresses.apply(lambda names: names.internal_url),
                    "existing_secret": secrets.models,
                    "tracking_pods": self.tracking.selector,
                    "scripts": scripts,
                    "image": context.image,
                    "proxy_image": args["proxy_image"],
                    "platform": context.platform,
                    "pod": context.pod,
                    "access": access,
                    "egress": args["egress"],
                    "wait_for": [*secrets.parts.wait_for, secrets.machine],
                    "labels": labels,
                },
                child,
            )
            for served_model in served
        }
        self.exposure = Exposure(
            name,
            {
                "namespace": self.namespace,
                "service": self.tracking.service,
                "selector": self.tracking.selector,
                "expose": args["expose"],
                "backends": {f"/serving/{served}": server.service for served, server in self.models.items()},
                "max_artifact_size": spec.max_artifact_size,
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
            lambda names: {
                served_model["name"]: names.serving_url(served_model["name"], served_model.get("node_port"))
                for served_model in served
            }
        )
        self.model_uris = pulumi.Output.from_input({served: server.uri for served, server in self.models.items()})
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
        # The namespace holds the data.
        opts=pulumi.ResourceOptions(parent=parent, protect=True),
    )


def _limits(parent: MlflowStack, name: str, namespace: pulumi.Output[str], args: MlflowStackArgs) -> None:
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {
        "namespace": namespace,
        "labels": pod.labels(name, "namespace", args["labels"]),
    }
    child = pulumi.ResourceOptions(parent=parent)
    if quota := args["quota"]:
        k8s.core.v1.ResourceQuota(name, metadata=metadata, spec={"hard": quota}, opts=child)
    if defaults := args["container_defaults"]:
        item: k8s.core.v1.LimitRangeItemArgsDict = {
            "type": "Container",
            "default": defaults.get("limits", {}),
            "default_request": defaults.get("requests", {}),
        }
        k8s.core.v1.LimitRange(name, metadata=metadata, spec={"limits": [item]}, opts=child)
