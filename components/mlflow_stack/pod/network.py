"""Default-deny NetworkPolicies: one for each kind of pod, with the connections that it accepts and opens."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict, cast
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.meta.v1 import LabelSelectorArgsDict
from pulumi_kubernetes.networking.v1 import (
    NetworkPolicyEgressRuleArgsDict,
    NetworkPolicyIngressRuleArgsDict,
    NetworkPolicyPeerArgsDict,
    NetworkPolicyPortArgsDict,
)

from mlflow_stack import validate
from mlflow_stack.pod.parts import Egress, Ingress

DNS_PORTS = (53, 5353)
"""Ports of DNS. OpenShift's DNS pods listen on the second: OpenShift checks a packet after it has replaced the
Service's address."""

ANYWHERE = ("0.0.0.0/0", "::/0")
LINK_LOCAL = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
"""Link-local addresses, where clouds give any pod the node's own credentials. The last one is AWS's address for
IPv6."""


class PeerArgs(TypedDict):
    """Pods that may connect to the stack's Services."""

    namespace_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of the pods' namespace. Default: the stack's own namespace."""
    pod_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of the pods. Default: all pods."""


class EgressArgs(TypedDict):
    """Addresses outside the cluster that the stack's pods may connect to."""

    cidr: str
    """Address range, such as 192.0.2.0/24. It must not be link-local, except for port 53 of a name server."""
    port: int
    """TCP port."""


@validate.rules(PeerArgs)
def _peer_rules(fields: validate.Fields) -> None:
    selector_rules(fields)
    rejected = fields.stated.difference(fields)
    if not rejected and not any(fields.values()):
        because = f"{fields.spell('pod_selector')} is not set"
        fields.require("namespace_selector", because, "Pods of the stack's own namespace need no entry.")


@validate.rules(EgressArgs)
def _egress_rules(fields: validate.Fields) -> None:
    fields.check("port", validate.between(1, 65535))
    fields.check("cidr", validate.cidr)
    cidr = fields.get("cidr", "")
    if validate.cidr(cidr) is None and fields.get("port") != DNS_PORTS[0] and _is_link_local(cidr):
        fields.refuse("cidr", "must not be link-local, because clouds serve the node's credentials there")


def selector_rules(fields: validate.Fields) -> None:
    """Check the namespace selector and the pod selector."""
    for name in ("namespace_selector", "pod_selector"):
        fields.check_keys(name, validate.label_key)
        fields.check_each(name, validate.label_value)


def peer(given: Mapping[str, object], *, of_all: bool = False) -> NetworkPolicyPeerArgsDict:
    """Return the pods that match two selectors. Without a namespace selector, these are pods of the same namespace, or
    of all namespaces with ``of_all``."""
    namespaces, pods = (given.get(name) for name in ("namespace_selector", "pod_selector"))
    selected: NetworkPolicyPeerArgsDict = {"pod_selector": _selector(pods)}
    if namespaces or of_all:
        selected["namespace_selector"] = _selector(namespaces)
    return selected


def ranges(cidrs: Iterable[str]) -> list[NetworkPolicyPeerArgsDict]:
    """Return the peers of address ranges."""
    return [{"ip_block": {"cidr": cidr}} for cidr in cidrs]


def to_url(url: pulumi.Input[str]) -> Egress:
    """Return a connection to the port of an http or https URL."""
    if isinstance(url, str):
        return Egress(_port(url))
    return Egress(pulumi.Output.from_input(url).apply(_port))


def _port(url: str) -> int:
    address = urlsplit(url)
    return address.port or (443 if address.scheme == "https" else 80)


def narrowed(connections: Iterable[Egress], given: Sequence[EgressArgs]) -> list[Egress]:
    """Return the connections. Those without known addresses, such as those to a host name, are limited to the ranges
    that ``given`` states for their port, if any."""
    return [
        replace(connection, cidrs=_of_port(given, connection.port) or connection.cidrs)
        if not connection.pods and not connection.cidrs
        else connection
        for connection in connections
    ]


def opened(connections: Sequence[Egress], given: Sequence[EgressArgs]) -> list[Egress]:
    """Return the narrowed connections, and those to other ports in ``given``."""
    # A port that is not known yet may be one of these as well. Then two rules allow the same.
    known = {
        connection.port
        for connection in connections
        if isinstance(connection.port, int) and not connection.pods and not connection.cidrs
    }
    others = [port for port in dict.fromkeys(address["port"] for address in given) if port not in known]
    return [*narrowed(connections, given), *(Egress(port, cidrs=_of_port(given, port)) for port in others)]


def _of_port(given: Sequence[EgressArgs], port: pulumi.Input[int]) -> pulumi.Input[Sequence[str]]:
    """Return the stated ranges of a port."""
    if isinstance(port, int):
        return [address["cidr"] for address in given if address["port"] == port]
    return pulumi.Output.from_input(port).apply(lambda known: _of_port(given, known))


def policy(
    name: str,
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    selector: Mapping[str, str],
    ingress: Sequence[Ingress],
    egress: Sequence[Egress],
    opts: pulumi.ResourceOptions,
) -> k8s.networking.v1.NetworkPolicy:
    """Declare the policy of the pods that ``selector`` selects. It allows these connections and DNS, and no others."""
    return k8s.networking.v1.NetworkPolicy(
        name,
        metadata={"namespace": namespace, "labels": labels},
        spec={
            "pod_selector": {"match_labels": selector},
            "policy_types": ["Ingress", "Egress"],
            "ingress": [_answered(connection) for connection in ingress],
            "egress": [_dns(), *(_opened(connection) for connection in egress)],
        },
        opts=opts,
    )


def _answered(connection: Ingress) -> NetworkPolicyIngressRuleArgsDict:
    ports: list[NetworkPolicyPortArgsDict] = [{"port": connection.port, "protocol": "TCP"}]
    # Without `from` every peer may connect. An empty list means the same, but reads like none.
    return {"ports": ports, "from_": list(connection.peers)} if connection.peers else {"ports": ports}


def _opened(connection: Egress) -> NetworkPolicyEgressRuleArgsDict:
    # DNS uses both protocols.
    protocols = ("UDP", "TCP") if connection.port in DNS_PORTS else ("TCP",)
    to: pulumi.Input[Sequence[NetworkPolicyPeerArgsDict]]
    if connection.pods:
        to = [{"pod_selector": {"match_labels": connection.pods}}]
    elif isinstance(connection.cidrs, Sequence):
        to = _blocks(connection.cidrs)
    else:
        to = pulumi.Output.from_input(connection.cidrs).apply(_blocks)
    return {"ports": [{"port": connection.port, "protocol": protocol} for protocol in protocols], "to": to}


def _dns() -> NetworkPolicyEgressRuleArgsDict:
    # Not only the pods of kube-system: name servers are host processes in some clusters.
    ports: list[NetworkPolicyPortArgsDict] = [
        {"port": port, "protocol": protocol} for port in DNS_PORTS for protocol in ("UDP", "TCP")
    ]
    return {"ports": ports, "to": [_block(cidr) for cidr in ANYWHERE]}


def _blocks(cidrs: Sequence[str]) -> list[NetworkPolicyPeerArgsDict]:
    return [_block(cidr) for cidr in cidrs or ANYWHERE]


def _block(cidr: str) -> NetworkPolicyPeerArgsDict:
    """Return the block of a range without the link-local addresses in it."""
    network = ipaddress.ip_network(cidr)
    held_back = [block for block in LINK_LOCAL if block != cidr and _within(ipaddress.ip_network(block), network)]
    return {"ip_block": {"cidr": cidr, "except_": held_back} if held_back else {"cidr": cidr}}


def _selector(labels: object) -> LabelSelectorArgsDict:
    return {"match_labels": cast("Mapping[str, str]", labels)} if labels else {}


def _is_link_local(cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return any(_within(network, ipaddress.ip_network(block)) for block in LINK_LOCAL)


def _within(inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: object) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
