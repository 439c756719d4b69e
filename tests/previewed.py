"""A team's successive changes, and the preview of each: tests/program/previews/*.md."""

from pathlib import Path
from typing import Any

from repository import Edit, Repository

import engine
from sandbox import services

GOLDEN = engine.PROJECT / "tests" / "program" / "previews"
IMAGE = "registry.example/mlflow:v3.17.2"
STORE, RENAMED = "mlflow-stack:index:PvcStore", "mlflow-stack:index:SqliteStore"
NEWER = "registry.example/mlflow:v3.18.0"
NEWEST = "registry.example/mlflow:v3.19.0"
DATABASE = "registry.example/mariadb:10.11"
PROXY = "registry.example/nginx:1.29.4"
START: dict[str, Any] = {
    "namespace": "team",
    "image": IMAGE,
    "proxyImage": PROXY,
    "users": ["ann", "bob"],
    "backendStore": {"pvc": {"size": "1Gi"}},
    "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
}


def _set(**keys: Any) -> Edit:
    return lambda repository: repository.config.update(keys)


def _rename(repository: Repository) -> None:
    repository.replace("components/mlflow_stack/backend/sqlite.py", f'"{STORE}"', f'"{RENAMED}"')


def rename_with_alias(repository: Repository) -> None:
    """Rename the type, with the alias that `_rename` omits."""
    _rename(repository)
    alias = f'pulumi.ResourceOptions(aliases=[pulumi.Alias(type_="{STORE}")])'
    repository.replace(
        "components/mlflow_stack/backend/sqlite.py",
        f'super().__init__("{RENAMED}", name, {{}}, opts)',
        f'super().__init__("{RENAMED}", name, {{}}, pulumi.ResourceOptions.merge(opts, {alias}))',
    )


CHANGES: dict[str, Edit] = {
    "image": _set(image=NEWER),
    "size": _set(backendStore={"pvc": {"size": "2Gi"}}),
    "rotation": _set(rotation={"ann": 1}),
    "removed-user": _set(users=["ann"]),
    "renamed": _rename,
    "mysql": _set(
        backendStore={"mysql": {"deploy": {"size": "1Gi", "image": DATABASE}, "dumps": {"size": "1Gi"}}},
        release=["mlflow-data", "pvc://team/mlflow-data"],
    ),
    "mysql-image": _set(image=NEWEST),
}
"""In this order, each on top of the previous ones."""

SMALL = {"requests": {"cpu": "20m"}}
LARGE: dict[str, Any] = {
    "existingNamespace": "large",
    "image": IMAGE,
    "proxyImage": PROXY,
    "backendStore": {"mysql": {"deploy": {"size": "1Gi", "image": DATABASE}, "dumps": {"size": "1Gi"}}},
    "artifactStore": {
        "s3": {
            "bucket": "large",
            "endpointUrl": f"http://s3.{services.NAMESPACE}.svc:9000",
            "existingSecret": "mlflow-s3",
        }
    },
    "models": [{"name": "diabetes", "uri": "models:/diabetes@champion", "version": 3, "resources": SMALL}],
    "resources": SMALL,
}
"""Another team's stack, with a model and without a claim shared by servers."""

ELSEWHERE = {"backendStore": {"mysql": {"host": "db.example.com", "existingSecret": "db"}}}

LARGE_CHANGES: dict[str, Edit] = {
    "replicas": _set(replicas=3),
    "model": _set(models=[{**LARGE["models"][0], "version": 4}]),
    "other-bucket": _set(artifactStore={"s3": {**LARGE["artifactStore"]["s3"], "bucket": "other"}}),
    "other-database": _set(**ELSEWHERE, release=["mlflow-database", "mysql://mlflow-database.large/mlflow"]),
}
"""Changes of that team."""

REFUSED = frozenset({"renamed", "other-bucket"})
"""Changes that lose data and are reverted."""


def golden(name: str) -> Path:
    return GOLDEN / f"{name}.md"
