"""One-node Kubernetes cluster on Linux, run as root in its own namespaces."""

from sandbox.cluster.node import Node
from sandbox.cluster.programs import kubernetes

__all__ = ["Node", "kubernetes"]
