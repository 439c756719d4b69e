"""Steps: init containers and Jobs that run a program to completion, mostly in the MLflow image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    ResourceRequirementsArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack.pod import network
from mlflow_stack.pod.context import Context
from mlflow_stack.pod.metadata import labels, selector
from mlflow_stack.pod.parts import PodParts
from mlflow_stack.pod.security import container_security
from mlflow_stack.pod.template import pod_template, service_account
from mlflow_stack.pod.variables import env as plain_env


def step(
    name: str,
    image: pulumi.Input[str],
    command: Sequence[str],
    *,
    env: Mapping[str, pulumi.Input[str]] | Sequence[EnvVarArgsDict],
    resources: ResourceRequirementsArgsDict,
    mounts: Sequence[VolumeMountArgsDict],
    working_dir: str | None = None,
) -> ContainerArgsDict:
    """Return a hardened container that runs a program to completion. ``pulumi up`` prints its last log lines if it
    fails.

    :param env: Variables by name, or as Kubernetes spells them.
    """
    container: ContainerArgsDict = {
        "name": name,
        "image": image,
        "command": list(command),
        "args": [],
        "env": plain_env(env) if isinstance(env, Mapping) else list(env),
        "resources": resources,
        "security_context": container_security(),
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": list(mounts),
    }
    if working_dir is not None:
        container["working_dir"] = working_dir
    return container


@dataclass(frozen=True)
class JobLimits:
    """Time limits of a Job."""

    deadline_seconds: int | None = None
    """Seconds after which Kubernetes stops the Job's pod; None for no limit."""
    timeout: str | None = None
    """Time limit of ``pulumi up``; None for the provider's default."""


def job(
    name: str,
    component: str,
    context: Context,
    container: ContainerArgsDict,
    parts: PodParts,
    limits: JobLimits,
    parent: pulumi.Resource,
) -> pulumi.Resource:
    """Declare a Job with one pod and no retries, with its ServiceAccount and NetworkPolicy.

    :param component: Component label of its pod. Its objects are named ``<name>-<component>``.
    :param container: Container that runs last. ``parts`` has the init containers before it, and the connections of all.
    """
    namespace = context.namespace
    marked = labels(name, component, context.labels)
    child = pulumi.ResourceOptions(parent=parent)
    policy = network.policy(
        f"{name}-{component}",
        namespace=namespace,
        labels=marked,
        selector=selector(name, component),
        ingress=[],
        egress=parts.egress,
        opts=child,
    )
    account = service_account(f"{name}-{component}", namespace, marked, context.tracking_pod, child)
    spec: k8s.batch.v1.JobSpecArgsDict = {
        "backoff_limit": 0,
        "template": pod_template(
            context.platform,
            settings=context.tracking_pod,
            labels=marked,
            selector=selector(name, component),
            main=[container],
            parts=[parts],
            service_account=account,
            restart_policy="Never",
        ),
    }
    if limits.deadline_seconds is not None:
        spec["active_deadline_seconds"] = limits.deadline_seconds
    timeouts = pulumi.CustomTimeouts(create=limits.timeout, update=limits.timeout) if limits.timeout else None
    return k8s.batch.v1.Job(
        f"{name}-{component}",
        metadata={
            "namespace": namespace,
            "labels": marked,
            # Without it, `pulumi up` would wait for a failed Job instead of replacing it.
            "annotations": {"pulumi.com/replaceUnready": "true"},
        },
        spec=spec,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=[policy, *parts.wait_for], custom_timeouts=timeouts),
    )
