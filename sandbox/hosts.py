"""Entries in /etc/hosts that make an instance's addresses resolvable on this machine."""

from pathlib import Path
from typing import Final

from filelock import FileLock

from mlflow_stack_cli.errors import LocalError
from sandbox.paths import Instance

FILE: Final = Path("/etc/hosts")
_LOCK: Final = Path("/run/mlflow-stack-hosts.lock")


def add(instance: Instance, *fresh: str) -> None:
    """Map these names to the instance's node, in addition to the names on its line."""
    if not fresh:
        return
    with _locked():
        text = FILE.read_text()
        _write(text, instance, {*_names(text, instance), *fresh})


def drop(instance: Instance, *names: str) -> None:
    """Remove these names from the instance's line; missing names are not an error."""
    with _locked():
        text = FILE.read_text()
        _write(text, instance, {*_names(text, instance)} - {*names})


def remove(instance: Instance) -> None:
    """Remove the instance's line; a missing line is not an error."""
    if _mark(instance) not in FILE.read_text():
        return
    with _locked():
        _replace(FILE.read_text(), instance)


def _names(text: str, instance: Instance) -> list[str]:
    # The first word is the address.
    lines = [line.partition("#")[0].split()[1:] for line in text.splitlines() if _is_of(instance, line)]
    return [name for line in lines for name in line]


def _write(text: str, instance: Instance, names: set[str]) -> None:
    line = f"{instance.node_address} {' '.join(sorted(names))} {_mark(instance)}"
    _replace(text, instance, *([line] if names else []))


def _mark(instance: Instance) -> str:
    # Instances in different data folders can have the same name.
    return f"# mlflow-stack: {instance.root}"


def _is_of(instance: Instance, line: str) -> bool:
    return line.endswith(_mark(instance))


def _replace(text: str, instance: Instance, *fresh: str) -> None:
    lines = [line for line in text.splitlines() if not _is_of(instance, line)]
    wanted = "".join(f"{line}\n" for line in [*lines, *fresh])
    if wanted.splitlines() == text.splitlines():
        return
    scratch = FILE.with_name(".hosts.mlflow-stack")
    try:
        scratch.write_text(wanted)
        scratch.chmod(FILE.stat().st_mode & 0o777)
        try:
            scratch.replace(FILE)
        except OSError:  # mounted over, as in a container: writable, but cannot be replaced
            FILE.write_text(wanted)
    except OSError as error:
        raise LocalError(
            f"{FILE} cannot be written: {error.strerror}. Next: run the same command as a user who can."
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def _locked() -> FileLock:
    return FileLock(_LOCK)
