"""Every MlflowStack of the configuration, under a provider without `enable_secret_mutable`."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import MlflowStack

provider = k8s.Provider("cluster")
for name, args in pulumi.Config().require_object("stacks").items():
    stack = MlflowStack(name, args, pulumi.ResourceOptions(providers=[provider]))
    pulumi.export(name, stack.client_env)
