"""Artifact store on a claim: one of its own, or the one of the backend store."""

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import NotRequired, TypedDict, get_args

import pulumi

from mlflow_stack import identity, pod, validate
from mlflow_stack.access.credentials import LONGEST_NAME
from mlflow_stack.pod import PodParts, claims
from mlflow_stack.pod.claims import (
    ARTIFACTS_FOLDER,
    ARTIFACTS_VOLUME,
    DATA,
    DEFAULT_ACCESS_MODE,
    AccessMode,
    PvcPlacementArgs,
)


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
            parts = PodParts(env=pod.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": f"{DATA}/{ARTIFACTS_FOLDER}"}))
        else:
            accepted = validate.accepted("PvcArtifacts", name, PvcArtifactsArgs, args, longest=LONGEST_NAME)
            labels = pod.labels(name, "artifact-store", placement["labels"])
            if "existing_claim" in accepted:
                claim = accepted["existing_claim"]
            else:
                claim = claims.create(self, f"{name}-artifacts", accepted, placement, labels)
            destination = f"{ARTIFACTS_VOLUME}/{ARTIFACTS_FOLDER}"
            parts = PodParts(
                env=pod.env({**env, "MLFLOW_ARTIFACTS_DESTINATION": destination}),
                volumes=[claims.volume("artifacts", claim)],
                mounts=[{"name": "artifacts", "mount_path": ARTIFACTS_VOLUME}],
                exclusive=accepted.get("access_mode", DEFAULT_ACCESS_MODE) != "ReadWriteMany",
            )
        if claim is not None:
            data = claims.identity_of(placement, claim)
            guard = identity.guard(name, identity.ARTIFACTS, data, opts)
            parts = replace(parts, wait_for=[guard], identity={identity.ARTIFACTS: data})
        self.parts = parts
        self.register_outputs({})
