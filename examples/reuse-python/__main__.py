"""MLflow beside the other resources of this project."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import MlflowStack, MlflowStackArgs

config = pulumi.Config()
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
args: MlflowStackArgs = {"existing_namespace": config.require("namespace"), "users": ["ann", "bob"]}
args.update(config.get_object("args", {}))
mlflow = MlflowStack("mlflow", args, pulumi.ResourceOptions(providers=[cluster]))
pulumi.export("url", mlflow.url)
pulumi.export("username", mlflow.username)
pulumi.export("password", mlflow.password)
