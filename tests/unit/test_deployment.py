"""One stack on a platform, with the state that its engine exports."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mlflow_stack_cli import deployment
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.deployment import Deployment
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.platform import ExistingCluster, Tools
from mlflow_stack_cli.project import Project

TOOLS = Tools(Cluster(Path("kubectl")), {})
KIND = "mlflow-stack:index:MlflowStack"


def component(name: str, **outputs: Any) -> dict[str, Any]:
    return {"urn": f"urn:pulumi:dev::vision::{KIND}::{name}", "type": KIND, "outputs": outputs}


def service(namespace: str) -> dict[str, Any]:
    inputs = {"metadata": {"name": "mlflow", "namespace": namespace}}
    kind = "kubernetes:core/v1:Service"
    return {"urn": f"urn:pulumi:dev::vision::{KIND}${kind}::mlflow", "type": kind, "inputs": inputs}


def client(**variables: str) -> dict[str, str]:
    return {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "plaintext": json.dumps(variables)}


class Engine(Deployment):
    """Engine that exports a state."""

    def __init__(self, folder: Path, *resources: dict[str, Any]) -> None:
        project = Project(folder, "vision")
        super().__init__(project, "dev", ExistingCluster(project, "dev"))
        self.answers = {
            "stack ls": [{"name": "organization/vision/dev"}],
            "stack export": {"deployment": {"resources": list(resources)}},
            "whoami --json": {"url": f"file://{folder}"},
        }
        self.calls: list[str] = []

    def asked(self, variables: Any, *arguments: str, cwd: Path | None = None) -> str:
        self.calls.append(" ".join(arguments))
        return json.dumps(self.answers.get(" ".join(arguments[:2]), {}))


def test_client_environment_is_that_of_the_component(tmp_path: Path) -> None:
    engine = Engine(tmp_path, component("mlflow", clientEnv=client(MLFLOW_TRACKING_URI="http://a")))
    assert engine.client_environment(TOOLS) == {"MLFLOW_TRACKING_URI": "http://a"}


def test_client_environment_of_several_needs_a_name(tmp_path: Path) -> None:
    resources = [component(name, clientEnv=client(NAME=name)) for name in ("a", "b")]
    engine = Engine(tmp_path, *resources)
    assert engine.client_environment(TOOLS, "b") == {"NAME": "b"}
    with pytest.raises(LocalError, match=r"^--component: name one of a, b\. Next: "):
        engine.client_environment(TOOLS)


@pytest.mark.parametrize("resources", [[], [component("mlflow")]])
def test_stack_that_is_not_up_has_no_client_environment(resources: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"^stack dev of project vision is not up\. Next: `mlflow-stack up`\.$"):
        Engine(tmp_path, *resources).client_environment(TOOLS)


def test_namespaces_are_those_of_the_components_objects(tmp_path: Path) -> None:
    other = {"urn": "urn:pulumi:dev::vision::kubernetes:core/v1:Service::x", "type": "x", "inputs": {}}
    engine = Engine(tmp_path, component("a"), service("one"), service("two"), service("one"), other)
    assert engine.namespaces(TOOLS) == ["one", "two"]


def lock(folder: Path, project: str, pid: int) -> None:
    locks = folder / ".pulumi" / "locks" / "organization" / project / "dev"
    locks.mkdir(parents=True)
    (locks / "lock.json").write_text(json.dumps({"pid": pid, "hostname": socket.gethostname()}))


def test_lock_of_a_killed_update_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tmp_path)
    ended: list[int] = []
    monkeypatch.setattr(deployment.children, "end_left_by", ended.append)
    lock(tmp_path, "vision", 2**22 + 1)
    engine.unlock(TOOLS, print)
    assert ended == [2**22 + 1]
    assert engine.calls[-1] == "cancel --yes"


def test_keeps_the_lock_of_another_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tmp_path)
    monkeypatch.setattr(deployment.children, "end_left_by", lambda pid: pytest.fail(f"{pid}"))
    lock(tmp_path, "other", os.getpid())
    engine.unlock(TOOLS, print)
    assert engine.calls == ["whoami --json"]
