"""Stack file of an instance: the tracked file, the local platform's overrides, and changes by hand.

Maps are merged deeply; lists and all else are replaced. The platform replaces an address as a whole, because it is for
another cluster. Order of precedence, lowest first: tracked file, platform, overlay file, changes by hand. Changes by
hand are found by comparing the instance's file with the last merge written to it, since `pulumi config set` edits that
file. They are kept separately and override later changes of the other sources. Removing a key by hand restores the
value below it if the key was set by hand; otherwise the key stays removed.
"""

import difflib
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, cast

import settings
from mlflow_stack import InvalidArgs
from mlflow_stack.validate import Problem
from mlflow_stack_cli import stackfile, yamlfile
from mlflow_stack_cli.errors import LocalError
from mlflow_stack_cli.stackfile import IDENTITY, as_map, encrypted, handed, holds_secret
from mlflow_stack_cli.yamlfile import Tree
from sandbox.paths import PROJECT, Instance
from settings import SECURE, Settings

Key = tuple[str, ...]

_ADDRESS = "mlflow-stack:expose"
_HEADER = "# Made by `make up` from {tracked}, the local platform and what was set here by hand, which is kept.\n"


@dataclass
class Hand:
    """Changes made with `pulumi config set` and `rm`, or an editor."""

    set: Tree = field(default_factory=dict[str, Any])
    """Values, at their paths."""
    removed: list[Key] = field(default_factory=list[Key])
    """Paths whose value from below is removed, even if a value was set in its place later."""
    identity: Tree = field(default_factory=dict[str, Any])
    """Pulumi's own entries: the salt that belongs to the passphrase."""


@dataclass(frozen=True)
class StackFile:
    """Stack file of one stack in one instance, with its sources."""

    instance: Instance
    stack: str

    @staticmethod
    def known() -> list[str]:
        """Return the stacks that have a tracked file."""
        return _stacks(PROJECT)

    @staticmethod
    def require(stack: str, instance: Instance | None = None) -> None:
        """Raise `LocalError` for a stack without a stack file, in git and in `instance`."""
        known = sorted({*StackFile.known(), *(_stacks(instance.root / "stacks") if instance else ())})
        if stack not in known:
            near = difflib.get_close_matches(stack, known, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise LocalError(
                f"Pulumi.{stack}.yaml does not exist.{meant} "
                f"Next: choose a STACK of {', '.join(known)}, or write the file."
            )

    @property
    def tracked(self) -> Path:
        """The tracked file."""
        return PROJECT / f"Pulumi.{self.stack}.yaml"

    @property
    def path(self) -> Path:
        """The file that Pulumi uses."""
        return self._folder / f"Pulumi.{self.stack}.yaml"

    @property
    def config(self) -> Tree:
        """Configuration of the instance's file; empty if there is none."""
        return _read(self.path)["config"]

    def judge(self, overlay: Tree) -> None:
        """Validate what `remake` would write. Raises `LocalError` with every problem."""
        if self.tracked.exists():
            judged(self._merged(overlay)[1])

    @property
    def declared(self) -> Tree:
        """Configuration in git: the tracked file's, overridden by the local overlay's."""
        return merge(_read(self.tracked)["config"], self._overlay()["config"])

    @property
    def services(self) -> list[str]:
        """Local services listed in the local overlay."""
        return self._overlay().get("services", [])

    @property
    def salted(self) -> bool:
        """True if the salt is known."""
        return "encryptionsalt" in _read(self.path) or "encryptionsalt" in self._hand().identity

    def home(self, key: str) -> Path:
        """Return the file to edit to change a key: the instance's own if the key was set by hand, else the last of the
        tracked file and `sandbox/overlays` that sets it."""
        if key in gather(self._hand(), _read(self._last)["config"], self.config).set:
            return self.path
        return self._own if key in self._overlay()["config"] else self.tracked

    def remake(self, overlay: Tree, identity: Tree | None = None) -> None:
        """Write the merge of tracked file, `overlay` (configuration keys), `sandbox/overlays/<stack>.yaml` and hand.

        `identity`: Pulumi's own entries, if they are new. A file with the same content is left unchanged, byte for
        byte.
        Raises `LocalError` if there is no tracked file, or one of the files is not a YAML map.
        """
        StackFile.require(self.stack)
        current = _read(self.path)
        hand, config = self._merged(overlay)
        hand.identity |= {key: current[key] for key in IDENTITY if key in current} | (identity or {})

        wanted = _read(self.tracked) | hand.identity | {"config": config}
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if current != wanted:
            _write(self.path, wanted, _HEADER.format(tracked=self.tracked.name))
        _write(self._last, {"config": wanted["config"]})
        self._keep(hand)

    @property
    def by_hand(self) -> dict[str, str]:
        """Keys changed by hand, with their values. No file in git has these changes."""
        hand = self._gathered(self._hand())
        removed = {_path(key): "removed" for key in hand.removed}
        return removed | {_path(key): _text_of(value) for key, value in _leaves(hand.set)}

    def forget(self, wanted: Callable[[str], bool]) -> list[str]:
        """Drop the changes by hand to the given keys, until the next `remake`; return the keys."""
        current, hand = _read(self.path), self._gathered(self._hand())
        gone = [key for key in self.by_hand if wanted(key)]
        for key, _ in list(_leaves(hand.set)):
            if _path(key) in gone:
                _remove(hand.set, key)
        hand.removed = [key for key in hand.removed if _path(key) not in gone]
        hand.identity |= {key: current[key] for key in IDENTITY if key in current}
        if gone:
            self._keep(hand)
            # Changes are found by comparing these two files; the next `remake` writes both from what is kept.
            self.path.unlink(missing_ok=True)
            self._last.unlink(missing_ok=True)
        return gone

    def _gathered(self, hand: Hand) -> Hand:
        if not self.path.exists() or not self._last.exists():
            return hand
        return gather(hand, _read(self._last)["config"], self.config)

    def _keep(self, hand: Hand) -> None:
        kept = {"set": hand.set, "removed": [list(key) for key in hand.removed], "identity": hand.identity}
        _write(self._kept, kept)

    def _overlay(self) -> Tree:
        """Return the local overlay's content. Raises `LocalError` as `stackfile.read`."""
        content = stackfile.read(self._own, settings.PROJECT, {"services"})
        services = content.get("services", [])
        if not isinstance(services, list) or not all(isinstance(name, str) for name in cast("list[Any]", services)):
            raise LocalError(f"{self._own}: services: must be a list of names, such as [s3]. Next: correct it.")
        return content

    def _merged(self, overlay: Tree) -> tuple[Hand, Tree]:
        """Return the changes by hand, and the resulting configuration."""
        config = _read(self.tracked)["config"]
        if _ADDRESS in overlay:
            config.pop(_ADDRESS, None)
        below = merge(merge(config, overlay), self._overlay()["config"])
        hand = self._hand()
        if self.path.exists():
            last = _read(self._last)["config"] if self._last.exists() else apply(below, hand)
            hand = gather(hand, last, self.config)
        return hand, apply(below, hand)

    @property
    def _own(self) -> Path:
        return PROJECT / "sandbox" / "overlays" / f"{self.stack}.yaml"

    @property
    def _folder(self) -> Path:
        return self.instance.root / "stacks"

    @property
    def _kept(self) -> Path:
        return self._folder / f"{self.stack}.hand.yaml"

    @property
    def _last(self) -> Path:
        return self._folder / f"{self.stack}.last.yaml"

    def _hand(self) -> Hand:
        kept = yamlfile.load(self._kept)
        removed = [tuple(map(str, key)) for key in kept.get("removed", [])]
        return Hand(as_map(kept.get("set")), removed, as_map(kept.get("identity")))


def _read(file: Path) -> Tree:
    return stackfile.read(file, settings.PROJECT)


def _stacks(folder: Path) -> list[str]:
    return [path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in folder.glob("Pulumi.*.yaml")]


def merge(below: Tree, above: Tree) -> Tree:
    """Return both merged, `above` overriding; only maps are merged. Neither argument is changed."""
    result = deepcopy(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merge(under, value) if _mergeable(under) and _mergeable(value) else deepcopy(value)
    return result


def apply(below: Tree, hand: Hand) -> Tree:
    """Return `below` with the changes by hand."""
    result = deepcopy(below)
    for key in hand.removed:
        _remove(result, key)
    return merge(result, hand.set)


def gather(hand: Hand, last: Tree, current: Tree) -> Hand:
    """Return `hand` with the changes from `last`, the merge last written, to `current`, the present content."""
    result = deepcopy(hand)
    for key, value, before in _changed(last, current):
        _remove(result.set, key)
        _set(result.set, key, value)
        if _mergeable(before) and key not in result.removed:
            # The map from below stays removed, even if a map is set in its place later.
            result.removed.append(key)
    for key in _gone(last, current):
        if not _remove(result.set, key):
            result.removed.append(key)
    return result


def _changed(last: Tree, current: Tree, at: Key = ()) -> Iterator[tuple[Key, Any, Any]]:
    for key, value in current.items():
        before = last.get(key)
        if _mergeable(before) and _mergeable(value):
            yield from _changed(before, value, (*at, key))
        elif key not in last or before != value:
            yield (*at, key), value, before


def _gone(last: Tree, current: Tree, at: Key = ()) -> Iterator[Key]:
    for key, value in last.items():
        if key not in current:
            yield (*at, key)
        elif _mergeable(value) and _mergeable(current[key]):
            yield from _gone(value, current[key], (*at, key))


def _mergeable(value: object) -> TypeGuard[Tree]:
    # An encrypted value is a single value, although it is written as a map.
    return isinstance(value, dict) and SECURE not in value


def _set(tree: Tree, key: Key, value: object) -> None:
    for part in key[:-1]:
        tree = tree.setdefault(part, {})
    tree[key[-1]] = deepcopy(value)


def _remove(tree: Tree, key: Key) -> bool:
    """Remove the path, and maps that become empty; return whether it existed."""
    if key[0] not in tree:
        return False
    if len(key) == 1:
        del tree[key[0]]
        return True
    under = tree[key[0]]
    there = isinstance(under, dict) and _remove(cast(Tree, under), key[1:])
    if there and not under:
        del tree[key[0]]
    return there


def _leaves(tree: Tree, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    for key, value in tree.items():
        if _mergeable(value) and value:
            yield from _leaves(value, (*at, key))
        else:
            yield (*at, key), value


def _path(key: Key) -> str:
    """Return a key as `pulumi config set --path` takes it, without the project's own prefix."""
    first, *rest = (part.removeprefix(f"{settings.PROJECT}:") for part in key)
    return first + "".join(f'["{part}"]' if "." in part else f".{part}" for part in rest)


def _text_of(value: Any) -> str:
    return "[secret]" if holds_secret(value) else json.dumps(value, ensure_ascii=False)


def judged(config: Tree) -> Settings:
    """Return a configuration (full keys) as the program reads it.

    Raises `LocalError` with every problem.
    """
    found: list[Problem] = []
    for key, value in config.items():
        if key.startswith(f"{settings.PROJECT}:"):
            for at, one, hide in settings.leaves(value, key.partition(":")[2]):
                if not hide and encrypted(one):
                    found.append(
                        Problem(at, "must be plain text, because objects of the cluster show it (value not shown)")
                    )
                elif hide and not encrypted(one):
                    found.append(settings.not_encrypted(at))
    texts, secret = handed(config)
    try:
        return settings.judged(texts, secret, known=found)
    except InvalidArgs as error:
        raise LocalError(
            f"the program does not accept the stack file:\n{error}\n"
            "Next: fix the errors above, then run the same command again."
        ) from None


def _write(file: Path, content: Tree, header: str = "") -> None:
    text = header + yamlfile.dump(content)
    if file.exists() and file.read_text() == text:
        return
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)
