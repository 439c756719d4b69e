"""MLflow on existing resources, none of which the stack takes over."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import MlflowStack

config = pulumi.Config()
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
mlflow = MlflowStack(
    "mlflow",
    {
        "existing_namespace": config.require("namespace"),
        "backend_store": {"pvc": {"existing_claim": config.require("claim")}},
        "expose": {
            "ingress": {},
            "host": config.require("host"),
            "tls": {"secret": config.require("certificate")},
        },
        **(config.get_object("args") or {}),
    },
    pulumi.ResourceOptions(providers=[cluster]),
)
pulumi.export("clientEnv", mlflow.client_env)
