"""A real one-node Kubernetes on Linux, as root, in namespaces of its own."""

from sandbox.cluster.node import Node
from sandbox.cluster.programs import kubernetes

__all__ = ["Node", "kubernetes"]
