"""Exact inputs of the artifact stores' objects. tests/process and tests/e2e show that S3 works with them."""

import json

import pytest

import engine
from mlflow_stack import Context, InvalidArgs, MlflowStack, S3Artifacts

BUCKET = {"bucket": "team", "prefix": "vision", "access_key_id": "AKIA1", "secret_access_key": "canary/+="}
PLACE = {"context": Context("team"), "largest": 2**30, "scratch_bytes": 2**30}


def stack(s3: dict, **args: object) -> engine.Deployment:
    return engine.deploy(lambda: MlflowStack("mlflow", {"artifact_store": {"s3": {**BUCKET, **s3}}, **args}) and None)


def server(deployment: engine.Deployment) -> dict:
    return deployment.one("StatefulSet").inputs["spec"]["template"]["spec"]


def env(container: dict) -> dict[str, str]:
    assert len({variable["name"] for variable in container["env"]}) == len(container["env"])
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def test_the_server_knows_the_bucket_and_its_keys_are_a_file_of_a_secret() -> None:
    deployment = stack({"endpoint_url": "https://a3s.fi", "region": "regionOne", "addressing": "path"})
    pod = server(deployment)
    mlflow = pod["containers"][0]
    wanted = {
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/vision",
        "MLFLOW_S3_ENDPOINT_URL": "https://a3s.fi",
        "AWS_DEFAULT_REGION": "regionOne",
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/mlflow-stack-s3/credentials",
    }
    assert wanted.items() <= env(mlflow).items()
    assert {"name": "s3-keys", "mountPath": "/etc/mlflow-stack-s3", "readOnly": True} in mlflow["volumeMounts"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "s3-keys"]
    secret = deployment.one("Secret", "mlflow-s3")
    assert volume["secret"] == {"secretName": "mlflow-s3-abcd1234", "defaultMode": 0o440}
    assert secret.inputs["stringData"] == {
        "credentials": "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = canary/+=\n"
    }
    assert secret.secret_inputs == {"stringData"}
    assert secret.inputs["immutable"]
    assert secret.replace_on_changes == ["data", "stringData"]
    others = [resource.inputs for resource in deployment.registrations if resource is not secret]
    assert "canary" not in json.dumps(others)
    assert "AKIA1" not in json.dumps(others)


def test_aws_itself_needs_no_address_and_gets_its_checksums() -> None:
    variables = env(server(stack({}))["containers"][0])
    assert variables["AWS_DEFAULT_REGION"] == "us-east-1"
    assert not {"MLFLOW_S3_ENDPOINT_URL", "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_CA_BUNDLE"} & set(variables)


def test_a_secret_that_is_there_is_mounted_and_none_is_made() -> None:
    adopted = {"existing_secret": "bucket-keys", "access_key_id": None, "secret_access_key": None}
    deployment = stack(adopted, existing_namespace="team")
    assert not deployment.all("Secret", "mlflow-s3")
    (volume,) = [volume for volume in server(deployment)["volumes"] if volume["name"] == "s3-keys"]
    assert volume["secret"]["secretName"] == "bucket-keys"


def test_tmp_holds_what_may_pass_through_it() -> None:
    deployment = stack({}, max_artifact_size="1Gi", max_concurrent_uploads=3)
    pod = server(deployment)
    (tmp,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    size = str(512 * 2**20 + (3 + 1) * 2**30)
    assert tmp["emptyDir"] == {"sizeLimit": size}
    mlflow = pod["containers"][0]
    assert mlflow["resources"]["requests"]["ephemeral-storage"] == size
    assert env(mlflow)["SPOOL_LARGEST"] == str(2**30)
    assert env(mlflow)["SPOOL_BYTES"] == str(2**30)
    assert env(mlflow)["PYTHONPATH"] == "/opt/mlflow-stack-s3:/opt/mlflow-stack-tracking"
    scripts = deployment.one("ConfigMap", "mlflow-s3-scripts").inputs["data"]
    assert "s3 = s3_spool:Repository" in scripts["mlflow_stack_s3-1.dist-info_entry_points.txt"]


@pytest.mark.parametrize(
    ("s3", "args", "tmp", "downloads"),
    [
        ({}, {}, 7 * 2**29, 2**30),
        ({}, {"max_artifact_size": "100Mi"}, 512 * 2**20 + 2 * 100 * 2**20 + 2**30, 2**30),
        ({}, {"max_artifact_size": "10Gi"}, 512 * 2**20 + 30 * 2**30, 10 * 2**30),
        ({"proxied": False}, {"max_artifact_size": "2Gi"}, 5 * 2**29, 2 * 2**30),
    ],
    ids=["default", "small", "large", "direct"],
)
def test_scratch_follows_from_artifact_size(s3: dict, args: dict, tmp: int, downloads: int) -> None:
    pod = server(stack(s3, **args))
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert volume["emptyDir"] == {"sizeLimit": str(tmp)}
    assert pod["containers"][0]["resources"]["requests"]["ephemeral-storage"] == str(tmp)
    assert env(pod["containers"][0])["SPOOL_BYTES"] == str(downloads)


def test_default_artifact_size_is_smaller_with_a_bucket() -> None:
    bucket = stack({}).one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]
    claim = engine.deploy(lambda: MlflowStack("mlflow", {}) and None)
    assert f"client_max_body_size {2**30};" in bucket
    assert f"client_max_body_size {10 * 2**30};" in claim.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]


def test_on_a_claim_tmp_stays_small() -> None:
    deployment = engine.deploy(lambda: MlflowStack("mlflow", {"max_artifact_size": "100Gi"}) and None)
    (tmp,) = [volume for volume in server(deployment)["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"] == {"sizeLimit": str(512 * 2**20)}


@pytest.mark.parametrize(
    ("args", "offered"),
    [
        ({}, True),
        ({"endpoint_url": "https://a3s.fi"}, True),
        ({"endpoint_url": "https://8.8.8.8"}, True),
        ({"endpoint_url": "http://minio:9000"}, False),
        ({"endpoint_url": "http://minio.minio.svc:9000"}, False),
        ({"endpoint_url": "http://minio.minio.svc.cluster.local:9000"}, False),
        ({"endpoint_url": "http://10.1.2.3:9000"}, False),
        ({"endpoint_url": "http://10.1.2.3:9000", "presigned": True}, True),
        ({"endpoint_url": "https://a3s.fi", "presigned": False}, False),
    ],
)
def test_signed_addresses_are_offered_where_clients_reach_the_server(args: dict, offered: bool) -> None:
    deployment = stack(args)
    conf = deployment.one("ConfigMap", "mlflow-proxy").inputs["data"]["nginx.conf"]
    assert ("multipart_downloads_enabled" not in conf) is offered
    variables = env(server(deployment)["containers"][0])
    assert variables["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] == str(offered).lower()
    assert variables["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == str(offered).lower()


def test_unproxied_clients_get_the_address_and_bring_keys_of_their_own() -> None:
    deployment = stack({"endpoint_url": "https://a3s.fi", "proxied": False})
    variables = env(server(deployment)["containers"][0])
    assert variables["MLFLOW_SERVE_ARTIFACTS"] == "false"
    assert variables["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "s3://team/vision"
    proxied = ("ARTIFACTS_DESTINATION", "ENABLE_PROXY_MULTIPART_UPLOAD", "ENABLE_PROXY_MULTIPART_DOWNLOAD")
    assert not {f"MLFLOW_{variable}" for variable in proxied} & set(variables)
    wanted = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "auto",
        "MLFLOW_S3_ENDPOINT_URL": "https://a3s.fi",
    }
    client = deployment.one("Secret", "mlflow-client").inputs["stringData"]
    tracking = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    assert {name: value for name, value in client.items() if name not in tracking} == wanted


def test_proxied_clients_need_nothing_of_the_bucket() -> None:
    client = stack({"endpoint_url": "https://a3s.fi"}).one("Secret", "mlflow-client").inputs["stringData"]
    assert set(client) == {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}


def test_the_bucket_is_checked_before_the_server_starts() -> None:
    deployment = stack({"endpoint_url": "http://minio.minio.svc:9000"})
    job = deployment.one("Job", "mlflow-bucket-check")
    assert job.inputs["metadata"]["annotations"] == {"pulumi.com/replaceUnready": "true"}
    assert job.inputs["spec"]["backoffLimit"] == 0
    assert job.inputs["spec"]["activeDeadlineSeconds"] == 120
    (container,) = job.inputs["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "/opt/mlflow-stack-s3/s3_check.py"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert env(container)["S3_ROOT"] == "s3://team/vision"
    assert any("Job::mlflow-bucket-check" in urn for urn in deployment.one("StatefulSet").dependencies)
    policy = deployment.one("NetworkPolicy", "mlflow-bucket-check").inputs["spec"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "bucket-check"
    assert policy["ingress"] == []
    assert policy["egress"][1]["ports"] == [{"port": 9000, "protocol": "TCP"}]
    assert not stack({"bucket_check": False}).all("Job")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [({}, 443), ({"endpoint_url": "http://s3.example.com"}, 80), ({"endpoint_url": "https://s3:8443"}, 8443)],
)
def test_the_server_may_connect_to_the_endpoint(endpoint: dict, port: int) -> None:
    egress = stack(endpoint).one("NetworkPolicy", "mlflow").inputs["spec"]["egress"]
    assert port in [port["port"] for rule in egress for port in rule["ports"]]


def test_authorities_of_the_endpoint_are_given_to_both() -> None:
    ca = (engine.PROJECT / "tests/components/ca.pem").read_text()
    deployment = stack({"endpoint_url": "https://s3.internal", "ca": ca})
    assert deployment.one("ConfigMap", "mlflow-s3-ca").inputs["data"] == {"ca.crt": ca}
    job = deployment.one("Job").inputs["spec"]["template"]["spec"]
    for pod in (server(deployment), job):
        assert env(pod["containers"][0])["AWS_CA_BUNDLE"] == "/etc/mlflow-stack-s3-ca/ca.crt"


def test_an_artifact_claim_is_protected_and_mounted_by_one_pod() -> None:
    args = {"artifact_store": {"pvc": {"size": "50Gi"}}}
    deployment = engine.deploy(lambda: MlflowStack("mlflow", args) and None)
    claim = deployment.one("PersistentVolumeClaim", "mlflow-artifacts")
    assert claim.protect
    assert claim.inputs["metadata"]["name"] == "mlflow-artifacts"
    assert claim.inputs["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
    pod = server(deployment)
    assert {"name": "artifacts", "mountPath": "/mlflow-artifacts"} in pod["containers"][0]["volumeMounts"]
    assert env(pod["containers"][0])["MLFLOW_ARTIFACTS_DESTINATION"] == "/mlflow-artifacts/artifacts"


def test_the_component_refuses_what_the_stack_refuses() -> None:
    with pytest.raises(InvalidArgs, match=r'bucket: must be a bucket name: .* \(got "My_Bucket"\)'):
        engine.deploy(lambda: S3Artifacts("mlflow", {**PLACE, "artifacts": {**BUCKET, "bucket": "My_Bucket"}}) and None)
