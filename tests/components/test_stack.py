"""Exact inputs of MlflowStack's children. tests/e2e shows that a cluster accepts them."""

from fractions import Fraction

import pulumi
import pytest

import engine
from mlflow_stack import InvalidArgs, MlflowStack, MlflowStackArgs, resolve, validate
from mlflow_stack.servers import tracking


def stack(args: MlflowStackArgs, name: str = "mlflow", **options: object) -> engine.Deployment:
    return engine.deploy(lambda: MlflowStack(name, args) and None, **options)


def pod(deployment: engine.Deployment) -> dict:
    return deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]


def env(deployment: engine.Deployment) -> dict[str, str]:
    return {
        variable["name"]: variable["value"]
        for variable in pod(deployment)["containers"][0]["env"]
        if "value" in variable
    }


def test_no_args_make_a_whole_server_with_its_data_protected() -> None:
    deployment = stack({})
    kinds = [resource.type.rsplit(":", 1)[-1] for resource in deployment.registrations if resource.custom]
    assert sorted(kinds) == [
        *["ConfigMap"] * 4,
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "RandomBytes",
        *["RandomId"] * 5,
        "RandomPassword",
        "RandomPassword",
        "RandomPassword",
        "RandomString",
        "RandomString",
        "Secret",
        "Secret",
        "Secret",
        "Secret",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ]
    protected = {resource.type.rsplit(":", 1)[-1] for resource in deployment.registrations if resource.protect}
    assert protected == {"Namespace", "PersistentVolumeClaim", "RandomId"}
    claim = deployment.one("PersistentVolumeClaim").inputs
    assert claim["metadata"]["name"] == "mlflow-data"
    assert claim["metadata"]["annotations"] == {"pulumi.com/skipAwait": "true"}
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}


@pytest.mark.parametrize(
    "where", [{}, {"existing_namespace": "team", "backend_store": {"pvc": {"existing_claim": "c"}}}]
)
def test_passwords_outlive_the_servers_with_what_is_protected(where: dict) -> None:
    deployment = stack({"users": ["ann", "bob"], "passwords": {"bob": "correct horse"}, **where})
    keeper = deployment.one("RandomId", "mlflow-users")
    assert keeper.protect
    assert {urn.rsplit("::", 1)[-1] for urn in keeper.dependencies} == {
        "mlflow-password-ann",
        "mlflow-password-models",
        "mlflow-salt-ann",
        "mlflow-salt-bob",
        "mlflow-salt-models",
    }
    claims = deployment.all("PersistentVolumeClaim")
    assert all("Namespace::mlflow" in urn for claim in claims for urn in claim.dependencies)


def test_the_namespace_enforces_the_restricted_standard() -> None:
    labels = stack({"namespace": "team"}).one("Namespace").inputs["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["app.kubernetes.io/instance"] == "mlflow"


@pytest.mark.parametrize("preview", [False, True])
def test_mlflow_listens_on_loopback_and_nothing_else_of_it_is_a_port(preview: bool) -> None:
    deployment = stack({}, preview=preview)
    mlflow, proxy = pod(deployment)["containers"]
    variables = env(deployment)
    assert mlflow["command"] == ["python", "/opt/mlflow-stack-tracking/tracking_server.py"]
    assert mlflow["args"] == []
    assert "ports" not in mlflow
    assert variables["MLFLOW_HOST"] == "127.0.0.1"
    assert variables["MLFLOW_PORT"] == "5000"
    assert variables["MLFLOW_WORKERS"] == "1"
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert variables["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////mlflow/mlflow.db"
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"] == "/mlflow/artifacts"
    assert variables["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "mlflow-artifacts:/"
    assert proxy["ports"] == [
        {"name": "public", "containerPort": 8080},
        {"name": "internal", "containerPort": 8081},
    ]


def test_one_host_is_in_every_security_list() -> None:
    deployment = stack({"expose": {"host": "mlflow.test", "node_port": 30500}})
    variables = env(deployment)
    assert "mlflow.test,mlflow.test:*,mlflow,mlflow:*" in variables["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert variables["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://mlflow.test:30500"
    conf = deployment.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]
    assert "listen 8080;\n        server_name mlflow.test;" in conf
    service = deployment.one("Service", "mlflow-public").inputs["spec"]
    assert service["externalTrafficPolicy"] == "Local"
    assert service["ports"] == [{"name": "public", "port": 80, "targetPort": "public", "nodePort": 30500}]


def test_probes_go_through_the_proxy_and_differ() -> None:
    mlflow, proxy = pod(stack({}))["containers"]
    paths = [mlflow[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [(path["path"], path["port"]) for path in paths] == [
        ("/healthz", 8081),
        ("/healthz", 8081),
        ("/readyz", 8081),
    ]
    assert proxy["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "internal"}
    budget = mlflow["startupProbe"]["periodSeconds"] * mlflow["startupProbe"]["failureThreshold"]
    assert budget == 180


def test_every_container_is_hardened() -> None:
    spec = pod(stack({"backend_store": {"pvc": {"file_store": "mlruns"}}}))
    containers = [*spec["initContainers"], *spec["containers"]]
    assert [container["name"] for container in containers] == [
        "file-store",
        "schema",
        "encryption-keys",
        "mlflow",
        "proxy",
    ]
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, container["name"]
        assert container["command"], container["name"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", container["name"]
        assert {"requests", "limits"} == set(container["resources"]), container["name"]
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, container["name"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for volume in spec["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"], volume["name"]
            assert "medium" not in volume["emptyDir"], volume["name"]
    assert not any("subPath" in mount for container in containers for mount in container["volumeMounts"])


def test_the_platform_says_who_chooses_the_user() -> None:
    assert pod(stack({}))["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    openshift = stack({"platform": "openshift"})
    assert pod(openshift)["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    template = openshift.one("StatefulSet").inputs["spec"]["template"]["metadata"]
    assert template["annotations"] == {"openshift.io/required-scc": "restricted-v2"}


def test_one_pod_at_a_time_and_a_bounded_wait() -> None:
    server = stack({"rollout_timeout": "3m"}).one("StatefulSet")
    assert server.inputs["spec"]["replicas"] == 1
    assert server.inputs["spec"]["podManagementPolicy"] == "Parallel"
    assert server.delete_before_replace
    assert server.timeouts == {"create": "3m", "update": "3m"}


def test_the_sizes_have_one_place() -> None:
    deployment = stack({"max_artifact_size": "1Gi", "max_concurrent_uploads": 3})
    conf = deployment.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]
    assert "client_max_body_size 1073741824;" in conf
    assert "limit_conn uploads 3;" in conf


@pytest.mark.parametrize(("memory", "body", "scratch"), [(None, 4 * 2**20, "441Mi"), ("4Gi", 32 * 2**20, "569Mi")])
def test_request_sizes_follow_from_the_servers_memory(memory: str | None, body: int, scratch: str) -> None:
    args = {} if memory is None else {"resources": {"limits": {"memory": memory}}}
    deployment = engine.deploy(lambda: MlflowStack("mlflow", args) and None)
    assert f"client_max_body_size {body};" in deployment.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]
    pod = deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume}
    requests = {
        container["name"]: container["resources"]["requests"]["ephemeral-storage"] for container in pod["containers"]
    }
    assert (volumes["proxy-tmp"], requests["proxy"]) == (scratch, scratch)


def test_a_found_claim_is_mounted_and_not_owned() -> None:
    deployment = stack({"existing_namespace": "team", "backend_store": {"pvc": {"existing_claim": "old"}}})
    assert deployment.all("PersistentVolumeClaim") == []
    assert deployment.all("Namespace") == []
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "old"}} in pod(deployment)["volumes"]


def test_a_file_store_is_converted_before_the_schema_step() -> None:
    spec = pod(stack({"backend_store": {"pvc": {"file_store": "team/mlruns", "file_store_mount": "/mnt/mlflow"}}}))
    convert, schema, _ = spec["initContainers"]
    assert convert["command"] == ["python", "/opt/mlflow-stack/file_store.py"]
    assert {variable["name"]: variable["value"] for variable in convert["env"] if "value" in variable} == {
        "HOME": "/tmp",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "SQLITE_TMPDIR": "/mlflow",
        "DATABASE": "/mlflow/mlflow.db",
        "FILE_STORE": "/mlflow/team/mlruns",
        "FILE_STORE_MOUNT": "/mnt/mlflow",
        "ARTIFACTS": "/mlflow/artifacts",
    }
    assert schema["command"] == ["python", "/opt/mlflow-stack/sqlite_schema.py"]


def test_users_come_and_go_in_one_secret_that_keeps_its_name() -> None:
    before = stack({"users": ["ann", "bob"]}).one("Secret", "mlflow-htpasswd").inputs
    after = stack({"users": ["ann", "eve"]}).one("Secret", "mlflow-htpasswd").inputs
    lines = before["stringData"]["htpasswd"].splitlines()
    assert [line.split(":")[0] for line in lines] == ["ann", "bob", "models"]
    assert all(line.split(":")[1].startswith("{SSHA}") for line in lines)
    assert after["stringData"]["htpasswd"].splitlines()[0] == lines[0]
    assert before["metadata"]["name"] == after["metadata"]["name"] == "mlflow-htpasswd"


def test_a_rotation_is_a_keeper_of_only_that_user() -> None:
    deployment = stack({"users": ["ann", "bob"], "rotation": {"bob": 2}})
    keepers = {
        resource.name: resource.inputs["keepers"]["rotation"]
        for resource in deployment.all("RandomPassword")
        if "keepers" in resource.inputs
    }
    assert keepers == {"mlflow-password-ann": "0", "mlflow-password-bob": "2", "mlflow-password-models": "0"}
    assert {resource.inputs["length"] for resource in deployment.all("RandomPassword")} == {40}


def test_the_client_secret_is_for_callers_in_the_cluster() -> None:
    deployment = stack({"namespace": "team", "users": ["ann"], "passwords": {"ann": "correct horse"}})
    secret = deployment.one("Secret", "mlflow-client")
    assert secret.inputs["metadata"]["name"] == "mlflow-client"
    assert secret.inputs["stringData"] == {
        "MLFLOW_TRACKING_URI": "http://mlflow.team.svc",
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": "correct horse",
    }


def test_a_password_that_comes_as_an_output_is_judged_when_it_is_known() -> None:
    def program() -> None:
        MlflowStack("mlflow", {"passwords": {"mlflow": pulumi.Output.secret("short")}})

    with pytest.raises(
        InvalidArgs, match=r"^passwords\.mlflow: must be 12 to 1024 printable ASCII characters \(value not shown\)"
    ):
        engine.deploy(program)


@pytest.mark.parametrize(("host", "wrong"), [("correct horse", "must be a lower-case host name"), (5, "must be text")])
def test_never_shows_a_secret_output_of_any_field(host: object, wrong: str) -> None:
    def program() -> None:
        MlflowStack("mlflow", {"expose": {"ingress": {}, "host": pulumi.Output.secret(host)}})

    with pytest.raises(InvalidArgs, match=rf"^expose\.host: {wrong}.*\(value not shown\)$"):
        engine.deploy(program)


def test_bad_input_declares_nothing() -> None:
    recorded: list[engine.Deployment] = []
    with pytest.raises(InvalidArgs):
        engine.deploy(lambda: MlflowStack("mlflow", {"replicas": 2}) and None, into=recorded)
    assert [resource.type for resource in recorded[0].registrations if resource.type != "pulumi:pulumi:Stack"] == []


def test_two_side_by_side_share_no_name() -> None:
    def program() -> None:
        MlflowStack("red", {"existing_namespace": "team"})
        MlflowStack("blue", {"existing_namespace": "team"})

    deployment = engine.deploy(program)
    named = [
        (resource.type, resource.inputs["metadata"]["name"])
        for resource in deployment.registrations
        if "name" in resource.inputs.get("metadata", {})
    ]
    assert len(named) == len(set(named)) == 10
    selectors = [resource.inputs["spec"]["selector"]["matchLabels"] for resource in deployment.all("StatefulSet")]
    assert selectors[0] != selectors[1]


def test_the_server_runs_with_its_bounds() -> None:
    listed = ["s3://older", "file:///mlflow/mlruns"]
    deployment = stack({"artifact_locations": listed, "resources": {"limits": {"memory": "2Gi"}}})
    (pod,) = [resource for resource in deployment.registrations if resource.type.endswith(":StatefulSet")]
    spec = pod.inputs["spec"]["template"]["spec"]
    (mlflow,) = [container for container in spec["containers"] if container["name"] == "mlflow"]
    env = {variable["name"]: variable.get("value") for variable in mlflow["env"]}
    limit = str(tracking.max_body_bytes({"limits": {"memory": "2Gi"}}))
    assert env["MAX_BODY_BYTES"] == env["MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE"] == limit
    assert env["ARTIFACT_LOCATIONS"] == "s3://older\nfile:///mlflow/mlruns"
    assert env["CLAIM_LOCK"] == "/mlflow/mlflow.db.lock"
    assert env["SCRATCH_FOLDER"] == "/tmp"
    assert mlflow["livenessProbe"]["terminationGracePeriodSeconds"] == 5
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "tracking"]
    assert {item["path"] for item in volume["configMap"]["items"]} == set(tracking.programs("searches_sqlite.py"))


def test_labels_reach_every_object_and_override_none_of_ours() -> None:
    deployment = stack(
        {
            "labels": {"team": "red", "app.kubernetes.io/instance": "evil"},
            "expose": {"host": "h", "node_port": 30500},
        }
    )
    objects = [resource for resource in deployment.registrations if resource.type.startswith("kubernetes:")]
    assert len(objects) == 15
    for item in objects:
        labels = item.inputs["metadata"]["labels"]
        assert labels["team"] == "red", item.name
        assert labels["app.kubernetes.io/instance"] == "mlflow", item.name


@pytest.mark.parametrize("preview", [False, True])
def test_autonamed_configuration_is_immutable_so_that_a_change_rolls_the_pod(preview: bool) -> None:
    deployment = stack({}, preview=preview)
    for config in deployment.all("ConfigMap"):
        assert config.inputs["immutable"] is True
        assert "name" not in config.inputs["metadata"]


def test_a_quota_and_defaults_of_containers_are_the_created_namespaces() -> None:
    deployment = stack(
        {
            "namespace": "team",
            "quota": {"limits.memory": "16Gi", "count/jobs.batch": "5"},
            "container_defaults": {"limits": {"cpu": "2"}, "requests": {"cpu": "100m"}},
        }
    )
    quota, limits = deployment.one("ResourceQuota").inputs, deployment.one("LimitRange").inputs
    assert quota["metadata"]["namespace"] == limits["metadata"]["namespace"] == "team"
    assert quota["spec"] == {"hard": {"limits.memory": "16Gi", "count/jobs.batch": "5"}}
    assert limits["spec"] == {
        "limits": [{"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "100m"}}]
    }


def test_containers_reserve_and_limit_what_was_measured() -> None:
    args: MlflowStackArgs = {
        "backend_store": {"mysql": {"deploy": {}}},
        "artifact_store": {"s3": {"bucket": "team", "access_key_id": "a", "secret_access_key": "b"}},
        "models": [{"name": "iris", "uri": "models:/iris/1"}],
    }
    deployment = stack(args)
    workloads = [resource for kind in ("Deployment", "StatefulSet", "Job") for resource in deployment.all(kind)]
    pods = {workload.name: workload.inputs["spec"]["template"]["spec"] for workload in workloads}
    found = {
        f"{workload}/{container['name']}": container["resources"]
        for workload, pod in pods.items()
        for container in (*pod.get("initContainers", []), *pod["containers"])
    }
    step = {"requests": {"cpu": "20m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
    schema = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}

    def proxy(scratch: str) -> dict:
        return {
            "requests": {"cpu": "20m", "memory": "32Mi", "ephemeral-storage": scratch},
            "limits": {"memory": "128Mi"},
        }

    assert found == {
        "mlflow/database": step,
        "mlflow/encryption-keys": {"requests": {"cpu": "20m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "mlflow/mlflow": {
            "requests": {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": str(7 * 2**29)},
            "limits": {"memory": "1Gi"},
        },
        "mlflow/proxy": proxy("441Mi"),
        "mlflow-iris/fetch": {
            "requests": {"cpu": "20m", "memory": "256Mi", "ephemeral-storage": "2Gi"},
            "limits": {"memory": "1Gi"},
        },
        "mlflow-iris/model": {
            "requests": {"cpu": "100m", "memory": "384Mi", "ephemeral-storage": "256Mi"},
            "limits": {"memory": "1Gi"},
        },
        "mlflow-iris/proxy": proxy("16Mi"),
        "mlflow-database/data": schema,
        "mlflow-database/mariadb": schema,
        "mlflow-schema/check": schema,
        "mlflow-schema/dump": schema,
        "mlflow-schema/migrate": schema,
        "mlflow-bucket-check/check": {
            "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
    }


def test_stated_amounts_override_one_by_one() -> None:
    deployment = stack({"resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "2Gi", "cpu": "1"}}})
    assert pod(deployment)["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": str(512 * 2**20)},
        "limits": {"memory": "2Gi", "cpu": "1"},
    }


def test_existing_users_are_mounted_by_every_proxy() -> None:
    args: MlflowStackArgs = {
        "existing_namespace": "team",
        "users": ["ann"],
        "users_existing_secret": "people",
        "models": [{"name": "iris", "uri": "models:/iris/1"}],
    }
    deployment = engine.deploy(lambda: MlflowStack("mlflow", args) and None)
    for workload in (deployment.one("StatefulSet"), deployment.one("Deployment")):
        pod = workload.inputs["spec"]["template"]["spec"]
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "existing-users")
        assert volume["secret"]["secretName"] == "people"
        assert volume["secret"]["items"] == [{"key": "htpasswd", "path": "htpasswd"}]
        holders = [
            container["name"]
            for container in [*pod["containers"], *pod["initContainers"]]
            if "existing-users" in [mount["name"] for mount in container["volumeMounts"]]
        ]
        assert holders == ["proxy"]
    maps = [
        resource.inputs["data"] for resource in deployment.all("ConfigMap") if "nginx.conf" in resource.inputs["data"]
    ]
    assert ['"~^(ann|models)$"' in configuration["nginx.conf"] for configuration in maps] == [True, True]


def requested(spec: dict) -> dict[str, Fraction]:
    """The scheduler reserves this: the containers together, or one init container that needs more."""

    def amounts(container: dict) -> dict[str, Fraction]:
        stated = {**container["resources"]["limits"], **container["resources"]["requests"]}
        return {resource: validate.amount(amount) for resource, amount in stated.items()}

    steps = [amounts(container) for container in spec.get("initContainers", [])]
    servers = [amounts(container) for container in spec["containers"]]
    return {
        resource: max([sum(server.get(resource, 0) for server in servers), *(step.get(resource, 0) for step in steps)])
        for resource in {resource for requests in [*servers, *steps] for resource in requests}
    }


KEYS = {"access_key_id": "key", "secret_access_key": "secret"}


@pytest.mark.parametrize(
    "args",
    [
        {},
        {
            "resources": {
                "requests": {"cpu": "2", "memory": "64Mi"},
                "limits": {"memory": "4Gi", "example.com/gpu": "1"},
            }
        },
        {"backend_store": {"mysql": {"deploy": {"resources": {"requests": {"memory": "700Mi"}}}}}},
        {"artifact_store": {"s3": {"bucket": "team", **KEYS}}, "max_artifact_size": "3Gi"},
        {"artifact_store": {"s3": {"bucket": "team", "proxied": False, **KEYS}}, "max_concurrent_uploads": 9},
        {
            "models": [
                {"name": "iris", "uri": "models:/iris/1", "max_request_size": "1Gi"},
                {"name": "large", "uri": "models:/large/1", "environment": "install", "size": "9Gi", "replicas": 2},
                {"name": "paused", "uri": "models:/paused/1", "replicas": 0},
                {"name": "none"},
            ]
        },
    ],
)
def test_reservations_are_what_the_pods_request(args: MlflowStackArgs) -> None:
    deployment = stack(args)
    workloads = [*deployment.all("StatefulSet"), *deployment.all("Deployment")]
    pods = [
        workload.inputs["spec"]["template"]["spec"] for workload in workloads if workload.inputs["spec"]["replicas"]
    ]
    found = [dict(reservation.requests) for reservation in resolve("mlflow", args).reservations]
    assert sorted(map(sorted, map(dict.items, found))) == sorted(sorted(requested(spec).items()) for spec in pods)
