"""Stores on a persistent volume: SQLite as backend store, a folder as artifact destination."""

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NotRequired, TypedDict, get_args

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ContainerArgsDict, VolumeArgsDict

from mlflow_stack import identity, validate, workload
from mlflow_stack.cluster import CLAIM, STORAGE_CLASS, Need, Place
from mlflow_stack.credentials import LONGEST_NAME
from mlflow_stack.workload import PodParts

DATA = "/mlflow"
"""Where the claim with the database is mounted."""
DATABASE = f"{DATA}/mlflow.db"
ARTIFACTS_VOLUME = "/mlflow-artifacts"
"""Where a claim for artifacts alone is mounted."""
ARTIFACTS_FOLDER = "artifacts"
"""The folder of the claim that MLflow serves as artifacts."""
SCRIPTS = "/opt/mlflow-stack"

DEFAULT_SIZE = "20Gi"
AccessMode = Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]
DEFAULT_ACCESS_MODE: AccessMode = "ReadWriteOnce"

SCHEMA_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": workload.STEP_CPU, "memory": "512Mi"},
    {"memory": "1Gi"},
)


class PvcStoreArgs(TypedDict):
    """SQLite on a claim that this stack makes (``size``) or finds (``existing_claim``)."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity; where the class allows it, it can be raised later. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    access_mode: NotRequired[AccessMode]
    """ReadWriteOnce, ReadWriteOncePod or ReadWriteMany; SQLite on a network volume is accepted with a warning.
    Default: ReadWriteOnce."""
    existing_claim: NotRequired[pulumi.Input[str]]
    """Name of a claim that is there already, which this stack mounts and does not own. Default: none."""
    file_store: NotRequired[str]
    """Folder on the claim that holds the file store of an older MLflow (``mlruns``): converted once, before the first
    start, while there is no database; the folder stays as it is. Default: none."""
    file_store_mount: NotRequired[str]
    """Where the older server had the claim mounted: its artifact locations below that path become served ones.
    Default: /mlflow."""


@validate.rules(PvcStoreArgs)
def _rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("access_mode", validate.one_of(*get_args(AccessMode)))
    fields.check("existing_claim", validate.subdomain)
    fields.check("file_store", validate.folder)
    fields.check("file_store_mount", validate.absolute_path)
    for name in ("size", "storage_class", "access_mode"):
        fields.refuse_together(name, "existing_claim", "a claim that is there already has its own")
    if "file_store_mount" in fields and "file_store" not in fields:
        fields.refuse("file_store_mount", f"it left out without {fields.spell('file_store')}")


class PvcPlacementArgs(TypedDict):
    """Where the store stands: what the stack knows and its user does not say."""

    namespace: pulumi.Input[str]
    """Namespace of the claim."""
    image: pulumi.Input[str]
    """The MLflow image, which runs the schema step."""
    labels: Mapping[str, str]
    """More labels."""
    claim: NotRequired[pulumi.Input[str]]
    """Claim of the backend store, for artifacts that share it."""


class PvcStore(pulumi.ComponentResource):
    """The backend store: a claim, and the schema step that runs before MLflow starts on it."""

    claim: pulumi.Output[str]
    """Name of the claim."""
    parts: PodParts
    """What the tracking server's pod needs."""

    def __init__(
        self, name: str, args: PvcStoreArgs, placement: PvcPlacementArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        accepted = validate.accepted("PvcStore", name, PvcStoreArgs, args, longest=LONGEST_NAME)
        super().__init__("mlflow-stack:index:PvcStore", name, {}, opts)
        labels = workload.labels(name, "backend-store", placement["labels"])
        if "existing_claim" in accepted:
            self.claim = pulumi.Output.from_input(accepted["existing_claim"])
        else:
            self.claim = _claim(self, f"{name}-data", accepted, placement, labels)
            if accepted.get("access_mode") == "ReadWriteMany":
                pulumi.log.warn("SQLite on a network volume can lose data where the volume's locks are not real.", self)
        data = _identity(placement, self.claim)
        guard = identity.guard(name, identity.RECORDS, data, opts)
        scripts = k8s.core.v1.ConfigMap(
            f"{name}-schema",
            metadata={"namespace": placement["namespace"], "labels": labels},
            immutable=True,
            data=workload.scripts(
                "sqlite_schema.py",
                "file_store.py",
                "revisions.py",
                "claim_lock.py",
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        scripts_name = workload.name_of(scripts)
        scratch, scratch_mount = workload.scratch("schema-tmp", "1Gi")

        # A large index is sorted in a file, for which the claim has more room than the scratch folder.
        common = {"HOME": workload.SCRATCH, "MLFLOW_DISABLE_TELEMETRY": "true", "SQLITE_TMPDIR": DATA}

        def step(name: str, script: str, env: Mapping[str, str]) -> ContainerArgsDict:
            return {
                "name": name,
                "image": placement["image"],
                "command": ["python", f"{SCRIPTS}/{script}"],
                "args": [],
                "env": workload.env({**common, **env}),
                "resources": workload.resources(None, *SCHEMA_RESOURCES),
                "security_context": workload.container_security(),
                "termination_message_policy": "FallbackToLogsOnError",
                "volume_mounts": [
                    {"name": "data", "mount_path": DATA},
                    {"name": "schema", "mount_path": SCRIPTS, "read_only": True},
                    scratch_mount,
                ],
            }

        steps: list[ContainerArgsDict] = []
        if "file_store" in accepted:
            env = {
                "DATABASE": DATABASE,
                "FILE_STORE": f"{DATA}/{accepted['file_store']}",
                "FILE_STORE_MOUNT": accepted.get("file_store_mount", DATA),
                "ARTIFACTS": f"{DATA}/{ARTIFACTS_FOLDER}",
            }
            steps.append(step("file-store", "file_store.py", env))
        steps.append(step("schema", "sqlite_schema.py", {"DATABASE": DATABASE}))
        self.parts = PodParts(
            init_containers=steps,
            # Of the server as of the steps: whichever runs, no other pod writes.
            env=workload.env({"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{DATABASE}", "CLAIM_LOCK": f"{DATABASE}.lock"}),
            volumes=[
                _volume("data", self.claim),
                {"name": "schema", "config_map": {"name": scripts_name, "default_mode": 0o444}},
                scratch,
            ],
            mounts=[{"name": "data", "mount_path": DATA}],
            wait_for=[guard],
            exclusive=True,
            identity={identity.RECORDS: data},
        )
        self.register_outputs({})


class PvcArtifactsArgs(TypedDict):
    """Artifacts on a claim of their own that this stack makes (``size``) or finds (``existing_claim``)."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity; where the class allows it, it can be raised later. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    access_mode: NotRequired[AccessMode]
    """ReadWriteOnce, ReadWriteOncePod or ReadWriteMany, also of an existing_claim; more than one replica needs
    ReadWriteMany. Default: ReadWriteOnce."""
    existing_claim: NotRequired[pulumi.Input[str]]
    """Name of a claim that is there already, which this stack mounts and does not own. Default: none."""


@validate.rules(PvcArtifactsArgs)
def _artifact_rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("access_mode", validate.one_of(*get_args(AccessMode)))
    fields.check("existing_claim", validate.subdomain)
    for name in ("size", "storage_class"):
        fields.refuse_together(name, "existing_claim", "a claim that is there already has its own")


def needs(args: PvcStoreArgs | PvcArtifactsArgs, place: Place) -> list[Need]:
    """Return what a store on a claim needs of the cluster."""
    if "existing_claim" in args:
        return place.need(CLAIM, args, "existing_claim")
    return place.need(STORAGE_CLASS, args, "storage_class")


class PvcArtifacts(pulumi.ComponentResource):
    """The artifact store on a claim. MLflow streams uploads into it and downloads out of it (LocalArtifactRepository,
    3.17.2), so that neither fills the pod's ``/tmp``."""

    parts: PodParts
    """What the tracking server's pod needs."""
    presigned = True
    """Whether the proxy may let MLflow announce transfers by signed addresses: of a claim it announces none."""
    client_env: Mapping[str, str] = types.MappingProxyType({})
    """What clients need beside the tracking URI and a password: nothing."""

    def __init__(
        self,
        name: str,
        args: PvcArtifactsArgs | None,
        placement: PvcPlacementArgs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Without ``args`` the artifacts lie on the backend store's claim, which is mounted already."""
        super().__init__("mlflow-stack:index:PvcArtifacts", name, {}, opts)
        env: dict[str, str] = {"MLFLOW_SERVE_ARTIFACTS": "true", "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/"}
        claim = placement.get("claim")
        if args is None:
            # The store's claim is mounted once: a pod that names a claim twice may wait for its volumes for ever.
            parts = PodParts(env=workload.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": f"{DATA}/{ARTIFACTS_FOLDER}"}))
        else:
            accepted = validate.accepted("PvcArtifacts", name, PvcArtifactsArgs, args, longest=LONGEST_NAME)
            labels = workload.labels(name, "artifact-store", placement["labels"])
            if "existing_claim" in accepted:
                claim = accepted["existing_claim"]
            else:
                claim = _claim(self, f"{name}-artifacts", accepted, placement, labels)
            destination = f"{ARTIFACTS_VOLUME}/{ARTIFACTS_FOLDER}"
            parts = PodParts(
                env=workload.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": destination}),
                volumes=[_volume("artifacts", claim)],
                mounts=[{"name": "artifacts", "mount_path": ARTIFACTS_VOLUME}],
                exclusive=accepted.get("access_mode", DEFAULT_ACCESS_MODE) != "ReadWriteMany",
            )
        if claim is not None:
            data = _identity(placement, claim)
            guard = identity.guard(name, identity.ARTIFACTS, data, opts)
            parts = replace(parts, wait_for=[guard], identity={identity.ARTIFACTS: data})
        self.parts = parts
        self.register_outputs({})


def _identity(placement: PvcPlacementArgs, claim: pulumi.Input[str]) -> pulumi.Output[str]:
    return pulumi.Output.all(placement["namespace"], claim).apply(lambda names: identity.claim(*names))


def _claim(
    parent: pulumi.Resource,
    name: str,
    args: PvcStoreArgs | PvcArtifactsArgs,
    placement: PvcPlacementArgs,
    labels: Mapping[str, str],
) -> pulumi.Output[str]:
    claim = workload.claim(
        name,
        namespace=placement["namespace"],
        labels=labels,
        size=args.get("size", DEFAULT_SIZE),
        storage_class=args.get("storage_class"),
        access_mode=args.get("access_mode", DEFAULT_ACCESS_MODE),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return workload.name_of(claim)


def _volume(name: str, claim: pulumi.Input[str]) -> VolumeArgsDict:
    return {"name": name, "persistent_volume_claim": {"claim_name": claim}}
