"""Preflight checks: requirements that only the cluster can confirm, before anything changes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from mlflow_stack import cluster as kinds
from mlflow_stack import expose, validate
from mlflow_stack.cluster import Claim, Need, ObjectKind, Reservation
from mlflow_stack.expose import ExposeKind
from mlflow_stack.expose.exposure import takes
from mlflow_stack.expose.gateway import HttpRoute
from mlflow_stack.expose.ingress import Ingress
from mlflow_stack.pod import INSTANCE_LABEL, PULL_SECRET_KEYS
from mlflow_stack_cli import quantities
from mlflow_stack_cli.cluster import Cluster, UnreadableError
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.previews.capture import Declared, Recording
from mlflow_stack_cli.stackfile import section
from mlflow_stack_cli.yamlfile import Tree

_ENFORCE = "pod-security.kubernetes.io/enforce"


class _Asked:
    """Cluster that is asked for each object only once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._found: dict[tuple[str, ...], Tree | None] = {}
        self._served: dict[str, bool] = {}

    def get(self, *what: str) -> Tree | None:
        """Return what `kubectl get` finds. Raises as `Cluster.get`."""
        if what not in self._found:
            self._found[what] = self._cluster.get(*what)
        return self._found[what]

    def object(self, kind: ObjectKind, name: str, namespace: str) -> Tree | None:
        """Return one object. Raises as `Cluster.get`."""
        return self.get(kind.resource, name, *([f"--namespace={namespace}"] if kind.namespaced else []))

    def items(self, *what: str) -> list[Tree]:
        """Return a list of objects. Raises as `Cluster.get`."""
        return (self.get(*what) or {}).get("items", [])

    def serves(self, kind: ObjectKind) -> bool:
        """Return whether the cluster has the API of a kind. Raises as `Cluster.serves`."""
        if kind.api is None:
            return True
        if kind.api not in self._served:
            self._served[kind.api] = self._cluster.serves(kind.api)
        return self._served[kind.api]


def _lacks(asked: _Asked, need: Need, needed: Sequence[Need]) -> Iterator[str]:
    """Yield what is missing for a need, each with a remedy."""
    kind, noun = need.kind, _noun(need)
    if not asked.serves(kind):
        # Once for all objects of the API.
        if need is next(need for need in needed if need.kind.api == kind.api):
            yield f"{need.key}: {noun} needs {kind.api}, which the cluster does not have; {kind.remedy}"
        return
    if need.name is None:
        if kind.default is not None:
            yield from _default(asked, need, kind.default)
        return
    found = asked.object(kind, str(need.name), str(need.namespace))
    where = f"namespace {need.namespace}" if kind.namespaced else "the cluster"
    if found is None:
        # Other keys may need other data of the same object.
        same = [
            other for other in needed if (other.kind, other.name, other.namespace) == (kind, need.name, need.namespace)
        ]
        keys = [*dict.fromkeys(key for other in same for key in other.keys)]
        yield f"{need.key}: {noun} is not in {where}; {_remedy(need, keys)}"
        return
    if "deletionTimestamp" in section(found, "metadata"):
        yield f"{need.key}: {noun} is being deleted; wait until it is gone, then make it again or name another"
        return
    data = {**section(found, "data"), **section(found, "binaryData")}
    if missing := [key for key in need.keys if key not in data]:
        value = "$(base64 -w0 FILE)" if kind == kinds.SECRET else "VALUE"
        patch = ", ".join(f"{key}: '{value}'" for key in missing)
        command = f'kubectl patch {kind.resource} {need.name} --namespace={need.namespace} --patch "data: {{{patch}}}"'
        lack = " and no key ".join(missing)
        yield f"{need.key}: {noun} in {where} has no key {lack}; add it: `{command}`{_with(need)}"
    elif kind in _FAULTS and (fault := _FAULTS[kind](found)):
        yield f"{need.key}: {noun} {fault}"


def _noun(need: Need) -> str:
    if need.name is not None:
        return f"{need.kind.name} {need.name}"
    return f"default {need.kind.name}" if need.kind.default else need.kind.name


def _default(asked: _Asked, need: Need, annotation: str) -> Iterator[str]:
    found = asked.items(need.kind.resource)
    if not any(section(item, "metadata", "annotations").get(annotation) == "true" for item in found):
        names = ", ".join(sorted(item["metadata"]["name"] for item in found)) or "none"
        yield f"{need.key}: the cluster has no default {need.kind.name}; name one of: {names}"


def _remedy(need: Need, keys: Sequence[str]) -> str:
    """Return the remedy for a missing object that must hold data for these keys."""
    kind, named = need.kind, f"{need.name} --namespace={need.namespace}"
    files = " ".join(f"--from-file={key}=FILE" for key in keys) or "--from-env-file=FILE"
    if kind == kinds.SECRET and keys == expose.CERTIFICATE_KEYS:
        return f"make it: `kubectl create secret tls {named} --cert=FILE --key=FILE`"
    if kind == kinds.SECRET and keys == PULL_SECRET_KEYS:
        login = "--docker-server=HOST --docker-username=USER --docker-password=PASSWORD"
        return f"make it: `kubectl create secret docker-registry {named} {login}`"
    if kind == kinds.SECRET:
        return f"make it: `kubectl create secret generic {named} {files}`{_with(need)}"
    if kind == kinds.CONFIG_MAP:
        return f"make it: `kubectl create configmap {named} {files}`"
    if kind == kinds.NAMESPACE:
        return f"make it: `kubectl create namespace {need.name}`, or leave the key away to have one made"
    if kind == kinds.CLAIM:
        return "make it or state a size instead"
    everywhere = " --all-namespaces" if kind.namespaced else ""
    return f"make it or name another; `kubectl get {kind.resource}{everywhere}` lists what is"


def _with(need: Need) -> str:
    return f" with {need.why}" if need.why else ""


def _unknown_level(found: Tree) -> str | None:
    level = _labels(found).get(_ENFORCE, "privileged")
    if level in ("privileged", "baseline", "restricted"):
        return None
    return f"has {_ENFORCE}={level}; wanted is restricted, baseline or privileged"


def _lost(found: Tree) -> str | None:
    lost = section(found, "status").get("phase") == "Lost"
    return "has lost its volume; restore it or name another claim" if lost else None


_FAULTS: dict[ObjectKind, Callable[[Tree], str | None]] = {kinds.NAMESPACE: _unknown_level, kinds.CLAIM: _lost}
"""Faults of existing objects."""


def _growth(asked: _Asked, stack: Declared, claim: Claim) -> Iterator[str]:
    """Yield the obstacles to growing a claim that the stack creates."""
    found = asked.object(kinds.CLAIM, claim.name, stack.namespace)
    if found is None or _labels(found).get(INSTANCE_LABEL) != stack.name:
        return
    asks = str(section(found, "spec", "resources", "requests").get("storage", claim.size))
    if validate.bytes_of(claim.size) <= validate.bytes_of(asks):
        return
    name = str(section(found, "spec").get("storageClassName", ""))
    if name and (asked.object(kinds.STORAGE_CLASS, name, "") or {}).get("allowVolumeExpansion"):
        return
    wanted = f"set it back to {asks}"
    if name:
        patch = f"kubectl patch storageclass {name} --patch 'allowVolumeExpansion: true'"
        wanted += f", or allow it where the class's driver can: `{patch}`"
    yield (
        f"{claim.key}: {claim.size} is more than the {asks} of the claim {claim.name}, whose class "
        f"{name or '(none)'} does not allow expansion; {wanted}"
    )


def _rivals(asked: _Asked, stack: Declared, exposure: type[ExposeKind], kind: ObjectKind) -> Iterator[str]:
    """Yield the objects of a kind that receive requests for the stack's address."""
    host, path = stack.expose.get("host"), stack.expose.get("path", "")
    if host is None or not asked.serves(kind):
        return
    for item in asked.items(kind.resource, "--all-namespaces"):
        metadata = item["metadata"]
        ours = metadata["namespace"] == stack.namespace and _labels(item).get(INSTANCE_LABEL) == stack.name
        # OpenShift creates Routes for each Ingress. The Ingress itself is checked.
        made = any(owner["kind"] == "Ingress" for owner in metadata.get("ownerReferences", []))
        taken = sorted(
            theirs for name, theirs in exposure.routed(section(item, "spec")) if name == host and takes(theirs, path)
        )
        if taken and not ours and not made:
            where = f"{kind.name} {metadata['namespace']}/{metadata['name']}"
            yield f"expose.host: {host}{taken[0].rstrip('/')} belongs to {where}; take another host or path"


def hosts(cluster: Cluster) -> set[str]:
    """Return the hosts of Ingresses and HTTPRoutes, in a cluster that has both APIs.

    Raises `LocalError` if the cluster does not answer.
    """
    try:
        found = [
            (exposure, cluster.get(kind.resource, "--all-namespaces") or {})
            for exposure in (Ingress, HttpRoute)
            if (kind := exposure.object)
        ]
    except UnreadableError as error:
        raise LocalError(
            f"the cluster does not list its objects: {_last(str(error))}. Next: `mlflow-stack up` again."
        ) from error
    return {
        name
        for exposure, listed in found
        for item in listed.get("items", [])
        for name, _ in exposure.routed(section(item, "spec"))
    }


def _room(asked: _Asked, reserved: Sequence[Reservation]) -> Iterator[str]:
    """Yield the pods that do not fit on any node, even an empty one."""
    closed = False
    for reservation in reserved:
        taking = [node for node in asked.items("nodes") if _schedulable(node, reservation)]
        nodes = [_allocatable(node) for node in taking if reservation.node_selector.items() <= _labels(node).items()]
        if nodes:
            yield from _too_large(reservation, nodes)
        elif taking:
            labels = " ".join(f"{name}={value}" for name, value in reservation.node_selector.items())
            yield (
                f"{reservation.node_selector_key}: no node that takes {reservation.pod} has the labels {labels}; "
                f"name others, or label a node: `kubectl label node NODE {labels}`"
            )
        closed = closed or not taking
    if closed:
        raise UnreadableError("no node of the cluster takes pods")


def _too_large(reserved: Reservation, nodes: Sequence[tuple[str, dict[str, Fraction]]]) -> Iterator[str]:
    wanted, nothing = reserved.requests, Fraction(0)
    short = [{resource for resource in wanted if free.get(resource, nothing) < wanted[resource]} for _, free in nodes]
    if not all(short):
        return
    lacking = [resource for resource in sorted(wanted) if all(resource in lack for lack in short)]
    for resource in lacking:
        name, free = max(nodes, key=lambda node: node[1].get(resource, nothing))
        most = _quantity(resource, free.get(resource, nothing), math.floor)
        asks = _quantity(resource, wanted[resource], math.ceil)
        yield (
            f"{reserved.keys[resource]}: {reserved.pod} asks for {asks} of {resource}, and the largest node, {name}, "
            f"has {most}; ask for less or add a larger node"
        )
    if not lacking:
        scarce = [resource for resource in sorted(wanted) if any(resource in lack for lack in short)]
        asks = " and ".join(f"{_quantity(resource, wanted[resource], math.ceil)} of {resource}" for resource in scarce)
        yield (
            f"{', '.join(reserved.keys[resource] for resource in scarce)}: {reserved.pod} asks for {asks} at once, "
            "which no node has; ask for less or add a larger node"
        )


def _quotas(asked: _Asked, stack: Declared) -> Iterator[str]:
    """Yield the pods, and the claims together, that exceed an existing ResourceQuota of the namespace even if nothing
    else uses it."""
    for quota in asked.items("resourcequota", f"--namespace={stack.namespace}"):
        spec = section(quota, "spec")
        # The stack's own quota changes along with it. A quota with scopes may not apply to its pods.
        if _labels(quota).get(INSTANCE_LABEL) == stack.name or spec.get("scopes") or spec.get("scopeSelector"):
            continue
        hard = {name: validate.amount(str(value)) for name, value in section(spec, "hard").items()}
        where = f"the ResourceQuota {quota['metadata']['name']} of namespace {stack.namespace}"
        for reserved in stack.reservations:
            for resource, wanted in sorted(reserved.requests.items()):
                allowed = [hard[name] for name in (resource, f"requests.{resource}") if name in hard]
                if allowed and wanted > min(allowed):
                    asks = _quantity(resource, wanted, math.ceil)
                    most = _quantity(resource, min(allowed), math.floor)
                    yield (
                        f"{reserved.keys[resource]}: {reserved.pod} asks for {asks} of {resource}, and {where} "
                        f"allows {most}; ask for less or raise the quota"
                    )
        size = sum((validate.amount(claim.size) for claim in stack.claims), Fraction(0))
        storage = hard.get("requests.storage")
        if storage is not None and size > storage:
            asks, most = quantities.rounded(size, math.ceil), quantities.rounded(storage, math.floor)
            keys = ", ".join(claim.key for claim in stack.claims)
            yield f"{keys}: the claims ask for {asks}, and {where} allows {most}; ask for less or raise the quota"


def _schedulable(node: Tree, reserved: Reservation) -> bool:
    # Taints that Kubernetes itself sets are temporary.
    taints = [
        taint
        for taint in section(node, "spec").get("taints", [])
        if taint["effect"] != "PreferNoSchedule" and not taint["key"].startswith("node.kubernetes.io/")
    ]
    tolerated = all(any(_tolerates(one, taint) for one in reserved.tolerations) for taint in taints)
    return tolerated and not section(node, "spec").get("unschedulable")


def _tolerates(toleration: Mapping[str, Any], taint: Tree) -> bool:
    same = toleration["operator"] == "Exists" or toleration.get("value", "") == taint.get("value", "")
    return (
        same
        and toleration.get("key", taint["key"]) == taint["key"]
        and toleration.get("effect", taint["effect"]) == taint["effect"]
    )


def _allocatable(node: Tree) -> tuple[str, dict[str, Fraction]]:
    allocatable = section(node, "status", "allocatable")
    return node["metadata"]["name"], {name: validate.amount(value) for name, value in allocatable.items()}


def _quantity(resource: str, amount: Fraction, rounding: Callable[[Fraction], int]) -> str:
    if resource == "cpu":
        return quantities.cores(amount, rounding)
    if resource not in ("memory", "ephemeral-storage"):
        return str(rounding(amount))
    return quantities.rounded(amount, rounding)


Look = tuple[str, Callable[[], Iterator[str]]]
"""A noun phrase for the object of a check, and the check, which yields each fault with its remedy."""


def _looks(asked: _Asked, stack: Declared) -> Iterator[Look]:
    for need in stack.needs:
        yield f"{need.key}: {_noun(need)}", partial(_lacks, asked, need, stack.needs)
    for claim in stack.claims:
        yield f"{claim.key}: claim {claim.name}", partial(_growth, asked, stack, claim)
    for exposure in expose.KINDS.values():
        if kind := exposure.object:
            yield f"expose.host: every {kind.name}", partial(_rivals, asked, stack, exposure, kind)
    yield "room on the nodes", partial(_room, asked, stack.reservations)
    yield f"quotas of namespace {stack.namespace}", partial(_quotas, asked, stack)


def check(cluster: Cluster, recording: Recording) -> list[str]:
    """Check that the cluster has what the stacks of a program need. Changes nothing.

    Returns the checks that were skipped because the user may not read an object. Raises `LocalError` with all faults at
    once.
    """
    done = cluster.run("get", "--raw", "/version")
    if done.returncode:
        raise LocalError(
            f"the cluster does not answer: {_last(done.stderr)}\n"
            "Next: `mlflow-stack status`, and check the address and the rights in your kubeconfig."
        )
    problems: list[str] = []
    unknown: list[str] = []
    if not recording.stacks:
        unknown.append("not checked: the program declares no MlflowStack that tells its needs")
    asked = _Asked(cluster)
    for what, look in (look for stack in recording.stacks for look in _looks(asked, stack)):
        try:
            problems += look()
        except UnreadableError as error:
            unknown.append(f"not checked ({what}): {_last(str(error))}")
    if problems:
        listed = "".join(f"  {problem}\n" for problem in problems)
        raise LocalError(
            f"the cluster does not have what the stack names:\n{listed}Next: fix the errors above; nothing was changed."
        )
    return unknown


def _labels(found: Tree) -> Tree:
    return section(found, "metadata", "labels")


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no answer"
