"""Rejected pod settings, one row each, with the exact message. tests/components shows the accepted ones."""

from typing import Any

import pytest
from spelling import accepted

from mlflow_stack import InvalidArgs, resolve

LABEL = "must be a label value: at most 63 letters, digits, '-', '_' and '.'"
KEY = "must be a qualified name, such as app.kubernetes.io/name"
HOST = "must be a lower-case host name without scheme, port or path, such as mlflow.example.com"
NAME = "must be an object name: lower-case letters, digits, '-' and '.', at most 253 characters"
ADOPTED = {"existing_namespace": "team"}


def nodes(**fields: Any) -> dict[str, Any]:
    """Return pod settings with one requirement on nodes."""
    terms = [{"match_expressions": [{"key": "disk", **fields}]}]
    required = {"required_during_scheduling_ignored_during_execution": {"node_selector_terms": terms}}
    return {"affinity": {"node_affinity": required}}


def pods(**fields: Any) -> dict[str, Any]:
    """Return pod settings with one term of affinity to pods."""
    term = {"topology_key": "zone", "label_selector": {}, **fields}
    return {"affinity": {"pod_affinity": {"required_during_scheduling_ignored_during_execution": [term]}}}


TERM = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]"
POD_TERM = "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"
PREFERRED_TERM = "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]"
REQUIRED = "required_during_scheduling_ignored_during_execution"
PREFERRED = "preferred_during_scheduling_ignored_during_execution"
OWN_LABEL = "each key must not be a label that the stack sets, because selectors use it"
PROFILE = "each key must not set a security profile, which the stack sets"
GUARANTEED = "not supported, because the stack guarantees it. Remove it."
ISOLATED = "not supported, because the stack's pods use no namespace of the node. Remove it."
CONTAINERS = "not supported, because the stack's pods have the containers that it needs. Use Pulumi's transforms."

ROWS: list[tuple[dict[str, Any], str]] = [
    ({"node_selector": {"a b": "c"}}, f'nodeSelector: each key {KEY} (got "a b")'),
    ({"node_selector": {"a": "b c"}}, f'nodeSelector.a: {LABEL} (got "b c")'),
    ({"node_selector": {"a": True}}, "nodeSelector.a: must be text (got true)"),
    ({"tolerations": [{}]}, "tolerations[0].key: required, because operator is not Exists"),
    ({"tolerations": [{"key": "a b"}]}, f'tolerations[0].key: {KEY} (got "a b")'),
    (
        {"tolerations": [{"operator": "Exists", "value": "a"}]},
        "tolerations[0].value: must not be set when operator is Exists",
    ),
    ({"tolerations": [{"key": "a", "value": "b c"}]}, f'tolerations[0].value: {LABEL} (got "b c")'),
    (
        {"tolerations": [{"key": "a", "operator": "In"}]},
        'tolerations[0].operator: must be one of Equal, Exists (got "In")',
    ),
    (
        {"tolerations": [{"key": "a", "effect": "Evict"}]},
        'tolerations[0].effect: must be one of NoSchedule, PreferNoSchedule, NoExecute (got "Evict")',
    ),
    (
        {"tolerations": [{"key": "a", "toleration_seconds": 5}]},
        "tolerations[0].tolerationSeconds: must not be set when effect is not NoExecute",
    ),
    (
        {"tolerations": [{"key": "a", "effect": "NoExecute", "toleration_seconds": -1}]},
        "tolerations[0].tolerationSeconds: must be a whole number from 0 to 2147483647 (got -1)",
    ),
    (
        {"tolerations": [{"key": "a", "seconds": 5}]},
        "tolerations[0].seconds: unknown key. Known keys: effect, key, operator, tolerationSeconds, value.",
    ),
    (nodes(operator="In"), f"{TERM}.values: required, because operator is In"),
    (nodes(operator="NotIn", values=[]), f"{TERM}.values: required, because operator is NotIn"),
    (nodes(operator="In", values=["a b"]), f'{TERM}.values[0]: {LABEL} (got "a b")'),
    (nodes(operator="Exists", values=["a"]), f"{TERM}.values: must not be set when operator is Exists"),
    (nodes(operator="Gt"), f"{TERM}.values: required, because operator is Gt"),
    (
        nodes(operator="Lt", values=["a"]),
        f"{TERM}.values: must be one whole number, because operator is Lt (got a list)",
    ),
    (
        nodes(operator="Is"),
        f'{TERM}.operator: must be one of In, NotIn, Exists, DoesNotExist, Gt, Lt (got "Is")',
    ),
    (nodes(), f"{TERM}.operator: required"),
    (
        {"affinity": {"node_affinity": {REQUIRED: {"node_selector_terms": []}}}},
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: must have at least "
        "one item (got an empty list)",
    ),
    (
        {"affinity": {"node_affinity": {PREFERRED: [{"weight": 0, "preference": {"match_expressions": []}}]}}},
        f"{PREFERRED_TERM}.preference.matchExpressions: must have at least one item (got an empty list)\n"
        f"{PREFERRED_TERM}.weight: must be a whole number from 1 to 100 (got 0)",
    ),
    (pods(topology_key="a b"), f'{POD_TERM}.topologyKey: {KEY} (got "a b")'),
    (
        pods(namespaces=["A"]),
        f"{POD_TERM}.namespaces[0]: must consist of lower-case letters, digits and '-', start with a letter and have "
        'at most 63 characters (got "A")',
    ),
    (
        pods(label_selector={"match_labels": {"a": "b c"}}),
        f'{POD_TERM}.labelSelector.matchLabels.a: {LABEL} (got "b c")',
    ),
    (
        pods(label_selector={"match_expressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
        f"{POD_TERM}.labelSelector.matchExpressions[0].operator: must be one of In, NotIn, Exists, DoesNotExist "
        '(got "Gt")',
    ),
    (
        {"topology_spread_constraints": [{"topology_key": "zone", "label_selector": {}}]},
        "topologySpreadConstraints[0].labelSelector: not supported, because a constraint counts the pods of its "
        "server. Remove it.",
    ),
    (
        {"topology_spread_constraints": [{"topology_key": "zone"}, {"topology_key": "zone", "max_skew": 2}]},
        'topologySpreadConstraints: must not have a topologyKey twice (got "zone")',
    ),
    (
        {"topology_spread_constraints": [{"topology_key": "zone", "max_skew": 0}]},
        "topologySpreadConstraints[0].maxSkew: must be a whole number from 1 to 2147483647 (got 0)",
    ),
    (
        {"topology_spread_constraints": [{"topology_key": "zone", "when_unsatisfiable": "Wait"}]},
        'topologySpreadConstraints[0].whenUnsatisfiable: must be one of DoNotSchedule, ScheduleAnyway (got "Wait")',
    ),
    ({"priority_class_name": "High"}, f'priorityClassName: {NAME} (got "High")'),
    ({"runtime_class_name": "g_visor"}, f'runtimeClassName: {NAME} (got "g_visor")'),
    ({"image_pull_secrets": ["registry"]}, 'imagePullSecrets[0]: must be a map (got "registry")'),
    ({"image_pull_secrets": [{"name": "A"}]}, f'imagePullSecrets[0].name: {NAME} (got "A")'),
    (
        {"image_pull_secrets": [{"name": "a"}, {"name": "a"}]},
        'imagePullSecrets: must not have a name twice (got "a")',
    ),
    ({"labels": {"app.kubernetes.io/instance": "a"}}, f'labels: {OWN_LABEL} (got "app.kubernetes.io/instance")'),
    ({"labels": {"mlflow-stack/model": "a"}}, f'labels: {OWN_LABEL} (got "mlflow-stack/model")'),
    ({"labels": {"team": "a b"}}, f'labels.team: {LABEL} (got "a b")'),
    ({"annotations": {"a b": "c"}}, f'annotations: each key {KEY} (got "a b")'),
    (
        {"annotations": {"openshift.io/required-scc": "anyuid"}},
        'annotations: each key must not be an annotation that the stack sets (got "openshift.io/required-scc"). '
        "Set platform instead.",
    ),
    (
        {"annotations": {"container.apparmor.security.beta.kubernetes.io/mlflow": "unconfined"}},
        f'annotations: {PROFILE} (got "container.apparmor.security.beta.kubernetes.io/mlflow")',
    ),
    (
        {"termination_grace_period_seconds": 0},
        "terminationGracePeriodSeconds: must be a whole number from 1 to 2147483647 (got 0)",
    ),
    (
        {"security_context": {"run_as_user": 0}},
        "securityContext: not supported, because the stack sets the one that PodSecurity restricted requires. Set "
        "platform: openshift where the platform assigns the UID.",
    ),
    (
        {"host_network": True},
        "hostNetwork: not supported, because the stack's pods use no namespace of the node. Set expose for an address "
        "outside the cluster.",
    ),
    *[({name: True}, f"{key}: {ISOLATED}") for name, key in
      {"host_pid": "hostPid", "host_ipc": "hostIpc", "host_users": "hostUsers", "hostIPC": "hostIPC"}.items()],
    *[({name: True}, f"{key}: {GUARANTEED}") for name, key in {
        "automount_service_account_token": "automountServiceAccountToken",
        "enable_service_links": "enableServiceLinks",
        "restart_policy": "restartPolicy",
        "share_process_namespace": "shareProcessNamespace",
    }.items()],
    *[({name: []}, f"{key}: {CONTAINERS}") for name, key in
      {"containers": "containers", "init_containers": "initContainers"}.items()],
    (
        {"node_name": "n1"},
        "nodeName: not supported, because the pod would bypass the scheduler. Set nodeSelector instead.",
    ),
    (
        {"priority": 5},
        "priority: not supported, because Kubernetes computes it. Set priorityClassName instead.",
    ),
    (
        {"resources": {}},
        "resources: not supported, because containers differ. Set resources of each server instead.",
    ),
    (
        {"active_deadline_seconds": 5},
        "activeDeadlineSeconds: not supported, because servers run until they are replaced. Remove it.",
    ),
    (
        {"env": [{"name": "MLFLOW_BACKEND_STORE_URI", "value": "sqlite://"}]},
        'env: must not have a variable that the stack sets (got "MLFLOW_BACKEND_STORE_URI"). Set backendStore instead.',
    ),
    (
        {"env": [{"name": "AWS_ACCESS_KEY_ID", "value": "key"}]},
        'env: must not have a variable that the stack sets (got "AWS_ACCESS_KEY_ID"). Set '
        "artifactStore.s3.existingSecret instead.",
    ),
    (
        {"env": [{"name": "MYSQL_PWD", "value": "x"}]},
        'env: must not have a variable that the stack sets (got "MYSQL_PWD"). Set backendStore instead.',
    ),
    (
        {"env": [{"name": "PYTHONPATH", "value": "/x"}]},
        'env: must not have a variable that the stack sets (got "PYTHONPATH"). Remove it.',
    ),
    (
        {"env": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "UTC"}]},
        'env: must not have a variable twice (got "TZ")',
    ),
    ({"env": [{"name": "TZ"}]}, "env[0].value: required, because valueFrom is not set"),
    ({"env_from": [{}]}, "envFrom[0].secretRef: required, because configMapRef is not set"),
    (
        {"env_from": [{"secret_ref": {"name": "a"}, "config_map_ref": {"name": "a"}}]},
        "envFrom[0].secretRef: must not be set when configMapRef is set",
    ),
    (
        {"env_from": [{"prefix": "a-", "secret_ref": {"name": "a"}}]},
        "envFrom[0].prefix: must be a variable name of letters, digits and '_', not starting with a digit (got \"a-\")",
    ),
    ({"env_from": [{"secret_ref": {"name": "A"}}]}, f'envFrom[0].secretRef.name: {NAME} (got "A")'),
    ({"service_account": "team"}, 'serviceAccount: must be a map (got "team")'),
    ({"service_account": {"name": "A"}}, f'serviceAccount.name: {NAME} (got "A")'),
    (
        {"service_account": {"name": "team", "annotations": {"a": "b"}}},
        "serviceAccount.annotations: must not be set when name is set. Annotate that ServiceAccount instead.",
    ),
    ({"service_account": {"annotations": {"a b": "c"}}}, f'serviceAccount.annotations: each key {KEY} (got "a b")'),
    (
        {"service_account_name": "team"},
        "serviceAccountName: not supported, because it is part of a map. Set serviceAccount.name instead.",
    ),
    (
        {"host_aliases": [{"ip": "localhost", "hostnames": ["a"]}]},
        'hostAliases[0].ip: must be an IP address, such as 192.0.2.7 (got "localhost")',
    ),
    (
        {"host_aliases": [{"ip": "2001:DB8::1", "hostnames": ["a"]}]},
        'hostAliases[0].ip: must be in canonical form, here 2001:db8::1 (got "2001:DB8::1")',
    ),
    (
        {"host_aliases": [{"ip": "192.0.2.7", "hostnames": []}]},
        "hostAliases[0].hostnames: must have at least one item (got an empty list)",
    ),
    (
        {"host_aliases": [{"ip": "192.0.2.7", "hostnames": ["https://a"]}]},
        f'hostAliases[0].hostnames[0]: {HOST} (got "https://a")',
    ),
    (
        {"host_aliases": [{"ip": "192.0.2.7", "hostnames": ["a"]}, {"ip": "192.0.2.7", "hostnames": ["b"]}]},
        'hostAliases: must not have an ip twice (got "192.0.2.7")',
    ),
    (
        {"dns_config": {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]}},
        "dnsConfig.nameservers: must have at most 3 items (got a list)",
    ),
    (
        {"dns_config": {"nameservers": ["dns.example.com"]}},
        'dnsConfig.nameservers[0]: must be an IP address, such as 192.0.2.7 (got "dns.example.com")',
    ),
    ({"dns_config": {"searches": ["A"]}}, f'dnsConfig.searches[0]: {HOST} (got "A")'),
    (
        {"dns_config": {"options": [{"name": "n dots"}]}},
        "dnsConfig.options[0].name: must be a key of letters, digits, '.', '_' and '-' (got \"n dots\")",
    ),
    (
        {"dns_policy": "Default"},
        "dnsPolicy: not supported, because pods resolve the names of the cluster. Set dnsConfig instead.",
    ),
    ({"tolerration": []}, "tolerration: unknown key. Did you mean tolerations?"),
]  # fmt: skip


def refused(args: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidArgs) as caught:
        accepted(args)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(("pod", "lines"), ROWS)
def test_rejects_with_the_full_key(pod: dict[str, Any], lines: str) -> None:
    assert refused({**ADOPTED, "pod": pod}) == [f"pod.{line}" for line in lines.splitlines()]


def test_rejects_below_every_server_at_once() -> None:
    wrong = {"host_pid": True}
    args = {
        "pod": wrong,
        "tracking": {"pod": wrong},
        "models": [{"name": "iris", "pod": wrong}],
        "backend_store": {"mysql": {"deploy": {"pod": wrong}}},
    }
    keys = ("backendStore.mysql.deploy.pod", "models[0].pod", "pod", "tracking.pod")
    assert refused(args) == [f"{key}.hostPid: {ISOLATED}" for key in keys]


def test_names_keys_in_python_s_spelling() -> None:
    with pytest.raises(InvalidArgs) as caught:
        resolve("mlflow", {"pod": {"node_name": "n1"}})
    assert str(caught.value).splitlines()[1].strip() == (
        "pod.node_name: not supported, because the pod would bypass the scheduler. Set node_selector instead."
    )


@pytest.mark.parametrize(
    ("pod", "key"),
    [
        ({"image_pull_secrets": [{"name": "registry"}]}, "imagePullSecrets[0].name"),
        ({"env_from": [{"secret_ref": {"name": "team"}}]}, "envFrom[0].secretRef.name"),
        ({"env_from": [{"config_map_ref": {"name": "team"}}]}, "envFrom[0].configMapRef.name"),
        (
            {"env": [{"name": "A", "value_from": {"secret_key_ref": {"name": "team", "key": "a"}}}]},
            "env[0].valueFrom.secretKeyRef.name",
        ),
        ({"service_account": {"name": "team"}}, "serviceAccount.name"),
    ],
)
def test_requires_the_namespace_of_existing_objects(pod: dict[str, Any], key: str) -> None:
    assert refused({"pod": pod}) == [
        f"existingNamespace: required, because pod.{key} must already exist in the namespace"
    ]
