"""Webhooks and gateway secrets in a database, written and read by MLflow's own models with chosen keys."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from cryptography.fernet import Fernet, InvalidToken
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlWebhook
from mlflow.store.tracking.dbmodels.models import SqlGatewaySecret
from mlflow.utils.crypto import DEFAULT_KEK_PASSPHRASE, KEKManager, _decrypt_secret, _encrypt_secret
from sqlalchemy.orm import Session

Keys = Mapping[str, Any] | None
"""One generation as the component creates it; None is a new process of MLflow without keys."""


@contextmanager
def _opened(uri: str, keys: Keys) -> Iterator[tuple[Session, KEKManager]]:
    engine = sqlalchemy.create_engine(uri)
    # MLflow reads the key once, when the class is created.
    column: Any = SqlWebhook.__table__.c.secret
    column.type.cipher = Fernet(keys["webhook"] if keys else Fernet.generate_key())
    with Session(engine) as session:
        yield (
            session,
            KEKManager(keys["passphrase"], keys["version"]) if keys else KEKManager(DEFAULT_KEK_PASSPHRASE, 1),
        )
        session.commit()
    engine.dispose()


def write(uri: str, keys: Keys, name: str, secret: str) -> None:
    """Store a webhook and a gateway secret of that name."""
    now = int(time.time() * 1000)
    with _opened(uri, keys) as (session, kek):
        session.add(SqlWebhook(webhook_id=name, name=name, url="https://127.0.0.1/", status="ACTIVE", secret=secret))
        made = _encrypt_secret(secret, kek, name, name)
        session.add(
            SqlGatewaySecret(
                secret_id=name,
                secret_name=name,
                encrypted_value=made.encrypted_value,
                wrapped_dek=made.wrapped_dek,
                kek_version=made.kek_version,
                masked_value="***",
                created_at=now,
                last_updated_at=now,
            )
        )


def read(uri: str, keys: Keys) -> tuple[dict[str, tuple[str, str | None]] | str, dict[str, str | None]]:
    """Return each webhook's status and secret, or the error that listing them raises, and each gateway secret's value,
    None if the keys do not decrypt it."""
    with _opened(uri, keys) as (session, kek):
        try:
            webhooks = {row.name: (row.status, row.secret) for row in session.query(SqlWebhook)}
        except InvalidToken:
            webhooks = "InvalidToken"
        session.expunge_all()
        return webhooks, {row.secret_name: _value(row, kek) for row in session.query(SqlGatewaySecret)}


def _value(row: Any, kek: KEKManager) -> str | None:
    try:
        return str(_decrypt_secret(row.encrypted_value, row.wrapped_dek, kek, row.secret_id, row.secret_name))
    except MlflowException:
        return None
