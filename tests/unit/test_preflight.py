"""What is asked of a cluster before anything changes. The cluster here answers from a table."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local import preflight
from local.errors import LocalError
from local.preflight import Cluster

DEFAULT_CLASS = {"metadata": {"name": "a", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}


class Answers(Cluster):
    """kubectl's answers, by the words after `get`; what is not there is not found, a text is an error."""

    def __init__(self, **objects: Any) -> None:
        super().__init__(Path("kubectl"), Path("kubeconfig"))
        self.objects = {"--raw /version": {}, "storageclass": {"items": [DEFAULT_CLASS]}} | objects

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = " ".join(word for word in arguments[1:] if not word.startswith("--output"))
        answer = self.objects.get(words, "Error from server (NotFound): not found")
        if isinstance(answer, str):
            return subprocess.CompletedProcess(arguments, 1, "", answer)
        return subprocess.CompletedProcess(arguments, 0, json.dumps(answer), "")


def config(**keys: Any) -> dict[str, Any]:
    return {f"mlflow-stack:{key}": value for key, value in keys.items()}


def claim(**fields: str) -> dict[str, Any]:
    return {"pvc": fields}


BUCKET = {"s3": {"bucket": "team", "existingSecret": "keys"}}
MAKE = (
    "make it: `kubectl create secret generic keys --namespace=team --from-file=credentials=FILE` "
    "with an AWS shared credentials file"
)


def problems(cluster: Cluster, stated: dict[str, Any]) -> list[str]:
    with pytest.raises(LocalError) as caught:
        preflight.check(cluster, stated)
    return [line.strip() for line in str(caught.value).splitlines()]


def test_a_cluster_with_what_is_named_passes() -> None:
    there = {
        "namespace team": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        "persistentvolumeclaim data --namespace=team": {"status": {"phase": "Bound"}},
    }
    assert preflight.check(Answers(), {}) == []
    assert (
        preflight.check(Answers(**there), config(existingNamespace="team", backendStore=claim(existingClaim="data")))
        == []
    )


def test_everything_that_is_wrong_is_told_at_once() -> None:
    stated = config(existingNamespace="team", backendStore=claim(storageClass="fast"))
    assert problems(Answers(), stated) == [
        "the cluster does not have what the stack names:",
        "existingNamespace: team is not in the cluster; make it or leave the key away to have one made",
        "backendStore.pvc.storageClass: fast is not in the cluster; `kubectl get storageclass` lists what is",
        "Next: put these right; nothing changed.",
    ]


BOUND = {"persistentvolumeclaim data --namespace=team": {"status": {"phase": "Bound"}}}


@pytest.mark.parametrize(
    ("objects", "stated", "line"),
    [
        (
            {"storageclass": {"items": [{"metadata": {"name": "b"}}, {"metadata": {"name": "a"}}]}},
            {},
            "backendStore.pvc.storageClass: the cluster has no default class; name one of: a, b",
        ),
        (
            {"storageclass": {"items": []}},
            {},
            "backendStore.pvc.storageClass: the cluster has no default class; name one of: none",
        ),
        (
            {"namespace team": {}},
            config(existingNamespace="team", backendStore=claim(existingClaim="data")),
            "backendStore.pvc.existingClaim: data is not in namespace team; make it or state a size instead",
        ),
        (
            {"namespace team": {}, "persistentvolumeclaim data --namespace=team": {"status": {"phase": "Lost"}}},
            config(existingNamespace="team", backendStore=claim(existingClaim="data")),
            "backendStore.pvc.existingClaim: data has lost its volume; restore it or name another claim",
        ),
        (
            {"namespace team": {}},
            config(existingNamespace="team", artifactStore=BUCKET),
            f"artifactStore.s3.existingSecret: keys is not in namespace team; {MAKE}",
        ),
        (
            {"namespace team": {}, "secret keys --namespace=team": {"data": {"AWS_ACCESS_KEY_ID": "eA=="}}},
            config(existingNamespace="team", artifactStore=BUCKET),
            f"artifactStore.s3.existingSecret: keys has no key credentials; {MAKE}",
        ),
        *[
            (
                {"namespace team": {}, **objects},
                config(
                    existingNamespace="team", usersExistingSecret="people", backendStore=claim(existingClaim="data")
                ),
                f"usersExistingSecret: people {lack}; make it: "
                "`kubectl create secret generic people --namespace=team --from-file=htpasswd=FILE`",
            )
            for objects, lack in (
                (BOUND, "is not in namespace team"),
                ({**BOUND, "secret people --namespace=team": {"data": {"users": "eA=="}}}, "has no key htpasswd"),
            )
        ],
        (
            {"storageclass fast": {}},
            config(artifactStore=claim(storageClass="slow"), backendStore=claim(storageClass="fast")),
            "artifactStore.pvc.storageClass: slow is not in the cluster; `kubectl get storageclass` lists what is",
        ),
        (
            {"namespace team": {}},
            config(existingNamespace="team", artifactStore=claim(existingClaim="files")),
            "artifactStore.pvc.existingClaim: files is not in namespace team; make it or state a size instead",
        ),
        (
            {"namespace team": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}}},
            config(existingNamespace="team"),
            "existingNamespace: team has pod-security.kubernetes.io/enforce=strict; "
            "wanted is restricted, baseline or privileged",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_key(objects: dict[str, Any], stated: dict[str, Any], line: str) -> None:
    assert problems(Answers(**objects), stated)[1] == line


def claimed(size: str, storage_class: str | None = "slow", instance: str = "mlflow") -> dict[str, Any]:
    spec: dict[str, Any] = {"resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"metadata": {"labels": {"app.kubernetes.io/instance": instance}}, "spec": spec}


DEPLOYED = {"deploy": {"size": "3Gi"}, "dumps": {"size": "4Gi"}}
PATCH = "allow it where the class's driver can: `kubectl patch storageclass slow --patch 'allowVolumeExpansion: true'`"


@pytest.mark.parametrize(
    ("name", "stated", "key", "size"),
    [
        ("data", config(backendStore=claim(size="2Gi")), "backendStore.pvc", "2Gi"),
        ("data", config(), "backendStore.pvc", "20Gi"),
        ("artifacts", config(artifactStore=claim(size="2Gi")), "artifactStore.pvc", "2Gi"),
        ("artifacts", config(backendStore={"mysql": {"host": "db"}}), "artifactStore.pvc", "20Gi"),
        ("database", config(backendStore={"mysql": DEPLOYED}), "backendStore.mysql.deploy", "3Gi"),
        ("dumps", config(backendStore={"mysql": DEPLOYED}), "backendStore.mysql.dumps", "4Gi"),
    ],
)
def test_a_claim_that_cannot_grow_is_refused(name: str, stated: dict[str, Any], key: str, size: str) -> None:
    there = {f"persistentvolumeclaim mlflow-{name} --namespace=mlflow": claimed("1Gi"), "storageclass slow": {}}
    line = (
        f"{key}.size: {size} is more than the 1Gi of the claim mlflow-{name}, whose class slow does not allow "
        f"expansion; set it back to 1Gi, or {PATCH}"
    )
    assert problems(Answers(**there), stated)[1:-1] == [line]


def test_all_claims_that_cannot_grow_are_told_at_once() -> None:
    there = {f"persistentvolumeclaim ml-{name} --namespace=team": claimed("1Gi", None, "ml") for name in
             ("artifacts", "database", "dumps")}  # fmt: skip
    told = problems(Answers(**there), config(name="ml", namespace="team", backendStore={"mysql": DEPLOYED}))[1:-1]
    assert [line.split(":")[0] for line in told] == [
        "backendStore.mysql.dumps.size",
        "backendStore.mysql.deploy.size",
        "artifactStore.pvc.size",
    ]
    assert told[0].endswith("whose class (none) does not allow expansion; set it back to 1Gi")


@pytest.mark.parametrize(
    ("stated", "found", "allows"),
    [
        (config(backendStore=claim(size="2Gi")), claimed("1Gi"), True),
        (config(backendStore=claim(size="1024Mi")), claimed("1Gi"), False),
        (config(backendStore=claim(size="1Gi")), claimed("2Gi"), False),
        (config(backendStore=claim(size="2Gi")), claimed("1Gi", instance="other"), False),
        (config(backendStore={"mysql": {"host": "db"}}), claimed("1Gi"), False),
        (config(existingNamespace="mlflow", backendStore=claim(existingClaim="own")), claimed("1Gi"), False),
        (config(backendStore=claim(size="2 Gi")), claimed("1Gi"), False),
    ],
    ids=["allowed", "same", "smaller", "another stack's", "left behind", "adopted", "not a size"],
)
def test_no_other_claim_is_refused(stated: dict[str, Any], found: dict[str, Any], allows: bool) -> None:
    there = {
        "namespace mlflow": {},
        "persistentvolumeclaim mlflow-data --namespace=mlflow": found,
        "persistentvolumeclaim own --namespace=mlflow": {},
        "storageclass slow": {"allowVolumeExpansion": allows},
    }
    assert preflight.check(Answers(**there), stated) == []


def test_a_cluster_that_does_not_answer_is_all_that_is_told() -> None:
    told = problems(Answers(**{"--raw /version": "dial tcp: refused"}), config(existingNamespace="team"))
    assert told[0] == "the cluster does not answer: dial tcp: refused"
    assert len(told) == 2


def test_what_may_not_be_read_is_noted_and_no_failure() -> None:
    refused = "Error from server (Forbidden): storageclasses is forbidden"
    notes = preflight.check(Answers(storageclass=refused), {})
    assert notes == [
        f"not checked (The StorageClass of a claim that is to be made is there, or a default one.): {refused}"
    ]


ISSUER = {"kind": "ingress", "host": "a.example", "className": "nginx", "tls": {"issuer": "le"}}
ROUTES = {"--raw /apis/route.openshift.io/v1": {}}
MANAGER = {"--raw /apis/cert-manager.io/v1": {}}


def items(kind: str, spec: dict[str, Any], **labels: str) -> dict[str, Any]:
    metadata = {"name": "other", "namespace": "mlflow", "labels": labels}
    return {"items": [{"kind": kind, "metadata": metadata, "spec": spec}]}


def ingress_for(path: str) -> dict[str, Any]:
    return {"rules": [{"host": "a.example", "http": {"paths": [{"path": path}]}}]}


@pytest.mark.parametrize(
    ("expose", "there", "problem"),
    [
        (
            {"kind": "route", "host": "a.example"},
            {},
            "expose.kind: route needs route.openshift.io/v1, which the cluster does not have; take another kind",
        ),
        (
            {"kind": "gateway", "host": "a.example", "gateway": "infra/public"},
            {"--raw /apis/gateway.networking.k8s.io/v1": {}},
            "expose.gateway: infra/public is not in the cluster; `kubectl get gateways --all-namespaces` lists what is",
        ),
        (
            {"kind": "ingress", "host": "a.example", "className": "nginx"},
            {},
            "expose.className: nginx is not in the cluster; `kubectl get ingressclass` lists what is",
        ),
        (
            {"kind": "ingress", "host": "a.example"},
            {"ingressclass": {"items": [{"metadata": {"name": "nginx"}}, {"metadata": {"name": "traefik"}}]}},
            "expose.className: the cluster has no default class; name one of: nginx, traefik",
        ),
        (
            ISSUER,
            {"ingressclass nginx": {}},
            "expose.tls.issuer: le needs cert-manager, which the cluster does not have",
        ),
        (
            ISSUER,
            {"ingressclass nginx": {}, **MANAGER},
            "expose.tls.issuer: there is no ClusterIssuer le in the cluster; make it or name another",
        ),
        (
            {**ISSUER, "tls": {"issuer": "le", "issuerKind": "Issuer"}},
            {"ingressclass nginx": {}, "clusterissuers.cert-manager.io le": {}, **MANAGER},
            "expose.tls.issuer: there is no Issuer le in the cluster; make it or name another",
        ),
        (
            {"kind": "route", "host": "a.example"},
            {**ROUTES, "routes.route.openshift.io --all-namespaces": items("Route", {"host": "a.example"})},
            "expose.host: a.example belongs to Route mlflow/other; take another host or path",
        ),
        (
            {"kind": "ingress", "host": "a.example", "className": "nginx", "path": "/ml"},
            {
                "ingressclass nginx": {},
                "ingresses.networking.k8s.io --all-namespaces": items("Ingress", ingress_for("/ml")),
            },
            "expose.host: a.example/ml belongs to Ingress mlflow/other; take another host or path",
        ),
        (
            {"kind": "gateway", "host": "a.example", "gateway": "infra/public"},
            {
                "--raw /apis/gateway.networking.k8s.io/v1": {},
                "gateways.gateway.networking.k8s.io public --namespace=infra": {},
                "httproutes.gateway.networking.k8s.io --all-namespaces": items(
                    "HTTPRoute", {"hostnames": ["a.example"], "rules": [{"matches": [{"path": {"value": "/"}}]}]}
                ),
            },
            "expose.host: a.example belongs to HTTPRoute mlflow/other; take another host or path",
        ),
    ],
)
def test_a_public_address_that_the_cluster_cannot_give(expose: dict, there: dict, problem: str) -> None:
    assert problem in problems(Answers(**there), config(expose=expose))


def test_a_certificate_that_is_not_one() -> None:
    expose = {"kind": "ingress", "host": "a.example", "className": "nginx", "tls": {"secret": "own"}}
    there = {"namespace team": {"metadata": {}}, "ingressclass nginx": {}}
    stated = config(existingNamespace="team", expose=expose)
    assert "expose.tls.secret: own is not in namespace team; make it or name an issuer instead" in problems(
        Answers(**there), stated
    )
    there["secret own --namespace=team"] = {"data": {"tls.crt": "x"}}
    assert "expose.tls.secret: own has no tls.key" in problems(Answers(**there), stated)


def test_the_stacks_own_objects_and_other_paths_claim_nothing() -> None:
    for labels, path in (({"app.kubernetes.io/instance": "mlflow"}, "/"), ({}, "/elsewhere")):
        there = {
            "ingressclass nginx": {},
            "ingresses.networking.k8s.io --all-namespaces": items("Ingress", ingress_for(path), **labels),
        }
        stated = config(expose={"kind": "ingress", "host": "a.example", "className": "nginx"})
        assert preflight.check(Answers(**there), stated) == []
