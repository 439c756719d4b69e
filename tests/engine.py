"""An engine without a cluster: records what a program registers, as the engine would receive it."""

import asyncio
import runpy
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime import mocks, rpc, settings, stack

PROJECT = Path(__file__).parents[1]
SECRET = {rpc._special_sig_key: rpc._special_secret_sig}


@dataclass
class Registration:
    """Registered resource."""

    type: str
    name: str
    parent: str
    inputs: dict[str, Any]
    """Inputs with secrets unwrapped."""
    secret_inputs: set[str]
    """Paths of secret inputs."""
    protect: bool
    delete_before_replace: bool
    dependencies: list[str]
    replace_on_changes: list[str]
    replace_with: list[str]
    custom: bool
    timeouts: dict[str, str]


@dataclass
class Deployment:
    """Record of one run of a program."""

    registrations: list[Registration] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    generated: dict[str, str] = field(default_factory=dict)
    """Passwords of the random provider, by resource name."""

    def one(self, kind: str, name: str | None = None) -> Registration:
        found = self.all(kind, name)
        assert len(found) == 1, f"{len(found)} of {kind} {name}: {[resource.name for resource in self.registrations]}"
        return found[0]

    def all(self, kind: str, name: str | None = None) -> list[Registration]:
        return [
            resource
            for resource in self.registrations
            if resource.type.rsplit(":", 1)[-1] == kind and (name is None or resource.name == name)
        ]


class _Mocks(mocks.Mocks):
    """Stand-in for the providers: random results are stable for a name, autonames have a suffix."""

    def __init__(self, preview: bool) -> None:
        self.preview = preview
        self.generated: dict[str, str] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        outputs = dict(args.inputs)
        if args.typ.startswith("kubernetes:"):
            metadata = dict(outputs.get("metadata") or {})
            metadata.setdefault("name", f"{args.name}-abcd1234")
            outputs["metadata"] = metadata
        if "length" in args.inputs and not self.preview:
            text = "".join(chr(ord("A") + ord(letter) % 26) for letter in args.name)
            outputs["result"] = (text * 40)[: int(args.inputs["length"])]
            outputs["base64"] = outputs["result"]
            if args.typ.endswith((":RandomPassword", ":RandomBytes")):
                self.generated[args.name] = outputs["result"]
        return None if self.preview else f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {}, None


class _Monitor(mocks.MockMonitor):
    def __init__(self, preview: bool) -> None:
        answers = _Mocks(preview)
        super().__init__(answers)
        self.deployment = Deployment(generated=answers.generated)

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        secret: set[str] = set()
        raw = json_format.MessageToDict(request.object)
        timeouts = json_format.MessageToDict(request.customTimeouts)
        self.deployment.registrations.append(
            Registration(
                type=request.type,
                name=request.name,
                parent=request.parent,
                inputs=_plain(raw, "", secret),
                secret_inputs=secret,
                protect=request.protect,
                delete_before_replace=request.deleteBeforeReplace,
                dependencies=list(request.dependencies),
                replace_on_changes=list(request.replaceOnChanges),
                replace_with=list(request.replace_with),
                custom=request.custom,
                timeouts=timeouts,
            )
        )
        return super().RegisterResource(request)


def _plain(value: Any, path: str, secret: set[str]) -> Any:
    if isinstance(value, Mapping):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            secret.add(path)
            return _plain(value.get("value"), path, secret)
        return {key: _plain(one, f"{path}.{key}" if path else key, secret) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, f"{path}[{position}]", secret) for position, one in enumerate(value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@contextmanager
def _run(preview: bool, config: Mapping[str, str], secret_keys: list[str]):
    settings.reset_options()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    monitor = _Monitor(preview)
    mocks.set_mocks(monitor.mocks, project="mlflow-stack", stack="test", preview=preview, monitor=monitor)
    pulumi.runtime.set_all_config(dict(config), secret_keys)
    try:
        yield loop, monitor
    finally:
        settings.reset_options()
        pulumi.runtime.set_all_config({}, [])
        loop.close()
        asyncio.set_event_loop(None)


def deploy(
    program: Callable[[], Any],
    *,
    preview: bool = False,
    config: Mapping[str, str] | None = None,
    secret_keys: list[str] | None = None,
    into: list[Deployment] | None = None,
) -> Deployment:
    """Run a program against the recording engine; raise its errors, including those in every ``apply``.

    ``into`` receives the record even if the program fails."""
    with _run(preview, config or {}, secret_keys or []) as (loop, monitor):
        if into is not None:
            into.append(monitor.deployment)

        async def main() -> None:
            await stack.run_pulumi_func(program)

        loop.run_until_complete(main())
        root = settings.get_root_resource()
        outputs: dict[str, Any] = {}
        if root is not None and getattr(root, "outputs", None):
            for name, value in root.outputs.items():
                outputs[name] = loop.run_until_complete(_resolved(value))
        monitor.deployment.outputs = outputs
        return monitor.deployment


async def _resolved(value: Any) -> Any:
    output = pulumi.Output.from_input(value)
    return {
        "value": await output.future(with_unknowns=False),
        "known": await output.is_known(),
        "secret": await output.is_secret(),
    }


def run_main(config: Mapping[str, str], secret_keys: list[str] | None = None, *, preview: bool = False) -> Deployment:
    """Run the project's own ``__main__.py`` with a configuration."""
    return deploy(
        lambda: runpy.run_path(str(PROJECT / "__main__.py"), run_name="__main__") and None,
        preview=preview,
        config=config,
        secret_keys=secret_keys,
    )
