"""Every object of every stack file and platform against the API's own schema and the `restricted` standard.

The objects are what the program registers; that the API server admits them as well is shown in tests/e2e.
"""

import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

import engine
from mlflow_stack import MlflowStack

KUBERNETES = "1.34"
EXPOSED = {"kind": "nodeport", "host": "mlflow.test", "node_port": 30500}
DATABASE = {"mysql": {"host": "db.example.com", "existing_secret": "db"}}
ADOPTED = {"pvc": {"existing_claim": "old", "file_store": "mlruns"}}
BUCKET = {
    "bucket": "team",
    "endpoint_url": "https://s3.example.com",
    "access_key_id": "key",
    "secret_access_key": "secret",
}
PROGRAMS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "openshift": {"platform": "openshift"},
    "exposed": {"expose": EXPOSED, "users": ["a", "b@c.example"], "labels": {"team": "red"}},
    "adopted": {"existing_namespace": "team", "backend_store": ADOPTED},
    "claims": {"artifact_store": {"pvc": {"size": "50Gi", "access_mode": "ReadWriteMany"}}},
    "bucket": {"artifact_store": {"s3": BUCKET}, "platform": "openshift"},
    "external database": {"existing_namespace": "team", "backend_store": DATABASE, "platform": "openshift"},
    "deployed database": {"backend_store": {"mysql": {"deploy": {}}}},
}
EXTERNAL = {
    ("PersistentVolumeClaim", "old"),
    ("Secret", "db"),
    ("Secret", "mlflow-database"),
    ("Secret", "mlflow-s3"),
    ("ServiceAccount", "default"),
}
"""What the stacks adopt, and what every namespace has."""
# restricted: https://kubernetes.io/docs/concepts/security/pod-security-standards, restricted-v2: no csi, no ephemeral.
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "projected", "secret", "persistentVolumeClaim"}


def objects(deployment: engine.Deployment) -> list[dict[str, Any]]:
    """The Kubernetes objects among the registrations, as the provider would send them."""
    found: list[dict[str, Any]] = []
    for one in deployment.registrations:
        if one.type.startswith("kubernetes:"):
            _, version, kind = one.type.split(":")
            inputs = json.loads(json.dumps(one.inputs))
            inputs |= {"apiVersion": version.removeprefix("core/"), "kind": kind}
            inputs["metadata"].setdefault("name", f"{one.name}-abcd1234")
            found.append(inputs)
    return found


def named_programs() -> dict[str, list[dict[str, Any]]]:
    rendered = {
        name: objects(engine.deploy(lambda args=args: MlflowStack("mlflow", args) and None))
        for name, args in PROGRAMS.items()
    }
    for path in sorted(engine.PROJECT.glob("Pulumi.*.yaml")):
        config = yaml.safe_load(path.read_text())["config"]
        texts = {key: one if isinstance(one, str) else json.dumps(one) for key, one in config.items()}
        rendered[path.stem] = objects(engine.run_main(texts))
    return rendered


RENDERED = named_programs()


@pytest.mark.parametrize("name", RENDERED)
def test_every_object_has_only_fields_the_api_knows(name: str) -> None:
    assert len(RENDERED[name]) >= 7
    for one in RENDERED[name]:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def workloads(name: str) -> list[dict[str, Any]]:
    """What makes pods."""
    return [one for one in RENDERED[name] if "template" in one.get("spec", {})]


@pytest.mark.parametrize("name", RENDERED)
def test_every_pod_meets_the_restricted_standard(name: str) -> None:
    pods = [one["spec"]["template"]["spec"] for one in workloads(name)]
    assert pods
    for pod in pods:
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(volume) - {"name"} <= VOLUMES for volume in pod["volumes"])
        for container in [*pod["initContainers"], *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"]["type"] == "RuntimeDefault"
            probes = [container.get(f"{probe}Probe", {}) for probe in ("startup", "liveness", "readiness")]
            assert not any("host" in probe.get("httpGet", {}) for probe in probes)


@pytest.mark.parametrize("name", RENDERED)
def test_every_reference_resolves(name: str) -> None:
    """ConfigMaps, Secrets, claims, accounts and ports that a pod names are made by the stack or adopted."""
    rendered = RENDERED[name]
    names = {(one["kind"], one["metadata"]["name"]) for one in rendered} | EXTERNAL
    for workload in workloads(name):
        pod = workload["spec"]["template"]["spec"]
        wanted = {("ServiceAccount", pod["serviceAccountName"])}
        if workload["kind"] == "StatefulSet":
            wanted.add(("Service", workload["spec"]["serviceName"]))
        for volume in pod["volumes"]:
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "secret" in volume:
                wanted.add(("Secret", volume["secret"]["secretName"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        assert wanted <= names
        volumes = {volume["name"] for volume in pod["volumes"]}
        containers = [*pod["initContainers"], *pod["containers"]]
        assert {mount["name"] for container in containers for mount in container["volumeMounts"]} == volumes
    for service in (one for one in rendered if one["kind"] == "Service"):
        (selected,) = [
            one["spec"]["template"]
            for one in workloads(name)
            if service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        ports = {port["name"] for container in selected["spec"]["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_same_input_gives_the_same_objects() -> None:
    again = objects(engine.deploy(lambda: MlflowStack("mlflow", {}) and None))
    key = json.dumps
    assert sorted(map(key, again)) == sorted(map(key, RENDERED["defaults"]))
