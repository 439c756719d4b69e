"""Artifact store on a PersistentVolumeClaim: a claim for artifacts only, or the backend store's volume."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict, cast, get_args

import pulumi

from mlflow_stack import identity, kinds, pod, validate
from mlflow_stack.cluster import Claim, Need
from mlflow_stack.pod import LONGEST_NAME, Context, PodParts, claims
from mlflow_stack.pod.claims import (
    ARTIFACTS_FOLDER,
    ARTIFACTS_VOLUME,
    DATA,
    DEFAULT_ACCESS_MODE,
    DEFAULT_SIZE,
    AccessMode,
)

VOLUME = "artifacts"
"""Volume of the claim in the pod."""


class PvcArtifactsArgs(TypedDict):
    """Artifacts on a separate PersistentVolumeClaim, created by the stack (``size``) or existing
    (``existing_claim``)."""

    size: NotRequired[str]
    """Size of the claim, a Kubernetes quantity. It can be raised later if the StorageClass allows it. Default: 20Gi."""
    storage_class: NotRequired[pulumi.Input[str]]
    """StorageClass of the claim. Default: the cluster's default class."""
    access_mode: NotRequired[AccessMode]
    """Access mode of the claim, existing or created: ReadWriteOnce, ReadWriteOncePod or ReadWriteMany. More than one
    replica requires ReadWriteMany. Default: ReadWriteOnce."""
    existing_claim: NotRequired[pulumi.Input[str]]
    """Name of an existing claim, which the stack mounts but does not manage. Default: none."""


@validate.rules(PvcArtifactsArgs, defaults={"size": DEFAULT_SIZE, "access_mode": DEFAULT_ACCESS_MODE})
def _rules(fields: validate.Fields) -> None:
    fields.check("size", validate.size)
    fields.check("storage_class", validate.subdomain)
    fields.check("access_mode", validate.one_of(*get_args(AccessMode)))
    fields.check("existing_claim", validate.subdomain)
    for name in ("size", "storage_class"):
        fields.refuse_together(name, "existing_claim")


def _claim(stack: str) -> str:
    return f"{stack}-artifacts"


class PvcArtifactKind(kinds.ArtifactKind):
    """Artifacts on a separate claim."""

    @classmethod
    def identity_of(cls, server: kinds.Unguarded) -> str:
        return server.on_claim(VOLUME)

    def single_writer(self) -> str:
        if self.args["access_mode"] == "ReadWriteMany":
            return ""
        return "several pods can mount a claim with artifacts only if it is ReadWriteMany"

    def needs(self) -> Sequence[Need]:
        return claims.needs(self.args, self.place)

    def claims(self) -> Sequence[Claim]:
        return claims.created(_claim(self.name), self.args, self.place)

    def build(
        self, context: Context, backend: kinds.Store, transfers: kinds.Transfers, opts: pulumi.ResourceOptions
    ) -> "PvcArtifacts":
        args = cast(PvcArtifactsArgs, self.args)
        return PvcArtifacts(self.name, {"context": context, "artifacts": args}, opts)


class SharedArtifactKind(kinds.ArtifactKind):
    """Artifacts on the backend store's volume, which the pod mounts anyway."""

    def build(
        self, context: Context, backend: kinds.Store, transfers: kinds.Transfers, opts: pulumi.ResourceOptions
    ) -> "PvcArtifacts":
        return PvcArtifacts(self.name, {"context": context, "records": backend.parts.identity[identity.RECORDS]}, opts)


class PvcArtifactsInputs(TypedDict):
    """Inputs of :class:`PvcArtifacts`: ``artifacts``, or ``records`` for the volume of the backend store."""

    context: Context
    """Deployment context."""
    artifacts: NotRequired[PvcArtifactsArgs]
    """Separate claim for artifacts. Default: none."""
    records: NotRequired[pulumi.Input[str]]
    """Identity of the data on the backend store's volume. Default: none."""


class PvcArtifacts(pulumi.ComponentResource):
    """Artifact store on a claim. MLflow streams uploads and downloads (LocalArtifactRepository, 3.17.2), so neither
    fills the pod's ``/tmp``."""

    parts: PodParts
    """Parts of the tracking server's pod."""
    presigned = True
    """True if MLflow may offer clients presigned URLs of the store. Without effect here: a claim has none."""
    client_env: Mapping[str, pulumi.Input[str]] = types.MappingProxyType({})
    """Variables that clients need in addition to the tracking URI and a password: none."""

    def __init__(self, name: str, args: PvcArtifactsInputs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mlflow-stack:index:PvcArtifacts", name, {}, opts)
        context = args["context"]
        env: dict[str, str] = {"MLFLOW_SERVE_ARTIFACTS": "true", "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/"}
        if "artifacts" not in args:
            # The claim is mounted once: a pod that lists a claim twice may wait for its volumes forever.
            parts = PodParts(env=pod.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": f"{DATA}/{ARTIFACTS_FOLDER}"}))
            data = args.get("records", "")
        else:
            store = validate.resolved("PvcArtifacts", name, PvcArtifactsArgs, args["artifacts"], longest=LONGEST_NAME)
            labels = pod.labels(name, "artifact-store", context.labels)
            if "existing_claim" in store:
                claim: pulumi.Input[str] = store["existing_claim"]
            else:
                claim = claims.create(self, _claim(name), store, context, labels)
            destination = f"{ARTIFACTS_VOLUME}/{ARTIFACTS_FOLDER}"
            parts = PodParts(
                env=pod.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": destination}),
                volumes=[claims.volume(VOLUME, claim)],
                mounts=[{"name": VOLUME, "mount_path": ARTIFACTS_VOLUME}],
                exclusive=store["access_mode"] != "ReadWriteMany",
            )
            data = claims.identity_of(context, claim)
        guard = identity.guard(name, identity.ARTIFACTS, data, opts)
        self.parts = replace(parts, wait_for=[guard], identity={identity.ARTIFACTS: data})
        self.register_outputs({})
