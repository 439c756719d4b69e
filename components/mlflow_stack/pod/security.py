"""Security settings of pods, and the platforms that they are for."""

from collections.abc import Sequence
from typing import Literal, get_args

from pulumi_kubernetes.core.v1 import (
    PodSecurityContextArgsDict,
    SecurityContextArgsDict,
)

Platform = Literal["kubernetes", "openshift"]
PLATFORMS: Sequence[Platform] = get_args(Platform)
USER_ID = 10001
"""The UID, GID and fsGroup on plain Kubernetes: above 10000, as CKV_K8S_40 wants, so that it is no user of a node."""


def container_security() -> SecurityContextArgsDict:
    """PodSecurity ``restricted`` and OpenShift ``restricted-v2``, stated on each container."""
    return {
        "allow_privilege_escalation": False,
        "privileged": False,
        "read_only_root_filesystem": True,
        "run_as_non_root": True,
        "capabilities": {"drop": ["ALL"]},
        "seccomp_profile": {"type": "RuntimeDefault"},
    }


def pod_security(platform: Platform) -> PodSecurityContextArgsDict:
    """The pod's security context: OpenShift fills in UID, GID and fsGroup itself and refuses any fixed ones."""
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
