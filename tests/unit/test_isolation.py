"""Conditions under which the end-to-end tests refuse to start."""

import ipaddress

import pytest
from e2e.isolation import default_routes, masquerades

NETWORKS = [ipaddress.ip_network("10.213.7.0/30"), ipaddress.ip_network("10.214.7.0/24")]


def test_a_default_route_is_seen() -> None:
    routes = "10.213.7.0/30 dev eth0 scope link\n10.214.7.5 dev veth1 scope host\n"
    assert default_routes(routes) == []
    assert default_routes(f"{routes}default via 10.213.7.1 dev eth0\n") == ["default via 10.213.7.1 dev eth0"]


@pytest.mark.parametrize(
    "rule",
    [
        "-A POSTROUTING -j MASQUERADE",
        "-A POSTROUTING -o eth0 -j MASQUERADE",
        "-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE",
        "-A POSTROUTING -s 10.213.7.2/32 -j SNAT --to-source 192.0.2.1",
        '-A POSTROUTING ! -s 192.0.2.0/24 -m comment --comment "a b" -j MASQUERADE',
        "-A POSTROUTING -s 10.213.0.0/16 ! -o mls7 -j MASQUERADE",
    ],
)
def test_a_rule_that_hides_the_node_s_packets_is_seen(rule: str) -> None:
    assert masquerades(f"*nat\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n", NETWORKS, "mls7") == [rule]


@pytest.mark.parametrize(
    "rule",
    [
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-A POSTROUTING -o mls7 -j MASQUERADE",
        "-A POSTROUTING ! -s 10.0.0.0/8 -o eth0 -j MASQUERADE",
        "-A PREROUTING -d 10.213.7.2/32 -j DNAT --to-destination 192.0.2.1",
    ],
)
def test_one_that_does_not_is_let_be(rule: str) -> None:
    assert masquerades(f"*nat\n{rule}\nCOMMIT\n", NETWORKS, "mls7") == []
