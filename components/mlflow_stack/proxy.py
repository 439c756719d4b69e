"""The auth proxy: nginx in the pod of the server it guards, the only way in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import SecretVolumeSourceArgsDict, VolumeArgsDict, VolumeMountArgsDict

from mlflow_stack import validate, workload
from mlflow_stack.addresses import Addresses
from mlflow_stack.credentials import HTPASSWD_KEY, LONGEST_NAME
from mlflow_stack.workload import Ingress, PodParts

PUBLIC_PORT = 8080
"""For the public address."""
INTERNAL_PORT = 8081
"""For callers in the cluster: jobs, model servers, probes."""
UPSTREAM_PORT = 5000
"""Where the guarded server listens, on 127.0.0.1."""

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
DEFAULT_ANSWER_TIMEOUT = "1h"
ANSWER_MARGIN_SECONDS = 15
"""How long nginx waits beyond a model server's own limit."""

REQUESTS = {"cpu": "20m", "memory": "32Mi", "ephemeral-storage": "64Mi"}
LIMITS = {"memory": "128Mi"}

CONFIG = "/etc/mlflow-stack"
AUTH = "/etc/mlflow-stack-auth"
EXISTING_USERS = "/etc/mlflow-stack-users"
"""Mount path of the Secret with users that the stack does not manage."""
USERS_VOLUME = "existing-users"

DRAIN_SECONDS = 50
"""How long requests under way may take when the pod ends."""
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
    resources: NotRequired[workload.ResourcesArgs]
    """Default: requests 20m CPU and 32Mi, limit 128Mi."""
    max_artifact_size: NotRequired[str]
    """The largest request body, a quantity of bytes; above it 413. Default: 10Gi."""
    max_concurrent_uploads: NotRequired[int]
    """Artifact uploads at once; one more gets 503, which MLflow's client tries again. Default: 2."""
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
    workload.resource_rules(fields, REQUESTS, LIMITS)
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
        accepted = validate.accepted("AuthProxy", name, AuthProxyArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:AuthProxy", name, {}, opts)
        size = validate.bytes_of(accepted.get("max_artifact_size", DEFAULT_MAX_ARTIFACT_SIZE))
        uploads = accepted.get("max_concurrent_uploads", DEFAULT_MAX_CONCURRENT_UPLOADS)
        serving = accepted.get("serving")
        answer_seconds = validate.seconds_of(accepted.get("answer_timeout", DEFAULT_ANSWER_TIMEOUT))
        linger = LINGER_SECONDS if accepted.get("linger") else 0
        presigned = accepted.get("presigned", True)
        access = accepted.get("access", Access())
        config = k8s.core.v1.ConfigMap(
            f"{name}-proxy",
            metadata={
                "namespace": accepted["namespace"],
                "labels": workload.labels(name, "proxy", accepted.get("labels")),
            },
            immutable=True,
            data={
                "nginx.conf": pulumi.Output.from_input(accepted["addresses"]).apply(
                    lambda addresses: nginx_conf(addresses, size, uploads, access, serving, presigned, answer_seconds)
                ),
                "ready": "ready\n",
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        scratch, scratch_mount = workload.scratch("proxy-tmp", "64Mi")
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
                    "resources": workload.resources(accepted.get("resources"), REQUESTS, LIMITS),
                    "security_context": workload.container_security(),
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
                        "name": workload.name_of(config),
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


def nginx_conf(
    addresses: Addresses,
    max_body: int,
    max_uploads: int,
    access: Access | None = None,
    serving: str | None = None,
    presigned: bool = True,
    answer_seconds: int = 3600,
) -> str:
    """nginx's whole configuration.

    ``max_body`` is the largest request body in bytes, ``max_uploads`` how many artifact uploads may run at once.
    ``serving`` is the name of the model, where a model server is guarded. Without ``presigned`` clients are not told
    that they may ask for signed addresses of the artifact store. ``answer_seconds`` is a model server's limit.
    """
    access = access or Access()
    guarded = (
        _tracking(addresses.path, presigned)
        if serving is None
        else _serving(addresses.serving_path(serving), answer_seconds)
    )
    servers = [
        # The kubelet's and load balancers' probes come here: their Host is the pod's address.
        _DEFAULT_SERVER.format(public=PUBLIC_PORT, internal=INTERNAL_PORT, probes=_probes("", guarded)),
        # localhost: what `kubectl port-forward` leads here.
        _server(INTERNAL_PORT, [*addresses.internal_hosts, "localhost"], "", guarded),
    ]
    if access.existing_users is not None:
        managed = "|".join(map(re.escape, access.existing_users.managed))
        servers.insert(0, _USER_FILES.format(managed=managed, own=AUTH, existing=EXISTING_USERS, key=HTPASSWD_KEY))
    if addresses.host is not None:
        rules = _public(addresses, addresses.host, access, max_uploads)
        servers.append(_server(PUBLIC_PORT, [addresses.host], rules, guarded))
    return _MAIN.format(
        max_body=max_body,
        max_uploads=max_uploads,
        connections=CONNECTIONS_PER_CLIENT,
        requests=REQUESTS_PER_SECOND,
        drain=DRAIN_SECONDS,
        upstream=UPSTREAM_PORT,
        auth="$user_file" if access.existing_users else f"{AUTH}/{HTPASSWD_KEY}",
        clients="".join(f"\n        {client} 0;" for client in dict.fromkeys(access.allow_from)),
        https=f"{addresses.host} https;" if addresses.scheme == "https" else "",
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
class _Guarded:
    """The server behind the proxy, as nginx sees it."""

    base: str
    """The path that it is reached under."""
    health: str
    """Its own page that says that it lives."""
    ready: str
    """Its own page that says that it can work."""
    locations: str
    """What is passed on to it."""


def _tracking(path: str, presigned: bool) -> _Guarded:
    search = f"{path}/api/2.0/mlflow/experiments/search?max_results=1"
    # MLflow's own redirect would name a scheme and no port.
    redirect = _REDIRECT.format(path=path) if path else ""
    proxied = "" if presigned else _NOT_PRESIGNED
    locations = redirect + (proxied + _TRACKING).format(path=re.escape(path))
    return _Guarded(path, f"{path}/health", search, locations)


def _serving(base: str, answer_seconds: int) -> _Guarded:
    timeout = answer_seconds + ANSWER_MARGIN_SECONDS
    endpoints = "".join(_ENDPOINT.format(base=base, name=name, timeout=timeout) for name in SERVING)
    errors = "".join(_ERROR.format(status=int(one), code=one.name, message=one.phrase) for one in SERVING_ERRORS)
    return _Guarded(base, "/health", "/ping", endpoints + _NOTHING_ELSE + errors)


def _server(port: int, names: Sequence[str], rules: str, guarded: _Guarded) -> str:
    return _SERVER.format(
        port=port,
        names=" ".join(names),
        rules=rules,
        probes=_probes(guarded.base, guarded),
        locations=guarded.locations,
    )


def _probes(base: str, guarded: _Guarded) -> str:
    return _PROBES.format(base=base, health=guarded.health, ready=guarded.ready)


def _public(addresses: Addresses, host: str, access: Access, max_uploads: int) -> str:
    """What holds for the public port alone."""
    lines = [f"set_real_ip_from {proxy};" for proxy in access.trusted_proxies]
    if lines:
        lines += ["real_ip_header X-Forwarded-For;", "real_ip_recursive on;"]
    elif addresses.port is None:
        # No port of the nodes: a controller stands in front, and every client has its address.
        lines += [f"limit_conn clients {CONNECTIONS_OF_ALL};", f"limit_conn uploads {max_uploads};"]
    if access.allow_from:
        lines.append("if ($outside) { return 403; }")
    if addresses.scheme == "https":
        # Before a password is asked for, also where the controller itself does not redirect.
        lines.append(f"if ($http_x_forwarded_proto = http) {{ return 308 https://{host}$request_uri; }}")
    return "".join(f"        {line}\n" for line in lines)


_PROBES = f"""\
        location = {{base}}{LIVE} {{{{
            access_log off;
            return 204;
        }}}}
        location = {{base}}{HEALTHY} {{{{
            access_log off;
            auth_basic off;
            proxy_read_timeout 10s;
            proxy_pass http://guarded{{health}};
        }}}}
        location = {{base}}{READY} {{{{
            access_log off;
            auth_basic off;
            auth_request /-/ready;
            default_type text/plain;
            alias {CONFIG}/ready;
        }}}}
        location = /-/ready {{{{
            internal;
            access_log off;
            auth_basic off;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header Authorization "";
            proxy_set_header Host localhost;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto http;
            proxy_read_timeout 10s;
            proxy_pass http://guarded{{ready}};
        }}}}
"""

# A regular expression, since other keys of a map do not tell upper from lower case.
_USER_FILES = """\
    map $remote_user $user_file {{
        default {existing}/{key};
        "~^({managed})$" {own}/{key};
    }}
"""

_DEFAULT_SERVER = """\
    server {{
        listen {public} default_server;
        listen {internal} default_server;
        server_name _;
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
{rules}{probes}{locations}\
    }}
"""

_REDIRECT = """\
        location = {path} {{
            return 308 {path}/;
        }}
"""

# Clients take what this page says for an offer, and then fail where they do not reach the artifact store.
_NOT_PRESIGNED = """\
        location ~ ^{path}/(ajax-api|api)/3\\.0/mlflow/server-info$ {{
            sub_filter_types application/json;
            sub_filter_once off;
            sub_filter '"multipart_downloads_enabled":true' '"multipart_downloads_enabled":false';
            sub_filter '"multipart_uploads_enabled":true' '"multipart_uploads_enabled":false';
            proxy_pass http://guarded;
        }}
"""

_TRACKING = """\
        # Trusts callers on loopback, which every caller is behind a sidecar; it can run commands.
        location ~* ^{path}/(ajax-api|api)/3\\.0/mlflow/assistant {{
            deny all;
        }}
        location / {{
            proxy_pass http://guarded;
        }}
"""

_ENDPOINT = """\
        location = {base}/{name} {{
            # The model server itself answers at the limit, and starts nothing whose caller has gone.
            proxy_read_timeout {timeout}s;
            proxy_ignore_client_abort off;
            proxy_pass http://guarded/{name};
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
            root /nonexistent;
            log_not_found off;
        }
"""

_MAIN = """\
worker_processes 1;
worker_rlimit_nofile 8192;
pid /tmp/nginx.pid;
error_log stderr warn;
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

    log_format access '$remote_addr $remote_user [$time_iso8601] "$request" $status $body_bytes_sent $request_time';
    access_log /dev/stdout access;
    server_tokens off;
    # A host name has up to 253 characters.
    server_names_hash_bucket_size 512;
    map_hash_bucket_size 512;
    absolute_redirect off;

    # Towards clients at most 10 s (CIS NGINX 2.4.3, 2.4.4); towards MLflow an hour, for large artifacts.
    keepalive_timeout 10s;
    keepalive_requests 100000;
    client_header_timeout 10s;
    client_body_timeout 60s;
    send_timeout 10s;
    proxy_connect_timeout 5s;
    proxy_read_timeout 3600s;
    proxy_send_timeout 3600s;

    auth_basic_user_file {auth};
    # Known and unknown names take the same time, and a guess at a password takes a second.
    auth_delay 1s;
    limit_conn_zone $binary_remote_addr zone=clients:1m;
    limit_conn clients {connections};
    limit_req_zone $binary_remote_addr zone=requests:1m rate={requests}r/s;
    limit_req zone=requests burst={requests} nodelay;
    limit_req_status 429;

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
    map "$request_method $uri" $upload {{
        default "";
        "~^(PUT|POST) .*/mlflow-artifacts/" upload;
        "~^(PUT|POST) .*/upload-artifact" upload;
    }}
    limit_conn_zone $upload zone=uploads:64k;
    limit_conn uploads {max_uploads};
    limit_conn_status 503;
    client_max_body_size {max_body};

    # MLflow finishes what it began also where the client has gone, and holds it in `/tmp` meanwhile: it still counts.
    proxy_ignore_client_abort on;

    # No artifact touches this container's disk, and none is held back until it is complete.
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_max_temp_file_size 0;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    # Not what the client says: MLflow trusts loopback callers.
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $client_scheme;
    proxy_set_header Authorization "";

    # MLflow sends these on some answers only; hidden there, they are sent once on all.
    proxy_hide_header Server;
    proxy_hide_header Strict-Transport-Security;
    proxy_hide_header Referrer-Policy;
    proxy_hide_header X-Content-Type-Options;
    proxy_hide_header X-Frame-Options;
    add_header X-Content-Type-Options nosniff always;
    add_header X-Frame-Options SAMEORIGIN always;
    add_header Referrer-Policy same-origin always;
    add_header Strict-Transport-Security $hsts always;

    upstream guarded {{
        server 127.0.0.1:{upstream};
        keepalive 32;
        # Below uvicorn's own 5 s: a connection that it closes first would lose the request sent on it.
        keepalive_timeout 3s;
    }}

{servers}}}
"""
