"""Component of the public address, and the addresses and access rules that follow from ``expose``."""

from collections.abc import Sequence

import pulumi

from mlflow_stack import validate
from mlflow_stack.access import nginx
from mlflow_stack.access.nginx import Access
from mlflow_stack.addresses import Addresses
from mlflow_stack.cluster import Place
from mlflow_stack.expose import ExposeKind, ExposureArgs, chosen
from mlflow_stack.pod import LONGEST_NAME, Ingress, network
from mlflow_stack.pod.network import PeerArgs


def takes(theirs: str, path: str) -> bool:
    """Return whether an object at the path ``theirs`` receives requests for a stack at ``path`` of the same host.

    Controllers route a request to the longest matching path. Other services may have paths below a stack at the root:
    the stack uses only MLflow's own paths and those of its models.
    """
    ours, other = (_elements(url_path) for url_path in (path, theirs))
    below = other[: len(ours)] == ours
    return below and (bool(ours) or not other or other[0] in {*nginx.ROOTS, "serving"})


def _elements(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def addresses(service: str, namespace: pulumi.Input[str], kind: ExposeKind) -> pulumi.Output[Addresses]:
    """Return the addresses that follow from ``expose``. For a model server, ``service`` is the model server's own."""
    expose = kind.expose
    return pulumi.Output.all(namespace, expose.get("host")).apply(
        lambda names: Addresses(
            service,
            *names,
            port=expose.get("node_port"),
            scheme="https" if kind.secure() else "http",
            path=expose.get("path", ""),
            routes_models=kind.routes_models,
        )
    )


def access(kind: ExposeKind, internal_from: Sequence[PeerArgs] = ()) -> Access:
    """Return the access rules for the proxy's ports."""
    own, *others = Access().ingress
    internal = Ingress(own.port, [*own.peers, *(network.peer(pods) for pods in internal_from)])
    peers = kind.peers()
    if peers is None:
        return Access([internal, *others])
    expose = kind.expose
    public = Ingress(nginx.PUBLIC_PORT, peers)
    return Access(
        [internal, public, *others],
        expose.get("allow_from", ()),
        expose.get("trusted_proxies", ()),
        kind.hides_clients,
        kind.certificate(),
    )


class Exposure(pulumi.ComponentResource):
    """Objects that route a public address to the proxies' public ports. A request passes only one proxy."""

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
        chosen(expose)(name, expose, Place(accepted["namespace"])).declare(self, accepted)
        self.register_outputs({})
