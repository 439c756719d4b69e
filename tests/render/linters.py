"""Linters of rendered objects, and the waivers of their findings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

WAIVERS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parents[1] / "waivers.yaml").read_text())
# In a separate environment: it pins other versions of packages that the tests need.
CHECKOV = ("tool", "run", "--quiet", "--from", "checkov==3.3.30", "checkov")
OPTIONS = ("--framework", "kubernetes", "--compact", "--quiet", "--skip-download", "--output", "json")


def waived(tool: str, platform: str) -> set[str]:
    """Return the waived checks."""
    return {waiver["check"] for waiver in WAIVERS if waiver["tool"] == tool and platform in waiver["platforms"]}


def checkov(folder: Path) -> list[dict[str, Any]]:
    """Return the failed checks of the YAML files in a folder; the caller checks that each file was read."""
    uv = str(Path(sys.executable).with_name("uv"))
    done = subprocess.run([uv, *CHECKOV, "--directory", folder, *OPTIONS], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0
    return report["results"]["failed_checks"]


def gixy(conf: Path) -> list[dict[str, Any]]:
    """Return the findings in an nginx configuration."""
    program = str(Path(sys.executable).with_name("gixy"))
    done = subprocess.run([program, "--format", "json", conf], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)
