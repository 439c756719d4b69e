"""MLflow's S3 artifact repository in the tracking server, an MLflow plugin (`mlflow.artifact_repository`).

The server holds a whole artifact in ``/tmp`` while it passes it on to a client. This repository limits the total of
these files to ``SPOOL_BYTES`` and each to ``SPOOL_LARGEST``, so that no request, not even for a whole folder, fills
``/tmp``, for which Kubernetes would evict the pod. Errors of S3 are translated to MLflow's own errors.
"""

# MLflow and boto3 have no types.
# pyright: basic

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.s3_artifact_repo import BOTO_TO_MLFLOW_ERROR, S3ArtifactRepository

LARGEST = int(os.environ["SPOOL_LARGEST"])
BYTES = int(os.environ["SPOOL_BYTES"])

_lock = threading.Lock()
_held: dict[Path, int] = {}
"""Sizes of existing and unfinished files."""


def reserve(file: Path, size: int) -> None:
    """Create an empty file with reserved space. Raises `MlflowException` if there is no space."""
    if size > LARGEST:
        raise MlflowException(
            f"{file.name} has {size} bytes; through this server pass at most {LARGEST} (maxArtifactSize)", BAD_REQUEST
        )
    with _lock:
        for gone in [path for path in _held if not path.exists()]:
            del _held[gone]
        if sum(_held.values()) + size > BYTES:
            raise MlflowException(
                "other artifacts are on their way through this server; try again", TEMPORARILY_UNAVAILABLE
            )
        file.touch()
        _held[file] = size


@contextmanager
def said() -> Iterator[None]:
    """Translate errors of S3 to MLflow's: with a status, and a message that reaches the client."""
    try:
        yield
    except (Boto3Error, ClientError, BotoCoreError) as error:
        cause = error if isinstance(error, ClientError) else error.__context__
        if isinstance(cause, ClientError):
            code = BOTO_TO_MLFLOW_ERROR.get(cause.response["Error"]["Code"], INTERNAL_ERROR)
            raise MlflowException(f"the artifact store refuses: {cause}", code) from error
        raise MlflowException(f"the artifact store does not answer: {error}", TEMPORARILY_UNAVAILABLE) from error


class Repository(S3ArtifactRepository):
    """Artifacts in S3, with limited temporary files."""

    def _upload_file(self, s3_client: Any, local_file: str, bucket: str, key: str) -> None:
        with said():
            super()._upload_file(s3_client, local_file, bucket, key)

    def _iterate_s3_paginated_results(self, bucket: str, prefix: str) -> Iterator[Any]:
        with said():
            yield from super()._iterate_s3_paginated_results(bucket, prefix)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        bucket, root = self.parse_s3_compliant_uri(self.artifact_uri)
        with said():
            head = self._get_s3_client().head_object(
                Bucket=bucket, Key="/".join(filter(None, (root, remote_file_path))), **self._bucket_owner_params
            )
            reserve(Path(local_path), head["ContentLength"])
            super()._download_file(remote_file_path, local_path)
