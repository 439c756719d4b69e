"""Rules of our NetworkPolicies. tests/e2e shows that the local cluster enforces them."""

import pulumi
import pytest

import engine
from mlflow_stack import MlflowStack
from mlflow_stack.pod import Egress, Ingress, network

BLOCKED = {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}
BLOCKED_6 = {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}
EVERYWHERE = [{"ipBlock": BLOCKED}, {"ipBlock": BLOCKED_6}]
DNS = {
    "ports": [
        {"port": 53, "protocol": "UDP"},
        {"port": 53, "protocol": "TCP"},
        {"port": 5353, "protocol": "UDP"},
        {"port": 5353, "protocol": "TCP"},
    ],
    "to": EVERYWHERE,
}


def spec(ingress: list[Ingress], egress: list[Egress]) -> dict:
    def program() -> None:
        network.policy(
            "one",
            namespace="team",
            labels={"a": "b"},
            selector={"app": "x"},
            ingress=ingress,
            egress=egress,
            opts=pulumi.ResourceOptions(),
        )

    made = engine.deploy(program).one("NetworkPolicy").inputs
    assert made["metadata"] == {"namespace": "team", "labels": {"a": "b"}}
    return made["spec"]


def test_nothing_but_dns_is_what_a_pod_may_do_by_itself() -> None:
    assert spec([], []) == {
        "podSelector": {"matchLabels": {"app": "x"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": [DNS],
    }


def test_callers_are_all_or_those_named() -> None:
    own = {"pod_selector": {}}
    made = spec([Ingress(8080), Ingress(8081, [own, {"ip_block": {"cidr": "192.0.2.0/24"}}])], [])
    assert made["ingress"] == [
        {"ports": [{"port": 8080, "protocol": "TCP"}]},
        {
            "ports": [{"port": 8081, "protocol": "TCP"}],
            "from": [{"podSelector": {}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}],
        },
    ]


@pytest.mark.parametrize(
    ("connection", "to"),
    [
        (Egress(443), EVERYWHERE),
        (Egress(443, cidrs=["192.0.2.0/24"]), [{"ipBlock": {"cidr": "192.0.2.0/24"}}]),
        (Egress(443, cidrs=["0.0.0.0/0"]), [{"ipBlock": BLOCKED}]),
        (
            Egress(443, cidrs=["169.0.0.0/8", "2001:db8::/32"]),
            [
                {"ipBlock": {"cidr": "169.0.0.0/8", "except": ["169.254.0.0/16"]}},
                {"ipBlock": {"cidr": "2001:db8::/32"}},
            ],
        ),
        (Egress(443, pods={"app": "y"}), [{"podSelector": {"matchLabels": {"app": "y"}}}]),
    ],
    ids=["everywhere", "range", "all", "around link-local", "pods"],
)
def test_a_connection_never_leads_to_link_local_addresses(connection: Egress, to: list) -> None:
    assert spec([], [connection])["egress"] == [DNS, {"ports": [{"port": 443, "protocol": "TCP"}], "to": to}]


def test_a_name_server_is_asked_by_udp_as_well() -> None:
    made = spec([], [Egress(53, cidrs=["169.254.20.10/32"])])
    assert made["egress"][1] == {
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
    }


def test_the_tracking_servers_policy_is_what_its_parts_say() -> None:
    deployment = engine.deploy(lambda: MlflowStack("mlflow", {"namespace": "team"}) and None)
    policy = deployment.one("NetworkPolicy", "mlflow").inputs
    server = deployment.one("StatefulSet").inputs["spec"]
    assert policy["metadata"]["namespace"] == "team"
    assert policy["spec"]["podSelector"] == {"matchLabels": server["selector"]["matchLabels"]}
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 8081, "protocol": "TCP"}], "from": [{"podSelector": {}}]}]
    assert policy["spec"]["egress"] == [DNS]


def test_a_node_port_opens_the_public_port_to_everyone() -> None:
    expose = {"host": "mlflow.test", "node_port": 30500}
    policy = engine.deploy(lambda: MlflowStack("mlflow", {"expose": expose}) and None).one("NetworkPolicy").inputs
    assert policy["spec"]["ingress"][1:] == [{"ports": [{"port": 8080, "protocol": "TCP"}]}]


@pytest.mark.parametrize(
    ("given", "narrowed", "opened"),
    [
        ([], [Egress(3306), Egress(443, cidrs=["198.51.100.0/24"])], []),
        (
            [{"cidr": "192.0.2.0/24", "port": 3306}, {"cidr": "192.0.2.0/24", "port": 443}],
            [Egress(3306, cidrs=["192.0.2.0/24"]), Egress(443, cidrs=["198.51.100.0/24"])],
            [Egress(443, cidrs=["192.0.2.0/24"])],
        ),
    ],
    ids=["nothing named", "named"],
)
def test_a_host_name_is_reached_at_what_is_named_for_its_port(given: list, narrowed: list, opened: list) -> None:
    connections = [Egress(3306), Egress(443, cidrs=["198.51.100.0/24"])]
    assert network.narrowed(connections, given) == narrowed
    assert network.opened(connections, given) == [*narrowed, *opened]
