"""Public address on a port of every node."""

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import validate
from mlflow_stack.expose import certificate
from mlflow_stack.expose.args import ExposureArgs
from mlflow_stack.expose.kind import ExposeKind, metadata
from mlflow_stack.pod import network


class NodePort(ExposeKind):
    """Service of type NodePort."""

    key = "node_port"
    routes_models = False
    hides_clients = False
    serves_certificate = True
    fields = frozenset({"host", "path", "allow_from", "tls"})

    @staticmethod
    def judge(fields: validate.Fields) -> None:
        certificate.judge(fields)

    def peers(self) -> list[NetworkPolicyPeerArgsDict]:
        return network.ranges(self.expose.get("allow_from", ()))

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        certificate.request(self.name, parent, args)
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
