"""Parts of a local service; tests/e2e shows that it answers."""

import base64
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mlflow_stack_cli.errors import LocalError
from sandbox import authority, services
from sandbox.paths import Instance

CONFIG = {
    "mlflow-stack:existingNamespace": "team",
    "mlflow-stack:artifactStore": {"s3": {"bucket": "files", "existingSecret": "keys"}},
}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    return Instance.open("one")


def objects(service: services.Service, texts: Mapping[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the applied objects, by kind and name."""
    manifest = (Path(services.__file__).parent / f"manifests/{service.name}.yaml").read_text()
    given = {"namespace": "local-services", "image": "server:1", "shell": "shell:1"}
    text = string.Template(manifest).substitute(texts, **given)
    return {(document["kind"], document["metadata"]["name"]): document for document in yaml.safe_load_all(text)}


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(LocalError, match=r"there is no local service 'redis'\. Next: choose from cert-manager, s3\."):
        services.named(["s3", "redis"])


def test_creates_keys_once_readable_by_the_owner_only(instance: Instance) -> None:
    first = services.S3.texts(instance, CONFIG)
    assert services.S3.texts(instance, CONFIG) == first
    assert (instance.root / "s3.yaml").stat().st_mode & 0o777 == 0o600
    assert len(first["secret"]) >= 40


def test_the_stack_finds_its_bucket_and_its_secret(instance: Instance) -> None:
    texts = services.S3.texts(instance, CONFIG)
    made = objects(services.S3, texts)
    secret = made["Secret", "keys"]
    assert secret["metadata"]["namespace"] == "team"
    assert f"aws_secret_access_key = {texts['secret']}\n" in secret["stringData"]["credentials"]
    pod = made["Deployment", "s3"]["spec"]["template"]["spec"]
    assert "/data/buckets/files" in pod["initContainers"][0]["command"]
    assert texts["secret"] not in str(made["Deployment", "s3"])


def test_the_issuer_signs_with_the_authority_of_the_instance(instance: Instance) -> None:
    made = objects(services.CERT_MANAGER, services.CERT_MANAGER.texts(instance, {}))
    issuer = made["ClusterIssuer", "local"]["spec"]["ca"]["secretName"]
    data = {key: base64.b64decode(value).decode() for key, value in made["Secret", issuer]["data"].items()}
    assert data["tls.crt"] == authority.root(instance).read_text()
    both = load_pem_private_key(data["tls.key"].encode(), None).public_key()
    assert both == x509.load_pem_x509_certificate(data["tls.crt"].encode()).public_key()
    assert "PRIVATE" not in str(made["Deployment", "cert-manager"])
