"""Public address as seen by a browser, a stranger and other pods: of dev, under a path, and through a Gateway."""

import base64
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from e2e.browser import Browser
from e2e.platform_under_test import Platform, Stack, Visitor, eventually, quickstart, status
from playwright.sync_api import Error, Page, expect

import engine
from mlflow_stack import MlflowStack
from mlflow_stack_cli.progress import Progress
from sandbox import authority, hosts, services
from sandbox.cluster import crds

PROGRAM = Path(__file__).parent / "programs" / "consumer"
NAMESPACE = "exposure"
PORT = 30700
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=10"
METADATA = "169.254.169.254"


@dataclass(frozen=True)
class Address:
    """Public address with the credentials of its client."""

    url: str
    client: dict[str, str]

    @property
    def auth(self) -> tuple[str, str]:
        return self.client["MLFLOW_TRACKING_USERNAME"], self.client["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture(scope="module")
def stack(platform: Platform) -> Iterator[Stack]:
    """Three more servers: one under a path, only for this machine, one through the node's Gateway, one at a port.

    cert-manager issues the certificates of the first one, for the Ingress, and of the last one, for the proxy. The
    second one uses the Gateway's.
    """
    platform.serve(services.CERT_MANAGER)
    platform.namespace(NAMESPACE)
    domain = platform.instance.domain
    common = {"trusted_proxies": [platform.instance.pod_cidr]}
    exposed = {
        "path": {
            "ingress": {"class_name": "traefik"},
            "host": f"path.{domain}",
            "path": "/mlflow",
            "tls": {"issuer": "local"},
            "allow_from": [f"{platform.instance.machine_address}/32"],
            **common,
        },
        "gateway": {"gateway": "traefik/traefik", "host": f"gateway.{domain}", "tls": {}, **common},
        "port": {"node_port": PORT, "host": f"port.{domain}", "tls": {"issuer": "local"}},
    }
    stacks = {
        name: {
            "existing_namespace": NAMESPACE,
            "image": platform.images["mlflow"],
            "proxy_image": platform.images["proxy"],
            "resources": {"requests": {"cpu": "100m"}},
            "rollout_timeout": "5m",
            "expose": expose,
        }
        for name, expose in exposed.items()
    }
    stack = Stack(platform, "exposure", {"stacks": stacks}, program=PROGRAM, project="consumer")
    stack.up()
    yield stack
    stack.destroy()
    platform.kubectl("delete", "namespace", NAMESPACE)


@pytest.fixture(scope="module", params=["dev", "path", "gateway"])
def address(request: pytest.FixtureRequest, platform: Platform, client: dict[str, str]) -> Address:
    """The three addresses, each with a run and a model."""
    if request.param == "dev":
        return Address(client["MLFLOW_TRACKING_URI"], client)
    stack: Stack = request.getfixturevalue("stack")
    trust = {"MLFLOW_TRACKING_SERVER_CERT_PATH": client["MLFLOW_TRACKING_SERVER_CERT_PATH"]}
    return Address(stack.output(request.param)["MLFLOW_TRACKING_URI"], {**stack.output(request.param), **trust})


@pytest.fixture(scope="module", autouse=True)
def found(platform: Platform) -> None:
    """Make the names of this module's stacks resolvable on this machine, as `up` does for its own."""
    for name in ("path", "gateway", "port"):
        hosts.add(platform.instance, f"{name}.{platform.instance.domain}")


def screenshot(page: Page, name: str, folder: Path) -> None:
    """Screenshots, kept for inspection: pytest keeps the folders of its last three runs."""
    file = folder / f"{name}.png"
    page.screenshot(path=file)
    print(file)


def test_a_browser_that_knows_the_authority_is_asked_for_the_password(
    platform: Platform, client: dict[str, str], tmp_path: Path
) -> None:
    url = client["MLFLOW_TRACKING_URI"]
    unknown = pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID")
    with Browser(platform.instance, tmp_path / "stranger", trusting=False).visit(None) as visit, unknown:
        visit.new_page().goto(url)
    # The tests cannot type the password into Chromium's own dialog.
    asked = pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS")
    with Browser(platform.instance, tmp_path / "friend").visit(None) as visit, asked:
        visit.new_page().goto(url)


def test_a_person_works_in_the_browser(address: Address, platform: Platform, tmp_path: Path) -> None:
    """Create an experiment, look at the figure of a run, open a model."""
    run = re.findall(r"^run: .*#(/experiments/\d+/runs/\w+)$", quickstart(address.client, "--megabytes", "1"), re.M)[0]
    with Browser(platform.instance, tmp_path / "home").visit(address.auth) as visit:
        page = visit.new_page()
        opened = page.goto(f"{address.url}/")
        assert opened is not None
        assert opened.status == 200
        page.goto(f"{address.url}/#/experiments")
        expect(page.get_by_role("link", name="quickstart")).to_be_visible()
        page.get_by_role("button", name="Create", exact=True).click()
        name = page.get_by_placeholder("Input an experiment name")
        name.fill("made in the browser")
        with page.expect_response(lambda one: one.url.endswith("/experiments/create")) as made:
            page.get_by_role("dialog").get_by_role("button", name="Create").click()
        assert (made.value.request.method, made.value.status) == ("POST", 200)
        # The UI opens the experiment, and then a page of it: a visit elsewhere before that is redirected back.
        page.wait_for_url(re.compile(r"#/experiments/\d+/\w+"))
        # The new page may open a popover of its own, which is a dialog as well.
        expect(name).to_have_count(0)
        screenshot(page, "experiment", tmp_path)
        page.goto(f"{address.url}/#{run}/artifacts/predictions.png")
        # 5 inches, at 100 dots an inch.
        page.wait_for_function("[...document.images].some(image => image.naturalWidth === 500)")
        screenshot(page, "figure", tmp_path)
        page.goto(f"{address.url}/#/models/diabetes")
        expect(page.get_by_text("champion").first).to_be_visible()
        screenshot(page, "model", tmp_path)
    found = requests.get(
        address.url + "/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "made in the browser"},
        auth=address.auth,
        timeout=30,
    )
    assert found.json()["experiment"]["lifecycle_stage"] == "active"


ASK = """
import http.client, json, socket, ssl, sys
address, host, path, authority, headers = sys.argv[1:]
context = ssl.create_default_context(cadata=authority)
raw = socket.create_connection((address, 443), timeout=30)
connection = http.client.HTTPConnection(host, timeout=30)
connection.sock = context.wrap_socket(raw, server_hostname=host)
connection.request("GET", path, headers=json.loads(headers))
print(connection.getresponse().status)
"""


@pytest.fixture(scope="module")
def colleague(platform: Platform, stack: Stack) -> Iterator[Visitor]:
    """Pod in the namespace of the servers."""
    visitor = platform.visitor(NAMESPACE)
    visitor.listen(9999)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="module")
def metadata_service(platform: Platform) -> Iterator[str]:
    """Stand-in for a cloud's metadata service at the link-local address, inside the node's own network."""
    platform.node.run("ip", "address", "add", f"{METADATA}/32", "dev", "lo")
    platform.namespace("metadata", **{"pod-security.kubernetes.io/enforce": "privileged"})
    command = ["python", "-m", "http.server", "--directory", "/tmp", "--bind", METADATA, "80"]
    platform.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "metadata", "namespace": "metadata"},
            "spec": {
                "hostNetwork": True,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "http", "image": platform.images["mlflow"], "command": command}],
            },
        }
    )
    platform.kubectl("wait", "--for=condition=Ready", "pod/metadata", "-n", "metadata", "--timeout=120s")
    yield f"{METADATA}:80"
    platform.kubectl("delete", "namespace", "metadata")
    platform.node.run("ip", "address", "delete", f"{METADATA}/32", "dev", "lo")


def pod_of(platform: Platform, name: str) -> dict:
    """Return the tracking pod of one of this module's servers."""
    (pod,) = platform.objects(
        "pods", NAMESPACE, "--selector", f"app.kubernetes.io/instance={name},app.kubernetes.io/component=tracking"
    )
    return pod


def answer(platform: Platform, visitor: Visitor, host: str, path: str, **headers: str) -> int:
    """Return the status that a pod gets through the ingress controller, as an external client would."""
    trust = authority.root(platform.instance).read_text()
    return int(visitor.python(ASK, platform.instance.node_address, host, path, trust, json.dumps(headers)))


def test_a_request_for_an_unknown_name_goes_nowhere(address: Address, platform: Platform) -> None:
    assert status(address.url + SEARCH, address.auth) == 200
    unknown = f"other.{platform.instance.domain}"
    assert status(address.url + SEARCH, address.auth, headers={"Host": unknown}) == 404


def test_http_is_redirected_before_a_password_is_sent(address: Address) -> None:
    plain = requests.get(address.url.replace("https:", "http:") + "/", allow_redirects=False, timeout=30)
    assert plain.status_code in (301, 308)
    assert plain.headers["Location"] == address.url + "/"
    assert "WWW-Authenticate" not in plain.headers


@pytest.mark.usefixtures("client")
def test_a_certificate_is_issued_for_the_name_and_served(platform: Platform, stack: Stack) -> None:
    host = f"path.{platform.instance.domain}"

    def issued() -> bytes | None:
        found = {secret["metadata"]["name"]: secret for secret in platform.objects("secrets", NAMESPACE)}
        kept = found.get("path-tls", {}).get("data", {}).get("tls.crt")
        return base64.b64decode(kept) if kept else None

    def asked(name: str) -> bytes:
        return ssl.get_server_certificate((name, 443)).encode()

    leaf = x509.load_pem_x509_certificate(eventually("a certificate is issued", issued))
    assert leaf.issuer == x509.load_pem_x509_certificate(authority.root(platform.instance).read_bytes()).subject
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host]
    eventually("it is served", lambda: x509.load_pem_x509_certificate(asked(host)) == leaf)
    assert status(f"https://{host}/mlflow{SEARCH}") == 401


@pytest.mark.usefixtures("client")
def test_the_proxy_serves_a_certificate_of_cert_manager_at_a_node_port(platform: Platform, stack: Stack) -> None:
    env = stack.output("port")
    host = f"port.{platform.instance.domain}:{PORT}"
    assert env["MLFLOW_TRACKING_URI"] == f"https://{host}"
    assert status(f"https://{host}{SEARCH}") == 401
    assert status(f"https://{host}{SEARCH}", (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])) == 200
    plain = requests.get(f"http://{host}{SEARCH}", allow_redirects=False, timeout=30)
    assert (plain.status_code, plain.headers["Location"]) == (308, f"https://{host}{SEARCH}")


def test_a_foreign_origin_cannot_write(address: Address) -> None:
    create = address.url + "/api/2.0/mlflow/experiments/create"
    written = {"json": {"name": "from another origin"}, "method": "POST"}
    assert status(create, address.auth, headers={"Origin": "https://evil.example"}, **written) == 403
    origin = "/".join(address.url.split("/")[:3])
    assert status(create, address.auth, headers={"Origin": origin}, **written) == 200


def test_only_who_is_allowed_comes_in_whatever_address_is_claimed(
    platform: Platform, stack: Stack, stranger: Visitor
) -> None:
    host = f"path.{platform.instance.domain}"
    assert status(f"https://{host}/mlflow{SEARCH}") == 401
    ours = platform.instance.machine_address
    claims = ({}, {"X-Forwarded-For": ours}, {"X-Forwarded-For": f"{ours}, {ours}"}, {"X-Real-Ip": ours})
    for claim in claims:
        assert answer(platform, stranger, host, f"/mlflow{SEARCH}", **claim) == 403
    assert answer(platform, stranger, f"gateway.{platform.instance.domain}", SEARCH) == 401


def test_other_pods_reach_only_the_proxy_as_allowed(
    platform: Platform, stack: Stack, stranger: Visitor, colleague: Visitor
) -> None:
    """The public port accepts only the controller, the internal port only the same namespace."""
    pod = pod_of(platform, "path")["status"]["podIP"]
    ports = [f"{pod}:{port}" for port in (8080, 8081, 5000)]
    wanted = ["closed", "open", "closed"]
    eventually("a colleague is let in", lambda: colleague.connects(*ports) == wanted, 30)
    listener = f"{colleague.address()}:9999"
    assert stranger.connects(*ports, listener) == ["closed", "closed", "closed", "open"]


def test_the_server_opens_no_connection_that_it_need_not(
    platform: Platform, stack: Stack, stranger: Visitor, colleague: Visitor, metadata_service: str
) -> None:
    targets = [metadata_service, f"{colleague.address()}:9999"]
    assert stranger.connects(*targets) == ["open", "open"]
    server = Visitor(platform, NAMESPACE, pod_of(platform, "path")["metadata"]["name"], "mlflow")
    assert server.connects(*targets) == ["closed", "closed"]
    lookup = f"import socket; print(socket.gethostbyname('path.{NAMESPACE}.svc.cluster.local'))"
    service = platform.kubectl("get", "service", "path", "-n", NAMESPACE, "--output=jsonpath={.spec.clusterIP}")
    assert server.python(lookup) == service


def test_slow_clients_do_not_stop_a_fast_one(platform: Platform, stack: Stack, stranger: Visitor) -> None:
    """Half of the clients never end their headers, half never end their body; each sends a byte now and then."""
    host = f"gateway.{platform.instance.domain}"
    env = stack.output("gateway")
    token = base64.b64encode(f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}".encode()).decode()
    start = f"POST {SEARCH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {token}\r\nContent-Length: 100000\r\n"
    context = ssl.create_default_context(cafile=authority.root(platform.instance))
    slow: list[ssl.SSLSocket] = []
    try:
        for number in range(200):
            raw = socket.create_connection((host, 443), timeout=30)
            slow.append(context.wrap_socket(raw, server_hostname=host))
            slow[-1].sendall((start + "\r\n" * (number % 2)).encode())
        for _ in range(5):
            for connection in slow:
                with suppress(OSError):  # above the limit of connections: refused
                    connection.sendall(b"x")
            assert answer(platform, stranger, host, "/readyz") == 200
            assert answer(platform, stranger, host, SEARCH) == 401
    finally:
        for connection in slow:
            connection.close()
    assert status(f"https://{host}{SEARCH}", (env["MLFLOW_TRACKING_USERNAME"], env["MLFLOW_TRACKING_PASSWORD"])) == 200


# Checks of OpenShift's restricted-v2, before it sets UID, GID and fsGroup itself.
RESTRICTED_V2 = {
    "no fixed UID": "!has(pod.securityContext.runAsUser) && containers.all(c, !has(c.securityContext.runAsUser))",
    "no fixed fsGroup": "!has(pod.securityContext.fsGroup)",
    "no SELinux options": "!has(pod.securityContext.seLinuxOptions)",
    "seccomp": "pod.securityContext.seccompProfile.type == 'RuntimeDefault'",
    "no escalation": "containers.all(c, c.securityContext.allowPrivilegeEscalation == false)",
    "no capabilities": "containers.all(c, !has(c.securityContext.capabilities.add))",
    "no token, no csi, no ephemeral volume": "!has(pod.volumes) || pod.volumes.all(v, has(v.configMap) || "
    "has(v.downwardAPI) || has(v.emptyDir) || has(v.persistentVolumeClaim) || has(v.projected) || has(v.secret))",
    "the wanted policy": "object.spec.template.metadata.annotations['openshift.io/required-scc'] == 'restricted-v2'",
}


@pytest.fixture
def openshift(platform: Platform) -> Iterator[str]:
    """Namespace with the API of Routes, in which pods are validated as by restricted-v2."""
    namespace = "openshift"
    with Progress() as progress:
        route = crds.definitions(progress, crds.ROUTE)
    platform.kubectl("apply", "--server-side", "--filename=-", stdin=route)
    platform.kubectl("wait", "--for=condition=Established", "crd/routes.route.openshift.io", "--timeout=60s")
    platform.namespace(namespace)
    named = {"metadata": {"name": "restricted-v2"}}
    kinds = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets"], "operations": ["CREATE"]}
    policy = {
        "matchConstraints": {"resourceRules": [kinds]},
        "variables": [
            {"name": "pod", "expression": "object.spec.template.spec"},
            {
                "name": "containers",
                "expression": "variables.pod.containers + variables.pod.?initContainers.orValue([])",
            },
        ],
        "validations": [
            {"expression": re.sub(r"\b(pod|containers)\b(?=\.)", r"variables.\1", rule), "message": what}
            for what, rule in RESTRICTED_V2.items()
        ],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "policyName": "restricted-v2",
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": here},
    }
    admission = {"apiVersion": "admissionregistration.k8s.io/v1", **named}
    platform.apply(
        {**admission, "kind": "ValidatingAdmissionPolicy", "spec": policy},
        {**admission, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    )
    yield namespace
    platform.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "restricted-v2")
    platform.kubectl("delete", "namespace", namespace)


def test_openshift_would_take_route_and_pod(platform: Platform, openshift: str) -> None:
    """Validated by OpenShift's definition of a Route and by the rules of restricted-v2; nothing is stored."""

    def sent(kind: str, **args: Any) -> dict[str, Any]:
        expose = {"route": {}, "host": "mlflow.example.com", "path": "/mlflow", "allow_from": ["192.0.2.0/24"]}
        expose |= {"trusted_proxies": ["10.128.0.0/14"]}
        args = {"existing_namespace": openshift, "expose": expose, **args}
        (one,) = engine.deploy(lambda: MlflowStack("mlflow", args) and None).all(kind)
        version = one.type.split(":")[1]
        named = {"name": "mlflow", **one.inputs["metadata"]}
        return {**one.inputs, "apiVersion": version, "kind": kind, "metadata": named}

    def answered(document: dict[str, Any]) -> str:
        words = ("create", "--dry-run=server", "--validate=strict", "--filename=-")
        done = platform.run("kubectl", *words, stdin=json.dumps(document), check=False)
        return done.stdout + done.stderr

    assert "route.route.openshift.io/mlflow created (server dry run)" in answered(sent("Route"))
    wrong = sent("Route")
    wrong["spec"]["tls"]["termination"] = "open"
    assert 'Unsupported value: "open"' in answered(wrong)
    eventually("the rules hold", lambda: "no fixed UID" in answered(sent("StatefulSet")), 30)
    good = sent("StatefulSet", platform="openshift")
    assert "statefulset.apps/mlflow created (server dry run)" in answered(good)
