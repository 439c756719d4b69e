"""Name resolution of pods: host aliases and DNS settings, spelled as in a pod."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from mlflow_stack import validate

MOST_NAMESERVERS = 3
MOST_SEARCHES = 32
"""Limits of Kubernetes, as of the API server's validation of pods."""


class HostAliasArgs(TypedDict):
    """Host names of an address that the pods resolve without DNS."""

    ip: str
    """IPv4 or IPv6 address."""
    hostnames: Sequence[str]
    """Host names."""


class DnsOptionArgs(TypedDict):
    """Option of the resolver."""

    name: str
    """Name of the option, such as ndots."""
    value: NotRequired[str]
    """Value of the option. Default: none."""


class DnsConfigArgs(TypedDict):
    """DNS settings of pods, in addition to those of the cluster."""

    nameservers: NotRequired[Sequence[str]]
    """Addresses of up to 3 further DNS servers. Default: none."""
    searches: NotRequired[Sequence[str]]
    """Up to 32 further domains in which host names are looked up. Default: none."""
    options: NotRequired[Sequence[DnsOptionArgs]]
    """Options of the resolver. Default: none."""


@validate.rules(HostAliasArgs)
def _alias_rules(fields: validate.Fields) -> None:
    fields.check("ip", validate.ip_address)
    fields.check("hostnames", validate.some)
    fields.check_each("hostnames", validate.host)


@validate.rules(DnsOptionArgs)
def _option_rules(fields: validate.Fields) -> None:
    fields.check("name", validate.data_key)


@validate.rules(DnsConfigArgs)
def _dns_rules(fields: validate.Fields) -> None:
    fields.check_each("nameservers", validate.ip_address)
    fields.check_each("searches", validate.host)
    for name, most in (("nameservers", MOST_NAMESERVERS), ("searches", MOST_SEARCHES)):
        if len(fields.get(name, [])) > most:
            fields.refuse(name, f"must have at most {most} items")
