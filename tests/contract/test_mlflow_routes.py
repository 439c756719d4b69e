"""Kinds of paths of the proxy, against the routes of the installed MLflow: a newer one may add streaming ones."""

import functools
import json
import re
import subprocess
import sys

from mlflow_stack.access import nginx

ROUTES = """
import json
from mlflow.server import app as flask
from mlflow.server.fastapi_app import app
found = [[method, str(rule)] for rule in flask.url_map.iter_rules() for method in rule.methods]
for included in app.routes:
    router = getattr(included, "original_router", included)
    for route in getattr(router, "routes", []):
        found += [[method, route.path] for method in route.methods]
print(json.dumps(found))
"""
FILES = re.compile("artifact|upload|download|file|stream|attachment|export|import")
"""Words in the paths of routes that are likely to carry files."""


@functools.cache
def routes() -> list[tuple[str, str]]:
    done = subprocess.run([sys.executable, "-c", ROUTES], capture_output=True, text=True, check=True)
    return [(method, rule) for method, rule in json.loads(done.stdout)]


def test_each_route_with_files_has_a_reviewed_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for method, rule in routes():
        path = re.sub(r"<path:[a-z_]+>|\{[a-z_]+:path\}", "a/b", rule)
        path = re.sub(r"<[a-z_:]+>|\{[a-z_]+\}", "x", path)
        kind = next((kind for pattern, kind in nginx.ROUTES if re.match(pattern, path)), "api")
        if method not in ("HEAD", "OPTIONS") and (kind != "api" or FILES.search(path)):
            kinds.setdefault(kind, set()).add(f"{method} {re.sub('^/(ajax-)?api/', '/API/', path)}")
    gateway = kinds.pop("gateway")
    assert all(route.split(" ")[1].startswith("/gateway/") for route in gateway)
    assert kinds == {
        "artifact": {f"{method} /API/2.0/mlflow-artifacts/artifacts/a/b" for method in ("GET", "PUT", "DELETE")},
        "form": {"POST /API/2.0/mlflow/upload-artifact"},
        "download": {
            "GET /get-artifact",
            "GET /model-versions/get-artifact",
            "GET /API/2.0/mlflow/get-trace-artifact",
            "GET /API/3.0/mlflow/get-trace-artifact",
            "GET /API/2.0/mlflow/logged-models/x/artifacts/files",
        },
        "graphql": {"GET /graphql", "POST /graphql"},
        "page": {"GET /", "GET /static-files/a/b"},
        # Only JSON; the assistant is denied.
        "api": {
            "GET /API/2.0/mlflow-artifacts/artifacts",
            "GET /API/2.0/mlflow-artifacts/presigned/a/b",
            "GET /API/2.0/mlflow/artifacts/list",
            "GET /API/2.0/mlflow/logged-models/x/artifacts/directories",
            "GET /API/2.0/mlflow/model-versions/get-download-uri",
            "GET /API/3.0/mlflow/assistant/sessions/x/stream",
            "POST /API/2.0/mlflow-artifacts/mpu/abort/a/b",
            "POST /API/2.0/mlflow-artifacts/mpu/complete/a/b",
            "POST /API/2.0/mlflow-artifacts/mpu/create/a/b",
            "POST /API/2.0/mlflow/artifacts/presigned-download-url",
            "POST /API/2.0/mlflow/artifacts/presigned-upload-url",
        },
    }


def test_the_first_segment_of_each_route_is_known() -> None:
    segments = {rule.strip("/").partition("/")[0] for _, rule in routes()} - {"", "{name:path}"}
    assert {*segments, "livez", "healthz", "readyz"} == set(nginx.ROOTS)
