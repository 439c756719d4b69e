"""Step that keeps MLflow's stored secrets readable, on databases that MLflow itself wrote.

Not tested here: that the tracking server's pod has the keys (tests/components/test_encryption_keys.py).
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process.databases import Server, database
from process.steps import SCRIPTS, step
from process.stored_secrets import read, write

PROGRAM = SCRIPTS / "encryption_keys.py"
KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(SCRIPTS)!r})
import encryption_keys
encryption_keys.gateway = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
encryption_keys.main()
"""


def generation(number: int) -> dict[str, Any]:
    """Return the keys of one generation, as the component creates them."""
    return {
        "webhook": base64.b64encode(bytes([number]) * 32).decode(),
        "passphrase": f"{number}" * 40,
        "version": 2 + number,
    }


def environment(uri: str, number: int, *former: int) -> dict[str, str]:
    """Return the step's environment with a generation of keys and the previous ones."""
    keys = generation(number)
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": keys["webhook"],
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": keys["passphrase"],
        "MLFLOW_CRYPTO_KEK_VERSION": str(keys["version"]),
        "FORMER_KEYS": json.dumps([generation(number) for number in former]),
    }


def settle(env: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Run the step; return its exit code and the lines of its log."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], env=env, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stderr.splitlines()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty database with the newest schema."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    step(file)
    return file


@pytest.fixture(params=["sqlite", "mariadb"])
def uri(request: pytest.FixtureRequest, empty: Path, servers: dict[str, Server], tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        shutil.copy(empty, tmp_path / "mlflow.db")
        yield f"sqlite:///{tmp_path}/mlflow.db"
    else:
        made = database(servers["mariadb"], "keys", tmp_path / "pod")
        made.job()
        yield made.uri
        made.server.ask("drop database `keys`")


def test_secrets_of_mlflow_without_keys_become_readable_or_are_named(uri: str) -> None:
    """With MLflow's own defaults, the webhook's key ends with its process, and the gateway's passphrase is public."""
    write(uri, None, "deploy", "before")
    assert read(uri, None)[0] == "InvalidToken"  # after a restart, for every webhook
    step, ours = environment(uri, 0), generation(0)
    assert settle(step, "report")[0] == 1
    assert read(uri, ours) == ("InvalidToken", {"deploy": None})  # a report changes nothing
    code, log = settle(step)
    assert code == 0
    assert log == [
        "gateway secret 'deploy' (deploy): encrypted with the present key.",
        "Warning: webhook 'deploy' (deploy): no key opens its secret. It is disabled and has no secret. "
        "Set a new secret and activate it, or delete it.",
    ]
    assert read(uri, ours) == ({"deploy": ("DISABLED", None)}, {"deploy": "before"})
    assert read(uri, None)[1] == {"deploy": None}  # MLflow's published passphrase no longer decrypts it
    assert settle(step) == (0, [])
    assert settle(step, "report") == (1, ["webhook 'deploy' (deploy): disabled, without a secret"])


def test_secrets_outlive_a_rotation_and_a_killed_step(uri: str) -> None:
    first, third = generation(0), generation(2)
    stored = ({"deploy": ("ACTIVE", "kept")}, {"deploy": "kept"})
    write(uri, first, "deploy", "kept")
    assert settle(environment(uri, 0)) == (0, [])
    step = environment(uri, 2, 1, 0)  # a generation that never ran is skipped
    # Killed after writing the webhook and before the gateway's secret: nothing of the transaction remains.
    killed = subprocess.run([sys.executable, "-c", KILLED], env=step, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read(uri, first) == stored
    assert settle(step) == (
        0,
        [
            "webhook 'deploy' (deploy): encrypted with the present key.",
            "gateway secret 'deploy' (deploy): encrypted with the present key.",
        ],
    )
    assert read(uri, third) == stored
    assert read(uri, first) == ("InvalidToken", {"deploy": None})
    assert settle(step) == (0, [])
    assert settle(step, "report") == (0, [])


def test_reports_a_gateway_secret_with_an_unknown_passphrase(uri: str) -> None:
    write(uri, generation(5), "foreign", "kept")
    said = (
        "gateway secret 'foreign' (foreign): no key opens it. Nothing was changed. Set its value again, or delete it."
    )
    code, log = settle(environment(uri, 0))
    assert code == 0
    assert f"Warning: {said}" in log
    assert read(uri, generation(5))[1] == {"foreign": "kept"}
    code, log = settle(environment(uri, 0), "report")
    assert code == 1
    assert said in log
