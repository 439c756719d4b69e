"""Real S3 server on loopback: the local stacks' server, as a process."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import requests
from botocore.config import Config
from process.claims import free_port

from mlflow_stack_cli.progress import Progress
from sandbox.services import s3_server

ROOT = ("AKIAROOT", "root/secret+key=")


class S3Server:
    """Versity's gateway for a folder, which can be stopped and restarted."""

    def __init__(self, folder: Path) -> None:
        with Progress() as progress:
            self.program = s3_server(progress)
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        for name in ("buckets", "users"):
            (folder / name).mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", self.url.removeprefix("http://"), "--region", "us-east-1", "--health", "/health"]
        self._process = subprocess.Popen(
            [self.program, *options, "--iam-dir", self.folder / "users", "posix", self.folder / "buckets"],
            env={"ROOT_ACCESS_KEY": ROOT[0], "ROOT_SECRET_KEY": ROOT[1], "PATH": os.environ["PATH"]},
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(100):
            try:
                if requests.get(f"{self.url}/health", timeout=1).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def user(self, access: str, secret: str) -> None:
        """Create a user who owns nothing."""
        admin = ["admin", "--access", ROOT[0], "--secret", ROOT[1], "--endpoint-url", self.url, "--region", "us-east-1"]
        new = ["create-user", "--access", access, "--secret", secret, "--role", "user"]
        subprocess.run([self.program, *admin, *new], check=True, capture_output=True)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ROOT[0],
            aws_secret_access_key=ROOT[1],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def env(self, keys: Path, pair: tuple[str, str] = ROOT) -> dict[str, str]:
        """Return the environment of a server that uses this one, with the keys in a file."""
        keys.write_text(f"[default]\naws_access_key_id = {pair[0]}\naws_secret_access_key = {pair[1]}\n")
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AWS_SHARED_CREDENTIALS_FILE": str(keys),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
        }
