"""Differences between two sets of resources: created, changed, replaced and deleted ones, each with its fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from mlflow_stack.pod import COMPONENT_LABEL

KUBERNETES: Final = "kubernetes:"
RANDOM: Final = "random:"
STACK: Final = "mlflow-stack:index:MlflowStack"
"""Type of an MlflowStack."""

# Fields whose change replaces the object, as of pulumi-kubernetes 4.27.0 (provider/pkg/provider/diff.go).
_ALL = ("metadata.name", "metadata.namespace")
_FORCE_NEW: Final[Mapping[str, Sequence[str]]] = {
    "ConfigMap": ("data", "binaryData"),
    "Secret": ("type",),
    "Service": ("spec.clusterIP",),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName"),
    "Deployment": ("spec.selector",),
    "StatefulSet": (
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    "Job": ("spec.completions", "spec.parallelism", "spec.selector", "spec.template"),
    "Role": (),
    "RoleBinding": ("roleRef",),
}
_SECRET_CONTENT = ("data", "stringData")


def type_of(urn: str) -> str:
    """Return the type of the resource with a URN."""
    return urn.split("::")[2].rpartition("$")[2]


def name_of(urn: str) -> str:
    """Return the name of the resource with a URN."""
    return urn.rpartition("::")[2]


@dataclass(frozen=True)
class Resource:
    """One resource, as a program registers it or a state records it."""

    urn: str
    type: str
    name: str
    custom: bool = True
    parent: str = ""
    """URN of the resource that it is a child of."""
    provider: str = ""
    """URN of the provider that manages it."""
    aliases: Sequence[str] = ()
    """Former URNs."""
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    secret: Sequence[str] = ()
    """Paths of secret inputs, with everything below them."""
    autonamed: bool = False
    """True if the provider generated the object's name."""
    protect: bool = False
    retain: bool = False
    """True if the object is kept when the resource is deleted."""
    replace_on_changes: Sequence[str] = ()
    replace_with: Sequence[str] = ()
    """URNs of the resources whose replacement replaces this one."""

    @property
    def kind(self) -> str:
        """Last part of the type, such as Secret."""
        return self.type.rpartition(":")[2]

    @property
    def labels(self) -> Mapping[str, str]:
        """The object's labels."""
        return self.inputs.get("metadata", {}).get("labels", {})

    @property
    def component(self) -> str:
        """Component of the stack that the object belongs to."""
        return self.labels.get(COMPONENT_LABEL, "")

    @property
    def pod(self) -> Mapping[str, Any]:
        """Pod spec of a workload; empty for other kinds."""
        return self.inputs.get("spec", {}).get("template", {}).get("spec", {})

    def hides(self, path: str) -> bool:
        """Return whether the field is secret."""
        return any(path == prefix or path.startswith((f"{prefix}.", f"{prefix}[")) for prefix in self.secret)

    def content(self, path: str) -> str:
        """Return the path of a secret field for display: a provider keeps a Secret's text as data."""
        return "data" if self.kind == "Secret" and path == "stringData" else path


@dataclass(frozen=True)
class Field:
    """One differing field."""

    path: str
    """Path; items of lists are identified by their names: ``spec.containers[mlflow].image``."""
    old: Any
    """None if the field is new or secret."""
    new: Any
    secret: bool = False


@dataclass(frozen=True)
class Change:
    """Change of one resource."""

    op: str
    """create, update, replace or delete."""
    old: Resource | None
    new: Resource | None
    fields: Sequence[Field] = ()

    @property
    def resource(self) -> Resource:
        """The new resource; for a deletion, the old one."""
        found = self.new or self.old
        assert found is not None
        return found


@dataclass(frozen=True)
class Comparison:
    """Both sets of resources, and the changes between them."""

    old: Sequence[Resource]
    new: Sequence[Resource]
    changes: Sequence[Change]


def compare(old: Sequence[Resource], new: Sequence[Resource]) -> Comparison:
    """Return the changes that an engine would make to turn ``old`` into ``new``, as far as registrations show."""
    before = {resource.urn: resource for resource in old}
    pairs = [
        (next((before.pop(urn) for urn in (resource.urn, *resource.aliases) if urn in before), None), resource)
        for resource in new
    ]
    providers = {resource.urn: resource for resource in new}

    def forces(one: Resource, fields: Sequence[Field]) -> bool:
        mutable = providers.get(one.provider, one).inputs.get("enableSecretMutable") == "true"
        return any(_forces_new(one, each.path, mutable) for each in fields)

    kept = {
        one.inputs["metadata"]["name"]: found.inputs["metadata"]["name"]
        for found, one in pairs
        if found is not None and found.autonamed and one.autonamed and not forces(one, differences(found, one))
    }
    changes: list[Change] = []
    replaced: set[str] = set()
    # A resource follows those whose replacement replaces it, as in a program.
    for found, given in sorted(pairs, key=lambda pair: bool(pair[1].replace_with)):
        one = replace(given, inputs=renamed(given.inputs, kept))
        fields = differences(found, one) if found else []
        if found is None:
            changes.append(Change("create", None, one))
        elif forces(one, fields) or not replaced.isdisjoint(one.replace_with):
            replaced.add(one.urn)
            changes.append(Change("replace", found, one, fields))
        elif fields:
            changes.append(Change("update", found, one, fields))
    changes += [Change("delete", resource, None) for resource in before.values()]
    return Comparison(old, new, changes)


def by_stack(whole: Comparison) -> list[tuple[str, Comparison]]:
    """Return the comparison of each MlflowStack with its name, and first, without a name, that of all other resources.

    A comparison that has one MlflowStack at most on each side stays whole, without a name.
    """
    if all(sum(resource.type == STACK for resource in side) < 2 for side in (whole.old, whole.new)):
        return [("", whole)]
    successors = {urn: resource for resource in whole.new for urn in (*resource.aliases, resource.urn)}
    new = _stacks(whole.new)
    old = {
        urn: new[successors[urn].urn] if urn in successors else successors[stack].urn if stack in successors else stack
        for urn, stack in _stacks(whole.old).items()
    }

    def part(stack: str) -> Comparison:
        changed = ((change, new if change.new else old) for change in whole.changes)
        return Comparison(
            [resource for resource in whole.old if old[resource.urn] == stack],
            [resource for resource in whole.new if new[resource.urn] == stack],
            [change for change, side in changed if side[change.resource.urn] == stack],
        )

    stacks = sorted({"", *old.values(), *new.values()}, key=lambda urn: (name_of(urn), urn))
    return [(name_of(stack), part(stack)) for stack in stacks]


def _stacks(resources: Sequence[Resource]) -> dict[str, str]:
    """Return the URN of each resource's MlflowStack by the resource's own URN; empty for a resource outside of them."""
    found = {resource.urn: resource for resource in resources}

    def above(resource: Resource) -> str:
        while resource.type != STACK and resource.parent in found:
            resource = found[resource.parent]
        return resource.urn if resource.type == STACK else ""

    return {urn: above(resource) for urn, resource in found.items()}


def differences(old: Resource, new: Resource) -> list[Field]:
    """Return the differing fields, ordered by path; generated names are ignored."""
    found: list[Field] = []
    hidden: set[str] = set()
    for path, before, after in _leaves(old.inputs, new.inputs, ""):
        root = next((side.content(secret) for side in (old, new) for secret in side.secret if side.hides(path)), None)
        if old.autonamed and new.autonamed and path == "metadata.name":
            continue
        if root is None:
            found.append(Field(path, before, after))
        elif root not in hidden:
            hidden.add(root)
            found.append(Field(root, None, None, secret=True))
    return sorted(found, key=lambda field: field.path)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value with the names of objects in it replaced."""
    if isinstance(value, Mapping):
        return {key: renamed(item, names) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in cast("list[Any]", value)]
    return names.get(value, value) if isinstance(value, str) else value


def _forces_new(new: Resource, path: str, mutable_secrets: bool) -> bool:
    if new.type.startswith(RANDOM):
        return True
    if not new.type.startswith(KUBERNETES):
        return False
    forcing = [*_ALL, *_FORCE_NEW.get(new.kind, ()), *new.replace_on_changes]
    if new.kind == "Secret" and (not mutable_secrets or new.inputs.get("immutable")):
        forcing += _SECRET_CONTENT
    return any(path == prefix or path.startswith((f"{prefix}.", f"{prefix}[")) for prefix in forcing)


def _leaves(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each place where the two trees differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        one, other = cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", new)
        for key in sorted({*one, *other}):
            where = f"{path}.{key}" if path else key
            yield from _leaves(one.get(key), other.get(key), where)
    elif old != new and isinstance(old, list | None) and isinstance(new, list | None):
        # An empty list equals none: a provider neither sends nor keeps it.
        one, other = _keyed(cast("list[Any]", old or [])), _keyed(cast("list[Any]", new or []))
        for key in {**one, **other}:
            yield from _leaves(one.get(key), other.get(key), f"{path}[{key}]")
    elif old != new:
        yield path, old, new


def _keyed(items: list[Any]) -> dict[str, Any]:
    """Return the items by name if all names are unique, else by position."""
    names = [cast("Mapping[str, Any]", item).get("name") for item in items if isinstance(item, Mapping)]
    if len({name for name in names if isinstance(name, str)}) == len(items):
        return dict(zip(cast("list[str]", names), items, strict=True))
    return {str(position): one for position, one in enumerate(items)}
