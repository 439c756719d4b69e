"""Exact inputs of a stack on MySQL. tests/process runs the schema Job's steps on real servers."""

import pulumi
import pytest

import engine
from mlflow_stack import InvalidArgs, MlflowStack, MlflowStackArgs, PodParts, TrackingServer
from mlflow_stack.addresses import Addresses

PASSWORD = "p@ss/w:ö r#d%&?"
EXTERNAL = {"host": "db.example.com", "port": 3307, "database": "my-db", "username": "team", "password": PASSWORD}
OPTIONS = "read_default_file=/run/mlflow-stack-mysql/client.cnf&connect_timeout=5&read_timeout=30&write_timeout=30"


def stack(mysql: dict, **args: object) -> engine.Deployment:
    wanted: MlflowStackArgs = {"backend_store": {"mysql": mysql}, **args}
    return engine.deploy(lambda: MlflowStack("mlflow", wanted) and None)


def pod(deployment: engine.Deployment, kind: str, name: str) -> dict:
    return deployment.one(kind, name).inputs["spec"]["template"]["spec"]


def env(container: dict) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def servers(replicas: int, *, exclusive: bool = False) -> engine.Deployment:
    """Tracking server without a stack, whose parts state whether several pods may mount them."""
    parts = [PodParts(exclusive=exclusive)]
    args = {"namespace": "n", "addresses": Addresses("mlflow", "n"), "parts": parts, "replicas": replicas}
    return engine.deploy(lambda: TrackingServer("mlflow", args) and None)


def test_the_password_is_in_one_secret_and_reaches_mlflow_as_a_file() -> None:
    deployment = stack(EXTERNAL)
    secret = deployment.one("Secret", "mlflow-database")
    assert secret.inputs["stringData"] == {"password": PASSWORD}
    assert secret.secret_inputs == {"stringData"}
    assert secret.inputs["immutable"] is True
    assert secret.replace_on_changes == ["stringData"]
    assert "name" not in secret.inputs["metadata"]
    holders = [resource.name for resource in deployment.registrations if PASSWORD in str(resource.inputs)]
    assert holders == ["mlflow-database"]
    spec = pod(deployment, "StatefulSet", "mlflow")
    mlflow = spec["containers"][0]
    assert env(mlflow)["MLFLOW_BACKEND_STORE_URI"] == f"mysql+pymysql://db.example.com:3307/my-db?{OPTIONS}"
    # MLflow mounts its driver's options, in memory; only the step that writes them mounts the password itself.
    mounts = {mount["name"]: mount["mountPath"] for mount in mlflow["volumeMounts"]}
    assert mounts["mysql-options"] == "/run/mlflow-stack-mysql"
    assert "mysql-password" not in mounts
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "mysql-options"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "mysql-password"]
    assert volume["secret"]["items"] == [{"key": "password", "path": "password"}]


def test_the_schema_job_runs_three_steps_before_any_server_and_again_after_a_failure() -> None:
    deployment = stack(EXTERNAL, rollout_timeout="20m")
    job = deployment.one("Job")
    assert job.inputs["metadata"]["annotations"] == {"pulumi.com/replaceUnready": "true"}
    assert job.inputs["spec"]["backoffLimit"] == 0
    assert job.timeouts == {"create": "20m", "update": "20m"}
    spec = pod(deployment, "Job", "mlflow-schema")
    assert spec["restartPolicy"] == "Never"
    steps = [*spec["initContainers"], *spec["containers"]]
    assert [(step["name"], step["command"]) for step in steps] == [
        ("check", ["python", "/opt/mlflow-stack-mysql/mysql_schema.py", "check"]),
        ("dump", ["bash", "/opt/mlflow-stack-mysql/mysql_dump.sh"]),
        ("migrate", ["python", "/opt/mlflow-stack-mysql/mysql_schema.py", "migrate"]),
    ]
    assert [step["terminationMessagePolicy"] for step in steps] == ["FallbackToLogsOnError"] * 3
    assert steps[1]["image"] == "docker.io/library/mariadb:10.11"
    target = {"HOST": "db.example.com", "PORT": "3307", "DATABASE": "my-db", "USERNAME": "team"}
    for step in (steps[0], steps[2]):
        assert target.items() <= env(step).items()
    waits = {urn.rsplit("::", 1)[-1] for urn in deployment.one("StatefulSet").dependencies}
    assert "mlflow-schema" in waits
    claims = {resource.name: resource.protect for resource in deployment.all("PersistentVolumeClaim")}
    assert claims == {"mlflow-dumps": True, "mlflow-artifacts": True}


def test_every_server_first_asks_whether_the_schema_is_its_own() -> None:
    ready, _ = pod(stack(EXTERNAL), "StatefulSet", "mlflow")["initContainers"]
    assert ready["command"] == ["python", "/opt/mlflow-stack-mysql/mysql_schema.py", "ready"]
    assert env(ready)["OPTIONS"] == "/run/mlflow-stack-mysql/client.cnf"


def test_an_authority_is_a_file_beside_every_step_and_the_server(authority: str) -> None:
    deployment = stack({**EXTERNAL, "ca": authority})
    assert deployment.one("ConfigMap", "mlflow-database-ca").inputs["data"] == {"ca.crt": authority}
    job, server = pod(deployment, "Job", "mlflow-schema"), pod(deployment, "StatefulSet", "mlflow")
    steps = [*job["initContainers"], *job["containers"], *server["initContainers"], server["containers"][0]]
    for step in steps:
        mounts = [mount["mountPath"] for mount in step["volumeMounts"]]
        assert "/etc/mlflow-stack-mysql-ca" in mounts, step["name"]
    assert env(job["initContainers"][0])["CA_FILE"] == "/etc/mlflow-stack-mysql-ca/ca.crt"


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> str:
    from process.databases import authority

    folder = tmp_path_factory.mktemp("authority")
    authority(folder)
    return (folder / "ca.pem").read_text()


def test_a_secret_that_is_there_is_used_and_none_is_made() -> None:
    adopted = {"host": "db.example.com", "existing_secret": "db"}
    deployment = stack(adopted, existing_namespace="team")
    assert deployment.all("Secret", "mlflow-database") == []
    for kind, name in (("Job", "mlflow-schema"), ("StatefulSet", "mlflow")):
        secrets = [
            volume["secret"] for volume in pod(deployment, kind, name)["volumes"] if volume["name"] == "mysql-password"
        ]
        assert [secret["secretName"] for secret in secrets] == ["db"], kind


def test_a_deployed_server_keeps_its_data_and_passwords_and_trusts_makers_of_triggers() -> None:
    deployment = stack({"deploy": {"size": "5Gi", "image": "registry.example/mariadb:10.11"}})
    server = pod(deployment, "StatefulSet", "mlflow-database")
    (data,) = server["initContainers"]
    (mariadb,) = server["containers"]
    assert (data["command"], data["args"]) == (
        ["sh", "/opt/mlflow-stack-mysql/mariadb_data.sh"],
        ["/var/lib/mysql/data"],
    )
    assert mariadb["command"] == ["mariadbd"]
    flags = {"--character-set-server=utf8mb4", "--log-bin-trust-function-creators=1", "--datadir=/var/lib/mysql/data"}
    assert flags <= set(mariadb["args"])
    assert server["terminationGracePeriodSeconds"] == 120
    claim = deployment.one("PersistentVolumeClaim", "mlflow-database")
    assert claim.protect
    assert claim.inputs["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    kept = {urn.rsplit("::", 1)[-1] for urn in claim.dependencies}
    assert {"mlflow-database-mlflow", "mlflow-database-root"} <= kept
    own = deployment.one("Secret", "mlflow-database").inputs["stringData"]["password"]
    statements = deployment.one("Secret", "mlflow-database-server").inputs["stringData"]["init.sql"].splitlines()
    assert f"ALTER USER 'mlflow'@'%' IDENTIFIED BY '{own}';" in statements
    assert len(own) == 40
    holders = {
        resource.name for resource in deployment.registrations if resource.custom and own in str(resource.inputs)
    }
    assert holders == {"mlflow-database", "mlflow-database-server"}
    job = pod(deployment, "Job", "mlflow-schema")
    assert job["initContainers"][1]["image"] == "registry.example/mariadb:10.11"
    assert env(job["containers"][0])["HOST"] == "mlflow-database"
    waits = {urn.rsplit("::", 1)[-1] for urn in deployment.one("Job").dependencies}
    assert "mlflow-database" in waits


def test_raising_the_rotation_renews_both_passwords_of_a_deployed_server() -> None:
    made = stack({"deploy": {"rotation": 2}}).all("RandomPassword")
    keepers = {resource.name: resource.inputs["keepers"] for resource in made if "database" in resource.name}
    assert keepers == {name: {"rotation": "2"} for name in ("mlflow-database-mlflow", "mlflow-database-root")}


def test_only_servers_and_the_schema_job_reach_a_deployed_server_which_reaches_nothing() -> None:
    deployment = stack({"deploy": {}})
    database = {"app.kubernetes.io/component": "database"}
    spec = deployment.one("NetworkPolicy", "mlflow-database").inputs["spec"]
    assert database.items() <= spec["podSelector"]["matchLabels"].items()
    (rule,) = spec["ingress"]
    peers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]}
    assert (rule["ports"], peers) == ([{"port": 3306, "protocol": "TCP"}], {"tracking", "schema"})
    assert len(spec["egress"]) == 1  # DNS
    for name in ("mlflow-schema", "mlflow"):
        egress = deployment.one("NetworkPolicy", name).inputs["spec"]["egress"]
        (own,) = [rule for rule in egress if rule["ports"] == [{"port": 3306, "protocol": "TCP"}]]
        assert database.items() <= own["to"][0]["podSelector"]["matchLabels"].items(), name
    assert deployment.one("NetworkPolicy", "mlflow-schema").inputs["spec"]["ingress"] == []


def test_a_password_that_comes_as_an_output_is_judged_when_it_is_known() -> None:
    def program() -> None:
        MlflowStack(
            "mlflow", {"backend_store": {"mysql": {"host": "db", "password": pulumi.Output.secret("two\nlines")}}}
        )

    refusal = r"^backend_store\.mysql\.password: must be 1 to 256 printable characters \(value not shown\)"
    with pytest.raises(InvalidArgs, match=refusal):
        engine.deploy(program)


def test_parts_that_several_pods_may_have_make_a_deployment_that_never_has_too_few() -> None:
    one = servers(1)
    spec = one.one("Deployment").inputs["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert one.all("PodDisruptionBudget") == []
    three = servers(3)
    spec = three.one("Deployment").inputs["spec"]
    assert spec["replicas"] == 3
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    budget = three.one("PodDisruptionBudget").inputs["spec"]
    assert budget == {"maxUnavailable": 1, "selector": spec["selector"]}


def test_a_part_for_a_single_pod_gives_a_stateful_set_and_refuses_replicas() -> None:
    assert servers(1, exclusive=True).one("StatefulSet").inputs["spec"]["replicas"] == 1
    with pytest.raises(
        InvalidArgs, match=r"replicas: must be 1, because one of the parts supports only one pod \(got 2\)"
    ):
        servers(2, exclusive=True)


@pytest.mark.parametrize(("exclusive", "server", "nginx"), [(False, "7", "sleep 5; nginx "), (True, "2", "nginx ")])
def test_a_pod_that_another_one_replaces_still_takes_requests_for_a_while(
    exclusive: bool, server: str, nginx: str
) -> None:
    store = {"pvc": {}} if exclusive else {"mysql": {"host": "db.example.com", "password": "x"}}
    bucket = {"s3": {"bucket": "runs", "access_key_id": "i", "secret_access_key": "s"}}
    wanted: MlflowStackArgs = {"backend_store": store, "artifact_store": bucket}
    deployment = engine.deploy(lambda: MlflowStack("mlflow", wanted) and None)
    mlflow, proxy = pod(deployment, "StatefulSet" if exclusive else "Deployment", "mlflow")["containers"]
    assert mlflow["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", server]
    assert proxy["lifecycle"]["preStop"]["exec"]["command"][-1].startswith(nginx)
