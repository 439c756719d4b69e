"""Public address on a port of every node."""

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack.expose.args import ExposureArgs
from mlflow_stack.expose.kind import DirectKind, metadata


class NodePort(DirectKind):
    """Service of type NodePort."""

    key = "node_port"

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        super().declare(parent, args)
        k8s.core.v1.Service(
            f"{self.name}-public",
            metadata={**metadata(self.name, args, {"pulumi.com/skipAwait": "true"}), "name": f"{self.name}-public"},
            spec={
                "type": "NodePort",
                # Keeps the client's address, which the limits and the allow-list need.
                "external_traffic_policy": "Local",
                "selector": args["selector"],
                "ports": [
                    {
                        "name": "public",
                        "port": 80,
                        "target_port": "public",
                        "node_port": self.expose["node_port"],
                    }
                ],
            },
            opts=pulumi.ResourceOptions(parent=parent),
        )
