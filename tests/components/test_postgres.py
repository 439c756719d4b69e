"""Exact inputs of a stack on PostgreSQL. tests/process runs the schema Job's steps on a real server."""

import pytest

import engine
from mlflow_stack import MlflowStack, MlflowStackArgs

PASSWORD = "p@ss/w:ö r#d%&?"
EXTERNAL = {"host": "db.example.com", "port": 5433, "database": "my-db", "username": "a@b", "password": PASSWORD}
CA = (engine.PROJECT / "tests" / "components" / "ca.pem").read_text()
KEEPALIVES = "keepalives_idle=10&keepalives_interval=5&keepalives_count=4&tcp_user_timeout=30000"


def stack(postgres: dict, **args: object) -> engine.Deployment:
    wanted: MlflowStackArgs = {"backend_store": {"postgres": postgres}, **args}
    return engine.deploy(lambda: MlflowStack("mlflow", wanted) and None)


def pod(deployment: engine.Deployment, kind: str, name: str) -> dict:
    return deployment.one(kind, name).inputs["spec"]["template"]["spec"]


def env(container: dict) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def uri(deployment: engine.Deployment) -> str:
    return env(pod(deployment, "StatefulSet", "mlflow")["containers"][0])["MLFLOW_BACKEND_STORE_URI"]


def test_the_password_is_in_one_secret_and_reaches_mlflow_as_a_file() -> None:
    deployment = stack(EXTERNAL)
    secret = deployment.one("Secret", "mlflow-database")
    assert secret.inputs["stringData"] == {"password": PASSWORD}
    assert secret.secret_inputs == {"stringData"}
    holders = [resource.name for resource in deployment.registrations if PASSWORD in str(resource.inputs)]
    assert holders == ["mlflow-database"]
    file = "passfile=/run/mlflow-stack-postgres/pgpass"
    assert uri(deployment) == (
        f"postgresql+psycopg2://a%40b@db.example.com:5433/my-db?{file}&sslmode=prefer&{KEEPALIVES}"
    )
    spec = pod(deployment, "StatefulSet", "mlflow")
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["postgres-options"] == "/run/mlflow-stack-postgres"
    assert "postgres-password" not in mounts
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["postgres-options"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    assert volumes["postgres-password"]["secret"]["items"] == [{"key": "password", "path": "password"}]


def test_the_schema_job_runs_three_steps_before_any_server() -> None:
    deployment = stack(EXTERNAL, rollout_timeout="20m")
    spec = pod(deployment, "Job", "mlflow-schema")
    steps = [*spec["initContainers"], *spec["containers"]]
    assert [(step["name"], step["command"]) for step in steps] == [
        ("check", ["python", "/opt/mlflow-stack-postgres/postgres_schema.py", "check"]),
        ("dump", ["bash", "/opt/mlflow-stack-postgres/postgres_dump.sh"]),
        ("migrate", ["python", "/opt/mlflow-stack-postgres/postgres_schema.py", "migrate"]),
    ]
    assert steps[1]["image"] == "docker.io/library/postgres:18"
    assert env(steps[0]) == {
        "HOST": "db.example.com",
        "PORT": "5433",
        "DATABASE": "my-db",
        "USERNAME": "a@b",
        "PASSWORD_FILE": "/etc/mlflow-stack-postgres/password",
        "SSLMODE": "prefer",
        "HOME": "/tmp",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WORK": "/work",
    }
    programs = deployment.one("ConfigMap", "mlflow-schema").inputs["data"]
    assert set(programs) == {"postgres_schema.py", "postgres_dump.sh", "sql_schema.py", "revisions.py"}
    waits = {urn.rsplit("::", 1)[-1] for urn in deployment.one("StatefulSet").dependencies}
    assert "mlflow-schema" in waits
    claims = {resource.name: resource.protect for resource in deployment.all("PersistentVolumeClaim")}
    assert claims == {"mlflow-postgres-dumps": True, "mlflow-artifacts": True}


def test_every_pod_checks_the_schema_before_its_server() -> None:
    deployment = stack(EXTERNAL)
    ready, _ = pod(deployment, "StatefulSet", "mlflow")["initContainers"]
    assert ready["command"] == ["python", "/opt/mlflow-stack-postgres/postgres_schema.py", "ready"]
    assert env(ready)["OPTIONS"] == "/run/mlflow-stack-postgres/pgpass"
    assert "searches_postgresql.py" in deployment.one("ConfigMap", "mlflow-tracking").inputs["data"]


@pytest.mark.parametrize(
    ("given", "sslmode"),
    [
        ({"sslmode": "disable"}, "disable"),
        ({"sslmode": "require"}, "require"),
        ({"ca": CA}, "verify-full"),
        ({"ca": CA, "sslmode": "verify-ca"}, "verify-ca"),
    ],
)
def test_the_connection_is_protected_alike_in_steps_and_server(given: dict, sslmode: str) -> None:
    deployment = stack({**EXTERNAL, **given})
    job, server = pod(deployment, "Job", "mlflow-schema"), pod(deployment, "StatefulSet", "mlflow")
    file = "/etc/mlflow-stack-postgres-ca/ca.crt"
    trusted = f"&sslrootcert={file}" if "ca" in given else ""
    assert f"&sslmode={sslmode}{trusted}&" in uri(deployment)
    for step in (job["initContainers"][0], *job["containers"], server["initContainers"][0]):
        assert env(step)["SSLMODE"] == sslmode
        assert env(step).get("CA_FILE") == (file if "ca" in given else None)
    for container in (*job["initContainers"], *job["containers"], server["initContainers"][0], server["containers"][0]):
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert ("/etc/mlflow-stack-postgres-ca" in mounts) == ("ca" in given), container["name"]


def test_an_existing_secret_is_mounted_and_none_is_created() -> None:
    deployment = stack({"host": "db.example.com", "existing_secret": "db"}, existing_namespace="team")
    assert deployment.all("Secret", "mlflow-database") == []
    for kind, name in (("Job", "mlflow-schema"), ("StatefulSet", "mlflow")):
        volumes = {volume["name"]: volume for volume in pod(deployment, kind, name)["volumes"]}
        assert volumes["postgres-password"]["secret"]["secretName"] == "db", kind


def test_only_the_port_of_the_database_is_opened() -> None:
    deployment = stack(EXTERNAL)
    for name in ("mlflow-schema", "mlflow"):
        egress = deployment.one("NetworkPolicy", name).inputs["spec"]["egress"]
        ports = [rule["ports"] for rule in egress]
        assert [{"port": 5433, "protocol": "TCP"}] in ports, name
        assert len(ports) == 2, name  # DNS


def test_the_data_have_the_identity_of_the_database() -> None:
    guard = stack(EXTERNAL).one("RandomId", "mlflow-records-identity")
    assert guard.protect
    assert guard.inputs["keepers"] == {"identity": "postgres://db.example.com:5433/my-db"}


def test_several_servers_share_a_database() -> None:
    bucket = {"s3": {"bucket": "runs", "access_key_id": "i", "secret_access_key": "s"}}
    deployment = stack(EXTERNAL, artifact_store=bucket, replicas=3)
    assert deployment.one("Deployment", "mlflow").inputs["spec"]["replicas"] == 3
