"""Old MLflow releases, each in an environment that is created on demand and kept in the cache folder."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mlflow_stack_cli.paths import cache_dir

PINS = Path(__file__).parent / "pins"
VERSIONS = ("1.12.0", "2.5.0")


def environment(version: str) -> Path:
    """Return the folder of a virtual environment with that release and its pinned dependencies."""
    pins = PINS / f"mlflow-{version}.txt"
    folder = cache_dir() / "old-mlflow" / f"{version}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            uv = [sys.executable, "-m", "uv"]
            cached = os.environ | {"UV_CACHE_DIR": str(cache_dir() / "uv")}
            subprocess.run([*uv, "venv", "--quiet", "--python", "3.11", folder], env=cached, check=True)
            install = [
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--python",
                folder / "bin/python",
                "--requirements",
                pins,
            ]
            subprocess.run([*uv, *install], env=cached, check=True)
            (folder / "ready").touch()
    return folder


@contextmanager
def server(home: Path, port: int, *arguments: str | Path, log: Path) -> Generator[str]:
    """Run `mlflow server` of the environment in that folder, on loopback, until the block ends."""
    # Old servers start `gunicorn` from PATH and do not stop it with them; hence the whole process group.
    paths = {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [home / "bin/mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *arguments],
            env=os.environ
            | paths
            | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"{url}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no answer from {home.name}:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
