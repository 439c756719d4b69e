"""Hosts the components for other Pulumi languages: `pulumi package add`."""

from pulumi.provider.experimental import component_provider_host

from mlflow_stack import MlflowStack, __version__

if __name__ == "__main__":
    component_provider_host(components=[MlflowStack], name="mlflow-stack", version=__version__)
