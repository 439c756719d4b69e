"""Exact inputs of a model server's children. tests/e2e shows that they work."""

import json

import pulumi
import pytest

import engine
from mlflow_stack import Addresses, MlflowStack, ModelServer

RUN = "0123456789abcdef0123456789abcdef"
IRIS = {"name": "iris", "uri": "models:/iris/2"}
NODEPORT = {"expose": {"host": "mlflow.test", "node_port": 30500}}


def stack(*models: dict, preview: bool = False, **args: object) -> engine.Deployment:
    def program() -> None:
        made = MlflowStack("mlflow", {"models": [*models], **args})
        pulumi.export("modelUrls", made.model_urls)
        pulumi.export("modelUris", made.model_uris)

    return engine.deploy(program, preview=preview)


def pod(deployment: engine.Deployment, model: str = "iris") -> dict:
    return deployment.one("Deployment", f"mlflow-{model}").inputs["spec"]["template"]["spec"]


def env(container: dict) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def of(deployment: engine.Deployment, model: str) -> list[str]:
    """Return the kinds of the resources that a model adds."""
    prefix = f"mlflow-{model}"
    return sorted(
        resource.type.rsplit(":", 1)[-1]
        for resource in deployment.registrations
        if resource.name == prefix or resource.name.startswith(f"{prefix}-")
    )


@pytest.mark.parametrize("preview", [False, True])
def test_a_model_is_seven_resources_and_shares_its_programs(preview: bool) -> None:
    deployment = stack(IRIS, {"name": "wine", "uri": "models:/wine/1"}, preview=preview)
    seven = ["AuthProxy", "ConfigMap", "Deployment", "ModelServer", "NetworkPolicy", "Service", "ServiceAccount"]
    assert of(deployment, "iris") == of(deployment, "wine") == seven
    programs = deployment.one("ConfigMap", "mlflow-programs").inputs
    assert sorted(programs["data"]) == [
        "fetch_model.py",
        "install_libraries.py",
        "model_server.py",
        "model_volume.py",
        "prediction_size.py",
    ]
    assert programs["immutable"] is True
    assert stack().all("ConfigMap", "mlflow-programs") == []


def test_a_model_without_a_uri_has_no_servers_yet() -> None:
    deployment = stack({"name": "later"})
    assert deployment.one("Deployment", "mlflow-later").inputs["spec"]["replicas"] == 0
    assert deployment.one("Service", "mlflow-later").inputs["metadata"]["name"] == "mlflow-later"


def test_the_server_s_container_has_no_credential_and_the_fetching_one_has_the_machine_user_s() -> None:
    spec = pod(stack({**IRIS, "environment": "install"}))
    fetch, install = spec["initContainers"]
    model, proxy = spec["containers"]
    assert [container["name"] for container in (fetch, install, model, proxy)] == ["fetch", "install", "model", "proxy"]
    mounts = {
        container["name"]: {mount["name"] for mount in container["volumeMounts"]}
        for container in (fetch, install, model, proxy)
    }
    assert mounts == {
        "fetch": {"model", "programs", "step-tmp", "registry"},
        "install": {"model", "programs", "step-tmp"},
        "model": {"model", "programs", "tmp"},
        "proxy": {"proxy", "htpasswd", "proxy-tmp"},
    }
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    assert secrets == {"registry": "mlflow-models", "htpasswd": "mlflow-htpasswd"}
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in model["volumeMounts"]
    assert all(
        set(variable) == {"name", "value"} for container in (fetch, install, model) for variable in container["env"]
    )
    assert env(model) == {
        "MODEL_URI": "models:/iris/2",
        "VOLUME": "/model",
        "PORT": "5000",
        "MAX_REQUEST_BYTES": "20971520",
        "REQUEST_SECONDS": "60",
        "DRAIN_SECONDS": "60",
        "PREDICTIONS": "8",
        "MEMORY_BYTES": "1073741824",
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "1000000",
        "MLFLOW_TRACKING_URI": "none://this-model-server-has-no-tracking-server",
        "PYTHONPATH": "/model/libraries",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HOME": "/tmp",
        "USER": "model",
        "LOGNAME": "model",
    }
    assert env(fetch)["MLFLOW_TRACKING_URI"] == "http://mlflow.mlflow.svc"
    assert env(fetch)["CREDENTIALS"] == "/etc/mlflow-stack-registry"


def test_every_container_has_a_user_name_and_a_writable_working_folder() -> None:
    spec = pod(stack({**IRIS, "environment": "install"}))
    for container in (*spec["initContainers"], spec["containers"][0]):
        assert container["workingDir"] == env(container)["HOME"] == "/tmp"
        assert env(container)["USER"] == env(container)["LOGNAME"] == "model"
        assert any(mount["mountPath"] == "/tmp" and not mount.get("readOnly") for mount in container["volumeMounts"])


def test_the_steps_are_bounded_and_reserve_little() -> None:
    spec = pod(stack({**IRIS, "environment": "install", "size": "3Gi"}))
    assert [container["resources"] for container in spec["initContainers"]] == [
        {"requests": {"cpu": "20m", "memory": "256Mi", "ephemeral-storage": "3Gi"}, "limits": {"memory": "1Gi"}}
    ] * 2
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "384Mi", "ephemeral-storage": "256Mi"},
        "limits": {"memory": "1Gi"},
    }


def test_the_server_knows_its_own_memory_and_limits() -> None:
    model = {
        **IRIS,
        "resources": {"limits": {"memory": "3Gi"}},
        "request_timeout": "2m",
        "max_concurrent_predictions": 3,
        "max_request_size": "1Mi",
    }
    deployment = stack(model)
    variables = env(pod(deployment)["containers"][0])
    names = ("MEMORY_BYTES", "REQUEST_SECONDS", "PREDICTIONS", "MAX_REQUEST_BYTES")
    assert [variables[name] for name in names] == ["3221225472", "120", "3", "1048576"]
    conf = deployment.one("ConfigMap", "mlflow-iris-proxy").inputs["data"]["nginx.conf"]
    # nginx waits a little longer than the server, which answers at its limit.
    assert conf.count("proxy_read_timeout 135s;") == 1
    assert conf.count("proxy_ignore_client_abort off;") == 1


@pytest.mark.parametrize(("timeout", "drain"), [("5s", 50), ("2m", 120), ("1h", 600)])
def test_a_pod_that_ends_waits_for_its_predictions(timeout: str, drain: int) -> None:
    deployment = stack({**IRIS, "request_timeout": timeout})
    assert pod(deployment)["terminationGracePeriodSeconds"] == drain + 10
    assert env(pod(deployment)["containers"][0])["DRAIN_SECONDS"] == str(drain)
    conf = deployment.one("ConfigMap", "mlflow-iris-proxy").inputs["data"]["nginx.conf"]
    assert f"worker_shutdown_timeout {drain}s;" in conf


def test_a_model_has_variables_of_its_own() -> None:
    variables = [
        {"name": "REGION", "value": "north"},
        {"name": "API_KEY", "value_from": {"secret_key_ref": {"name": "provider", "key": "key"}}},
        {"name": "MODE", "value_from": {"config_map_key_ref": {"name": "settings", "key": "mode"}}},
    ]
    spec = pod(stack({**IRIS, "env": variables}, existing_namespace="team"))
    assert spec["containers"][0]["env"][-3:] == [
        {"name": "REGION", "value": "north"},
        {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "provider", "key": "key"}}},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
    ]
    others = [*spec["initContainers"], spec["containers"][1]]
    assert not any(
        variable["name"] in ("REGION", "API_KEY", "MODE") for other in others for variable in other.get("env", [])
    )


def test_the_stack_s_egress_is_opened_for_models_too() -> None:
    egress = [{"cidr": "192.0.2.0/24", "port": 443}, {"cidr": "198.51.100.7/32", "port": 5432}]
    policy = stack(IRIS, egress=egress).one("NetworkPolicy", "mlflow-iris").inputs["spec"]
    opened = {rule["ports"][0]["port"]: rule["to"] for rule in policy["egress"][2:]}
    assert opened == {
        443: [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        5432: [{"ipBlock": {"cidr": "198.51.100.7/32"}}],
    }


def test_the_machine_user_s_secret_has_only_its_password() -> None:
    secret = stack(users=["ann"]).one("Secret", "mlflow-models")
    assert secret.inputs["metadata"]["name"] == "mlflow-models"
    assert secret.inputs["stringData"]["MLFLOW_TRACKING_USERNAME"] == "models"
    assert secret.secret_inputs == {"stringData"}


def test_the_pod_asks_the_tracking_server_and_nothing_else() -> None:
    policy = stack(IRIS).one("NetworkPolicy", "mlflow-iris").inputs["spec"]
    assert policy["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "mlflow",
        "app.kubernetes.io/instance": "mlflow",
        "app.kubernetes.io/component": "model",
        "mlflow-stack/model": "iris",
    }
    dns, registry = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53, 5353}
    assert registry["ports"] == [{"port": 8081, "protocol": "TCP"}]
    assert registry["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "tracking"


def test_libraries_and_buckets_are_asked_where_they_are_used() -> None:
    bucket = {
        "name": "iris",
        "uri": "s3://models/iris",
        "s3_existing_secret": "keys",
        "s3_endpoint_url": "http://minio.minio.svc:9000",
        "environment": "install",
        "index_url": "http://index.example:8080/simple/",
    }
    deployment = stack(bucket, existing_namespace="team")
    policy = deployment.one("NetworkPolicy", "mlflow-iris").inputs["spec"]
    assert [rule["ports"][0]["port"] for rule in policy["egress"][1:]] == [9000, 8080]
    fetch, install = pod(deployment)["initContainers"]
    assert env(fetch)["AWS_SHARED_CREDENTIALS_FILE"] == "/etc/mlflow-stack-s3/credentials"
    assert env(fetch)["MLFLOW_S3_ENDPOINT_URL"] == "http://minio.minio.svc:9000"
    assert env(install)["INDEX_URL"] == "http://index.example:8080/simple/"
    assert {"name": "s3-keys", "secret": {"secretName": "keys", "defaultMode": 0o440}} in pod(deployment)["volumes"]


def test_a_new_version_is_ready_before_the_old_one_ends() -> None:
    server = stack({**IRIS, "rollout_timeout": "4m", "load_timeout": "90s"}).one("Deployment", "mlflow-iris")
    assert server.inputs["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert server.inputs["spec"]["progressDeadlineSeconds"] == 240
    assert server.timeouts == {"create": "4m", "update": "4m"}
    model = server.inputs["spec"]["template"]["spec"]["containers"][0]
    assert model["startupProbe"]["periodSeconds"] * model["startupProbe"]["failureThreshold"] == 90
    paths = [model[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")]
    assert paths == ["/healthz", "/healthz", "/readyz"]
    liveness, readiness = model["livenessProbe"], model["readinessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60
    assert readiness["periodSeconds"] * readiness["failureThreshold"] == 10
    assert model["terminationMessagePolicy"] == "FallbackToLogsOnError"
    proxy = server.inputs["spec"]["template"]["spec"]["containers"][1]
    assert model["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert proxy["lifecycle"]["preStop"]["exec"]["command"][-1].startswith("sleep 5; nginx ")


def test_several_servers_are_spread_and_kept_and_one_is_not() -> None:
    deployment = stack({**IRIS, "replicas": 2})
    budget = deployment.one("PodDisruptionBudget", "mlflow-iris").inputs["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"]["mlflow-stack/model"] == "iris"
    (spread,) = pod(deployment)["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    one = stack(IRIS)
    assert one.all("PodDisruptionBudget") == []
    assert pod(one).get("topologySpreadConstraints", []) == []


def test_an_autoscaled_model_states_no_number_of_its_own() -> None:
    deployment = stack({**IRIS, "autoscale": {"max_replicas": 4, "cpu_percent": 70}})
    assert "replicas" not in deployment.one("Deployment", "mlflow-iris").inputs["spec"]
    scaler = deployment.one("HorizontalPodAutoscaler", "mlflow-iris").inputs["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 4)
    assert scaler["scaleTargetRef"]["name"] == "mlflow-iris-abcd1234"
    assert scaler["metrics"][0]["containerResource"]["target"]["averageUtilization"] == 70
    assert len(deployment.all("PodDisruptionBudget")) == 1


def test_each_model_has_its_own_address_and_proxy() -> None:
    deployment = stack({**IRIS, "node_port": 30510}, {"name": "wine"}, **NODEPORT)
    conf = deployment.one("ConfigMap", "mlflow-iris-proxy").inputs["data"]["nginx.conf"]
    assert "location ~ ^/serving/iris/invocations$ {" in conf
    assert "server_name mlflow-iris mlflow-iris.mlflow mlflow-iris.mlflow.svc" in conf
    assert "server_name mlflow.test;" in conf
    assert "client_max_body_size 20971520;" in conf
    nodes = deployment.one("Service", "mlflow-iris-nodes").inputs
    assert nodes["spec"]["ports"] == [{"name": "public", "port": 80, "targetPort": "public", "nodePort": 30510}]
    assert nodes["spec"]["externalTrafficPolicy"] == "Local"
    service = deployment.one("Service", "mlflow-iris").inputs["spec"]
    assert service["ports"] == [
        {"name": "http", "port": 80, "targetPort": "internal"},
        {"name": "public", "port": 8080, "targetPort": "public"},
    ]
    assert deployment.outputs["modelUrls"]["value"] == {
        "iris": "http://mlflow.test:30510/serving/iris",
        "wine": "http://mlflow-wine.mlflow.svc/serving/wine",
    }
    assert deployment.outputs["modelUris"]["value"] == {"iris": "models:/iris/2", "wine": ""}


def test_a_pinned_alias_is_one_version_everywhere() -> None:
    deployment = stack({"name": "iris", "uri": "models:/iris@champion", "version": 7.0})
    spec = pod(deployment)
    assert env(spec["initContainers"][0])["MODEL_URI"] == env(spec["containers"][0])["MODEL_URI"] == "models:/iris/7"
    assert deployment.outputs["modelUris"]["value"] == {"iris": "models:/iris/7"}


def test_adding_a_model_changes_nothing_of_another() -> None:
    def objects(deployment: engine.Deployment) -> set[str]:
        return {
            json.dumps([resource.type, resource.name, resource.inputs], sort_keys=True)
            for resource in deployment.registrations
        }

    one, two = objects(stack(IRIS)), objects(stack({"name": "wine"}, IRIS))
    assert one <= two


def test_a_model_server_works_with_another_registry() -> None:
    def program() -> None:
        ModelServer(
            "fraud",
            {
                "namespace": "team",
                "model": {"name": "fraud", "uri": f"runs:/{RUN}/model", "image": "registry.example/fraud:1"},
                "addresses": Addresses("fraud", "team"),
                "htpasswd": "users",
                "tracking_uri": "https://mlflow.example.com:8443",
                "existing_secret": pulumi.Output.from_input("registry-user"),
            },
        )

    deployment = engine.deploy(program)
    assert len(deployment.all("ConfigMap", "fraud-programs")) == 1
    spec = deployment.one("Deployment").inputs["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "registry.example/fraud:1"
    assert {"name": "registry", "secret": {"secretName": "registry-user", "defaultMode": 0o440}} in spec["volumes"]
    egress = deployment.one("NetworkPolicy").inputs["spec"]["egress"][1]
    assert egress["ports"] == [{"port": 8443, "protocol": "TCP"}]
    assert "podSelector" not in egress["to"][0]
