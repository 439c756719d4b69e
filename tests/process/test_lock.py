"""`make lock` against a common registry, built from its Go module, on loopback."""

import base64
import datetime
import hashlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from process.claims import free_port

from mlflow_stack import validate
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.lock import _repository, lock, pinned
from mlflow_stack_cli.progress import Progress
from sandbox.builds import go_binary

MODULE = Path(__file__).parent / "registry"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def program() -> Path:
    with Progress() as progress:
        return go_binary(
            progress, "registry", MODULE, "github.com/distribution/distribution/v3/cmd/registry", estimate=120
        )


@contextmanager
def serving(program: Path, folder: Path, name: str, **config: Any) -> Iterator[str]:
    """Run a registry on `folder`; return its address."""
    address = f"127.0.0.1:{free_port()}"
    config |= {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    file = folder / f"{name}.yml"
    file.write_text(json.dumps(config))
    with file.with_suffix(".log").open("w") as log:
        environment = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
        process = subprocess.Popen([program, "serve", file], stdout=log, stderr=log, env=environment)
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()
                    break
                except OSError:
                    assert process.poll() is None, file.with_suffix(".log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(program: Path, folder: Path) -> Iterator[str]:
    """Address of a registry without authentication."""
    with serving(program, folder, "open") as address:
        yield address


@dataclass
class Tokens(ThreadingHTTPServer):
    """Token server as public registries have it: grants the requested scope to everyone."""

    key: ec.EllipticCurvePrivateKey
    chain: str
    """Certificate of the key, DER in base64."""
    empty: bool = False
    """True if its tokens are invalid."""
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)

    def token(self, service: str, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": "tokens",
            "aud": service,
            "exp": now + 60,
            "nbf": now - 60,
            "access": [] if self.empty else [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        return jwt.encode(claims, self.key, "ES256", {"x5c": [self.chain]})


class Answer(BaseHTTPRequestHandler):
    server: Tokens

    def do_GET(self) -> None:
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        self.server.asked.append(asked)
        body = json.dumps({"token": self.server.token(**asked)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tokens() -> Iterator[Tokens]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with Tokens(key, base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def guarded(program: Path, folder: Path, registry: str, tokens: Tokens) -> Iterator[str]:
    """Address of a registry with the same images that requires a token, like Docker Hub, ghcr.io and quay.io."""
    authority = folder / "tokens.pem"
    authority.write_text(ssl.DER_cert_to_PEM_cert(base64.b64decode(tokens.chain)))
    realm = f"http://127.0.0.1:{tokens.server_port}/token"
    asking = {"realm": realm, "service": "images", "issuer": "tokens", "rootcertbundle": str(authority)}
    with serving(program, folder, "guarded", auth={"token": asking}) as address:
        yield address


def push(registry: str, name: str, tag: str, content: str) -> str:
    """Push an image, and return its digest."""
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
    assert lock(file, "mlflow-stack", defaults) == [
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
    assert lock(file, "mlflow-stack", defaults) == []


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
    with pytest.raises(LocalError, match=rf"^{registry} does not serve {registry}/unknown:v1: HTTP Error 404"):
        lock(file, "a", {})
    assert file.read_text() == text


def test_a_registry_that_wants_a_token_is_given_one(registry: str, guarded: str, tokens: Tokens) -> None:
    digest = push(registry, "team/asked", "v1", "x")
    assert pinned(f"{guarded}/team/asked:v1") == f"{guarded}/team/asked:v1@{digest}"
    assert tokens.asked == [{"service": "images", "scope": "repository:team/asked:pull"}]


def test_an_image_that_a_token_is_not_good_for_is_named(
    registry: str, guarded: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry, "team/others", "v1", "x")
    monkeypatch.setattr(tokens, "empty", True)
    with pytest.raises(LocalError, match=rf"^{guarded} does not serve {guarded}/team/others:v1: HTTP Error 401"):
        pinned(f"{guarded}/team/others:v1")


def test_an_image_without_a_tag_cannot_be_asked_for() -> None:
    with pytest.raises(LocalError, match=r"^a\.example/x has no tag to resolve\. Next: set one in the stack file"):
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
