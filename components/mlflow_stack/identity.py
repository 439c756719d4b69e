"""Identity of a store's data, and the guards against losing it by a changed key."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

import pulumi
import pulumi_random as random

RECORDS: Final = "records"
"""Purpose of the backend store: runs, metrics and registered models."""
ARTIFACTS: Final = "artifacts"
"""Purpose of the artifact store."""
KEEPER: Final = "identity"
"""Keeper of a guard whose value is the identity."""

_HTTP_PORTS: Final = {"http": 80, "https": 443}


def claim(namespace: str, name: str) -> str:
    """Return the identity of data on a claim."""
    return f"pvc://{namespace}/{name}"


def database(scheme: str, default_port: int, namespace: str, host: str, port: int | None, name: str) -> str:
    """Return the identity of a database."""
    return f"{scheme}://{_authority(namespace, host, port, default_port)}/{quote(name)}"


def bucket(namespace: str, name: str, prefix: str, endpoint: str | None) -> str:
    """Return the identity of a folder in a bucket; ``endpoint`` is None for AWS."""
    root = f"s3://{name}/{prefix.strip('/')}".rstrip("/")
    if endpoint is None:
        return root
    server = urlsplit(endpoint)
    authority = _authority(namespace, server.hostname or "", server.port, _HTTP_PORTS[server.scheme])
    return f"{root}?endpoint={server.scheme}://{authority}"


def _authority(namespace: str, host: str, port: int | None, default_port: int) -> str:
    """Return the canonical spelling of a server's address, for any of its in-cluster names."""
    name = host.removesuffix(".cluster.local").removesuffix(".svc")
    if "." not in name:
        name = f"{name}.{namespace}"
    return name if port in (None, default_port) else f"{name}:{int(port)}"


def guard(name: str, purpose: str, identity: pulumi.Input[str], opts: pulumi.ResourceOptions | None) -> pulumi.Resource:
    """Declare the guard of one store. A changed identity replaces the guard, and the engine refuses to replace a
    protected resource.

    ``opts`` are those of the store itself. The guard is a sibling of the store, so that a store of another kind has the
    same guard. Everything that writes to the data depends on the guard.
    """
    return random.RandomId(
        f"{name}-{purpose}-{KEEPER}",
        byte_length=4,
        keepers={KEEPER: identity},
        opts=pulumi.ResourceOptions(parent=opts.parent if opts else None, protect=True),
    )


def handover(
    name: str, identities: Mapping[str, pulumi.Input[str]], after: Sequence[pulumi.Resource], parent: pulumi.Resource
) -> pulumi.Resource:
    """Declare the resource that replaces the tracking server's workload when an identity changes.

    The engine deletes it first, and before it every workload that is replaced with it, even one that is no longer
    declared: pods on the old data never run beside pods on the new data. ``after``: steps that must succeed on the new
    data while the tracking server is still up.
    """
    return random.RandomId(
        f"{name}-{KEEPER}",
        byte_length=4,
        keepers=identities,
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True, depends_on=after),
    )
