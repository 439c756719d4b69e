"""Tracking server as started by its pod: a process on loopback, with this project's app and a folder as claim."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from process.claims import free_port

from mlflow_stack.programs import claim_lock
from mlflow_stack.servers import tracking

SCRIPTS = Path(claim_lock.__file__).parent
MEBIBYTE = 2**20
BODY = 8 * MEBIBYTE
"""Largest body of these servers."""
START_SECONDS = 120


@dataclass
class Server:
    """Running server."""

    url: str
    path: str
    home: Path
    process: subprocess.Popen[bytes]

    def api(self, call: str) -> str:
        """Return the address of an API call."""
        return f"{self.url}{self.path}/api/2.0/mlflow/{call}"

    def artifact(self, name: str) -> str:
        return f"{self.url}{self.path}/api/2.0/mlflow-artifacts/artifacts/{name}"

    def post(self, call: str, body: object, **options: object) -> requests.Response:
        return requests.post(self.api(call), json=body, timeout=120, **options)

    def experiment(self, name: str) -> str:
        return self.post("experiments/create", {"name": name}).json()["experiment_id"]

    def run(self, experiment: str = "0") -> str:
        return self.post("runs/create", {"experiment_id": experiment}).json()["run"]["info"]["run_id"]

    @property
    def worker(self) -> psutil.Process:
        """Process that answers requests."""
        (child,) = [
            child for child in psutil.Process(self.process.pid).children() if "uvicorn" in " ".join(child.cmdline())
        ]
        return child

    def resident(self) -> int:
        """Bytes of memory of the worker."""
        return self.worker.memory_info().rss

    def peak(self) -> int:
        """Peak of the worker's memory, in bytes."""
        (line,) = [line for line in Path(f"/proc/{self.worker.pid}/status").read_text().splitlines() if "VmHWM" in line]
        return int(line.split()[1]) * 1024

    def log(self) -> str:
        return (self.home / "log").read_text()


def install(folder: Path) -> None:
    """Write the programs as mounted from their ConfigMap."""
    for path, text in tracking.programs("searches_sqlite.py").items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def environment(home: Path, port: int, path: str = "", **more: str) -> dict[str, str]:
    """Return the environment of the server's container."""
    (home / "tmp").mkdir(exist_ok=True)
    programs = home / "programs"
    install(programs)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTEST", "AWS"))}
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(programs),
        "SCRATCH_FOLDER": str(home / "tmp"),
        "CLAIM_LOCK": str(home / "mlflow.db.lock"),
        "MAX_BODY_BYTES": str(BODY),
        "MLFLOW_GATEWAY_MAX_DECOMPRESSED_REQUEST_SIZE": str(BODY),
        "ARTIFACT_LOCATIONS": "",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home}/mlflow.db",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "MLFLOW_ARTIFACTS_DESTINATION": str(home / "artifacts"),
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_STATIC_PREFIX": path,
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
        **more,
    }


def launch(home: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the server's first process."""
    # `PLAIN=1` starts MLflow's own server; a failing test then shows the fault that it guards against.
    plain = [sys.executable, "-m", "mlflow", "server"]
    command = plain if os.environ.get("PLAIN") else [sys.executable, home / "programs/tracking_server.py"]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=(home / "log").open("ab"),
        stderr=subprocess.STDOUT,
        cwd=home,
        start_new_session=True,
    )


@contextmanager
def served(home: Path, path: str = "", **more: str) -> Generator[Server]:
    """Run a server until the block ends."""
    port = free_port()
    process = launch(home, environment(home, port, path, **more))
    server = Server(f"http://127.0.0.1:{port}", path, home, process)
    try:
        wait(server)
        yield server
    finally:
        end(process)


def locked(file: Path) -> int:
    """Take the lock on a claim, as another pod would."""
    return claim_lock.take(file, "server", 0)


def wait(server: Server) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{server.url}{server.path}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
        if server.process.poll() is not None:
            break
    raise AssertionError(server.log()[-3000:])


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server as the kubelet does."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the server with all its processes, as the end of a container does."""
    for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        member.kill()
    process.wait(30)
