"""A real one-node Kubernetes on Linux, as root, in namespaces of its own."""

from local.cluster.node import Node
from local.cluster.programs import kubernetes

__all__ = ["Node", "kubernetes"]
