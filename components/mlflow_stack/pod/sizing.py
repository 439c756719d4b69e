"""CPU, memory and disk space of containers."""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict, cast

from pulumi_kubernetes.core.v1 import (
    ResourceRequirementsArgsDict,
)

from mlflow_stack import validate


class ResourcesArgs(TypedDict):
    """Resource requests and limits of a container, as Kubernetes quantities."""

    requests: NotRequired[Mapping[str, str]]
    """Requested amounts by resource: cpu, memory, ephemeral-storage, or a device such as nvidia.com/gpu. A request must
    not exceed its limit. Default: the container's own."""
    limits: NotRequired[Mapping[str, str]]
    """Limits by the same resources. Default: the container's own."""


@validate.rules(ResourcesArgs)
def _resources(fields: validate.Fields) -> None:
    for name in ("requests", "limits"):
        fields.check_keys(name, validate.container_resource)
        fields.check_each(name, validate.quantity)
        for resource, value in fields.get(name, {}).items():
            if validate.is_extended(resource) and validate.quantity(value) is None and not value.isdigit():
                fields.refuse_value(name, resource, "must be a whole number, because devices are not shared")


@dataclass(frozen=True)
class Floor:
    """Smallest limit with which a container works."""

    limit: str
    """Smallest limit, a quantity."""
    why: str
    """Reason for the limit."""


def resource_rules(
    fields: validate.Fields,
    requests: Mapping[str, str],
    limits: Mapping[str, str],
    floors: Mapping[str, Floor] = types.MappingProxyType({}),
    *,
    name: str = "resources",
) -> None:
    """Check a container's resources merged with its defaults, as the API server checks its pods.

    :param floors: Smallest limits, by resource.
    :param name: Name of the field of :class:`ResourcesArgs`.
    """
    if name not in fields:
        return
    given, stated = fields.under(name), cast(ResourcesArgs, fields[name])
    own_requests, own_limits = stated.get("requests", {}), stated.get("limits", {})
    all_limits = {**limits, **own_limits}
    for resource, floor in floors.items():
        if resource in own_limits and validate.amount(own_limits[resource]) < validate.amount(floor.limit):
            given.refuse_value("limits", resource, f"must be at least {floor.limit}, because {floor.why}")
    for resource, request in {**requests, **own_requests}.items():
        if resource not in all_limits:
            if validate.is_extended(resource):
                wrong = f"must be set in limits.{resource} as well, because devices are not shared"
                given.refuse_value("requests", resource, wrong)
            continue
        limit = all_limits[resource]
        excess = validate.amount(request) - validate.amount(limit)
        if excess and validate.is_extended(resource):
            given.refuse_value(
                "requests", resource, f"must equal limits.{resource}, which is {limit}, because devices are not shared"
            )
        elif excess <= 0:
            continue
        elif resource not in own_requests:
            given.refuse_value("limits", resource, f"must be at least requests.{resource}, which defaults to {request}")
        elif resource in own_limits:
            given.refuse_value("requests", resource, f"must be at most limits.{resource}, which is {limit}")
        else:
            given.refuse_value("requests", resource, f"must be at most limits.{resource}, which defaults to {limit}")


STEP_CPU = "20m"
"""CPU request of an init container. A pod reserves the largest request of its init containers for its whole life, so
this one is small and the server's ``resources`` decide. An init container has no CPU limit."""


def resources(
    given: ResourcesArgs | None, requests: Mapping[str, str], limits: Mapping[str, str]
) -> ResourceRequirementsArgsDict:
    """Return the given amounts merged over the defaults, by resource."""
    given = given or {}
    return {"requests": {**requests, **given.get("requests", {})}, "limits": {**limits, **given.get("limits", {})}}
