"""Who may come in: users with their passwords, and the Secrets that carry them."""

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
"""The user of the stack's own model servers; it exists from the first ``up``."""

PASSWORD_LENGTH = 40
"""Letters and digits of a generated password: about 238 bits, so that a fast hash is enough."""

HTPASSWD_KEY = "htpasswd"

USER_ANNOTATION = "mlflow-stack/user"
"""Annotation of the client Secret: the user whose password it holds, which a preview can show."""


@dataclass(frozen=True)
class User:
    """One user of the proxy."""

    name: str
    password: pulumi.Output[str]
    """The password, secret."""
    line: pulumi.Output[str]
    """The user's line in the password file, secret."""


class UsersArgs(TypedDict):
    """Who may come in."""

    users: NotRequired[Sequence[str]]
    """User names: letters, digits and . _ @ + -; ``models`` is reserved. Default: ["mlflow"]."""
    passwords: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Secret: passwords by user, at least 12 printable ASCII characters. Default: generated."""
    rotation: NotRequired[Mapping[str, int]]
    """Generated passwords to renew: raising a user's number makes a new one. Default: {}."""


@validate.rules(UsersArgs, defaults={"users": DEFAULT_USERS, "passwords": {}, "rotation": {}})
def user_rules(fields: validate.Fields) -> None:
    """What users may be; MlflowStack's args hold the same three fields."""
    users: Sequence[str] = fields.get("users", DEFAULT_USERS)
    if not users:
        fields.refuse("users", "at least one user name")
    fields.check_each("users", validate.user)
    for name in sorted({name for name in users if users.count(name) > 1}):
        fields.refuse_item("users", name, "each user name once")
    known = [*users, MACHINE_USER]
    fields.check_each("passwords", validate.password)
    fields.check_each("rotation", validate.between(0, 2**31))
    for field in ("passwords", "rotation"):
        for name in fields.get(field, {}):
            if name not in known or (field == "passwords" and name == MACHINE_USER):
                fields.refuse_key(field, name, "a name that is in users")
    for name in fields.get("rotation", {}):
        if name in fields.get("passwords", {}):
            fields.refuse_key(
                "rotation", name, "a user without a password of its own, as only generated ones are renewed"
            )


class Users(pulumi.ComponentResource):
    """Names and passwords, in the stack's state alone. They outlive ``pulumi destroy --exclude-protected``, as data
    does: that spares what a protected resource depends on, and one small protected one depends on all of them."""

    everyone: list[User]
    """The people, in the order given, then the machine user."""

    def __init__(self, name: str, args: UsersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        accepted = validate.resolved("Users", name, UsersArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:Users", name, {}, opts)
        self.everyone = []
        generated: list[pulumi.Resource] = []
        child = pulumi.ResourceOptions(parent=self)
        passwords = accepted["passwords"]
        rotation = accepted["rotation"]
        for user in [*accepted["users"], MACHINE_USER]:
            salt = random.RandomString(f"{name}-salt-{user}", length=htpasswd.SALT_LENGTH, special=False, opts=child)
            generated.append(salt)
            if user in passwords:
                password: pulumi.Output[str] = pulumi.Output.secret(passwords[user])
            else:
                made = random.RandomPassword(
                    f"{name}-password-{user}",
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
        # Not the passwords themselves: a user could then not be removed.
        random.RandomId(
            f"{name}-users",
            byte_length=4,
            opts=pulumi.ResourceOptions(parent=self, protect=True, depends_on=generated),
        )
        self.register_outputs({})


class CredentialsArgs(TypedDict):
    """Whose passwords go where."""

    namespace: pulumi.Input[str]
    """Namespace of the Secrets."""
    users: Sequence[User]
    """The users, as :class:`Users` makes them; the first one's password is handed to clients."""
    tracking_uri: pulumi.Input[str]
    """The tracking URI for clients in the cluster."""
    client_env: NotRequired[Mapping[str, pulumi.Input[str]]]
    """What these clients need beside it and the password. Default: {}."""
    labels: NotRequired[Mapping[str, str]]
    """More labels for the Secrets. Default: {}."""


class Credentials(pulumi.ComponentResource):
    """The password file of every proxy of the stack, the client Secret ``<name>-client`` for jobs in the cluster, with
    MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and what ``client_env`` adds, and
    ``<name>-models``, the same three for the machine user with which model servers fetch.

    All have fixed names and change in place where the provider has ``enable_secret_mutable``: nginx reads the file
    anew at each request, so users come and go without a restart. Elsewhere they are deleted and made again; a kubelet
    keeps the mounted file meanwhile.
    """

    htpasswd: str
    """Name of the Secret with the password file, key ``htpasswd``. Plain: a pod that took it from the Secret's output
    would be replaced with the Secret."""
    models: str
    """Name of the machine user's Secret, plain for the same reason."""
    machine: pulumi.Resource
    """The machine user's Secret, to wait for."""
    parts: PodParts
    """What a pod that mounts the password file waits for."""

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
    """What MLflow's client needs of this server; nothing else, where artifacts pass through it."""
    return {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_USERNAME": user.name,
        "MLFLOW_TRACKING_PASSWORD": user.password,
    }
