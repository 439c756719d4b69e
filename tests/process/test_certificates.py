"""Certificate of the public port in a real nginx: https, renewal, and requests by http.

tests/e2e covers a certificate that cert-manager issues and renews.
"""

import datetime
import http.client
import socket
import ssl
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from process.test_nginx import AUTH, HOST, LIMITS, Nginx, root, running  # noqa: F401 - root is a fixture

from mlflow_stack import Addresses
from mlflow_stack.access.nginx import CERTIFICATE, Access, nginx_conf


def write_certificate(folder: Path) -> str:
    """Write a new self-signed certificate with its key, and return it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = made.public_bytes(serialization.Encoding.PEM).decode()
    pem, pkcs8, bare = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(pem, pkcs8, bare))
    (folder / "tls.crt").write_text(text)
    return text


def ask(nginx: Nginx, authority: str, path: str, **headers: str) -> tuple[int, Message, bytes]:
    """Send a request by https. Return status and headers of the answer, and the verified certificate."""
    context = ssl.create_default_context(cadata=authority)
    with (
        socket.create_connection(("127.0.0.1", nginx.public), timeout=15) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}:30500", *(f"{name}: {text}" for name, text in headers.items())]
        secured.sendall(("\r\n".join([*lines, "Connection: close", "", ""])).encode())
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        return answer.status, answer.headers, secured.getpeercert(binary_form=True) or b""


@pytest.fixture(scope="module")
def secure(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Path]]:  # noqa: F811
    """Proxy at a node's port that serves a certificate itself, and the folder of its certificate."""
    addresses = Addresses("mlflow", "team", host=HOST, port=30500, scheme="https")
    conf = nginx_conf(addresses, LIMITS, Access(certificate="mlflow-tls"))
    with running(root, tmp_path_factory.mktemp("secure"), conf) as made:
        folder = made.auth.with_name(Path(CERTIFICATE).name)
        folder.mkdir()
        yield made, folder


def test_serves_a_renewed_certificate_without_a_reload(secure: tuple[Nginx, Path]) -> None:
    nginx, folder = secure
    for _ in range(2):
        authority = write_certificate(folder)
        assert ask(nginx, authority, "/")[0] == 401
        status, headers, served = ask(nginx, authority, "/x", **AUTH)
        assert (status, headers["Strict-Transport-Security"]) == (200, None)
        assert served == ssl.PEM_cert_to_DER_cert(authority)
    # Each handshake reads the files, so that of a former certificate fails.
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(nginx, write_certificate(folder.parent), "/")
    assert "[emerg]" not in nginx.log.read_text()


def test_requests_by_http_are_redirected_before_a_password_is_asked_for(secure: tuple[Nginx, Path]) -> None:
    nginx, _ = secure
    status, headers, _ = nginx.ask("/x?a=b")
    assert (status, headers["Location"]) == (308, f"https://{HOST}:30500/x?a=b")
    # The internal port has no certificate.
    assert nginx.status("/x", port=nginx.internal, host="mlflow.team.svc", **AUTH) == 200


def test_forwarded_scheme_of_a_client_is_ignored(secure: tuple[Nginx, Path]) -> None:
    nginx, folder = secure
    authority = write_certificate(folder)
    assert ask(nginx, authority, "/x", **{"X-Forwarded-Proto": "http"}, **AUTH)[0] == 200


@pytest.mark.parametrize(("port", "hsts"), [(None, 1), (30500, 0)])
def test_hsts_is_for_an_address_without_a_port(port: int | None, hsts: int) -> None:
    """Browsers apply HSTS to every port of the host, where other services may answer by http."""
    conf = nginx_conf(Addresses("mlflow", "team", host=HOST, port=port, scheme="https"), LIMITS)
    assert conf.count('https "max-age=') == hsts
