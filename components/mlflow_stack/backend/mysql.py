"""Backend store on MySQL or MariaDB, on an existing server or one created by the stack, with a schema Job."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict, cast
from urllib.parse import quote, unquote, urlencode, urlsplit

import pulumi

from mlflow_stack import kinds, validate
from mlflow_stack.backend import mariadb, sql
from mlflow_stack.backend.mariadb import MariadbArgs
from mlflow_stack.backend.sql import DEFAULT_NAME, DumpsArgs
from mlflow_stack.cluster import Claim, Need, Reservation
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts, claims

DIALECT = sql.Dialect("mysql", mariadb.PORT, credentials="client.cnf", searches="searches_mysql.py", dumps="dumps")
DRIVER = "mysql+pymysql"
"""Scheme of the store's URI: SQLAlchemy's dialect, and the driver in MLflow's image."""

TIMEOUTS = {"connect_timeout": "5", "read_timeout": "30", "write_timeout": "30"}
"""Seconds that MLflow waits for the database server, at most twice: MLflow's client gives up after 120 s."""


class MysqlStoreArgs(TypedDict):
    """Database on an existing server (``host``), MySQL 8.0 or MariaDB 10.6 or later, or on a server created by the
    stack (``deploy``)."""

    host: NotRequired[pulumi.Input[str]]
    """Host name or IPv4 address of the server. Default: none; then deploy is required."""
    port: NotRequired[pulumi.Input[int]]
    """TCP port of the server. Default: 3306."""
    database: NotRequired[pulumi.Input[str]]
    """Name of an existing database with the character set utf8mb4. Default: mlflow."""
    username: NotRequired[pulumi.Input[str]]
    """User with all privileges on the database. Default: mlflow."""
    password: NotRequired[pulumi.Input[str]]
    """Secret: the user's password, of printable characters. Default: none; then existing_secret is required."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with the user's password under the key ``password``. Default: none."""
    ca: NotRequired[pulumi.Input[str]]
    """CA certificates for the server, as PEM text. With them MLflow verifies the server's certificate and name.
    Default: none; the connection is encrypted if the server supports it, but never verified."""
    deploy: NotRequired[MariadbArgs]
    """MariaDB server created by the stack, instead of all of the above. Default: none."""
    dumps: NotRequired[DumpsArgs]
    """Claim for dumps of the database from before schema upgrades. Default: a claim of 20Gi."""


@validate.rules(
    MysqlStoreArgs,
    defaults={"port": mariadb.PORT, "database": DEFAULT_NAME, "username": DEFAULT_NAME, "dumps": {}},
    secrets=["password"],
)
def _rules(fields: validate.Fields) -> None:
    sql.connection_rules(fields)
    if "deploy" in fields.stated:
        for name in ("host", "port", "database", "username", "password", "existing_secret", "ca"):
            fields.refuse_together(name, "deploy")
        return
    if "host" not in fields.stated:
        fields.require("host", "deploy is not set")
    sql.password_rules(fields)


class MysqlBackend(sql.SqlBackend):
    """Backend store on MySQL or MariaDB."""

    dialect = DIALECT

    @classmethod
    def identity_of(cls, server: kinds.Unguarded) -> str:
        uri = urlsplit(server.env.get("MLFLOW_BACKEND_STORE_URI", ""))
        if uri.scheme != DRIVER:
            return ""
        return DIALECT.identity(server.namespace, uri.hostname or "", uri.port, unquote(uri.path[1:]))

    def needs(self) -> Sequence[Need]:
        deployed = mariadb.needs(self.args["deploy"], self.place.under("deploy")) if "deploy" in self.args else []
        return [*super().needs(), *deployed]

    def reservations(self) -> Sequence[Reservation]:
        if "deploy" not in self.args:
            return []
        return [mariadb.reservation(self.args["deploy"], self.place.under("deploy"))]

    def claims(self) -> Sequence[Claim]:
        made = super().claims()
        if "deploy" not in self.args:
            return made
        server = mariadb.object_name(self.name)
        return [*made, *claims.created(server, self.args["deploy"], self.place.under("deploy"))]

    def build(self, context: Context, opts: pulumi.ResourceOptions) -> "MysqlStore":
        return MysqlStore(self.name, {"context": context, "store": cast(MysqlStoreArgs, self.args)}, opts)


class MysqlStoreInputs(TypedDict):
    """Inputs of :class:`MysqlStore`."""

    context: Context
    """Deployment context."""
    store: MysqlStoreArgs
    """Database and server."""


class MysqlStore(pulumi.ComponentResource):
    """Backend store on MySQL or MariaDB, and the Job that creates or upgrades the schema before MLflow starts. The Job
    belongs to one image and one database: a change of either runs a new Job."""

    parts: PodParts
    """Parts of the tracking server's pod."""

    def __init__(self, name: str, args: MysqlStoreInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        store = validate.resolved("MysqlStore", name, MysqlStoreArgs, args["store"], longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:MysqlStore", name, {}, opts)
        context = args["context"]
        if "deploy" in store:
            database = mariadb.deploy(self, name, store["deploy"], context)
        else:
            database = sql.existing(self, name, store, context.namespace, sql.labels_of(name, context))
        uri = pulumi.Output.all(database.host, database.port, database.name).apply(lambda place: _uri(*place))
        self.parts = sql.parts(
            self, name, context, store, database, DIALECT, sql.Client(uri=uri, tools=_tools(store)), opts
        )
        self.register_outputs({})


def _tools(store: MysqlStoreArgs) -> pulumi.Input[str]:
    """Return the image with the client tools."""
    server = store["deploy"]["image"] if "deploy" in store else mariadb.DEFAULT_IMAGE
    return store["dumps"].get("image", server)


def _uri(host: str, port: int, database: str) -> str:
    options = urlencode({"read_default_file": DIALECT.credentials_file, **TIMEOUTS}, safe="/")
    return f"{DRIVER}://{host}:{port}/{quote(database)}?{options}"
