"""The backend store on MySQL or MariaDB: a server that is there, or one deployed with the stack, and its schema Job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict
from urllib.parse import quote, urlencode

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    ResourceRequirementsArgsDict,
    VolumeArgsDict,
    VolumeMountArgsDict,
)

from mlflow_stack import identity, pod, validate
from mlflow_stack.access.credentials import LONGEST_NAME, PASSWORD_LENGTH
from mlflow_stack.cluster import SECRET, STORAGE_CLASS, Need, Place, Reservation
from mlflow_stack.pod import Egress, Ingress, PodParts, network

DEFAULT_IMAGE = "docker.io/library/mariadb:10.11"
"""The deployed server, and the client tools that dump."""
DEFAULT_SIZE = "20Gi"
DEFAULT_DUMPS_SIZE = "20Gi"
DEFAULT_NAME = "mlflow"
PORT = 3306

DATABASE_COMPONENT = "database"
SCHEMA_COMPONENT = "schema"

SCRIPTS = "/opt/mlflow-stack-mysql"
PASSWORD = "/etc/mlflow-stack-mysql/password"  # noqa: S105 - a path
"""Where the Secret's password is mounted."""
PASSWORD_KEY = "password"  # noqa: S105 - a key's name
"""The Secret's key."""
CA = "/etc/mlflow-stack-mysql-ca/ca.crt"
OPTIONS = "/run/mlflow-stack-mysql/client.cnf"
"""The options of MLflow's driver, written by each pod for itself, in memory."""
WORK = "/work"
DUMPS = "/dumps"
DATA = "/var/lib/mysql"
SERVER = "/etc/mlflow-stack-mariadb"
SOCKET = f"{pod.SCRATCH}/mariadb.sock"

TIMEOUTS = {"connect_timeout": "5", "read_timeout": "30", "write_timeout": "30"}
"""Seconds that MLflow waits for the server, twice at most: MLflow's client gives up after 120."""

SCHEMA_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": "250m", "memory": "512Mi"},
    {"memory": "1Gi"},
)
SERVER_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": "250m", "memory": "512Mi"},
    {"memory": "1Gi"},
)
SERVER_GRACE_SECONDS = 120
"""A server writes out what it holds in memory before it ends."""


class MariadbArgs(TypedDict):
    """A MariaDB server of the stack's own: one pod with a claim. Its passwords are generated."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity; where the class allows it, it can be raised later. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    image: NotRequired[pulumi.Input[str]]
    """MariaDB image, 10.6 or later, with a tag other than latest or a digest.
    Default: docker.io/library/mariadb:10.11."""
    resources: NotRequired[pod.ResourcesArgs]
    """Default: requests 250m CPU and 512Mi memory, limit 1Gi memory."""
    rotation: NotRequired[int]
    """Raising the number makes new passwords; the server restarts with them. Default: 0."""


@validate.rules(MariadbArgs)
def _mariadb(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("image", validate.image)
    fields.check("rotation", validate.between(0, 2**31))
    pod.resource_rules(fields, *SERVER_RESOURCES)


class DumpsArgs(TypedDict):
    """The claim that holds a dump of the database from before each upgrade of its schema."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity; where the class allows it, it can be raised later. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    image: NotRequired[pulumi.Input[str]]
    """Image with bash, gzip and the client tools of MariaDB or MySQL. Default: the deployed server's, else
    docker.io/library/mariadb:10.11."""


@validate.rules(DumpsArgs)
def _dumps(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("image", validate.image)


class MysqlStoreArgs(TypedDict):
    """A database on a server that is there already (``host``), MySQL 8.0 or MariaDB 10.6 or later, or on one that this
    stack deploys (``deploy``)."""

    host: NotRequired[pulumi.Input[str]]
    """The server's name or IPv4 address. Default: none; then deploy is needed."""
    port: NotRequired[pulumi.Input[int]]
    """Its TCP port. Default: 3306."""
    database: NotRequired[pulumi.Input[str]]
    """Name of the database, which is there, with the character set utf8mb4. Default: mlflow."""
    username: NotRequired[pulumi.Input[str]]
    """A user with all privileges on it. Default: mlflow."""
    password: NotRequired[pulumi.Input[str]]
    """Secret: the user's password, of any characters that can be printed. Default: none; then existing_secret is
    needed."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of a Secret that is there already, with the user's password under the key ``password``. Default: none."""
    ca: NotRequired[pulumi.Input[str]]
    """Certificates, as PEM text, of the authorities that vouch for the server, which is then verified, its name
    included. Default: none; encrypted where the server can, verified never."""
    deploy: NotRequired[MariadbArgs]
    """A MariaDB server of the stack's own, instead of all of the above. Default: none."""
    dumps: NotRequired[DumpsArgs]
    """Where the database is dumped to before its schema is upgraded. Default: a claim of 20Gi."""


@validate.rules(MysqlStoreArgs)
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
            fields.refuse_together(name, "deploy", "a server that this stack deploys has its own")
        return
    if "host" not in fields.stated:
        fields.refuse("host", "a host name, or deploy")
    fields.refuse_together("password", "existing_secret", "one creates, the other adopts")
    if not fields.stated & {"password", "existing_secret"}:
        fields.refuse("password", f"a password, or {fields.spell('existing_secret')}")


def needs(args: MysqlStoreArgs, place: Place) -> list[Need]:
    """Return what the database needs of the cluster."""
    deployed = place.under("deploy").need(STORAGE_CLASS, args["deploy"], "storage_class") if "deploy" in args else []
    return [
        *place.need(SECRET, args, "existing_secret", keys=[PASSWORD_KEY], why="the database user's password"),
        *deployed,
        *place.under("dumps").need(STORAGE_CLASS, args.get("dumps", {}), "storage_class"),
    ]


def step_resources(cpu: str = pod.STEP_CPU) -> ResourceRequirementsArgsDict:
    """Return the resources of a container that opens the database before MLflow does: by default the step in the
    tracking server's pod."""
    requests, limits = SCHEMA_RESOURCES
    return pod.resources(None, {**requests, "cpu": cpu}, limits)


def _server_resources(args: MariadbArgs) -> ResourceRequirementsArgsDict:
    return pod.resources(args.get("resources"), *SERVER_RESOURCES)


def reservation(args: MariadbArgs, place: Place) -> Reservation:
    """Return the room that the deployed server's pod needs on a node."""
    return place.reservation("the database server", [_server_resources(args)], [], args.get("resources", {}), {})


class MysqlPlacementArgs(TypedDict):
    """Where the store stands: what the stack knows and its user does not say."""

    namespace: pulumi.Input[str]
    """Namespace of everything."""
    image: pulumi.Input[str]
    """The MLflow image, which makes and upgrades the schema."""
    platform: pod.Platform
    """kubernetes or openshift."""
    rollout_timeout: str
    """How long ``pulumi up`` waits for the server and for the schema Job."""
    labels: Mapping[str, str]
    """More labels."""


@dataclass(frozen=True)
class _Database:
    """Where the database is and how a pod comes in."""

    host: pulumi.Input[str]
    port: pulumi.Input[int]
    name: pulumi.Input[str]
    user: pulumi.Input[str]
    secret: pulumi.Input[str]
    """Name of the Secret with the password."""
    egress: Egress
    wait_for: Sequence[pulumi.Resource] = ()


class MysqlStore(pulumi.ComponentResource):
    """The backend store: perhaps a server, and the Job that makes or upgrades the schema before any MLflow starts on
    it. One Job for each image and database: a change of either runs another."""

    parts: PodParts
    """What the tracking server's pod needs."""

    def __init__(
        self, name: str, args: MysqlStoreArgs, placement: MysqlPlacementArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        accepted = validate.accepted("MysqlStore", name, MysqlStoreArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:MysqlStore", name, {}, opts)
        labels = pod.labels(name, "backend-store", placement["labels"])
        child = pulumi.ResourceOptions(parent=self)
        if "deploy" in accepted:
            database = _deployed(self, name, accepted["deploy"], placement)
        else:
            database = _external(self, name, accepted, placement["namespace"], labels)

        data = pulumi.Output.all("mysql", placement["namespace"], database.host, database.port, database.name).apply(
            lambda parts: identity.database(*parts)
        )
        guard = identity.guard(name, identity.RECORDS, data, opts)

        def text(purpose: str, data: Mapping[str, pulumi.Input[str]]) -> pulumi.Output[str]:
            made = k8s.core.v1.ConfigMap(
                f"{name}-{purpose}",
                metadata={"namespace": placement["namespace"], "labels": labels},
                immutable=True,
                data=data,
                opts=child,
            )
            return pod.name_of(made)

        scripts = text(
            "schema", {one: pod.program(one) for one in ("mysql_schema.py", "mysql_dump.sh", "revisions.py")}
        )
        volumes: list[VolumeArgsDict] = [
            {"name": "mysql-scripts", "config_map": {"name": scripts, "default_mode": 0o444}},
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
            {"name": "mysql-scripts", "mount_path": SCRIPTS, "read_only": True},
            _folder("mysql-password", PASSWORD),
        ]
        authority: list[VolumeMountArgsDict] = []
        if "ca" in accepted:
            certificates = text("database-ca", {"ca.crt": accepted["ca"]})
            volumes.append({"name": "mysql-ca", "config_map": {"name": certificates, "default_mode": 0o444}})
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
            cpu: str = SCHEMA_RESOURCES[0]["cpu"],
        ) -> ContainerArgsDict:
            return {
                "name": name,
                "image": image,
                "command": list(command),
                "args": [],
                "env": pod.env(env),
                "resources": step_resources(cpu),
                "security_context": pod.container_security(),
                "termination_message_policy": "FallbackToLogsOnError",
                "volume_mounts": [*mounts, *authority, scratch_mount, *more],
            }

        program = ("python", f"{SCRIPTS}/mysql_schema.py")
        job = self._job(
            name,
            accepted,
            placement,
            database,
            [
                step("check", placement["image"], (*program, "check"), {**env, "WORK": WORK}, [_WORK_MOUNT]),
                step(
                    "dump",
                    _tools(accepted),
                    ("bash", f"{SCRIPTS}/mysql_dump.sh"),
                    {"DATABASE": database.name, "WORK": WORK, "DUMPS": DUMPS, "HOME": pod.SCRATCH},
                    [_WORK_MOUNT, {"name": "dumps", "mount_path": DUMPS}],
                ),
                step("migrate", placement["image"], (*program, "migrate"), {**env, "WORK": WORK}, [_WORK_MOUNT]),
            ],
            [*volumes, scratch],
            guard,
        )

        options = _folder("mysql-options", OPTIONS)
        writable: VolumeMountArgsDict = {"name": options["name"], "mount_path": options["mount_path"]}
        ready = step(
            "database",
            placement["image"],
            (*program, "ready"),
            {**env, "OPTIONS": OPTIONS},
            [writable],
            pod.STEP_CPU,
        )
        uri = pulumi.Output.all(database.host, database.port, database.name).apply(lambda place: _uri(*place))
        self.parts = PodParts(
            init_containers=[ready],
            env=pod.env({"MLFLOW_BACKEND_STORE_URI": uri}),
            volumes=[*volumes, scratch, _memory("mysql-options")],
            mounts=[options, *authority],
            wait_for=[job],
            egress=[database.egress],
            identity={identity.RECORDS: data},
        )
        self.register_outputs({})

    def _job(
        self,
        name: str,
        args: MysqlStoreArgs,
        placement: MysqlPlacementArgs,
        database: _Database,
        steps: Sequence[ContainerArgsDict],
        volumes: Sequence[VolumeArgsDict],
        guard: pulumi.Resource,
    ) -> k8s.batch.v1.Job:
        labels = pod.labels(name, SCHEMA_COMPONENT, placement["labels"])
        policy = network.policy(
            f"{name}-schema",
            namespace=placement["namespace"],
            labels=labels,
            selector=pod.selector(name, SCHEMA_COMPONENT),
            ingress=[],
            egress=[database.egress],
            opts=pulumi.ResourceOptions(parent=self),
        )
        dumps = args.get("dumps", {})
        claim = pod.claim(
            f"{name}-dumps",
            namespace=placement["namespace"],
            labels=pod.labels(name, "backend-store", placement["labels"]),
            size=dumps.get("size", DEFAULT_DUMPS_SIZE),
            storage_class=dumps.get("storage_class"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        parts = PodParts(
            init_containers=steps[:-1],
            volumes=[
                *volumes,
                _memory("work"),
                {"name": "dumps", "persistent_volume_claim": {"claim_name": pod.name_of(claim)}},
            ],
        )
        account = pod.service_account(
            f"{name}-schema", placement["namespace"], labels, pulumi.ResourceOptions(parent=self)
        )
        template = pod.spec(placement["platform"], [steps[-1]], [parts], account)
        timeout = placement["rollout_timeout"]
        return k8s.batch.v1.Job(
            f"{name}-schema",
            metadata={
                "namespace": placement["namespace"],
                "labels": labels,
                # Without it a failed Job would be waited for again, instead of run again.
                "annotations": {"pulumi.com/replaceUnready": "true"},
            },
            spec={
                "backoff_limit": 0,
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": pod.annotations(placement["platform"], [parts]),
                    },
                    "spec": {**template, "restart_policy": "Never"},
                },
            },
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[policy, guard, *database.wait_for],
                custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
            ),
        )


def _external(
    parent: MysqlStore, name: str, args: MysqlStoreArgs, namespace: pulumi.Input[str], labels: Mapping[str, str]
) -> _Database:
    port = args.get("port", PORT)
    if "existing_secret" in args:
        secret = args["existing_secret"]
    else:
        password: pulumi.Output[str] = pulumi.Output.secret(args.get("password", ""))
        secret = pod.name_of(_secret(parent, f"{name}-database", namespace, labels, {PASSWORD_KEY: password}))
    return _Database(
        host=args.get("host", ""),
        port=port,
        name=args.get("database", DEFAULT_NAME),
        user=args.get("username", DEFAULT_NAME),
        secret=secret,
        egress=Egress(port),
    )


def _deployed(parent: MysqlStore, name: str, args: MariadbArgs, placement: MysqlPlacementArgs) -> _Database:
    namespace, platform = placement["namespace"], placement["platform"]
    labels = pod.labels(name, DATABASE_COMPONENT, placement["labels"])
    selector = pod.selector(name, DATABASE_COMPONENT)
    child = pulumi.ResourceOptions(parent=parent)
    service = f"{name}-database"

    passwords = {
        user: random.RandomPassword(
            f"{name}-database-{user}",
            length=PASSWORD_LENGTH,
            special=False,
            keepers={"rotation": str(args.get("rotation", 0))},
            opts=child,
        )
        for user in (DEFAULT_NAME, "root")
    }
    own, root = passwords[DEFAULT_NAME].result, passwords["root"].result
    secret = _secret(parent, service, namespace, labels, {PASSWORD_KEY: own})
    server_secret = _secret(
        parent,
        f"{name}-database-server",
        namespace,
        labels,
        {"init.sql": pulumi.Output.all(own, root).apply(_statements), "client.cnf": own.apply(_probe_options)},
    )
    claim = pod.claim(
        service,
        namespace=namespace,
        labels=labels,
        size=args.get("size", DEFAULT_SIZE),
        storage_class=args.get("storage_class"),
        # Passwords outlive `destroy --exclude-protected` with the data that knows them.
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(passwords.values())),
    )
    scripts = k8s.core.v1.ConfigMap(
        f"{name}-database",
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        data={"mariadb_data.sh": pod.program("mariadb_data.sh")},
        opts=child,
    )
    policy = network.policy(
        service,
        namespace=namespace,
        labels=labels,
        selector=selector,
        ingress=[
            Ingress(
                PORT,
                [
                    {"pod_selector": {"match_labels": pod.selector(name, component)}}
                    for component in ("tracking", SCHEMA_COMPONENT)
                ],
            )
        ],
        egress=[],
        opts=child,
    )
    k8s.core.v1.Service(
        service,
        metadata={
            "name": service,
            "namespace": namespace,
            "labels": labels,
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={"selector": selector, "ports": [{"name": "mysql", "port": PORT, "target_port": "mysql"}]},
        opts=child,
    )
    scratch, scratch_mount = pod.scratch("mariadb-tmp", "1Gi")
    image = args.get("image", DEFAULT_IMAGE)
    common: ContainerArgsDict = {
        "name": "mariadb",
        "image": image,
        "resources": _server_resources(args),
        "security_context": pod.container_security(),
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [
            {"name": "data", "mount_path": DATA},
            {"name": "server", "mount_path": SERVER, "read_only": True},
            {"name": "scripts", "mount_path": SCRIPTS, "read_only": True},
            scratch_mount,
        ],
    }
    server: ContainerArgsDict = {
        **common,
        "command": ["mariadbd"],
        "args": _server_options(),
        "ports": [{"name": "mysql", "container_port": PORT}],
        # A server that was killed repairs its tables first.
        "startup_probe": _probe(period=2, failures=300),
        "liveness_probe": _probe(period=10, failures=6),
        "readiness_probe": _probe(period=5, failures=2),
    }
    parts = PodParts(
        init_containers=[
            {**common, "name": "data", "command": ["sh", f"{SCRIPTS}/mariadb_data.sh"], "args": [f"{DATA}/data"]}
        ],
        volumes=[
            {"name": "data", "persistent_volume_claim": {"claim_name": pod.name_of(claim)}},
            {"name": "server", "secret": {"secret_name": pod.name_of(server_secret), "default_mode": 0o440}},
            {"name": "scripts", "config_map": {"name": pod.name_of(scripts), "default_mode": 0o444}},
            scratch,
        ],
    )
    account = pod.service_account(service, namespace, labels, child)
    template = pod.spec(platform, [server], [parts], account)
    timeout = placement["rollout_timeout"]
    stateful = k8s.apps.v1.StatefulSet(
        service,
        metadata={"namespace": namespace, "labels": labels},
        spec={
            "replicas": 1,
            "service_name": service,
            # OrderedReady would wait for a broken pod to become ready before it takes a good template.
            "pod_management_policy": "Parallel",
            "selector": {"match_labels": selector},
            "template": {
                "metadata": {"labels": labels, "annotations": pod.annotations(platform, [parts])},
                "spec": {**template, "termination_grace_period_seconds": SERVER_GRACE_SECONDS},
            },
        },
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=[policy],
            # A replacement made first would be a second server on the same files.
            delete_before_replace=True,
            custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
        ),
    )
    return _Database(
        host=service,
        port=PORT,
        name=DEFAULT_NAME,
        user=DEFAULT_NAME,
        secret=pod.name_of(secret),
        egress=Egress(PORT, pods=selector),
        wait_for=[stateful],
    )


def _server_options() -> list[str]:
    return [
        "--no-defaults",
        f"--datadir={DATA}/data",
        f"--tmpdir={pod.SCRATCH}",
        f"--socket={SOCKET}",
        f"--pid-file={pod.SCRATCH}/mariadb.pid",
        f"--port={PORT}",
        "--skip-name-resolve",
        "--character-set-server=utf8mb4",
        # MLflow's schema has triggers; nothing reads a binary log here, but one may be switched on.
        "--log-bin-trust-function-creators=1",
        "--innodb-buffer-pool-size=256M",
        f"--init-file={SERVER}/init.sql",
    ]


def _statements(passwords: Sequence[str]) -> str:
    """What the server carries out at each start, before it lets anybody in: a new password counts from then on."""
    own, root = passwords
    return "".join(
        f"{statement};\n"
        for statement in (
            f"CREATE DATABASE IF NOT EXISTS `{DEFAULT_NAME}` CHARACTER SET utf8mb4",
            f"CREATE USER IF NOT EXISTS '{DEFAULT_NAME}'@'%'",
            f"ALTER USER '{DEFAULT_NAME}'@'%' IDENTIFIED BY '{own}'",
            f"GRANT ALL ON `{DEFAULT_NAME}`.* TO '{DEFAULT_NAME}'@'%'",
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{root}'",
            "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'",
            "FLUSH PRIVILEGES",
        )
    )


def _probe_options(password: str) -> str:
    return f"[client]\nuser={DEFAULT_NAME}\npassword={password}\nsocket={SOCKET}\n"


def _probe(*, period: int, failures: int) -> k8s.core.v1.ProbeArgsDict:
    # A connection that does not log in would count as a broken one, and enough of them block its host.
    command = ["mariadb", f"--defaults-file={SERVER}/client.cnf", "--execute=select 1"]
    return {
        "exec_": {"command": command},
        "period_seconds": period,
        "timeout_seconds": 5,
        "failure_threshold": failures,
    }


def _secret(
    parent: pulumi.Resource,
    name: str,
    namespace: pulumi.Input[str],
    labels: Mapping[str, str],
    data: Mapping[str, pulumi.Input[str]],
) -> k8s.core.v1.Secret:
    """Autonamed, so that other content rolls the pods that use it."""
    return k8s.core.v1.Secret(
        name,
        metadata={"namespace": namespace, "labels": labels},
        immutable=True,
        string_data=data,
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["stringData"]),
    )


def _tools(args: MysqlStoreArgs) -> pulumi.Input[str]:
    server = args.get("deploy", {}).get("image", DEFAULT_IMAGE)
    return args.get("dumps", {}).get("image", server)


def _uri(host: str, port: int, database: str) -> str:
    options = urlencode({"read_default_file": OPTIONS, **TIMEOUTS}, safe="/")
    return f"mysql+pymysql://{host}:{port}/{quote(database)}?{options}"


_WORK_MOUNT: VolumeMountArgsDict = {"name": "work", "mount_path": WORK}


def _folder(volume: str, file: str) -> VolumeMountArgsDict:
    """The mount of the folder that a file is in: never the file alone, which would not follow its Secret."""
    return {"name": volume, "mount_path": file.rpartition("/")[0], "read_only": True}


def _memory(name: str) -> VolumeArgsDict:
    """A small volume that no disk sees."""
    return {"name": name, "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}}
