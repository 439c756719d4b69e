"""`make lock` against the registry that others run: built from its Go module, on loopback."""

import hashlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.claims import free_port

from local.builds import go_binary
from local.errors import LocalError
from local.lock import _repository, lock, pinned
from local.progress import Progress
from mlflow_stack import validate

MODULE = Path(__file__).parent / "registry"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with Progress() as progress:
        program = go_binary(
            progress, "registry", MODULE, "github.com/distribution/distribution/v3/cmd/registry", estimate=120
        )
    folder = tmp_path_factory.mktemp("registry")
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        environment = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log, env=environment)
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://{address}/v2/").close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def push(registry: str, name: str, tag: str, content: str) -> str:
    """Puts an image there, and returns its digest."""
    blob = json.dumps({"architecture": "amd64", "os": "linux", "author": content}).encode()
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(blob), "digest": digest(blob)}
    begun = send(f"http://{registry}/v2/{name}/blobs/uploads/", "POST", b"", "application/json")
    join = "&" if "?" in begun else "?"
    send(f"{begun}{join}digest={config['digest']}", "PUT", blob, "application/octet-stream")
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}
    text = json.dumps(manifest).encode()
    send(f"http://{registry}/v2/{name}/manifests/{tag}", "PUT", text, MANIFEST)
    return digest(text)


def send(url: str, method: str, body: bytes, kind: str) -> str:
    request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.headers.get("Location", "")


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_every_image_of_a_stack_file_gets_the_digest_of_its_tag(registry: str, tmp_path: Path) -> None:
    first = push(registry, "team/mlflow", "v1", "first")
    proxy = push(registry, "nginx", "1.29", "proxy")
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(
        "# What it is for.\n"
        "config:\n"
        f"  mlflow-stack:image: {registry}/team/mlflow:v1 # the team's own\n"
        "  mlflow-stack:models:\n"
        f'    - image: "{registry}/team/mlflow:v1"\n'
        "      name: iris\n"
    )
    defaults = {"mlflow-stack:image": "unused:1", "mlflow-stack:proxyImage": f"{registry}/nginx:1.29"}
    image = f"{registry}/team/mlflow:v1@{first}"
    assert lock(file, defaults) == [
        f"mlflow-stack:image: {image}",
        f"mlflow-stack:models.image: {image}",
        f"mlflow-stack:proxyImage: {registry}/nginx:1.29@{proxy}",
    ]
    assert file.read_text() == (
        "# What it is for.\n"
        "config:\n"
        f"  mlflow-stack:image: {image} # the team's own\n"
        "  mlflow-stack:models:\n"
        f'    - image: "{image}"\n'
        "      name: iris\n"
        f"  mlflow-stack:proxyImage: {registry}/nginx:1.29@{proxy}\n"
    )
    assert validate.image(image) is None
    assert lock(file, defaults) == []


def test_a_tag_that_moved_gives_another_digest(registry: str) -> None:
    before = push(registry, "moving", "v1", "a")
    locked = pinned(f"{registry}/moving:v1")
    after = push(registry, "moving", "v1", "b")
    assert (locked, pinned(locked)) == (f"{registry}/moving:v1@{before}", f"{registry}/moving:v1@{after}")


def test_a_registry_that_does_not_know_the_image_leaves_the_file_as_it_is(registry: str, tmp_path: Path) -> None:
    push(registry, "known", "v1", "x")
    file = tmp_path / "Pulumi.x.yaml"
    text = f"config:\n  a:image: {registry}/known:v1\n  a:proxyImage: {registry}/unknown:v1\n"
    file.write_text(text)
    with pytest.raises(LocalError, match=rf"^{registry} does not give {registry}/unknown:v1: HTTP Error 404"):
        lock(file, {})
    assert file.read_text() == text


def test_an_image_without_a_tag_cannot_be_asked_for() -> None:
    with pytest.raises(LocalError, match=r"^a\.example/x has no tag to ask for\. Next: name one in the stack file"):
        pinned("a.example/x")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("nginx", ("registry-1.docker.io", "library/nginx")),
        ("nginxinc/nginx-unprivileged", ("registry-1.docker.io", "nginxinc/nginx-unprivileged")),
        ("docker.io/mariadb", ("registry-1.docker.io", "library/mariadb")),
        ("docker.io/library/mariadb", ("registry-1.docker.io", "library/mariadb")),
        ("ghcr.io/mlflow/mlflow", ("ghcr.io", "mlflow/mlflow")),
        ("localhost/a/b", ("localhost", "a/b")),
        ("127.0.0.1:5000/a", ("127.0.0.1:5000", "a")),
    ],
)
def test_where_a_name_leads(name: str, where: tuple[str, str]) -> None:
    assert _repository(name) == where
