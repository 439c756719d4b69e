"""Preflight checks on a cluster before anything changes. The cluster here answers from a table."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import engine
from mlflow_stack_cli import preflight, stackfile
from mlflow_stack_cli.cluster import Cluster
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.previews import recorder
from mlflow_stack_cli.previews.capture import Recording

DEFAULT_CLASS = {"metadata": {"name": "a", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}


NODE = {
    "metadata": {"name": "n1"},
    "status": {"allocatable": {"cpu": "3920m", "memory": "15926Mi", "ephemeral-storage": "40Gi"}},
}


class Answers(Cluster):
    """kubectl's answers, by the words after `get`; a missing entry is not found, a text is an error."""

    def __init__(self, **objects: Any) -> None:
        super().__init__(Path("kubectl"), Path("kubeconfig"))
        self.objects = {
            "--raw /version": {},
            "storageclass": {"items": [DEFAULT_CLASS]},
            "nodes": {"items": [NODE]},
            **objects,
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = " ".join(word for word in arguments[1:] if not word.startswith("--output"))
        answer = self.objects.get(words, "Error from server (NotFound): not found")
        if isinstance(answer, str):
            return subprocess.CompletedProcess(arguments, 1, "", answer)
        return subprocess.CompletedProcess(arguments, 0, json.dumps(answer), "")


def config(**keys: Any) -> dict[str, Any]:
    return {f"mlflow-stack:{key}": value for key, value in keys.items()}


GIVEN = {"host": "db", "password": {"secure": "v1:x"}}


def claim(**fields: str) -> dict[str, Any]:
    return {"pvc": fields}


BUCKET = {"s3": {"bucket": "team", "existingSecret": "keys"}}


NAMESPACE = "make it: `kubectl create namespace team`, or leave the key away to have one made"
ANOTHER_CLASS = "make it or name another; `kubectl get storageclass` lists what is"


def secret(name: str, *keys: str) -> str:
    files = " ".join(f"--from-file={key}=FILE" for key in keys)
    return f"make it: `kubectl create secret generic {name} --namespace=team {files}`"


@cache
def recorded(stated: str) -> Recording:
    """Return the recording of the program with a configuration."""
    texts, secrets = stackfile.handed(json.loads(stated))
    request = {"project": "mlflow-stack", "stack": "team", "config": texts, "secrets": secrets}
    return Recording.parse(json.loads(json.dumps(recorder.record(engine.PROJECT, request))))


def check(cluster: Cluster, stated: dict[str, Any]) -> list[str]:
    return preflight.check(cluster, recorded(json.dumps(stated)))


def problems(cluster: Cluster, stated: dict[str, Any]) -> list[str]:
    with pytest.raises(LocalError) as caught:
        check(cluster, stated)
    return [line.strip() for line in str(caught.value).splitlines()]


def test_a_cluster_with_what_is_named_passes() -> None:
    there = {
        "namespace team": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        "persistentvolumeclaim data --namespace=team": {"status": {"phase": "Bound"}},
    }
    assert check(Answers(), {}) == []
    assert check(Answers(**there), config(existingNamespace="team", backendStore=claim(existingClaim="data"))) == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    stated = config(existingNamespace="team", backendStore=claim(storageClass="fast"))
    assert problems(Answers(), stated) == [
        "the cluster does not have what the stack names:",
        f"existingNamespace: Namespace team is not in the cluster; {NAMESPACE}",
        f"backendStore.pvc.storageClass: StorageClass fast is not in the cluster; {ANOTHER_CLASS}",
        "Next: fix the errors above; nothing was changed.",
    ]


TEAM = {
    "namespace team": {},
    "persistentvolumeclaim data --namespace=team": {"status": {"phase": "Bound"}},
}
NO_CLAIM = {"namespace team": {}}
LOST = {**TEAM, "persistentvolumeclaim data --namespace=team": {"status": {"phase": "Lost"}}}
STRICT = {**TEAM, "namespace team": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}}}
ADOPTED = {"existingNamespace": "team", "backendStore": claim(existingClaim="data")}
DATABASE = {"mysql": {"host": "db", "existingSecret": "db"}}
INGRESS = {"ingress": {"className": "nginx"}, "host": "a.example"}
USERS = config(**ADOPTED, usersExistingSecret="people")
KEYS = config(**ADOPTED, encryptionKeys={"existingSecret": "old"})
TLS = config(**ADOPTED, expose={**INGRESS, "tls": {"secret": "own"}})


def variable(source: str, name: str = "token") -> dict[str, Any]:
    env = [{"name": "A", "valueFrom": {source: {"name": name, "key": "value"}}}]
    return config(**ADOPTED, models=[{"name": "iris"}, {"name": "a", "env": env}])


def data(name: str, *keys: str, kind: str = "secret") -> dict[str, Any]:
    return {**TEAM, "ingressclass nginx": {}, f"{kind} {name} --namespace=team": {"data": dict.fromkeys(keys, "eA==")}}


def patch(name: str, *keys: str, kind: str = "secret", value: str = "$(base64 -w0 FILE)") -> str:
    fields = ", ".join(f"{key}: '{value}'" for key in keys)
    return f'add it: `kubectl patch {kind} {name} --namespace=team --patch "data: {{{fields}}}"`'


@pytest.mark.parametrize(
    ("objects", "stated", "line"),
    [
        (
            {"storageclass": {"items": [{"metadata": {"name": "b"}}, {"metadata": {"name": "a"}}]}},
            {},
            "backendStore.pvc.storageClass: the cluster has no default StorageClass; name one of: a, b",
        ),
        (
            {"storageclass": {"items": []}},
            {},
            "backendStore.pvc.storageClass: the cluster has no default StorageClass; name one of: none",
        ),
        (
            {"storageclass": {"items": []}, "storageclass fast": {}},
            config(backendStore={"mysql": {**GIVEN, "dumps": {"storageClass": "fast"}}}),
            "artifactStore.pvc.storageClass: the cluster has no default StorageClass; name one of: none",
        ),
        (
            {},
            config(backendStore={"mysql": {"deploy": {"storageClass": "slow"}}}),
            f"backendStore.mysql.deploy.storageClass: StorageClass slow is not in the cluster; {ANOTHER_CLASS}",
        ),
        (
            {},
            config(backendStore={"mysql": {"deploy": {}, "dumps": {"storageClass": "slow"}}}),
            f"backendStore.mysql.dumps.storageClass: StorageClass slow is not in the cluster; {ANOTHER_CLASS}",
        ),
        (
            NO_CLAIM,
            config(**ADOPTED),
            "backendStore.pvc.existingClaim: PersistentVolumeClaim data is not in namespace team; "
            "make it or state a size instead",
        ),
        (
            LOST,
            config(**ADOPTED),
            "backendStore.pvc.existingClaim: PersistentVolumeClaim data has lost its volume; "
            "restore it or name another claim",
        ),
        (
            {**TEAM, "namespace team": {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}},
            config(**ADOPTED),
            "existingNamespace: Namespace team is being deleted; wait until it is gone, then make it again or name "
            "another",
        ),
        (
            STRICT,
            config(**ADOPTED),
            "existingNamespace: Namespace team has pod-security.kubernetes.io/enforce=strict; "
            "wanted is restricted, baseline or privileged",
        ),
        (
            {"storageclass fast": {}},
            config(artifactStore=claim(storageClass="slow"), backendStore=claim(storageClass="fast")),
            f"artifactStore.pvc.storageClass: StorageClass slow is not in the cluster; {ANOTHER_CLASS}",
        ),
        (
            TEAM,
            config(**ADOPTED, artifactStore=claim(existingClaim="files")),
            "artifactStore.pvc.existingClaim: PersistentVolumeClaim files is not in namespace team; "
            "make it or state a size instead",
        ),
        (
            TEAM,
            config(**ADOPTED, artifactStore=BUCKET),
            f"artifactStore.s3.existingSecret: Secret keys is not in namespace team; "
            f"{secret('keys', 'credentials')} with an AWS shared credentials file",
        ),
        (
            data("keys", "AWS_ACCESS_KEY_ID"),
            config(**ADOPTED, artifactStore=BUCKET),
            "artifactStore.s3.existingSecret: Secret keys in namespace team has no key credentials; "
            f"{patch('keys', 'credentials')} with an AWS shared credentials file",
        ),
        (
            TEAM,
            USERS,
            "usersExistingSecret: Secret people is not in namespace team; "
            f"{secret('people', 'htpasswd')} with an htpasswd file",
        ),
        (
            data("people", "users"),
            USERS,
            "usersExistingSecret: Secret people in namespace team has no key htpasswd; "
            f"{patch('people', 'htpasswd')} with an htpasswd file",
        ),
        (
            TEAM,
            config(existingNamespace="team", backendStore=DATABASE),
            "backendStore.mysql.existingSecret: Secret db is not in namespace team; "
            f"{secret('db', 'password')} with the database user's password",
        ),
        (
            data("db", "PASSWORD"),
            config(existingNamespace="team", backendStore=DATABASE),
            "backendStore.mysql.existingSecret: Secret db in namespace team has no key password; "
            f"{patch('db', 'password')} with the database user's password",
        ),
        (
            data("old", "MLFLOW_CRYPTO_KEK_PASSPHRASE"),
            KEYS,
            "encryptionKeys.existingSecret: Secret old in namespace team has no key "
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY and no key MLFLOW_CRYPTO_KEK_VERSION; "
            + patch("old", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MLFLOW_CRYPTO_KEK_VERSION")
            + " with MLflow's encryption keys",
        ),
        (
            TEAM,
            config(**ADOPTED, models=[{"name": "a", "uri": "s3://models/a", "s3ExistingSecret": "keys"}]),
            "models[0].s3ExistingSecret: Secret keys is not in namespace team; "
            f"{secret('keys', 'credentials')} with an AWS shared credentials file",
        ),
        (
            TEAM,
            variable("secretKeyRef"),
            "models[1].env[0].valueFrom.secretKeyRef.name: Secret token is not in namespace team; "
            f"{secret('token', 'value')}",
        ),
        (
            TEAM,
            variable("configMapKeyRef"),
            "models[1].env[0].valueFrom.configMapKeyRef.name: ConfigMap token is not in namespace team; "
            "make it: `kubectl create configmap token --namespace=team --from-file=value=FILE`",
        ),
        (
            data("token", "other", kind="configmap"),
            variable("configMapKeyRef"),
            "models[1].env[0].valueFrom.configMapKeyRef.name: ConfigMap token in namespace team has no key value; "
            f"{patch('token', 'value', kind='configmap', value='VALUE')}",
        ),
        (
            {**TEAM, "ingressclass nginx": {}},
            TLS,
            "expose.tls.secret: Secret own is not in namespace team; "
            "make it: `kubectl create secret tls own --namespace=team --cert=FILE --key=FILE`",
        ),
        (
            data("own", "tls.crt"),
            TLS,
            "expose.tls.secret: Secret own in namespace team has no key tls.key; "
            f"{patch('own', 'tls.key')} with the certificate",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_key(objects: dict[str, Any], stated: dict[str, Any], line: str) -> None:
    assert problems(Answers(**objects), stated)[1:-1] == [line]


TAINTED = {**NODE, "spec": {"taints": [{"key": "team", "value": "ml", "effect": "NoSchedule"}]}}
SMALL = {"metadata": {"name": "n0"}, "status": {"allocatable": {"cpu": "100m", "memory": "1Gi"}}}
LABELLED = {**NODE, "metadata": {"name": "n1", "labels": {"disk": "ssd"}}}
TOLERATED = {"key": "team", "operator": "Equal", "value": "ml"}


@pytest.mark.parametrize(
    ("nodes", "pod", "lines"),
    [
        ([SMALL, TAINTED], {"tolerations": [TOLERATED]}, []),
        ([SMALL, TAINTED], {"tolerations": [{"operator": "Exists"}]}, []),
        ([TAINTED, LABELLED], {"nodeSelector": {"disk": "ssd"}}, []),
        (
            [NODE],
            {"nodeSelector": {"disk": "ssd"}},
            [
                "pod.nodeSelector: no node that takes the tracking server has the labels disk=ssd; name others, or "
                "label a node: `kubectl label node NODE disk=ssd`"
            ],
        ),
    ],
    ids=["tolerated", "all tolerated", "selected", "not selected"],
)
def test_room_is_that_of_the_nodes_that_take_the_pods(nodes: list[Any], pod: dict[str, Any], lines: list[str]) -> None:
    there = Answers(nodes={"items": nodes})
    if lines:
        assert problems(there, config(pod=pod))[1:-1] == lines
    else:
        assert check(there, config(pod=pod)) == []


@pytest.mark.parametrize("toleration", [{**TOLERATED, "value": "web"}, {**TOLERATED, "effect": "NoExecute"}])
def test_node_whose_taint_is_not_tolerated_takes_no_pod(toleration: dict[str, str]) -> None:
    told = check(Answers(nodes={"items": [TAINTED]}), config(pod={"tolerations": [toleration]}))
    assert told == ["not checked (room on the nodes): no node of the cluster takes pods"]


def test_server_s_own_settings_name_its_nodes() -> None:
    stated = config(tracking={"pod": {"nodeSelector": {"disk": "ssd"}}}, pod={"nodeSelector": {}})
    (line,) = problems(Answers(), stated)[1:-1]
    assert line.startswith("tracking.pod.nodeSelector: no node that takes the tracking server has the labels disk=ssd;")


LOGIN = "--docker-server=HOST --docker-username=USER --docker-password=PASSWORD"


def test_objects_that_pods_name_are_asked_for() -> None:
    pod = {
        "priorityClassName": "batch",
        "runtimeClassName": "gvisor",
        "imagePullSecrets": [{"name": "registry"}],
        "envFrom": [{"secretRef": {"name": "token"}}],
        "serviceAccount": {"name": "team"},
    }
    assert problems(Answers(**TEAM), config(**ADOPTED, pod=pod))[1:-1] == [
        "pod.priorityClassName: PriorityClass batch is not in the cluster; make it or name another; "
        "`kubectl get priorityclass` lists what is",
        "pod.runtimeClassName: RuntimeClass gvisor is not in the cluster; make it or name another; "
        "`kubectl get runtimeclass` lists what is",
        "pod.imagePullSecrets[0].name: Secret registry is not in namespace team; "
        f"make it: `kubectl create secret docker-registry registry --namespace=team {LOGIN}`",
        "pod.envFrom[0].secretRef.name: Secret token is not in namespace team; "
        "make it: `kubectl create secret generic token --namespace=team --from-env-file=FILE`",
        "pod.serviceAccount.name: ServiceAccount team is not in namespace team; make it or name another; "
        "`kubectl get serviceaccount --all-namespaces` lists what is",
    ]


def test_a_command_makes_all_keys_that_one_object_needs() -> None:
    env = [{"name": name, "valueFrom": {"secretKeyRef": {"name": "token", "key": name.lower()}}} for name in ("A", "B")]
    stated = config(**ADOPTED, models=[{"name": "iris", "env": env}])
    assert problems(Answers(**TEAM), stated)[1:-1] == [
        f"models[0].env[{position}].valueFrom.secretKeyRef.name: Secret token is not in namespace team; "
        f"{secret('token', 'a', 'b')}"
        for position in (0, 1)
    ]


def test_binary_data_of_a_config_map_counts() -> None:
    there = {**TEAM, "configmap token --namespace=team": {"binaryData": {"value": "eA=="}}}
    assert check(Answers(**there), variable("configMapKeyRef")) == []


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
        (
            "artifacts",
            config(backendStore={"mysql": GIVEN}),
            "artifactStore.pvc",
            "20Gi",
        ),
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
        (config(backendStore={"mysql": GIVEN}), claimed("1Gi"), False),
        (config(existingNamespace="mlflow", backendStore=claim(existingClaim="own")), claimed("1Gi"), False),
    ],
    ids=["allowed", "same", "smaller", "another stack's", "left behind", "adopted"],
)
def test_no_other_claim_is_refused(stated: dict[str, Any], found: dict[str, Any], allows: bool) -> None:
    there = {
        "namespace mlflow": {},
        "persistentvolumeclaim mlflow-data --namespace=mlflow": found,
        "persistentvolumeclaim own --namespace=mlflow": {},
        "storageclass slow": {"allowVolumeExpansion": allows},
    }
    assert check(Answers(**there), stated) == []


def test_a_cluster_that_does_not_answer_is_all_that_is_told() -> None:
    told = problems(Answers(**{"--raw /version": "dial tcp: refused"}), config(existingNamespace="team"))
    assert told[0] == "the cluster does not answer: dial tcp: refused"
    assert len(told) == 2


def test_what_may_not_be_read_is_noted_and_no_failure() -> None:
    refused = "Error from server (Forbidden): storageclasses is forbidden"
    notes = check(Answers(storageclass=refused), {})
    assert notes == [f"not checked (backendStore.pvc.storageClass: default StorageClass): {refused}"]


ISSUER = {**INGRESS, "tls": {"issuer": "le"}}
ROUTE = {"route": {}, "host": "a.example"}
GATEWAY = {"host": "a.example", "gateway": "infra/public"}
ROUTE_API = {"--raw /apis/route.openshift.io/v1": {}}
GATEWAY_API = {"--raw /apis/gateway.networking.k8s.io/v1": {}}
MANAGER = {"--raw /apis/cert-manager.io/v1": {}}
CLASS = {"ingressclass nginx": {}}
PUBLIC = {**GATEWAY_API, "gateways.gateway.networking.k8s.io public --namespace=infra": {}}


@pytest.mark.parametrize(
    ("expose", "there", "problem"),
    [
        (
            ROUTE,
            {},
            "expose.route: Route needs route.openshift.io/v1, which the cluster does not have; take another kind",
        ),
        (
            GATEWAY,
            {},
            "expose.gateway: HTTPRoute needs gateway.networking.k8s.io/v1, which the cluster does not have; "
            "take another kind",
        ),
        (
            GATEWAY,
            GATEWAY_API,
            "expose.gateway: Gateway public is not in namespace infra; make it or name another; "
            "`kubectl get gateways.gateway.networking.k8s.io --all-namespaces` lists what is",
        ),
        (
            INGRESS,
            {},
            "expose.ingress.className: IngressClass nginx is not in the cluster; "
            "make it or name another; `kubectl get ingressclass` lists what is",
        ),
        (
            {"ingress": {}, "host": "a.example"},
            {"ingressclass": {"items": [{"metadata": {"name": "nginx"}}, {"metadata": {"name": "traefik"}}]}},
            "expose.ingress.className: the cluster has no default IngressClass; name one of: nginx, traefik",
        ),
        (
            ISSUER,
            CLASS,
            "expose.tls.issuer: ClusterIssuer le needs cert-manager.io/v1, which the cluster does not have; "
            "install cert-manager, or name a Secret with a certificate instead",
        ),
        (
            ISSUER,
            {**CLASS, **MANAGER},
            "expose.tls.issuer: ClusterIssuer le is not in the cluster; "
            "make it or name another; `kubectl get clusterissuers.cert-manager.io` lists what is",
        ),
        (
            {**ISSUER, "tls": {"issuer": "le", "issuerKind": "Issuer"}},
            {**CLASS, "clusterissuers.cert-manager.io le": {}, **MANAGER},
            "expose.tls.issuer: Issuer le is not in namespace mlflow; "
            "make it or name another; `kubectl get issuers.cert-manager.io --all-namespaces` lists what is",
        ),
    ],
)
def test_a_public_address_that_the_cluster_cannot_give(expose: dict, there: dict, problem: str) -> None:
    assert problems(Answers(**there), config(expose=expose))[1:-1] == [problem]


def listed(kind: str, spec: dict[str, Any], namespace: str = "other", **metadata: Any) -> dict[str, Any]:
    return {"items": [{"kind": kind, "metadata": {"name": "theirs", "namespace": namespace, **metadata}, "spec": spec}]}


def ingress(path: str | None, host: str = "a.example", **metadata: Any) -> dict[str, Any]:
    paths = [{"pathType": "Prefix"} if path is None else {"path": path, "pathType": "Prefix"}]
    spec = {"rules": [{"host": host, "http": {"paths": paths}}]}
    return {"ingresses.networking.k8s.io --all-namespaces": listed("Ingress", spec, **metadata)}


def route(path: str, host: str = "a.example", **metadata: Any) -> dict[str, Any]:
    spec = {"host": host, "path": path}
    return {**ROUTE_API, "routes.route.openshift.io --all-namespaces": listed("Route", spec, **metadata)}


def http_route(path: str | None, host: str = "a.example", **metadata: Any) -> dict[str, Any]:
    rule = {} if path is None else {"matches": [{"path": {"value": path}}]}
    objects = listed("HTTPRoute", {"hostnames": [host], "rules": [rule]}, **metadata)
    return {**PUBLIC, "httproutes.gateway.networking.k8s.io --all-namespaces": objects}


@pytest.mark.parametrize("ours", [INGRESS, ROUTE, GATEWAY], ids=lambda expose: next(iter(expose)))
@pytest.mark.parametrize(
    ("kind", "theirs"), [("Ingress", ingress("/ml")), ("Route", route("/ml")), ("HTTPRoute", http_route("/ml"))]
)
def test_a_host_is_claimed_by_an_object_of_any_kind(ours: dict, kind: str, theirs: dict) -> None:
    there = {**CLASS, **ROUTE_API, **PUBLIC, **theirs}
    assert problems(Answers(**there), config(expose={**ours, "path": "/ml"}))[1:-1] == [
        f"expose.host: a.example/ml belongs to {kind} other/theirs; take another host or path"
    ]


@pytest.mark.parametrize(
    ("path", "theirs", "taken"),
    [
        ("/team", "/team", "/team"),
        ("/team", "/team/", "/team"),
        ("/team", "/team/ajax-api", "/team/ajax-api"),
        ("/team", "/team/anything", "/team/anything"),
        ("/team", "/team(/|$)(.*)", "/team"),
        ("/team", "/team/api/.*", "/team/api"),
        ("/team", "/", None),
        ("/team", "/team-b", None),
        ("/team/a", "/team", None),
        ("", "/", ""),
        ("", None, ""),
        ("", "/.*", ""),
        ("", "/api/2.0", "/api/2.0"),
        ("", "/static-files", "/static-files"),
        ("", "/healthz", "/healthz"),
        ("", "/serving/iris", "/serving/iris"),
        ("", "/team", None),
        ("", "/apis", None),
        ("", "/.well-known/acme-challenge/token", None),
    ],
)
def test_an_object_below_the_path_takes_requests_from_it(path: str, theirs: str | None, taken: str | None) -> None:
    expose = {**INGRESS, **({"path": path} if path else {})}
    line = f"expose.host: a.example{taken} belongs to {{}} other/theirs; take another host or path"
    for kind, there in (("Ingress", ingress(theirs)), ("HTTPRoute", http_route(theirs))):
        cluster = Answers(**CLASS, **there)
        if taken is None:
            assert check(cluster, config(expose=expose)) == []
        else:
            assert problems(cluster, config(expose=expose))[1:-1] == [line.format(kind)]


def test_an_ingress_rule_without_paths_takes_its_whole_host() -> None:
    theirs: Any = ingress("/")
    (found,) = theirs["ingresses.networking.k8s.io --all-namespaces"]["items"]
    del found["spec"]["rules"][0]["http"]
    assert problems(Answers(**CLASS, **theirs), config(expose=INGRESS))[1:-1] == [
        "expose.host: a.example belongs to Ingress other/theirs; take another host or path"
    ]
    assert check(Answers(**CLASS, **theirs), config(expose={**INGRESS, "path": "/team"})) == []


OURS = {"namespace": "mlflow", "labels": {"app.kubernetes.io/instance": "mlflow"}}


@pytest.mark.parametrize(
    "there",
    [
        ingress("/", **OURS),
        route("/api", **OURS),
        ingress("/", host="b.example"),
        ingress("/api", host="*.example"),
        ingress("/api", host=""),
        http_route("/api", host="*.example"),
        route("/", ownerReferences=[{"kind": "Ingress", "name": "mlflow"}]),
    ],
    ids=["own", "own of another kind", "other host", "wildcard", "no host", "wildcard route", "made of an Ingress"],
)
def test_an_object_that_takes_no_requests_claims_nothing(there: dict) -> None:
    assert check(Answers(**CLASS, **there), config(expose=INGRESS)) == []


def test_another_stack_of_the_namespace_claims_its_host() -> None:
    there = ingress("/", namespace="mlflow", labels={"app.kubernetes.io/instance": "second"})
    assert problems(Answers(**CLASS, **there), config(expose=INGRESS))[1:-1] == [
        "expose.host: a.example belongs to Ingress mlflow/theirs; take another host or path"
    ]


def test_kinds_that_may_not_be_listed_are_noted_and_others_judged() -> None:
    refused = "Error from server (Forbidden): routes.route.openshift.io is forbidden"
    there = {**CLASS, **route("/"), "routes.route.openshift.io --all-namespaces": refused}
    assert check(Answers(**there), config(expose=INGRESS)) == [f"not checked (expose.host: every Route): {refused}"]
    assert problems(Answers(**there, **ingress("/")), config(expose=INGRESS))[1:-1] == [
        "expose.host: a.example belongs to Ingress other/theirs; take another host or path"
    ]


def test_a_stack_without_a_public_address_asks_for_no_hosts() -> None:
    there = {"ingresses.networking.k8s.io --all-namespaces": "forbidden"}
    nodeport = {"host": "a.example", "nodePort": 30500}
    assert check(Answers(**there), config()) == []
    assert check(Answers(**there), config(expose=nodeport)) == []


def node(name: str = "n1", *, spec: dict[str, Any] | None = None, **allocatable: str) -> dict[str, Any]:
    amounts = {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "40Gi"}
    given = {key.replace("_", "-"): value for key, value in allocatable.items()}
    return {"metadata": {"name": name}, "spec": spec or {}, "status": {"allocatable": {**amounts, **given}}}


def requests(**amounts: str) -> dict[str, Any]:
    return {"requests": amounts, "limits": {"memory": "64Gi"}}


def quota(*, labels: dict[str, str] | None = None, scopes: list[str] | None = None, **hard: str) -> dict[str, Any]:
    """Return the namespace with a quota, whose resources have `__` for a dot and `_` for a hyphen."""
    limits = {name.replace("__", ".").replace("_", "-"): value for name, value in hard.items()}
    found = {"metadata": {"name": "shared", "labels": labels or {}}, "spec": {"hard": limits, "scopes": scopes}}
    return {"namespace team": {}, "resourcequota --namespace=team": {"items": [found]}}


QUOTA = "and the ResourceQuota shared of namespace team allows"
BELOW = "ask for less or raise the quota"


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (
            quota(requests__memory="500Mi"),
            f"resources.requests.memory: the tracking server asks for 544Mi of memory, {QUOTA} 500Mi; {BELOW}",
        ),
        (
            quota(cpu="100m", requests__cpu="1"),
            f"resources.requests.cpu: the tracking server asks for 270m of cpu, {QUOTA} 100m; {BELOW}",
        ),
        (
            quota(requests__storage="25Gi"),
            f"backendStore.pvc.size, artifactStore.pvc.size: the claims ask for 30Gi, {QUOTA} 25Gi; {BELOW}",
        ),
    ],
)
def test_requests_above_a_quota_of_the_namespace_are_refused(there: dict[str, Any], line: str) -> None:
    stated = config(existingNamespace="team", backendStore=claim(size="10Gi"), artifactStore=claim(size="20Gi"))
    assert problems(Answers(**there), stated)[1:-1] == [line]


@pytest.mark.parametrize(
    "there",
    [
        quota(requests__memory="544Mi", requests__storage="30Gi", cpu="270m", pods="1"),
        quota(requests__memory="1Mi", labels={"app.kubernetes.io/instance": "mlflow"}),
        quota(requests__memory="1Mi", scopes=["BestEffort"]),
    ],
    ids=["enough", "own", "of other pods"],
)
def test_other_quotas_are_no_obstacle(there: dict[str, Any]) -> None:
    stated = config(existingNamespace="team", backendStore=claim(size="10Gi"), artifactStore=claim(size="20Gi"))
    assert check(Answers(**there), stated) == []


GPU = {"limits": {"example.com/gpu": "1"}, "requests": {"memory": "512Mi"}}
SERVED = {"name": "iris", "uri": "models:/iris/1"}
LARGE = {"existingNamespace": "team", "artifactStore": BUCKET, "maxArtifactSize": "10Gi"}
ROOM = "ask for less or add a larger node"


@pytest.mark.parametrize(
    ("stated", "line"),
    [
        (
            config(resources=requests(memory="32Gi")),
            "resources.requests.memory: the tracking server asks for 32.1Gi of memory, and the largest node, n2, "
            f"has 15.5Gi; {ROOM}",
        ),
        (
            config(resources=requests(cpu="4")),
            "resources.requests.cpu: the tracking server asks for 4020m of cpu, and the largest node, n1, "
            f"has 3500m; {ROOM}",
        ),
        (
            config(**LARGE),
            "maxArtifactSize: the tracking server asks for 31Gi of ephemeral-storage, and the largest node, n1, "
            f"has 17.8Gi; {ROOM}",
        ),
        (
            config(**LARGE, resources={"requests": {"ephemeral-storage": "20Gi"}}),
            "resources.requests.ephemeral-storage: the tracking server asks for 20.5Gi of ephemeral-storage, and "
            f"the largest node, n1, has 17.8Gi; {ROOM}",
        ),
        (
            config(models=[{"name": "none"}, {**SERVED, "size": "20Gi"}]),
            "models[1].size: the server of model iris asks for 20Gi of ephemeral-storage, and the largest node, n1, "
            f"has 17.8Gi; {ROOM}",
        ),
        (
            config(models=[{**SERVED, "resources": GPU}]),
            "models[0].resources.limits.example.com/gpu: the server of model iris asks for 1 of example.com/gpu, and "
            f"the largest node, n1, has 0; {ROOM}",
        ),
        (
            config(backendStore={"mysql": {"deploy": {"resources": requests(memory="16Gi")}}}),
            "backendStore.mysql.deploy.resources.requests.memory: the database server asks for 16Gi of memory, and "
            f"the largest node, n2, has 15.5Gi; {ROOM}",
        ),
        (
            config(resources=requests(cpu="3", memory="15Gi")),
            "resources.requests.cpu, resources.requests.memory: the tracking server asks for 3020m of cpu and 15.1Gi "
            f"of memory at once, which no node has; {ROOM}",
        ),
    ],
)
def test_a_pod_that_no_node_could_hold_is_refused(stated: dict[str, Any], line: str) -> None:
    nodes = [
        node("n1", cpu="3500m", memory="8Gi", ephemeral_storage="19135090688"),
        node("n2", cpu="2", memory="15926Mi", ephemeral_storage="10Gi"),
        node("tainted", memory="64Gi", spec={"taints": [{"key": "gpu", "effect": "NoSchedule"}]}),
        node("cordoned", memory="64Gi", spec={"unschedulable": True}),
    ]
    there = {**data("keys", "credentials"), "nodes": {"items": nodes}}
    assert problems(Answers(**there), stated)[1:-1] == [line]


@pytest.mark.parametrize(
    "stated",
    [
        config(resources=requests(memory="16200Mi")),
        config(models=[{**SERVED, "replicas": 0, "size": "1Ti"}, {"name": "none", "size": "1Ti"}]),
    ],
    ids=["as large as the node", "no servers"],
)
def test_a_pod_that_an_empty_node_holds_passes(stated: dict[str, Any]) -> None:
    taints = [
        {"key": "a", "effect": "PreferNoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
    ]
    there = {"nodes": {"items": [node(memory="16232Mi", spec={"taints": taints})]}}
    assert check(Answers(**there), stated) == []


@pytest.mark.parametrize(
    ("nodes", "note"),
    [
        ("Error from server (Forbidden): nodes is forbidden", "Error from server (Forbidden): nodes is forbidden"),
        ({"items": [node(spec={"unschedulable": True})]}, "no node of the cluster takes pods"),
    ],
)
def test_nodes_that_cannot_be_compared_are_noted(nodes: Any, note: str) -> None:
    stated = config(resources=requests(memory="32Gi"), backendStore={"mysql": {"deploy": {}}})
    assert check(Answers(nodes=nodes), stated) == [f"not checked (room on the nodes): {note}"]
