"""What a change does, one sentence for each thing that a user or an operator would notice."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from mlflow_stack.identity import RECORDS
from preview import data
from preview.compare import COMPONENT, Change, Comparison, Resource

_LONGEST: Final = 80
_SERVERS: Final = {"tracking": "the tracking server", "database": "the database", "schema": "the schema Job"}
_WORKLOADS: Final = data.WORKLOADS
_MODEL: Final = "mlflow-stack/model"
_MODEL_URI: Final = "MODEL_URI"
_INSTANCE: Final = "app.kubernetes.io/instance"
_STORE_URI: Final = "MLFLOW_BACKEND_STORE_URI"


class Effects:
    """Sentences about one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._changes = [one for one in comparison.changes if one.resource.custom]
        self._before, self._after = (data.identities(side) for side in (comparison.old, comparison.new))

    def sentences(self) -> Iterator[str]:
        """Return the sentences, in the order in which they matter."""
        if not self._comparison.old:
            yield "The stack is new."
            return
        yield from self._people()
        yield from self._database()
        for change in self._changes:
            if change.resource.kind in _WORKLOADS:
                yield from self._workload(change)
            elif change.resource.kind == "Job" and change.op in ("create", "replace"):
                yield f"Runs {_server(change.resource)}{_images(change)}."
            elif change.resource.kind == "PersistentVolumeClaim" and change.op == "update":
                for field in change.fields:
                    if field.path == "spec.resources.requests.storage":
                        yield f"Claim `{change.resource.name}` is resized in place, {field.old} → {field.new}."
        gone = {_server(one.old): one.old for one in self._of("delete", _WORKLOADS) if one.old}
        for made in self._of("create", _WORKLOADS):
            if made.new and (before := gone.get(_server(made.new))):
                yield (
                    f"{_capital(_server(made.new))} becomes a {made.new.kind}, it was a {before.kind}: "
                    "an outage until the new one is ready."
                )

    def _people(self) -> Iterator[str]:
        before, after = users(self._comparison.old), users(self._comparison.new)
        for user in sorted(after - before):
            yield f"User `{user}` can come in. Nothing restarts for it."
        for user in sorted(before - after):
            yield f"User `{user}` can no longer come in, within two minutes. Nothing restarts for it."

    def _database(self) -> Iterator[str]:
        old, new = (data.tracking(side) for side in (self._comparison.old, self._comparison.new))
        if old and new and self._runs_on_both(old, new):
            yield (
                f"**Pause the tracking server before this is deployed**: `{_pause(old)}`. Otherwise pods on the data "
                "left behind run beside the new ones until the rollout ends. The deploy starts the server again."
            )
        elif old and new and self._wants_a_pause(old, new):
            yield (
                f"**Pause the tracking server before this is deployed, unless both images hold the same MLflow**: "
                f"`{_pause(old)}`. Whether the schemas of the two differ was not measured; where they do, the schema "
                "Job refuses while a server is connected. The deploy starts the server again."
            )

    def _workload(self, change: Change) -> Iterator[str]:
        server = _server(change.resource)
        if change.op == "replace":
            yield f"Replaces {server}: the old pods end before the new ones start, an outage."
        if change.op != "update" or change.old is None or change.new is None:
            return
        before, after = (one.inputs["spec"].get("replicas", 1) for one in (change.old, change.new))
        if before != after:
            yield f"{_capital(server)}: {before} → {after} pods."
        if any(field.path.startswith("spec.template") for field in change.fields):
            how = "pod by pod, without an outage" if change.new.kind == "Deployment" else "with a short outage"
            if self._wants_a_pause(change.old, change.new):
                how = f"{how} where it is not paused"
            yield f"Restarts {server}, {how}."
        # Fetched by one container, served by another.
        uris = {(one.old, one.new) for one in change.fields if one.path.endswith(f"env[{_MODEL_URI}].value")}
        for before, after in sorted(uris):
            yield f"Model `{change.new.labels[_MODEL]}`: {shown(before)} → {shown(after)}."
        steps = {step["name"]: step for step in change.new.pod.get("initContainers", [])}
        for step in change.old.pod.get("initContainers", []):
            now = steps.get(step["name"], step)
            if step["name"] == "schema" and now["image"] != step["image"]:
                yield f"Runs the schema step before it (image {step['image']} → {now['image']})."

    def _wants_a_pause(self, old: Resource, new: Resource) -> bool:
        """Whether the change may bring another schema to a database that takes none while a server is connected."""
        kinds = {_database_kind(one) for one in (old, new)}
        same = self._before.get(RECORDS) == self._after.get(RECORDS)
        return same and kinds == {"mysql"} and data.mlflow(old)["image"] != data.mlflow(new)["image"]

    def _runs_on_both(self, old: Resource, new: Resource) -> bool:
        """Whether a rollout would have pods on two sets of data: a stack from before the guards has no handover."""
        replaced = {change.old.urn for change in self._changes if change.old and change.op == "replace"}
        guarded = any(data.guarded(one) for one in self._comparison.old)
        single = old.kind == new.kind == "StatefulSet"
        left = any(found != self._after.get(purpose) for purpose, found in self._before.items())
        return left and not guarded and not single and old.urn not in replaced

    def _of(self, op: str, kinds: frozenset[str]) -> list[Change]:
        return [one for one in self._changes if one.op == op and one.resource.kind in kinds]


def users(resources: Sequence[Resource]) -> set[str]:
    """Return the users: each has a salt, also one whose password is given."""
    return {user_of(one) for one in resources if one.kind == "RandomString" and "-salt-" in one.name}


def named(one: Resource) -> str:
    """Return the kind and the name of a resource."""
    return f"{one.kind} `{one.name}`"


def user_of(one: Resource) -> str:
    """Return the user that a password or a salt belongs to."""
    return re.split("-(?:salt|password)-", one.name, maxsplit=1)[-1]


def _server(one: Resource) -> str:
    model = one.labels.get(_MODEL)
    if model:
        return f"the server of model `{model}`"
    return _SERVERS.get(one.component, named(one))


def _database_kind(server: Resource | None) -> str:
    """What the tracking server keeps its records in, such as sqlite or mysql."""
    return re.split("[+:]", data.variables(server).get(_STORE_URI, ""))[0]


def _pause(server: Resource) -> str:
    labels = ",".join(f"{name}={server.labels[name]}" for name in (_INSTANCE, COMPONENT))
    namespace = server.inputs["metadata"]["namespace"]
    return f"kubectl scale {server.kind.lower()} --namespace={namespace} --selector={labels} --replicas=0"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _images(change: Change) -> str:
    def images(one: Resource | None) -> str:
        containers: list[Mapping[str, str]] = one.pod.get("containers", []) if one else []
        return ", ".join(sorted({container["image"] for container in containers}))

    before, after = images(change.old), images(change.new)
    if before and before != after:
        return f" (image {before} → {after})"
    return f" (image {after})"


def shown(value: Any) -> str:
    """Return a value as it is shown, cut where it is long."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else _compact(value)
    if len(text) > _LONGEST or "\n" in text:
        text = text.replace("\n", " ")[:_LONGEST] + "…"
    return f"`{text}`"


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value)
        said = (f"{key}: {_compact(pairs[key])}" for key in sorted(pairs) if pairs[key] not in ([], {}))
        return "{" + ", ".join(said) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_compact(one) for one in cast("list[Any]", value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
