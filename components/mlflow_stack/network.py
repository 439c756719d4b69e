"""Which connections a pod answers and opens: one NetworkPolicy for each kind of pod, everything else denied."""

import ipaddress
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import (
    NetworkPolicyEgressRuleArgsDict,
    NetworkPolicyIngressRuleArgsDict,
    NetworkPolicyPeerArgsDict,
    NetworkPolicyPortArgsDict,
)

from mlflow_stack.workload import Egress, Ingress

DNS_PORTS = (53, 5353)
"""The second is where OpenShift's DNS pods listen: it judges a packet after the Service's address is replaced."""

ANYWHERE = ("0.0.0.0/0", "::/0")
LINK_LOCAL = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")
"""Where clouds answer any pod with the node's own credentials; the last is AWS's address for IPv6."""


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
    to: list[NetworkPolicyPeerArgsDict]
    if connection.pods:
        to = [{"pod_selector": {"match_labels": connection.pods}}]
    else:
        to = [_block(cidr) for cidr in connection.cidrs or ANYWHERE]
    return {"ports": [{"port": connection.port, "protocol": protocol} for protocol in protocols], "to": to}


def _dns() -> NetworkPolicyEgressRuleArgsDict:
    # Not the pods of kube-system alone: name servers are host processes in some clusters.
    ports: list[NetworkPolicyPortArgsDict] = [
        {"port": port, "protocol": protocol} for port in DNS_PORTS for protocol in ("UDP", "TCP")
    ]
    return {"ports": ports, "to": [_block(cidr) for cidr in ANYWHERE]}


def _block(cidr: str) -> NetworkPolicyPeerArgsDict:
    """A range without the link-local addresses in it."""
    network = ipaddress.ip_network(cidr)
    held_back = [one for one in LINK_LOCAL if one != cidr and _within(ipaddress.ip_network(one), network)]
    return {"ip_block": {"cidr": cidr, "except_": held_back} if held_back else {"cidr": cidr}}


def _within(inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: object) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
