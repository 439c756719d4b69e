"""The configuration of nginx in front of a server: limits, access rules, kinds of paths and the template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import jinja2
import pulumi

from mlflow_stack.access.credentials import HTPASSWD_KEY
from mlflow_stack.addresses import Addresses
from mlflow_stack.pod import Ingress

PUBLIC_PORT = 8080
"""Port for the public address."""
INTERNAL_PORT = 8081
"""Port for in-cluster callers: jobs, model servers, probes."""
PORTS: Mapping[str, int] = {"public": PUBLIC_PORT, "internal": INTERNAL_PORT}
"""Ports of the proxy's container, by name."""
UPSTREAM_PORT = 5000
"""Port of the guarded server, on 127.0.0.1."""
VERIFY_PORT = 8082
"""Port where nginx asks itself about a password, on 127.0.0.1."""

LIVE = "/livez"
"""Liveness of nginx: answers 204 while nginx runs."""
HEALTHY = "/healthz"
"""Health of the guarded server: answers as the server's own health page, which never touches the database."""
READY = "/readyz"
"""Readiness: answers 200 while the server reaches its database, else 500. The answer's text reveals nothing."""
SERVING = ("ping", "health", "version", "invocations")
"""Endpoints of a model server that nginx passes on."""
SERVING_ERRORS = tuple(map(HTTPStatus, (401, 403, 404, 413, 429, 502, 503, 504)))
"""Statuses that nginx itself answers in front of a model server."""

DEFAULT_MAX_REQUEST_BYTES = 4 * 2**20
"""Default of a proxy in front of another server than a stack's, which passes its own limit."""
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
ANSWER_MARGIN_SECONDS = 15
"""How long nginx waits beyond a model server's own limit."""

CONFIG = "/etc/mlflow-stack"
"""Mount path of the configuration."""
AUTH = "/etc/mlflow-stack-auth"
"""Mount path of the Secret with the stack's own users."""
HTPASSWD = f"{AUTH}/{HTPASSWD_KEY}"
"""Password file of the stack's own users."""
EXISTING_USERS = "/etc/mlflow-stack-users"
"""Mount path of the Secret with users that the stack does not manage."""
EXISTING_HTPASSWD = f"{EXISTING_USERS}/{HTPASSWD_KEY}"
"""Password file of users that the stack does not manage."""
CERTIFICATE = "/etc/mlflow-stack-certificate"
"""Mount path of the Secret with the public port's certificate."""
CERTIFICATE_KEYS: Sequence[str] = ["tls.crt", "tls.key"]
"""Keys of a Secret with a certificate, sorted."""

DRAIN_SECONDS = 50
"""How long requests under way may take when the pod ends."""
LONGEST_DRAIN_SECONDS = 600
"""Upper bound of the drain, however long predictions may take."""

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
    """Users of an existing Secret, in addition to the stack's own."""

    secret: pulumi.Input[str]
    """Name of the Secret, key ``htpasswd``."""
    managed: Sequence[str]
    """The stack's own users, whose passwords are never looked up in the Secret."""


@dataclass(frozen=True)
class Access:
    """Access rules for the proxy's ports."""

    ingress: Sequence[Ingress] = (Ingress(INTERNAL_PORT, [{"pod_selector": {}}]),)
    """Allowed connections. Default: the pods of the same namespace, to the internal port."""
    allow_from: Sequence[str] = ()
    """Clients that the public port answers, as CIDRs. Default: all."""
    trusted_proxies: Sequence[str] = ()
    """Proxies whose X-Forwarded-For is trusted, as CIDRs."""
    hides_clients: bool = True
    """True if requests to a public address without a port come from a controller's address."""
    certificate: pulumi.Input[str] | None = None
    """Name of the Secret with the certificate of the public port; None if the port is plain http, as behind a
    controller that terminates https."""
    existing_users: ExistingUsers | None = None
    """Users with passwords that the stack does not know."""


@dataclass(frozen=True)
class Limits:
    """Sizes and numbers of requests that nginx passes on."""

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


@dataclass(frozen=True)
class _Held:
    """A limit of request bodies that nginx holds on disk at once."""

    zone: str
    """Name of the zone that counts them."""
    total: int
    """Bodies of all users."""
    of_user: int
    """Bodies of one user."""


@dataclass(frozen=True)
class _Kind:
    """A kind of path. The template has the directives of each kind, by its name."""

    body: int
    """Bytes of the largest body."""
    held: _Held | None = None
    """Limit of held bodies. Default: bodies are streamed."""


@dataclass(frozen=True)
class _Guarded:
    """The server behind the proxy."""

    base: str
    """The server's path, without a trailing slash."""
    health: str
    """The server's own page for liveness."""
    ready: str
    """The server's own page for readiness."""
    kinds: Mapping[str, _Kind]
    """Kinds of paths by name."""
    doors: Sequence[tuple[str, str]]
    """Locations that check the password, each with the name of its kind. The first pattern that matches wins."""
    uploads: Sequence[str] = ()
    """Patterns of whole paths whose PUT requests are artifact uploads."""


@dataclass(frozen=True)
class _Server:
    """A port with the names that it answers."""

    port: int
    names: Sequence[str]
    connections: int
    """Requests of one client address at once."""


_ARTIFACTS = r"/(ajax-api|api)/2\.0/mlflow-artifacts/artifacts/."
"""Artifacts by path. MLflow streams GET and PUT; the listing, one segment shorter, is an API request."""

ROUTES = (
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


def nginx_conf(
    addresses: Addresses,
    limits: Limits,
    access: Access | None = None,
    serving: str | None = None,
    presigned: bool = True,
    answer_seconds: int = 3600,
) -> str:
    """Return nginx's whole configuration.

    :param serving: Name of the model, if a model server is guarded.
    :param presigned: Whether clients may request signed addresses of the artifact store.
    :param answer_seconds: The model server's own limit for an answer.
    """
    access = access or Access()
    if serving is None:
        guarded = _tracking(addresses.path, limits, presigned)
    else:
        guarded = _model(addresses.serving_path(serving), limits)
    # `kubectl port-forward` leads to localhost.
    servers = [_Server(INTERNAL_PORT, [*addresses.internal_hosts, "localhost"], CONNECTIONS_PER_CLIENT)]
    if addresses.host is not None:
        # Without trusted proxies, all clients of a controller have its address.
        shared = access.hides_clients and addresses.port is None and not access.trusted_proxies
        connections = CONNECTIONS_OF_ALL if shared else CONNECTIONS_PER_CLIENT
        servers.append(_Server(PUBLIC_PORT, [addresses.host], connections))
    return _TEMPLATES.get_template("nginx.conf").render(
        addresses=addresses,
        limits=limits,
        access=access,
        serving=serving,
        answer_seconds=answer_seconds,
        drain=DRAIN_SECONDS if serving is None else drain_seconds(answer_seconds),
        guarded=guarded,
        servers=servers,
        **_CONSTANTS,
    )


def drain_seconds(answer_seconds: int) -> int:
    """Return how long a model's pod that ends waits for its predictions: their own limit, within bounds."""
    return min(max(DRAIN_SECONDS, answer_seconds), LONGEST_DRAIN_SECONDS)


def _tracking(path: str, limits: Limits, presigned: bool) -> _Guarded:
    held = _Held("bodies", limits.held, limits.held_of_user)
    kinds = {
        "api": _Kind(limits.request, held),
        "artifact": _Kind(limits.artifact),
        "form": _Kind(limits.form, _Held("forms", FORMS, FORMS // 2)),
        "download": _Kind(NO_BODY),
        "gateway": _Kind(limits.request, held),
        "graphql": _Kind(min(GRAPHQL_BYTES, limits.request), held),
        "page": _Kind(NO_BODY),
    }
    routes = ROUTES
    if not presigned:
        kinds["unsigned"] = _Kind(NO_BODY)
        routes = (_SERVER_INFO, *ROUTES)
    search = f"{path}/api/2.0/mlflow/experiments/search?max_results=1"
    doors = [(f"{path}/", "api"), *_doors(path, routes)]
    return _Guarded(path, f"{path}/health", search, kinds, doors, [f"{re.escape(path)}{_ARTIFACTS}"])


def _model(path: str, limits: Limits) -> _Guarded:
    routes = [(f"/{endpoint}$", "prediction") for endpoint in SERVING]
    return _Guarded(path, "/health", "/ping", {"prediction": _Kind(limits.artifact)}, _doors(path, routes))


def _doors(path: str, routes: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"~ ^{re.escape(path)}{pattern}", kind) for pattern, kind in routes]


_TEMPLATES = jinja2.Environment(  # noqa: S701 - nginx's configuration is not HTML
    loader=jinja2.PackageLoader("mlflow_stack.access", "."),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["regex_escape"] = re.escape

_CONSTANTS = {name: value for name, value in globals().items() if name.isupper() and not name.startswith("_")}
"""Constants of this module, which the template may use."""
