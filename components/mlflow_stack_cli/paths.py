"""Folders of this machine that the command line keeps something in."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where builds and images are kept; everything in it can be made again.

    `$MLFLOW_STACK_CACHE`, else `$XDG_CACHE_HOME/mlflow-stack`, else `~/.cache/mlflow-stack`. It need not exist.
    """
    return user_folder("MLFLOW_STACK_CACHE", "XDG_CACHE_HOME", ".cache")


def user_folder(own: str, xdg: str, under_home: str) -> Path:
    """Return the folder that the variable `own` names, else one below the user's folder of the XDG specification."""
    if stated := os.environ.get(own):
        return Path(stated).absolute()
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get(xdg, ""))
    return (base if base.is_absolute() else Path.home() / under_home) / "mlflow-stack"
