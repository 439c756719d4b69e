"""Preview sentences for each key of the stack file, changed on its own: tests/program/effects.yaml.

The keys are those of the schema. A new key fails here until it has a row; a key without an effect to report states
the reason. ACCEPT=1 rewrites the sentences, for review as a diff. Both sides are recordings, without an engine;
tests/e2e/test_previews.py shows that the engine's own preview has the same words.
"""

import json
import os
import runpy
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import engine
from mlflow_stack_cli import stackfile
from mlflow_stack_cli.previews import recorder
from mlflow_stack_cli.previews.capture import Recording
from mlflow_stack_cli.previews.compare import compare
from mlflow_stack_cli.previews.words import Words

GOLDEN = Path(__file__).with_name("effects.yaml")
CA = (engine.PROJECT / "tests" / "components" / "ca.pem").read_text()


def _secret(text: str) -> dict[str, str]:
    """An encrypted value, as in a stack file."""
    return {"secure": text}


SECRET_KEYS = {"accessKeyId": _secret("one"), "secretAccessKey": _secret("one")}
TLS = {"ingress": {}, "host": "a.example.com", "tls": {"issuer": "le"}}
BALANCER = {"loadBalancer": {}, "host": "a.example.com", "tls": {"issuer": "le"}}
PORT = {"host": "a.example.com", "nodePort": 30500}
IRIS = {"name": "iris", "uri": "models:/iris@champion", "version": 1, "environment": "install"}

REFERENCE = {"name": "settings", "key": "key"}


def _guest(**keys: Any) -> dict[str, Any]:
    return {"existingNamespace": "team", **keys}


def _mysql(**keys: Any) -> dict[str, Any]:
    return {"mysql": {"host": "db.example.com", **keys}}


def _postgres(**keys: Any) -> dict[str, Any]:
    return {"postgres": {"host": "db.example.com", **keys}}


BASES: dict[str, dict[str, Any]] = {
    "bare": {"namespace": "team", "users": ["ann", "bob"]},
    "guest": _guest(),
    "limited": {"namespace": "team", "quota": {"pods": "9"}, "containerDefaults": {"limits": {}, "requests": {}}},
    "given password": {"users": ["ann", "bob"], "passwords": {"bob": _secret("one")}, "rotation": {"ann": 1}},
    "directory": _guest(usersExistingSecret="people"),
    "external": _guest(
        backendStore=_mysql(existingSecret="db"), artifactStore={"s3": {"bucket": "bin", "existingSecret": "s"}}
    ),
    "external with passwords": _guest(
        backendStore=_mysql(password=_secret("one")), artifactStore={"s3": {"bucket": "bin", **SECRET_KEYS}}
    ),
    "postgres": _guest(
        backendStore=_postgres(existingSecret="db"), artifactStore={"s3": {"bucket": "bin", "existingSecret": "s"}}
    ),
    "postgres with a password": _guest(backendStore=_postgres(password=_secret("one"))),
    "deployed database": _guest(backendStore={"mysql": {"deploy": {}}}),
    "served": _guest(backendStore={"mysql": {"deploy": {}}}, models=[IRIS]),
    "claims": _guest(backendStore={"pvc": {"fileStore": "mlruns"}}, artifactStore={"pvc": {}}),
    "existing claims": _guest(
        backendStore={"pvc": {"existingClaim": "old"}}, artifactStore={"pvc": {"existingClaim": "old-files"}}
    ),
    "ingress": _guest(expose=TLS),
    "certificate": _guest(expose={**TLS, "tls": {"secret": "tls"}}),
    "allowed": _guest(expose={**TLS, "allowFrom": ["192.0.2.0/24"], "trustedProxies": ["10.0.0.0/8"]}),
    "gateway": _guest(expose={"host": "a.example.com", "gateway": "infra/public"}),
    "load balancer": _guest(expose=BALANCER, models=[IRIS]),
    "node port": _guest(expose=PORT, models=[{**IRIS, "nodePort": 30501}]),
    "model": _guest(models=[IRIS]),
    "autoscaled model": _guest(models=[{**IRIS, "autoscale": {"maxReplicas": 3}}]),
    "model in a bucket": _guest(models=[{"name": "iris", "uri": "s3://bin/iris", "s3ExistingSecret": "s"}]),
    "model with variables": _guest(models=[{**IRIS, "env": [{"name": "MODE", "value": "fast"}]}]),
    "model with keys": _guest(models=[{**IRIS, "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": REFERENCE}}]}]),
    "model with settings": _guest(
        models=[{**IRIS, "env": [{"name": "MODE", "valueFrom": {"configMapKeyRef": REFERENCE}}]}]
    ),
    "peers": _guest(internalFrom=[{"namespaceSelector": {"a": "b"}}], egress=[{"cidr": "192.0.2.0/24", "port": 443}]),
}
"""Stack files in which one key is changed."""

ROWS: list[tuple[str, str, Any]] = [
    ("name", "bare", "other"),
    ("namespace", "bare", "other"),
    ("existingNamespace", "external", "other"),
    ("existingNamespace", "existing claims", "other"),
    ("quota", "bare", {"limits.memory": "16Gi"}),
    ("quota", "limited", {"pods": "10"}),
    ("containerDefaults.limits", "limited", {"memory": "1Gi"}),
    ("containerDefaults.requests", "limited", {"memory": "1Gi"}),
    ("platform", "bare", "openshift"),
    ("image", "bare", "registry.example/mlflow:v3.18.0"),
    ("image", "external", "registry.example/mlflow:v3.18.0"),
    ("proxyImage", "bare", "registry.example/nginx:1.29.4"),
    ("replicas", "external", 3),
    ("resources.requests", "bare", {"memory": "1Gi"}),
    ("resources.limits", "bare", {"memory": "2Gi"}),
    ("users", "bare", ["bob", "ann"]),
    ("users", "bare", ["ann"]),
    ("users", "bare", ["ann", "bob", "eve"]),
    ("passwords", "bare", {"bob": _secret("one")}),
    ("passwords", "given password", {"bob": _secret("two")}),
    ("passwords", "given password", {}),
    ("usersExistingSecret", "guest", "people"),
    ("usersExistingSecret", "directory", "others"),
    ("rotation", "bare", {"bob": 1}),
    ("rotation", "given password", {}),
    ("backendStore", "bare", _mysql(password=_secret("one"))),
    ("backendStore", "external", {"pvc": {}}),
    ("backendStore", "deployed database", {"pvc": {}}),
    ("backendStore.pvc.size", "bare", "50Gi"),
    ("backendStore.pvc.size", "bare", "1Gi"),
    ("backendStore.pvc.size", "bare", "20480Mi"),
    ("backendStore.pvc.storageClass", "bare", "fast"),
    ("backendStore.pvc.accessMode", "bare", "ReadWriteOncePod"),
    ("backendStore.pvc.existingClaim", "existing claims", "other"),
    ("backendStore.pvc.fileStore", "bare", "mlruns"),
    ("backendStore.pvc.fileStoreMount", "claims", "/data"),
    ("backendStore.mysql.host", "external", "other.example.com"),
    ("backendStore.mysql.port", "external", 3307),
    ("backendStore.mysql.database", "external", "other"),
    ("backendStore.mysql.username", "external", "other"),
    ("backendStore.mysql.password", "external with passwords", _secret("two")),
    ("backendStore.mysql.existingSecret", "external", "other"),
    ("backendStore.mysql.ca", "external", CA),
    ("backendStore.mysql.deploy.size", "deployed database", "50Gi"),
    ("backendStore.mysql.deploy.size", "deployed database", "1Gi"),
    ("backendStore.mysql.deploy.storageClass", "deployed database", "fast"),
    ("backendStore.mysql.deploy.image", "deployed database", "registry.example/mariadb:11.4"),
    ("backendStore.mysql.deploy.resources.requests", "deployed database", {"memory": "1Gi"}),
    ("backendStore.mysql.deploy.resources.limits", "deployed database", {"memory": "2Gi"}),
    ("backendStore.mysql.deploy.rotation", "deployed database", 1),
    ("backendStore.mysql.dumps.size", "deployed database", "1Gi"),
    ("backendStore.mysql.dumps.storageClass", "deployed database", "fast"),
    ("backendStore.mysql.dumps.image", "deployed database", "registry.example/mariadb:11.4"),
    ("backendStore", "external", _postgres(existingSecret="db")),
    ("image", "postgres", "registry.example/mlflow:v3.18.0"),
    ("backendStore.postgres.host", "postgres", "other.example.com"),
    ("backendStore.postgres.port", "postgres", 5433),
    ("backendStore.postgres.database", "postgres", "other"),
    ("backendStore.postgres.username", "postgres", "other"),
    ("backendStore.postgres.password", "postgres with a password", _secret("two")),
    ("backendStore.postgres.existingSecret", "postgres", "other"),
    ("backendStore.postgres.ca", "postgres", CA),
    ("backendStore.postgres.sslmode", "postgres", "require"),
    ("backendStore.postgres.dumps.size", "postgres", "1Gi"),
    ("backendStore.postgres.dumps.storageClass", "postgres", "fast"),
    ("backendStore.postgres.dumps.image", "postgres", "registry.example/postgres:16"),
    ("artifactStore", "bare", {"s3": {"bucket": "bin", **SECRET_KEYS}}),
    ("artifactStore", "external", {"pvc": {}}),
    ("artifactStore.pvc.size", "claims", "1Gi"),
    ("artifactStore.pvc.storageClass", "claims", "fast"),
    ("artifactStore.pvc.accessMode", "claims", "ReadWriteMany"),
    ("artifactStore.pvc.existingClaim", "existing claims", "other"),
    ("artifactStore.s3.bucket", "external", "other"),
    ("artifactStore.s3.prefix", "external", "team"),
    ("artifactStore.s3.endpointUrl", "external", "https://a3s.fi"),
    ("artifactStore.s3.region", "external", "eu-north-1"),
    ("artifactStore.s3.addressing", "external", "path"),
    ("artifactStore.s3.accessKeyId", "external with passwords", _secret("two")),
    ("artifactStore.s3.secretAccessKey", "external with passwords", _secret("two")),
    ("artifactStore.s3.existingSecret", "external", "other"),
    ("artifactStore.s3.ca", "external", CA),
    ("artifactStore.s3.proxied", "external", False),
    ("artifactStore.s3.presigned", "external", False),
    ("artifactStore.s3.bucketCheck", "external", False),
    ("artifactLocations", "external", ["s3://older"]),
    ("maxArtifactSize", "bare", "1Gi"),
    ("maxConcurrentUploads", "bare", 3),
    ("models", "guest", [IRIS]),
    ("models", "model", []),
    ("models[].name", "model", "other"),
    ("models[].uri", "model", "models:/iris@challenger"),
    ("models[].version", "model", 2),
    ("models[].environment", "model", "image"),
    ("models[].indexUrl", "model", "https://pypi.example.com/simple"),
    ("models[].image", "model", "registry.example/mlflow:v3.18.0"),
    ("models[].replicas", "model", 3),
    ("models[].autoscale.minReplicas", "autoscaled model", 2),
    ("models[].autoscale.maxReplicas", "autoscaled model", 4),
    ("models[].autoscale.cpuPercent", "autoscaled model", 50),
    ("models[].resources.requests", "model", {"cpu": "20m"}),
    ("models[].resources.limits", "model", {"memory": "2Gi"}),
    ("models[].size", "model", "4Gi"),
    ("models[].maxRequestSize", "model", "10Mi"),
    ("models[].requestTimeout", "model", "30s"),
    ("models[].maxConcurrentPredictions", "model", 2),
    ("models[].env", "model", [{"name": "MODE", "value": "fast"}]),
    ("models[].env[].name", "model with variables", "OTHER"),
    ("models[].env[].value", "model with variables", "slow"),
    ("models[].env[].valueFrom.secretKeyRef.name", "model with keys", "other"),
    ("models[].env[].valueFrom.secretKeyRef.key", "model with keys", "other"),
    ("models[].env[].valueFrom.configMapKeyRef.name", "model with settings", "other"),
    ("models[].env[].valueFrom.configMapKeyRef.key", "model with settings", "other"),
    ("models[].loadTimeout", "model", "5m"),
    ("models[].rolloutTimeout", "model", "30m"),
    ("models[].nodePort", "node port", 30502),
    ("models[].s3ExistingSecret", "model in a bucket", "other"),
    ("models[].s3EndpointUrl", "model in a bucket", "https://a3s.fi"),
    ("models[].s3Region", "model in a bucket", "eu-north-1"),
    ("expose", "guest", TLS),
    ("expose", "ingress", {}),
    ("expose.ingress.className", "ingress", "nginx"),
    ("expose.route", "ingress", {}),
    ("expose.kind", "ingress", "gateway"),
    ("expose.host", "ingress", "b.example.com"),
    ("expose.path", "ingress", "/mlflow"),
    ("expose.tls.issuer", "ingress", "other"),
    ("expose.tls.issuerKind", "ingress", "Issuer"),
    ("expose.tls.secret", "certificate", "other"),
    ("expose.className", "ingress", "cilium"),
    ("expose.gateway", "gateway", "infra/other"),
    ("expose.nodePort", "node port", 30600),
    ("expose.loadBalancer.className", "load balancer", "service.k8s.aws/nlb"),
    ("expose.tls", "node port", {"issuer": "le"}),
    ("expose.tls.secret", "load balancer", "tls"),
    ("expose.controller.namespaceSelector", "ingress", {"a": "b"}),
    ("expose.controller.podSelector", "ingress", {"a": "b"}),
    ("expose.controller.cidrs", "ingress", ["10.0.0.0/8"]),
    ("expose.allowFrom", "allowed", ["198.51.100.0/24"]),
    ("expose.trustedProxies", "allowed", ["10.1.0.0/16"]),
    ("expose.annotations", "ingress", {"example.com/a": "b"}),
    ("internalFrom", "guest", [{"namespaceSelector": {"a": "b"}}]),
    ("internalFrom[].namespaceSelector", "peers", {"a": "c"}),
    ("internalFrom[].podSelector", "peers", {"a": "c"}),
    ("egress", "guest", [{"cidr": "192.0.2.0/24", "port": 443}]),
    ("egress[].cidr", "peers", "198.51.100.0/24"),
    ("egress[].port", "peers", 8443),
    ("rolloutTimeout", "bare", "20m"),
    ("labels", "bare", {"team": "vision"}),
    ("pod.nodeSelector", "served", {"disk": "ssd"}),
    ("pod.tolerations", "bare", [{"operator": "Exists"}]),
    ("pod.affinity", "bare", {"nodeAffinity": {}}),
    ("pod.topologySpreadConstraints", "bare", [{"topologyKey": "topology.kubernetes.io/zone"}]),
    ("pod.priorityClassName", "bare", "batch"),
    ("pod.runtimeClassName", "bare", "gvisor"),
    ("pod.imagePullSecrets", "guest", [{"name": "registry"}]),
    ("pod.env", "served", [{"name": "TZ", "value": "UTC"}]),
    ("pod.envFrom", "guest", [{"secretRef": {"name": "team"}}]),
    ("pod.serviceAccount", "bare", {"annotations": {"example.com/role": "a"}}),
    ("pod.serviceAccount", "guest", {"name": "team"}),
    ("pod.hostAliases", "bare", [{"ip": "192.0.2.7", "hostnames": ["a.example.com"]}]),
    ("pod.dnsConfig", "bare", {"searches": ["example.com"]}),
    ("pod.labels", "bare", {"team": "vision"}),
    ("pod.annotations", "bare", {"example.com/a": "b"}),
    ("pod.terminationGracePeriodSeconds", "bare", 90),
    ("pod.terminationGracePeriodSeconds", "bare", 30),
    ("tracking.pod", "served", {"nodeSelector": {"disk": "ssd"}}),
    ("backendStore.mysql.deploy.pod", "served", {"nodeSelector": {"disk": "ssd"}}),
    ("models[].pod", "served", {"nodeSelector": {"gpu": "a100"}}),
    ("encryptionKeys.rotation", "bare", 1),
    ("encryptionKeys.existingSecret", "external", "restored"),
    ("release", "bare", ["mlflow-data"]),
]
"""Key, stack file in which it is changed, new value."""

SILENT = {
    "backendStore.pvc.size": "the same size in other words",
    "pod.terminationGracePeriodSeconds": "a shorter time than the server's own changes nothing",
    "models[].uri": "the version beside it says what runs",
    "models[].rolloutTimeout": "only the engine waits for it",
    "rolloutTimeout": "only the engine waits for it",
    "release": "it acknowledges other changes",
}
"""Reasons for keys that change without a sentence."""

ALONG: dict[tuple[str, str], dict[str, Any]] = {
    ("expose.kind", "ingress"): {"expose": {"host": "a.example.com", "gateway": "infra/a", "tls": {}}},
    ("expose.className", "ingress"): {
        "expose": {"kind": "ingress", "host": "a.example.com", "tls": {"issuer": "le"}},
    },
    ("expose.route", "ingress"): {"expose": {"host": "a.example.com"}},
    ("expose.tls.secret", "load balancer"): {"expose": {**BALANCER, "tls": {}}},
}
"""Changes that require others, by key and stack file."""


def _title(one: dict[str, Any]) -> str:
    return one.get("$ref", "").rpartition(":")[2]


def keys() -> Iterator[str]:
    """Yield every key of the schema: an object's by its fields, a list's by itself and its items' fields."""
    document = runpy.run_path(str(engine.PROJECT / "docs" / "generate.py"))["schema"]()

    def below(path: str, one: dict[str, Any]) -> Iterator[str]:
        if path.startswith("pod.") or (path != "pod" and _title(one) == "PodArgs"):
            yield path  # every change within restarts the pods
            return
        fields = document["types"][one["$ref"].rsplit("/", 1)[-1]].get("properties") if "$ref" in one else None
        if fields:
            for name, field in fields.items():
                yield from below(f"{path}.{name}", field)
            return
        yield path
        if "$ref" in one.get("items", {}):
            yield from below(f"{path}[]", one["items"])

    yield from yaml.safe_load((engine.PROJECT / "Pulumi.yaml").read_text())["config"]
    for name, one in document["resources"]["mlflow-stack:index:MlflowStack"]["inputProperties"].items():
        yield from below(name, one)


def test_every_key_of_the_schema_has_a_row() -> None:
    assert set(keys()) - {key for key, _, _ in ROWS} == set()
    assert set(SILENT) <= {key for key, _, _ in ROWS}


def changed(base: str, key: str, value: Any) -> dict[str, Any]:
    """Return a stack file with another value of one key."""
    result = deepcopy(BASES[base] | ALONG.get((key, base), {}))
    tree: Any = result
    *path, last = key.replace("[]", ".0").split(".")
    for part in path:
        tree = tree[int(part)] if isinstance(tree, list) else tree.setdefault(part, {})
    tree[last] = value
    return result


@cache
def _recorded(text: str) -> Recording:
    config = {f"mlflow-stack:{key}": one for key, one in json.loads(text).items()}
    texts, secrets = stackfile.handed(config)
    request = {"project": "mlflow-stack", "stack": "team", "config": texts, "secrets": secrets}
    return Recording.parse(json.loads(json.dumps(recorder.record(engine.PROJECT, request))))


def sentences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the text above the table, with the mark of a red line."""
    old, new = (_recorded(json.dumps(config, sort_keys=True)) for config in (before, after))
    told = Words(compare(old.resources, new.resources), size_keys=new.size_keys)
    summary = told.comment("team", "x").partition("\n| reserved")[0].partition("\n#### ")[0]
    return [line.removeprefix("- ") for line in summary.splitlines() if line.startswith("- ")]


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, list[str]]]:
    said = {} if os.environ.get("ACCEPT") else yaml.safe_load(GOLDEN.read_text())
    yield said
    if os.environ.get("ACCEPT"):
        GOLDEN.write_text(yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "base", "value"), ROWS, ids=[f"{number}-{key}" for number, (key, _, _) in enumerate(ROWS)]
)
def test_says_what_a_changed_key_does(golden: dict[str, list[str]], key: str, base: str, value: Any) -> None:
    shown = "a certificate" if value is CA else json.dumps(value)
    found = sentences(BASES[base], changed(base, key, value))
    row = f"{base}: {key} = {shown}"
    if os.environ.get("ACCEPT"):
        golden[row] = found
    assert found == golden[row]
    assert found or key in SILENT


def test_every_sentence_in_the_file_is_of_a_row(golden: dict[str, list[str]]) -> None:
    assert len(golden) == len(ROWS)
