"""Previews of a live stack: the field conflicts that stop them."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.platform import Tools
from mlflow_stack_cli.previews.live import Live, comparison

FORCE = "PULUMI_K8S_ENABLE_PATCH_FORCE"


def conflict(*managers: str) -> str:
    clashes = "".join(f'\nconflicts with "{manager}" using v1:\n- .metadata.labels.a' for manager in managers)
    message = f"server-side apply field conflict detected, see …\nApply failed with 2 conflicts: {clashes}"
    return json.dumps({"diagnostics": [{"severity": "error", "message": message}], "steps": []})


class Engine:
    """Return a preview, with the given conflict unless it may take over fields."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.forced: list[bool] = []

    def tried(self, variables: Mapping[str, str], *_: str) -> subprocess.CompletedProcess[str]:
        self.forced.append(variables.get(FORCE) == "true")
        if self.forced[-1]:
            return subprocess.CompletedProcess([], 0, json.dumps({"steps": []}), "")
        return subprocess.CompletedProcess([], 255, self.said, "")


def live(said: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Live, Engine]:
    @contextmanager
    def copy(_self: Live, _state: Any) -> Iterator[dict[str, str]]:
        yield {}

    engine = Engine(said)
    monkeypatch.setattr(Live, "_copy", copy)
    monkeypatch.setattr(Live, "_state", lambda _: {})
    return Live(cast(Any, engine), Tools(cast(Any, None), {})), engine


def test_takes_back_what_was_edited_with_kubectl_as_an_update_does(monkeypatch: pytest.MonkeyPatch) -> None:
    found, engine = live(conflict("kubectl-label", "kubectl"), monkeypatch)
    assert found.preview([]).changes == []
    assert engine.forced == [False, True]


def test_names_another_manager_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found, engine = live(conflict("kubectl-label", "OpenShift Console"), monkeypatch)
    with pytest.raises(LocalError, match="conflict detected") as raised:
        found.preview([])
    assert str(raised.value).endswith(
        "Next: take the change of OpenShift Console over into the stack file, or let OpenShift Console undo it; "
        "`PULUMI_K8S_ENABLE_PATCH_FORCE=true mlflow-stack up` overwrites it."
    )
    assert engine.forced == [False]


def test_another_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"diagnostics": [{"severity": "error", "message": 'conflict with "kubectl"'}], "steps": []})
    found, engine = live(said, monkeypatch)
    with pytest.raises(LocalError, match="fix the errors above"):
        found.preview([])
    assert engine.forced == [False]


def test_follows_a_resource_to_its_new_urn() -> None:
    prefix = "urn:pulumi:dev::vision::"
    kind = "mlflow-stack:index:MlflowStack"
    secret = "kubernetes:core/v1:Secret"
    parents = [{"urn": f"{prefix}{kind}::{name}", "type": kind} for name in ("blue", "white")]
    old, new = (
        {
            "urn": f"{prefix}{kind}${secret}::{parent['urn'][-5:]}",
            "type": secret,
            "custom": True,
            "parent": parent["urn"],
        }
        for parent in parents
    )
    pairs = [parents, (old, new)]
    steps = [{"op": "same", "urn": after["urn"], "oldState": before, "newState": after} for before, after in pairs]
    found = comparison({"deployment": {"resources": [parents[0], old]}}, steps)
    assert [(resource.parent, resource.aliases) for resource in found.new] == [
        ("", [parents[0]["urn"]]),
        (parents[1]["urn"], [old["urn"]]),
    ]
    assert found.changes == []
