"""2 GB through the address, up and down."""

import re
import subprocess
import sys

from e2e.platform_under_test import Platform, client_environment

import engine


def test_two_gigabytes_come_back_bit_for_bit(platform: Platform, client: dict[str, str]) -> None:
    platform.run("pulumi", "config", "set", "maxArtifactSize", "3Gi", "--non-interactive")
    platform.local("up")
    done = subprocess.run(
        [sys.executable, str(engine.PROJECT / "examples/quickstart/train.py"), "--megabytes", "2000"],
        env=client_environment(platform, client),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"large\.bin: sha256 [0-9a-f]{64}, the same both ways", done.stdout)
    statuses = platform.server("mlflow-dev")["status"]["containerStatuses"]
    assert [one["restartCount"] for one in statuses] == [0, 0]
