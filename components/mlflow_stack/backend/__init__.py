"""Backend stores for runs, metrics and registered models. Each kind has one file, and one entry in each list below."""

from collections.abc import Mapping
from typing import Final, NotRequired, TypedDict

from mlflow_stack import validate
from mlflow_stack.backend.mysql import MysqlBackend, MysqlStoreArgs
from mlflow_stack.backend.postgres import PostgresBackend, PostgresStoreArgs
from mlflow_stack.backend.sqlite import PvcBackend, PvcStoreArgs
from mlflow_stack.kinds import BackendKind


class BackendStoreArgs(TypedDict):
    """Storage of runs, params, metrics and the model registry. Set at most one key."""

    pvc: NotRequired[PvcStoreArgs]
    """SQLite on a PersistentVolumeClaim. Default: a claim of 20Gi."""
    mysql: NotRequired[MysqlStoreArgs]
    """A MySQL or MariaDB database. Default: none."""
    postgres: NotRequired[PostgresStoreArgs]
    """A PostgreSQL database. Default: none."""


KINDS: Final[Mapping[str, type[BackendKind]]] = {
    "pvc": PvcBackend,
    "mysql": MysqlBackend,
    "postgres": PostgresBackend,
}
"""Kinds by the key that selects them. The first one is the default."""


@validate.rules(BackendStoreArgs)
def _rules(fields: validate.Fields) -> None:
    fields.refuse_several(KINDS)
