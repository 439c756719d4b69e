"""Public address of a stack. Each kind has one file, and one entry in the registry below."""

from collections.abc import Container, Mapping
from typing import Final

from mlflow_stack import validate
from mlflow_stack.access.nginx import CERTIFICATE_KEYS
from mlflow_stack.expose.args import (
    ControllerArgs,
    DeprecatedKind,
    ExposeArgs,
    ExposureArgs,
    IngressArgs,
    IssuerKind,
    LoadBalancerArgs,
    RouteArgs,
    TlsArgs,
)
from mlflow_stack.expose.certificate import is_address
from mlflow_stack.expose.gateway import HttpRoute
from mlflow_stack.expose.ingress import Ingress
from mlflow_stack.expose.kind import ExposeKind
from mlflow_stack.expose.loadbalancer import LoadBalancer
from mlflow_stack.expose.nodeport import NodePort
from mlflow_stack.expose.nothing import Nothing
from mlflow_stack.expose.route import Route

__all__ = [
    "CERTIFICATE_KEYS",
    "DEPRECATED_KINDS",
    "KINDS",
    "ControllerArgs",
    "DeprecatedKind",
    "ExposeArgs",
    "ExposeKind",
    "ExposureArgs",
    "IngressArgs",
    "IssuerKind",
    "LoadBalancerArgs",
    "RouteArgs",
    "TlsArgs",
    "chosen",
]

KINDS: Final[Mapping[str, type[ExposeKind]]] = {
    kind.key: kind for kind in (Ingress, Route, HttpRoute, LoadBalancer, NodePort)
}
"""Kinds by the field that selects them."""

DEPRECATED_KINDS: Final[Mapping[DeprecatedKind, str | None]] = {
    "none": None,
    "nodeport": "node_port",
    "ingress": "ingress",
    "route": "route",
    "gateway": "gateway",
}
"""Fields that replace each value of the deprecated field ``kind``."""

ANNOTATIONS_BYTES = 200 * 1024
"""Limit of the user's annotations. Kubernetes accepts 256 KiB on an object, including the stack's and the
provider's."""


def chosen(names: Container[str]) -> type[ExposeKind]:
    """Return the kind that the set fields of a public address select."""
    return next((kind for key, kind in KINDS.items() if key in names), Nothing)


@validate.rules(
    ExposeArgs,
    deprecated={
        "kind": "Use one of the keys ingress, route, gateway and node_port, or none of them.",
        "class_name": "Use ingress.class_name.",
    },
)
def _rules(fields: validate.Fields) -> None:
    fields.check("host", validate.host)
    fields.check("path", validate.url_path)
    fields.check("class_name", validate.subdomain)
    fields.check("gateway", validate.namespaced_name)
    fields.check("node_port", validate.between(30000, 32767))
    fields.check("allow_from", validate.not_empty, "Remove the key to allow all addresses.")
    fields.check("trusted_proxies", validate.not_empty)
    fields.check_each("allow_from", validate.cidr)
    fields.check_each("trusted_proxies", validate.cidr)
    wide = validate.widest(fields.get("trusted_proxies", ()))
    if wide is not None:
        wrong = "must cover only the controllers, because others could claim any address by X-Forwarded-For"
        fields.refuse_item("trusted_proxies", wide, wrong)
    fields.check_keys("annotations", validate.label_key)
    texts = [*fields.get("annotations", {}), *fields.get("annotations", {}).values()]
    if sum(len(text.encode()) for text in texts if isinstance(text, str)) > ANNOTATIONS_BYTES:
        fields.refuse("annotations", f"must have at most {ANNOTATIONS_BYTES} bytes, keys included")
    fields.check("kind", validate.one_of(*DEPRECATED_KINDS))
    former = fields.get("kind")
    if ("kind" in fields.stated and former not in DEPRECATED_KINDS) or not _upgraded(fields):
        return
    fields.refuse_several(KINDS)
    kind = chosen(fields.stated.union(fields))
    if kind is Nothing:
        if fields:
            others = ", ".join(fields.spell(key) for key in list(KINDS)[1:-1])
            fields.require("ingress", f"none of {others} and {fields.spell('node_port')} is set")
        return
    selected = f"kind is {former}" if former else f"{fields.spell(kind.key)} is set"
    if "host" not in fields.stated:
        fields.require("host", selected)
    for name in sorted(set(fields) - {*KINDS} - kind.fields):
        fields.forbid(name, selected)
    if kind.hides_clients:
        # A controller routes requests by the name in them.
        wrong = f"must be a host name and not an address when {selected}"
        fields.check("host", lambda host: wrong if is_address(host) else None)
    if kind.hides_clients and "allow_from" in fields and "trusted_proxies" not in fields.stated:
        because = f"{fields.spell('allow_from')} is set and clients would have the controller's address without it"
        fields.require("trusted_proxies", because)
    kind.judge(fields)


def _upgraded(fields: validate.Fields) -> bool:
    """Replace the deprecated fields ``kind`` and ``class_name``. Return whether the other rules apply to the result."""
    if "kind" not in fields:
        if "class_name" in fields:
            fields.forbid("class_name", "kind is not set", f"Use ingress.{fields.spell('class_name')}.")
        return "class_name" not in fields
    kind = fields["kind"]
    key = DEPRECATED_KINDS[kind]
    wrong = fields.stated & {*KINDS} - {key}
    if key is None:
        wrong = fields.stated - {"kind"}
    elif key != "ingress":
        wrong |= fields.stated & {"class_name"}
    for name in sorted(wrong):
        fields.forbid(name, f"kind is {kind}")
    if wrong:
        return False
    fields.remove("kind")
    if key == "ingress":
        class_name, own = fields.remove("class_name"), fields.get(key, {})
        if class_name is not None and "class_name" in own:
            fields.forbid("class_name", f"{key}.{fields.spell('class_name')} is set")
        fields.set(key, own if class_name is None else {"class_name": class_name, **own})
    elif key == "route":
        fields.set(key, {})
    elif key is not None and key not in fields.stated:
        fields.require(key, f"kind is {kind}")
        return False
    return True
