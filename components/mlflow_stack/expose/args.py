"""Args of the public address, and of the component that declares it."""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args

import pulumi

from mlflow_stack import validate
from mlflow_stack.access import proxy
from mlflow_stack.pod import network

Kind = Literal["none", "nodeport", "ingress", "route", "gateway"]
IssuerKind = Literal["ClusterIssuer", "Issuer"]


class ControllerArgs(TypedDict):
    """Where the requests of a controller, router or gateway come from."""

    namespace_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of its namespace. Default: any namespace."""
    pod_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of its pods. Default: any pod."""
    cidrs: NotRequired[Sequence[str]]
    """Its addresses as CIDRs, for one in the nodes' network or outside the cluster. Default: none."""


class TlsArgs(TypedDict):
    """The certificate of an https address. With neither field, the controller's or gateway's own."""

    issuer: NotRequired[pulumi.Input[str]]
    """The cert-manager issuer to ask for one. Default: none."""
    issuer_kind: NotRequired[IssuerKind]
    """ClusterIssuer, or Issuer for one in the stack's namespace. Default: ClusterIssuer."""
    secret: NotRequired[pulumi.Input[str]]
    """The Secret that is there already with ``tls.crt`` and ``tls.key``; needs ``existing_namespace``.
    Default: none."""


class ExposeArgs(TypedDict):
    """How the server is reached from outside the cluster."""

    kind: Kind
    """none; ingress; route, which is OpenShift's; gateway, an HTTPRoute; or nodeport, a port of every node."""
    host: NotRequired[pulumi.Input[str]]
    """The name that people open, without scheme, port or path; any other is answered with 421. With nodeport it may
    be an IPv4 address. Required unless kind is none."""
    path: NotRequired[str]
    """The path that everything is under, such as /mlflow. Default: none, the root."""
    tls: NotRequired[TlsArgs]
    """The certificate, with ingress and gateway; a route always has the router's. Default: none, plain http."""
    class_name: NotRequired[pulumi.Input[str]]
    """The IngressClass. Default: the cluster's default class."""
    gateway: NotRequired[pulumi.Input[str]]
    """The Gateway that the HTTPRoute attaches to, as namespace/name. Required with gateway."""
    node_port: NotRequired[int]
    """The port with nodeport, 30000 to 32767; never assigned by the cluster. Required with nodeport."""
    controller: NotRequired[ControllerArgs]
    """Who alone may connect to the public port, with ingress, route and gateway. Default: the pods of common
    controllers, by their charts' labels."""
    allow_from: NotRequired[Sequence[str]]
    """The clients that are answered, as CIDRs; others get 403. Callers in the cluster, who use the Service, are not
    meant. At least one. Default: all."""
    trusted_proxies: NotRequired[Sequence[str]]
    """The addresses of the controllers in front as CIDRs: X-Forwarded-For is believed from them alone. Required with
    ``allow_from``, but for nodeport; ranges of your own, not of the internet. Default: none."""
    annotations: NotRequired[Mapping[str, pulumi.Input[str]]]
    """More annotations of the Ingress, Route or HTTPRoute, over the stack's own. Default: {}."""


@validate.rules(TlsArgs, defaults={"issuer_kind": "ClusterIssuer"})
def _tls_rules(fields: validate.Fields) -> None:
    fields.check("issuer", validate.subdomain)
    fields.check("issuer_kind", validate.one_of(*get_args(IssuerKind)))
    fields.check("secret", validate.subdomain)
    fields.refuse_together("issuer", "secret", "one asks for a certificate, the other has it")
    if "issuer_kind" in fields and "issuer" not in fields:
        fields.refuse("issuer_kind", "it left out without issuer")


@validate.rules(ControllerArgs)
def _controller_rules(fields: validate.Fields) -> None:
    network.selector_rules(fields)
    fields.check_each("cidrs", validate.cidr)
    if not any(fields.get(name) for name in ("namespace_selector", "pod_selector", "cidrs")):
        fields.refuse("namespace_selector", f"a value, or one of {fields.spell('pod_selector')} and cidrs")


class ExposureArgs(TypedDict):
    """What is exposed."""

    namespace: pulumi.Input[str]
    """Namespace of the servers."""
    service: pulumi.Input[str]
    """The Service of the tracking server; its port ``public`` leads to the proxy's public port."""
    selector: Mapping[str, str]
    """The labels that select the tracking server's pods."""
    expose: ExposeArgs
    """How it is reached."""
    backends: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Services, with a port ``public`` as well, by the prefix that is theirs, such as /serving/iris. With nodeport each
    has a port of its own instead. Default: {}."""
    max_artifact_size: NotRequired[str]
    """The largest request body, a quantity of bytes. Default: 10Gi."""
    labels: NotRequired[Mapping[str, str]]
    """More labels. Default: {}."""


@validate.rules(
    ExposureArgs, defaults={"backends": {}, "max_artifact_size": proxy.DEFAULT_MAX_ARTIFACT_SIZE, "labels": {}}
)
def _exposure_rules(fields: validate.Fields) -> None:
    fields.check("max_artifact_size", validate.size)
