"""Public address of a stack. Each kind has one file, and one entry in the registry below."""

import ipaddress
from collections.abc import Mapping
from typing import Final

from mlflow_stack import validate
from mlflow_stack.expose.args import ControllerArgs, ExposeArgs, ExposureArgs, IssuerKind, Kind, TlsArgs
from mlflow_stack.expose.gateway import HttpRoute
from mlflow_stack.expose.ingress import Ingress
from mlflow_stack.expose.kind import CERTIFICATE_KEYS, ExposeKind
from mlflow_stack.expose.nodeport import NodePort
from mlflow_stack.expose.nothing import Nothing
from mlflow_stack.expose.route import Route

__all__ = [
    "CERTIFICATE_KEYS",
    "KINDS",
    "ControllerArgs",
    "ExposeArgs",
    "ExposeKind",
    "ExposureArgs",
    "IssuerKind",
    "Kind",
    "TlsArgs",
]

KINDS: Final[Mapping[str, type[ExposeKind]]] = {
    "none": Nothing,
    "nodeport": NodePort,
    "ingress": Ingress,
    "route": Route,
    "gateway": HttpRoute,
}
"""Kinds by the value of ``expose.kind``."""

ANNOTATIONS_BYTES = 200 * 1024
"""Limit of the user's annotations. Kubernetes accepts 256 KiB on an object, including the stack's and the
provider's."""


@validate.rules(ExposeArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("kind", validate.one_of(*KINDS))
    fields.check("host", validate.host)
    fields.check("path", validate.url_path)
    fields.check("class_name", validate.subdomain)
    fields.check("gateway", validate.namespaced_name)
    fields.check("node_port", validate.between(30000, 32767))
    for name in ("allow_from", "trusted_proxies"):
        fields.check(name, validate.not_empty)
    fields.check_each("allow_from", validate.cidr)
    fields.check_each("trusted_proxies", validate.cidr)
    wide = validate.widest(fields.get("trusted_proxies", ()))
    if wide is not None:
        why = "the addresses of the controllers alone: others could claim any address by X-Forwarded-For"
        fields.refuse_item("trusted_proxies", wide, why)
    fields.check_keys("annotations", validate.label_key)
    texts = [*fields.get("annotations", {}), *fields.get("annotations", {}).values()]
    if sum(len(text.encode()) for text in texts if isinstance(text, str)) > ANNOTATIONS_BYTES:
        fields.refuse("annotations", f"at most {ANNOTATIONS_BYTES} bytes, keys included")
    chosen = KINDS.get(fields.get("kind", ""))
    if chosen is None:
        return
    kind = fields["kind"]
    for name in chosen.required:
        if name not in fields:
            fields.refuse(name, f"a value, as kind is {kind}")
    for name in sorted(set(fields) - {"kind"} - chosen.fields):
        fields.refuse(name, f"it left out, as kind is {kind}")
    if kind != "nodeport":
        fields.check("host", lambda host: f"a name and no address, as kind is {kind}" if _is_address(host) else None)
    if "allow_from" in fields and "trusted_proxies" in chosen.fields and "trusted_proxies" not in fields:
        allow_from = fields.spell("allow_from")
        wanted = f"a value with {allow_from}: without it all clients have the controller's address"
        fields.refuse("trusted_proxies", wanted)
    chosen.judge(fields)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
