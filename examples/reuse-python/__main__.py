"""An MLflow beside whatever else this project declares."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import MlflowStack

config = pulumi.Config()
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
mlflow = MlflowStack(
    "mlflow",
    {
        "existing_namespace": config.require("namespace"),
        "users": ["ann", "bob"],
        **(config.get_object("args") or {}),
    },
    pulumi.ResourceOptions(providers=[cluster]),
)
pulumi.export("url", mlflow.url)
pulumi.export("username", mlflow.username)
pulumi.export("password", mlflow.password)
