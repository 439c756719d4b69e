"""Linters that are in no package index, built from Go modules."""

from pathlib import Path

from mlflow_stack_cli.progress import Progress
from sandbox.builds import go_binary

_MODULES = Path(__file__).parent / "modules"


def actionlint(progress: Progress) -> Path:
    """Return the linter of GitHub's workflows. Raises `LocalError` if the build fails."""
    package = "github.com/rhysd/actionlint/cmd/actionlint"
    return go_binary(progress, "actionlint", _MODULES / "actionlint", package, estimate=30)
