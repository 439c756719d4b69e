"""Download of a model into the pod's volume: ``models:/`` or ``runs:/`` from an MLflow registry, ``s3://`` from a
bucket.

Runs in the MLflow image, before the server and in a separate container, since only it has credentials: files in the
folder ``CREDENTIALS``, each named after the variable of MLflow's client whose value it holds and read at each attempt;
for ``s3://``, boto3's credentials file. ``MODEL_URI`` is the model, ``VOLUME`` the destination, ``VOLUME_BYTES`` its
capacity. If the volume has the model already, nothing is requested: a pod can restart without the registry.
"""

import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from model_volume import REFUSED_STATUSES, NotYetError, RefusedError, Volume, brief, patiently, reach, say, step

REPORT_SECONDS: Final = 2.0
MEGABYTE: Final = 10**6
USER: Final = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# MLflow's error codes for a missing or invalid model, version, alias, run or name.
NOT_THERE: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def credentials(folder: Path) -> None:
    """Set the registry's user in the environment, from the present content of the mounted Secret."""
    for name in USER:
        if (folder / name).is_file():
            os.environ[name] = (folder / name).read_text(encoding="utf-8").strip()


def ask(registry: str) -> None:
    """Check that the registry answers and accepts this user."""
    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_TOKEN")
    auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    headers = {"Authorization": f"Bearer {token}"} if token and not user else {}
    answer = reach(f"{registry.rstrip('/')}/version", f"the registry {registry}", auth=auth, headers=headers)
    if answer.status_code in REFUSED_STATUSES:
        who = f"user {user}" if user else "the token" if token else "a request without a password"
        raise NotYetError(
            f"the registry {registry} answers {answer.status_code} to {who}: "
            "the password is wrong, or not known there yet, which takes up to two minutes"
        )


def located(uri: str, registry: str) -> Any:
    """Return MLflow's repository of the model's files."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        repository = get_artifact_repository(uri)
        version = getattr(repository, "model_version", None)
        if version and not uri.endswith(f"/{version}"):
            say(f"{uri} is version {version}")
        return repository
    except MlflowException as error:
        if error.error_code in NOT_THERE:
            raise RefusedError(
                f"{uri} is not in the registry {registry}: {brief(error.message)}. "
                "Name a model that is there, or register this one and replace the pod"
            ) from error
        raise NotYetError(f"the registry {registry} says: {brief(error.message)}") from error


def listed(repository: Any, path: str | None = None) -> Iterator[tuple[str, int]]:
    """Return every file with its size."""
    for artifact in repository.list_artifacts(path):
        if artifact.is_dir:
            yield from listed(repository, artifact.path)
        else:
            yield artifact.path, artifact.file_size or 0


@contextmanager
def reported(uri: str, folder: Path, total: int) -> Generator[None]:
    """Log the progress of the download at intervals."""
    ended = threading.Event()

    def size(file: Path) -> int:
        try:
            return file.lstat().st_size
        except OSError:  # renamed meanwhile
            return 0

    def report() -> None:
        while not ended.wait(REPORT_SECONDS):
            here = sum(size(file) for file in folder.rglob("*") if not file.is_dir())
            say(f"Fetching {uri}: {here // MEGABYTE} of {total // MEGABYTE} MB")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def s3_refusal(error: BaseException) -> str | None:
    """Return S3's message for a request that will not succeed later either; None for any other error."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:
        return None
    told = response.get("Error", {})
    return f"{told.get('Code', 'an error')}: {told.get('Message', '')}"


def fetch(uri: str, registry: str, volume: Volume, most: int) -> None:
    """Try once to fetch the model."""
    if not uri.startswith("s3://"):
        ask(registry)
    repository = located(uri, registry)
    try:
        files = dict(listed(repository))
    except Exception as error:
        raise _trouble(uri, error) from error
    total = sum(files.values())
    if "MLmodel" not in {Path(file).name for file in files}:
        raise RefusedError(f"there is no model at {uri}: no file MLmodel. Name the folder that `log_model` wrote")
    if total > most:
        raise RefusedError(
            f"{uri} has {total // MEGABYTE} MB, and `size` allows {most // MEGABYTE} MB for the model and its "
            "libraries. Raise `size`"
        )
    say(f"Fetching {uri}: {total // MEGABYTE} MB in {len(files)} files")
    unfinished = volume.fresh("model")
    try:
        with reported(uri, unfinished, total):
            folder = Path(repository.download_artifacts("", dst_path=str(unfinished)))
    except Exception as error:
        raise _trouble(uri, error) from error
    volume.complete(folder, volume.model)
    say(f"Fetched {uri}")


def _trouble(uri: str, error: Exception) -> Exception:
    if (refusal := s3_refusal(error)) is not None:
        return RefusedError(f"S3 refuses {uri}: {brief(refusal)}. Check bucket, path, keys and region")
    return NotYetError(f"{uri} could not be fetched: {type(error).__name__}: {brief(error)}")


def run(volume: Volume) -> None:
    """Run the step until it succeeds, fails for good or times out."""
    uri = os.environ["MODEL_URI"]
    if volume.model.exists():
        say(f"{uri} is here already")
        return

    def attempt() -> None:
        credentials(Path(os.environ["CREDENTIALS"]))
        fetch(uri, os.environ.get("MLFLOW_TRACKING_URI", ""), volume, int(os.environ["VOLUME_BYTES"]))

    patiently(attempt)


def main() -> int:
    """Run the step as in the pod."""
    volume = Volume(Path(os.environ["VOLUME"]))
    return step(volume, lambda: run(volume))


if __name__ == "__main__":
    sys.exit(main())
