"""Two MLflows that share only a namespace."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import MlflowStack

config = pulumi.Config()
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
namespace = k8s.core.v1.Namespace(
    "teams",
    metadata={
        "name": config.require("namespace"),
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    },
    # It holds the data of both.
    opts=pulumi.ResourceOptions(provider=cluster, protect=True),
)
for team in ("red", "blue"):
    mlflow = MlflowStack(
        team,
        {"existing_namespace": namespace.metadata["name"], "users": [team], **(config.get_object("args") or {})},
        pulumi.ResourceOptions(providers=[cluster]),
    )
    pulumi.export(team, mlflow.client_env)
