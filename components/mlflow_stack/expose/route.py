"""Public address by OpenShift Routes, one per Service."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack.access import nginx
from mlflow_stack.cluster import ObjectKind
from mlflow_stack.expose.args import ExposureArgs
from mlflow_stack.expose.kind import (
    ANOTHER_KIND,
    BEHIND_CONTROLLER,
    OPENSHIFT_ROUTER,
    TIMEOUT_SECONDS,
    ExposeKind,
    backends,
    metadata,
)


class Route(ExposeKind):
    """Routes. The certificate is the router's."""

    key = "route"
    fields = BEHIND_CONTROLLER
    object = ObjectKind("Route", "routes.route.openshift.io", api="route.openshift.io/v1", remedy=ANOTHER_KIND)

    @staticmethod
    def routed(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
        return {(spec.get("host", ""), spec.get("path") or "/")}

    def secure(self) -> bool:
        return True

    def controllers(self) -> list[NetworkPolicyPeerArgsDict]:
        return [OPENSHIFT_ROUTER]

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        name, expose = self.name, self.expose
        annotations: dict[str, pulumi.Input[str]] = {
            "haproxy.router.openshift.io/timeout": f"{TIMEOUT_SECONDS}s",
            "haproxy.router.openshift.io/hsts_header": nginx.HSTS,
        }
        if "allow_from" in expose:
            # Older routers use the second name.
            for form in ("ip_allowlist", "ip_whitelist"):
                annotations[f"haproxy.router.openshift.io/{form}"] = " ".join(expose["allow_from"])
        for prefix, service in backends(args).items():
            spec = {
                "host": expose["host"],
                "to": {"kind": "Service", "name": service, "weight": 100},
                "port": {"targetPort": "public"},
                "tls": {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
                "wildcardPolicy": "None",
            }
            if prefix != "/":
                spec["path"] = prefix
            below = prefix.removeprefix(expose.get("path", "")).rstrip("/").replace("/", "-")
            k8s.apiextensions.CustomResource(
                f"{name}{below}",
                api_version="route.openshift.io/v1",
                kind="Route",
                metadata=metadata(name, args, annotations),
                spec=spec,
                opts=pulumi.ResourceOptions(parent=parent),
            )
