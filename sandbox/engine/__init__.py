"""Pulumi engine: the one on PATH, else one built from Go modules and kept in the cache folder."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_stack_cli import programs
from mlflow_stack_cli.paths import cache_dir
from mlflow_stack_cli.progress import Progress
from sandbox import builds, guard
from sandbox.paths import Instance

_MODULES = Path(__file__).parent / "modules"
_SDK = "github.com/pulumi/pulumi/sdk/v3"
_KUBERNETES = "github.com/pulumi/pulumi-kubernetes/provider/v4"
_CLI_VERSION = "3.259.0"
_KUBERNETES_VERSION = "4.27.0"
_RANDOM_VERSION = "4.19.1"


@dataclass(frozen=True)
class Engine:
    """Usable Pulumi engine."""

    path: tuple[Path, ...]
    """Folders to put first on PATH; empty for an existing `pulumi`."""
    home: Path | None
    """PULUMI_HOME with the providers; None for the user's own."""


def ensure(progress: Progress) -> Engine:
    """Return the engine, built if PATH has none: about 12 minutes of processor time, once, from empty caches.

    Raises `LocalError` if a build fails.
    """
    if shutil.which("pulumi", path=_path()):
        return Engine((), None)
    programs = builds.overlap(*(partial(build, progress) for build in (_cli, _host, _kubernetes, _random)))
    digest = hashlib.sha256("\0".join(map(str, programs)).encode()).hexdigest()[:12]
    root = cache_dir() / "engine" / digest
    complete = root / "complete"
    with builds.locked(root):
        if not complete.exists():
            with progress.step("install the engine", 10):
                _install(root, *programs)
            complete.touch()
    return Engine((root / "bin",), root / "home")


def environment(engine: Engine, instance: Instance | None) -> dict[str, str]:
    """Return the variables that select this engine and an instance's state; only PATH is inherited from this process.

    `pulumi`, then the programs beside this interpreter, come first on PATH.
    """
    folders = [*map(str, engine.path), str(Path(sys.executable).parent)]
    inherited = [folder for folder in _path().split(os.pathsep) if folder not in folders]
    variables = {"PATH": os.pathsep.join([*folders, *inherited]), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    if engine.home:
        variables["PULUMI_HOME"] = str(engine.home)
    if instance:
        variables["PULUMI_BACKEND_URL"] = f"file://{instance.state}"
        variables["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(instance.passphrase)
    return variables


def _path() -> str:
    return guard.unguarded(os.environ.get("PATH", os.defpath))


def _cli(progress: Progress) -> Path:
    package = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
    return builds.go_binary(
        progress, "pulumi", _MODULES / "pulumi", package, estimate=360,
        ldflags=f"-X {_SDK}/go/common/version.Version=v{_CLI_VERSION}",
    )  # fmt: skip


def _host(progress: Progress) -> Path:
    package = "github.com/pulumi/pulumi/sdk/python/cmd/pulumi-language-python/v3"
    name = "pulumi-language-python"
    return builds.go_binary(progress, name, _MODULES / "language-python", package, estimate=60)


def _kubernetes(progress: Progress) -> Path:
    def embed(sources: Path) -> None:
        command = _module(sources, _KUBERNETES) / "cmd" / "pulumi-resource-kubernetes"
        schema = json.loads((command / "schema.json").read_text()) | {"version": _KUBERNETES_VERSION}
        (sources / "schema.json").write_text(json.dumps(schema))
        (sources / "terraform-mapping.json").write_bytes((command / "terraform-mapping.json").read_bytes())

    return builds.go_binary(
        progress, "pulumi-resource-kubernetes", _MODULES / "provider-kubernetes", ".", embed=embed, estimate=480,
        ldflags=f"-X {_KUBERNETES}/pkg/version.Version={_KUBERNETES_VERSION}",
    )  # fmt: skip


def _random(progress: Progress) -> Path:
    module = _MODULES / "provider-random"
    version = f"-X mlflow-stack.local/engine/provider-random/random.Version={_RANDOM_VERSION}"

    def embed(sources: Path) -> None:
        # Once without metadata, which the generator itself writes.
        arguments = ["-mod=readonly", "-trimpath", f"-ldflags={version}", "./generate", "schema", "--out", "."]
        programs.run(
            [str(builds.go()), "run", *arguments],
            what="generating the schema of the random provider", cwd=sources, env=builds.go_environment(),
        )  # fmt: skip

    return builds.go_binary(progress, "pulumi-resource-random", module, ".", ldflags=version, embed=embed, estimate=120)


def _module(module: Path, path: str) -> Path:
    """Return the folder of the Go module `path` in the version that `module` requires, fetched if necessary."""
    # Progress of a download goes to standard error; standard output has only the description.
    text = programs.run(
        [str(builds.go()), "mod", "download", "-json", path],
        what=f"fetching the Go module {path}", cwd=module, env=builds.go_environment(),
    )  # fmt: skip
    return Path(json.loads(text[text.index("{") :])["Dir"])


def _install(root: Path, cli: Path, host: Path, kubernetes: Path, random: Path) -> None:
    commands, home = root / "bin", root / "home"
    commands.mkdir(parents=True, exist_ok=True)
    for program in (cli, host, _module(_MODULES / "pulumi", _SDK) / "python" / "cmd" / "pulumi-language-python-exec"):
        link = commands / program.name
        link.unlink(missing_ok=True)
        shutil.copyfile(program, link)
        link.chmod(0o755)
    variables = os.environ | environment(Engine((commands,), home), None)
    for name, version, binary in (
        ("kubernetes", _KUBERNETES_VERSION, kubernetes),
        ("random", _RANDOM_VERSION, random),
    ):
        programs.run(
            [str(commands / "pulumi"), "plugin", "install", "resource", name, version, "--file", str(binary)],
            what=f"installing the {name} provider", env=variables,
        )  # fmt: skip
