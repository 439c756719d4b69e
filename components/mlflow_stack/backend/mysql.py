"""Backend store on MySQL or MariaDB, on an existing server or one created by the stack, with a schema Job."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast
from urllib.parse import quote, unquote, urlencode, urlsplit

import pulumi
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    ResourceRequirementsArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import identity, kinds, pod, validate
from mlflow_stack.backend import mariadb
from mlflow_stack.backend.mariadb import PROGRAMS, MariadbArgs
from mlflow_stack.backend.sql import DEFAULT_NAME, PASSWORD_KEY, Database, secret
from mlflow_stack.cluster import SECRET, STORAGE_CLASS, Claim, Need, Reservation
from mlflow_stack.pod import LONGEST_NAME, Context, Egress, PodParts, claims

PASSWORD = "/etc/mlflow-stack-mysql/password"  # noqa: S105 - a path
"""Mount path of the Secret's password."""
CA = "/etc/mlflow-stack-mysql-ca/ca.crt"
OPTIONS = "/run/mlflow-stack-mysql/client.cnf"
"""Option file of MLflow's driver, which each pod writes for itself into a memory volume."""
DRIVER = "mysql+pymysql"
"""Scheme of the store's URI: SQLAlchemy's dialect, and the driver in MLflow's image."""
WORK = "/work"
DUMPS = "/dumps"

TIMEOUTS = {"connect_timeout": "5", "read_timeout": "30", "write_timeout": "30"}
"""Seconds that MLflow waits for the database server, at most twice: MLflow's client gives up after 120 s."""

JOB_CPU = "250m"
STEP_MEMORY: tuple[Mapping[str, str], Mapping[str, str]] = ({"memory": "512Mi"}, {"memory": "1Gi"})


class DumpsArgs(TypedDict):
    """Claim for dumps of the database, one from before each schema upgrade."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity. It can be raised later if the StorageClass allows it. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    image: NotRequired[pulumi.Input[str]]
    """Image with bash, gzip and the client tools of MariaDB or MySQL. Default: the deployed server's, else
    docker.io/library/mariadb:10.11."""


@validate.rules(DumpsArgs, defaults={"size": claims.DEFAULT_SIZE})
def _dumps_rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("image", validate.image)


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
    fields.check("host", validate.host)
    fields.check("port", validate.between(1, 65535))
    fields.check("database", validate.database)
    fields.check("username", validate.database_user)
    fields.check("password", validate.database_password)
    fields.check("existing_secret", validate.subdomain)
    fields.check("ca", validate.certificates)
    if "deploy" in fields.stated:
        for name in ("host", "port", "database", "username", "password", "existing_secret", "ca"):
            fields.refuse_together(name, "deploy")
        return
    if "host" not in fields.stated:
        fields.require("host", "deploy is not set")
    fields.refuse_together("password", "existing_secret")
    if not fields.stated & {"password", "existing_secret"}:
        fields.require("password", f"{fields.spell('existing_secret')} is not set")


def _step_resources(cpu: str) -> ResourceRequirementsArgsDict:
    """Return the resources of a container that uses the database before MLflow starts."""
    requests, limits = STEP_MEMORY
    return pod.resources(None, {**requests, "cpu": cpu}, limits)


def _dumps(stack: str) -> str:
    """Return the name of the claim for dumps."""
    return f"{stack}-dumps"


class MysqlBackend(kinds.BackendKind):
    """Backend store on MySQL or MariaDB."""

    @classmethod
    def identity_of(cls, server: kinds.Unguarded) -> str:
        uri = urlsplit(server.env.get("MLFLOW_BACKEND_STORE_URI", ""))
        if uri.scheme != DRIVER:
            return ""
        return _identity(server.namespace, uri.hostname or "", uri.port, unquote(uri.path[1:]))

    def needs(self) -> Sequence[Need]:
        deploy, dumps = self.place.under("deploy"), self.place.under("dumps")
        return [
            *self.place.need(
                SECRET, self.args, "existing_secret", keys=[PASSWORD_KEY], why="the database user's password"
            ),
            *(mariadb.needs(self.args["deploy"], deploy) if "deploy" in self.args else []),
            *dumps.need(STORAGE_CLASS, self.args["dumps"], "storage_class"),
        ]

    def reservations(self) -> Sequence[Reservation]:
        if "deploy" not in self.args:
            return []
        return [mariadb.reservation(self.args["deploy"], self.place.under("deploy"))]

    def claims(self) -> Sequence[Claim]:
        made = claims.created(_dumps(self.name), self.args["dumps"], self.place.under("dumps"))
        if "deploy" in self.args:
            server = mariadb.object_name(self.name)
            made += claims.created(server, self.args["deploy"], self.place.under("deploy"))
        return made

    def steps(self) -> Sequence[ResourceRequirementsArgsDict]:
        return [_step_resources(pod.STEP_CPU)]

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
        labels = pod.labels(name, "backend-store", context.labels)
        if "deploy" in store:
            database = mariadb.deploy(self, name, store["deploy"], context)
        else:
            database = _existing(self, name, store, context.namespace, labels)

        data = pulumi.Output.all(context.namespace, database.host, database.port, database.name).apply(
            lambda parts: _identity(*parts)
        )
        guard = identity.guard(name, identity.RECORDS, data, opts)

        def texts(purpose: str, volume: str, data: Mapping[str, pulumi.Input[str]]) -> VolumeArgsDict:
            child = pulumi.ResourceOptions(parent=self)
            made = pod.config_map(f"{name}-{purpose}", data, namespace=context.namespace, labels=labels, opts=child)
            return pod.config_volume(volume, made)

        volumes: list[VolumeArgsDict] = [
            texts("schema", "mysql-scripts", pod.programs("mysql_schema.py", "mysql_dump.sh", "revisions.py")),
            {
                "name": "mysql-password",
                "secret": {
                    "secret_name": database.secret,
                    "default_mode": 0o440,
                    "items": [{"key": PASSWORD_KEY, "path": "password"}],
                },
            },
        ]
        mounts: list[VolumeMountArgsDict] = [
            {"name": "mysql-scripts", "mount_path": PROGRAMS, "read_only": True},
            _folder("mysql-password", PASSWORD),
        ]
        authority: list[VolumeMountArgsDict] = []
        if "ca" in store:
            volumes.append(texts("database-ca", "mysql-ca", {"ca.crt": store["ca"]}))
            authority = [_folder("mysql-ca", CA)]
        env: dict[str, pulumi.Input[str]] = {
            "HOST": database.host,
            "PORT": pulumi.Output.from_input(database.port).apply(str),
            "DATABASE": database.name,
            "USERNAME": database.user,
            "PASSWORD_FILE": PASSWORD,
            **({"CA_FILE": CA} if authority else {}),
            "HOME": pod.SCRATCH,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        scratch, scratch_mount = pod.scratch("mysql-tmp", "256Mi")

        def step(
            name: str,
            image: pulumi.Input[str],
            command: Sequence[str],
            env: Mapping[str, pulumi.Input[str]],
            more: Sequence[VolumeMountArgsDict],
            cpu: str = JOB_CPU,
        ) -> ContainerArgsDict:
            resources = _step_resources(cpu)
            return pod.step(
                name, image, command, env=env, resources=resources, mounts=[*mounts, *authority, scratch_mount, *more]
            )

        dumps = claims.create(
            self,
            _dumps(name),
            {**store["dumps"], "access_mode": claims.DEFAULT_ACCESS_MODE},
            context,
            labels,
        )
        program = ("python", f"{PROGRAMS}/mysql_schema.py")
        check = step("check", context.image, (*program, "check"), {**env, "WORK": WORK}, [_WORK_MOUNT])
        dump = step(
            "dump",
            _tools(store),
            ("bash", f"{PROGRAMS}/mysql_dump.sh"),
            {"DATABASE": database.name, "WORK": WORK, "DUMPS": DUMPS, "HOME": pod.SCRATCH},
            [_WORK_MOUNT, {"name": "dumps", "mount_path": DUMPS}],
        )
        job = pod.job(
            name,
            pod.SCHEMA,
            context,
            step("migrate", context.image, (*program, "migrate"), {**env, "WORK": WORK}, [_WORK_MOUNT]),
            PodParts(
                init_containers=[check, dump],
                volumes=[*volumes, scratch, _memory("work"), claims.volume("dumps", dumps)],
                egress=[database.egress],
                wait_for=[guard, *database.wait_for],
            ),
            pod.JobLimits(timeout=context.rollout_timeout),
            self,
        )

        options = _folder("mysql-options", OPTIONS)
        writable: VolumeMountArgsDict = {"name": options["name"], "mount_path": options["mount_path"]}
        ready = step(
            "database", context.image, (*program, "ready"), {**env, "OPTIONS": OPTIONS}, [writable], pod.STEP_CPU
        )
        uri = pulumi.Output.all(database.host, database.port, database.name).apply(lambda place: _uri(*place))
        self.parts = PodParts(
            init_containers=[ready],
            env=pod.env({"MLFLOW_BACKEND_STORE_URI": uri}),
            volumes=[*volumes, scratch, _memory("mysql-options")],
            mounts=[options, *authority],
            programs=["searches_mysql.py"],
            wait_for=[job],
            egress=[database.egress],
            identity={identity.RECORDS: data},
        )
        self.register_outputs({})


def _existing(
    parent: MysqlStore, name: str, store: MysqlStoreArgs, namespace: pulumi.Input[str], labels: Mapping[str, str]
) -> Database:
    """Return the address and credentials of a database on an existing server."""
    if "existing_secret" in store:
        password = store["existing_secret"]
    else:
        given: pulumi.Output[str] = pulumi.Output.secret(store.get("password", ""))
        password = pod.name_of(secret(parent, f"{name}-database", namespace, labels, {PASSWORD_KEY: given}))
    return Database(
        host=store.get("host", ""),
        port=store["port"],
        name=store["database"],
        user=store["username"],
        secret=password,
        egress=Egress(store["port"]),
    )


def _tools(store: MysqlStoreArgs) -> pulumi.Input[str]:
    """Return the image with the client tools."""
    server = store["deploy"]["image"] if "deploy" in store else mariadb.DEFAULT_IMAGE
    return store["dumps"].get("image", server)


def _identity(namespace: str, host: str, port: int | None, name: str) -> str:
    return identity.database("mysql", mariadb.PORT, namespace, host, port, name)


def _uri(host: str, port: int, database: str) -> str:
    options = urlencode({"read_default_file": OPTIONS, **TIMEOUTS}, safe="/")
    return f"{DRIVER}://{host}:{port}/{quote(database)}?{options}"


_WORK_MOUNT: VolumeMountArgsDict = {"name": "work", "mount_path": WORK}


def _folder(volume: str, file: str) -> VolumeMountArgsDict:
    """Return the mount of a file's folder. A mount of the file itself would not follow updates of its Secret."""
    return {"name": volume, "mount_path": file.rpartition("/")[0], "read_only": True}


def _memory(name: str) -> VolumeArgsDict:
    """Return a small memory volume, which is never written to disk."""
    return {"name": name, "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}}
