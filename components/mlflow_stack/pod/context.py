"""Deployment context that the parts of a stack share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from mlflow_stack.pod.placement import PodArgs
from mlflow_stack.pod.security import DEFAULT_PLATFORM, Platform

DEFAULT_IMAGE = "ghcr.io/mlflow/mlflow:v3.17.2-full"
"""MLflow 3.17.2 is the oldest release without a known vulnerability that matters here (CVE-2026-115886)."""
DEFAULT_ROLLOUT_TIMEOUT = "10m"


@dataclass(frozen=True)
class Context:
    """Deployment context: values that every part of one stack takes."""

    namespace: pulumi.Input[str]
    """Namespace of the objects."""
    image: pulumi.Input[str] = DEFAULT_IMAGE
    """MLflow image."""
    platform: Platform = DEFAULT_PLATFORM
    """kubernetes or openshift."""
    rollout_timeout: str = DEFAULT_ROLLOUT_TIMEOUT
    """Time limit of ``pulumi up`` for a server's rollout or a Job."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Additional labels of every object."""
    pod: PodArgs = field(default_factory=PodArgs)
    """Pod settings of the whole stack."""
    tracking_pod: PodArgs = field(default_factory=PodArgs)
    """Pod settings of the tracking server, which its Jobs share."""
