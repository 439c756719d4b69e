"""The public address of a server."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s

from mlflow_stack import proxy, validate, workload
from mlflow_stack.credentials import LONGEST_NAME
from mlflow_stack.proxy import Access
from mlflow_stack.workload import Ingress

KINDS = ("none", "nodeport")


class ExposeArgs(TypedDict):
    """How the server is reached from outside the cluster."""

    kind: str
    """none, or nodeport: a port of every node."""
    host: NotRequired[str]
    """The name or IPv4 address that people open, without scheme, port or path; any other is answered with 421.
    Required with nodeport."""
    node_port: NotRequired[int]
    """The port with nodeport, 30000 to 32767; never assigned by the cluster. Required with nodeport."""


@validate.rules(ExposeArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("kind", validate.one_of(*KINDS))
    fields.check("host", validate.host)
    fields.check("node_port", validate.between(30000, 32767))
    kind = fields.get("kind")
    for name in ("host", "node_port"):
        if kind == "nodeport" and name not in fields:
            fields.refuse(name, "a value, as kind is nodeport")
        if kind == "none" and name in fields:
            fields.refuse(name, "it left out, as kind is none")


def access(expose: ExposeArgs) -> Access:
    """Who comes to a proxy that is reached so."""
    public = [] if expose["kind"] == "none" else [Ingress(proxy.PUBLIC_PORT)]
    return Access([*Access().ingress, *public])


class ExposureArgs(TypedDict):
    """What is exposed."""

    namespace: pulumi.Input[str]
    """Namespace of the server."""
    selector: Mapping[str, str]
    """The labels that select its pods."""
    expose: ExposeArgs
    """How it is reached."""
    labels: NotRequired[Mapping[str, str]]
    """More labels. Default: {}."""


class Exposure(pulumi.ComponentResource):
    """The objects that lead a public address to the proxy's public port."""

    def __init__(self, name: str, args: ExposureArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.accepted("Exposure", name, ExposureArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:Exposure", name, {}, opts)
        expose = accepted["expose"]
        node_port = expose.get("node_port")
        if expose["kind"] == "nodeport" and node_port is not None:
            k8s.core.v1.Service(
                f"{name}-public",
                metadata={
                    "name": f"{name}-public",
                    "namespace": accepted["namespace"],
                    "labels": workload.labels(name, "exposure", accepted.get("labels")),
                    "annotations": {"pulumi.com/skipAwait": "true"},
                },
                spec={
                    "type": "NodePort",
                    # Keeps the client's own address, which limits are counted by.
                    "external_traffic_policy": "Local",
                    "selector": accepted["selector"],
                    "ports": [{"name": "public", "port": 80, "target_port": "public", "node_port": node_port}],
                },
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})
