"""Run that `make up` logs at the end, with MLflow's client on the stack's own address."""

import base64
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus

from mlflow_stack_cli import programs
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.progress import Progress
from sandbox.paths import PROJECT

_SECRET_SECONDS = 150.0


def log_run(environment: Mapping[str, str], progress: Progress) -> str:
    """Log a run with MLflow's client, as the quickstart does; return the run's address."""
    with progress.step("the password counts", 2):
        _await_password(environment)
    train = PROJECT / "examples" / "quickstart" / "train.py"
    with progress.step("log a run with MLflow's client", 15) as step:
        text = programs.run(
            [sys.executable, str(train), "--short"],
            what="logging a run with MLflow's client",
            next_step="`make logs` shows the server's side",
            env=os.environ | environment, step=step,
        )  # fmt: skip
    lines = text.strip().splitlines()
    if not lines or not lines[-1].startswith("run: "):
        raise LocalError(programs.failure("logging a run with MLflow's client", lines, "`make logs`"))
    return lines[-1].removeprefix("run: ")


def _await_password(environment: Mapping[str, str]) -> None:
    """Wait until the server no longer answers 401: a kubelet updates a changed Secret in its pod within two minutes."""
    pair = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    request = urllib.request.Request(f"{environment['MLFLOW_TRACKING_URI']}/version", headers=headers)  # noqa: S310
    trusted = ssl.create_default_context(cafile=environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    deadline = time.monotonic() + _SECRET_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted):  # noqa: S310 - our own address
                return
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                return  # not about the password: the client's own error says more
        except OSError:
            return
        time.sleep(1)
    raise LocalError(
        f"the address still answers 401 to the stack's own password after {_SECRET_SECONDS:.0f} s. "
        "Next: `make status`; if the pod runs, `make up` again."
    )
