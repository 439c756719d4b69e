"""MLflow's stored secrets, re-encrypted with the keys of the server that is about to start.

Runs in the MLflow image after the schema step and before the server. MLflow encrypts the secrets of webhooks with
``MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY`` and the API keys of its gateway with a key derived from
``MLFLOW_CRYPTO_KEK_PASSPHRASE`` and ``MLFLOW_CRYPTO_KEK_VERSION``. Without these variables, each process generates its
own webhook key, and the passphrase is one that is published in MLflow's source.

- Without an argument: re-encrypts each stored secret with the present keys, in one transaction. A secret is decrypted
  with the present key, a former one (``FORMER_KEYS``) or MLflow's published passphrase. A webhook whose secret cannot
  be decrypted is disabled and loses that secret, because one such row makes MLflow answer 500 for every webhook.
- ``report``: changes nothing and lists each stored secret that the present keys cannot decrypt, and each disabled
  webhook without a secret. Exits with 1 if there is one.
"""

# SQLAlchemy's and MLflow's types are incomplete.
# pyright: basic

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import claim_lock
import sqlalchemy
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import Connection, column, select, table, update

WEBHOOKS: Final = table(
    "webhooks", column("webhook_id"), column("name"), column("secret"), column("status"), column("deleted_timestamp")
)
GATEWAY: Final = table(
    "secrets", column("secret_id"), column("secret_name"), column("wrapped_dek"), column("kek_version")
)
DISABLED: Final = "DISABLED"
LOCK_SECONDS: Final = 600


@dataclass(frozen=True)
class Keys:
    """Keys of one server."""

    webhook: str
    """Fernet key of webhooks' secrets."""
    passphrase: str
    """Passphrase of the key that wraps the gateway's data keys."""
    version: int
    """Version of that passphrase; MLflow derives the key from both."""


@dataclass
class Findings:
    """Stored secrets that were processed, in lines for the log."""

    moved: list[str] = field(default_factory=list)
    """Secrets decrypted with a former key."""
    lost: list[str] = field(default_factory=list)
    """Secrets that no key decrypts."""


def present(environment: Mapping[str, str]) -> Keys:
    """Return the keys of the server."""
    return Keys(
        environment["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"],
        environment["MLFLOW_CRYPTO_KEK_PASSPHRASE"],
        int(environment["MLFLOW_CRYPTO_KEK_VERSION"]),
    )


def former(environment: Mapping[str, str]) -> list[Keys]:
    """Return the former keys of the stack, newest first."""
    return [Keys(**keys) for keys in json.loads(environment.get("FORMER_KEYS") or "[]")]


def webhooks(connection: Connection, keys: Keys, before: Sequence[Keys], findings: Findings) -> None:
    """Re-encrypt the secrets of webhooks with the present key; disable webhooks whose secret no key decrypts."""
    cipher = Fernet(keys.webhook)
    older = [Fernet(former.webhook) for former in before]
    rows = connection.execute(select(WEBHOOKS).where(WEBHOOKS.c.secret.is_not(None)).with_for_update()).all()
    for row in rows:
        if _opened(cipher, row.secret) is not None:
            continue
        secret = next((text for former in older if (text := _opened(former, row.secret)) is not None), None)
        name = f"webhook {row.name!r} ({row.webhook_id})"
        if secret is None:
            values = {"secret": None, "status": DISABLED}
            findings.lost.append(
                f"{name}: no key opens its secret. It is disabled and has no secret. "
                "Set a new secret and activate it, or delete it."
            )
        else:
            values = {"secret": cipher.encrypt(secret).decode()}
            findings.moved.append(name)
        connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.webhook_id == row.webhook_id).values(values))


def _opened(cipher: Fernet, secret: str) -> bytes | None:
    try:
        return cipher.decrypt(secret.encode())
    except InvalidToken:
        return None


def gateway(connection: Connection, keys: Keys, before: Sequence[Keys], findings: Findings) -> None:
    """Wrap the data keys of the gateway's secrets with the present passphrase; leave those that no key decrypts."""
    rows = connection.execute(select(GATEWAY).with_for_update()).all()
    if not rows:
        return
    from mlflow.utils.crypto import KEKManager, wrap_dek

    managers: dict[tuple[str, int], Any] = {}

    def kek(passphrase: str, version: int) -> bytes:
        if (passphrase, version) not in managers:
            managers[passphrase, version] = KEKManager(passphrase, version).get_kek()
        return managers[passphrase, version]

    wanted = kek(keys.passphrase, keys.version)
    for row in rows:
        name = f"gateway secret {row.secret_name!r} ({row.secret_id})"
        if _unwrapped(row.wrapped_dek, wanted) is not None:
            wrapped = row.wrapped_dek
            if row.kek_version == keys.version:
                continue
        else:
            candidates = (kek(*pair) for pair in _older(before, row.kek_version))
            data_key = next(
                (key for candidate in candidates if (key := _unwrapped(row.wrapped_dek, candidate)) is not None), None
            )
            if data_key is None:
                findings.lost.append(
                    f"{name}: no key opens it. Nothing was changed. Set its value again, or delete it."
                )
                continue
            wrapped = wrap_dek(data_key, wanted)
            findings.moved.append(name)
        connection.execute(
            update(GATEWAY)
            .where(GATEWAY.c.secret_id == row.secret_id)
            .values(wrapped_dek=wrapped, kek_version=keys.version)
        )


def _older(before: Sequence[Keys], version: int) -> Iterator[tuple[str, int]]:
    """Yield the passphrases and versions that may have wrapped a row's data key."""
    from mlflow.utils.crypto import DEFAULT_KEK_PASSPHRASE

    for keys in before:
        yield keys.passphrase, keys.version
    # MLflow's own default; the version is the row's, because `mlflow crypto rotate-kek` may have raised it.
    yield DEFAULT_KEK_PASSPHRASE, version


def _unwrapped(wrapped: bytes, kek: bytes) -> bytes | None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.crypto import unwrap_dek

    try:
        return unwrap_dek(wrapped, kek)
    except MlflowException:
        return None


def disabled(connection: Connection) -> list[str]:
    """Return the disabled webhooks that have no secret."""
    rows = connection.execute(
        select(WEBHOOKS).where(
            WEBHOOKS.c.secret.is_(None), WEBHOOKS.c.status == DISABLED, WEBHOOKS.c.deleted_timestamp.is_(None)
        )
    ).all()
    return [f"webhook {row.name!r} ({row.webhook_id}): disabled, without a secret" for row in rows]


def settle(uri: str, keys: Keys, before: Sequence[Keys], *, keep: bool) -> tuple[Findings, list[str]]:
    """Re-encrypt each stored secret with the present keys.

    :param keep: Whether to commit the changes; otherwise the database is unchanged.
    :return: The findings, and the webhooks that were disabled and without a secret before.
    """
    findings = Findings()
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    try:
        with engine.connect() as connection:
            idle = disabled(connection)
            webhooks(connection, keys, before, findings)
            gateway(connection, keys, before, findings)
            if keep:
                connection.commit()
    finally:
        engine.dispose()
    return findings, idle


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the step as in the pod, or with ``report`` for an operator."""
    report = sys.argv[1:] == ["report"]
    if not report and (lock := os.environ.get("CLAIM_LOCK")):
        try:
            claim_lock.take(Path(lock), "encryption keys step", LOCK_SECONDS)
        except claim_lock.LockError as error:
            _say(f"Refused: {error}")
            return 1
    before = former(os.environ)
    findings, idle = settle(os.environ["MLFLOW_BACKEND_STORE_URI"], present(os.environ), before, keep=not report)
    if report:
        lines = [*findings.lost, *idle]
        for line in lines:
            _say(line)
        return 1 if lines else 0
    for name in findings.moved:
        _say(f"{name}: encrypted with the present key.")
    for line in findings.lost:
        _say(f"Warning: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
