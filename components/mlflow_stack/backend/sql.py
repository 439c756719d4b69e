"""Database addresses and password Secrets of the SQL backend stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack.pod import Egress

DEFAULT_NAME = "mlflow"
"""Default name of the database and of its user."""
PASSWORD_KEY = "password"  # noqa: S105 - a key's name
"""Key of the Secret that holds the user's password."""


@dataclass(frozen=True)
class Database:
    """Address of a database, and the credentials for it."""

    host: pulumi.Input[str]
    port: pulumi.Input[int]
    name: pulumi.Input[str]
    user: pulumi.Input[str]
    secret: pulumi.Input[str]
    """Name of the Secret with the password."""
    egress: Egress
    wait_for: Sequence[pulumi.Resource] = ()


def secret(
    parent: pulumi.Resource,
    name: str,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    data: Mapping[str, pulumi.Input[str]],
) -> k8s.core.v1.Secret:
    """Declare an immutable Secret without a fixed name, so that changed content rolls out the pods that use it."""
    return k8s.core.v1.Secret(
        name,
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        string_data=data,
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["stringData"]),
    )
