"""Which connections a pod answers and opens: one NetworkPolicy for each kind of pod, everything else denied."""

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
"""The second is where OpenShift's DNS pods listen: it judges a packet after the Service's address is replaced."""

ANYWHERE = ("0.0.0.0/0", "::/0")
LINK_LOCAL = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
"""Where clouds answer any pod with the node's own credentials; the last is AWS's address for IPv6."""


class PeerArgs(TypedDict):
    """Pods that may connect."""

    namespace_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of their namespace. Default: the stack's own namespace."""
    pod_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of the pods. Default: all pods."""


class EgressArgs(TypedDict):
    """Addresses outside the cluster that the stack's pods may connect to."""

    cidr: str
    """The range, such as 192.0.2.0/24; never link-local, but for a name server's port 53."""
    port: int
    """The TCP port."""


@validate.rules(PeerArgs)
def _peer_rules(fields: validate.Fields) -> None:
    selector_rules(fields)
    if not any(fields.values()):
        wanted = f"a value, or {fields.spell('pod_selector')}; the pods of the own namespace may connect anyway"
        fields.refuse("namespace_selector", wanted)


@validate.rules(EgressArgs)
def _egress_rules(fields: validate.Fields) -> None:
    fields.check("port", validate.between(1, 65535))
    fields.check("cidr", validate.cidr)
    cidr = fields.get("cidr", "")
    if validate.cidr(cidr) is None and fields.get("port") != DNS_PORTS[0] and _is_link_local(cidr):
        fields.refuse("cidr", "a range that is not link-local, where clouds hand out the node's own credentials")


def selector_rules(fields: validate.Fields) -> None:
    """What the two selectors may hold."""
    for name in ("namespace_selector", "pod_selector"):
        fields.check_keys(name, validate.label_key)
        fields.check_each(name, validate.label_value)


def peer(given: Mapping[str, object], *, of_all: bool = False) -> NetworkPolicyPeerArgsDict:
    """The pods that two selectors name. Without one for namespaces: of the own, or ``of_all``."""
    namespaces, pods = (given.get(name) for name in ("namespace_selector", "pod_selector"))
    selected: NetworkPolicyPeerArgsDict = {"pod_selector": _selector(pods)}
    if namespaces or of_all:
        selected["namespace_selector"] = _selector(namespaces)
    return selected


def ranges(cidrs: Iterable[str]) -> list[NetworkPolicyPeerArgsDict]:
    """Addresses that may connect."""
    return [{"ip_block": {"cidr": cidr}} for cidr in cidrs]


def to_url(url: pulumi.Input[str]) -> Egress:
    """A connection to the port of an http or https URL."""
    if isinstance(url, str):
        return Egress(_port(url))
    return Egress(pulumi.Output.from_input(url).apply(_port))


def _port(url: str) -> int:
    address = urlsplit(url)
    return address.port or (443 if address.scheme == "https" else 80)


def narrowed(connections: Iterable[Egress], given: Sequence[EgressArgs]) -> list[Egress]:
    """Connections whose addresses nobody could know (a host name's) within what ``given`` says of their port."""
    return [
        replace(one, cidrs=_of_port(given, one.port) or one.cidrs) if not one.pods and not one.cidrs else one
        for one in connections
    ]


def opened(connections: Sequence[Egress], given: Sequence[EgressArgs]) -> list[Egress]:
    """The same, and what ``given`` names beside them."""
    # A port that is not known yet may be one of these, too: then two rules say the same.
    known = {one.port for one in connections if isinstance(one.port, int) and not one.pods and not one.cidrs}
    others = [port for port in dict.fromkeys(one["port"] for one in given) if port not in known]
    return [*narrowed(connections, given), *(Egress(port, cidrs=_of_port(given, port)) for port in others)]


def _of_port(given: Sequence[EgressArgs], port: pulumi.Input[int]) -> pulumi.Input[Sequence[str]]:
    """The stated ranges of a port."""
    if isinstance(port, int):
        return [one["cidr"] for one in given if one["port"] == port]
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
    """The policy of the pods that ``selector`` selects: these connections and DNS, no other in or out."""
    return k8s.networking.v1.NetworkPolicy(
        name,
        metadata={"namespace": namespace, "labels": labels},
        spec={
            "pod_selector": {"match_labels": selector},
            "policy_types": ["Ingress", "Egress"],
            "ingress": [_answered(one) for one in ingress],
            "egress": [_dns(), *(_opened(one) for one in egress)],
        },
        opts=opts,
    )


def _answered(connection: Ingress) -> NetworkPolicyIngressRuleArgsDict:
    ports: list[NetworkPolicyPortArgsDict] = [{"port": connection.port, "protocol": "TCP"}]
    # No `from` at all means everyone; an empty list would mean the same, which nobody would guess.
    return {"ports": ports, "from_": list(connection.peers)} if connection.peers else {"ports": ports}


def _opened(connection: Egress) -> NetworkPolicyEgressRuleArgsDict:
    # A name server may be asked by either.
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
    # Not the pods of kube-system alone: name servers are host processes in some clusters.
    ports: list[NetworkPolicyPortArgsDict] = [
        {"port": port, "protocol": protocol} for port in DNS_PORTS for protocol in ("UDP", "TCP")
    ]
    return {"ports": ports, "to": [_block(cidr) for cidr in ANYWHERE]}


def _blocks(cidrs: Sequence[str]) -> list[NetworkPolicyPeerArgsDict]:
    return [_block(cidr) for cidr in cidrs or ANYWHERE]


def _block(cidr: str) -> NetworkPolicyPeerArgsDict:
    """A range without the link-local addresses in it."""
    network = ipaddress.ip_network(cidr)
    held_back = [one for one in LINK_LOCAL if one != cidr and _within(ipaddress.ip_network(one), network)]
    return {"ip_block": {"cidr": cidr, "except_": held_back} if held_back else {"cidr": cidr}}


def _selector(labels: object) -> LabelSelectorArgsDict:
    return {"match_labels": cast("Mapping[str, str]", labels)} if labels else {}


def _is_link_local(cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return any(_within(network, ipaddress.ip_network(one)) for one in LINK_LOCAL)


def _within(inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: object) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
