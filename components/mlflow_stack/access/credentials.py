"""User accounts, their passwords and the Secrets that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random

from mlflow_stack import pod, validate
from mlflow_stack.access import htpasswd
from mlflow_stack.pod import LONGEST_NAME, PodParts

DEFAULT_USERS = ["mlflow"]
MACHINE_USER = "models"
"""User of the stack's model servers. It exists from the first ``up``."""

PASSWORD_LENGTH = 40
"""Length of a generated password. Letters and digits give about 238 bits, so a fast hash is enough."""

HTPASSWD_KEY = "htpasswd"

USERS_TYPE = "mlflow-stack:index:Users"
"""Type of :class:`Users`, the parent of passwords and salts."""
SALT, PASSWORD = "salt", "password"

USER_ANNOTATION = "mlflow-stack/user"
"""Annotation of the client Secret with the user whose password it holds, so that a preview can name the user."""


@dataclass(frozen=True)
class User:
    """User of the proxy."""

    name: str
    password: pulumi.Output[str]
    """Secret: the password."""
    line: pulumi.Output[str]
    """Secret: the user's line in the password file."""


def _resource(component: str, purpose: str, user: str) -> str:
    """Return the resource name of a user's salt or password."""
    return f"{component}-{purpose}-{user}"


def user_of(component: str, resource: str) -> str:
    """Return the user that a salt or a password of a :class:`Users` belongs to, by the names of both; empty for any
    other resource."""
    prefixes = (_resource(component, purpose, "") for purpose in (SALT, PASSWORD))
    return next((resource[len(prefix) :] for prefix in prefixes if resource.startswith(prefix)), "")


class UsersArgs(TypedDict):
    """User accounts."""

    users: NotRequired[Sequence[str]]
    """User names of letters, digits and . _ @ + -; ``models`` is reserved. Default: ["mlflow"]."""
    passwords: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Secret: passwords by user, at least 12 printable ASCII characters. Default: generated."""
    rotation: NotRequired[Mapping[str, int]]
    """Rotation number of generated passwords, by user: a higher number generates a new password. Default: {}."""


@validate.rules(UsersArgs, defaults={"users": DEFAULT_USERS, "passwords": {}, "rotation": {}}, secrets=["passwords"])
def user_rules(fields: validate.Fields) -> None:
    """Check the user accounts. MlflowStack's args have the same three fields."""
    users: Sequence[str] = fields.resolved("users")
    if not users:
        fields.refuse("users", "must have at least one user name")
    fields.check_each("users", validate.user)
    for name in sorted({name for name in users if users.count(name) > 1}):
        fields.refuse_item("users", name, "must not have a user name twice")
    known = [*users, MACHINE_USER]
    fields.check_each("passwords", validate.password)
    fields.check_each("rotation", validate.between(0, 2**31))
    for field in ("passwords", "rotation"):
        for name in fields.resolved(field):
            if name not in known or (field == "passwords" and name == MACHINE_USER):
                fields.refuse_key(field, name, "must be a name in users")
    for name in fields.resolved("rotation"):
        if name in fields.resolved("passwords"):
            wrong = "must be a user with a generated password"
            fields.refuse_key("rotation", name, wrong, "Change this user's password in passwords instead.")


class Users(pulumi.ComponentResource):
    """User names and passwords, kept in the stack's state only. They survive ``pulumi destroy --exclude-protected``, as
    data does: it spares the dependencies of protected resources, and one small protected resource depends on all of
    them."""

    everyone: list[User]
    """Users in the given order, then the machine user."""

    def __init__(self, name: str, args: UsersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("Users", name, UsersArgs, args, longest=LONGEST_NAME)
        super().__init__(USERS_TYPE, name, {}, opts)
        self.everyone = []
        generated: list[pulumi.Resource] = []
        child = pulumi.ResourceOptions(parent=self)
        passwords = accepted["passwords"]
        rotation = accepted["rotation"]
        for user in [*accepted["users"], MACHINE_USER]:
            salt = random.RandomString(
                _resource(name, SALT, user), length=htpasswd.SALT_LENGTH, special=False, opts=child
            )
            generated.append(salt)
            if user in passwords:
                password: pulumi.Output[str] = pulumi.Output.secret(passwords[user])
            else:
                made = random.RandomPassword(
                    _resource(name, PASSWORD, user),
                    length=PASSWORD_LENGTH,
                    special=False,
                    keepers={"rotation": str(rotation.get(user, 0))},
                    opts=child,
                )
                generated.append(made)
                password = made.result
            line = pulumi.Output.all(password, salt.result).apply(
                lambda pair, user=user: htpasswd.line(user, pair[0], pair[1])
            )
            self.everyone.append(User(user, password, line))
        # The passwords are not protected themselves, because then no user could be removed.
        random.RandomId(
            f"{name}-users",
            byte_length=4,
            opts=pulumi.ResourceOptions(parent=self, protect=True, depends_on=generated),
        )
        self.register_outputs({})


class CredentialsArgs(TypedDict):
    """Users, and the Secrets with their passwords."""

    namespace: pulumi.Input[str]
    """Namespace of the Secrets."""
    users: Sequence[User]
    """Users from :class:`Users`. The first user's password is in the client Secret."""
    tracking_uri: pulumi.Input[str]
    """Tracking URI for in-cluster clients."""
    client_env: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Additional variables for these clients. Default: {}."""
    labels: NotRequired[Mapping[str, str]]
    """Additional labels of the Secrets. Default: {}."""


class Credentials(pulumi.ComponentResource):
    """Password file of every proxy, and two Secrets with client variables. ``<name>-client``, for jobs in the cluster,
    has MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and the variables in ``client_env``.
    ``<name>-models`` has the same three for the machine user with which model servers fetch.

    The Secrets have fixed names. If the provider sets ``enable_secret_mutable``, they are updated in place: nginx reads
    the file at each request, so users change without a restart. Otherwise they are deleted and re-created, and the
    kubelet keeps the mounted file meanwhile.
    """

    htpasswd: str
    """Name of the Secret with the password file, key ``htpasswd``. A plain string: a pod that used the Secret's output
    would be replaced with the Secret."""
    models: str
    """Name of the machine user's Secret, a plain string for the same reason."""
    machine: pulumi.Resource
    """Secret of the machine user, as a dependency."""
    parts: PodParts
    """Dependencies of a pod that mounts the password file."""

    def __init__(self, name: str, args: CredentialsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-stack:index:Credentials", name, {}, opts)
        users = args["users"]
        child = pulumi.ResourceOptions(parent=self)

        def secret(purpose: str, data: Mapping[str, pulumi.Input[str]], user: str = "") -> k8s.core.v1.Secret:
            metadata: k8s.meta.v1.ObjectMetaArgsDict = {
                "name": f"{name}-{purpose}",
                "namespace": args["namespace"],
                "labels": pod.labels(name, "credentials", args.get("labels")),
            }
            if user:
                metadata["annotations"] = {USER_ANNOTATION: user}
            return k8s.core.v1.Secret(
                f"{name}-{purpose}",
                metadata=metadata,
                string_data=data,
                opts=child,
            )

        lines = pulumi.Output.all(*(user.line for user in users))
        file = lines.apply(lambda lines: "".join(f"{line}\n" for line in lines))
        self.htpasswd = f"{name}-htpasswd"
        self.parts = PodParts(wait_for=[secret("htpasswd", {HTPASSWD_KEY: file})])
        client = {**client_env(args["tracking_uri"], users[0]), **args.get("client_env", {})}
        secret("client", client, users[0].name)
        self.models = f"{name}-models"
        (machine,) = (user for user in users if user.name == MACHINE_USER)
        self.machine = secret("models", client_env(args["tracking_uri"], machine))
        self.register_outputs({})


def client_env(tracking_uri: pulumi.Input[str], user: User) -> dict[str, pulumi.Input[str]]:
    """Return the variables for MLflow's client. They are enough if artifacts pass through the tracking server."""
    return {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_USERNAME": user.name,
        "MLFLOW_TRACKING_PASSWORD": user.password,
    }
