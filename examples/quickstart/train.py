"""Training on scikit-learn's diabetes data that logs everything to the tracking server of the environment.

    eval "$(make -s client-env)" && python examples/quickstart/train.py

It logs params, metrics and the model (autologging), a figure and one large artifact, registers the model, sets the
alias ``champion`` on it, downloads the large artifact again and compares. ``--short`` leaves the model and the large
artifact out. The last line is the address of the run.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import mlflow
from matplotlib.figure import Figure
from mlflow import MlflowClient
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

EXPERIMENT = "quickstart"
MODEL = "diabetes"
ALIAS = "champion"


def figure(actual: object, predicted: object) -> Figure:
    """Plot predictions against measurements."""
    drawing = Figure(figsize=(5, 5), layout="constrained")
    axes = drawing.subplots()
    axes.scatter(actual, predicted, s=12)
    axes.axline((150, 150), slope=1, color="grey", linewidth=1)
    axes.set_xlabel("measured disease progression")
    axes.set_ylabel("predicted")
    return drawing


def random_file(path: Path, megabytes: int) -> str:
    """Write an incompressible file; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            block = os.urandom(2**20)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def round_trip(run_id: str, megabytes: int) -> None:
    """Upload a large artifact, download it again and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.bin"
        wanted = random_file(path, megabytes)
        print(f"uploading {megabytes} MB")
        mlflow.log_artifact(str(path), run_id=run_id)
        path.unlink()
        print("downloading it again")
        got = sha256(
            Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="large.bin", dst_path=folder))
        )
    if got != wanted:
        sys.exit(f"the artifact came back changed: {got} instead of {wanted}")
    print(f"large.bin: sha256 {got}, the same both ways")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a run with params, metrics and a figure alone")
    parser.add_argument("--megabytes", type=int, default=300, help="size of the large artifact (default: 300)")
    options = parser.parse_args()
    mpl.use("agg")

    data = load_diabetes(as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(data.data, data.target, random_state=0)
    mlflow.set_experiment(EXPERIMENT)
    mlflow.autolog(log_models=not options.short, silent=True)
    with mlflow.start_run() as run:
        model = Ridge(alpha=0.1).fit(train_x, train_y)
        predicted = model.predict(test_x)
        mlflow.log_metric("test_r2", r2_score(test_y, predicted))
        mlflow.log_figure(figure(test_y, predicted), "predictions.png")

    if not options.short:
        model_uri = f"runs:/{run.info.run_id}/model"
        version = mlflow.register_model(model_uri, MODEL).version
        MlflowClient().set_registered_model_alias(MODEL, ALIAS, version)
        print(f"models:/{MODEL}@{ALIAS} is version {version}")
        round_trip(run.info.run_id, options.megabytes)
    uri = mlflow.get_tracking_uri().rstrip("/")
    print(f"run: {uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")


if __name__ == "__main__":
    main()
