"""Images built on this machine from Debian packages and PyPI, without a registry or a container engine."""

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress
from sandbox.images.archive import pack
from sandbox.images.debian import debian, recipe

_REQUIREMENTS: Final = Path(__file__).parent / "mlflow" / "requirements.txt"
_MLFLOW_RECIPE: Final = 1  # raised when what this module does to the MLflow image changes
_MLFLOW_BASE: Final = ("ca-certificates", "python3")
_NGINX_BASE: Final = ("ca-certificates", "nginx-light")
_MARIADB_BASE: Final = ("mariadb-client", "mariadb-server-core")
_HOME: Final = "opt/mlflow"
_PYTHON: Final = "3.11"  # Debian bookworm's
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The test suites are a tenth of the image, and nothing imports them.
_UNTESTED: Final = ("matplotlib", "numpy", "pandas", "pyarrow", "scipy", "sklearn")


@dataclass(frozen=True)
class Image:
    """Image that is ready to be loaded into a node."""

    reference: str
    """Name of the image in pods."""
    archive: Path
    """Docker archive."""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _kept(name: str, digest: str, build: Callable[[Path], None]) -> Image:
    """Return the archive `<name>-<version>-<digest>.tar` in the cache, built in a scratch folder if it does not
    exist."""
    folder = cache_dir() / "images"
    pattern = f"{name}-*-{digest}.tar"

    def found() -> Image | None:
        for archive in folder.glob(pattern):
            tag = archive.stem.removeprefix(f"{name}-")
            return Image(f"localhost/mlflow-stack/{name}:{tag}", archive)
        return None

    if image := found():
        return image
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if image := found():
            return image
        scratch = folder / f".{name}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        build(scratch)
        shutil.rmtree(scratch)
    image = found()
    assert image is not None
    return image


def _run(what: str, *argv: str | Path) -> str:
    return run([str(word) for word in argv], what=what, env=os.environ | {"UV_CACHE_DIR": str(cache_dir() / "uv")})


def _install(home: Path) -> None:
    """Create a virtual environment as `venv` would, without running the image's Python."""
    packages = home / f"lib/python{_PYTHON}/site-packages"
    platform_tag = f"{platform.machine()}-manylinux_2_36"
    _run(
        "Installing MLflow's packages",
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", packages, "--link-mode=copy"),
        *("--python-version", _PYTHON, "--python-platform", platform_tag, "--only-binary=:all:", "--no-deps"),
        *("--require-hashes", "--requirements", _REQUIREMENTS),
    )
    commands = home / "bin"
    (packages / "bin").rename(commands)
    for command in commands.iterdir():
        first, _, rest = command.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            command.write_bytes(f"#!/{_HOME}/bin/python\n".encode() + rest)
    for name in ("python", "python3"):
        (commands / name).symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for package in _UNTESTED:
        for tests in [path for path in (packages / package).rglob("tests") if path.is_dir()]:
            shutil.rmtree(tests, ignore_errors=True)
    shutil.rmtree(packages / "pyarrow/include")
    for path in home.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(0o755 if path.is_dir() or mode & 0o100 else 0o644)


def _compile(root: Path, home: Path) -> None:
    """Compile bytecode with the image's own Python, valid for any file times in the image."""
    compileall = f"/{_HOME}/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /{_HOME}/lib"
    script = f'mount --bind "$1" "$2/opt" && exec chroot "$2" {compileall}'
    _run("Compiling MLflow's packages", "unshare", "--mount", "sh", "-c", script, "sh", home.parent, root)


def mlflow(progress: Progress) -> Image:
    """Build MLflow with its database, S3 and metrics drivers on Debian's Python, once per content of its recipe.

    It runs under any user ID with a read-only root; `python`, `mlflow`, `uvicorn`, `bash` are on its PATH.

    Raises:
        LocalError: Debian's mirror or PyPI could not be reached, or a build step failed.
    """
    requirements = _REQUIREMENTS.read_text()
    version = next(line for line in requirements.splitlines() if line.startswith("mlflow==")).split()[0].split("==")[1]
    digest = _digest(str(_MLFLOW_RECIPE), platform.machine(), recipe(_MLFLOW_BASE), requirements)

    def build(scratch: Path) -> None:
        root = debian(progress, "mlflow", _MLFLOW_BASE)
        home = scratch / _HOME
        home.mkdir(parents=True)
        with progress.step("image: MLflow's packages", 40):
            _install(home)
        with progress.step("image: MLflow's bytecode", 60):
            _compile(root, home)
        with progress.step("image: MLflow's archive", 10):
            tag = f"{version}-{digest}"
            pack(
                f"localhost/mlflow-stack/mlflow:{tag}",
                [root, scratch],
                scratch.parent / f"mlflow-{tag}.tar",
                env={"PATH": f"/{_HOME}/bin:{_PATH}", "LANG": "C.UTF-8", "GIT_PYTHON_REFRESH": "quiet"},
            )

    return _kept("mlflow", digest, build)


def nginx(progress: Progress) -> Image:
    """Build Debian's nginx-light, once per content of its recipe. It runs under any user ID with a read-only root.

    Raises:
        LocalError: Debian's mirror could not be reached, or a build step failed.
    """
    return _of_debian(progress, "nginx", _NGINX_BASE, ("nginx", "-v"))


def mariadb(progress: Progress) -> Image:
    """Build Debian's MariaDB: `mariadbd`, `mariadb-install-db`, and the clients `mariadb`, `mariadb-admin`,
    `mariadb-dump`.

    It runs under any user ID with a read-only root, given a data folder, a socket and a `/tmp`.

    Raises:
        LocalError: Debian's mirror could not be reached, or a build step failed.
    """
    return _of_debian(progress, "mariadb", _MARIADB_BASE, ("mariadbd", "--version"))


def _of_debian(progress: Progress, name: str, packages: Sequence[str], version: Sequence[str]) -> Image:
    """Build an image of a root filesystem with these packages; `version` prints the version for its tag."""
    digest = _digest(platform.machine(), recipe(packages))

    def build(scratch: Path) -> None:
        root = debian(progress, name, packages)
        said = re.search(r"\d+\.\d+\.\d+", _run(f"Asking {name} for its version", "chroot", root, *version))
        assert said
        tag = f"{said[0]}-{digest}"
        archive = scratch.parent / f"{name}-{tag}.tar"
        pack(f"localhost/mlflow-stack/{name}:{tag}", root, archive, env={"PATH": _PATH, "LANG": "C.UTF-8"})

    return _kept(name, digest, build)
