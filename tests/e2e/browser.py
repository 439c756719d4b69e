"""Browser: Debian's Chromium with its own HOME, which trusts one authority and resolves one instance's names."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, expect, sync_playwright

from mlflow_stack_cli.progress import Progress
from sandbox import authority
from sandbox.images.debian import debian
from sandbox.paths import Instance

_RUN = Path(__file__).with_name("browser.sh")
# dbus-x11: debootstrap does not resolve which package provides a message bus.
_PACKAGES = ("chromium", "dbus-x11", "fonts-dejavu-core", "libnss3-tools")
WIDTH, HEIGHT = 1280, 800
PATIENCE = 180_000
"""Milliseconds that a page may take: the first one loads megabytes from a server that has just started."""

expect.set_options(timeout=PATIENCE)


class Browser:
    """Chromium that reaches the node of an instance and nothing else."""

    def __init__(self, instance: Instance, home: Path, *, trusting: bool = True) -> None:
        """`home`: an empty folder; `trusting`: whether its profile trusts the instance's authority."""
        self._instance = instance
        self._home = home
        with Progress() as progress:
            self._root = debian(progress, "browser", _PACKAGES)
        store = home / ".pki" / "nssdb"
        store.mkdir(parents=True)
        self._certutil("-N", "--empty-password")
        if trusting:
            given = home / "ca.crt"
            given.write_bytes(authority.root(instance).read_bytes())
            self._certutil("-A", "-n", "instance", "-t", "C,,", "-i", str(given))

    @contextmanager
    def visit(self, user: tuple[str, str] | None) -> Iterator[BrowserContext]:
        """Open a page as a user who answers the password prompt, or dismisses it."""
        with sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                self._home / "profile",
                executable_path=_RUN,
                env=self._environment("/usr/lib/chromium/chromium"),
                args=[
                    "--no-sandbox",  # root cannot use it
                    "--no-proxy-server",
                    f"--host-resolver-rules=MAP *.{self._instance.domain} {self._instance.node_address}, "
                    "MAP * ~NOTFOUND",
                ],
                http_credentials={"username": user[0], "password": user[1]} if user else None,
                viewport={"width": WIDTH, "height": HEIGHT},
            )
            context.set_default_timeout(PATIENCE)
            try:
                yield context
            finally:
                context.close()

    def _certutil(self, *arguments: str) -> None:
        command = [_RUN, "-d", f"sql:{self._home}/.pki/nssdb", *arguments]
        subprocess.run(command, env=self._environment("/usr/bin/certutil"), check=True, capture_output=True)

    def _environment(self, program: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "ROOT": str(self._root), "PROGRAM": program}
