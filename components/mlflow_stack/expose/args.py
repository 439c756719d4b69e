"""Args of the public address and of the component that declares it."""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args

import pulumi

from mlflow_stack import validate
from mlflow_stack.access import proxy
from mlflow_stack.pod import network

DeprecatedKind = Literal["none", "nodeport", "ingress", "route", "gateway"]
validate.enum(DeprecatedKind, "ExposeKind", "Kind of public address.")
IssuerKind = Literal["ClusterIssuer", "Issuer"]
validate.enum(IssuerKind, "IssuerKind", "Kind of a cert-manager issuer.")


class ControllerArgs(TypedDict):
    """Source of requests: the pods or addresses of a controller, router or gateway."""

    namespace_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of the controller's namespace. Default: any namespace."""
    pod_selector: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Labels of the controller's pods. Default: any pod."""
    cidrs: NotRequired[Sequence[str]]
    """Addresses of the controller as CIDRs, if it is in the nodes' network or outside the cluster. Default: none."""


class TlsArgs(TypedDict):
    """Certificate of an https address. With neither issuer nor secret, it is the controller's or gateway's own; an
    address without a controller requires one of them."""

    issuer: NotRequired[pulumi.Input[str]]
    """Name of the cert-manager issuer that issues the certificate. Default: none."""
    issuer_kind: NotRequired[IssuerKind]
    """Kind of the issuer: ClusterIssuer, or Issuer for one in the stack's namespace. Default: ClusterIssuer."""
    secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with ``tls.crt`` and ``tls.key``. Requires ``existing_namespace``. Default: none."""


class IngressArgs(TypedDict):
    """Ingress of a controller in the cluster."""

    class_name: NotRequired[pulumi.Input[str]]
    """Name of the IngressClass. Default: the cluster's default class."""


class RouteArgs(TypedDict):
    """OpenShift Routes, one for each server. They have no keys of their own."""


class LoadBalancerArgs(TypedDict):
    """Load balancer of the cloud, whose address the host name must resolve to. ``annotations`` configure it."""

    class_name: NotRequired[pulumi.Input[str]]
    """Class of the load balancer, such as service.k8s.aws/nlb. A change replaces the Service, and the address with it.
    Default: the cluster's default."""


class ExposeArgs(TypedDict):
    """Public address of the stack, for clients outside the cluster. One key selects its kind: ``ingress``, ``route``,
    ``gateway``, ``load_balancer`` or ``node_port``."""

    ingress: NotRequired[IngressArgs]
    """Public address by an Ingress: needs a controller, and ``class_name`` if the cluster has no default class;
    ``tls`` enables https. Default: none."""
    route: NotRequired[RouteArgs]
    """Public address by OpenShift Routes: always https with the router's certificate, and http is redirected.
    Default: none."""
    gateway: NotRequired[pulumi.Input[str]]
    """Public address by an HTTPRoute that attaches to this Gateway, as namespace/name: needs a listener that admits
    routes of the stack's namespace; an empty ``tls`` states that the listener serves https. Default: none."""
    load_balancer: NotRequired[LoadBalancerArgs]
    """Public address by a Service of type LoadBalancer: needs a cloud or controller that provides load balancers and
    keeps client addresses. Models are reachable in the cluster only. Without ``tls`` only for a network that you trust.
    Default: none."""
    node_port: NotRequired[int]
    """Public address on this port of every node, 30000 to 32767; the cluster never assigns one. Without
    ``tls`` only for a network that you trust. Default: none."""
    host: NotRequired[pulumi.Input[str]]
    """Public host name, without scheme, port or path. Requests with any other host get 421. With ``node_port`` it may
    be an IPv4 address. Required with a public address. Default: none."""
    path: NotRequired[str]
    """Path prefix of all URLs, such as /mlflow. Default: none, the root."""
    tls: NotRequired[TlsArgs]
    """Certificate. A controller or gateway serves it; with ``load_balancer`` and ``node_port`` the proxy in the pod
    does, and reads a renewed one without a restart. A route always has the router's. Default: none, plain http."""
    controller: NotRequired[ControllerArgs]
    """Only pods and addresses that may connect to the public port, with ``ingress``, ``route`` and ``gateway``.
    Default: the pods of common controllers, by their charts' labels."""
    allow_from: NotRequired[Sequence[str]]
    """Clients that may use the public address, as CIDRs; others get 403. In-cluster clients, which use the Service, are
    not restricted. At least one. Default: all."""
    trusted_proxies: NotRequired[Sequence[str]]
    """Addresses of the controllers in front of the proxy, as CIDRs. X-Forwarded-For is trusted only from them. Required
    with ``allow_from`` and a controller; only ranges that you control, not ranges of the internet.
    Default: none."""
    annotations: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional annotations of the Ingress, Route, HTTPRoute or Service of type LoadBalancer, which override the
    stack's own. Default: {}."""
    kind: NotRequired[DeprecatedKind]
    """Deprecated: the key ``ingress``, ``route``, ``gateway`` or ``node_port`` selects the kind. Default: none."""
    class_name: NotRequired[pulumi.Input[str]]
    """Deprecated: use ``ingress.class_name``. Default: the cluster's default class."""


@validate.rules(IngressArgs)
def _ingress_rules(fields: validate.Fields) -> None:
    fields.check("class_name", validate.subdomain)


@validate.rules(LoadBalancerArgs)
def _load_balancer_rules(fields: validate.Fields) -> None:
    fields.check("class_name", validate.label_key)


@validate.rules(TlsArgs, defaults={"issuer_kind": "ClusterIssuer"})
def _tls_rules(fields: validate.Fields) -> None:
    fields.check("issuer", validate.subdomain)
    fields.check("issuer_kind", validate.one_of(*get_args(IssuerKind)))
    fields.check("secret", validate.subdomain)
    fields.refuse_together("issuer", "secret")
    if "issuer_kind" in fields and "issuer" not in fields.stated:
        fields.forbid("issuer_kind", "issuer is not set")


@validate.rules(ControllerArgs)
def _controller_rules(fields: validate.Fields) -> None:
    network.selector_rules(fields)
    fields.check_each("cidrs", validate.cidr)
    rejected = fields.stated.difference(fields)
    if not rejected and not any(fields.values()):
        fields.require("namespace_selector", f"none of {fields.spell('pod_selector')} and cidrs is set")


class ExposureArgs(TypedDict):
    """Servers to expose, and their public address."""

    namespace: pulumi.Input[str]
    """Namespace of the servers."""
    service: pulumi.Input[str]
    """Service of the tracking server. Its port ``public`` leads to the proxy's public port."""
    selector: Mapping[str, str]
    """Labels that select the tracking server's pods."""
    expose: ExposeArgs
    """Public address."""
    backends: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional Services with a port ``public``, by path prefix, such as /serving/iris. Only controllers and gateways
    route them. Default: {}."""
    max_artifact_size: NotRequired[str]
    """Largest request body, a quantity of bytes. Default: 10Gi."""
    labels: NotRequired[Mapping[str, str]]
    """Additional labels. Default: {}."""


@validate.rules(
    ExposureArgs, defaults={"backends": {}, "max_artifact_size": proxy.DEFAULT_MAX_ARTIFACT_SIZE, "labels": {}}
)
def _exposure_rules(fields: validate.Fields) -> None:
    fields.check("max_artifact_size", validate.size)
