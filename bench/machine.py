"""Properties of the machine that results depend on."""

import os
import platform as this
import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from bench.platform import Platform, run


def facts() -> dict[str, str]:
    """Return hardware, system and load, before anything is measured."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "cores": str(os.cpu_count()),
        "CPU": model[1] if model else this.machine(),
        "memory": f"{int(memory[1]) / 2**20:.1f} GiB" if memory else "unknown",
        "kernel": this.release(),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": this.python_version(),
        "commit": run("git", "describe", "--always", "--dirty").stdout.strip(),
    }


def versions(platform: Platform) -> dict[str, str]:
    """Return the versions of the measured programs."""
    node = platform.kubectl("get", "nodes", "--output", "jsonpath={.items[0].status.nodeInfo.kubeletVersion}")
    return {
        "MLflow": version("mlflow"),
        "nginx": platform.config["mlflow-stack:proxyImage"].rpartition(":")[2].rpartition("-")[0],
        "Kubernetes": node,
        "Pulumi": run("pulumi", "version", env=platform.environment).stdout.strip(),
        "pulumi-kubernetes": version("pulumi-kubernetes"),
    }
