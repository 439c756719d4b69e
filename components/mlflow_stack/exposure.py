"""The public address of a server: Ingress, OpenShift Route, HTTPRoute or a port of the nodes, from one value."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict, get_args

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.networking.v1 import NetworkPolicyPeerArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.access import proxy
from mlflow_stack.access.credentials import LONGEST_NAME
from mlflow_stack.access.proxy import Access
from mlflow_stack.addresses import Addresses
from mlflow_stack.cluster import (
    CLUSTER_ISSUER,
    GATEWAY,
    HTTP_ROUTE,
    INGRESS,
    INGRESS_CLASS,
    ISSUER,
    ROUTE,
    SECRET,
    Need,
    ObjectKind,
    Place,
)
from mlflow_stack.pod import Ingress, network
from mlflow_stack.pod.network import PeerArgs

Kind = Literal["none", "nodeport", "ingress", "route", "gateway"]
IssuerKind = Literal["ClusterIssuer", "Issuer"]

TIMEOUT_SECONDS = 3600
"""How long a transfer may take, as in the proxy."""

ANNOTATIONS_BYTES = 200 * 1024
"""Kubernetes takes 256 KiB of annotations on an object, which are the stack's own and the provider's, too."""

NAME = "app.kubernetes.io/name"
INGRESS_CONTROLLERS = (
    "ingress-nginx",
    "rke2-ingress-nginx",
    "nginx-ingress",
    "traefik",
    "haproxy-ingress",
    "kubernetes-ingress",
    "contour",
    "kong",
)
"""The label ``app.kubernetes.io/name`` of common Ingress controllers' pods, as their own charts set it."""
OPENSHIFT_ROUTER: NetworkPolicyPeerArgsDict = {
    "namespace_selector": {"match_labels": {"policy-group.network.openshift.io/ingress": ""}},
    # Stated, so that routers in the node's network are meant as well.
    "pod_selector": {},
}


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


_BEHIND = frozenset({"host", "path", "controller", "allow_from", "trusted_proxies", "annotations"})
FIELDS: Mapping[Kind, frozenset[str]] = {
    "none": frozenset(),
    "nodeport": frozenset({"host", "path", "node_port", "allow_from"}),
    "ingress": _BEHIND | {"tls", "class_name"},
    "route": _BEHIND,
    "gateway": _BEHIND | {"tls", "gateway"},
}
OBJECTS: Mapping[Kind, ObjectKind] = {
    "ingress": INGRESS,
    "route": ROUTE,
    "gateway": HTTP_ROUTE,
}
"""Kinds of the objects that give a host and a path to a Service."""
CERTIFICATE_KEYS: Sequence[str] = ["tls.crt", "tls.key"]
"""Data keys of a Secret with a certificate, sorted."""
REQUIRED: Mapping[Kind, Sequence[str]] = {
    "none": (),
    "nodeport": ("host", "node_port"),
    "ingress": ("host",),
    "route": ("host",),
    "gateway": ("host", "gateway"),
}


@validate.rules(ExposeArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("kind", validate.one_of(*get_args(Kind)))
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
    kind: Kind | None = fields.get("kind")
    if kind is None or kind not in FIELDS:
        return
    for name in REQUIRED[kind]:
        if name not in fields:
            fields.refuse(name, f"a value, as kind is {kind}")
    for name in sorted(set(fields) - {"kind"} - FIELDS[kind]):
        fields.refuse(name, f"it left out, as kind is {kind}")
    if kind != "nodeport":
        fields.check("host", lambda host: f"a name and no address, as kind is {kind}" if _is_address(host) else None)
    if "allow_from" in fields and "trusted_proxies" in FIELDS[kind] and "trusted_proxies" not in fields:
        allow_from = fields.spell("allow_from")
        wanted = f"a value with {allow_from}: without it all clients have the controller's address"
        fields.refuse("trusted_proxies", wanted)
    if kind == "gateway" and set(fields.get("tls", {})):
        fields.refuse("tls", "an empty map, as the certificate is the Gateway's")


@validate.rules(TlsArgs)
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


def needs(expose: ExposeArgs, place: Place) -> list[Need]:
    """Return what the public address needs of the cluster."""
    kind, tls = expose.get("kind"), expose.get("tls", {})
    found: list[Need] = []
    if kind in OBJECTS:
        found.append(Need(place.path("kind"), OBJECTS[kind], None))
    if kind == "ingress":
        found += place.need(INGRESS_CLASS, expose, "class_name")
    if "gateway" in expose:
        namespace, name = _gateway(expose["gateway"])
        found.append(Need(place.path("gateway"), GATEWAY, name, namespace))
    issuer = ISSUER if tls.get("issuer_kind") == "Issuer" else CLUSTER_ISSUER
    secret = place.under("tls").need(SECRET, tls, "secret", keys=CERTIFICATE_KEYS, why="the certificate")
    return [*found, *place.under("tls").need(issuer, tls, "issuer"), *secret]


def takes(theirs: str, path: str) -> bool:
    """Return whether an object at the path ``theirs`` takes requests from a stack at ``path`` of the same host.

    Controllers give a request to the longest path that it is under. The root has room for other services: of what lies
    below it the stack has MLflow's own paths, and those of its models.
    """
    ours, other = (_elements(one) for one in (path, theirs))
    below = other[: len(ours)] == ours
    return below and (bool(ours) or not other or other[0] in {*proxy.ROOTS, "serving"})


def _elements(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def addresses(service: str, namespace: pulumi.Input[str], expose: ExposeArgs) -> pulumi.Output[Addresses]:
    """The names of a server that is reached so; for a model's server ``service`` is its own."""
    secure = expose["kind"] == "route" or "tls" in expose
    return pulumi.Output.all(namespace, expose.get("host")).apply(
        lambda names: Addresses(
            service,
            *names,
            port=expose.get("node_port"),
            scheme="https" if secure else "http",
            path=expose.get("path", ""),
        )
    )


def access(expose: ExposeArgs, internal_from: Sequence[PeerArgs] = ()) -> Access:
    """Who comes to a proxy that is reached so."""
    allow_from = expose.get("allow_from", ())
    (own,) = Access().ingress
    internal = Ingress(own.port, [*own.peers, *(network.peer(one) for one in internal_from)])
    if expose["kind"] == "none":
        return Access([internal])
    public = network.ranges(allow_from) if expose["kind"] == "nodeport" else _controller(expose)
    return Access([internal, Ingress(proxy.PUBLIC_PORT, public)], allow_from, expose.get("trusted_proxies", ()))


def _controller(expose: ExposeArgs) -> list[NetworkPolicyPeerArgsDict]:
    if "controller" in expose:
        given = expose["controller"]
        ranges = network.ranges(given.get("cidrs", ()))
        return [*([network.peer(given, of_all=True)] if _selects(given) else []), *ranges]
    if expose["kind"] == "route":
        return [OPENSHIFT_ROUTER]
    if expose["kind"] == "gateway":
        _, gateway = _gateway(expose.get("gateway", "/"))
        by_label = [
            {"gateway.networking.k8s.io/gateway-name": gateway},
            {"gateway.envoyproxy.io/owning-gateway-name": gateway},
            {NAME: "traefik"},
        ]
        return [network.peer({"pod_selector": labels}, of_all=True) for labels in by_label]
    named: NetworkPolicyPeerArgsDict = {
        "namespace_selector": {},
        "pod_selector": {"match_expressions": [{"key": NAME, "operator": "In", "values": list(INGRESS_CONTROLLERS)}]},
    }
    return [named, OPENSHIFT_ROUTER]


def _gateway(gateway: pulumi.Input[str]) -> tuple[pulumi.Input[str], pulumi.Input[str]]:
    """Return the Gateway's namespace and name."""
    if isinstance(gateway, str):
        namespace, _, name = gateway.partition("/")
        return namespace, name
    parts = pulumi.Output.from_input(gateway).apply(lambda known: known.split("/"))
    return parts[0], parts[1]


def _selects(controller: ControllerArgs) -> bool:
    return bool(controller.get("namespace_selector") or controller.get("pod_selector"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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


class Exposure(pulumi.ComponentResource):
    """The objects that lead a public address to the proxies' public ports: a request passes one proxy alone."""

    def __init__(self, name: str, args: ExposureArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.accepted("Exposure", name, ExposureArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:Exposure", name, {}, opts)
        expose = accepted["expose"]
        for key, ranges in (
            ("expose.allowFrom", expose.get("allow_from", ())),
            ("expose.controller.cidrs", expose.get("controller", {}).get("cidrs", ())),
        ):
            wide = validate.widest(ranges)
            if wide is not None:
                pulumi.log.warn(f"{key}: {wide} admits most of the internet.", self)
        make = _MAKERS.get(expose["kind"])
        if make is not None:
            make(self, name, accepted)
        self.register_outputs({})


def _node_port(parent: Exposure, name: str, args: ExposureArgs) -> None:
    k8s.core.v1.Service(
        f"{name}-public",
        metadata={**_metadata(name, args, {"pulumi.com/skipAwait": "true"}), "name": f"{name}-public"},
        spec={
            "type": "NodePort",
            # Keeps the client's own address, which limits are counted by and the allow-list is about.
            "external_traffic_policy": "Local",
            "selector": args["selector"],
            "ports": [
                {
                    "name": "public",
                    "port": 80,
                    "target_port": "public",
                    "node_port": args["expose"].get("node_port", 0),
                }
            ],
        },
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _ingress(parent: Exposure, name: str, args: ExposureArgs) -> None:
    expose = args["expose"]
    host = expose.get("host", "")
    tls = expose.get("tls")
    paths: list[k8s.networking.v1.HTTPIngressPathArgsDict] = [
        {
            "path": prefix,
            "path_type": "Prefix",
            "backend": {"service": {"name": service, "port": {"name": "public"}}},
        }
        for prefix, service in _backends(args).items()
    ]
    spec: k8s.networking.v1.IngressSpecArgsDict = {"rules": [{"host": host, "http": {"paths": paths}}]}
    if "class_name" in expose:
        spec["ingress_class_name"] = expose["class_name"]
    if tls is not None:
        certificate: k8s.networking.v1.IngressTLSArgsDict = {"hosts": [host]}
        if "issuer" in tls or "secret" in tls:
            certificate["secret_name"] = tls.get("secret", f"{name}-tls")
        spec["tls"] = [certificate]
    k8s.networking.v1.Ingress(
        name,
        metadata=_metadata(name, args, _ingress_annotations(args, tls)),
        spec=spec,
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _ingress_annotations(args: ExposureArgs, tls: TlsArgs | None) -> dict[str, pulumi.Input[str]]:
    """What controllers must be told so that large artifacts pass: nothing held back, no limit before the proxy's."""
    size = str(validate.bytes_of(args.get("max_artifact_size", proxy.DEFAULT_MAX_ARTIFACT_SIZE)))
    annotations: dict[str, pulumi.Input[str]] = {
        # The address of a load balancer is nothing that the stack waits for.
        "pulumi.com/skipAwait": "true",
        "nginx.ingress.kubernetes.io/proxy-body-size": size,
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-request-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": str(TIMEOUT_SECONDS),
        "nginx.ingress.kubernetes.io/proxy-send-timeout": str(TIMEOUT_SECONDS),
        "nginx.org/client-max-body-size": size,
        "nginx.org/proxy-buffering": "false",
        "nginx.org/proxy-read-timeout": f"{TIMEOUT_SECONDS}s",
        "nginx.org/proxy-send-timeout": f"{TIMEOUT_SECONDS}s",
    }
    if tls is not None:
        # Traefik takes certificates from the Ingress, and https only from here.
        annotations["traefik.ingress.kubernetes.io/router.tls"] = "true"
        if "issuer" in tls:
            kind = "issuer" if tls.get("issuer_kind") == "Issuer" else "cluster-issuer"
            annotations[f"cert-manager.io/{kind}"] = tls["issuer"]
    return annotations


def _routes(parent: Exposure, name: str, args: ExposureArgs) -> None:
    expose = args["expose"]
    annotations: dict[str, pulumi.Input[str]] = {
        "haproxy.router.openshift.io/timeout": f"{TIMEOUT_SECONDS}s",
        "haproxy.router.openshift.io/hsts_header": proxy.HSTS,
    }
    if "allow_from" in expose:
        # The second is the name of older routers.
        for form in ("ip_allowlist", "ip_whitelist"):
            annotations[f"haproxy.router.openshift.io/{form}"] = " ".join(expose["allow_from"])
    backends = _backends(args)
    for prefix, service in backends.items():
        spec = {
            "host": expose.get("host", ""),
            "to": {"kind": "Service", "name": service, "weight": 100},
            "port": {"targetPort": "public"},
            "tls": {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
            "wildcardPolicy": "None",
        }
        if prefix != "/":
            spec["path"] = prefix
        below = prefix.removeprefix(expose.get("path", "")).rstrip("/").replace("/", "-")
        k8s.apiextensions.CustomResource(
            f"{name}{below}",
            api_version="route.openshift.io/v1",
            kind="Route",
            metadata=_metadata(name, args, annotations),
            spec=spec,
            opts=pulumi.ResourceOptions(parent=parent),
        )


def _http_route(parent: Exposure, name: str, args: ExposureArgs) -> None:
    expose = args["expose"]
    namespace, gateway = _gateway(expose.get("gateway", "/"))
    rules = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
            "backendRefs": [{"kind": "Service", "name": service, "port": proxy.PUBLIC_PORT}],
            # Some gateways would otherwise end a transfer after 15 s.
            "timeouts": {"request": f"{TIMEOUT_SECONDS}s"},
        }
        for prefix, service in _backends(args).items()
    ]
    k8s.apiextensions.CustomResource(
        name,
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        metadata=_metadata(name, args, {}),
        spec={
            "parentRefs": [{"kind": "Gateway", "namespace": namespace, "name": gateway}],
            "hostnames": [expose.get("host", "")],
            "rules": rules,
        },
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _backends(args: ExposureArgs) -> dict[str, pulumi.Input[str]]:
    """Every Service by the prefix that is led to it, the tracking server's first."""
    path = args["expose"].get("path", "")
    models = {f"{path}{prefix}": service for prefix, service in args.get("backends", {}).items()}
    return {path or "/": args["service"], **models}


def _metadata(
    name: str, args: ExposureArgs, annotations: Mapping[str, pulumi.Input[str]]
) -> k8s.meta.v1.ObjectMetaArgsDict:
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {
        "namespace": args["namespace"],
        "labels": pod.labels(name, "exposure", args.get("labels")),
    }
    everything = {**annotations, **args["expose"].get("annotations", {})}
    if everything:
        metadata["annotations"] = everything
    return metadata


_MAKERS: Mapping[str, Callable[[Exposure, str, ExposureArgs], None]] = {
    "nodeport": _node_port,
    "ingress": _ingress,
    "route": _routes,
    "gateway": _http_route,
}
