"""MariaDB server created by the stack: one pod with a claim."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random
from pulumi_kubernetes.core.v1 import ContainerArgsDict, ResourceRequirementsArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.access.credentials import PASSWORD_LENGTH
from mlflow_stack.backend.sql import DEFAULT_NAME, PASSWORD_KEY, Database, secret
from mlflow_stack.cluster import STORAGE_CLASS, Need, Place, Reservation
from mlflow_stack.pod import Context, Egress, Ingress, PodArgs, PodParts, claims, network

DEFAULT_IMAGE = "docker.io/library/mariadb:10.11"
"""Image of the deployed server, and of the client tools that write dumps."""
PORT = 3306

PROGRAMS = "/opt/mlflow-stack-mysql"
DATA = "/var/lib/mysql"
SERVER = "/etc/mlflow-stack-mariadb"
SOCKET = f"{pod.SCRATCH}/mariadb.sock"

RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": "250m", "memory": "512Mi"},
    {"memory": "1Gi"},
)
GRACE_SECONDS = 120
"""Termination grace period: the server flushes its memory to disk before it exits."""


class MariadbArgs(TypedDict):
    """MariaDB server created by the stack: one pod with a claim. Its passwords are generated."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity. It can be raised later if the StorageClass allows it. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    image: NotRequired[pulumi.Input[str]]
    """MariaDB image, 10.6 or later, with a tag other than latest or a digest.
    Default: docker.io/library/mariadb:10.11."""
    resources: NotRequired[pod.ResourcesArgs]
    """CPU and memory of the server. Default: requests 250m CPU and 512Mi, limit 1Gi memory."""
    pod: NotRequired[PodArgs]
    """Pod settings of the server, which override those of the stack. Default: {}."""
    rotation: NotRequired[int]
    """Rotation number of the passwords: a higher number generates new ones and restarts the server. Default: 0."""


@validate.rules(
    MariadbArgs,
    defaults={"size": claims.DEFAULT_SIZE, "image": DEFAULT_IMAGE, "resources": {}, "pod": {}, "rotation": 0},
)
def _rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("image", validate.image)
    fields.check("rotation", validate.between(0, 2**31))
    pod.resource_rules(fields, *RESOURCES)


def _resources(args: MariadbArgs) -> ResourceRequirementsArgsDict:
    return pod.resources(args["resources"], *RESOURCES)


def reservation(args: MariadbArgs, place: Place) -> Reservation:
    """Return the resources that a node must have free for the deployed server's pod."""
    return place.reservation(
        "the database server", [_resources(args)], [], args["resources"], {}, args["pod"], place.under("pod")
    )


def needs(args: MariadbArgs, place: Place) -> list[Need]:
    """Return the existing objects that the deployed server requires."""
    return [*place.need(STORAGE_CLASS, args, "storage_class"), *pod.needs(args["pod"], place.under("pod"))]


def object_name(stack: str) -> str:
    """Return the name of the server's objects: its Service and its claim among others."""
    return f"{stack}-{pod.DATABASE}"


def deploy(parent: pulumi.Resource, name: str, args: MariadbArgs, context: Context) -> Database:
    """Declare the server, and return the address and credentials of its database."""
    namespace, platform = context.namespace, context.platform
    labels = pod.labels(name, pod.DATABASE, context.labels)
    selector = pod.selector(name, pod.DATABASE)
    child = pulumi.ResourceOptions(parent=parent)
    service = object_name(name)

    passwords = {
        user: random.RandomPassword(
            f"{service}-{user}",
            length=PASSWORD_LENGTH,
            special=False,
            keepers={"rotation": str(args["rotation"])},
            opts=child,
        )
        for user in (DEFAULT_NAME, "root")
    }
    own, root = passwords[DEFAULT_NAME].result, passwords["root"].result
    made = secret(parent, service, namespace, labels, {PASSWORD_KEY: own})
    server_secret = secret(
        parent,
        f"{service}-server",
        namespace,
        labels,
        {"init.sql": pulumi.Output.all(own, root).apply(_statements), "client.cnf": own.apply(_probe_options)},
    )
    claim = pod.claim(
        service,
        namespace=namespace,
        labels=labels,
        size=args["size"],
        storage_class=args.get("storage_class"),
        # Passwords survive `destroy --exclude-protected` together with the data that uses them.
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(passwords.values())),
    )
    programs = pod.config_map(service, pod.programs("mariadb_data.sh"), namespace=namespace, labels=labels, opts=child)
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
                    for component in (pod.TRACKING, pod.SCHEMA)
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
    image = args["image"]
    common: ContainerArgsDict = {
        "name": "mariadb",
        "image": image,
        "resources": _resources(args),
        "security_context": pod.container_security(),
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [
            {"name": "data", "mount_path": DATA},
            {"name": "server", "mount_path": SERVER, "read_only": True},
            {"name": "scripts", "mount_path": PROGRAMS, "read_only": True},
            scratch_mount,
        ],
    }
    server: ContainerArgsDict = {
        **common,
        "command": ["mariadbd"],
        "args": _server_options(),
        "ports": [{"name": "mysql", "container_port": PORT}],
        # A killed server repairs its tables before it accepts connections.
        "startup_probe": _probe(period=2, failures=300),
        "liveness_probe": _probe(period=10, failures=6),
        "readiness_probe": _probe(period=5, failures=2),
    }
    parts = PodParts(
        init_containers=[
            {**common, "name": "data", "command": ["sh", f"{PROGRAMS}/mariadb_data.sh"], "args": [f"{DATA}/data"]}
        ],
        volumes=[
            claims.volume("data", pod.name_of(claim)),
            {"name": "server", "secret": {"secret_name": pod.name_of(server_secret), "default_mode": 0o440}},
            pod.config_volume("scripts", programs),
            scratch,
        ],
    )
    settings = validate.overridden(context.pod, args["pod"])
    account = pod.service_account(service, namespace, labels, settings, child)
    timeout = context.rollout_timeout
    stateful = k8s.apps.v1.StatefulSet(
        service,
        metadata={"namespace": namespace, "labels": labels},
        spec={
            "replicas": 1,
            "service_name": service,
            # OrderedReady would wait for a broken pod to become ready before it applies a fixed template.
            "pod_management_policy": "Parallel",
            "selector": {"match_labels": selector},
            "template": pod.pod_template(
                platform,
                settings=settings,
                labels=labels,
                selector=selector,
                main=[server],
                parts=[parts],
                service_account=account,
                grace_seconds=GRACE_SECONDS,
            ),
        },
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=[policy],
            # A replacement created first would be a second server on the same files.
            delete_before_replace=True,
            custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
        ),
    )
    return Database(
        host=service,
        port=PORT,
        name=DEFAULT_NAME,
        user=DEFAULT_NAME,
        secret=pod.name_of(made),
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
        # MLflow's schema has triggers. Nothing reads a binary log here, but it may be enabled.
        "--log-bin-trust-function-creators=1",
        "--innodb-buffer-pool-size=256M",
        f"--init-file={SERVER}/init.sql",
    ]


def _statements(passwords: Sequence[str]) -> str:
    """Return the SQL statements of the server's init file, which it runs at each start before it accepts connections. A
    new password is therefore valid from the next start."""
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
    # The server counts connections without login as errors, and blocks a host with too many of them.
    command = ["mariadb", f"--defaults-file={SERVER}/client.cnf", "--execute=select 1"]
    return {
        "exec_": {"command": command},
        "period_seconds": period,
        "timeout_seconds": 5,
        "failure_threshold": failures,
    }
