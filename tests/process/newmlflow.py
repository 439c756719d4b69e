"""Newest MLflow client that is accepted, from its wheel only: its companion packages may not be published yet."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from mlflow_stack_cli.paths import cache_dir

PINS = Path(__file__).parent / "pins" / "mlflow-3.18.0.txt"


def folder() -> Path:
    """Return a folder for PYTHONPATH, in front of the environment's own MLflow."""
    made = cache_dir() / "new-mlflow" / hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    made.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(made.with_suffix(".lock")):
        if not (made / "ready").exists():
            shutil.rmtree(made, ignore_errors=True)
            uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            cached = os.environ | {"UV_CACHE_DIR": str(cache_dir() / "uv")}
            subprocess.run([*uv, "--target", made, "--requirements", PINS], env=cached, check=True)
            (made / "ready").touch()
    return made
