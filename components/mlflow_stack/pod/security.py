"""Security settings of pods, and the supported platforms."""

from collections.abc import Sequence
from typing import Literal, get_args

from pulumi_kubernetes.core.v1 import (
    PodSecurityContextArgsDict,
    SecurityContextArgsDict,
)

from mlflow_stack import validate

Platform = Literal["kubernetes", "openshift"]
validate.enum(Platform, "Platform", "Platform of the cluster, which decides who sets the pods' UID.")
PLATFORMS: Sequence[Platform] = get_args(Platform)
DEFAULT_PLATFORM: Platform = "kubernetes"
USER_ID = 10001
"""UID, GID and fsGroup on plain Kubernetes. CKV_K8S_40 requires a UID above 10000, so that it belongs to no user of a
node."""


def container_security() -> SecurityContextArgsDict:
    """Return the security context of a container, which meets PodSecurity ``restricted`` and OpenShift
    ``restricted-v2``."""
    return {
        "allow_privilege_escalation": False,
        "privileged": False,
        "read_only_root_filesystem": True,
        "run_as_non_root": True,
        "capabilities": {"drop": ["ALL"]},
        "seccomp_profile": {"type": "RuntimeDefault"},
    }


def pod_security(platform: Platform) -> PodSecurityContextArgsDict:
    """Return the security context of a pod. OpenShift sets UID, GID and fsGroup itself and rejects fixed ones."""
    context: PodSecurityContextArgsDict = {"run_as_non_root": True, "seccomp_profile": {"type": "RuntimeDefault"}}
    if platform == "openshift":
        return context
    return {
        **context,
        "run_as_user": USER_ID,
        "run_as_group": USER_ID,
        "fs_group": USER_ID,
        "fs_group_change_policy": "OnRootMismatch",
    }
