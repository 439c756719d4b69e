"""ASGI app of the tracking server: MLflow's own, with this project's limits (an MLflow plugin, ``mlflow.app``).

``mlflow server --app-name mlflow-stack`` starts it. Each limit is a module: bodies of requests, answers of the Flask
app, artifact locations, searches. Each refuses to start if MLflow's internals are not as expected.
"""

# MLflow has no types.
# pyright: basic

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

_logger = logging.getLogger("mlflow.server")

ARTIFACTS = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
"""Routes that MLflow streams."""
STUCK_SECONDS = 120
"""Seconds after which the health page reports that all threads are busy: longer than any search or database timeout."""
ABANDONED_SECONDS = 3600
"""Seconds without a write after which an upload counts as abandoned, if another server may still write it."""


def unprefixed(scope: MutableMapping[str, Any], prefix: str) -> MutableMapping[str, Any]:
    """Return the scope with the path under which MLflow streams artifacts: MLflow mounts it without the prefix, and its
    routes under the prefix hold whole bodies in memory."""
    path: str = scope.get("path", "")
    if prefix and scope.get("method") in ("GET", "PUT") and path.removeprefix(prefix).startswith(ARTIFACTS):
        raw: bytes = scope.get("raw_path") or path.encode()
        return {**scope, "path": path.removeprefix(prefix), "raw_path": raw.removeprefix(prefix.encode())}
    return scope


def is_upload(scope: MutableMapping[str, Any]) -> bool:
    """Return whether a request's body is an artifact that MLflow streams."""
    return scope["method"] == "PUT" and scope["path"].startswith(ARTIFACTS)


def sweep(folder: Path, before: float) -> int:
    """Delete unfinished uploads of a killed server; return the number of files that others may still write."""
    from mlflow.store.artifact.local_artifact_repo import _TEMP_ARTIFACT_PREFIX

    left = deleted = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(_TEMP_ARTIFACT_PREFIX):
                continue
            file = Path(parent, name)
            with suppress(OSError):
                if file.stat().st_mtime < before:
                    file.unlink()
                    deleted += 1
                else:
                    left += 1
    if deleted:
        _logger.warning("Deleted %d files of uploads that a killed server did not finish.", deleted)
    return left


def _sweep_on_start() -> None:
    folder = Path(os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", ""))
    if not folder.is_absolute():
        return
    if "CLAIM_LOCK" in os.environ:
        # The claim belongs to this server only.
        sweep(folder, time.time())
        return
    while sweep(folder, time.time() - ABANDONED_SECONDS):
        time.sleep(ABANDONED_SECONDS)


def _name_outside_locations(rules: Any) -> None:
    """Log the locations of experiments that this server refuses to use: those of an adopted database."""
    import locations
    from mlflow.store.db.utils import create_sqlalchemy_engine

    (column,) = (column for column in locations.COLUMNS if column.table == "experiments")
    engine = create_sqlalchemy_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
    for line in locations.outside(rules, locations.recorded(engine, column), column):
        _logger.warning("Experiments at a location that this server does not use: %s", line)
    engine.dispose()


def _settle_auth() -> None:
    """Import once what MLflow imports in every search. If its own packages are missing, as in MLflow's image, each
    search would repeat the import, and concurrent searches would find it incomplete and end with 500."""
    try:
        import mlflow.server.auth  # noqa: F401
    except ImportError:
        # Python treats this as a module that cannot be imported, which MLflow expects.
        sys.modules["mlflow.server.auth"] = cast(Any, None)


def create_app() -> Callable[..., Any]:
    """Return MLflow's app with the limits."""
    import locations
    import mlflow.server.fastapi_app as served
    import request_bodies
    import searches
    import wsgi_bridge

    rules = locations.from_environment()
    locations.guard(rules)
    searches.bound()
    wsgi_bridge.installed()
    _settle_auth()
    prefix = os.environ.get("MLFLOW_STATIC_PREFIX", "").rstrip("/")
    guarded = request_bodies.bounded(served.app, int(os.environ["MAX_BODY_BYTES"]), is_upload)
    stuck = wsgi_bridge.Stuck(STUCK_SECONDS)
    for work in (_sweep_on_start, lambda: _name_outside_locations(rules)):
        threading.Thread(target=work, daemon=True).start()

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] == f"{prefix}/health" and scope["method"] in ("GET", "HEAD"):
                # Without a thread: a server whose threads wait for a database is alive.
                healthy = not stuck.now()
                content = b"OK" if healthy else b"every thread is taken and none comes free"
                await request_bodies.answer(send, 200 if healthy else 503, content, content_type="text/plain")
                return
            scope = unprefixed(scope, prefix)
        await guarded(scope, receive, send)

    return app
