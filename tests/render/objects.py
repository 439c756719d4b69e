"""Programs to render: the stack files and further configurations of the component, on both platforms."""

import json
import runpy
from typing import Any

import yaml

import engine
from mlflow_stack import MlflowStack

PLATFORMS = ("kubernetes", "openshift")
HOST = "mlflow.example.com"
ADOPTED = {"pvc": {"existing_claim": "old", "file_store": "mlruns"}}
BUCKET = {
    "bucket": "team",
    "endpoint_url": "https://s3.example.com",
    "access_key_id": "key",
    "secret_access_key": "secret",
}
DATABASE = {"mysql": {"host": "db.example.com", "existing_secret": "db"}}
CA = (engine.PROJECT / "tests" / "components" / "ca.pem").read_text()
BEHIND = {"host": HOST, "allow_from": ["192.0.2.0/24"], "trusted_proxies": ["10.0.0.0/8", "2001:db8::/32"]}
MODELS = [
    {"name": "iris", "uri": "models:/iris/1"},
    {
        "name": "pool",
        "uri": "models:/pool@live",
        "version": 2,
        "autoscale": {"max_replicas": 4},
        "environment": "install",
    },
    {"name": "later"},
]
ZONE = "topology.kubernetes.io/zone"
OTHERS = {"label_selector": {"match_labels": {"app": "batch"}}, "topology_key": "kubernetes.io/hostname"}
ARM = {"match_expressions": [{"key": "kubernetes.io/arch", "operator": "NotIn", "values": ["arm64"]}]}
POD: dict[str, Any] = {
    "node_selector": {"disk": "ssd"},
    "tolerations": [{"key": "team", "value": "ml", "effect": "NoExecute", "toleration_seconds": 60}],
    "affinity": {
        "node_affinity": {
            "required_during_scheduling_ignored_during_execution": {"node_selector_terms": [ARM]},
            "preferred_during_scheduling_ignored_during_execution": [{"weight": 1, "preference": ARM}],
        },
        "pod_affinity": {"required_during_scheduling_ignored_during_execution": [{**OTHERS, "namespaces": ["team"]}]},
        "pod_anti_affinity": {
            "preferred_during_scheduling_ignored_during_execution": [
                {"weight": 100, "pod_affinity_term": {**OTHERS, "namespace_selector": {}}}
            ]
        },
    },
    "topology_spread_constraints": [{"topology_key": ZONE, "max_skew": 2, "when_unsatisfiable": "DoNotSchedule"}],
    "priority_class_name": "batch",
    "runtime_class_name": "gvisor",
    "image_pull_secrets": [{"name": "registry"}],
    "env": [
        {"name": "TZ", "value": "Europe/Helsinki"},
        {"name": "TOKEN", "value_from": {"secret_key_ref": {"name": "team", "key": "token"}}},
        {"name": "MODE", "value_from": {"config_map_key_ref": {"name": "team", "key": "mode"}}},
    ],
    "env_from": [{"secret_ref": {"name": "team"}}, {"prefix": "TEAM_", "config_map_ref": {"name": "team"}}],
    "service_account": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/mlflow"}},
    "host_aliases": [{"ip": "192.0.2.7", "hostnames": ["db.example.com", "s3.example.com"]}],
    "dns_config": {
        "nameservers": ["2001:db8::53"],
        "searches": ["example.com"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    },
    "labels": {"example.com/team": "vision"},
    "annotations": {"example.com/contact": "ann"},
    "termination_grace_period_seconds": 300,
}
PROGRAMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "nodeport": {
        "expose": {"host": "mlflow.test", "node_port": 30500},
        "users": ["a", "b@c.example"],
        "quota": {"limits.memory": "16Gi"},
        "container_defaults": {"limits": {"cpu": "2"}},
        "labels": {"team": "red"},
    },
    "load balancer": {
        "expose": {"load_balancer": {}, "host": HOST, "tls": {"issuer": "letsencrypt"}, "allow_from": ["192.0.2.0/24"]},
        "models": MODELS,
    },
    "ingress": {
        "expose": {"ingress": {}, **BEHIND, "path": "/mlflow", "tls": {"issuer": "letsencrypt"}},
        "models": MODELS,
    },
    "route": {
        "expose": {"route": {}, **BEHIND},
        "models": MODELS,
        "internal_from": [{"namespace_selector": {"team": "red"}}],
        "egress": [{"cidr": "192.0.2.0/24", "port": 3306}],
    },
    "gateway": {"expose": {"gateway": "infra/public", "tls": {}, **BEHIND}, "models": MODELS},
    "claims": {"artifact_store": {"pvc": {"size": "50Gi", "access_mode": "ReadWriteMany"}}},
    "bucket": {"artifact_store": {"s3": BUCKET}},
    "external database": {"existing_namespace": "team", "backend_store": DATABASE, "pod": POD, "models": MODELS},
    "postgres": {
        "existing_namespace": "team",
        "backend_store": {"postgres": {"host": "db.example.com", "existing_secret": "db", "ca": CA}},
    },
    "deployed database": {"backend_store": {"mysql": {"deploy": {}}}},
    "adopted": {"existing_namespace": "team", "backend_store": ADOPTED},
}
FOLDER = engine.PROJECT / "examples" / "csc-rahti"
FILES = {
    **{path.stem: path for path in sorted(engine.PROJECT.glob("Pulumi.*.yaml"))},
    "csc-rahti": FOLDER / "Pulumi.rahti.yaml",
}
EXAMPLES = {
    "adopt": {"namespace": "team", "claim": "old", "certificate": "mlflow-tls", "host": HOST},
    "models-only": {
        "namespace": "team",
        "trackingUri": "http://tracking.example.com:5000",
        "secret": "registry",
        "model": "models:/iris/1",
    },
}
"""Programs in examples/ with their configuration."""
BROUGHT = {
    ("PersistentVolumeClaim", "old"),
    ("PersistentVolumeClaim", "storage-pvc"),
    ("Secret", "allas"),
    ("ConfigMap", "team"),
    ("Secret", "registry"),
    ("Secret", "team"),
    ("Secret", "serving-htpasswd"),
    ("Secret", "db"),
    ("Secret", "mlflow-database"),
    ("Secret", "mlflow-s3"),
}
"""Objects that the stacks adopt."""


def objects(deployment: engine.Deployment) -> list[dict[str, Any]]:
    """Return the Kubernetes objects among the registrations, as the provider would send them."""
    found: list[dict[str, Any]] = []
    for resource in deployment.registrations:
        if resource.type.startswith("kubernetes:"):
            _, version, kind = resource.type.split(":")
            inputs = json.loads(json.dumps(resource.inputs))
            inputs |= {"apiVersion": version.removeprefix("core/"), "kind": kind}
            inputs["metadata"].setdefault("name", f"{resource.name}-abcd1234")
            found.append(inputs)
    return found


def _rendered() -> dict[tuple[str, str], list[dict[str, Any]]]:
    rendered: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for platform in PLATFORMS:
        for name, args in PROGRAMS.items():
            on = {**args, "platform": platform}
            rendered[name, platform] = objects(engine.deploy(lambda on=on: MlflowStack("mlflow", on) and None))
        for name, path in FILES.items():
            config = {**yaml.safe_load(path.read_text())["config"], "mlflow-stack:platform": platform}
            texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in config.items()}
            rendered[name, platform] = objects(engine.run_main(texts))
        for name, values in EXAMPLES.items():
            config = {**values, "args": json.dumps({"platform": platform})}
            rendered[name, platform] = [
                manifest for manifest in _example(name, config) if "labels" in manifest["metadata"]
            ]
    return rendered


def _example(name: str, config: dict[str, str]) -> list[dict[str, Any]]:
    """Return the objects of an example; those without labels belong to the program itself."""
    program = str(engine.PROJECT / "examples" / name / "__main__.py")
    texts = {f"mlflow-stack:{key}": one for key, one in config.items()}
    return objects(engine.deploy(lambda: runpy.run_path(program, run_name="__main__") and None, config=texts))


RENDERED = _rendered()
"""By name and platform."""
