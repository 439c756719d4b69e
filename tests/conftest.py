"""Settings of the whole suite: a count for each layer, and no skips."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from e2e.fixtures import client, first_up, platform, stranger  # noqa: F401 - fixtures of the layers e2e and soak
from process.claims import claims  # noqa: F401 - a fixture of the layers process, e2e and soak
from process.databases import old, servers  # noqa: F401 - fixtures of the layers process and soak
from process.postgresql import old_postgres, postgres  # noqa: F401 - fixtures of the layers process and soak

LAYERS = ("unit", "components", "program", "contract", "render", "process", "e2e", "soak")


@pytest.fixture(scope="module", autouse=True)
def _swept() -> Iterator[None]:
    """Collect garbage after each module. Pulumi leaves tasks behind that asyncio reports when they are collected, and
    CPython 3.11's parser fails if that happens while it runs (gh-106905)."""
    yield
    gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call":
            passed[report.nodeid.split("/")[1]] += 1
    terminalreporter.section("passed per layer")
    for layer in LAYERS:
        if passed[layer]:
            terminalreporter.write_line(f"{layer:<12}{passed[layer]:>5}")
    if passed["render"]:
        waivers = yaml.safe_load(Path(__file__).with_name("waivers.yaml").read_text())
        terminalreporter.write_line(f"{'waivers':<12}{len(waivers):>5}  of what linters say, in tests/waivers.yaml")
    terminalreporter.write_line(f"{'skipped':<12}{len(terminalreporter.stats.get('skipped', [])):>5}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
