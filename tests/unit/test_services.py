"""What a local service is made from; that it answers is shown in tests/e2e."""

import string
from pathlib import Path

import pytest
import yaml

from local import services
from local.errors import LocalError
from local.paths import Instance

CONFIG = {
    "mlflow-stack:existingNamespace": "team",
    "mlflow-stack:artifactStore": {"s3": {"bucket": "files", "existingSecret": "keys"}},
}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    return Instance.open("one")


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(LocalError, match="there is no local service 'redis'"):
        services.named(["s3", "redis"])


def test_keys_are_made_once_and_for_the_owner_alone(instance: Instance) -> None:
    first = services.S3.texts(instance, CONFIG)
    assert services.S3.texts(instance, CONFIG) == first
    assert (instance.root / "s3.yaml").stat().st_mode & 0o777 == 0o600
    assert len(first["secret"]) >= 40


def test_the_stack_finds_its_bucket_and_its_secret(instance: Instance) -> None:
    texts = services.S3.texts(instance, CONFIG)
    manifest = (Path(services.__file__).parent / "manifests/s3.yaml").read_text()
    text = string.Template(manifest).substitute(texts, namespace="local-services", image="s3:1", shell="shell:1")
    objects = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}
    secret = objects["Secret", "keys"]
    assert secret["metadata"]["namespace"] == "team"
    assert f"aws_secret_access_key = {texts['secret']}\n" in secret["stringData"]["credentials"]
    pod = objects["Deployment", "s3"]["spec"]["template"]["spec"]
    assert "/data/buckets/files" in pod["initContainers"][0]["command"]
    assert texts["secret"] not in str(objects["Deployment", "s3"])
