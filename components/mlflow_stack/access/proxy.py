"""The auth proxy: nginx in the pod of the server it guards, the only way in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ResourceRequirementsArgsDict,
    SecretVolumeSourceArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import pod, validate
from mlflow_stack.access.credentials import HTPASSWD_KEY, LONGEST_NAME
from mlflow_stack.addresses import Addresses
from mlflow_stack.pod import Ingress, PodParts

PUBLIC_PORT = 8080
"""For the public address."""
INTERNAL_PORT = 8081
"""For callers in the cluster: jobs, model servers, probes."""
UPSTREAM_PORT = 5000
"""Where the guarded server listens, on 127.0.0.1."""

VERIFY_PORT = 8082
"""Where nginx asks itself about a password, on 127.0.0.1."""

LIVE = "/livez"
"""Answers 204 while nginx runs."""
HEALTHY = "/healthz"
"""Answers as the server's own health page, which never touches the database."""
READY = "/readyz"
"""Answers 200 while the server reaches its database, else 500; nothing of the answer leaks."""
SERVING = ("ping", "health", "version", "invocations")
"""What a model server answers; nothing else of it is passed on."""
SERVING_ERRORS = tuple(map(HTTPStatus, (401, 403, 404, 413, 429, 502, 503, 504)))
"""What nginx itself answers in front of a model server."""

DEFAULT_IMAGE = "nginxinc/nginx-unprivileged:1.29.4"
DEFAULT_MAX_ARTIFACT_SIZE = "10Gi"
DEFAULT_MAX_CONCURRENT_UPLOADS = 2
DEFAULT_MAX_REQUEST_BYTES = 4 * 2**20
"""For the tracking server's default memory limit."""
GRAPHQL_BYTES = 64 * 2**10
"""The longest GraphQL query. MLflow parses it in full before it counts its fields, at 400 times its size."""
FORM_BYTES = 10 * 2**20
"""The largest file that MLflow takes from its UI. It holds it in memory."""
FORMS = 4
"""Files that the UI uploads at once."""
NO_BODY = 1024
"""Bytes of a body where none is expected."""
SCRATCH_MI = 16
"""MiB of the proxy's ``/tmp`` beside request bodies: cached probes and the process ID."""
HELD_BYTES = 384 * 2**20
"""Bytes of request bodies on the proxy's disk."""
DEFAULT_ANSWER_TIMEOUT = "1h"
ANSWER_MARGIN_SECONDS = 15
"""How long nginx waits beyond a model server's own limit."""

REQUESTS = {"cpu": "20m", "memory": "32Mi"}
LIMITS = {"memory": "128Mi"}

CONFIG = "/etc/mlflow-stack"
AUTH = "/etc/mlflow-stack-auth"
EXISTING_USERS = "/etc/mlflow-stack-users"
"""Mount path of the Secret with users that the stack does not manage."""
USERS_VOLUME = "existing-users"

DRAIN_SECONDS = 50
"""How long requests under way may take when the pod ends."""
LONGEST_DRAIN_SECONDS = 600
LINGER_SECONDS = 5
"""How long a pod that ends still takes requests: who sends them hears of it late, Traefik within two seconds."""
QUIT = f"nginx -e stderr -c {CONFIG}/nginx.conf -s quit; while [ -e /tmp/nginx.pid ]; do sleep 0.2; done"

CONNECTIONS_PER_CLIENT = 100
"""Requests of one client address at once. A guess at a password takes one of them for a second (auth_delay)."""
CONNECTIONS_OF_ALL = 1000
"""The same where all clients come from one address, that of a controller which is not among the trusted proxies."""
REQUESTS_PER_SECOND = 2000
"""Requests of one client address: far above the 260 a second that MLflow can answer on two cores, since nginx counts
before it authenticates and must not slow a team behind one address."""
HEAVY_REQUESTS_PER_SECOND = 200
"""Requests of one client address with a body above 16 kB, or an artifact. They take their places after
authentication, so this bounds the connections that a client without a password holds."""
PROBES_PER_SECOND = 20
"""Probes of one client address. The kubelet sends two a second."""
PROBES_OF_ALL_PER_SECOND = 200
"""Probes of all addresses at the public port, where the kubelet sends none."""
HSTS = "max-age=31536000"
"""Strict-Transport-Security of an https address: a year, without other names of its domain."""


@dataclass(frozen=True)
class ExistingUsers:
    """Users of an existing Secret, beside those of the stack."""

    secret: pulumi.Input[str]
    """Name of the Secret, key ``htpasswd``."""
    managed: Sequence[str]
    """The stack's own users, whose passwords are never looked up in the Secret."""


@dataclass(frozen=True)
class Access:
    """Who comes to the two ports."""

    ingress: Sequence[Ingress] = (Ingress(INTERNAL_PORT, [{"pod_selector": {}}]),)
    """Who may connect: without more, the pods of the same namespace, to the internal port."""
    allow_from: Sequence[str] = ()
    """The clients that the public port answers, as CIDRs; without any, all."""
    trusted_proxies: Sequence[str] = ()
    """The proxies whose X-Forwarded-For is believed, as CIDRs."""
    existing_users: ExistingUsers | None = None
    """Users with passwords that the stack does not know."""


class AuthProxyArgs(TypedDict):
    """What is guarded, for whom, and how large a request may be."""

    namespace: pulumi.Input[str]
    """Namespace of the configuration."""
    addresses: pulumi.Input[Addresses]
    """The names that are answered; any other gets 421."""
    htpasswd: pulumi.Input[str]
    """Name of the Secret with the password file, key ``htpasswd``."""
    image: NotRequired[pulumi.Input[str]]
    """The nginx image, 1.19.5 or later, with auth_request. Default: nginxinc/nginx-unprivileged."""
    resources: NotRequired[pod.ResourcesArgs]
    """Default: requests 20m CPU and 32Mi, limit 128Mi."""
    max_artifact_size: NotRequired[str]
    """The largest artifact, or a model server's largest request, a quantity of bytes; above it 413. Default: 10Gi."""
    max_request_bytes: NotRequired[int]
    """Bytes of the largest body of any other request; above it 413. Default: 4194304."""
    max_concurrent_uploads: NotRequired[int]
    """Artifact uploads at once, of which one user has half; one more gets 429, which MLflow's client repeats.
    Default: 2."""
    presigned: NotRequired[bool]
    """Whether MLflow may offer clients signed addresses of its artifact store. Default: true."""
    serving: NotRequired[str]
    """Name of a model: the guarded server is that model's, which answers under ``/serving/<name>/`` of the addresses.
    Default: none, it is MLflow's tracking server."""
    answer_timeout: NotRequired[str]
    """How long a served model may take for an answer. Default: 1h."""
    linger: NotRequired[bool]
    """Whether a pod that ends still takes requests for 5 s, until none is sent to it: where another pod comes before it
    goes. Default: false."""
    access: NotRequired[Access]
    """Who comes. Default: the pods of the same namespace, to the internal port."""
    labels: NotRequired[Mapping[str, str]]
    """More labels. Default: {}."""


@validate.rules(AuthProxyArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("image", validate.image)
    fields.check("serving", validate.dns_label)
    pod.resource_rules(fields, REQUESTS, LIMITS)
    fields.check("answer_timeout", validate.duration)
    size_rules(fields)


def size_rules(fields: validate.Fields) -> None:
    """What the size fields may be; MlflowStack's args hold the same two."""
    fields.check("max_artifact_size", validate.size)
    fields.check("max_concurrent_uploads", validate.between(1, 1000))


class AuthProxy(pulumi.ComponentResource):
    """nginx with basic authentication as a sidecar."""

    parts: PodParts
    """What the guarded server's pod needs."""

    def __init__(self, name: str, args: AuthProxyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("AuthProxy", name, AuthProxyArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:AuthProxy", name, {}, opts)
        limits = Limits(
            validate.bytes_of(accepted.get("max_artifact_size", DEFAULT_MAX_ARTIFACT_SIZE)),
            accepted.get("max_concurrent_uploads", DEFAULT_MAX_CONCURRENT_UPLOADS),
            accepted.get("max_request_bytes", DEFAULT_MAX_REQUEST_BYTES),
        )
        serving = accepted.get("serving")
        answer_seconds = validate.seconds_of(accepted.get("answer_timeout", DEFAULT_ANSWER_TIMEOUT))
        linger = LINGER_SECONDS if accepted.get("linger") else 0
        presigned = accepted.get("presigned", True)
        access = accepted.get("access", Access())
        config = k8s.core.v1.ConfigMap(
            f"{name}-proxy",
            metadata={
                "namespace": accepted["namespace"],
                "labels": pod.labels(name, "proxy", accepted.get("labels")),
            },
            immutable=True,
            data={
                "nginx.conf": pulumi.Output.from_input(accepted["addresses"]).apply(
                    lambda addresses: nginx_conf(addresses, limits, access, serving, presigned, answer_seconds)
                ),
                "ready": "ready\n",
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        scratch, scratch_mount = pod.scratch("proxy-tmp", _scratch_size(limits, serving))
        volumes, mounts = _users(access)
        self.parts = PodParts(
            containers=[
                {
                    "name": "proxy",
                    "image": accepted.get("image", DEFAULT_IMAGE),
                    "command": ["nginx"],
                    "args": ["-e", "stderr", "-c", f"{CONFIG}/nginx.conf", "-g", "daemon off;"],
                    "ports": [
                        {"name": "public", "container_port": PUBLIC_PORT},
                        {"name": "internal", "container_port": INTERNAL_PORT},
                    ],
                    "resources": container_resources(accepted.get("resources"), limits, serving),
                    "security_context": pod.container_security(),
                    "termination_message_policy": "FallbackToLogsOnError",
                    "startup_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 1,
                        "failure_threshold": 60,
                    },
                    "liveness_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 10,
                        "timeout_seconds": 5,
                    },
                    "readiness_probe": {
                        "http_get": {"path": LIVE, "port": "internal"},
                        "period_seconds": 5,
                        "timeout_seconds": 5,
                    },
                    # SIGTERM would cut requests off at once; quit lets them end, and it comes when this command ends.
                    "lifecycle": {
                        "pre_stop": {"exec_": {"command": ["sh", "-c", f"sleep {linger}; {QUIT}" if linger else QUIT]}}
                    },
                    "volume_mounts": [
                        {"name": "proxy", "mount_path": CONFIG, "read_only": True},
                        # A whole folder, not a subPath: only so a changed Secret reaches the container.
                        {"name": "htpasswd", "mount_path": AUTH, "read_only": True},
                        *mounts,
                        scratch_mount,
                    ],
                }
            ],
            volumes=[
                {
                    "name": "proxy",
                    "config_map": {
                        "name": pod.name_of(config),
                        "default_mode": 0o444,
                    },
                },
                {"name": "htpasswd", "secret": {"secret_name": accepted["htpasswd"], "default_mode": 0o440}},
                *volumes,
                scratch,
            ],
            ingress=access.ingress,
            linger_seconds=linger,
        )
        self.register_outputs({})


def service(
    name: str,
    *,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    selector: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.Service:
    """The Service of a guarded server, with the proxy's two ports.

    :param labels: Of the Service.
    :param selector: Of the server's pods. They are awaited by their own workload: to wait for endpoints as well costs
        4 s more, and a model without replicas has none.
    """
    return k8s.core.v1.Service(
        name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={
            "selector": selector,
            "ports": [
                {"name": "http", "port": 80, "target_port": "internal"},
                {"name": "public", "port": PUBLIC_PORT, "target_port": "public"},
            ],
        },
        opts=opts,
    )


@dataclass(frozen=True)
class Limits:
    """Sizes and numbers of requests that the proxy passes on."""

    artifact: int
    """Bytes of an artifact, or of a model server's request."""
    uploads: int
    """Artifact uploads at once."""
    request: int = DEFAULT_MAX_REQUEST_BYTES
    """Bytes of the body of any other request."""

    @property
    def uploads_of_user(self) -> int:
        """Uploads of one user at once: half of all, so that no user takes every place."""
        return (self.uploads + 1) // 2

    @property
    def held(self) -> int:
        """Request bodies on disk at once: more of them, the smaller they may be."""
        return min(max(HELD_BYTES // self.request, 16), 96)

    @property
    def held_of_user(self) -> int:
        """Request bodies of one user on disk at once."""
        return self.held // 2

    @property
    def form(self) -> int:
        """Bytes of a file that the UI uploads."""
        return min(FORM_BYTES, self.artifact)

    @property
    def scratch(self) -> int:
        """Bytes that the proxy's ``/tmp`` holds at most: bodies, cached probes, and the process ID."""
        return self.held * self.request + FORMS * self.form + SCRATCH_MI * 2**20


def _scratch_size(limits: Limits, serving: str | None) -> str:
    # A model server's requests are not held.
    return f"{SCRATCH_MI if serving else limits.scratch // 2**20 + 1}Mi"


def container_resources(
    given: pod.ResourcesArgs | None, limits: Limits, serving: str | None = None
) -> ResourceRequirementsArgsDict:
    """Return the resources of the proxy's container.

    :param serving: Name of the model, if the proxy guards a model server.
    """
    return pod.resources(given, {**REQUESTS, "ephemeral-storage": _scratch_size(limits, serving)}, LIMITS)


def drain_seconds(answer_seconds: int) -> int:
    """Return how long a model's pod that ends waits for its predictions: their own limit, within bounds."""
    return min(max(DRAIN_SECONDS, answer_seconds), LONGEST_DRAIN_SECONDS)


def nginx_conf(
    addresses: Addresses,
    limits: Limits,
    access: Access | None = None,
    serving: str | None = None,
    presigned: bool = True,
    answer_seconds: int = 3600,
) -> str:
    """Return nginx's whole configuration.

    ``serving`` is the name of the model, if a model server is guarded, and ``answer_seconds`` that server's own limit.
    Without ``presigned`` clients are not told that they may ask for signed addresses of the artifact store.
    """
    access = access or Access()
    guarded = (
        _tracking(addresses.path, limits, presigned)
        if serving is None
        else _serving(addresses, serving, limits, answer_seconds)
    )
    internal = [*addresses.internal_hosts, "localhost"]
    servers = [
        # Probes of the kubelet and of load balancers use the pod's address as Host.
        _default_server(PUBLIC_PORT, _PUBLIC_PROBES, guarded),
        _default_server(INTERNAL_PORT, "", guarded),
        # `kubectl port-forward` leads to localhost.
        _server(INTERNAL_PORT, internal, [], "", guarded, CONNECTIONS_PER_CLIENT),
    ]
    if access.existing_users is not None:
        managed = "|".join(map(re.escape, access.existing_users.managed))
        servers.insert(0, _USER_FILES.format(managed=managed, own=AUTH, existing=EXISTING_USERS, key=HTPASSWD_KEY))
    if addresses.host is not None:
        # Without trusted proxies, all clients of a controller have its address.
        shared = addresses.port is None and not access.trusted_proxies
        connections = CONNECTIONS_OF_ALL if shared else CONNECTIONS_PER_CLIENT
        rules = _public(addresses, addresses.host, access)
        servers.append(_server(PUBLIC_PORT, [addresses.host], rules, _PUBLIC_PROBES, guarded, connections))
    return _MAIN.format(
        max_body=limits.request,
        requests=REQUESTS_PER_SECOND,
        heavy=HEAVY_REQUESTS_PER_SECOND,
        probes=PROBES_PER_SECOND,
        all_probes=PROBES_OF_ALL_PER_SECOND,
        drain=DRAIN_SECONDS if serving is None else drain_seconds(answer_seconds),
        upstream=UPSTREAM_PORT,
        verify=VERIFY_PORT,
        ready=f"{CONFIG}/ready",
        path=addresses.path,
        uploads="".join(f'\n        "~^PUT {pattern}" 1;' for pattern in guarded.uploads),
        auth="$user_file" if access.existing_users else f"{AUTH}/{HTPASSWD_KEY}",
        clients="".join(f"\n        {client} 0;" for client in dict.fromkeys(access.allow_from)),
        https=f"{addresses.host} https;" if addresses.scheme == "https" else "",
        origin=f"{addresses.host} {addresses.origin};" if addresses.host is not None else "",
        hsts=HSTS,
        servers="\n".join(servers),
    )


def _users(access: Access) -> tuple[list[VolumeArgsDict], list[VolumeMountArgsDict]]:
    """Return the volume and the mount of existing users, if there are any."""
    if access.existing_users is None:
        return [], []
    source: SecretVolumeSourceArgsDict = {
        "secret_name": access.existing_users.secret,
        "default_mode": 0o440,
        "items": [{"key": HTPASSWD_KEY, "path": HTPASSWD_KEY}],
    }
    mount: VolumeMountArgsDict = {"name": USERS_VOLUME, "mount_path": EXISTING_USERS, "read_only": True}
    return [{"name": USERS_VOLUME, "secret": source}], [mount]


@dataclass(frozen=True)
class _Kind:
    """A kind of path: how large a body it takes, and how a request is passed on."""

    body: int
    """Bytes of the largest body."""
    settings: str
    """Lines of the location that passes the request on, after the password has been checked."""
    door: str = ""
    """Lines of the location that checks the password, besides the check itself."""


@dataclass(frozen=True)
class _Guarded:
    """The server behind the proxy."""

    base: str
    """The path that it is reached under."""
    health: str
    """Its own page that says that it lives."""
    ready: str
    """Its own page that says that it can work."""
    kinds: Mapping[str, _Kind]
    """Kinds of paths by name."""
    routes: Sequence[tuple[str, str]]
    """Patterns of paths below the base, each with the name of its kind. The first that matches is taken."""
    rest: str
    """The locations of everything else."""
    uploads: Sequence[str] = ()
    """Patterns of whole paths whose PUT requests are artifact uploads."""


_ARTIFACTS = r"/(ajax-api|api)/2\.0/mlflow-artifacts/artifacts/."
"""Artifacts by path. MLflow streams GET and PUT; the listing, one segment shorter, is an API request."""

_ROUTES = (
    (_ARTIFACTS, "artifact"),
    (r"/ajax-api/2\.0/mlflow/upload-artifact$", "form"),
    (r"/(model-versions/)?get-artifact$", "download"),
    (r"/ajax-api/2\.0/mlflow/logged-models/[^/]+/artifacts/files$", "download"),
    (r"/ajax-api/[23]\.0/mlflow/get-trace-artifact$", "download"),
    (r"/gateway/", "gateway"),
    (r"/graphql$", "graphql"),
    (r"/(static-files/.*)?$", "page"),
)
"""Paths of MLflow that are not of the kind ``api``, below its static prefix. A path that a newer MLflow adds is of that
kind: its body is small, complete and counted before MLflow sees it."""

ROOTS = (
    *("ajax-api", "api", "build", "endpoints", "gateway", "get-artifact", "graphql", "health", "model-versions"),
    *("static-files", "v1", "version", "livez", "healthz", "readyz"),
)
"""First segments of the paths that MLflow and the proxy answer below the static prefix."""

_SERVER_INFO = (r"/(ajax-api|api)/3\.0/mlflow/server-info$", "unsigned")


def _tracking(path: str, limits: Limits, presigned: bool) -> _Guarded:
    base = re.escape(path)
    held = _HELD.format(bodies="bodies", held=limits.held, held_of_user=limits.held_of_user)
    forms = _HELD.format(bodies="forms", held=FORMS, held_of_user=FORMS // 2)
    uploads = _UPLOAD.format(base=base, uploads=limits.uploads, uploads_of_user=limits.uploads_of_user)
    kinds = {
        "api": _Kind(limits.request, held),
        "artifact": _Kind(limits.artifact, _DOWNLOAD + uploads, _NO_OTHER_BODY),
        "form": _Kind(limits.form, forms),
        "download": _Kind(NO_BODY, _DOWNLOAD),
        "gateway": _Kind(limits.request, held + _GATEWAY, _GATEWAY_DOOR),
        "graphql": _Kind(min(GRAPHQL_BYTES, limits.request), held),
        "page": _Kind(NO_BODY, ""),
    }
    routes = _ROUTES
    if not presigned:
        kinds["unsigned"] = _Kind(NO_BODY, _UNSIGNED)
        routes = (_SERVER_INFO, *_ROUTES)
    rest = _ASSISTANT.format(path=base) + _GATEWAY_CHECK + _door("location /", "api", kinds["api"])
    # MLflow's own redirect would name a scheme and no port.
    redirect = _REDIRECT.format(path=path) if path else ""
    search = f"{path}/api/2.0/mlflow/experiments/search?max_results=1"
    return _Guarded(path, f"{path}/health", search, kinds, routes, redirect + rest, [f"{base}{_ARTIFACTS}"])


def _serving(addresses: Addresses, name: str, limits: Limits, answer_seconds: int) -> _Guarded:
    base = addresses.serving_path(name)
    settings = _PREDICTION.format(base=re.escape(base), timeout=answer_seconds + ANSWER_MARGIN_SECONDS)
    kinds = {"prediction": _Kind(limits.artifact, settings)}
    errors = "".join(_ERROR.format(status=int(one), code=one.name, message=one.phrase) for one in SERVING_ERRORS)
    routes = [(f"/{endpoint}$", "prediction") for endpoint in SERVING]
    return _Guarded(base, "/health", "/ping", kinds, routes, _NOTHING_ELSE + errors)


def _default_server(port: int, probes: str, guarded: _Guarded) -> str:
    return _DEFAULT_SERVER.format(port=port, probes=_probes("", probes, guarded))


def _server(
    port: int, names: Sequence[str], rules: Sequence[str], probes: str, guarded: _Guarded, connections: int
) -> str:
    base = re.escape(guarded.base)
    doors = [_door(f"location ~ ^{base}{pattern}", kind, guarded.kinds[kind]) for pattern, kind in guarded.routes]
    rooms = [_room(name, kind, connections) for name, kind in guarded.kinds.items()]
    return _SERVER.format(
        port=port,
        names=" ".join(names),
        connections=connections,
        requests=REQUESTS_PER_SECOND,
        heavy=HEAVY_REQUESTS_PER_SECOND,
        rules="".join(f"        {rule}\n" for rule in rules),
        probes=_probes(guarded.base, probes, guarded),
        locations=guarded.rest + "".join([*doors, *rooms]),
    )


def _door(location: str, name: str, kind: _Kind) -> str:
    return _DOOR.format(location=location, kind=name, body=kind.body, door=kind.door)


def _room(name: str, kind: _Kind, connections: int) -> str:
    return _ROOM.format(kind=name, body=kind.body, connections=connections, settings=kind.settings)


def _probes(base: str, limits: str, guarded: _Guarded) -> str:
    return _PROBES.format(base=base, limits=_PROBE + limits, health=_ask(guarded.health), ready=_ask(guarded.ready))


def _ask(page: str) -> str:
    return _ASK.format(page=page)


def _public(addresses: Addresses, host: str, access: Access) -> list[str]:
    """Return the rules of the public port."""
    lines = [f"set_real_ip_from {proxy};" for proxy in access.trusted_proxies]
    if lines:
        lines += ["real_ip_header X-Forwarded-For;", "real_ip_recursive on;"]
    if access.allow_from:
        lines.append("if ($outside) { return 403; }")
    if addresses.scheme == "https":
        # Before a password is asked for, also where the controller itself does not redirect.
        lines.append(f"if ($http_x_forwarded_proto = http) {{ return 308 https://{host}$request_uri; }}")
    return lines


# A regular expression, since other keys of a map do not tell upper from lower case.
_USER_FILES = """\
    map $remote_user $user_file {{
        default {existing}/{key};
        "~^({managed})$" {own}/{key};
    }}
"""

_DEFAULT_SERVER = """\
    server {{
        listen {port} default_server;
        server_name _;
        lingering_time 2s;
        set $user "";
        set $provider "";
        set $policy "";
{probes}\
        location / {{
            return 421;
        }}
    }}
"""

_SERVER = """\
    server {{
        listen {port};
        server_name {names};
        auth_basic "MLflow";
        limit_conn strangers {connections};
        limit_conn clients {connections};
        limit_req zone=request_rate burst={requests} nodelay;
        limit_req zone=heavy_rate burst={heavy} nodelay;
        root /nonexistent;
        # The verified user, for the log; a provider's key, for MLflow's gateway; a policy for users' files.
        set $user "";
        set $provider "";
        set $policy "";
{rules}\
        if ($foreign_write) {{ return 403; }}
{probes}{locations}\
    }}
"""

# The password is checked first; only then a request takes one of the places that users share.
_DOOR = """\
        {location} {{
            client_max_body_size {body};
{door}\
            try_files /- @{kind};
        }}
"""
_ROOM = """\
        location @{kind} {{
            auth_basic off;
            set $user $remote_user;
            # Bodies in chunks are measured here, the others above.
            client_max_body_size {body};
            limit_conn addresses {connections};
{settings}\
            proxy_pass http://guarded;
        }}
"""

# Complete before MLflow sees it: Flask loses a body without Content-Length, and a slow client holds nothing of MLflow.
_HELD = """\
            proxy_request_buffering on;
            limit_conn {bodies} {held};
            limit_conn {bodies}_of_user {held_of_user};
"""

_UPLOAD = """\
            limit_conn uploads {uploads};
            limit_conn uploads_of_user {uploads_of_user};
            # MLflow's streaming routes lack its static prefix. The path is passed on as nginx has understood it.
            rewrite "(?s)^{base}(/.*)$" $artifact_prefix$1 break;
"""

_NO_OTHER_BODY = """\
            if ($unasked_body) { return 413; }
"""

# A reader may pause. What users have stored never runs as the site.
_DOWNLOAD = """\
            send_timeout 600s;
            set $policy "sandbox; default-src 'none'";
"""

_GATEWAY_DOOR = """\
            auth_basic off;
            auth_request /-/gateway;
            auth_request_set $gateway_user $upstream_http_x_user;
"""
_GATEWAY = """\
            set $user $gateway_user;
            set $provider $gateway_provider;
            # Answers of language models come in pieces, with pauses.
            send_timeout 60s;
"""

_GATEWAY_CHECK = f"""\
        location = /-/gateway {{
            internal;
            auth_basic off;
            proxy_method GET;
            proxy_pass_request_headers off;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header Host localhost;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto http;
            proxy_set_header Origin "";
            proxy_set_header Authorization $gateway_credentials;
            proxy_set_header X-MLflow-Authorization "";
            proxy_pass http://127.0.0.1:{VERIFY_PORT}/verify;
        }}
"""

_UNSIGNED = """\
            # Clients take what this page says for an offer, and then fail where they do not reach the artifact store.
            sub_filter_types application/json;
            sub_filter_once off;
            sub_filter '"multipart_downloads_enabled":true' '"multipart_downloads_enabled":false';
            sub_filter '"multipart_uploads_enabled":true' '"multipart_uploads_enabled":false';
"""

_PREDICTION = """\
            # The model server itself answers at the limit, and starts nothing whose caller has gone.
            proxy_read_timeout {timeout}s;
            proxy_ignore_client_abort off;
            set $policy "sandbox; default-src 'none'";
            rewrite "(?s)^{base}(/.*)$" $1 break;
"""

# Probes need no password. Nothing of the request is passed on, and MLflow answers once a second at most.
_PROBES = f"""\
        location = {{base}}{LIVE} {{{{
            if ($not_a_probe) {{{{ return 405; }}}}
{{limits}}\
            try_files /- =204;
        }}}}
        location = {{base}}{HEALTHY} {{{{
            if ($not_a_probe) {{{{ return 405; }}}}
{{limits}}\
{{health}}\
        }}}}
        location = {{base}}{READY} {{{{
            if ($not_a_probe) {{{{ return 405; }}}}
{{limits}}\
            auth_request /-/ready;
            default_type text/plain;
            alias {CONFIG}/ready;
        }}}}
        location = /-/ready {{{{
            internal;
            auth_basic off;
{{ready}}\
        }}}}
"""

_PROBE = """\
            access_log off;
            auth_basic off;
            lingering_timeout 1s;
            lingering_time 1s;
            limit_conn probes 20;
            limit_req zone=probe_rate burst=40 nodelay;
"""
_PUBLIC_PROBES = """\
            limit_conn all_probes 100;
            limit_req zone=all_probe_rate burst=400 nodelay;
"""

_ASK = """\
            proxy_method GET;
            proxy_pass_request_headers off;
            proxy_pass_request_body off;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header Host localhost;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto http;
            proxy_set_header Origin "";
            proxy_set_header Authorization "";
            proxy_set_header X-MLflow-Authorization "";
            proxy_read_timeout 10s;
            proxy_buffering on;
            proxy_cache probe_answers;
            proxy_cache_key {page};
            proxy_cache_valid any 1s;
            proxy_cache_lock on;
            proxy_cache_lock_age 10s;
            proxy_cache_lock_timeout 10s;
            proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering Expires
                Cache-Control Set-Cookie Vary;
            set $args "";
            proxy_pass http://guarded{page};
"""

_REDIRECT = """\
        location = {path} {{
            if ($not_a_probe) {{ return 405; }}
            return 308 {path}/;
        }}
"""

# It trusts callers on loopback, which every caller is behind a sidecar, and can run commands.
_ASSISTANT = """\
        location ~* ^{path}/(ajax-api|api)/3\\.0/mlflow/assistant {{
            deny all;
        }}
"""

# As the model server says it, since its callers read JSON.
_ERROR = """\
        error_page {status} @{status};
        location @{status} {{
            default_type application/json;
            return {status} '{{"error_code": "{code}", "message": "{message}"}}';
        }}
"""

# No `return`: that would come before the password is asked for.
_NOTHING_ELSE = """\
        location / {
            log_not_found off;
        }
"""

_MAIN = """\
worker_processes 1;
worker_rlimit_nofile 8192;
pid /tmp/nginx.pid;
# Messages of the level `error` hold query strings, and user names as they were sent. The access log has their statuses.
error_log stderr crit;
worker_shutdown_timeout {drain}s;

events {{
    worker_connections 4096;
}}

http {{
    client_body_temp_path /tmp/client_body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;

    server_tokens off;
    # A host name has up to 253 characters.
    server_names_hash_bucket_size 512;
    map_hash_bucket_size 512;
    absolute_redirect off;
    # `try_files` looks for a file that never exists.
    open_file_cache max=16 inactive=1h;
    open_file_cache_errors on;
    open_file_cache_valid 1h;

    # Query strings hold tokens. An empty last field means that the client did not take the whole answer.
    map $request_uri $path {{
        "~^(?<before_query>[^?]*)" $before_query;
    }}
    map $user $verified_user {{
        default $user;
        "" "-";
    }}
    log_format access '$remote_addr $verified_user [$time_iso8601] "$request_method $path $server_protocol" $status '
        '$body_bytes_sent $request_time "$upstream_status" "$request_completion"';
    access_log /dev/stdout access;

    # Clients that read or write slowly are cut off (CIS NGINX 2.4.3, 2.4.4); readers of artifacts may pause for longer.
    # Towards MLflow an hour, for large artifacts.
    keepalive_timeout 10s;
    keepalive_requests 100000;
    client_header_timeout 10s;
    client_body_timeout 60s;
    client_body_buffer_size 16k;
    lingering_time 10s;
    send_timeout 10s;
    proxy_connect_timeout 5s;
    proxy_read_timeout 3600s;
    proxy_send_timeout 3600s;

    auth_basic_user_file {auth};
    # Known and unknown names take the same time, and a guess at a password takes a second.
    auth_delay 1s;

    map "$request_method $uri" $upload {{
        default "";{uploads}
    }}
    # Requests whose body does not fit into the buffer above. They are counted when the password has been checked, all
    # others before.
    map "$upload:$content_length:$http_transfer_encoding" $heavy {{
        default 1;
        "~^:([0-9]{{0,4}}|1[0-5][0-9]{{3}}):$" "";
    }}
    map "$heavy:$http_authorization$http_x_mlflow_authorization" $client {{
        default "";
        "~^:." $binary_remote_addr;
    }}
    # Requests without a password take no places of those with one.
    map "$http_authorization$http_x_mlflow_authorization" $stranger {{
        default "";
        "" $binary_remote_addr;
    }}
    map $heavy $heavy_client {{
        default $binary_remote_addr;
        "" "";
    }}
    limit_conn_zone $stranger zone=strangers:1m;
    limit_conn_zone $client zone=clients:1m;
    limit_conn_zone $binary_remote_addr zone=addresses:1m;
    limit_conn_zone $heavy zone=bodies:64k;
    limit_conn_zone $user zone=bodies_of_user:1m;
    limit_conn_zone $heavy zone=forms:64k;
    limit_conn_zone $user zone=forms_of_user:1m;
    limit_conn_zone $upload zone=uploads:64k;
    limit_conn_zone $user zone=uploads_of_user:1m;
    limit_conn_zone $binary_remote_addr zone=probes:1m;
    limit_conn_zone $server_port zone=all_probes:64k;
    limit_req_zone $binary_remote_addr zone=request_rate:1m rate={requests}r/s;
    limit_req_zone $heavy_client zone=heavy_rate:1m rate={heavy}r/s;
    limit_req_zone $binary_remote_addr zone=probe_rate:1m rate={probes}r/s;
    limit_req_zone $server_port zone=all_probe_rate:64k rate={all_probes}r/s;
    # MLflow's clients retry this status for every method; from 3.18 on, most others only for idempotent requests. They
    # wait longer each time. With a Retry-After they would give up after seven times that, so only rates have one.
    limit_conn_status 429;
    limit_req_status 429;
    map $limit_req_status $retry_after {{
        default "";
        REJECTED 1;
    }}
    add_header Retry-After $retry_after always;

    # Judged where `return` is as well, which comes before `deny`.
    geo $outside {{
        default 1;{clients}
    }}
    # By name: callers in the cluster come by http.
    map $host $client_scheme {{
        default http;
        {https}
    }}
    map $client_scheme $hsts {{
        default "";
        https "{hsts}";
    }}
    # A browser sends a user's password along with what any other site has it write.
    map $host $origin {{
        default http://$http_host;
        {origin}
    }}
    map "$http_origin $origin" $foreign {{
        default 1;
        "~^ " "";
        "~^(\\S+) \\1$" "";
    }}
    map "$request_method:$foreign" $foreign_write {{
        default 1;
        "~^(GET|HEAD|OPTIONS):" "";
        "~:$" "";
    }}
    # MLflow lets pages of localhost write, and read with the user's password.
    map $foreign $own_origin {{
        default "";
        "" $http_origin;
    }}
    map "$request_method:$content_length:$http_transfer_encoding" $not_a_probe {{
        default 1;
        "~^(GET|HEAD):0*:$" "";
    }}
    map "$request_method:$content_length:$http_transfer_encoding" $unasked_body {{
        default 1;
        "~^PUT:" "";
        "~:0*:$" "";
    }}
    map $request_method $artifact_prefix {{
        default "{path}";
        GET "";
        PUT "";
    }}
    # Where the provider's key is in Authorization, MLflow's own clients of the gateway put the password elsewhere.
    map $http_x_mlflow_authorization $gateway_credentials {{
        default $http_x_mlflow_authorization;
        "" $http_authorization;
    }}
    map $http_x_mlflow_authorization $gateway_provider {{
        default $http_authorization;
        "" "";
    }}
    map "$policy:$upstream_http_content_disposition" $disposition {{
        default $upstream_http_content_disposition;
        "~*^[^:]+:attachment" $upstream_http_content_disposition;
        "~^[^:]" attachment;
    }}
    client_max_body_size {max_body};

    # MLflow finishes what it began also where the client has gone, and holds it in `/tmp` meanwhile: it still counts.
    proxy_ignore_client_abort on;

    # No artifact touches this container's disk, and none is held back until it is complete.
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_max_temp_file_size 0;
    proxy_cache_path /tmp/probes keys_zone=probe_answers:64k max_size=1m inactive=1m use_temp_path=off;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    # Not what the client says: MLflow trusts loopback callers.
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $client_scheme;
    proxy_set_header Origin $own_origin;
    proxy_set_header Authorization $provider;
    proxy_set_header X-MLflow-Authorization "";

    # MLflow sends these on some answers only; hidden there, they are sent once on all.
    proxy_hide_header Server;
    proxy_hide_header Strict-Transport-Security;
    proxy_hide_header Referrer-Policy;
    proxy_hide_header X-Content-Type-Options;
    proxy_hide_header X-Frame-Options;
    proxy_hide_header Content-Disposition;
    add_header X-Content-Type-Options nosniff always;
    add_header X-Frame-Options SAMEORIGIN always;
    add_header Referrer-Policy same-origin always;
    add_header Strict-Transport-Security $hsts always;
    add_header Content-Disposition $disposition always;
    add_header Content-Security-Policy $policy always;

    upstream guarded {{
        server 127.0.0.1:{upstream};
        keepalive 32;
        # Below uvicorn's own 5 s: a connection that it closes first would lose the request sent on it.
        keepalive_timeout 3s;
    }}

    # Checks a password that is not in Authorization. auth_delay is that of the request it is asked for.
    server {{
        listen 127.0.0.1:{verify};
        auth_basic "MLflow";
        auth_delay 0s;
        access_log off;
        location = /verify {{
            add_header X-User $remote_user;
            alias {ready};
        }}
    }}

{servers}}}
"""
