"""Base class of the kinds of public address: accepted fields, declared objects and the pods that may connect."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import kinds, pod, validate
from mlflow_stack.access.nginx import CERTIFICATE_KEYS
from mlflow_stack.cluster import CLUSTER_ISSUER, ISSUER, SECRET, Need, ObjectKind
from mlflow_stack.expose import certificate
from mlflow_stack.expose.args import ExposeArgs, ExposureArgs
from mlflow_stack.pod import network

TIMEOUT_SECONDS = 3600
"""Time limit of a transfer in seconds, as in the proxy."""

OPENSHIFT_ROUTER: NetworkPolicyPeerArgsDict = {
    "namespace_selector": {"match_labels": {"policy-group.network.openshift.io/ingress": ""}},
    # Explicitly empty, so that routers in the node's network match as well.
    "pod_selector": {},
}
ANOTHER_KIND = "take another kind"
"""Remedy if a cluster does not serve the API of a kind."""

BEHIND_CONTROLLER = frozenset({"host", "path", "controller", "allow_from", "trusted_proxies", "annotations"})
"""Fields of every kind that uses a controller, router or gateway."""


class ExposeKind(kinds.Kind):
    """Kind of public address."""

    key: ClassVar[str]
    """Field of ``ExposeArgs`` that selects the kind."""
    fields: ClassVar[frozenset[str]] = frozenset()
    """Accepted fields of all kinds, ``host`` among them."""
    routes_models: ClassVar[bool] = True
    """True if the public address leads to the model servers by path; else each has a port of its own, if one is set."""
    hides_clients: ClassVar[bool] = True
    """True if requests come from a controller's address, which names the client in X-Forwarded-For."""
    object: ClassVar[ObjectKind | None] = None
    """Kind of the object that routes a host and a path to a Service, if a controller serves it."""

    @staticmethod
    def routed(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
        """Return the hosts and paths whose requests an object of this kind receives.

        :param spec: Field ``spec`` of the object.
        """
        return set()

    @property
    def expose(self) -> ExposeArgs:
        """Args of the public address."""
        return cast(ExposeArgs, self.args)

    @staticmethod
    def judge(fields: validate.Fields) -> None:
        """Check the rules of this kind only."""

    def secure(self) -> bool:
        """Return whether the public address is https."""
        return "tls" in self.args

    def certificate(self) -> pulumi.Input[str] | None:
        """Return the name of the Secret with the certificate that the proxy serves, or None if it serves none."""
        return None

    def needs(self) -> Sequence[Need]:
        found = [] if self.object is None else [Need(self.place.path(self.key), self.object, None)]
        tls, place = self.expose.get("tls", {}), self.place.under("tls")
        issuer = ISSUER if tls.get("issuer_kind") == "Issuer" else CLUSTER_ISSUER
        return [
            *found,
            *place.need(issuer, tls, "issuer"),
            *place.need(SECRET, tls, "secret", keys=CERTIFICATE_KEYS, why="the certificate"),
        ]

    def peers(self) -> list[NetworkPolicyPeerArgsDict] | None:
        """Return the peers that may connect to the public port: an empty list for all, None if there is no public
        port."""
        controller = self.expose.get("controller")
        if controller is None:
            return self.controllers()
        selected = controller.get("namespace_selector") or controller.get("pod_selector")
        ranges = network.ranges(controller.get("cidrs", ()))
        return [*([network.peer(controller, of_all=True)] if selected else []), *ranges]

    def controllers(self) -> list[NetworkPolicyPeerArgsDict]:
        """Return the pods of common controllers, by their charts' labels."""
        return []

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        """Declare the objects."""


class DirectKind(ExposeKind):
    """Kind of public address whose clients connect to the proxy itself, which serves the certificate of ``tls``."""

    routes_models = False
    hides_clients = False
    fields = frozenset({"host", "path", "allow_from", "tls"})

    @staticmethod
    def judge(fields: validate.Fields) -> None:
        certificate.judge(fields)

    def certificate(self) -> pulumi.Input[str] | None:
        return certificate.secret(self.name, self.expose["tls"]) if "tls" in self.args else None

    def peers(self) -> list[NetworkPolicyPeerArgsDict]:
        return network.ranges(self.expose.get("allow_from", ()))

    def declare(self, parent: pulumi.Resource, args: ExposureArgs) -> None:
        certificate.request(self.name, parent, args)


def literal(path: str) -> str:
    """Return the part of a path before the first regular expression."""
    return re.split(r"\.?[][(){}*+?|^$\\]", path, maxsplit=1)[0]


def backends(args: ExposureArgs) -> dict[str, pulumi.Input[str]]:
    """Return the Services by path prefix, the tracking server's first."""
    path = args["expose"].get("path", "")
    models = {f"{path}{prefix}": service for prefix, service in args["backends"].items()}
    return {path or "/": args["service"], **models}


def metadata(
    name: str, args: ExposureArgs, annotations: Mapping[str, pulumi.Input[str]]
) -> k8s.meta.v1.ObjectMetaArgsDict:
    """Return the metadata of an object. The user's annotations override the given ones."""
    made: k8s.meta.v1.ObjectMetaArgsDict = {
        "namespace": args["namespace"],
        "labels": pod.labels(name, "exposure", args["labels"]),
    }
    everything = {**annotations, **args["expose"].get("annotations", {})}
    if everything:
        made["annotations"] = everything
    return made
