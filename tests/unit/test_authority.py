"""Name constraints of an instance's certificate authority, as clients enforce them."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sandbox import authority
from sandbox.paths import Instance


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setenv("MLFLOW_STACK_DATA", str(tmp_path))
    return Instance.open("one")


def handshake(instance: Instance, cafile: Path, name: str) -> None:
    """Connect a client that trusts `cafile` to a server with the instance's certificate, under `name`."""
    certificate = authority.certificate(instance)
    pem = instance.root / "both.pem"
    pem.write_text(certificate.chain + certificate.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    left, right = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(left, server_side=True).close()
        except (OSError, ValueError):
            left.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ssl.create_default_context(cafile=cafile).wrap_socket(right, server_hostname=name).close()
    finally:
        right.close()
        thread.join()


def test_its_names_are_believed_by_who_trusts_it_and_by_nobody_else(instance: Instance, tmp_path: Path) -> None:
    handshake(instance, authority.root(instance), "dev.one.mlflow.test")
    handshake(instance, authority.bundle(instance), "dev.one.mlflow.test")
    for name in ("dev.mlflow.test", "a.dev.one.mlflow.test", "one.mlflow.test.example.com"):
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            handshake(instance, authority.root(instance), name)
    other = Instance.open("two")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(instance, authority.root(other), "dev.one.mlflow.test")


def test_creates_the_authority_once_with_keys_readable_by_the_user_only(instance: Instance) -> None:
    first = authority.certificate(instance)
    ca = authority.root(instance).read_text()
    assert authority.certificate(instance) == first
    assert authority.root(instance).read_text() == ca
    folder = instance.root / "authority"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(folder / name).stat().st_mode & 0o777 for name in ("ca.key", "tls.key")] == [0o600, 0o600]


def test_it_cannot_speak_for_other_names(instance: Instance) -> None:
    """A stolen key is useless outside the instance's domain: NSS and OpenSSL enforce the constraint."""
    own = x509.load_pem_x509_certificate(authority.root(instance).read_bytes())
    constraints = own.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [name.value for name in constraints.value.permitted_subtrees or []] == ["one.mlflow.test"]

    folder = instance.root / "authority"
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    stolen = authority._builder(x509.Name([]), own.subject, key.public_key(), key.public_key())
    forged = stolen.add_extension(x509.SubjectAlternativeName([x509.DNSName("example.com")]), critical=True)
    (folder / "tls.crt").write_text(authority._public(forged.sign(key, authority.hashes.SHA256())))
    (folder / "tls.key").write_text((folder / "ca.key").read_text())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(instance, authority.root(instance), "example.com")


def test_the_public_authorities_stay_in_the_bundle(instance: Instance) -> None:
    text = authority.bundle(instance).read_text()
    assert text.count("BEGIN CERTIFICATE") > 100
    assert text.endswith(authority.root(instance).read_text())
