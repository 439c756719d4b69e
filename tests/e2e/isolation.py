"""Isolation from the network, checked in routes and packet filter and never probed."""

import ipaddress
import shlex
import subprocess

from mlflow_stack_cli.progress import Progress
from sandbox.cluster.programs import ensure
from sandbox.paths import Instance

Network = ipaddress.IPv4Network


def default_routes(routes: str) -> list[str]:
    """Return the lines of `ip route` that lead off the machine."""
    return [line for line in routes.splitlines() if line.split()[:1] in (["default"], ["0.0.0.0/0"])]


def masquerades(rules: str, networks: list[Network], link: str) -> list[str]:
    """Return the lines of `iptables-save` that translate addresses of packets from one of the networks to another
    link."""
    return [line for line in rules.splitlines() if _hides(shlex.split(line), networks, link)]


def _hides(words: list[str], networks: list[Network], link: str) -> bool:
    if words[:1] != ["-A"] or not {"MASQUERADE", "SNAT"} & set(words):
        return False
    if "-o" in words and words[words.index("-o") + 1] == link and words[words.index("-o") - 1] != "!":
        return False
    if "-s" not in words:
        return True
    at = words.index("-s")
    source = ipaddress.ip_network(words[at + 1])
    if words[at - 1] == "!":
        return not all(network.subnet_of(source) for network in networks)
    return any(network.overlaps(source) for network in networks)


def ways_out(instance: Instance, routes: str) -> list[str]:
    """Return the ways off the machine that must not exist: `routes` is the node's own `ip route`."""
    # The node's program, because the machine may lack it.
    rules = subprocess.run(
        ["chroot", str(ensure(Progress()).root), "iptables-save", "--table", "nat"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    networks = [
        ipaddress.ip_network(f"{instance.machine_address}/30", strict=False),
        ipaddress.ip_network(instance.pod_cidr),
        ipaddress.ip_network(instance.service_cidr),
    ]
    return [*default_routes(routes), *masquerades(rules, networks, instance.link)]
