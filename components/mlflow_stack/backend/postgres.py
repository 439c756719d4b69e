"""Backend store on an existing PostgreSQL server, with a schema Job."""

from typing import Literal, NotRequired, TypedDict, cast, get_args
from urllib.parse import quote, urlencode

import pulumi

from mlflow_stack import validate
from mlflow_stack.backend import sql
from mlflow_stack.backend.sql import DEFAULT_NAME, DumpsArgs
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts

PORT = 5432
DIALECT = sql.Dialect("postgres", PORT, credentials="pgpass", searches="searches_postgresql.py", dumps="postgres-dumps")
DRIVER = "postgresql+psycopg2"
"""Scheme of the store's URI: SQLAlchemy's dialect, and the driver in MLflow's image."""
TOOLS_IMAGE = "docker.io/library/postgres:18"
"""Image of the client tools that write dumps: ``pg_dump`` reads servers of its own version and earlier ones."""

KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4", "tcp_user_timeout": "30000"}
"""Options that end connections to a lost server within 30 s."""

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
validate.enum(SslMode, "PostgresSslMode", "Protection of the connection to PostgreSQL.")
VERIFYING = ("verify-ca", "verify-full")


class PostgresStoreArgs(TypedDict):
    """Database on an existing server, PostgreSQL 14 or later."""

    host: pulumi.Input[str]
    """Host name or IPv4 address of the server. Required."""
    port: NotRequired[pulumi.Input[int]]
    """TCP port of the server. Default: 5432."""
    database: NotRequired[pulumi.Input[str]]
    """Name of an existing database with the encoding UTF8. Default: mlflow."""
    username: NotRequired[pulumi.Input[str]]
    """User who may create tables in the first schema of the search path, which is ``public`` by default.
    Default: mlflow."""
    password: NotRequired[pulumi.Input[str]]
    """Secret: the user's password, of printable characters. Default: none; then existing_secret is required."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with the user's password under the key ``password``. Default: none."""
    ca: NotRequired[pulumi.Input[str]]
    """CA certificates for the server, as PEM text. With them MLflow verifies the server's certificate and name.
    Default: none; the connection is encrypted if the server supports it, but never verified."""
    sslmode: NotRequired[SslMode]
    """Protection of the connection, as in libpq: ``disable``, ``prefer`` or ``require`` without ca, ``verify-ca`` or
    ``verify-full`` with it. Default: prefer, with ca verify-full."""
    dumps: NotRequired[DumpsArgs]
    """Claim for dumps of the database from before schema upgrades. Default: a claim of 20Gi."""


@validate.rules(
    PostgresStoreArgs,
    defaults={"port": PORT, "database": DEFAULT_NAME, "username": DEFAULT_NAME, "dumps": {}},
    secrets=["password"],
)
def _rules(fields: validate.Fields) -> None:
    sql.connection_rules(fields)
    sql.password_rules(fields)
    fields.check("sslmode", validate.one_of(*get_args(SslMode)))
    if fields.get("sslmode") not in get_args(SslMode):
        return
    if fields["sslmode"] in VERIFYING and "ca" not in fields.stated:
        fields.require("ca", f"{fields.spell('sslmode')} is {fields['sslmode']}")
    if fields["sslmode"] not in VERIFYING and "ca" in fields.stated:
        fields.refuse("sslmode", f"must be verify-ca or verify-full, because {fields.spell('ca')} is set")


class PostgresBackend(sql.SqlBackend):
    """Backend store on PostgreSQL."""

    dialect = DIALECT

    def build(self, context: Context, opts: pulumi.ResourceOptions) -> "PostgresStore":
        return PostgresStore(self.name, {"context": context, "store": cast(PostgresStoreArgs, self.args)}, opts)


class PostgresStoreInputs(TypedDict):
    """Inputs of :class:`PostgresStore`."""

    context: Context
    """Deployment context."""
    store: PostgresStoreArgs
    """Database and server."""


class PostgresStore(pulumi.ComponentResource):
    """Backend store on PostgreSQL, and the Job that creates or upgrades the schema before MLflow starts. The Job
    belongs to one image and one database: a change of either runs a new Job."""

    parts: PodParts
    """Parts of the tracking server's pod."""

    def __init__(self, name: str, args: PostgresStoreInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        store = validate.resolved("PostgresStore", name, PostgresStoreArgs, args["store"], longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:PostgresStore", name, {}, opts)
        context = args["context"]
        database = sql.existing(self, name, store, context.namespace, sql.labels_of(name, context))
        sslmode = store.get("sslmode", "verify-full" if "ca" in store else "prefer")
        transport = {"sslmode": sslmode, **({"sslrootcert": DIALECT.ca} if "ca" in store else {})}
        client = sql.Client(
            uri=pulumi.Output.all(database.host, database.port, database.name, database.user).apply(
                lambda place: _uri(*place, transport=transport)
            ),
            tools=store["dumps"].get("image", TOOLS_IMAGE),
            env={"SSLMODE": sslmode},
        )
        self.parts = sql.parts(self, name, context, store, database, DIALECT, client, opts)
        self.register_outputs({})


def _uri(host: str, port: int, database: str, user: str, *, transport: dict[str, str]) -> str:
    options = urlencode({"passfile": DIALECT.credentials_file, **transport, **KEEPALIVES}, safe="/")
    return f"{DRIVER}://{quote(user)}@{host}:{int(port)}/{quote(database)}?{options}"
