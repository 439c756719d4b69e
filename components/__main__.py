"""Hosts the components for other Pulumi languages: `pulumi package add`."""

from mlflow_stack import __version__, plugin

if __name__ == "__main__":
    plugin.serve(__version__)
