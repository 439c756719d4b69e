"""What only the cluster knows, asked before anything changes."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from local.errors import LocalError
from local.stackfile import Tree, section
from mlflow_stack import mysql, pvc, validate

_PROJECT = "mlflow-stack"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_INSTANCE = "app.kubernetes.io/instance"
_APIS = {"route": "route.openshift.io/v1", "gateway": "gateway.networking.k8s.io/v1"}
_CLAIMS = {
    "ingress": "ingresses.networking.k8s.io",
    "route": "routes.route.openshift.io",
    "gateway": "httproutes.gateway.networking.k8s.io",
}


class Cluster:
    """A cluster, asked through kubectl."""

    def __init__(self, kubectl: Path, kubeconfig: Path) -> None:
        """`kubeconfig` says which cluster and who asks."""
        self._command = [str(kubectl), f"--kubeconfig={kubeconfig}", "--request-timeout=10s"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """kubectl's answer, whatever it is."""
        argv = [*self._command, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def get(self, *what: str) -> Tree | None:
        """The object, or the list of them, as `kubectl get` knows it; None where there is none.

        Raises `UnreadableError` when the answer is anything else, such as a refusal.
        """
        done = self.run("get", *what, "--output=json")
        if done.returncode == 0:
            return cast(Tree, json.loads(done.stdout))
        if "(NotFound)" in done.stderr:
            return None
        raise UnreadableError(done.stderr.strip())

    def serves(self, api: str) -> bool:
        """Whether the cluster knows an API, such as `route.openshift.io/v1`.

        Raises `UnreadableError` when it does not say.
        """
        done = self.run("get", "--raw", f"/apis/{api}")
        if done.returncode and "(NotFound)" not in done.stderr:
            raise UnreadableError(done.stderr.strip())
        return done.returncode == 0


class UnreadableError(LocalError):
    """The cluster did not say whether something is there."""


Check = Callable[[Cluster, Tree], str | None]
"""Looks at the cluster and the configuration (without the project's prefix); says what is wrong and wanted, or None."""


def api(cluster: Cluster, config: Tree) -> str | None:
    """The API server answers."""
    done = cluster.run("get", "--raw", "/version")
    return f"the cluster does not answer: {_last(done.stderr)}" if done.returncode else None


def namespace(cluster: Cluster, config: Tree) -> str | None:
    """A namespace to adopt is there."""
    name = config.get("existingNamespace")
    if not name or cluster.get("namespace", name) is not None:
        return None
    return f"existingNamespace: {name} is not in the cluster; make it or leave the key away to have one made"


def pod_security(cluster: Cluster, config: Tree) -> str | None:
    """A namespace to adopt enforces a PodSecurity level that exists; all of them admit the pods."""
    name = config.get("existingNamespace")
    found = cluster.get("namespace", name) if name else None
    level = _labels(found).get(_ENFORCE, "privileged")
    if level in ("privileged", "baseline", "restricted"):
        return None
    return f"existingNamespace: {name} has {_ENFORCE}={level}; wanted is restricted, baseline or privileged"


def _storage_class(cluster: Cluster, config: Tree, store: str) -> str | None:
    claim = section(config, store, "pvc")
    if "existingClaim" in claim:
        return None
    name = claim.get("storageClass")
    if name:
        wanted = f"{store}.pvc.storageClass: {name} is not in the cluster; `kubectl get storageclass` lists what is"
        return wanted if cluster.get("storageclass", name) is None else None
    classes = (cluster.get("storageclass") or {}).get("items", [])
    if any(_annotations(one).get(_DEFAULT_CLASS) == "true" for one in classes):
        return None
    names = ", ".join(sorted(one["metadata"]["name"] for one in classes)) or "none"
    return f"{store}.pvc.storageClass: the cluster has no default class; name one of: {names}"


def storage_class(cluster: Cluster, config: Tree) -> str | None:
    """The StorageClass of a claim that is to be made is there, or a default one."""
    return _storage_class(cluster, config, "backendStore")


def artifact_storage_class(cluster: Cluster, config: Tree) -> str | None:
    """The StorageClass of a claim of the artifacts' own that is to be made is there, or a default one."""
    own = "pvc" in section(config, "artifactStore")
    return _storage_class(cluster, config, "artifactStore") if own else None


def _claim(cluster: Cluster, config: Tree, store: str) -> str | None:
    name, where = section(config, store, "pvc").get("existingClaim"), config.get("existingNamespace")
    if not name or not where:
        return None
    found = cluster.get("persistentvolumeclaim", name, f"--namespace={where}")
    if found is None:
        return f"{store}.pvc.existingClaim: {name} is not in namespace {where}; make it or state a size instead"
    phase = section(found, "status").get("phase")
    if phase == "Lost":
        return f"{store}.pvc.existingClaim: {name} has lost its volume; restore it or name another claim"
    return None


def claim(cluster: Cluster, config: Tree) -> str | None:
    """A claim to adopt is there and can be mounted."""
    return _claim(cluster, config, "backendStore")


def artifact_claim(cluster: Cluster, config: Tree) -> str | None:
    """A claim to adopt for the artifacts is there and can be mounted."""
    return _claim(cluster, config, "artifactStore")


def claims_to_grow(cluster: Cluster, config: Tree) -> str | None:
    """A claim of the stack that is to grow has a StorageClass that allows it."""
    problems = [problem for one in _claims(config) if (problem := _growth(cluster, config, *one))]
    return "\n  ".join(problems) or None


def _claims(config: Tree) -> Iterator[tuple[str, str, Any]]:
    """The claims that the stack makes: the key of the size, the end of the claim's name, the size."""
    store, artifacts = section(config, "backendStore"), section(config, "artifactStore")
    made = [("backendStore.pvc", "data", pvc.DEFAULT_SIZE)]
    if "mysql" in store:
        made = [("backendStore.mysql.dumps", "dumps", mysql.DEFAULT_DUMPS_SIZE)]
        if "deploy" in section(store, "mysql"):
            made.append(("backendStore.mysql.deploy", "database", mysql.DEFAULT_SIZE))
    if "pvc" in artifacts or ("mysql" in store and "s3" not in artifacts):
        made.append(("artifactStore.pvc", "artifacts", pvc.DEFAULT_SIZE))
    for key, end, default in made:
        stated = section(config, *key.split("."))
        if "existingClaim" not in stated:
            yield f"{key}.size", end, stated.get("size", default)


def _growth(cluster: Cluster, config: Tree, key: str, end: str, size: Any) -> str | None:
    if not isinstance(size, str) or validate.size(size):
        return None  # the program refuses it with better words
    instance, where = config.get("name", "mlflow"), _namespace(config)
    found = cluster.get("persistentvolumeclaim", f"{instance}-{end}", f"--namespace={where}")
    if found is None or _labels(found).get(_INSTANCE) != instance:
        return None
    asked = str(section(found, "spec", "resources", "requests").get("storage", size))
    if validate.bytes_of(size) <= validate.bytes_of(asked):
        return None
    name = str(section(found, "spec").get("storageClassName", ""))
    if name and (cluster.get("storageclass", name) or {}).get("allowVolumeExpansion"):
        return None
    wanted = f"set it back to {asked}"
    if name:
        patch = f"kubectl patch storageclass {name} --patch 'allowVolumeExpansion: true'"
        wanted += f", or allow it where the class's driver can: `{patch}`"
    return (
        f"{key}: {size} is more than the {asked} of the claim {instance}-{end}, whose class "
        f"{name or '(none)'} does not allow expansion; {wanted}"
    )


def s3_keys(cluster: Cluster, config: Tree) -> str | None:
    """The Secret with the keys of the bucket is there and holds them."""
    name, where = section(config, "artifactStore", "s3").get("existingSecret"), config.get("existingNamespace")
    if not name or not where:
        return None
    found = cluster.get("secret", name, f"--namespace={where}")
    if found is not None and "credentials" in section(found, "data"):
        return None
    lack = f"is not in namespace {where}" if found is None else "has no key credentials"
    return (
        f"artifactStore.s3.existingSecret: {name} {lack}; make it: "
        f"`kubectl create secret generic {name} --namespace={where} --from-file=credentials=FILE` "
        "with an AWS shared credentials file"
    )


def users(cluster: Cluster, config: Tree) -> str | None:
    """The Secret with existing users is there and holds a password file."""
    name, where = config.get("usersExistingSecret"), config.get("existingNamespace")
    if not name or not where:
        return None
    found = cluster.get("secret", name, f"--namespace={where}")
    if found is not None and "htpasswd" in section(found, "data"):
        return None
    lack = f"is not in namespace {where}" if found is None else "has no key htpasswd"
    return (
        f"usersExistingSecret: {name} {lack}; make it: "
        f"`kubectl create secret generic {name} --namespace={where} --from-file=htpasswd=FILE`"
    )


def route_api(cluster: Cluster, config: Tree) -> str | None:
    """The cluster knows the kind of object that the address needs."""
    kind = section(config, "expose").get("kind", "none")
    if kind not in _APIS or cluster.serves(_APIS[kind]):
        return None
    return f"expose.kind: {kind} needs {_APIS[kind]}, which the cluster does not have; take another kind"


def ingress_class(cluster: Cluster, config: Tree) -> str | None:
    """The IngressClass is there, or a default one."""
    expose = section(config, "expose")
    if expose.get("kind") != "ingress":
        return None
    if name := expose.get("className"):
        wanted = f"expose.className: {name} is not in the cluster; `kubectl get ingressclass` lists what is"
        return wanted if cluster.get("ingressclass", name) is None else None
    classes = (cluster.get("ingressclass") or {}).get("items", [])
    if any(_annotations(one).get(_DEFAULT_INGRESS) == "true" for one in classes):
        return None
    names = ", ".join(sorted(one["metadata"]["name"] for one in classes)) or "none"
    return f"expose.className: the cluster has no default class; name one of: {names}"


def gateway(cluster: Cluster, config: Tree) -> str | None:
    """The Gateway that an HTTPRoute attaches to is there."""
    named = section(config, "expose").get("gateway")
    if not named:
        return None
    where, _, name = named.partition("/")
    if cluster.get("gateways.gateway.networking.k8s.io", name, f"--namespace={where}") is not None:
        return None
    return f"expose.gateway: {named} is not in the cluster; `kubectl get gateways --all-namespaces` lists what is"


def issuer(cluster: Cluster, config: Tree) -> str | None:
    """The cert-manager issuer is there."""
    tls = section(config, "expose", "tls")
    name, kind = tls.get("issuer"), tls.get("issuerKind", "ClusterIssuer")
    if not name:
        return None
    if not cluster.serves("cert-manager.io/v1"):
        return f"expose.tls.issuer: {name} needs cert-manager, which the cluster does not have"
    where = [] if kind == "ClusterIssuer" else [f"--namespace={_namespace(config)}"]
    if cluster.get(f"{kind.lower()}s.cert-manager.io", name, *where) is not None:
        return None
    return f"expose.tls.issuer: there is no {kind} {name} in the cluster; make it or name another"


def certificate(cluster: Cluster, config: Tree) -> str | None:
    """The Secret with a certificate is there and holds one."""
    name, where = section(config, "expose", "tls").get("secret"), config.get("existingNamespace")
    if not name or not where:
        return None
    found = cluster.get("secret", name, f"--namespace={where}")
    if found is None:
        return f"expose.tls.secret: {name} is not in namespace {where}; make it or name an issuer instead"
    missing = sorted({"tls.crt", "tls.key"} - set(section(found, "data")))
    return f"expose.tls.secret: {name} has no {' and no '.join(missing)}" if missing else None


def host(cluster: Cluster, config: Tree) -> str | None:
    """No object of another stack claims the public host and path."""
    expose = section(config, "expose")
    kind, name, path = expose.get("kind"), expose.get("host"), expose.get("path", "/")
    if kind not in _CLAIMS or not name:
        return None
    resource = _CLAIMS[kind]
    for one in (cluster.get(resource, "--all-namespaces") or {}).get("items", []):
        metadata = one["metadata"]
        ours = metadata["namespace"] == _namespace(config)
        if (name, path) in _claimed(one) and not (ours and _labels(one).get(_INSTANCE) == config.get("name", "mlflow")):
            where = f"{metadata['namespace']}/{metadata['name']}"
            return f"expose.host: {name}{path.rstrip('/')} belongs to {one['kind']} {where}; take another host or path"
    return None


def hosts(cluster: Cluster) -> set[str]:
    """The names that Ingresses and HTTPRoutes are for, in a cluster that knows both kinds.

    Raises `LocalError` when it does not say.
    """
    try:
        kinds = [cluster.get(_CLAIMS[kind], "--all-namespaces") or {} for kind in ("ingress", "gateway")]
    except UnreadableError as error:
        raise LocalError(f"the cluster does not say its names: {_last(str(error))}. Next: `make up` again.") from error
    return {name for kind in kinds for one in kind.get("items", []) for name, _ in _claimed(one)}


def _claimed(found: Tree) -> set[tuple[str, str]]:
    """The hosts with paths that an Ingress, Route or HTTPRoute is for."""
    spec = section(found, "spec")
    if found["kind"] == "Route":
        return {(spec.get("host", ""), spec.get("path") or "/")}
    if found["kind"] == "HTTPRoute":
        matches = [match for rule in spec.get("rules", []) for match in rule.get("matches", [])]
        paths = [match.get("path", {}).get("value", "/") for match in matches]
        return {(name, path) for name in spec.get("hostnames", []) for path in paths}
    return {
        (rule.get("host", ""), path.get("path", "/"))
        for rule in spec.get("rules", [])
        for path in section(rule, "http").get("paths", [])
    }


def _namespace(config: Tree) -> str:
    return config.get("existingNamespace") or config.get("namespace") or config.get("name") or "mlflow"


_CHECKS: tuple[Check, ...] = (
    namespace,
    pod_security,
    storage_class,
    claim,
    artifact_storage_class,
    artifact_claim,
    claims_to_grow,
    s3_keys,
    users,
    route_api,
    ingress_class,
    gateway,
    issuer,
    certificate,
    host,
)


def check(cluster: Cluster, config: Mapping[str, Any]) -> list[str]:
    """Looks whether the cluster has what a stack's configuration (full keys) names; changes nothing.

    Returns what could not be looked at, for the want of a right to read it. Raises `LocalError` with everything that is
    wrong, at once.
    """
    fields = {key.removeprefix(f"{_PROJECT}:"): value for key, value in config.items()}
    if problem := api(cluster, fields):
        raise LocalError(f"{problem}\nNext: `make status`, and check the address and the rights in your kubeconfig.")
    problems: list[str] = []
    unknown: list[str] = []
    for one in _CHECKS:
        try:
            if problem := one(cluster, fields):
                problems.append(problem)
        except UnreadableError as error:
            unknown.append(f"not checked ({one.__doc__ or one.__name__}): {_last(str(error))}")
    if problems:
        listed = "".join(f"  {problem}\n" for problem in problems)
        raise LocalError(
            f"the cluster does not have what the stack names:\n{listed}Next: put these right; nothing changed."
        )
    return unknown


def _labels(found: Tree | None) -> Tree:
    return section(found or {}, "metadata", "labels")


def _annotations(found: Tree) -> Tree:
    return section(found, "metadata", "annotations")


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no answer"
