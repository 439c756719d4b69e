"""Backend store in SQLite on a claim."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict, get_args

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.core.v1 import ContainerArgsDict

from mlflow_stack import identity, pod, validate
from mlflow_stack.access.credentials import LONGEST_NAME
from mlflow_stack.pod import PodParts, claims
from mlflow_stack.pod.claims import ARTIFACTS_FOLDER, DATA, AccessMode, PvcPlacementArgs

DATABASE = f"{DATA}/mlflow.db"
SCRIPTS = "/opt/mlflow-stack"
SCHEMA_RESOURCES: tuple[Mapping[str, str], Mapping[str, str]] = (
    {"cpu": pod.STEP_CPU, "memory": "512Mi"},
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
        labels = pod.labels(name, "backend-store", placement["labels"])
        if "existing_claim" in accepted:
            self.claim = pulumi.Output.from_input(accepted["existing_claim"])
        else:
            self.claim = claims.create(self, f"{name}-data", accepted, placement, labels)
            if accepted.get("access_mode") == "ReadWriteMany":
                pulumi.log.warn("SQLite on a network volume can lose data where the volume's locks are not real.", self)
        data = claims.identity_of(placement, self.claim)
        guard = identity.guard(name, identity.RECORDS, data, opts)
        scripts = k8s.core.v1.ConfigMap(
            f"{name}-schema",
            metadata={"namespace": placement["namespace"], "labels": labels},
            immutable=True,
            data=pod.programs(
                "sqlite_schema.py",
                "file_store.py",
                "revisions.py",
                "claim_lock.py",
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        scripts_name = pod.name_of(scripts)
        scratch, scratch_mount = pod.scratch("schema-tmp", "1Gi")

        # A large index is sorted in a file, for which the claim has more room than the scratch folder.
        common = {"HOME": pod.SCRATCH, "MLFLOW_DISABLE_TELEMETRY": "true", "SQLITE_TMPDIR": DATA}

        def step(name: str, script: str, env: Mapping[str, str]) -> ContainerArgsDict:
            return {
                "name": name,
                "image": placement["image"],
                "command": ["python", f"{SCRIPTS}/{script}"],
                "args": [],
                "env": pod.env({**common, **env}),
                "resources": pod.resources(None, *SCHEMA_RESOURCES),
                "security_context": pod.container_security(),
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
            env=pod.env({"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{DATABASE}", "CLAIM_LOCK": f"{DATABASE}.lock"}),
            volumes=[
                claims.volume("data", self.claim),
                {"name": "schema", "config_map": {"name": scripts_name, "default_mode": 0o444}},
                scratch,
            ],
            mounts=[{"name": "data", "mount_path": DATA}],
            wait_for=[guard],
            exclusive=True,
            identity={identity.RECORDS: data},
        )
        self.register_outputs({})
