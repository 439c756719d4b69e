"""Veth pair between the machine and a node."""

import ipaddress
import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import cast

from mlflow_stack_cli.errors import LocalError
from sandbox.paths import Instance


def attach(instance: Instance, pid: int) -> None:
    """Create the pair, with `eth0` in the network namespace of that process, and assign our end its address.

    Raises `LocalError` if the machine already routes the range elsewhere.
    """
    _refuse_overlap(instance)
    _ip(
        "-batch",
        "-",
        given=f"link add {instance.link} type veth peer name eth0 netns {pid}\n"
        f"address add {instance.machine_address}/30 dev {instance.link}\n"
        f"link set {instance.link} alias {instance.node}\n"
        f"link set {instance.link} up\n",
    )


def detach(instance: Instance) -> None:
    """Delete the pair; a missing one is not an error.

    Raises `LocalError` if it is another node's: instances in different data folders can have the same index.
    """
    alias = Path("/sys/class/net", instance.link, "ifalias")
    with suppress(OSError):  # no such link
        if (owner := alias.read_text().strip()) and owner != str(instance.node):
            raise LocalError(
                f"the link {instance.link} belongs to the node in {owner}. "
                "Next: stop that one with `make down` from where it was started, or choose another INSTANCE."
            )
    # The kernel also deletes it, some time after the last process of the node has ended.
    done = subprocess.run(["ip", "link", "delete", instance.link], capture_output=True, text=True, check=False)
    if done.returncode and "Cannot find device" not in done.stderr:
        raise LocalError(f"the link {instance.link} cannot be removed: {done.stderr.strip()}.")


def _refuse_overlap(instance: Instance) -> None:
    wanted = ipaddress.ip_network(f"{instance.machine_address}/30", strict=False)
    for route in cast(list[dict[str, str]], json.loads(_ip("-json", "-4", "route", "show") or "[]")):
        if route["dst"] != "default" and wanted.overlaps(ipaddress.ip_network(route["dst"])):
            raise LocalError(
                f"this machine routes {route['dst']} to {route.get('dev', 'somewhere')}, and the node of instance "
                f"{instance.name} would be at {instance.node_address}. Next: choose another INSTANCE, which gets "
                "another range, or name your own cluster: `make up CONTEXT=<context>`."
            )


def _ip(*words: str, given: str = "") -> str:
    done = subprocess.run(["ip", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalError(
            f"`ip {' '.join(words)}` failed: {done.stderr.strip()}. Next: check that the kernel supports veth."
        )
    return done.stdout
