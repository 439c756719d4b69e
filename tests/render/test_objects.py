"""Rendered objects against the API's schema, the `restricted` standard and OpenShift's `restricted-v2`, for every stack
file and platform.

The objects are the program's registrations; tests/e2e shows that the API server admits them.
"""

import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from render.objects import BROUGHT, RENDERED, objects

import engine
from mlflow_stack import MlflowStack

KUBERNETES = "1.34"
# Their definitions are not Kubernetes' own; tests/process/test_definitions.py checks them.
FOREIGN = {"Route", "HTTPRoute", "Certificate"}
# restricted: https://kubernetes.io/docs/concepts/security/pod-security-standards, restricted-v2: no csi, no ephemeral.
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
EVERYWHERE = pytest.mark.parametrize("where", RENDERED, ids="-".join)


def templates(rendered: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the pods that the objects create."""
    for manifest in rendered:
        if "template" in manifest.get("spec", {}):
            yield manifest["spec"]["template"]


@EVERYWHERE
def test_every_object_has_only_fields_the_api_knows(where: tuple[str, str]) -> None:
    # One of the programs here has no tracking server.
    assert len(RENDERED[where]) >= (6 if where[0] == "models-only" else 7)
    for manifest in RENDERED[where]:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@EVERYWHERE
def test_every_pod_meets_the_restricted_standard(where: tuple[str, str]) -> None:
    pods = [template["spec"] for template in templates(RENDERED[where])]
    assert pods
    for pod in pods:
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(volume) - {"name"} <= VOLUMES for volume in pod["volumes"])
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"]["type"] == "RuntimeDefault"
            probes = [container.get(f"{probe}Probe", {}) for probe in ("startup", "liveness", "readiness")]
            assert not any("host" in probe.get("httpGet", {}) for probe in probes)


def refusals(template: dict[str, Any]) -> list[str]:
    """Return why ``restricted-v2`` would refuse a pod: it sets user, group, SELinux level and seccomp itself and
    refuses explicit ones, because no program knows the namespace's range."""
    spec = template["spec"]
    said: list[str] = []
    contexts = [("pod", spec.get("securityContext", {}))]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    contexts += [(container["name"], container.get("securityContext", {})) for container in containers]
    for name, context in contexts:
        said += [f"{name}: {field}" for field in ("runAsUser", "fsGroup", "seLinuxOptions") if field in context]
        if context.get("seccompProfile", {"type": "RuntimeDefault"}) != {"type": "RuntimeDefault"}:
            said.append(f"{name}: seccompProfile")
        if context.get("privileged") or context.get("allowPrivilegeEscalation"):
            said.append(f"{name}: privileges")
        if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            said.append(f"{name}: capabilities")
        # The process has group 0; any other is refused or cannot read the image's files.
        if context.get("runAsGroup", 0) != 0:
            said.append(f"{name}: runAsGroup")
    said += [f"pod: {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    said += [f"volume {volume['name']}" for volume in spec["volumes"] if not set(volume) - {"name"} <= VOLUMES]
    for container in containers:
        said += [f"{container['name']}: hostPort" for port in container.get("ports", []) if "hostPort" in port]
    return said


@EVERYWHERE
def test_openshift_admits_what_is_made_for_it_and_nothing_else(where: tuple[str, str]) -> None:
    for template in templates(RENDERED[where]):
        if where[1] == "openshift":
            assert refusals(template) == []
            assert template["metadata"]["annotations"]["openshift.io/required-scc"] == "restricted-v2"
        else:
            assert refusals(template) == ["pod: runAsUser", "pod: fsGroup", "pod: runAsGroup"]
        # A random user without a passwd entry has no home.
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            writes = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in writes, container["name"]


@EVERYWHERE
def test_every_pod_has_a_policy_of_its_own(where: tuple[str, str]) -> None:
    policies = [manifest["spec"] for manifest in RENDERED[where] if manifest["kind"] == "NetworkPolicy"]
    for template in templates(RENDERED[where]):
        labels = template["metadata"]["labels"].items()
        (policy,) = [policy for policy in policies if policy["podSelector"]["matchLabels"].items() <= labels]
        assert policy["policyTypes"] == ["Ingress", "Egress"]


@EVERYWHERE
def test_labels_say_what_an_object_is_and_selectors_never_change(where: tuple[str, str]) -> None:
    for manifest in RENDERED[where]:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "mlflow"
        assert labels["app.kubernetes.io/managed-by"] == "pulumi"
        named = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
        assert named <= set(labels)
        selector = manifest.get("spec", {}).get("selector", {})
        if manifest["kind"] in ("Service", "StatefulSet", "Deployment"):
            assert set(selector.get("matchLabels", selector)) - {"mlflow-stack/model"} == named


@EVERYWHERE
def test_every_reference_resolves(where: tuple[str, str]) -> None:
    """Referenced ConfigMaps, Secrets, claims, accounts, Services and ports are created by the stack or adopted."""
    rendered = RENDERED[where]
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered} | BROUGHT
    names |= {("Secret", manifest["spec"]["secretName"]) for manifest in rendered if manifest["kind"] == "Certificate"}
    wanted: set[tuple[str, str]] = set()
    for manifest in rendered:
        if manifest["kind"] == "StatefulSet":
            wanted.add(("Service", manifest["spec"]["serviceName"]))
    for template in templates(rendered):
        pod = template["spec"]
        wanted.add(("ServiceAccount", pod["serviceAccountName"]))
        for volume in pod["volumes"]:
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "secret" in volume:
                wanted.add(("Secret", volume["secret"]["secretName"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        volumes = {volume["name"] for volume in pod["volumes"]}
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        assert {mount["name"] for container in containers for mount in container["volumeMounts"]} == volumes
    services = [manifest for manifest in rendered if manifest["kind"] == "Service"]
    offered = {port["name"] for service in services for port in service["spec"]["ports"]}
    for service in services:
        selector = service["spec"]["selector"].items()
        (selected,) = [
            template for template in templates(rendered) if selector <= template["metadata"]["labels"].items()
        ]
        containers = selected["spec"]["containers"]
        ports = {port["name"] for container in containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for service, port in exposed(rendered):
        wanted.add(("Service", service))
        assert port in (*offered, 8080)
    assert wanted <= names


def exposed(rendered: list[dict[str, Any]]) -> Iterator[tuple[str, str | int]]:
    """Return the Services and ports that a public address leads to."""
    for manifest in rendered:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Route":
            yield spec["to"]["name"], spec["port"]["targetPort"]
        if manifest["kind"] == "HTTPRoute":
            for rule in spec["rules"]:
                yield from ((backend["name"], backend["port"]) for backend in rule["backendRefs"])
        if manifest["kind"] == "Ingress":
            for path in spec["rules"][0]["http"]["paths"]:
                yield path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"]


def test_the_same_input_gives_the_same_objects() -> None:
    again = objects(engine.deploy(lambda: MlflowStack("mlflow", {}) and None))
    key = json.dumps
    assert sorted(map(key, again)) == sorted(map(key, RENDERED["defaults", "kubernetes"]))
