"""Artifact stores for models, figures and other files. Each kind has one file, and one entry in each list below."""

from collections.abc import Mapping
from typing import Final, NotRequired, TypedDict

from mlflow_stack import validate
from mlflow_stack.artifacts.claim import PvcArtifactKind, PvcArtifactsArgs
from mlflow_stack.artifacts.s3 import S3ArtifactKind, S3ArtifactsArgs
from mlflow_stack.kinds import ArtifactKind


class ArtifactStoreArgs(TypedDict):
    """Storage of models, figures and other files. Set at most one key."""

    pvc: NotRequired[PvcArtifactsArgs]
    """A separate PersistentVolumeClaim for artifacts. Default: none."""
    s3: NotRequired[S3ArtifactsArgs]
    """An S3 bucket. Default: none."""


KINDS: Final[Mapping[str, type[ArtifactKind]]] = {"pvc": PvcArtifactKind, "s3": S3ArtifactKind}
"""Kinds by the key that selects them. The first one is the default, unless the backend store has room for artifacts."""


@validate.rules(ArtifactStoreArgs)
def _rules(fields: validate.Fields) -> None:
    fields.refuse_several(KINDS)
