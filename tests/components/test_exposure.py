"""Objects of each `expose` value, exactly, and every list that follows from it. tests/e2e shows that controllers act on
them."""

from typing import Any

import pulumi
import pytest

import engine
from mlflow_stack import Exposure, MlflowStack, resolve
from mlflow_stack.expose import ingress

INGRESS = {"ingress": {}, "host": "mlflow.example.com"}
ROUTE = {"route": {}, "host": "mlflow.example.com"}
GATEWAY = {"host": "mlflow.example.com", "gateway": "infra/public", "tls": {}}
OPENSHIFT = {"namespaceSelector": {"matchLabels": {"policy-group.network.openshift.io/ingress": ""}}, "podSelector": {}}


def stack(expose: dict[str, Any], **args: Any) -> engine.Deployment:
    return engine.deploy(lambda: MlflowStack("mlflow", {"namespace": "team", "expose": expose, **args}) and None)


def exposed(expose: dict[str, Any], **backends: str) -> engine.Deployment:
    """Exposure without a stack, with model servers by name."""

    def program() -> None:
        Exposure(
            "mlflow",
            {
                "namespace": "team",
                "service": "mlflow",
                "selector": {"app": "x"},
                "expose": expose,
                "backends": {f"/serving/{name}": service for name, service in backends.items()},
                "max_artifact_size": "1Gi",
            },
        )

    return engine.deploy(program)


def env(deployment: engine.Deployment) -> dict[str, str]:
    pod = deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]
    return {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"] if "value" in variable}


def conf(deployment: engine.Deployment) -> str:
    return deployment.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]


def public_callers(deployment: engine.Deployment) -> Any:
    (_, public) = deployment.one("NetworkPolicy").inputs["spec"]["ingress"]
    assert public["ports"] == [{"port": 8080, "protocol": "TCP"}]
    return public.get("from", "everyone")


def test_an_ingress_leads_each_prefix_to_its_own_service() -> None:
    ingress = (
        exposed({**INGRESS, "path": "/ml", "ingress": {"class_name": "nginx"}}, iris="mlflow-iris")
        .one("Ingress")
        .inputs
    )
    public = {"port": {"name": "public"}}
    assert ingress["spec"] == {
        "ingressClassName": "nginx",
        "rules": [
            {
                "host": "mlflow.example.com",
                "http": {
                    "paths": [
                        {
                            "path": "/ml",
                            "pathType": "Prefix",
                            "backend": {"service": {"name": "mlflow", **public}},
                        },
                        {
                            "path": "/ml/serving/iris",
                            "pathType": "Prefix",
                            "backend": {"service": {"name": "mlflow-iris", **public}},
                        },
                    ]
                },
            }
        ],
    }
    assert ingress["metadata"]["annotations"] == {
        "pulumi.com/skipAwait": "true",
        "nginx.ingress.kubernetes.io/proxy-body-size": "1073741824",
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-request-buffering": "off",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "3600",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": "3600",
        "nginx.org/client-max-body-size": "1073741824",
        "nginx.org/proxy-buffering": "false",
        "nginx.org/proxy-read-timeout": "3600s",
        "nginx.org/proxy-send-timeout": "3600s",
    }


@pytest.mark.parametrize(
    ("tls", "wanted", "annotations"),
    [
        ({}, {}, {}),
        ({"issuer": "le"}, {"secretName": "mlflow-tls"}, {"cert-manager.io/cluster-issuer": "le"}),
        ({"issuer": "le", "issuer_kind": "Issuer"}, {"secretName": "mlflow-tls"}, {"cert-manager.io/issuer": "le"}),
        ({"secret": "own"}, {"secretName": "own"}, {}),
    ],
    ids=["controller's", "cluster issuer", "issuer", "secret"],
)
def test_the_certificate_of_an_ingress(tls: dict, wanted: dict, annotations: dict) -> None:
    ingress = exposed({**INGRESS, "tls": tls}).one("Ingress").inputs
    assert ingress["spec"]["tls"] == [{"hosts": ["mlflow.example.com"], **wanted}]
    made = ingress["metadata"]["annotations"]
    assert made["traefik.ingress.kubernetes.io/router.tls"] == "true"
    assert {key: value for key, value in made.items() if key.startswith("cert-manager.io/")} == annotations


def test_a_route_ends_tls_at_the_edge_for_each_prefix() -> None:
    made = exposed(
        {**ROUTE, "allow_from": ["192.0.2.0/24", "198.51.100.0/24"], "trusted_proxies": ["10.0.0.0/8"]}, iris="m"
    )
    tracking, model = made.all("Route")
    assert tracking.type == "kubernetes:route.openshift.io/v1:Route"
    assert tracking.inputs["spec"] == {
        "host": "mlflow.example.com",
        "to": {"kind": "Service", "name": "mlflow", "weight": 100},
        "port": {"targetPort": "public"},
        "tls": {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
        "wildcardPolicy": "None",
    }
    assert tracking.inputs["metadata"]["annotations"] == {
        "haproxy.router.openshift.io/timeout": "3600s",
        "haproxy.router.openshift.io/hsts_header": "max-age=31536000",
        "haproxy.router.openshift.io/ip_allowlist": "192.0.2.0/24 198.51.100.0/24",
        "haproxy.router.openshift.io/ip_whitelist": "192.0.2.0/24 198.51.100.0/24",
    }
    assert (tracking.name, model.name) == ("mlflow", "mlflow-serving-iris")
    assert model.inputs["spec"]["path"] == "/serving/iris"
    assert model.inputs["spec"]["to"] == {"kind": "Service", "name": "m", "weight": 100}


def test_an_http_route_has_a_rule_for_each_prefix() -> None:
    route = exposed({**GATEWAY, "path": "/ml"}, iris="mlflow-iris").one("HTTPRoute")
    assert route.type == "kubernetes:gateway.networking.k8s.io/v1:HTTPRoute"
    assert route.inputs["spec"] == {
        "parentRefs": [{"kind": "Gateway", "namespace": "infra", "name": "public"}],
        "hostnames": ["mlflow.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
                "backendRefs": [{"kind": "Service", "name": service, "port": 8080}],
                "timeouts": {"request": "3600s"},
            }
            for prefix, service in (("/ml", "mlflow"), ("/ml/serving/iris", "mlflow-iris"))
        ],
    }


def test_a_load_balancer_forwards_https_to_the_proxy_for_the_allowed_clients() -> None:
    expose = {
        "load_balancer": {"class_name": "service.k8s.aws/nlb"},
        "host": "mlflow.example.com",
        "tls": {"issuer": "le"},
        "allow_from": ["192.0.2.0/24"],
        "annotations": {"a.example/b": "c"},
    }
    made = exposed(expose, iris="mlflow-iris")
    assert [resource.type.rpartition(":")[2] for resource in made.registrations if resource.custom] == [
        "Certificate",
        "Service",
    ]
    service = made.one("Service").inputs
    assert service["metadata"]["name"] == "mlflow-public"
    assert service["metadata"]["annotations"] == {"pulumi.com/skipAwait": "true", "a.example/b": "c"}
    assert service["spec"] == {
        "type": "LoadBalancer",
        "loadBalancerClass": "service.k8s.aws/nlb",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "selector": {"app": "x"},
        "ports": [{"name": "public", "port": 443, "targetPort": "public"}],
    }
    without = exposed({"load_balancer": {}, "host": "h"}).one("Service").inputs["spec"]
    assert without == {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "selector": {"app": "x"},
        "ports": [{"name": "public", "port": 80, "targetPort": "public"}],
    }


@pytest.mark.parametrize(
    ("host", "tls", "issuer", "subject"),
    [
        ("a.example", {"issuer": "le"}, "ClusterIssuer", {"dnsNames": ["a.example"]}),
        ("192.0.2.7", {"issuer": "le", "issuer_kind": "Issuer"}, "Issuer", {"ipAddresses": ["192.0.2.7"]}),
    ],
)
def test_a_certificate_is_requested_for_the_host(host: str, tls: dict, issuer: str, subject: dict) -> None:
    made = exposed({"node_port": 30500, "host": host, "tls": tls}).one("Certificate")
    assert made.type == "kubernetes:cert-manager.io/v1:Certificate"
    assert made.inputs["spec"] == {
        "secretName": "mlflow-tls",
        "issuerRef": {"group": "cert-manager.io", "kind": issuer, "name": "le"},
        "privateKey": {"rotationPolicy": "Always"},
        **subject,
    }


@pytest.mark.parametrize("kind", [{"load_balancer": {}}, {"node_port": 30500}], ids=lambda kind: next(iter(kind)))
@pytest.mark.parametrize(
    ("tls", "secret"), [({"secret": "own"}, "own"), ({"issuer": "le"}, "mlflow-tls")], ids=["secret", "issuer"]
)
def test_every_proxy_serves_the_certificate_itself(kind: dict, tls: dict, secret: str) -> None:
    model = {"name": "iris", "uri": "models:/iris/1"}
    args = {"existing_namespace": "team", "expose": {**kind, "host": "a.example", "tls": tls}, "models": [model]}
    deployment = engine.deploy(lambda: MlflowStack("mlflow", args) and None)
    for workload, name in (("StatefulSet", "mlflow"), ("Deployment", "mlflow-iris")):
        pod = deployment.one(workload).inputs["spec"]["template"]["spec"]
        items = [{"key": key, "path": key} for key in ("tls.crt", "tls.key")]
        source = {"secretName": secret, "defaultMode": 0o440, "items": items}
        assert {"name": "certificate", "secret": source} in pod["volumes"]
        (proxy,) = [container for container in pod["containers"] if container["name"] == "proxy"]
        mount = {"name": "certificate", "mountPath": "/etc/mlflow-stack-certificate", "readOnly": True}
        assert mount in proxy["volumeMounts"]
        text = deployment.one("ConfigMap", f"{name}-proxy").inputs["data"]["nginx.conf"]
        assert ("listen 8080 ssl;" in text, "listen 8081 ssl" in text) == (True, False)


def test_a_model_behind_a_load_balancer_is_reached_in_the_cluster() -> None:
    args = {
        "namespace": "team",
        "expose": {"load_balancer": {}, "host": "a.example"},
        "models": [{"name": "iris", "uri": "models:/iris/1"}],
    }
    deployment = engine.deploy(lambda: pulumi.export("modelUrls", MlflowStack("mlflow", args).model_urls))
    assert deployment.outputs["modelUrls"]["value"] == {"iris": "http://mlflow-iris.team.svc/serving/iris"}


def test_a_users_annotation_wins() -> None:
    given = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60", "a.example/b": "c"}
    made = exposed({**INGRESS, "annotations": given}).one("Ingress").inputs["metadata"]["annotations"]
    assert {key: made[key] for key in given} == given


@pytest.mark.parametrize(
    ("expose", "url", "origin"),
    [
        (INGRESS, "http://mlflow.example.com", "http://mlflow.example.com"),
        ({**INGRESS, "tls": {}, "path": "/ml"}, "https://mlflow.example.com/ml", "https://mlflow.example.com"),
        (ROUTE, "https://mlflow.example.com", "https://mlflow.example.com"),
        (GATEWAY, "https://mlflow.example.com", "https://mlflow.example.com"),
        (
            {"host": "192.0.2.7", "node_port": 30500, "path": "/ml"},
            "http://192.0.2.7:30500/ml",
            "http://192.0.2.7:30500",
        ),
        (
            {"host": "192.0.2.7", "node_port": 30500, "tls": {"issuer": "le"}},
            "https://192.0.2.7:30500",
            "https://192.0.2.7:30500",
        ),
        (
            {"host": "a.example", "load_balancer": {}, "tls": {"issuer": "le"}},
            "https://a.example",
            "https://a.example",
        ),
        ({}, "http://mlflow.team.svc", "http://mlflow.team.svc"),
    ],
    ids=["ingress", "ingress with tls", "route", "gateway", "nodeport", "nodeport with tls", "load balancer", "none"],
)
def test_every_list_follows_from_one_host(expose: dict, url: str, origin: str) -> None:
    deployment = stack(expose)
    variables = env(deployment)
    host = expose.get("host", "mlflow")
    assert variables["MLFLOW_SERVER_ALLOWED_HOSTS"].startswith(f"{host},{host}:*,mlflow")
    assert variables["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == origin
    assert variables["MLFLOW_STATIC_PREFIX"] == expose.get("path", "")
    assert (f"server_name {host};" in conf(deployment)) == ("host" in expose)
    assert (f"{host} https;" in conf(deployment)) == url.startswith("https")
    secret = deployment.one("Secret", "mlflow-client").inputs["stringData"]
    assert secret["MLFLOW_TRACKING_URI"] == "http://mlflow.team.svc" + expose.get("path", "")


@pytest.mark.parametrize(
    ("expose", "callers"),
    [
        (
            INGRESS,
            [
                {
                    "namespaceSelector": {},
                    "podSelector": {
                        "matchExpressions": [
                            {
                                "key": "app.kubernetes.io/name",
                                "operator": "In",
                                "values": list(ingress.CONTROLLERS),
                            }
                        ]
                    },
                },
                OPENSHIFT,
            ],
        ),
        (ROUTE, [OPENSHIFT]),
        (
            GATEWAY,
            [
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {key: value}}}
                for key, value in (
                    ("gateway.networking.k8s.io/gateway-name", "public"),
                    ("gateway.envoyproxy.io/owning-gateway-name", "public"),
                    ("app.kubernetes.io/name", "traefik"),
                )
            ],
        ),
        (
            {**INGRESS, "controller": {"namespace_selector": {"a": "b"}, "pod_selector": {"c": "d"}}},
            [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}}],
        ),
        (
            {**INGRESS, "controller": {"pod_selector": {"c": "d"}}},
            [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"c": "d"}}}],
        ),
        ({**ROUTE, "controller": {"cidrs": ["192.0.2.0/24"]}}, [{"ipBlock": {"cidr": "192.0.2.0/24"}}]),
        ({"host": "h", "node_port": 30500}, "everyone"),
        ({"host": "h", "load_balancer": {}}, "everyone"),
        ({"host": "h", "load_balancer": {}, "allow_from": ["192.0.2.0/24"]}, [{"ipBlock": {"cidr": "192.0.2.0/24"}}]),
        (
            {"host": "h", "node_port": 30500, "allow_from": ["192.0.2.0/24"]},
            [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        ),
    ],
    ids=[
        *("ingress", "route", "gateway", "selectors", "pods", "addresses", "nodeport", "load balancer"),
        *("load balancer with a list", "nodeport with a list"),
    ],
)
def test_who_may_connect_to_the_public_port(expose: dict, callers: Any) -> None:
    assert public_callers(stack(expose)) == callers


def test_the_internal_port_is_for_the_own_namespace_and_those_named() -> None:
    deployment = stack({}, internal_from=[{"namespace_selector": {"team": "red"}}, {"pod_selector": {"job": "x"}}])
    assert deployment.one("NetworkPolicy").inputs["spec"]["ingress"] == [
        {
            "ports": [{"port": 8081, "protocol": "TCP"}],
            "from": [
                {"podSelector": {}},
                {"podSelector": {}, "namespaceSelector": {"matchLabels": {"team": "red"}}},
                {"podSelector": {"matchLabels": {"job": "x"}}},
            ],
        }
    ]


def test_addresses_outside_are_opened_by_their_port() -> None:
    deployment = stack({}, egress=[{"cidr": "192.0.2.0/24", "port": 443.0}])
    assert deployment.one("NetworkPolicy").inputs["spec"]["egress"][1:] == [
        {"ports": [{"port": 443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    ]


def test_a_list_that_admits_everyone_is_accepted_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda text, *_: warned.append(text))
    exposed({"host": "h", "node_port": 30500, "allow_from": ["0.0.0.0/0", "192.0.2.0/24"]})
    ingress = {"ingress": {}, "host": "h.example.com"}
    exposed({**ingress, "controller": {"cidrs": ["0.0.0.0/1", "128.0.0.0/1"]}})
    exposed({**ingress, "controller": {"cidrs": ["10.0.0.0/8"]}, "trusted_proxies": ["10.0.0.0/8"]})
    assert warned == [
        "expose.allowFrom: 0.0.0.0/0 admits most of the internet.",
        "expose.controller.cidrs: 0.0.0.0/0 admits most of the internet.",
    ]


@pytest.mark.parametrize(
    ("former", "current", "warnings"),
    [
        ({"kind": "none"}, {}, ["kind"]),
        ({"kind": "ingress", "host": "h.example"}, {"ingress": {}, "host": "h.example"}, ["kind"]),
        (
            {"kind": "ingress", "host": "h.example", "class_name": "nginx"},
            {"ingress": {"class_name": "nginx"}, "host": "h.example"},
            ["kind", "class_name"],
        ),
        (
            {"kind": "ingress", "host": "h.example", "ingress": {"class_name": "nginx"}},
            {"ingress": {"class_name": "nginx"}, "host": "h.example"},
            ["kind"],
        ),
        ({"kind": "route", "host": "h.example"}, {"route": {}, "host": "h.example"}, ["kind"]),
        ({"kind": "gateway", "gateway": "a/b", "host": "h.example"}, {"gateway": "a/b", "host": "h.example"}, ["kind"]),
        (
            {"kind": "nodeport", "node_port": 30500, "host": "h.example"},
            {"node_port": 30500, "host": "h.example"},
            ["kind"],
        ),
    ],
)
def test_deprecated_keys_select_the_same_address_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, former: dict, current: dict, warnings: list[str]
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", lambda text, *_: warned.append(text))
    assert resolve("mlflow", {"expose": former}).args == resolve("mlflow", {"expose": current}).args
    instead = {
        "kind": "Use one of the keys ingress, route, gateway and node_port, or none of them.",
        "class_name": "Use ingress.class_name.",
    }
    assert warned == [f"MlflowStack 'mlflow': expose.{key}: deprecated. {instead[key]}" for key in warnings]


def test_nothing_is_made_where_nothing_is_exposed() -> None:
    assert [resource.type for resource in exposed({}).registrations if resource.custom] == []


@pytest.mark.parametrize(
    "expose",
    [
        {**INGRESS, "trusted_proxies": ["10.0.0.0/8"]},
        {**ROUTE, "trusted_proxies": ["10.0.0.0/8"]},
        {**GATEWAY, "trusted_proxies": ["10.0.0.0/8"]},
        {"node_port": 30500, "host": "mlflow.example.com"},
        {"load_balancer": {}, "host": "mlflow.example.com"},
    ],
    ids=lambda expose: next(iter(expose)),
)
def test_allow_list_reaches_every_proxy(expose: dict[str, Any]) -> None:
    model = {"name": "iris", "uri": "models:/iris/1"}
    deployment = stack({**expose, "allow_from": ["192.0.2.0/24"]}, models=[model])
    for proxy in ("mlflow-proxy", "mlflow-iris-proxy"):
        text = deployment.one("ConfigMap", proxy).inputs["data"]["nginx.conf"]
        assert "192.0.2.0/24 0;" in text, proxy
        assert ("set_real_ip_from 10.0.0.0/8;" in text) is ("trusted_proxies" in expose), proxy
