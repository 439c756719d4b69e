"""Certificate authority of an instance, constrained to the instance's own names."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from sandbox.paths import Instance

_VALID: Final = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Certificate:
    """Certificate and private key, both PEM."""

    chain: str
    """The certificate without the authority's, which clients already have."""
    key: str
    """The private key."""


def root(instance: Instance) -> Path:
    """Return the file with the authority's certificate, which clients trust; created if it does not exist."""
    certificate(instance)
    return _folder(instance) / "ca.crt"


def bundle(instance: Instance) -> Path:
    """Return a file for clients with a single list of authorities: the public ones and ours."""
    file = _folder(instance) / "bundle.crt"
    _write(file, Path(certifi.where()).read_text() + root(instance).read_text())
    return file


def certificate(instance: Instance) -> Certificate:
    """Return the certificate for all names `<stack>.<domain>` of the instance; created with the authority if
    missing."""
    folder = _folder(instance)
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / ".lock"):
        # This file is written last, so its existence means that all are complete.
        if not (folder / "tls.crt").exists():
            _make(instance)
    return Certificate((folder / "tls.crt").read_text(), (folder / "tls.key").read_text())


def issuer(instance: Instance) -> Certificate:
    """Return the authority's certificate and key, for a server that issues in its name; created if missing."""
    return Certificate(root(instance).read_text(), (_folder(instance) / "ca.key").read_text())


def _folder(instance: Instance) -> Path:
    return instance.root / "authority"


def _make(instance: Instance) -> None:
    folder = _folder(instance)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlflow-stack instance {instance.name}")])
    own = (
        _builder(issuer, issuer, authority.public_key(), authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        # A stolen key can only sign for the instance's names.
        .add_extension(x509.NameConstraints([x509.DNSName(instance.domain)], None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(f"*.{instance.domain}")])
    leaf = (
        _builder(x509.Name([]), issuer, key.public_key(), authority.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=True)
        .sign(authority, hashes.SHA256())
    )
    _write(folder / "ca.key", _private(authority))
    _write(folder / "ca.crt", _public(own))
    _write(folder / "tls.key", _private(key))
    _write(folder / "tls.crt", _public(leaf))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, authority: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Tolerates a clock that is slightly behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _write(file: Path, text: str) -> None:
    if file.exists() and file.read_text() == text:
        return
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)
