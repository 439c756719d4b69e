"""Checkov and gixy on everything that is rendered: each finding is fixed, or waived in tests/waivers.yaml."""

from pathlib import Path

import pytest
import yaml
from render.linters import WAIVERS, checkov, gixy, waived
from render.objects import PLATFORMS, RENDERED

Findings = set[tuple[str, str, str]]
"""Tool, check and platform."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("rendered")
    found: Findings = set()
    for (name, platform), rendered in RENDERED.items():
        where = folder / platform / name
        where.mkdir(parents=True)
        for position, one in enumerate(rendered):
            (where / f"{position}.yaml").write_text(yaml.safe_dump(one))
            if "nginx.conf" in one.get("data", {}):
                conf = where / f"{position}.conf"
                conf.write_text(one["data"]["nginx.conf"])
                found |= {("gixy", problem["plugin"], platform) for problem in gixy(conf)}
    for failed in checkov(folder):
        found.add(("checkov", failed["check_id"], Path(failed["file_path"]).parts[1]))
    return found


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("tool", ["checkov", "gixy"])
def test_what_the_linters_say_is_followed_or_waived(findings: Findings, tool: str, platform: str) -> None:
    said = {check for by, check, where in findings if (by, where) == (tool, platform)}
    assert said - waived(tool, platform) == set()


def test_every_waiver_is_needed_and_says_why(findings: Findings) -> None:
    stated = {(waiver["tool"], waiver["check"], platform) for waiver in WAIVERS for platform in waiver["platforms"]}
    assert stated <= findings
    assert all(waiver["about"] and len(waiver["reason"]) > 50 for waiver in WAIVERS)
