"""Common parts of the SQL backend stores: address, password, dumps and the schema Job of a database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    ResourceRequirementsArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import identity, kinds, pod, validate
from mlflow_stack.cluster import SECRET, STORAGE_CLASS, Claim, Need
from mlflow_stack.pod import Context, Egress, PodParts, claims

DEFAULT_NAME = "mlflow"
"""Default name of the database and of its user."""
PASSWORD_KEY = "password"  # noqa: S105 - a key's name
"""Key of the Secret that holds the user's password."""
WORK = "/work"
DUMPS = "/dumps"

JOB_CPU = "250m"
STEP_MEMORY: tuple[Mapping[str, str], Mapping[str, str]] = ({"memory": "512Mi"}, {"memory": "1Gi"})


class DumpsArgs(TypedDict):
    """Claim for dumps of the database, one from before each schema upgrade."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity. It can be raised later if the StorageClass allows it. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    image: NotRequired[pulumi.Input[str]]
    """Image with bash, gzip and the client tools of the database: those of MariaDB or MySQL, or ``pg_dump`` of the
    server's version or a later one. Default: the deployed server's, else docker.io/library/mariadb:10.11, for
    PostgreSQL docker.io/library/postgres:18."""


@validate.rules(DumpsArgs, defaults={"size": claims.DEFAULT_SIZE})
def _dumps_rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("image", validate.image)


def connection_rules(fields: validate.Fields) -> None:
    """Check the fields of a connection, which are the same for every database."""
    fields.check("host", validate.host)
    fields.check("port", validate.between(1, 65535))
    fields.check("database", validate.database)
    fields.check("username", validate.database_user)
    fields.check("password", validate.database_password)
    fields.check("existing_secret", validate.subdomain)
    fields.check("ca", validate.certificates)


def password_rules(fields: validate.Fields) -> None:
    """Check that an existing server's password is given once."""
    fields.refuse_together("password", "existing_secret")
    if not fields.stated & {"password", "existing_secret"}:
        fields.require("password", f"{fields.spell('existing_secret')} is not set")


@dataclass(frozen=True)
class Database:
    """Address of a database, and the credentials for it."""

    host: pulumi.Input[str]
    port: pulumi.Input[int]
    name: pulumi.Input[str]
    user: pulumi.Input[str]
    secret: pulumi.Input[str]
    """Name of the Secret with the password."""
    egress: Egress
    wait_for: Sequence[pulumi.Resource] = ()


@dataclass(frozen=True)
class Dialect:
    """Names and defaults of one kind of database."""

    name: str
    """Scheme of identities, and prefix of volumes, paths and programs."""
    port: int
    """Default port."""
    credentials: str
    """Name of the file with the credentials for MLflow's driver, which each pod writes into a memory volume."""
    searches: str
    """Program with the time limits of searches."""
    dumps: str
    """Suffix of the name of the claim with dumps. Each kind has its own, because a claim outlives a change of kind."""

    @property
    def programs(self) -> str:
        """Mount path of the schema programs."""
        return f"/opt/mlflow-stack-{self.name}"

    @property
    def password(self) -> str:
        """Mount path of the Secret's password."""
        return f"/etc/mlflow-stack-{self.name}/password"

    @property
    def ca(self) -> str:
        """Mount path of the CA certificates."""
        return f"/etc/mlflow-stack-{self.name}-ca/ca.crt"

    @property
    def credentials_file(self) -> str:
        """Path of the file with the driver's credentials."""
        return f"/run/mlflow-stack-{self.name}/{self.credentials}"

    def identity(self, namespace: str, host: str, port: int | None, database: str) -> str:
        """Return the identity of a database."""
        return identity.database(self.name, self.port, namespace, host, port, database)


@dataclass(frozen=True)
class Client:
    """Settings of the pods that connect to a database."""

    uri: pulumi.Input[str]
    """MLflow's URI of the store."""
    tools: pulumi.Input[str]
    """Image with the client tools that write dumps."""
    env: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Environment of the schema programs beyond address and credentials."""


class SqlBackend(kinds.BackendKind):
    """Backend store in a database with a schema Job."""

    dialect: ClassVar[Dialect]

    def needs(self) -> Sequence[Need]:
        dumps = self.place.under("dumps")
        return [
            *self.place.need(
                SECRET, self.args, "existing_secret", keys=[PASSWORD_KEY], why="the database user's password"
            ),
            *dumps.need(STORAGE_CLASS, self.args["dumps"], "storage_class"),
        ]

    def claims(self) -> Sequence[Claim]:
        return claims.created(f"{self.name}-{self.dialect.dumps}", self.args["dumps"], self.place.under("dumps"))

    def steps(self) -> Sequence[ResourceRequirementsArgsDict]:
        return [_step_resources(pod.STEP_CPU)]


def secret(
    parent: pulumi.Resource,
    name: str,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    data: Mapping[str, pulumi.Input[str]],
) -> k8s.core.v1.Secret:
    """Declare an immutable Secret without a fixed name, so that changed content rolls out the pods that use it."""
    return k8s.core.v1.Secret(
        name,
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        string_data=data,
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["stringData"]),
    )


def existing(
    parent: pulumi.Resource,
    name: str,
    store: Mapping[str, Any],
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
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


def labels_of(name: str, context: Context) -> dict[str, str]:
    """Return the labels of a store's own objects."""
    return pod.labels(name, "backend-store", context.labels)


def parts(
    parent: pulumi.Resource,
    name: str,
    context: Context,
    store: Mapping[str, Any],
    database: Database,
    dialect: Dialect,
    client: Client,
    opts: pulumi.ResourceOptions | None,
) -> PodParts:
    """Declare guard, dumps and schema Job of a database, and return the parts of the tracking server's pod.

    :param store: Resolved args of the store: ``ca`` and ``dumps`` among them.
    :param opts: Options of the store itself.
    """
    labels = labels_of(name, context)
    data = pulumi.Output.all(context.namespace, database.host, database.port, database.name).apply(
        lambda parts: dialect.identity(*parts)
    )
    guard = identity.guard(name, identity.RECORDS, data, opts)
    volume = {purpose: f"{dialect.name}-{purpose}" for purpose in ("scripts", "password", "ca", "tmp", "options")}

    def texts(purpose: str, volume: str, data: Mapping[str, pulumi.Input[str]]) -> VolumeArgsDict:
        child = pulumi.ResourceOptions(parent=parent)
        made = pod.config_map(f"{name}-{purpose}", data, namespace=context.namespace, labels=labels, opts=child)
        return pod.config_volume(volume, made)

    schema, dumper = f"{dialect.name}_schema.py", f"{dialect.name}_dump.sh"
    volumes: list[VolumeArgsDict] = [
        texts("schema", volume["scripts"], pod.programs(schema, dumper, *SHARED_PROGRAMS)),
        {
            "name": volume["password"],
            "secret": {
                "secret_name": database.secret,
                "default_mode": 0o440,
                "items": [{"key": PASSWORD_KEY, "path": "password"}],
            },
        },
    ]
    mounts: list[VolumeMountArgsDict] = [
        {"name": volume["scripts"], "mount_path": dialect.programs, "read_only": True},
        _folder(volume["password"], dialect.password),
    ]
    authority: list[VolumeMountArgsDict] = []
    if "ca" in store:
        volumes.append(texts("database-ca", volume["ca"], {"ca.crt": store["ca"]}))
        authority = [_folder(volume["ca"], dialect.ca)]
    env: dict[str, pulumi.Input[str]] = {
        "HOST": database.host,
        "PORT": pulumi.Output.from_input(database.port).apply(str),
        "DATABASE": database.name,
        "USERNAME": database.user,
        "PASSWORD_FILE": dialect.password,
        **({"CA_FILE": dialect.ca} if authority else {}),
        **client.env,
        "HOME": pod.SCRATCH,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    scratch, scratch_mount = pod.scratch(volume["tmp"], "256Mi")

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
        parent,
        f"{name}-{dialect.dumps}",
        {**store["dumps"], "access_mode": claims.DEFAULT_ACCESS_MODE},
        context,
        labels,
    )
    program = ("python", f"{dialect.programs}/{schema}")
    check = step("check", context.image, (*program, "check"), {**env, "WORK": WORK}, [_WORK_MOUNT])
    dump = step(
        "dump",
        client.tools,
        ("bash", f"{dialect.programs}/{dumper}"),
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
        parent,
    )

    options = _folder(volume["options"], dialect.credentials_file)
    writable: VolumeMountArgsDict = {"name": options["name"], "mount_path": options["mount_path"]}
    ready = step(
        "database",
        context.image,
        (*program, "ready"),
        {**env, "OPTIONS": dialect.credentials_file},
        [writable],
        pod.STEP_CPU,
    )
    return PodParts(
        init_containers=[ready],
        env=pod.env({"MLFLOW_BACKEND_STORE_URI": client.uri}),
        volumes=[*volumes, scratch, _memory(volume["options"])],
        mounts=[options, *authority],
        programs=[dialect.searches],
        wait_for=[job],
        egress=[database.egress],
        identity={identity.RECORDS: data},
    )


SHARED_PROGRAMS = ("sql_schema.py", "revisions.py")
"""Modules that the schema programs of every database import."""

_WORK_MOUNT: VolumeMountArgsDict = {"name": "work", "mount_path": WORK}


def _step_resources(cpu: str) -> ResourceRequirementsArgsDict:
    """Return the resources of a container that uses the database before MLflow starts."""
    requests, limits = STEP_MEMORY
    return pod.resources(None, {**requests, "cpu": cpu}, limits)


def _folder(volume: str, file: str) -> VolumeMountArgsDict:
    """Return the mount of a file's folder. A mount of the file itself would not follow updates of its Secret."""
    return {"name": volume, "mount_path": file.rpartition("/")[0], "read_only": True}


def _memory(name: str) -> VolumeArgsDict:
    """Return a small memory volume, which is never written to disk."""
    return {"name": name, "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}}
