"""Markdown description of a comparison, for a reviewer's comment on a change."""

import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from mlflow_stack.cluster import pod_requests
from mlflow_stack.identity import ARTIFACTS, RECORDS
from mlflow_stack.validate import bytes_of
from mlflow_stack_cli import quantities
from mlflow_stack_cli.interrupted import Leftover
from mlflow_stack_cli.previews import data, effects
from mlflow_stack_cli.previews.compare import Change, Comparison, Field, Resource, by_stack, renamed
from mlflow_stack_cli.previews.effects import Effects, named, shown, user_of, users

LIMIT: Final = 60_000
"""Characters of a comment: GitHub allows 65,536."""

DATA: Final = frozenset({"PersistentVolumeClaim", "PersistentVolume", "Namespace"})
"""Kinds that hold data, or objects that hold data, protected or not."""

_WORKLOADS: Final = data.WORKLOADS
_LEFT: Final = {
    RECORDS: ("The runs and registered models recorded so far stay in", "the tracking server starts on"),
    ARTIFACTS: ("The artifacts stored so far stay in", "the tracking server serves those in"),
}
_MOST_SENTENCES: Final = 100
_TITLES: Final = {"create": "Created", "update": "Changed", "replace": "Replaced", "delete": "Deleted"}


class Words:
    """Description of one comparison."""

    def __init__(
        self,
        comparison: Comparison,
        release: Sequence[str] = (),
        size_keys: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        """`release`: names of resources that the stack file releases, with their objects left in the cluster.
        `size_keys`: keys that set the sizes of claims, by the claim's name."""
        self._comparison = comparison
        self._stacks = by_stack(comparison)
        self._changes = _custom(comparison)
        # A generated name means nothing to a reader; the resource's name does.
        self._names = {
            resource.inputs["metadata"]["name"]: resource.name
            for resource in (*comparison.old, *comparison.new)
            if resource.autonamed and "name" in resource.inputs["metadata"]
        }
        self.refused: list[str] = []
        """Changes that are refused unless they are acknowledged."""
        self._warned: list[str] = []
        deleted = {data.guarded(change.old) for change in self._changes if change.op == "delete" and change.old}
        for stack, part in self._stacks:
            lines = _RedLines(part, frozenset(release), size_keys, deleted)
            self.refused += _within(stack, lines.refused)
            self._warned += _within(stack, lines.warned)

    @property
    def verdict(self) -> str:
        """Return why the command fails; empty if it succeeds."""
        if not self.refused:
            return ""
        count = "1 red line is" if len(self.refused) == 1 else f"{len(self.refused)} red lines are"
        lines = "\n".join(f"  - {line.replace('**', '')}" for line in self.refused)
        return f"{count} not acknowledged:\n{lines}\nNext: follow each line, or revert its change."

    def comment(self, stack: str, against: str) -> str:
        """Return the whole comment, at most `LIMIT` characters: always the summary, then as many details as fit."""
        head = "\n".join(self._summary(stack, against))
        rest = "\n".join(self._listed())
        marker = (
            f"\n\n_Cut here: the whole text has {len(head) + len(rest)} characters, more than a comment may have._\n"
        )
        if len(head) + len(rest) > LIMIT:
            rest = rest[: LIMIT - len(head) - len(marker)].rpartition("\n")[0] + marker
        return f"{head}\n{rest}".rstrip() + "\n"

    def _summary(self, stack: str, against: str) -> Iterator[str]:
        counts = {op: sum(change.op == op for change in self._changes) for op in _TITLES}
        said = ", ".join(f"{count} {_TITLES[op].lower()}" for op, count in counts.items() if count)
        yield f"### Stack `{stack}`: {said or 'nothing changes'}\n"
        yield f"Compared with {against}.\n"
        for line in (*self.refused, *self._warned):
            yield f"- 🔴 {line}"
        lines = list(self._sentences())
        yield from (f"- {line}" for line in lines[:_MOST_SENTENCES])
        if len(lines) > _MOST_SENTENCES:
            yield f"- {len(lines) - _MOST_SENTENCES} more: every change is in the list below."
        if self.refused or self._warned or lines:
            yield ""
        if self._changes:
            yield from _costs(self._comparison.old, self._comparison.new)

    def _sentences(self) -> Iterator[str]:
        if not self._comparison.old:
            yield "The stack is new."
            return
        for stack, part in self._stacks:
            new = stack and not part.old
            yield from _within(stack, ["The stack is new."] if new else Effects(part).sentences())

    def _listed(self) -> Iterator[str]:
        for op, title in _TITLES.items():
            chosen = sorted(
                (change for change in self._changes if change.op == op),
                key=lambda one: (one.resource.kind, one.resource.name),
            )
            if chosen:
                yield f"\n#### {title}\n"
            for change in chosen:
                yield f"- {named(change.resource)}"
                for field in change.fields:
                    yield f"  - `{field.path}`: {self._field(field)}"

    def _field(self, field: Field) -> str:
        if field.secret:
            return "changes (secret, not shown)"
        if isinstance(field.old, str) and field.old in self._names:
            return f"the new `{self._names[field.old]}`"
        if isinstance(field.old, str) and isinstance(field.new, str) and "\n" in field.old + field.new:
            gone = _lines(field.old) - _lines(field.new)
            come = _lines(field.new) - _lines(field.old)
            return f"text, {len(gone)} lines away and {len(come)} new"
        return f"{shown(renamed(field.old, self._names))} → {shown(renamed(field.new, self._names))}"


class _RedLines:
    """Changes of one MlflowStack that a reviewer must see."""

    def __init__(
        self, comparison: Comparison, release: frozenset[str], size_keys: Mapping[str, str], deleted: Set[str]
    ) -> None:
        """`deleted`: identities whose guards are deleted, of all stacks of the program."""
        self._comparison = comparison
        self._changes = _custom(comparison)
        self._release = release
        self._size_keys = size_keys
        self.refused: list[str] = []
        """Changes that are refused unless they are acknowledged."""
        self.warned: list[str] = []
        self._before, self._after = (data.identities(side) for side in (comparison.old, comparison.new))
        self._judge_identities(deleted)
        self._judge()

    def _judge_identities(self, deleted: Set[str]) -> None:
        for purpose, (stays, starts) in _LEFT.items():
            left, found = self._before.get(purpose), self._after.get(purpose)
            if not left or found == left:
                continue
            what = f"{stays} `{left}`" + (f"; {starts} `{found}`" if found else "")
            if left in self._release:
                self.warned.append(f"{what}, as listed in `release`.")
            else:
                self.refused.append(f"**{what}.** {_acknowledge(left)}")
        for found in sorted(self._release.intersection(self._after.values()) - deleted):
            self.refused.append(
                f"**`release` lists `{found}`, which the stack uses.** Remove it: otherwise the next change counts "
                "as acknowledged."
            )

    def _judge(self) -> None:
        for change in self._changes:
            old, new = change.old, change.new
            if old is None:
                continue
            if data.guarded(old):
                self._judge_guard(change.op, old)
            elif _holds_data(old):
                self._judge_data(change, old)
            if old.kind == "RandomPassword" and change.op in ("replace", "delete"):
                self._judge_password(change.op, old, new)
        before = {resource.urn: resource for resource in self._comparison.old}
        for resource in self._comparison.new:
            found = next((before[urn] for urn in (resource.urn, *resource.aliases) if urn in before), None)
            if found is not None and found.protect and not resource.protect and resource.name not in self._release:
                self.refused.append(
                    f"**{named(resource)} is no longer protected.** A later change can delete it without a red line. "
                    f"{_acknowledge(resource.name)}"
                )

    def _judge_guard(self, op: str, old: Resource) -> None:
        """Judge the guard of data that the stack still uses, under another name."""
        held = data.guarded(old)
        if op == "delete" and held in self._after.values() and held not in self._release:
            self.refused.append(f"**{named(old)} is removed from the stack.** {_acknowledge(held)}")

    def _judge_data(self, change: Change, old: Resource) -> None:
        op = change.op
        if op == "replace":
            self.refused.append(
                f"**{named(old)} is replaced, and its data is lost.** Revert the field, or choose another `name`: "
                "two objects of the same name cannot exist side by side."
            )
        elif op == "delete" and old.name in self._release:
            self.warned.append(
                f"{named(old)} is orphaned, as listed in `release`: the object and its data stay in the cluster."
            )
        elif op == "delete":
            self.refused.append(f"**{named(old)} is deleted with its data.** {_acknowledge(old.name)}")
        elif resized := effects.resized(change):
            before, after = resized
            if bytes_of(after) < bytes_of(before):
                self.refused.append(
                    f"**{named(old)} cannot shrink ({before} → {after}): Kubernetes refuses it.** "
                    f"Set `{self._size_keys.get(old.name, 'size')}` to {before} or more."
                )

    def _judge_password(self, op: str, old: Resource, new: Resource | None) -> None:
        user = user_of(old)
        if op == "delete":
            if user in users(self._comparison.new):
                self._password_changes(old, f"**The password of `{user}` is replaced.**")
            elif user not in users(self._comparison.old):
                # The data behind a password is acknowledged by the data's own name.
                self.warned.append(f"{named(old)} is removed from the stack, and its generated password is deleted.")
            return
        before, after = _rotation(old), _rotation(new)
        if after > before:
            self.warned.append(
                f"`{user}` gets a new password (rotation {before} → {after}): its clients need the new one."
            )
        else:
            self._password_changes(old, f"**The password of `{user}` changes, and its `rotation` was not raised.**")

    def _password_changes(self, old: Resource, what: str) -> None:
        if old.name in self._release:
            self.warned.append(f"{what} `release` names it.")
        else:
            self.refused.append(f"{what} {_acknowledge(old.name)}")


def drift(found: Comparison, stack: str) -> str:
    """Return the differences in the cluster from the stack; empty if there are none."""
    lines: list[str] = []
    for change in sorted(found.changes, key=lambda one: (one.resource.kind, one.resource.name)):
        lines.append(f"- {named(change.resource)}{' is gone' if change.op == 'delete' else ''}")
        for field in change.fields:
            said = "differs (secret, not shown)"
            if not field.secret:
                said = f"is {shown(field.new)}, and {shown(field.old)} in the stack"
            lines.append(f"  - `{field.path}` {said}")
    if not lines:
        return ""
    count = "1 object is" if len(found.changes) == 1 else f"{len(found.changes)} objects are"
    return "\n".join([f"### Stack `{stack}`: {count} no longer as deployed\n", *lines]) + "\n"


def left_behind(found: Sequence[Leftover]) -> str:
    """Return a line for each object that a killed update left behind; empty if there is none."""
    lines = [
        f"- {leftover.kind} `{leftover.name}` was left behind by a killed update. `mlflow-stack up` deletes it.\n"
        for leftover in found
    ]
    return "\n" + "".join(lines) if lines else ""


def _custom(comparison: Comparison) -> list[Change]:
    return [change for change in comparison.changes if change.resource.custom]


def _within(stack: str, sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences with the name of the MlflowStack that they are about, if the program has several."""
    yield from (f"MlflowStack `{stack}`: {sentence}" if stack else sentence for sentence in sentences)


def _holds_data(one: Resource) -> bool:
    return one.protect or one.kind in DATA


def _acknowledge(name: str) -> str:
    return f"To acknowledge this, add `{name}` to `release` in the stack file."


def _rotation(one: Resource | None) -> int:
    keepers: Mapping[str, str] = one.inputs.get("keepers", {}) if one else {}
    return int(keepers.get("rotation", 0))


def _lines(text: str) -> set[str]:
    return set(text.splitlines())


# Costs.


@dataclass(frozen=True)
class _Reserved:
    """Reservations of a stack's servers and claims."""

    pods: int
    cpu: Fraction
    """Cores."""
    memory: int
    """Bytes."""
    ephemeral: int
    """Bytes of node-local disk."""
    claims: int
    """Bytes of the claims that the stack creates."""


def _costs(old: Sequence[Resource], new: Sequence[Resource]) -> Iterator[str]:
    """Yield a table of the reservations of the stack's servers and claims: autoscaled servers count with their minimum
    of pods; Jobs, which end, and adopted claims do not count."""
    yield "| reserved | pods | CPU | memory | ephemeral storage | claims |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for title, one in (("before", _reserved(old)), ("after", _reserved(new))):
        sizes = " | ".join(quantities.exact(size) for size in (one.memory, one.ephemeral, one.claims))
        yield f"| {title} | {one.pods} | {quantities.cores(one.cpu, math.floor)} | {sizes} |"


def _reserved(resources: Sequence[Resource]) -> _Reserved:
    least = {
        resource.inputs["spec"]["scaleTargetRef"]["name"]: resource.inputs["spec"].get("minReplicas", 1)
        for resource in resources
        if resource.kind == "HorizontalPodAutoscaler"
    }
    servers = [
        (int(resource.inputs["spec"].get("replicas", least.get(resource.inputs["metadata"].get("name"), 1))), resource)
        for resource in resources
        if resource.kind in _WORKLOADS
    ]
    templates = (
        count * _claimed(template)
        for count, one in servers
        for template in one.inputs["spec"].get("volumeClaimTemplates", [])
    )
    claims = (_claimed(resource.inputs) for resource in resources if resource.kind == "PersistentVolumeClaim")
    requests = [(count, pod_requests(*_resources(one.pod))) for count, one in servers]

    def requested(resource: str) -> Fraction:
        return sum((count * pod.get(resource, Fraction(0)) for count, pod in requests), Fraction(0))

    return _Reserved(
        pods=sum(count for count, _ in servers),
        cpu=requested("cpu"),
        memory=int(requested("memory")),
        ephemeral=int(requested("ephemeral-storage")),
        claims=sum(templates) + sum(claims),
    )


def _resources(pod: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the field `resources` of a pod's containers, and of its init containers."""
    fields = ("containers", "initContainers")
    containers, steps = ([container.get("resources", {}) for container in pod.get(field, [])] for field in fields)
    return containers, steps


def _claimed(claim: Mapping[str, Any]) -> int:
    return bytes_of(str(claim.get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "0")))
