"""`make up STACK=staging`: artifacts in a bucket of a real S3 server that clients cannot reach; and a bucket whose keys
belong to the stack."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
import requests
import yaml
from e2e.fixtures import exported
from e2e.platform_under_test import Platform, Secret, Stack, Visitor, eventually, status
from mlflow import MlflowClient
from sklearn.datasets import load_diabetes

import engine

NAMESPACE = "mlflow-staging"
SERVICES = "local-services"
BUCKET = "mlflow-staging"
LARGE = 300 * 2**20
MODEL_KEY = "model/secret+="
# On the client's machine, without a name server.
UNNAMED = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /etc/resolv.conf && exec "$@"', "sh")


class Staging:
    """The stack, as its users see it."""

    def __init__(self, platform: Platform, printed: str) -> None:
        self.platform = platform
        self.printed = printed
        script = platform.local("client-env", stack="staging").stdout
        names = re.findall(r"^export (\w+)=", script, re.MULTILINE)
        self.client = {name: value for name, value in exported(script).items() if name in names}
        auth = self.client["MLFLOW_TRACKING_USERNAME"], self.client["MLFLOW_TRACKING_PASSWORD"]
        self.ask: dict[str, Any] = {
            "auth": auth,
            "verify": self.client.get("MLFLOW_TRACKING_SERVER_CERT_PATH", True),
            "timeout": 120,
        }

    @property
    def artifacts(self) -> str:
        return f"{self.client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow-artifacts/artifacts"

    def servers(self) -> dict[str, int]:
        """Return the restarts of every container of the tracking pods, by pod."""
        pods = self.platform.objects("pods", NAMESPACE, "--selector", "app.kubernetes.io/component=tracking")
        return {
            pod["metadata"]["uid"]: sum(container["restartCount"] for container in pod["status"]["containerStatuses"])
            for pod in pods
        }

    def python(self, program: str) -> str:
        """Run Python in a tracking server's container, which has the bucket's keys."""
        pods = self.platform.objects("pods", NAMESPACE, "--selector", "app.kubernetes.io/component=tracking")
        return in_server(self.platform, NAMESPACE, pods[0]["metadata"]["name"], program)

    def database(self, query: str) -> str:
        """Return the answer of the database itself."""
        (pod,) = self.platform.objects("pods", NAMESPACE, "--selector", "app.kubernetes.io/component=database")
        command = ("kubectl", "exec", pod["metadata"]["name"], f"--namespace={NAMESPACE}", "--container=mariadb", "--")
        options = ("--defaults-file=/etc/mlflow-stack-mariadb/client.cnf", "--skip-column-names", "mlflow")
        return self.platform.run(*command, "mariadb", *options, f"--execute={query}").stdout.strip()

    def listed(self, path: str) -> list[str]:
        answer = requests.get(self.artifacts, params={"path": path}, **self.ask)
        assert answer.status_code == 200, answer.text
        return [file["path"] for file in answer.json().get("files", [])]

    def store(self, replicas: int) -> None:
        """Stop or start the S3 server."""
        kubectl = self.platform.kubectl
        kubectl("scale", "deployment/s3", f"--replicas={replicas}", f"--namespace={SERVICES}")
        if replicas:
            kubectl("rollout", "status", "deployment/s3", f"--namespace={SERVICES}", "--timeout=120s")
        else:
            eventually("the S3 server is gone", lambda: not self.platform.objects("pods", SERVICES))


def in_server(platform: Platform, namespace: str, pod: str, program: str) -> str:
    command = ("kubectl", "exec", pod, f"--namespace={namespace}", "--container=mlflow", "--", "python", "-c")
    return platform.run(*command, program).stdout.strip()


def train(client: dict[str, str], *arguments: str) -> str:
    """Run the quickstart without the cluster's names and without any key of a bucket."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    script = str(engine.PROJECT / "examples/quickstart/train.py")
    done = subprocess.run(
        [*UNNAMED, sys.executable, script, *arguments],
        env={**environment, **client, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def staging(platform: Platform) -> Staging:
    return Staging(platform, platform.local("up", stack="staging").stdout)


def test_up_ends_with_a_run_and_a_second_one_changes_nothing(staging: Staging) -> None:
    assert re.search(r"^run +http\S+/#/experiments/\d+/runs/[0-9a-f]{32}$", staging.printed, re.MULTILINE)
    second = staging.platform.local("up", stack="staging").stdout
    assert not re.search(r"\b(created|updated|replaced|deleted)\b", second)


def test_a_client_without_keys_gets_everything_through_the_server(staging: Staging) -> None:
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= set(staging.client)
    assert not [name for name in staging.client if "AWS" in name or "S3" in name]
    unresolved = subprocess.run([*UNNAMED, "getent", "hosts", f"s3.{SERVICES}.svc"], check=False)
    assert unresolved.returncode != 0
    output = train(staging.client, "--megabytes", "300")
    assert "models:/diabetes@champion is version" in output
    assert re.search(r"large\.bin: sha256 [0-9a-f]{64}, the same both ways", output)
    sizes = staging.python(
        "import boto3, os; c = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']); "
        f"p = c.get_paginator('list_objects_v2').paginate(Bucket='{BUCKET}'); "
        "print(max((o['Size'], o['Key'].rsplit('/', 1)[-1]) for q in p for o in q['Contents']))"
    )
    assert sizes == f"({LARGE}, 'large.bin')"
    count = "SELECT COUNT(*) FROM registered_models WHERE name = 'diabetes'"
    assert staging.database(count) == "1"


def test_a_store_that_stops_is_named_and_leaves_nothing_half(staging: Staging) -> None:
    before = staging.servers()
    put = staging.ask
    whole = os.urandom(8 * 2**20)
    assert requests.put(f"{staging.artifacts}/stops/whole.bin", data=whole, **put).status_code == 200

    # Half of it is transferred when the store stops.
    half = threading.Event()
    answers: list[requests.Response] = []

    def body() -> Iterator[bytes]:
        yield whole[: 4 * 2**20]
        assert half.wait(120)
        yield whole[4 * 2**20 :]

    uploading = threading.Thread(
        target=lambda: answers.append(requests.put(f"{staging.artifacts}/stops/half.bin", data=body(), **put))
    )
    uploading.start()
    staging.store(0)
    half.set()
    uploading.join(120)
    answers.append(requests.get(f"{staging.artifacts}/stops/whole.bin", **put))
    client = subprocess.run(
        [sys.executable, "-c", _LOG_ARTIFACT],
        env={**os.environ, **staging.client, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status(staging.client["MLFLOW_TRACKING_URI"] + "/readyz", verify=put["verify"]) == 200
    staging.store(1)

    for answer in answers:
        assert answer.status_code == 503
        assert "the artifact store does not answer" in answer.json()["message"]
    # A node learns of a Service's new pod later than a client that waits for the pod.
    eventually("the store is reached again", lambda: status(staging.artifacts, **put, params={"path": "stops"}) == 200)
    assert "MlflowException" in client.stdout
    assert "503" in client.stdout
    assert staging.listed("stops") == ["whole.bin"]
    assert requests.get(f"{staging.artifacts}/stops/whole.bin", **put).content == whole
    assert requests.put(f"{staging.artifacts}/stops/half.bin", data=whole, **put).status_code == 200
    assert staging.listed("stops") == ["half.bin", "whole.bin"]
    assert staging.servers() == before


_LOG_ARTIFACT = """
import mlflow, pathlib, tempfile
from mlflow.exceptions import MlflowException
file = pathlib.Path(tempfile.mkdtemp(), "late.txt")
file.write_text("late")
mlflow.set_experiment("stops")
with mlflow.start_run():
    try:
        mlflow.log_artifact(str(file))
        print("logged")
    except MlflowException as error:
        print("MlflowException", error)
"""


def test_down_and_up_keep_runs_objects_and_passwords(staging: Staging) -> None:
    search = {"json": {"experiment_ids": ["1"], "max_results": 100}, **staging.ask}
    url = f"{staging.client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/search"
    before = sorted(run["info"]["run_id"] for run in requests.post(url, **search).json()["runs"])
    assert len(before) >= 2
    dev = f"https://dev.{staging.platform.instance.domain}/readyz"
    down = staging.platform.local("down", stack="staging")
    instance = staging.platform.instance.name
    assert f"other servers run on the node of instance {instance}: " in down.stderr
    assert "mlflow-dev/mlflow" in down.stderr
    assert status(dev, verify=staging.ask["verify"]) == 200
    staging.platform.local("up", stack="staging")
    after = sorted(run["info"]["run_id"] for run in requests.post(url, **search).json()["runs"])
    # `up` logged one more.
    assert set(before) < set(after)
    assert "whole.bin" in staging.listed("stops")


@pytest.fixture(scope="module")
def keyed(staging: Staging) -> Iterator[Stack]:
    """Stack on SQLite with its own keys for a bucket that does not exist yet."""
    platform = staging.platform
    platform.namespace("keyed")
    stack = Stack(
        platform,
        "keyed",
        {
            "image": platform.images["mlflow"],
            "proxyImage": platform.images["proxy"],
            "existingNamespace": "keyed",
            "maxArtifactSize": "100Mi",
            "artifactLocations": ["s3://elsewhere"],
            "artifactStore": {
                "s3": {
                    "bucket": "keyed",
                    "prefix": "mlflow",
                    "endpointUrl": f"http://s3.{SERVICES}.svc:9000",
                    "accessKeyId": Secret("AKIAFIRST"),
                    "secretAccessKey": Secret("first/secret+="),
                }
            },
        },
    )
    yield stack
    stack.destroy()


def user(staging: Staging, verb: str, access: str, *options: str) -> None:
    """Create or delete a user of the S3 server with all permissions."""
    root: dict[str, Any] = yaml.safe_load((staging.platform.instance.root / "s3.yaml").read_text())
    admin = ("admin", "--access", root["access"], "--secret", root["secret"], "--endpoint-url", "http://127.0.0.1:9000")
    command = ("kubectl", "exec", "deployment/s3", f"--namespace={SERVICES}", "--", "/versitygw", *admin)
    staging.platform.run(*command, "--region", "us-east-1", verb, "--access", access, *options)


def test_up_says_what_is_wrong_with_a_bucket_and_keys_are_rotated(staging: Staging, keyed: Stack) -> None:
    refused = keyed.up(check=False)
    assert refused.returncode != 0
    assert "bucket keyed: cannot list mlflow (InvalidAccessKeyId)" in refused.stdout + refused.stderr
    assert "first/secret" not in refused.stdout + refused.stderr
    user(staging, "create-user", "AKIAFIRST", "--secret", "first/secret+=", "--role", "admin")
    refused = keyed.up(check=False)
    assert "(NoSuchBucket): it does not exist; make it" in refused.stdout + refused.stderr

    for bucket in ("keyed", "elsewhere"):
        staging.python(
            "import boto3, os; c = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']); "
            f"c.create_bucket(Bucket='{bucket}')"
        )
    keyed.up()
    keyed.unchanged()
    pod = staging.platform.server("keyed")["metadata"]["name"]
    assert in_server(staging.platform, "keyed", pod, _OWN_LOCATIONS).splitlines() == [
        "mlflow-artifacts:/teams/a",
        "s3://elsewhere/b",
        "['a.txt', 'b.txt']",
    ]

    user(staging, "create-user", "AKIASECOND", "--secret", "second", "--role", "admin")
    second = {"accessKeyId": Secret("AKIASECOND"), "secretAccessKey": Secret("second")}
    keyed.configure(artifactStore={"s3": {**keyed.config["artifactStore"]["s3"], **second}})
    keyed.up()
    keyed.unchanged()
    user(staging, "delete-user", "AKIAFIRST")
    pod = staging.platform.server("keyed")["metadata"]["name"]
    keys = "import pathlib; print('AKIASECOND' in pathlib.Path('/etc/mlflow-stack-s3/credentials').read_text())"
    assert in_server(staging.platform, "keyed", pod, keys) == "True"
    assert in_server(staging.platform, "keyed", pod, _PUT) == "200"


# On the tracking server's own machine: it has the keys that a client needs for a foreign location.
_OWN_LOCATIONS = """
import os, pathlib, mlflow
os.chdir("/tmp")
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
mlflow.set_tracking_uri("http://127.0.0.1:5000")
found = []
for name, location in (("a", "mlflow-artifacts:/teams/a"), ("b", "s3://elsewhere/b")):
    experiment = mlflow.create_experiment(name, artifact_location=location)
    with mlflow.start_run(experiment_id=experiment) as run:
        pathlib.Path(f"/tmp/{name}.txt").write_text(name)
        mlflow.log_artifact(f"/tmp/{name}.txt")
    print(mlflow.get_experiment(experiment).artifact_location)
    found += [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)]
print(found)
"""


_PUT = """
import urllib.request
url = "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/after.txt"
print(urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="PUT")).status)
"""


@pytest.fixture(scope="module")
def direct(staging: Staging, keyed: Stack) -> Visitor:
    """The same stack, with clients that use the bucket directly, and a model of staging's; a client of it."""
    platform = staging.platform
    for access, secret in {"AKIACLIENT": "client/secret+=", "AKIAMODEL": MODEL_KEY}.items():
        user(staging, "create-user", access, "--secret", secret, "--role", "admin")
    keys = {
        "client-keys": {"AWS_ACCESS_KEY_ID": "AKIACLIENT", "AWS_SECRET_ACCESS_KEY": "client/secret+="},
        "model-keys": {
            "credentials": f"[default]\naws_access_key_id = AKIAMODEL\naws_secret_access_key = {MODEL_KEY}\n"
        },
    }
    for name, data in keys.items():
        named = {"name": name, "namespace": "keyed"}
        platform.apply({"apiVersion": "v1", "kind": "Secret", "metadata": named, "stringData": data})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in staging.client.items():
            patch.setenv(name, value)
        version = MlflowClient().get_model_version_by_alias("diabetes", "champion")
        place = MlflowClient().get_logged_model(version.source.removeprefix("models:/")).artifact_location
    model = {
        "name": "diabetes",
        "uri": place.replace("mlflow-artifacts:", f"s3://{BUCKET}"),
        "s3ExistingSecret": "model-keys",
        "s3EndpointUrl": f"http://s3.{SERVICES}.svc:9000",
        "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
    }
    store = {"s3": {**keyed.config["artifactStore"]["s3"], "proxied": False}}
    keyed.configure(artifactStore=store, models=[model])
    keyed.up()
    return platform.visitor("keyed", secrets=["mlflow-client", "client-keys"])


def test_clients_with_keys_of_their_own_talk_to_the_bucket_and_the_server_serves_no_artifact(
    staging: Staging, keyed: Stack, direct: Visitor
) -> None:
    known = set(keyed.output("clientEnv"))
    assert {name for name in known if not name.startswith("MLFLOW_TRACKING_")} == {
        "MLFLOW_S3_ENDPOINT_URL",
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
        "AWS_DEFAULT_REGION",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
    }
    (secret,) = staging.platform.objects("secrets", "keyed", "--field-selector=metadata.name=mlflow-client")
    assert set(secret["data"]) == known
    told = json.loads(direct.python(_DIRECT))
    assert told["location"].startswith("s3://keyed/mlflow/")
    assert told["fetched"] == "logged past the server"
    key = f"{told['location'].removeprefix('s3://keyed/')}/direct.txt"
    stored = staging.python(
        "import boto3, os; c = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']); "
        f"print(c.get_object(Bucket='keyed', Key='{key}')['Body'].read().decode())"
    )
    assert stored == told["fetched"]
    for answer in told["through the server"]:
        assert re.match(r"503 .*Artifact serving is disabled", answer), answer
    assert "Unable to locate credentials" in direct.python(_KEYLESS, told["location"])


_DIRECT = """
import json, os, pathlib, requests
import mlflow
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
pathlib.Path("direct.txt").write_text("logged past the server")
mlflow.set_experiment("direct")
with mlflow.start_run() as run:
    mlflow.log_artifact("direct.txt")
uri = run.info.artifact_uri
fetched = mlflow.artifacts.download_artifacts(f"{uri}/direct.txt", dst_path="/tmp/fetched")
user = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts/direct.txt"

def answer(method):
    answered = requests.request(method, url, data=b"x" if method == "PUT" else None, auth=user)
    return f"{answered.status_code} {answered.text}"

through = [answer(method) for method in ("PUT", "GET")]
print(json.dumps({"location": uri, "fetched": pathlib.Path(fetched).read_text(), "through the server": through}))
"""

_KEYLESS = """
import os, sys
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
import mlflow
try:
    print(mlflow.artifacts.download_artifacts(sys.argv[1] + "/direct.txt"))
except Exception as error:
    print(error)
"""


def test_a_model_in_a_bucket_is_served_as_it_predicts_locally(
    staging: Staging, keyed: Stack, direct: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in staging.client.items():
        monkeypatch.setenv(name, value)
    data = load_diabetes(as_frame=True).data
    split = {"columns": list(data.columns), "data": data.to_numpy().tolist()}
    wanted = mlflow.pyfunc.load_model("models:/diabetes@champion").predict(data).tolist()
    assert len(wanted) == 442
    (url,) = keyed.output("modelUrls").values()
    assert json.loads(direct.python(_PREDICT, url, stdin=json.dumps({"dataframe_split": split}))) == wanted

    (pod,) = staging.platform.objects("pods", "keyed", "--selector=mlflow-stack/model=diabetes")
    server = Visitor(staging.platform, "keyed", pod["metadata"]["name"], "model")
    read, found = server.holds("AKIAMODEL", MODEL_KEY)
    assert read > 20
    assert found == []
    log = staging.platform.kubectl("logs", pod["metadata"]["name"], "-n", "keyed", "--all-containers", "--tail=-1")
    assert f"Fetched s3://{BUCKET}/" in log
    assert MODEL_KEY not in log


_PREDICT = """
import json, os, sys, requests
user = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
kind = {"Content-Type": "application/json"}
answer = requests.post(sys.argv[1] + "/invocations", data=sys.stdin.buffer.read(), headers=kind, auth=user)
print(json.dumps(answer.json()["predictions"]))
"""
