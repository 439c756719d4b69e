"""Public address by a load balancer of the cloud, which forwards connections to the proxies."""

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ServiceSpecArgsDict

from mlflow_stack.expose.args import ExposureArgs, LoadBalancerArgs
from mlflow_stack.expose.kind import DirectKind, metadata

HTTP, HTTPS = 80, 443


class LoadBalancer(DirectKind):
    """Service of type LoadBalancer."""

    key = "load_balancer"
    fields = DirectKind.fields | {"annotations"}

    @property
    def own(self) -> LoadBalancerArgs:
        """Args of the load balancer."""
        return self.expose.get("load_balancer", {})

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        super().declare(parent, args)
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
