"""Upload and download of 2 GB through the address."""

import re

from e2e.platform_under_test import Platform, quickstart


def test_two_gigabytes_come_back_bit_for_bit(platform: Platform, client: dict[str, str]) -> None:
    platform.run("pulumi", "config", "set", "maxArtifactSize", "3Gi", "--non-interactive")
    platform.local("up")
    output = quickstart(client, "--megabytes", "2000")
    assert re.search(r"large\.bin: sha256 [0-9a-f]{64}, the same both ways", output)
    statuses = platform.server("mlflow-dev")["status"]["containerStatuses"]
    assert [status["restartCount"] for status in statuses] == [0, 0]
