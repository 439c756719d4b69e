"""Public address by an Ingress."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import validate
from mlflow_stack.cluster import INGRESS_CLASS, Need, ObjectKind
from mlflow_stack.expose import certificate
from mlflow_stack.expose.args import ExposureArgs, IngressArgs, TlsArgs
from mlflow_stack.expose.kind import (
    BEHIND_CONTROLLER,
    OPENSHIFT_ROUTER,
    TIMEOUT_SECONDS,
    ExposeKind,
    backends,
    literal,
    metadata,
)
from mlflow_stack.pod.metadata import NAME_LABEL

CONTROLLERS = (
    "ingress-nginx",
    "rke2-ingress-nginx",
    "nginx-ingress",
    "traefik",
    "haproxy-ingress",
    "kubernetes-ingress",
    "contour",
    "kong",
)
"""Values of the label ``app.kubernetes.io/name`` on the pods of common Ingress controllers, as their charts set it."""


class Ingress(ExposeKind):
    """Ingress with a controller."""

    key = "ingress"
    fields = BEHIND_CONTROLLER | {"tls"}
    object = ObjectKind("Ingress", "ingresses.networking.k8s.io")

    @staticmethod
    def routed(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
        return {
            (rule.get("host", ""), literal(path.get("path") or "/"))
            for rule in spec.get("rules", [])
            # Without paths, the default backend receives every request for the host.
            for path in rule.get("http", {}).get("paths", [{}])
        }

    @property
    def own(self) -> IngressArgs:
        """Args of the Ingress."""
        return self.expose.get("ingress", {})

    def needs(self) -> list[Need]:
        kind, *others = super().needs()
        return [kind, *self.place.under(self.key).need(INGRESS_CLASS, self.own, "class_name"), *others]

    def controllers(self) -> list[NetworkPolicyPeerArgsDict]:
        named: NetworkPolicyPeerArgsDict = {
            "namespace_selector": {},
            "pod_selector": {"match_expressions": [{"key": NAME_LABEL, "operator": "In", "values": list(CONTROLLERS)}]},
        }
        return [named, OPENSHIFT_ROUTER]

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        name, expose = self.name, self.expose
        host = expose["host"]
        tls = expose.get("tls")
        paths: list[k8s.networking.v1.HTTPIngressPathArgsDict] = [
            {
                "path": prefix,
                "path_type": "Prefix",
                "backend": {"service": {"name": service, "port": {"name": "public"}}},
            }
            for prefix, service in backends(args).items()
        ]
        spec: k8s.networking.v1.IngressSpecArgsDict = {"rules": [{"host": host, "http": {"paths": paths}}]}
        if "class_name" in self.own:
            spec["ingress_class_name"] = self.own["class_name"]
        if tls is not None:
            entry: k8s.networking.v1.IngressTLSArgsDict = {"hosts": [host]}
            if "issuer" in tls or "secret" in tls:
                entry["secret_name"] = certificate.secret(name, tls)
            spec["tls"] = [entry]
        k8s.networking.v1.Ingress(
            name,
            metadata=metadata(name, args, _annotations(args, tls)),
            spec=spec,
            opts=pulumi.ResourceOptions(parent=parent),
        )


def _annotations(args: ExposureArgs, tls: TlsArgs | None) -> dict[str, pulumi.Input[str]]:
    """Return annotations that let controllers pass large artifacts: no buffering, and no limit below the proxy's."""
    size = str(validate.bytes_of(args["max_artifact_size"]))
    annotations: dict[str, pulumi.Input[str]] = {
        # The stack must not wait for the address of a load balancer.
        "pulumi.com/skipAwait": "true",
        "nginx.ingress.kubernetes.io/proxy-body-size": size,
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-request-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": str(TIMEOUT_SECONDS),
        "nginx.ingress.kubernetes.io/proxy-send-timeout": str(TIMEOUT_SECONDS),
        "nginx.org/client-max-body-size": size,
        "nginx.org/proxy-buffering": "false",
        "nginx.org/proxy-read-timeout": f"{TIMEOUT_SECONDS}s",
        "nginx.org/proxy-send-timeout": f"{TIMEOUT_SECONDS}s",
    }
    if tls is not None:
        # Traefik reads certificates from the Ingress, but enables https only with this annotation.
        annotations["traefik.ingress.kubernetes.io/router.tls"] = "true"
        if "issuer" in tls:
            kind = "issuer" if tls.get("issuer_kind") == "Issuer" else "cluster-issuer"
            annotations[f"cert-manager.io/{kind}"] = tls["issuer"]
    return annotations
