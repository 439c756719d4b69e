"""Objects that a killed update left behind: detection and removal."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlflow_stack_cli import interrupted
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.interrupted import Leftover, creates, existing, leftovers, remove, settled

SERVER = Leftover("apps/v1", "StatefulSet", "team", "mlflow-1a2b3c4d")
STEP = Leftover("batch/v1", "Job", "team", "mlflow-schema-1a2b3c4d")
KEYS = Leftover("v1", "Secret", "team", "mlflow-keys-1a2b3c4d")


def resource(one: Leftover, *, autonamed: bool = True, **more: Any) -> dict[str, Any]:
    kind = f"kubernetes:{'core/v1' if one.api == 'v1' else one.api}:{one.kind}"
    annotations = {"pulumi.com/autonamed": "true"} if autonamed else {}
    metadata = {"name": one.name, "namespace": one.namespace, "annotations": annotations}
    return {
        "urn": f"urn:pulumi:dev::mlflow-stack::{kind}::mlflow",
        "type": kind,
        "inputs": {"apiVersion": one.api, "kind": one.kind, "metadata": metadata},
        **more,
    }


def begun(*found: dict[str, Any], resources: tuple[dict[str, Any], ...] = (), op: str = "creating") -> dict[str, Any]:
    pending = [{"resource": item, "type": op} for item in found]
    return {"version": 3, "deployment": {"resources": list(resources), "pending_operations": pending}}


class Objects(Cluster):
    """Cluster with objects, by type and name, that disappear when they are deleted."""

    def __init__(self, *found: Leftover, stuck: bool = False) -> None:
        super().__init__(Path("kubectl"), Path("kubeconfig"))
        self.found = {(leftover.resource, leftover.name, f"--namespace={leftover.namespace}") for leftover in found}
        self.stuck = stuck
        self.deleted: list[tuple[str, ...]] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        verb, *words = arguments
        key = (words[0], words[1], words[2])
        there = key in self.found
        if verb == "delete":
            self.deleted.append(arguments)
            if not self.stuck:
                self.found.discard(key)
        done = verb == "delete" or there
        return subprocess.CompletedProcess(
            arguments, 0 if done else 1, json.dumps({}) if done else "", "" if done else "Error (NotFound): no"
        )


def test_names_workloads_steps_and_secrets_whose_create_was_not_recorded() -> None:
    state = begun(resource(SERVER), resource(STEP), resource(KEYS))
    assert leftovers(state) == [SERVER, STEP, KEYS]
    assert [leftover.resource for leftover in leftovers(state)] == ["StatefulSet.v1.apps", "Job.v1.batch", "Secret"]


def test_an_object_with_a_name_of_its_own_is_none() -> None:
    service = Leftover("v1", "Service", "team", "mlflow")
    assert leftovers(begun(resource(service, autonamed=False))) == []


def test_an_object_that_the_state_knows_is_none() -> None:
    known = resource(SERVER, id=f"{SERVER.namespace}/{SERVER.name}")
    assert leftovers(begun(resource(SERVER), resource(STEP), resources=(known,))) == [STEP]


@pytest.mark.parametrize("op", ["updating", "deleting", "reading"])
def test_an_operation_other_than_a_create_leaves_none(op: str) -> None:
    assert leftovers(begun(resource(SERVER), op=op)) == []
    assert creates(begun(resource(SERVER), op=op)) == []


def test_a_password_under_way_is_none() -> None:
    password = {"urn": "urn:pulumi:dev::p::random:index/randomPassword:RandomPassword::a", "inputs": {"length": 40}}
    state = begun({**password, "type": "random:index/randomPassword:RandomPassword"})
    assert leftovers(state) == []
    assert len(creates(state)) == 1


@pytest.mark.parametrize("state", [{}, {"deployment": None}, {"deployment": {"resources": []}}])
def test_a_state_without_operations_has_none(state: dict[str, Any]) -> None:
    assert creates(state) == leftovers(state) == []


def test_a_create_that_is_begun_again_and_again_is_named_each_time_once() -> None:
    second = Leftover(SERVER.api, SERVER.kind, SERVER.namespace, "mlflow-99999999")
    assert leftovers(begun(resource(SERVER), resource(second), resource(SERVER))) == [SERVER, second]


def test_settles_creates_and_keeps_all_else() -> None:
    state = begun(resource(SERVER), resources=(resource(KEYS),))
    update = {"resource": resource(KEYS), "type": "updating"}
    state["deployment"]["pending_operations"].append(update)
    assert settled(state)["deployment"] == {"resources": [resource(KEYS)], "pending_operations": [update]}
    assert len(state["deployment"]["pending_operations"]) == 2


def test_deletes_what_exists_with_its_pods_and_says_so() -> None:
    cluster = Objects(SERVER)
    assert existing(cluster, [SERVER, STEP]) == [SERVER]
    said: list[str] = []
    remove(cluster, [SERVER], said.append)
    assert said == ["a killed update left StatefulSet team/mlflow-1a2b3c4d behind; deleting it"]
    assert cluster.deleted[0][:4] == ("delete", "StatefulSet.v1.apps", "mlflow-1a2b3c4d", "--namespace=team")
    assert "--cascade=foreground" in cluster.deleted[0]
    assert existing(cluster, [SERVER]) == []


def test_an_object_that_does_not_go_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupted, "_SECONDS", -1.0)
    with pytest.raises(
        LocalError, match=r"^StatefulSet team/mlflow-1a2b3c4d, which a killed update left behind, remained after"
    ):
        remove(Objects(SERVER, stuck=True), [SERVER], lambda _: None)
