"""Keys with which MLflow encrypts the secrets in its database: webhooks' and the gateway's."""

import json
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random
from pulumi_kubernetes.core.v1 import EnvVarArgsDict

from mlflow_stack import pod, validate
from mlflow_stack.cluster import SECRET, Need, Place
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts

WEBHOOK = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
PASSPHRASE = "MLFLOW_CRYPTO_KEK_PASSPHRASE"  # noqa: S105 - the variable's name
VERSION = "MLFLOW_CRYPTO_KEK_VERSION"
VARIABLES = (WEBHOOK, PASSPHRASE, VERSION)
"""The variables by which MLflow takes its keys, and the keys of their Secret."""
FORMER = "FORMER_KEYS"
"""Key of the Secret with the generations before, as JSON, for the step that re-encrypts."""

FIRST_VERSION = 2
"""MLflow's published passphrase is version 1, so generated ones start after it (mlflow.utils.crypto, 3.17.2)."""
PASSPHRASE_LENGTH = 40
WEBHOOK_BYTES = 32
"""The length of a Fernet key."""
MOST_ROTATIONS = 100

PROGRAMS = "/opt/mlflow-stack-keys"
PROGRAM = "encryption_keys.py"
STEP_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": pod.STEP_CPU, "memory": "256Mi"},
    {"memory": "1Gi"},
)


class EncryptionKeysArgs(TypedDict):
    """Keys that the stack generates (``rotation``) or adopts (``existing_secret``)."""

    rotation: NotRequired[int]
    """Generation of the keys: raising the number makes new ones, and the tracking server's next start re-encrypts what
    is stored. Never lower it. Default: 0."""
    existing_secret: NotRequired[pulumi.Input[str]]
    """Name of an existing Secret with the keys MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, MLFLOW_CRYPTO_KEK_PASSPHRASE and
    MLFLOW_CRYPTO_KEK_VERSION, such as those of the stack whose backup is restored. Default: none."""


@validate.rules(EncryptionKeysArgs, defaults={"rotation": 0})
def _rules(fields: validate.Fields) -> None:
    fields.check("rotation", validate.between(0, MOST_ROTATIONS))
    fields.check("existing_secret", validate.subdomain)
    fields.refuse_together("rotation", "existing_secret", "one creates, the other adopts")


def needs(args: EncryptionKeysArgs, place: Place) -> list[Need]:
    """Return what the keys need of the cluster."""
    return place.need(SECRET, args, "existing_secret", keys=VARIABLES, why="MLflow's encryption keys")


class EncryptionKeysInputs(TypedDict):
    """Inputs of :class:`EncryptionKeys`."""

    context: Context
    """Deployment context."""
    keys: EncryptionKeysArgs
    """Keys to generate or to adopt."""
    store: PodParts
    """Parts of the backend store, whose database the step opens."""


class EncryptionKeys(pulumi.ComponentResource):
    """The encryption keys of one MLflow, the same for all its replicas, and the step that brings stored secrets to
    them. Like passwords they are in the state and survive ``pulumi destroy --exclude-protected``."""

    parts: PodParts
    """Parts of the tracking server's pod."""
    values: pulumi.Output[Mapping[str, str]]
    """Secret: the keys by variable, which belong to every backup; empty with ``existing_secret``."""

    def __init__(self, name: str, args: EncryptionKeysInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        keys = validate.resolved("EncryptionKeys", name, EncryptionKeysArgs, args["keys"], longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:EncryptionKeys", name, {}, opts)
        context, store = args["context"], args["store"]
        child = pulumi.ResourceOptions(parent=self)
        labels = pod.labels(name, "encryption-keys", context.labels)
        if "existing_secret" in keys:
            self.values = pulumi.Output.secret({})
            secret: pulumi.Input[str] = keys["existing_secret"]
            wait_for: tuple[pulumi.Resource, ...] = ()
        else:
            self.values, before = self._generate(name, keys["rotation"])
            made = k8s.core.v1.Secret(
                f"{name}-keys",
                metadata={"namespace": context.namespace, "labels": labels},
                immutable=True,
                string_data=pulumi.Output.all(self.values, before).apply(lambda pair: {**pair[0], FORMER: pair[1]}),
                # MLflow reads its keys once: other keys are another Secret, with which the pods are replaced.
                opts=pulumi.ResourceOptions(parent=self, replace_on_changes=["data", "stringData"]),
            )
            secret, wait_for = pod.name_of(made), (made,)

        program = pod.text_volume(
            f"{name}-keys",
            "keys-program",
            pod.programs(PROGRAM, "claim_lock.py"),
            namespace=context.namespace,
            labels=labels,
            opts=child,
        )
        mount: k8s.core.v1.VolumeMountArgsDict = {
            "name": program["name"],
            "mount_path": PROGRAMS,
            "read_only": True,
        }
        scratch, scratch_mount = pod.scratch("keys-tmp", "64Mi")
        env = [_variable(variable, secret) for variable in VARIABLES]
        self.parts = PodParts(
            init_containers=[
                pod.step(
                    "encryption-keys",
                    context.image,
                    ("python", f"{PROGRAMS}/{PROGRAM}"),
                    env=[
                        *store.env,
                        *env,
                        _variable(FORMER, secret, optional=True),
                        *pod.env({"HOME": pod.SCRATCH, "MLFLOW_DISABLE_TELEMETRY": "true"}),
                    ],
                    resources=pod.resources(None, *STEP_RESOURCES),
                    mounts=[*store.mounts, mount, scratch_mount],
                )
            ],
            env=env,
            volumes=[program, scratch],
            mounts=[mount],
            wait_for=wait_for,
        )
        self.register_outputs({})

    def _generate(self, name: str, rotation: int) -> tuple[pulumi.Output[Mapping[str, str]], pulumi.Output[str]]:
        """Return the present keys by variable, and the generations before as JSON. Every generation stays in the
        state, so that a backup of any age can be read."""
        child = pulumi.ResourceOptions(parent=self)
        generated: list[pulumi.Resource] = []
        generations: list[pulumi.Output[dict[str, str | int]]] = []
        for generation in range(rotation + 1):
            key = random.RandomBytes(f"{name}-webhook-key-{generation}", length=WEBHOOK_BYTES, opts=child)
            passphrase = random.RandomPassword(
                f"{name}-kek-{generation}", length=PASSPHRASE_LENGTH, special=False, opts=child
            )
            generated += [key, passphrase]
            generations.append(
                pulumi.Output.all(key.base64, passphrase.result).apply(
                    lambda pair, generation=generation: {
                        "webhook": pair[0],
                        "passphrase": pair[1],
                        "version": FIRST_VERSION + generation,
                    }
                )
            )
        random.RandomId(
            f"{name}-keys",
            byte_length=4,
            opts=pulumi.ResourceOptions(parent=self, protect=True, depends_on=generated),
        )
        *former, present = generations
        values = present.apply(
            lambda keys: {
                WEBHOOK: str(keys["webhook"]),
                PASSPHRASE: str(keys["passphrase"]),
                VERSION: str(keys["version"]),
            }
        )
        before = pulumi.Output.all(*reversed(former)).apply(json.dumps)
        return pulumi.Output.secret(values), pulumi.Output.secret(before)


def _variable(name: str, secret: pulumi.Input[str], *, optional: bool = False) -> EnvVarArgsDict:
    """Return a variable of a container with the value of the Secret's key of the same name."""
    reference: k8s.core.v1.SecretKeySelectorArgsDict = {"name": secret, "key": name}
    return {"name": name, "value_from": {"secret_key_ref": {**reference, "optional": True} if optional else reference}}
