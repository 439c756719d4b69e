"""PersistentVolumeClaims with data, created by the stack or adopted by name."""

from collections.abc import Mapping
from typing import Any, Literal

import pulumi
from pulumi_kubernetes.core.v1 import VolumeArgsDict

from mlflow_stack import identity, validate
from mlflow_stack.cluster import CLAIM, STORAGE_CLASS, Claim, Need, Place
from mlflow_stack.pod.context import Context
from mlflow_stack.pod.metadata import name_of
from mlflow_stack.pod.storage import claim

DATA = "/mlflow"
"""Mount path of the claim with the SQLite database."""
ARTIFACTS_VOLUME = "/mlflow-artifacts"
"""Mount path of a claim with artifacts only."""
ARTIFACTS_FOLDER = "artifacts"
"""Folder of a claim with the artifacts that MLflow serves."""

DEFAULT_SIZE = "20Gi"
AccessMode = Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]
validate.enum(AccessMode, "AccessMode", "Access mode of a claim.")
DEFAULT_ACCESS_MODE: AccessMode = "ReadWriteOnce"


def needs(args: Mapping[str, Any], place: Place) -> list[Need]:
    """Return the existing objects that a store on a claim requires."""
    if "existing_claim" in args:
        return place.need(CLAIM, args, "existing_claim")
    return place.need(STORAGE_CLASS, args, "storage_class")


def identity_of(context: Context, name: pulumi.Input[str]) -> pulumi.Output[str]:
    """Return the identity of the data on a claim."""
    return pulumi.Output.all(context.namespace, name).apply(lambda names: identity.claim(*names))


def create(
    parent: pulumi.Resource,
    name: str,
    args: Mapping[str, Any],
    context: Context,
    labels: Mapping[str, str],
) -> pulumi.Output[str]:
    """Declare a claim from a store's args, and return its name."""
    made = claim(
        name,
        namespace=context.namespace,
        labels=labels,
        size=args["size"],
        storage_class=args.get("storage_class"),
        access_mode=args["access_mode"],
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return name_of(made)


def volume(name: str, claim_name: pulumi.Input[str]) -> VolumeArgsDict:
    """Return a pod's volume for a claim."""
    return {"name": name, "persistent_volume_claim": {"claim_name": claim_name}}


def created(name: str, args: Mapping[str, Any], place: Place) -> list[Claim]:
    """Return the claim that a store creates from its args, if it adopts none."""
    return [] if "existing_claim" in args else [Claim(place.path("size"), name, args["size"])]
