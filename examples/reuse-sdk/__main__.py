"""Component as a plugin, used through its generated SDK, as from every language of Pulumi."""

import pulumi
import pulumi_kubernetes as k8s
import pulumi_mlflow_stack as mlflow

config = pulumi.Config()
cluster = k8s.Provider("cluster", enable_secret_mutable=True)
stack = mlflow.MlflowStack(
    "mlflow",
    existing_namespace=config.require("namespace"),
    image=config.require("image"),
    proxy_image=config.require("proxyImage"),
    users=["ann"],
    max_concurrent_uploads=3,
    resources=mlflow.ResourcesArgsArgs(requests={"cpu": "100m"}),
    opts=pulumi.ResourceOptions(providers=[cluster]),
)
pulumi.export("url", stack.url)
pulumi.export("username", stack.username)
pulumi.export("password", stack.password)
