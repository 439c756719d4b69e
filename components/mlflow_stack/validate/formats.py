"""Checks of single values. Each function returns None for an accepted value, else what is wrong: ``must be …``."""

import ipaddress
import re
import ssl
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

Predicate = Callable[[Any], str | None]
"""Function that checks a plain value: it returns None if the value is accepted, else a clause such as ``must be …``."""

_QUANTITY = re.compile(r"[0-9]{1,19}(\.[0-9]{1,9})?([KMGTPE]i|[mkMGTPE])?", re.ASCII)
_LARGEST_QUANTITY = 2**63 - 1
"""Largest quantity. The API server reduces a larger one to this, and nginx misreads it."""
_AMOUNT = re.compile(
    r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", re.ASCII
)
_UNITS = {unit: Fraction(1000) ** power for power, unit in enumerate(["n", "u", "m", "", *"kMGTPE"], -3)} | {
    f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)
}
_LARGEST_OBJECT = 2**20
"""Maximum bytes of data in a ConfigMap or Secret."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_REGISTRY = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?"
_REPOSITORY = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>({_REGISTRY}/)?{_REPOSITORY}(/{_REPOSITORY})*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@sha256:(?P<digest>[0-9a-f]{64}))?",
    re.ASCII,
)
"""Image reference, as container runtimes parse it: github.com/distribution/reference."""
_LONGEST_IMAGE_NAME = 255 - len("docker.io/library/")
_PRIVATE_V4 = ipaddress.IPv4Network("10.0.0.0/8")
_PRIVATE_V6 = ipaddress.IPv6Network("fc00::/7")
_WIDEST = _PRIVATE_V6.prefixlen
"""Prefix length of the widest private range. A wider range, or as many public addresses, cover most of the internet."""
_Network = TypeVar("_Network", ipaddress.IPv4Network, ipaddress.IPv6Network)


def quantity(value: str) -> str | None:
    """Check a Kubernetes quantity above zero: digits with an optional unit, no sign, no exponent, no spaces."""
    if _QUANTITY.fullmatch(value) is None or not 0 < amount(value) <= _LARGEST_QUANTITY:
        return "must be a Kubernetes quantity above zero and below 8Ei, such as 500m or 10Gi"
    return None


def hard_limit(value: str) -> str | None:
    """Check a quantity in a ResourceQuota, where zero is allowed and forbids the resource."""
    return None if _QUANTITY.fullmatch(value) and amount(value) == 0 else quantity(value)


def size(value: str) -> str | None:
    """Check a quantity of bytes: at least one, no fractions of a byte."""
    if quantity(value) is not None or value.endswith("m") or bytes_of(value) < 1:
        return "must be a size above zero and below 8Ei as a Kubernetes quantity, such as 10Gi"
    return None


def amount(value: str) -> Fraction:
    """Return the exact value of a quantity, in any form that Kubernetes writes."""
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise ValueError(f"not a quantity: {value!r}")
    unit = match["unit"] or ""
    factor = _UNITS[unit] if unit in _UNITS else Fraction(10) ** int(unit[1:])
    return Fraction(match["number"]) * factor


def bytes_of(value: str) -> int:
    """Return the whole bytes in a quantity."""
    return int(amount(value))


EXTENDED = "an extended resource with its domain, such as nvidia.com/gpu"
_CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_QUOTA_RESOURCES = frozenset(
    {
        *("cpu", "memory", "ephemeral-storage", "pods", "services", "replicationcontrollers", "resourcequotas"),
        *("secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"),
        *(f"{part}.{name}" for part in ("requests", "limits") for name in _CONTAINER_RESOURCES),
        "requests.storage",
    }
)


def is_extended(resource: str) -> bool:
    """Return whether a container's resource belongs to a device plugin. Such resources are whole numbers and never
    shared."""
    return "/" in resource


def container_resource(value: str) -> str | None:
    """Check the name of a resource in a container's requests, as the API server does."""
    if value in _CONTAINER_RESOURCES:
        return None
    domain, slash, _ = value.partition("/")
    native = domain == "kubernetes.io" or domain.endswith(".kubernetes.io") or domain.startswith("requests.")
    # Quotas use the prefix `requests.` for requested amounts.
    if not slash or native or label_key(value) is not None or label_key(f"requests.{value}") is not None:
        return f"must be one of {', '.join(_CONTAINER_RESOURCES)}, or {EXTENDED}"
    return None


def quota_resource(value: str) -> str | None:
    """Check the name of a resource in a ResourceQuota, as the API server does."""
    if value in _QUOTA_RESOURCES or ("/" in value and label_key(value) is None):
        return None
    return "must be a resource that a ResourceQuota limits, such as limits.memory, pods or count/jobs.batch"


def is_counted(resource: str) -> bool:
    """Return whether a ResourceQuota counts objects under this name, instead of adding up amounts."""
    return resource not in _CONTAINER_RESOURCES and not resource.startswith(("requests.", "limits."))


def dns_label(value: str, longest: int = 63) -> str | None:
    """Check an RFC 1123 label that starts with a letter, as Services require, of a limited length."""
    if _LABEL.fullmatch(value) is None or not value[0].isalpha() or len(value) > longest:
        room = "" if longest == 63 else ", because the names derived from it have at most 63"
        return (
            "must consist of lower-case letters, digits and '-', start with a letter "
            f"and have at most {longest} characters{room}"
        )
    return None


def subdomain(value: str) -> str | None:
    """Check an RFC 1123 subdomain, which most object names are."""
    if _SUBDOMAIN.fullmatch(value) is None or len(value) > 253:
        return "must be an object name: lower-case letters, digits, '-' and '.', at most 253 characters"
    return None


def label_value(value: str) -> str | None:
    """Check a label's value."""
    if _LABEL_VALUE.fullmatch(value) is None:
        return "must be a label value: at most 63 letters, digits, '-', '_' and '.'"
    return None


def image(value: str) -> str | None:
    """Check an image with a tag other than ``latest``, or with a digest, so that the version is fixed."""
    match = _IMAGE.fullmatch(value)
    if (
        match is None
        or (match["digest"] is None and match["tag"] in (None, "latest"))
        or len(match["name"]) > _LONGEST_IMAGE_NAME
    ):
        return "must be an image with a tag other than latest or a digest, such as registry.example/mlflow:v3.17.2-full"
    return None


def user(value: str) -> str | None:
    """Check a user name. RFC 7617 forbids ':', and the other limits keep htpasswd entries and resource names plain.
    ``models`` is reserved for the stack."""
    if value == "models":
        return "must not be models, which is the stack's own machine user"
    if _USER.fullmatch(value) is None:
        return "must be 1 to 64 letters, digits and . _ @ + -, starting with a letter or a digit"
    return None


def password(value: str) -> str | None:
    """Check a password: 12 to 1024 printable ASCII characters. Browsers disagree on the encoding of others, and nginx
    accepts headers of at most 8 KiB."""
    if not 12 <= len(value) <= 1024 or not (value.isascii() and value.isprintable()):
        return "must be 12 to 1024 printable ASCII characters"
    return None


def between(lowest: int, highest: int) -> Predicate:
    """Return a check of a whole number in a range, both ends included."""

    def judge(value: int) -> str | None:
        return None if lowest <= value <= highest else f"must be a whole number from {lowest} to {highest}"

    return judge


def one_of(*options: str) -> Predicate:
    """Return a check of a value from a list of options."""

    def judge(value: str) -> str | None:
        return None if value in options else "must be one of " + ", ".join(options)

    return judge


def host(value: str) -> str | None:
    """Check a host name or an IPv4 address, without scheme, port or path."""
    if subdomain(value) is not None or any(len(label) > 63 for label in value.split(".")):
        return "must be a lower-case host name without scheme, port or path, such as mlflow.example.com"
    return None


def url_path(value: str) -> str | None:
    """Check the path of a URL, with a leading and no trailing slash, in characters that no program interprets."""
    if re.fullmatch(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+", value, re.ASCII) is None or len(value) > 200:
        return "must be a path with a leading and without a trailing slash, such as /mlflow"
    return None


def cidr(value: str) -> str | None:
    """Check an address range in its canonical form."""
    wrong = "must be an address range, such as 192.0.2.0/24"
    if re.fullmatch(r"[0-9a-fA-F:.]+/[0-9]+", value, re.ASCII) is None:
        return wrong
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return wrong
    if value == "255.255.255.255/32":  # broadcast address, which nginx rejects
        return wrong
    return None if str(network) == value else f"must be in canonical form, here {network}"


def not_empty(value: Sequence[object]) -> str | None:
    """Check that a list has an item, because an empty list would allow everything."""
    return None if value else "must have at least one range"


def ip_address(value: str) -> str | None:
    """Check an IPv4 or IPv6 address in its canonical form."""
    try:
        canonical = str(ipaddress.ip_address(value))
    except ValueError:
        return "must be an IP address, such as 192.0.2.7"
    return None if canonical == value else f"must be in canonical form, here {canonical}"


def some(value: Sequence[object]) -> str | None:
    """Check that a list has an item."""
    return None if value else "must have at least one item"


def widest(cidrs: Sequence[str]) -> str | None:
    """Return the largest range that the accepted :func:`cidr` values make together, if they cover most of the
    internet, with the number of further ranges if only all together do."""
    networks = [ipaddress.ip_network(text) for text in cidrs if cidr(text) is None]
    found = (
        _wide([network for network in networks if isinstance(network, ipaddress.IPv4Network)], _PRIVATE_V4),
        _wide([network for network in networks if isinstance(network, ipaddress.IPv6Network)], _PRIVATE_V6),
    )
    return next((wide for wide in found if wide is not None), None)


def _wide(networks: Sequence[_Network], private: _Network) -> str | None:
    """Return the result of `widest` for one address family. `private`: its widest private range."""
    together = sorted(ipaddress.collapse_addresses(networks), key=lambda network: network.prefixlen)
    if together and together[0].prefixlen < _WIDEST:
        return str(together[0])
    public = [network for network in together if not network.subnet_of(private)]
    if sum(network.num_addresses for network in public) > 2 ** (private.max_prefixlen - _WIDEST):
        return f"{public[0]} and {len(public) - 1} more"
    return None


def namespaced_name(value: str) -> str | None:
    """Check an object's namespace and name."""
    namespace, slash, name = value.partition("/")
    # NetworkPolicies select the pods of a Gateway by a label with its name.
    if not slash or dns_label(namespace) is not None or subdomain(name) is not None or label_value(name) is not None:
        return "must be <namespace>/<name>" + (" with a name of at most 63 characters" if len(name) > 63 else "")
    return None


def label_key(value: str) -> str | None:
    """Check the key of a label or annotation."""
    prefix, slash, name = value.rpartition("/")
    if not name or label_value(name) is not None or (slash and subdomain(prefix) is not None):
        return "must be a qualified name, such as app.kubernetes.io/name"
    return None


def variable(value: str) -> str | None:
    """Check the name of an environment variable."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value, re.ASCII) is None:
        return "must be a variable name of letters, digits and '_', not starting with a digit"
    return None


def data_key(value: str) -> str | None:
    """Check a key of a Secret or a ConfigMap."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value, re.ASCII) is None or value in (".", ".."):
        return "must be a key of letters, digits, '.', '_' and '-'"
    return None


def folder(value: str) -> str | None:
    """Check a relative path without dot segments, blanks or shell characters."""
    parts = value.split("/")
    long = len(value) > 512 or any(len(part) > 255 for part in parts)
    if long or not re.fullmatch(r"[A-Za-z0-9._/-]+", value, re.ASCII) or {"", ".", ".."} & set(parts):
        return "must be a folder's path relative to the claim's root, such as mlruns"
    return None


def absolute_path(value: str) -> str | None:
    """Check an absolute path without dot segments, blanks or shell characters."""
    if not value.startswith("/") or (value != "/" and folder(value[1:]) is not None):
        return "must be an absolute path, such as /mlflow"
    return None


def duration(value: str) -> str | None:
    """Check a duration in the syntax of Pulumi, Kubernetes and nginx. At most a week, so that none of them
    overflows."""
    if re.fullmatch(r"[1-9][0-9]{0,5}[smh]", value, re.ASCII) is None or seconds_of(value) > 7 * 24 * 3600:
        return "must be a duration of at most 168h in whole seconds, minutes or hours, such as 10m"
    return None


def seconds_of(value: str) -> int:
    """Return the seconds in an accepted :func:`duration`."""
    return int(value[:-1]) * {"s": 1, "m": 60, "h": 3600}[value[-1]]


def bucket(value: str) -> str | None:
    """Check a bucket's name by S3's rules."""
    if not 3 <= len(value) <= 63 or _SUBDOMAIN.fullmatch(value) is None or re.fullmatch(r"[0-9.]+", value, re.ASCII):
        return "must be a bucket name: 3 to 63 lower-case letters, digits, '-' and single '.', and not an IP address"
    return None


def key_prefix(value: str) -> str | None:
    """Check a key prefix in a bucket."""
    if folder(value) is not None:
        return "must be a path in the bucket without a leading or trailing '/', such as teams/vision"
    return None


def endpoint(value: str) -> str | None:
    """Check a server's URL: scheme, host, optional port, and nothing else."""
    match = re.fullmatch(r"https?://(?P<host>[^/:@?#]+)(?::(?P<port>[0-9]{1,5}))?", value, re.ASCII)
    if match is None or host(match["host"]) is not None or not 1 <= int(match["port"] or 1) <= 65535:
        return "must be a URL without a path, such as https://s3.example.com or http://minio.minio.svc:9000"
    return None


def region(value: str) -> str | None:
    """Check a region name of AWS or another provider."""
    return None if re.fullmatch(r"[A-Za-z0-9-]{1,32}", value, re.ASCII) else "must be a region, such as us-east-1"


def access_key(value: str) -> str | None:
    """Check an access key ID or a secret access key, which must fit on one line of a file."""
    if not 1 <= len(value) <= 128 or not value.isascii() or not value.isprintable() or " " in value:
        return "must be 1 to 128 printable ASCII characters without spaces"
    return None


def certificates(value: str) -> str | None:
    """Check certificates as PEM text, of a size that fits into a ConfigMap."""
    if len(value.encode()) > _LARGEST_OBJECT:
        return f"must be PEM certificates of at most {_LARGEST_OBJECT} bytes, because a ConfigMap holds no more"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
    except (ssl.SSLError, ValueError):
        return "must be PEM certificates, starting with -----BEGIN CERTIFICATE-----"
    return None


def database(value: str) -> str | None:
    """Check a database's name, which must need no quotes in a URL or a command."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", value, re.ASCII) is None:
        return "must be a database name: 1 to 64 letters, digits, '_' and '-'"
    return None


def database_user(value: str) -> str | None:
    """Check a user name of a database server."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,79}", value, re.ASCII) is None:
        return "must be a database user name: 1 to 80 letters, digits and _ . @ -"
    return None


def database_password(value: str) -> str | None:
    """Check a database password, which must fit into a Secret and an option file: any printable characters."""
    if not 1 <= len(value) <= 256 or not value.isprintable():
        return "must be 1 to 256 printable characters"
    return None
