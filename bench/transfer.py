"""Memory of the tracking pod while a large artifact goes up and down through the public address."""

import os
import subprocess
import sys
import time

from bench import memory
from bench.platform import Platform, exported, run
from bench.result import Line
from mlflow_stack_cli.progress import Progress
from sandbox.paths import PROJECT

GOAL = 1.3
MEGABYTES = 2000
_MIB = 2**20


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure the peak memory of all processes of the pod, against the memory before."""
    megabytes = 100 if short else MEGABYTES
    run("pulumi", "config", "set", "maxArtifactSize", "3Gi", "--non-interactive", env=platform.environment)
    platform.local("up")
    client = {**os.environ, **exported(platform.local("client-env").stdout)}
    train = [sys.executable, str(PROJECT / "examples" / "quickstart" / "train.py"), "--megabytes"]
    # Modules that the server loads at a first transfer do not count.
    run(*train, "1", env=client)
    pod = platform.tracking_pod()
    before = memory.anonymous(pod)
    most = before
    with progress.step(f"bench: {megabytes} MB up and down", 90):
        with subprocess.Popen([*train, str(megabytes)], env=client, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, memory.anonymous(pod))
                time.sleep(0.5)
        if process.returncode:
            run(*train, str(megabytes), env=client)
    pairs = [(most / _MIB, before / _MIB)]
    return [Line(f"memory while {megabytes} MB go up and down", "MiB", pairs, "at most", GOAL, "idle, before")]
