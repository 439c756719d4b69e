"""Live stacks: the engine's preview, and drift between the cluster and the state.

Both work on a copy of the stack's state in a temporary folder: nothing is locked or changed, and protected resources do
not stop the preview early.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from mlflow_stack_cli import programs, release
from mlflow_stack_cli.deployment import Deployment
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.platform import Tools
from mlflow_stack_cli.previews.compare import (
    KUBERNETES,
    Change,
    Comparison,
    Field,
    Resource,
    compare,
    differences,
    name_of,
    type_of,
)
from mlflow_stack_cli.release import State

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "[secret]"  # noqa: S105 - what the engine shows in place of one
_AUTONAMED: Final = "pulumi.com/autonamed"
_ROOT: Final = "pulumi:pulumi:Stack"
_DEFAULT_PROVIDER: Final = "default"
_CONFLICT: Final = "server-side apply field conflict"
_FORCE: Final = "PULUMI_K8S_ENABLE_PATCH_FORCE"
"""Variable with which the Kubernetes provider takes over fields of other managers."""


@dataclass(frozen=True)
class Live:
    """Stack in the engine's state, deployed or not."""

    deployment: Deployment
    tools: Tools

    def preview(self, released: list[str]) -> Comparison:
        """Return the engine's preview of the current program, after the changes to the state that `up` makes first.

        Raises `LocalError` with the engine's own messages if the engine fails.
        """
        state = release.let_go(self._state(), released)
        preview = ("preview", "--json", "--show-sames")
        with self._copy(_unprotected(state)) as variables:
            done = self.deployment.tried(variables, *preview)
            said = done.stdout + done.stderr
            if _CONFLICT in said and not _foreign(said):
                done = self.deployment.tried({**variables, _FORCE: "true"}, *preview)
        return comparison(state, _steps(done))

    def drift(self) -> Comparison:
        """Return the changes from the state to the cluster."""
        state = self._state()
        with self._copy(state) as variables:
            exported = partial(self.deployment.asked, variables, "stack", "export", "--show-secrets")
            before = _resources(json.loads(exported()))
            self.deployment.asked(variables, "refresh", "--yes", "--skip-preview")
            after = _resources(json.loads(exported()))
        return compare(before, after)

    def leftovers(self) -> list[Leftover]:
        """Return the objects that a killed update left behind, which the engine's state does not record."""
        return self.deployment.leftovers(self.tools)

    def _state(self) -> State:
        here = self.deployment
        return here.state(self.tools) if here.exists(self.tools) else {}

    @contextmanager
    def _copy(self, state: State) -> Generator[dict[str, str]]:
        """Return the environment in which the engine has a stack of the same name with this state."""
        here = self.deployment
        with tempfile.TemporaryDirectory(dir=here.platform.scratch) as scratch:
            (Path(scratch) / "Pulumi.yaml").write_text(f"name: {here.project.name}\nruntime: python\n")
            variables = {**self.tools.environment, "PULUMI_BACKEND_URL": f"file://{scratch}"}
            # In the checkout, the engine would write a salt into the tracked stack file.
            here.asked(variables, "stack", "init", here.stack, "--no-select", cwd=Path(scratch))
            # The engine writes a salt into a stack file that has none.
            copied = Path(scratch) / here.platform.stack_file.name
            if here.platform.stack_file.exists():
                shutil.copyfile(here.platform.stack_file, copied)
            variables["PULUMI_OPTION_CONFIG_FILE"] = str(copied)
            if state:
                exported = Path(scratch) / "state.json"
                exported.write_text(json.dumps(state))
                here.asked(variables, "stack", "import", "--file", str(exported))
            yield variables


def comparison(state: State, steps: list[State]) -> Comparison:
    """Return the engine's steps on a state, in the form of a comparison of two revisions."""
    old = {resource.urn: resource for resource in _resources(state)}
    new: dict[str, Resource] = {}
    changes: list[Change] = []
    told: set[str] = set()
    for step in steps:
        op, urn = step["op"], step["urn"]
        if type_of(urn) == _ROOT or name_of(urn).startswith(_DEFAULT_PROVIDER):
            continue
        before = _masked(step.get("oldState"), old)
        after = _masked(step.get("newState"), {})
        told |= {urn, before.urn if before else urn}
        if before and after and before.urn != after.urn:
            after = replace(after, aliases=[before.urn])
        if after and op != "delete":
            new[after.urn] = after
        if op == "delete":
            changes.append(Change(op, old.get(urn), None))
        elif op == "create":
            changes.append(Change(op, None, after))
        elif op in ("update", "replace") and before and after:
            changes.append(Change(op, before, after, _fields(step, before, after)))
    # No step reports a workload that is deleted with its data and has no successor of its kind.
    changes += [
        Change("delete", resource, None) for resource in old.values() if resource.custom and resource.urn not in told
    ]
    return Comparison(list(old.values()), list(new.values()), changes)


def _fields(step: State, before: Resource, after: Resource) -> list[Field]:
    """Return the differing fields. The engine hides secret values and reports only that they differ."""
    found = [field for field in differences(before, after) if not field.secret]
    said = cast("list[str]", [*(step.get("detailedDiff") or ()), *(step.get("diffReasons") or ())])
    roots = {*before.secret, *after.secret}
    hidden = {after.content(root) for root in roots if any(path.startswith(root) for path in said)}
    secret = [Field(root, None, None, secret=True) for root in hidden]
    return sorted([*found, *secret], key=lambda one: one.path)


def _foreign(said: str) -> list[str]:
    """Return the managers whose fields an update does not take over. Those edited with kubectl are taken over."""
    managers = re.findall(r'conflicts? with \\?"([^"\\]+)', said)
    return sorted({manager for manager in managers if not manager.startswith("kubectl")})


def _failure(lines: list[str]) -> LocalError:
    step = "fix the errors above"
    if managers := ", ".join(_foreign("\n".join(lines))):
        step = (
            f"take the change of {managers} over into the stack file, or let {managers} undo it; "
            f"`{_FORCE}=true mlflow-stack up` overwrites it"
        )
    return LocalError(programs.failure("`pulumi preview`", lines, step))


def _steps(done: subprocess.CompletedProcess[str]) -> list[State]:
    """Return the steps of a preview. Raises `LocalError` with the engine's messages if there are errors among them."""
    try:
        said: State = json.loads(done.stdout)
    except ValueError as error:
        raise _failure((done.stderr + done.stdout).splitlines()) from error
    errors = [
        str(diagnostic["message"]).strip()
        for diagnostic in said.get("diagnostics", [])
        if diagnostic["severity"] == "error"
    ]
    if done.returncode or errors:
        raise _failure("\n".join(errors).splitlines())
    return cast("list[State]", said.get("steps", []))


def _masked(state: State | None, known: Mapping[str, Resource]) -> Resource | None:
    """Return the resource of a step; an old one is protected if the copied state says so."""
    if not state:
        return None
    found = _resource(state)
    return replace(found, protect=known[found.urn].protect) if found.urn in known else found


def _resources(state: State) -> list[Resource]:
    kept = [resource for resource in release.resources(state) if not resource.get("delete")]
    found = [_resource(resource) for resource in kept]
    return [
        resource for resource in found if resource.type != _ROOT and not resource.name.startswith(_DEFAULT_PROVIDER)
    ]


def _resource(state: State) -> Resource:
    secret: list[str] = []
    inputs = cast("dict[str, Any]", _plain(state.get("inputs") or {}, "", secret))
    urn = str(state["urn"])
    kind = str(state["type"])
    autonamed = False
    if kind.startswith(KUBERNETES):
        annotations = cast("dict[str, Any]", inputs.get("metadata", {}).get("annotations") or {})
        autonamed = annotations.pop(_AUTONAMED, "") == "true"
        if not annotations:
            inputs.get("metadata", {}).pop("annotations", None)
    return Resource(
        urn=urn,
        type=kind,
        name=name_of(urn),
        custom=bool(state.get("custom")),
        parent=str(state.get("parent") or ""),
        provider=str(state.get("provider", "")).rpartition("::")[0],
        inputs=inputs,
        secret=secret,
        autonamed=autonamed,
        protect=bool(state.get("protect")),
        retain=bool(state.get("retainOnDelete")),
    )


def _plain(value: Any, path: str, secret: list[str]) -> Any:
    if isinstance(value, Mapping):
        tree = cast("Mapping[str, Any]", value)
        if _SIGNATURE in tree:
            secret.append(path)
            return _plain(json.loads(tree["plaintext"]), path, []) if "plaintext" in tree else None
        pairs = ((key, one) for key, one in tree.items() if key != "__defaults")
        return {key: _plain(one, f"{path}.{key}" if path else key, secret) for key, one in pairs}
    if isinstance(value, list):
        return [_plain(one, f"{path}[{index}]", secret) for index, one in enumerate(cast("list[Any]", value))]
    if value == _SECRET:
        secret.append(path)
        return None
    return value


def _unprotected(state: State) -> State:
    edited = deepcopy(state)
    for resource in release.resources(edited):
        resource.pop("protect", None)
    return edited
