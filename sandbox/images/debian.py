"""Debian root filesystems, made by debootstrap and cached by the content of their recipe."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from filelock import FileLock

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress

SUITE: Final = "bookworm"
_RECIPE: Final = 1  # raised when what this module does to a root filesystem changes
_HASTE: Final = "etc/dpkg/dpkg.cfg.d/haste"
_KEYRING: Final = Path("usr/share/keyrings/debian-archive-keyring.gpg")
# Files that no process reads. Copyright files are kept.
_NEEDLESS: Final = (
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "var/cache",
    "var/lib/apt/lists",
    "var/log",
)
# Files that debootstrap copies from the machine, or that differ between runs.
_FOREIGN: Final = (
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/machine-id",
    "etc/passwd-",
    "etc/shadow-",
    "etc/group-",
    "etc/gshadow-",
)


def _run(what: str, argv: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    next_step = "check that this machine reaches a Debian mirror, then run the same command again"
    run([str(word) for word in argv], what=what, next_step=next_step, cwd=cwd, env=env)


def _package(name: str) -> Path:
    """Return the files of a Debian package, unpacked into the cache: nothing is installed on the machine."""
    folder = cache_dir() / "debian" / name
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None:
        raise LocalError(
            f"{name} is neither installed nor available without apt-get. "
            f"Next: install the package {name}, then run the same command again."
        )
    partial = folder.with_name(f".{name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # apt drops to the user _apt for downloads, who may not write into the cache.
    _run(f"Downloading {name}", ["apt-get", "-o", "APT::Sandbox::User=root", "download", name], cwd=partial)
    archive = next(partial.glob("*.deb"))
    _run(f"Unpacking {name}", ["dpkg", "-x", archive, partial])
    archive.unlink()
    partial.rename(folder)
    return folder


def _debootstrap() -> tuple[list[str | Path], dict[str, str]]:
    """Return the command, with the keyring for signatures, and its environment."""
    keyring = Path("/") / _KEYRING
    if not keyring.exists():
        keyring = _package("debian-archive-keyring") / _KEYRING
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command: str | Path | None = shutil.which("debootstrap")
    if command is None:
        files = _package("debootstrap")
        command = files / "usr/sbin/debootstrap"
        environment["DEBOOTSTRAP_DIR"] = str(files / "usr/share/debootstrap")
    return [command, f"--keyring={keyring}"], environment


def _mirror() -> list[str]:
    """Return the configured mirror, or the one of this machine's own apt for bookworm, which has the other suites, too;
    empty for debootstrap's default."""
    given = os.environ.get("MLFLOW_STACK_DEBIAN_MIRROR")
    if given:
        return [given]
    if shutil.which("apt-get") is None:
        return []
    known = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    sites = [
        site
        for release, component, site in (line.split() for line in known.stdout.splitlines() if line.count(" ") == 2)
        if (release, component) == (SUITE, "main")
    ]
    return sites[:1]


def _strip(root: Path) -> None:
    for name in _NEEDLESS:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    for name in _FOREIGN:
        (root / name).unlink(missing_ok=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    (root / _HASTE).unlink()


def recipe(packages: Sequence[str], suite: str = SUITE) -> str:
    """Return a digest of 12 characters of everything that determines a root filesystem with these packages."""
    return hashlib.sha256(json.dumps([_RECIPE, suite, sorted(packages)]).encode()).hexdigest()[:12]


def debian(progress: Progress, name: str, packages: Sequence[str], suite: str = SUITE) -> Path:
    """Return a minimal Debian root filesystem with these packages, created once and then cached.

    It belongs to the cache: copy it or mount something over it before writing to it. It holds no machine id, no
    `resolv.conf`, no package lists and no documentation. The mirror is the one in `MLFLOW_STACK_DEBIAN_MIRROR`, else
    the machine's own for bookworm, else debootstrap's default.

    Args:
        progress: shows the build.
        name: purpose; part of the folder's name.
        packages: Debian packages beyond the essential ones.
        suite: the Debian release.

    Raises:
        LocalError: debootstrap is not available, or it failed.
    """
    roots = cache_dir() / "roots"
    root = roots / f"{name}-{recipe(packages, suite)}"
    if root.exists():
        return root
    roots.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        raise LocalError("building a root filesystem requires root. Next: run the same command as root.")
    # One at a time: two would download the same packages into the same folder.
    with FileLock(roots / ".lock"):
        if root.exists():
            return root
        with progress.step(f"root filesystem: {name}", 60, key=f"debian-{name}"):
            partial = roots / f".{root.name}"
            shutil.rmtree(partial, ignore_errors=True)
            (partial / _HASTE).parent.mkdir(parents=True)
            (partial / _HASTE).write_text("force-unsafe-io\n")  # a killed build is discarded, so syncing is unnecessary
            packages_kept = cache_dir() / "debian" / "packages"
            packages_kept.mkdir(parents=True, exist_ok=True)
            command, environment = _debootstrap()
            arguments = [
                "--variant=minbase",
                f"--include={','.join(sorted(packages))}",
                f"--cache-dir={packages_kept}",
                suite,
                partial,
                *_mirror(),
            ]
            # Its own mounts and processes end with it, even if it is killed.
            isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            _run(f"debootstrap of {name}", [*isolated, *command, *arguments], env=environment)
            _strip(partial)
            if (partial / "usr/bin/python3").exists():
                # Valid for any file times in an image, because bytecode cannot be written there.
                compiled = [
                    "-m",
                    "compileall",
                    "-q",
                    "-f",
                    "--invalidation-mode",
                    "unchecked-hash",
                    "/usr/lib/python3*",
                ]
                _run(f"Compiling Python of {name}", ["chroot", partial, "sh", "-c", f"python3 {' '.join(compiled)}"])
            partial.rename(root)
    return root
