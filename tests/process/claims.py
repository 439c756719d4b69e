"""Data written by older MLflow releases, once per session: a database and a file store of each."""

import json
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from process import oldmlflow

HERE = Path(__file__).parent
# A file store of 1.12.0 has no model registry.
WITHOUT_REGISTRY = ("1.12.0", "file")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Claim:
    """Volume as an older server left it."""

    version: str
    kind: str
    mount: Path
    """Mount point in that server."""
    wrote: dict[str, Any]

    def copied(self, folder: Path) -> Path:
        """Return the same volume, mounted elsewhere."""
        return shutil.copytree(self.mount, folder, symlinks=True)


def write(root: Path, version: str, kind: str, store: str | None = None) -> Claim:
    """Let an old server with that store write a team's typical data."""
    home = oldmlflow.environment(version)
    work = root / f"{kind}-{version}"
    claim = work / "claim"
    claim.mkdir(parents=True)
    store = store or (f"sqlite:///{claim}/mlflow.db" if kind == "database" else str(claim / "mlruns"))
    # The CSC template gives both options the same folder.
    options = ["--backend-store-uri", store, "--default-artifact-root", str(claim / "mlruns")]
    if version != "1.12.0":
        options.append("--no-serve-artifacts")
    registry = "no" if (version, kind) == WITHOUT_REGISTRY else "yes"
    with oldmlflow.server(home, free_port(), *options, log=work / "server.log") as url:
        writer = [home / "bin/python", "-W", "ignore", HERE / "write_old.py", url, claim, registry]
        done = subprocess.run(writer, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + (work / "server.log").read_text()[-3000:]
    return Claim(version, kind, claim, json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def claims(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Claim]:
    """Old claims by version and kind of store."""
    root = tmp_path_factory.mktemp("old")
    wanted = [(version, kind) for version in oldmlflow.VERSIONS for kind in ("database", "file")]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(lambda which: write(root, *which), wanted), strict=True))
