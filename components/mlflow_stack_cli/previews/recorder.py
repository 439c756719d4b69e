"""Recorder of the resources that a Pulumi program registers, without an engine or a cluster.

    python recorder.py FOLDER < request.json > recording.json

The request holds ``project``, ``stack``, ``program`` (its path in the folder), ``config`` (texts by full key) and
``secrets`` (the secret keys among them). The recording holds ``resources`` and, as ``stacks``, the requirements of each
MlflowStack on the cluster. The recorder is a program of its own that needs only Pulumi's SDK: it runs in the
environment of the revision whose program it runs.

Values that only providers know are replaced: a generated value and the name of an object are derived from their inputs,
so that they change only with their inputs.
"""

import asyncio
import dataclasses
import hashlib
import importlib
import json
import runpy
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pulumi
from google.protobuf import json_format
from pulumi.runtime import mocks, rpc, settings, stack

SECRET_KEY = cast(str, vars(rpc)["_special_sig_key"])
SECRET = cast(str, vars(rpc)["_special_secret_sig"])
ROOT = "pulumi:pulumi:Stack"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Providers(mocks.Mocks):
    """Stand-in for the providers."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """Return the identifier and the outputs of a resource."""
        inputs = cast("dict[str, Any]", cast(Any, args).inputs)
        outputs = dict(inputs)
        if args.typ.startswith("kubernetes:"):
            # As in the provider: a generated name, and a new one if changed content replaces the object.
            content = {key: inputs.get(key) for key in ("data", "binaryData", "stringData")}
            if args.typ.endswith(":Job"):
                content["template"] = inputs.get("spec", {}).get("template")
            digest = _digest(str(args.resource_id), content)
            outputs["metadata"] = {"name": f"{args.name}-{digest[:8]}", **inputs.get("metadata", {})}
        elif args.typ.startswith("random:"):
            digest = _digest(str(args.resource_id), inputs)
            generated = _letters(digest, int(inputs.get("length", inputs.get("byteLength", 1))))
            outputs |= {"result": generated, "hex": digest, "b64Url": generated, "base64": generated}
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        """Return the answer of a provider's function: none is called."""
        return {}, None


class Monitor(mocks.MockMonitor):
    """Receiver of the registrations of a program."""

    def __init__(self) -> None:
        super().__init__(Providers())
        self.registrations: list[dict[str, Any]] = []
        self.aliases: dict[str, list[str]] = {}

    def make_urn(self, parent: str, type_: str, name: str) -> str:
        """Return a URN in the engine's own form, with the types of all ancestors."""
        types = parent.split("::")[2] if parent else ROOT
        chain = type_ if types == ROOT else f"{types}${type_}"
        return "::".join([f"urn:pulumi:{pulumi.get_stack()}", pulumi.get_project(), chain, name])

    def former_urns(self, request: Any) -> list[str]:
        """Return the former URNs of a resource: its own aliases, under its parent and the parent's aliases."""
        stated = [alias.urn for alias in request.aliases if alias.urn]
        specs = [alias.spec for alias in request.aliases if not alias.urn]
        forms = [(request.name, request.type, request.parent)]
        forms += [
            (
                spec.name or request.name,
                spec.type or request.type,
                "" if spec.noParent else spec.parentUrn or request.parent,
            )
            for spec in specs
        ]
        found = list(stated)
        for name, kind, parent in forms:
            found.append(self.make_urn(parent, kind, name))
            parent_name = parent.rpartition("::")[2]
            for alias in self.aliases.get(parent, []):
                # As in the engine: a child named after its parent was formerly named after the parent's former name.
                former = alias.rpartition("::")[2] + name[len(parent_name) :] if name.startswith(parent_name) else name
                found.append(self.make_urn(alias, kind, former))
        own = self.make_urn(request.parent, request.type, request.name)
        return [urn for urn in dict.fromkeys(found) if urn != own]

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's name
        """Record one resource."""
        # An imported resource states an identifier. There is none here, and the stand-ins need the URN.
        request.importId = self.make_urn(request.parent, request.type, request.name)
        answer: Any = cast(Any, super()).RegisterResource(request)
        self.aliases[answer.urn] = self.former_urns(request)
        secret: list[str] = []
        inputs = _plain(json_format.MessageToDict(request.object), "", secret)
        autonamed = False
        if request.type.startswith("kubernetes:") and "metadata" in inputs:
            name = cast(Any, self).resources[answer.urn].state["metadata"]["name"]
            autonamed = "name" not in inputs["metadata"]
            inputs["metadata"] = {**inputs["metadata"], "name": name}
        if request.type != ROOT:
            self.registrations.append(
                {
                    "urn": answer.urn,
                    "type": request.type,
                    "name": request.name,
                    "custom": bool(request.custom),
                    "parent": request.parent,
                    "provider": request.provider.rpartition("::")[0],
                    "aliases": self.aliases[answer.urn],
                    "inputs": inputs,
                    "secret": secret,
                    "autonamed": autonamed,
                    "protect": bool(request.protect),
                    "retain": bool(request.retainOnDelete),
                    "replace_on_changes": list(request.replaceOnChanges),
                    # An older SDK lacks this field.
                    "replace_with": list(getattr(request, "replace_with", ())),
                }
            )
        return answer


class Stacks:
    """MlflowStacks that a program declares."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        """Requirements of each on its cluster; may contain Outputs."""

    def observe(self, spec: Any) -> None:
        """Record one stack, as an observer of the component library."""
        expose = spec.args["expose"]
        # Kinds without such an object share no host or path with others.
        routed = ("host", "path") if spec.exposure.object else ()
        self.found.append(
            {
                "name": spec.name,
                "namespace": spec.place.namespace,
                "expose": {field: expose[field] for field in routed if field in expose},
                "needs": spec.needs,
                "claims": spec.claims,
                "reservations": spec.reservations,
            }
        )


def _observed(stacks: Stacks) -> list[Any]:
    """Return the observers of the component library, with these stacks' added; empty for an older library or a program
    without it."""
    try:
        observers: list[Any] = importlib.import_module("mlflow_stack").observers
    except (ImportError, AttributeError):
        return []
    observers.append(stacks.observe)
    return observers


async def _known(value: Any) -> Any:
    """Return a value in JSON types, with its Outputs resolved."""
    if isinstance(value, pulumi.Output):
        return await _known(await cast("pulumi.Output[Any]", value).future(with_unknowns=False))
    if dataclasses.is_dataclass(value):
        return {field.name: await _known(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: await _known(one) for key, one in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [await _known(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, Fraction) else value


def record(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recording of the program in a folder, its resources in a stable order."""
    main = folder / request.get("program", "")
    main = main / "__main__.py" if main.is_dir() else main
    sys.path[:0] = [str(main.parent), str(folder / "components")]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    monitor = Monitor()
    settings.reset_options()
    mocks.set_mocks(monitor.mocks, project=request["project"], stack=request["stack"], preview=False, monitor=monitor)
    pulumi.runtime.set_all_config(dict(request["config"]), list(request["secrets"]))

    stacks = Stacks()
    observers = _observed(stacks)

    def program() -> None:
        runpy.run_path(str(main), run_name="__main__")

    try:
        loop.run_until_complete(stack.run_pulumi_func(program))
        described = loop.run_until_complete(_known(stacks.found))
    finally:
        if observers:
            observers.remove(stacks.observe)
        loop.close()
    return {"resources": sorted(monitor.registrations, key=lambda one: one["urn"]), "stacks": described}


def _plain(value: Any, path: str, secret: list[str]) -> Any:
    """Return inputs with secrets unwrapped and whole numbers as integers; ``secret`` receives the paths of secrets."""
    if isinstance(value, Mapping):
        tree = cast("Mapping[str, Any]", value)
        if tree.get(SECRET_KEY) == SECRET:
            secret.append(path)
            return _plain(tree.get("value"), path, secret)
        return {key: _plain(one, f"{path}.{key}" if path else key, secret) for key, one in tree.items()}
    if isinstance(value, list):
        return [_plain(one, f"{path}[{index}]", secret) for index, one in enumerate(cast("list[Any]", value))]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digest(urn: str, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([urn, inputs], sort_keys=True, default=str).encode()).hexdigest()


def _letters(digest: str, length: int) -> str:
    number = int(digest, 16)
    return "".join(LETTERS[(number >> (place % 250)) % len(LETTERS)] for place in range(length))


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        try:
            found = record(Path(sys.argv[1]), json.load(sys.stdin))
        except pulumi.RunError as error:
            sys.exit(str(error))
    json.dump(found, sys.stdout, sort_keys=True)
