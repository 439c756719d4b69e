"""Backend store in SQLite on a PersistentVolumeClaim."""

import types
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast, get_args

import pulumi
from pulumi_kubernetes.core.v1 import ContainerArgsDict, ResourceRequirementsArgsDict

from mlflow_stack import identity, kinds, pod, validate
from mlflow_stack.cluster import Claim, Need
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts, claims
from mlflow_stack.pod.claims import ARTIFACTS_FOLDER, DATA, DEFAULT_ACCESS_MODE, DEFAULT_SIZE, AccessMode

DATABASE = f"{DATA}/mlflow.db"
VOLUME = "data"
"""Volume of the claim in the pod."""
CONVERSION = "file-store"
"""Init container that converts a file store."""
PROGRAMS = "/opt/mlflow-stack"
"""Mount path of the schema step's programs."""

SCHEMA_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": pod.STEP_CPU, "memory": "512Mi"},
    {"memory": "1Gi"},
)


class PvcStoreArgs(TypedDict):
    """SQLite on a PersistentVolumeClaim, created by the stack (``size``) or existing (``existing_claim``)."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity. It can be raised later if the StorageClass allows it. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    access_mode: NotRequired[AccessMode]
    """Access mode: ReadWriteOnce, ReadWriteOncePod or ReadWriteMany. SQLite on a network volume is accepted with a
    warning. Default: ReadWriteOnce."""
    existing_claim: NotRequired[pulumi.Input[str]]
    """Name of an existing claim, which the stack mounts but does not manage. Default: none."""
    file_store: NotRequired[str]
    """Folder on the claim with the file store of an older MLflow (``mlruns``). It is converted once, before the first
    start, if there is no database yet. The folder is not changed. Default: none."""
    file_store_mount: NotRequired[str]
    """Mount path of the claim in the older server. Artifact locations below that path become served ones.
    Default: /mlflow."""


@validate.rules(
    PvcStoreArgs,
    defaults={"size": DEFAULT_SIZE, "access_mode": DEFAULT_ACCESS_MODE, "file_store_mount": DATA},
)
def _rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("access_mode", validate.one_of(*get_args(AccessMode)))
    fields.check("existing_claim", validate.subdomain)
    fields.check("file_store", validate.folder)
    fields.check("file_store_mount", validate.absolute_path)
    for name in ("size", "storage_class", "access_mode"):
        fields.refuse_together(name, "existing_claim")
    if "file_store_mount" in fields and "file_store" not in fields.stated:
        fields.forbid("file_store_mount", f"{fields.spell('file_store')} is not set")


def _claim(stack: str) -> str:
    return f"{stack}-data"


class PvcBackend(kinds.BackendKind):
    """Backend store in SQLite on a claim."""

    volume = DATA
    sentences = types.MappingProxyType(
        {
            CONVERSION: (
                "Converts the file store first, if the claim has no database yet.",
                "File stores are no longer converted.",
            )
        }
    )

    @classmethod
    def identity_of(cls, server: kinds.Unguarded) -> str:
        return server.on_claim(VOLUME)

    def single_writer(self) -> str:
        return "SQLite on a claim allows one writer"

    def needs(self) -> Sequence[Need]:
        return claims.needs(self.args, self.place)

    def claims(self) -> Sequence[Claim]:
        return claims.created(_claim(self.name), self.args, self.place)

    def steps(self) -> Sequence[ResourceRequirementsArgsDict]:
        return [pod.resources(None, *SCHEMA_RESOURCES)]

    def build(self, context: Context, opts: pulumi.ResourceOptions) -> "PvcStore":
        return PvcStore(self.name, {"context": context, "store": cast(PvcStoreArgs, self.args)}, opts)


class PvcStoreInputs(TypedDict):
    """Inputs of :class:`PvcStore`."""

    context: Context
    """Deployment context."""
    store: PvcStoreArgs
    """Database and claim."""


class PvcStore(pulumi.ComponentResource):
    """Backend store in SQLite on a claim, and the schema step that runs before MLflow starts."""

    claim: pulumi.Output[str]
    """Name of the claim."""
    parts: PodParts
    """Parts of the tracking server's pod."""

    def __init__(self, name: str, args: PvcStoreInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        store = validate.resolved("PvcStore", name, PvcStoreArgs, args["store"], longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:PvcStore", name, {}, opts)
        context = args["context"]
        labels = pod.labels(name, "backend-store", context.labels)
        if "existing_claim" in store:
            self.claim = pulumi.Output.from_input(store["existing_claim"])
        else:
            self.claim = claims.create(self, _claim(name), store, context, labels)
            if store["access_mode"] == "ReadWriteMany":
                pulumi.log.warn("SQLite on a network volume can lose data where the volume's locks are not real.", self)
        data = claims.identity_of(context, self.claim)
        guard = identity.guard(name, identity.RECORDS, data, opts)
        programs = pod.config_map(
            f"{name}-schema",
            pod.programs("sqlite_schema.py", "file_store.py", "revisions.py", "claim_lock.py"),
            namespace=context.namespace,
            labels=labels,
            opts=pulumi.ResourceOptions(parent=self),
        )
        scratch, scratch_mount = pod.scratch("schema-tmp", "1Gi")

        def step(name: str, program: str, env: Mapping[str, str]) -> ContainerArgsDict:
            # SQLite sorts a large index in a file, and the claim has more room for it than the scratch volume.
            common = {"HOME": pod.SCRATCH, "MLFLOW_DISABLE_TELEMETRY": "true", "SQLITE_TMPDIR": DATA}
            return pod.step(
                name,
                context.image,
                ("python", f"{PROGRAMS}/{program}"),
                env={**common, **env},
                resources=pod.resources(None, *SCHEMA_RESOURCES),
                mounts=[
                    {"name": VOLUME, "mount_path": DATA},
                    {"name": "schema", "mount_path": PROGRAMS, "read_only": True},
                    scratch_mount,
                ],
            )

        steps: list[ContainerArgsDict] = []
        if "file_store" in store:
            env = {
                "DATABASE": DATABASE,
                "FILE_STORE": f"{DATA}/{store['file_store']}",
                "FILE_STORE_MOUNT": store["file_store_mount"],
                "ARTIFACTS": f"{DATA}/{ARTIFACTS_FOLDER}",
            }
            steps.append(step(CONVERSION, "file_store.py", env))
        steps.append(step(pod.SCHEMA, "sqlite_schema.py", {"DATABASE": DATABASE}))
        self.parts = PodParts(
            init_containers=steps,
            # The steps take the same lock, so that only one pod writes at a time.
            env=pod.env({"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{DATABASE}", "CLAIM_LOCK": f"{DATABASE}.lock"}),
            volumes=[
                claims.volume(VOLUME, self.claim),
                pod.config_volume("schema", programs),
                scratch,
            ],
            mounts=[{"name": VOLUME, "mount_path": DATA}],
            programs=["searches_sqlite.py"],
            wait_for=[guard],
            exclusive=True,
            identity={identity.RECORDS: data},
        )
        self.register_outputs({})
