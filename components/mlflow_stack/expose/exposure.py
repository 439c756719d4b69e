"""Component of the public address, and what servers and preflight ask about it."""

from collections.abc import Sequence

import pulumi

from mlflow_stack import validate
from mlflow_stack.access import nginx
from mlflow_stack.access.nginx import Access
from mlflow_stack.addresses import Addresses
from mlflow_stack.cluster import Place
from mlflow_stack.expose import KINDS, ExposeKind, ExposureArgs
from mlflow_stack.pod import LONGEST_NAME, Ingress, network
from mlflow_stack.pod.network import PeerArgs


def takes(theirs: str, path: str) -> bool:
    """Return whether an object at the path ``theirs`` takes requests from a stack at ``path`` of the same host.

    Controllers give a request to the longest path that it is under. The root has room for other services: of what lies
    below it the stack has MLflow's own paths, and those of its models.
    """
    ours, other = (_elements(one) for one in (path, theirs))
    below = other[: len(ours)] == ours
    return below and (bool(ours) or not other or other[0] in {*nginx.ROOTS, "serving"})


def _elements(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def addresses(service: str, namespace: pulumi.Input[str], kind: ExposeKind) -> pulumi.Output[Addresses]:
    """Return the addresses that follow from ``expose``; for a model's server ``service`` is its own."""
    expose = kind.expose
    return pulumi.Output.all(namespace, expose.get("host")).apply(
        lambda names: Addresses(
            service,
            *names,
            port=expose.get("node_port"),
            scheme="https" if kind.secure() else "http",
            path=expose.get("path", ""),
        )
    )


def access(kind: ExposeKind, internal_from: Sequence[PeerArgs] = ()) -> Access:
    """Return the access rules for the proxy's two ports."""
    (own,) = Access().ingress
    internal = Ingress(own.port, [*own.peers, *(network.peer(one) for one in internal_from)])
    peers = kind.peers()
    if peers is None:
        return Access([internal])
    expose = kind.expose
    public = Ingress(nginx.PUBLIC_PORT, peers)
    return Access([internal, public], expose.get("allow_from", ()), expose.get("trusted_proxies", ()))


class Exposure(pulumi.ComponentResource):
    """The objects that lead a public address to the proxies' public ports: a request passes one proxy alone."""

    def __init__(self, name: str, args: ExposureArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("Exposure", name, ExposureArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:Exposure", name, {}, opts)
        expose = accepted["expose"]
        for key, ranges in (
            ("expose.allowFrom", expose.get("allow_from", ())),
            ("expose.controller.cidrs", expose.get("controller", {}).get("cidrs", ())),
        ):
            wide = validate.widest(ranges)
            if wide is not None:
                pulumi.log.warn(f"{key}: {wide} admits most of the internet.", self)
        KINDS[expose["kind"]](name, expose, Place(accepted["namespace"])).declare(self, accepted)
        self.register_outputs({})
