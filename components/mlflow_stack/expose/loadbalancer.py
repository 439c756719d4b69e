"""Public address by a load balancer of the cloud, which forwards connections to the proxies."""

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ServiceSpecArgsDict
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import validate
from mlflow_stack.expose import certificate
from mlflow_stack.expose.args import ExposureArgs, LoadBalancerArgs
from mlflow_stack.expose.kind import ExposeKind, metadata
from mlflow_stack.pod import network

HTTP, HTTPS = 80, 443


class LoadBalancer(ExposeKind):
    """Service of type LoadBalancer."""

    key = "load_balancer"
    routes_models = False
    hides_clients = False
    serves_certificate = True
    fields = frozenset({"host", "path", "allow_from", "annotations", "tls"})

    @property
    def own(self) -> LoadBalancerArgs:
        """Args of the load balancer."""
        return self.expose.get("load_balancer", {})

    @staticmethod
    def judge(fields: validate.Fields) -> None:
        certificate.judge(fields)

    def peers(self) -> list[NetworkPolicyPeerArgsDict]:
        return network.ranges(self.expose.get("allow_from", ()))

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        certificate.request(self.name, parent, args)
        clients: Sequence[str] = self.expose.get("allow_from", ())
        spec: ServiceSpecArgsDict = {
            "type": "LoadBalancer",
            # Keeps the client's address, which the limits and the allow-list need.
            "external_traffic_policy": "Local",
            "selector": args["selector"],
            "ports": [{"name": "public", "port": HTTPS if self.secure() else HTTP, "target_port": "public"}],
        }
        if clients:
            spec["load_balancer_source_ranges"] = list(clients)
        if "class_name" in self.own:
            spec["load_balancer_class"] = self.own["class_name"]
        # The stack must not wait for the cloud's address.
        annotations = {"pulumi.com/skipAwait": "true"}
        k8s.core.v1.Service(
            f"{self.name}-public",
            metadata={**metadata(self.name, args, annotations), "name": f"{self.name}-public"},
            spec=spec,
            # Kubernetes refuses to change the class.
            opts=pulumi.ResourceOptions(
                parent=parent, replace_on_changes=["spec.loadBalancerClass"], delete_before_replace=True
            ),
        )
