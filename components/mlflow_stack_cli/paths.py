"""Folders that the command line keeps on this machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder of builds and images; its content can be re-created.

    `$MLFLOW_STACK_CACHE`, else `$XDG_CACHE_HOME/mlflow-stack`, else `~/.cache/mlflow-stack`. It need not exist.
    """
    return user_folder("MLFLOW_STACK_CACHE", "XDG_CACHE_HOME", ".cache")


def user_folder(own: str, xdg: str, under_home: str) -> Path:
    """Return the folder that the variable `own` names, else one below the user's folder of the XDG specification."""
    if stated := os.environ.get(own):
        return Path(stated).absolute()
    # The XDG specification ignores relative paths.
    base = Path(os.environ.get(xdg, ""))
    return (base if base.is_absolute() else Path.home() / under_home) / "mlflow-stack"
