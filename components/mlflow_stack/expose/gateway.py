"""Public address by an HTTPRoute of the Gateway API."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import validate
from mlflow_stack.access import nginx
from mlflow_stack.cluster import Need, ObjectKind
from mlflow_stack.expose.args import ExposureArgs
from mlflow_stack.expose.kind import (
    ANOTHER_KIND,
    BEHIND_CONTROLLER,
    TIMEOUT_SECONDS,
    ExposeKind,
    backends,
    literal,
    metadata,
)
from mlflow_stack.pod import network
from mlflow_stack.pod.metadata import NAME_LABEL

_API = "gateway.networking.k8s.io/v1"
GATEWAY = ObjectKind("Gateway", "gateways.gateway.networking.k8s.io", api=_API, remedy=ANOTHER_KIND)


class HttpRoute(ExposeKind):
    """HTTPRoute. The certificate is the Gateway's."""

    key = "gateway"
    fields = BEHIND_CONTROLLER | {"tls"}
    object = ObjectKind("HTTPRoute", "httproutes.gateway.networking.k8s.io", api=_API, remedy=ANOTHER_KIND)

    @staticmethod
    def routed(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
        matches = [match for rule in spec.get("rules", [{}]) for match in rule.get("matches", [{}])]
        paths = [literal(match.get("path", {}).get("value", "/")) for match in matches]
        return {(name, path) for name in spec.get("hostnames", []) for path in paths}

    @staticmethod
    def judge(fields: validate.Fields) -> None:
        if set(fields.get("tls", {})):
            fields.refuse("tls", "must be an empty map, because the certificate is the Gateway's")

    @property
    def gateway(self) -> tuple[pulumi.Input[str], pulumi.Input[str]]:
        """Namespace and name of the Gateway."""
        gateway = self.expose["gateway"]
        if isinstance(gateway, str):
            namespace, _, name = gateway.partition("/")
            return namespace, name
        parts = pulumi.Output.from_input(gateway).apply(lambda known: known.split("/"))
        return parts[0], parts[1]

    def needs(self) -> list[Need]:
        kind, *others = super().needs()
        if "gateway" not in self.expose:
            return [kind, *others]
        namespace, name = self.gateway
        return [kind, Need(self.place.path("gateway"), GATEWAY, name, namespace), *others]

    def controllers(self) -> list[NetworkPolicyPeerArgsDict]:
        _, gateway = self.gateway
        by_label = [
            {"gateway.networking.k8s.io/gateway-name": gateway},
            {"gateway.envoyproxy.io/owning-gateway-name": gateway},
            {NAME_LABEL: "traefik"},
        ]
        return [network.peer({"pod_selector": labels}, of_all=True) for labels in by_label]

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        namespace, gateway = self.gateway
        rules = [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
                "backendRefs": [{"kind": "Service", "name": service, "port": nginx.PUBLIC_PORT}],
                # Some gateways otherwise abort a transfer after 15 s.
                "timeouts": {"request": f"{TIMEOUT_SECONDS}s"},
            }
            for prefix, service in backends(args).items()
        ]
        k8s.apiextensions.CustomResource(
            self.name,
            api_version=_API,
            kind="HTTPRoute",
            metadata=metadata(self.name, args, {}),
            spec={
                "parentRefs": [{"kind": "Gateway", "namespace": namespace, "name": gateway}],
                "hostnames": [self.expose["host"]],
                "rules": rules,
            },
            opts=pulumi.ResourceOptions(parent=parent),
        )
