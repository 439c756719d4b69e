"""Calls to a node's API server during startup."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from ssl import create_default_context
from typing import Any, Final

from sandbox.cluster import config
from sandbox.paths import Instance

_SYSTEM: Final = {"coredns": "kube-system", "local-path-provisioner": "local-path-storage", "traefik": "traefik"}


class Api:
    """API server of an instance. Each method returns what is still missing, or nothing."""

    def __init__(self, instance: Instance, etc: Path, kubectl: Path) -> None:
        """`etc`: the node's keys and kubeconfigs; `kubectl`: the program."""
        self._instance = instance
        self._etc = etc
        self._kubectl = kubectl

    def ready(self) -> str:
        """Check that the API server answers and is ready."""
        context = create_default_context(cafile=self._etc / "pki/ca.crt")
        direct = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with direct.open(f"{config.server(self._instance)}/readyz", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return f"the API server: {error.read().decode(errors='replace')}"
        except OSError as error:
            return f"the API server: {error}"

    def apply(self, manifests: str) -> str:
        """Apply the manifests."""
        flags = ["--server-side", "--force-conflicts", "--field-manager=mlflow-stack", "--filename=-"]
        done = self._run("apply", *flags, given=manifests)
        return done.stderr if done.returncode else ""

    def settled(self, since: float) -> str:
        """Check that the node and its own pods are ready, by observations after that moment (seconds since 1970).

        After a restart, the API server first returns outdated statuses.
        """
        done = self._run("get", "nodes,pods", "--all-namespaces", "--output=json")
        if done.returncode:
            return done.stderr
        items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
        return "\n".join(filter(None, (self._node(items, since), *(_pod(items, name, since) for name in _SYSTEM))))

    def _node(self, items: list[dict[str, Any]], since: float) -> str:
        for item in items:
            if item["kind"] == "Node" and item["metadata"]["name"] == self._instance.cgroup:
                for condition in item["status"].get("conditions", []):
                    if condition["type"] == "Ready" and _seconds(condition["lastHeartbeatTime"]) >= int(since):
                        return "" if condition["status"] == "True" else f"the node: {condition['message']}"
        return "the node: its kubelet has not reported yet"

    def _run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        argv = [str(self._kubectl), f"--kubeconfig={self._etc / config.ADMINS}", "--request-timeout=20s", *words]
        environment = os.environ | {"NO_PROXY": "*"}  # the server is on this machine
        return subprocess.run(argv, input=given, capture_output=True, text=True, check=False, env=environment)


def _pod(items: list[dict[str, Any]], name: str, since: float) -> str:
    """Return what the pod of that Deployment lacks; pods that are being replaced do not count."""
    reason = f"{name}: no pod yet"
    for item in items:
        metadata = item["metadata"]
        if item["kind"] != "Pod" or metadata["namespace"] != _SYSTEM[name] or not metadata["name"].startswith(name):
            continue
        containers = item["status"].get("containerStatuses", [])
        starts = [container["state"].get("running", {}).get("startedAt") for container in containers]
        if containers and all(
            container["ready"] and start and _seconds(start) >= int(since)
            for container, start in zip(containers, starts, strict=True)
        ):
            return ""
        waits = [container["state"].get("waiting", {}) for container in containers]
        said = [f"{wait['reason']}: {wait.get('message', '')}" for wait in waits if wait.get("reason")]
        said += [
            f"{condition.get('reason', condition['type'])}: {condition.get('message', '')}"
            for condition in item["status"].get("conditions", [])
            if condition["status"] != "True" and condition.get("message")
        ]
        reason = f"{name}: {said[0] if said else 'not started again yet'}"
    return reason


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
