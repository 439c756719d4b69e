"""Pulumi program for one MLflow per stack: settings, provider, component, outputs."""

import pulumi
import pulumi_kubernetes as k8s

import settings
from mlflow_stack import MlflowStack

stack = settings.read()
provider = k8s.Provider(
    "kubernetes",
    # Password file and client Secret are updated in place, so that users change without a restart.
    enable_secret_mutable=True,
)
mlflow = MlflowStack(stack.name, stack.args, pulumi.ResourceOptions(providers=[provider]))

pulumi.export("url", mlflow.url)
pulumi.export("trackingUri", mlflow.tracking_uri)
pulumi.export("username", mlflow.username)
pulumi.export("password", mlflow.password)
pulumi.export("passwords", mlflow.passwords)
pulumi.export("clientEnv", mlflow.client_env)
pulumi.export("encryptionKeys", mlflow.encryption_keys)
pulumi.export("modelUrls", mlflow.model_urls)
pulumi.export("modelUris", mlflow.model_uris)
pulumi.export("namespace", mlflow.namespace)
