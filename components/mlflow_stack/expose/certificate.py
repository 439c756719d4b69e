"""Certificate of a public address, from an existing Secret or from cert-manager."""

import ipaddress
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import pod, validate
from mlflow_stack.cluster import CLUSTER_ISSUER
from mlflow_stack.expose.args import ExposureArgs, TlsArgs


def secret(name: str, tls: TlsArgs) -> pulumi.Input[str]:
    """Return the name of the Secret with the certificate."""
    return tls.get("secret", f"{name}-tls")


def judge(fields: validate.Fields) -> None:
    """Check ``tls`` of an address whose certificate the proxy serves."""
    if "tls" in fields and not fields["tls"]:
        fields.refuse("tls", "must have an issuer or a secret, because the proxy itself serves the certificate")


def request(name: str, parent: pulumi.Resource, args: ExposureArgs) -> None:
    """Declare a cert-manager Certificate for the host, if ``tls`` names an issuer."""
    tls = args["expose"].get("tls", {})
    if "issuer" not in tls:
        return
    issuer = {"group": "cert-manager.io", "kind": tls.get("issuer_kind", CLUSTER_ISSUER.name), "name": tls["issuer"]}
    spec: dict[str, Any] = {
        "secretName": secret(name, tls),
        "issuerRef": issuer,
        "privateKey": {"rotationPolicy": "Always"},
    }
    k8s.apiextensions.CustomResource(
        f"{name}-tls",
        api_version="cert-manager.io/v1",
        kind="Certificate",
        metadata={"namespace": args["namespace"], "labels": pod.labels(name, "exposure", args["labels"])},
        spec=pulumi.Output.from_input(args["expose"]["host"]).apply(lambda host: {**spec, **_subject(host)}),
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _subject(host: str) -> dict[str, list[str]]:
    return {"ipAddresses": [host]} if is_address(host) else {"dnsNames": [host]}


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
