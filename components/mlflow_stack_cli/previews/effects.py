"""Effects of a change that a user or an operator would notice, one sentence each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

from mlflow_stack import backend, expose, pod
from mlflow_stack.access import credentials
from mlflow_stack.access.credentials import USER_ANNOTATION, USERS_TYPE
from mlflow_stack.access.proxy import PASSWORDS_VOLUME, USERS_VOLUME
from mlflow_stack.identity import RECORDS
from mlflow_stack.validate import bytes_of
from mlflow_stack_cli.previews import data
from mlflow_stack_cli.previews.compare import Change, Comparison, Resource, name_of, type_of

_LONGEST: Final = 80
_SERVERS: Final = {
    pod.TRACKING: "the tracking server",
    pod.DATABASE: "the database",
    pod.SCHEMA: "the schema Job",
    pod.BUCKET_CHECK: "the bucket check",
}
_KEYS: Final = frozenset({"RandomBytes"})
_WORKLOADS: Final = data.WORKLOADS
_DOES: Final = {"create": "created", "update": "changed", "replace": "replaced", "delete": "deleted"}
_ROUTES: Final = "{named} is {does}: it routes external requests to the stack."
_SAID: Final = {
    **{kind.object.name: _ROUTES for kind in expose.KINDS.values() if kind.object},
    "ResourceQuota": "The quota of the namespace is {does}: pods that exceed it do not start.",
    "LimitRange": "The namespace's defaults for containers are {does}: they apply to pods created afterwards.",
    "HorizontalPodAutoscaler": "The autoscaling of {of} is {does}.",
}
"""Sentences about objects by kind, for every operation."""
_SAID_OF_CHANGES: Final = {
    "NetworkPolicy": "The connections that {of} accepts and opens are changed.",
    "Service": "{named} is {does}: its clients may need a change as well.",
}
"""Sentences about changed objects whose server stays."""
_SAID_OF_UPDATES: Final = {
    "ServiceAccount": "The ServiceAccount of {of} is {does}: pods that start afterwards use it.",
}
"""Sentences about objects that are changed in place."""
_LABELS: Final = re.compile(r"metadata\.labels(\.|$)")
_MODEL_URI: Final = "MODEL_URI"


class Effects:
    """Sentences about one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        # The engine's order differs from that of a recording.
        self._changes = sorted((change for change in comparison.changes if change.resource.custom), key=_rank)
        self._before, self._after = (data.identities(side) for side in (comparison.old, comparison.new))

    def sentences(self) -> Iterator[str]:
        """Yield the sentences, most important first."""
        yield from self._people()
        yield from self._keys()
        yield from self._address()
        yield from self._database()
        for change in self._changes:
            if change.resource.kind in _WORKLOADS:
                yield from self._workload(change)
            elif change.resource.kind == "Job":
                yield _job(change)
            elif resized := _grown(change):
                yield f"Claim `{change.resource.name}` is resized in place, {resized[0]} → {resized[1]}."
            elif said := _said(change):
                yield said
        yield from self._kinds()
        yield from self._labels()

    def _kinds(self) -> Iterator[str]:
        """Yield sentences about servers that are created, deleted or become a workload of another kind."""
        gone = {_server(change.old): change.old for change in self._of("delete", _WORKLOADS) if change.old}
        for made in self._of("create", _WORKLOADS):
            if made.new and (before := gone.pop(_server(made.new), None)):
                kinds = f"changes from a {before.kind} to a {made.new.kind}"
                what = kinds if made.new.kind != before.kind else "is renamed"
                yield f"{_capital(_server(made.new))} {what}: an outage until the new one is ready."
            elif made.new:
                yield f"Starts {_server(made.new)}."
        for server in gone:
            yield f"Stops {server}, without a replacement."

    def _labels(self) -> Iterator[str]:
        """Yield sentences about objects of which only labels change."""
        found = [change for change in self._changes if _only_labels(change)]
        if found:
            yield f"{len(found)} {'object gets' if len(found) == 1 else 'objects get'} new labels."

    def _address(self) -> Iterator[str]:
        before, after = (data.address(data.tracking(side)) for side in (self._comparison.old, self._comparison.new))
        if not before or not after or before == after:
            return
        if not _in_cluster(before) or _in_cluster(after) or urlsplit(before).path != urlsplit(after).path:
            yield f"**The address changes from `{before}` to `{after}`: clients must change MLFLOW_TRACKING_URI.**"
        else:
            yield f"Adds the public address `{after}`. The in-cluster address `{before}` still works."

    def _people(self) -> Iterator[str]:
        before, after = users(self._comparison.old), users(self._comparison.new)
        for user in sorted(after - before):
            yield f"Grants access to user `{user}`, without a restart."
        for user in sorted(before - after):
            yield f"Revokes access for user `{user}` within two minutes, without a restart."
        listed, kept = (data.secret_of(side, USERS_VOLUME) for side in (self._comparison.old, self._comparison.new))
        if listed != kept:
            if listed:
                yield f"Revokes access for the users in the Secret `{listed}`."
            if kept:
                yield f"Grants access to the users in the Secret `{kept}`."
        first, now = (_first_user(side) for side in (self._comparison.old, self._comparison.new))
        if first and now and first != now:
            yield f"**The outputs `username`, `password` and `clientEnv` become those of `{now}`, not of `{first}`.**"
        made, lost = (
            {user_of(change.resource) for change in self._of(op, frozenset({"RandomPassword"}))}
            for op in ("create", "delete")
        )
        for user in sorted((made - lost) & before & after):
            yield f"User `{user}` gets a generated password within two minutes, without a restart."
        renewed = {change.resource.kind for change in self._changes} & {"RandomPassword", "RandomString"}
        if before == after and not renewed and any(map(self._is_password_file, self._changes)):
            yield (
                "Updates the password file within two minutes, without a restart: given passwords or the order of the "
                "users changed."
            )

    def _keys(self) -> Iterator[str]:
        if self._of("create", _KEYS):
            yield (
                "MLflow gets new encryption keys. The tracking server re-encrypts the secrets of webhooks and of the "
                "gateway when it starts; a webhook whose secret no key opens is disabled."
            )

    def _database(self) -> Iterator[str]:
        old, new = (data.tracking(side) for side in (self._comparison.old, self._comparison.new))
        if old and new and self._runs_on_both(old, new):
            yield (
                f"**Pause the tracking server before this is deployed**: `{_pause(old)}`. Otherwise pods on the old "
                "data run beside the new ones until the rollout ends. The deploy starts the server again."
            )
        elif old and new and self._wants_a_pause(old, new):
            yield (
                f"**Pause the tracking server before this is deployed, unless both images hold the same MLflow**: "
                f"`{_pause(old)}`. Whether the schemas of the two differ was not measured; where they do, the schema "
                "Job refuses while a server is connected. The deploy starts the server again."
            )

    def _workload(self, change: Change) -> Iterator[str]:
        server = _server(change.resource)
        if change.op not in ("update", "replace") or change.old is None or change.new is None:
            return
        before, after = (workload.inputs["spec"].get("replicas", 1) for workload in (change.old, change.new))
        if before != after:
            yield f"{_capital(server)}: {before} → {after} pods."
        if change.op == "replace":
            yield f"Replaces {server}: an outage, because the old pods stop before the new ones start."
        elif any(field.path.startswith("spec.template") for field in change.fields):
            how = "pod by pod, without an outage" if change.new.kind == "Deployment" else "with a short outage"
            if self._wants_a_pause(change.old, change.new):
                how = f"{how} where it is not paused"
            yield f"Restarts {server}, {how}."
        # One container fetches the model, another serves it.
        uris = {(field.old, field.new) for field in change.fields if field.path.endswith(f"env[{_MODEL_URI}].value")}
        for before, after in sorted(uris):
            yield f"Model `{change.new.labels[pod.MODEL_LABEL]}`: {shown(before)} → {shown(after)}."
        if _serves(change.old) != _serves(change.new):
            yield (
                "Artifacts now pass through the tracking server: clients no longer need keys of the bucket."
                if _serves(change.new)
                else "**Clients now access the bucket directly, with their own keys.**"
            )
        steps = {step["name"]: step for step in change.new.pod.get("initContainers", [])}
        for step, (runs, ends) in _step_sentences():
            if any(field.path.startswith(f"spec.template.spec.initContainers[{step}]") for field in change.fields):
                yield runs if step in steps else ends
        for step in change.old.pod.get("initContainers", []):
            now = steps.get(step["name"], step)
            if step["name"] == pod.SCHEMA and now["image"] != step["image"]:
                yield f"Runs the schema step first (image {step['image']} → {now['image']})."

    def _wants_a_pause(self, old: Resource, new: Resource) -> bool:
        """Return whether the change may migrate a database's schema, which requires that no server is connected."""
        if old.component != pod.TRACKING:
            return False
        same = self._before.get(RECORDS) == self._after.get(RECORDS)
        by_job = all(data.has_schema_job(side) for side in (self._comparison.old, self._comparison.new))
        return same and by_job and data.mlflow(old)["image"] != data.mlflow(new)["image"]

    def _runs_on_both(self, old: Resource, new: Resource) -> bool:
        """Return whether a rollout would run pods on two sets of data: stacks without guards have no handover."""
        replaced = {change.old.urn for change in self._changes if change.old and change.op == "replace"}
        guarded = any(data.guarded(resource) for resource in self._comparison.old)
        single = old.kind == new.kind == "StatefulSet"
        left = any(found != self._after.get(purpose) for purpose, found in self._before.items())
        return left and not guarded and not single and old.urn not in replaced

    def _is_password_file(self, change: Change) -> bool:
        one = change.resource
        mounted = data.secret_of(self._comparison.new, PASSWORDS_VOLUME)
        name = one.inputs.get("metadata", {}).get("name")
        return one.kind == "Secret" and name == mounted and any(field.secret for field in change.fields)

    def _of(self, op: str, kinds: frozenset[str] = frozenset()) -> list[Change]:
        return [change for change in self._changes if change.op == op and (not kinds or change.resource.kind in kinds)]


def _rank(change: Change) -> tuple[int, str, str]:
    one = change.resource
    steps = {"Job": 0, "PersistentVolumeClaim": 1} | dict.fromkeys(_WORKLOADS, 2)
    return steps.get(one.kind, len(steps)), one.kind, one.name


def _job(change: Change) -> str:
    server = _server(change.resource)
    return {
        "delete": f"Deletes {server}.",
        "update": f"Changes {server}, which does not run again.",
    }.get(change.op, f"Runs {server}{_images(change)}.")


def _said(change: Change) -> str:
    one = change.resource
    texts = _SAID
    if change.op in ("update", "replace"):
        texts = _SAID_OF_CHANGES | texts
    if change.op == "update":
        texts = _SAID_OF_UPDATES | texts
    if one.kind not in texts or _only_labels(change):
        return ""
    return texts[one.kind].format(of=_server(one), named=named(one), does=_DOES[change.op])


def _serves(server: Resource) -> bool:
    """Return whether artifacts pass through the server."""
    return data.variables(server).get("MLFLOW_SERVE_ARTIFACTS") != "false"


def _in_cluster(address: str) -> bool:
    return (urlsplit(address).hostname or "").endswith(".svc")


def resized(change: Change) -> tuple[str, str] | None:
    """Return the old and the new size of a claim that is resized."""
    if change.resource.kind != "PersistentVolumeClaim" or change.op != "update":
        return None
    found = (field for field in change.fields if field.path == "spec.resources.requests.storage")
    return next(((field.old, field.new) for field in found), None)


def _grown(change: Change) -> tuple[str, str] | None:
    sizes = resized(change)
    return sizes if sizes and bytes_of(sizes[0]) < bytes_of(sizes[1]) else None


def _only_labels(change: Change) -> bool:
    return change.op == "update" and all(_LABELS.search(field.path) for field in change.fields)


def _first_user(resources: Sequence[Resource]) -> str:
    """Return the user whose password clients get; empty if the stack does not state one."""
    secrets = (
        cast("Mapping[str, Any]", resource.inputs.get("metadata", {}))
        for resource in resources
        if resource.kind == "Secret"
    )
    annotations = (cast("Mapping[str, str]", secret.get("annotations") or {}) for secret in secrets)
    return next((annotation[USER_ANNOTATION] for annotation in annotations if USER_ANNOTATION in annotation), "")


def users(resources: Sequence[Resource]) -> set[str]:
    """Return the users: each has a salt, even with a given password."""
    return {user_of(resource) for resource in resources if resource.kind == "RandomString" and _is_of_user(resource)}


def named(one: Resource) -> str:
    """Return the kind and the name of a resource."""
    return f"{one.kind} `{one.name}`"


def user_of(one: Resource) -> str:
    """Return the user that a password or a salt belongs to, or the name of a password that belongs to no user."""
    return credentials.user_of(name_of(one.parent), one.name) if _is_of_user(one) else one.name


def _is_of_user(one: Resource) -> bool:
    return one.parent != "" and type_of(one.parent) == USERS_TYPE


def _server(one: Resource) -> str:
    model = one.labels.get(pod.MODEL_LABEL)
    if model:
        return f"the server of model `{model}`"
    return _SERVERS.get(one.component, named(one))


def _step_sentences() -> Iterator[tuple[str, tuple[str, str]]]:
    for kind in backend.KINDS.values():
        yield from kind.sentences.items()


def _pause(server: Resource) -> str:
    labels = ",".join(f"{name}={server.labels[name]}" for name in (pod.INSTANCE_LABEL, pod.COMPONENT_LABEL))
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
    """Return a value for display, shortened if it is long."""
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
        return "[" + ", ".join(_compact(item) for item in cast("list[Any]", value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
