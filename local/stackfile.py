"""The stack file that an instance works on: the tracked one, what the local platform adds, and what was set by hand.

The merge is deep for maps; lists and all else are replaced. An address is replaced whole by the platform's: it is for
another cluster. Later wins: tracked file, platform, overlay file, hand. What was set by hand is found by comparing the
instance's file with the merge that was last written to it, since `pulumi config set` edits that file, and is kept
apart: it survives every change below it. Taking a key away by hand brings back what is below it if the key was set by
hand, else it stays away.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard, cast

import yaml

from local.errors import LocalError
from local.paths import PROJECT, Instance

Tree = dict[str, Any]
Key = tuple[str, ...]

# What Pulumi itself keeps in a stack file beside `config`; never in a tracked one.
_IDENTITY = ("encryptionsalt", "encryptedkey", "secretsprovider")
_ADDRESS = "mlflow-stack:expose"
_HEADER = "# Made by `make up` from {tracked}, the local platform and what was set here by hand, which is kept.\n"


@dataclass
class Hand:
    """What people changed with `pulumi config set` and `rm`, or an editor."""

    set: Tree = field(default_factory=dict[str, Any])
    """Values, where they stand."""
    removed: list[Key] = field(default_factory=list[Key])
    """Paths whose value from below is to be away, also where a value was set in its place later."""
    identity: Tree = field(default_factory=dict[str, Any])
    """Pulumi's own entries: the salt that belongs to the passphrase."""


@dataclass(frozen=True)
class StackFile:
    """The stack file of one stack in one instance, and what belongs to it."""

    instance: Instance
    stack: str

    @staticmethod
    def known() -> list[str]:
        """The stacks that git has a file of."""
        return [path.name.split(".")[1] for path in PROJECT.glob("Pulumi.*.yaml")]

    @property
    def tracked(self) -> Path:
        """The file in git."""
        return PROJECT / f"Pulumi.{self.stack}.yaml"

    @property
    def path(self) -> Path:
        """The file that Pulumi works on."""
        return self._folder / f"Pulumi.{self.stack}.yaml"

    @property
    def config(self) -> Tree:
        """The configuration as it stands in the instance's file; empty where there is none yet."""
        return _map(_read(self.path).get("config"))

    @property
    def declared(self) -> Tree:
        """The configuration in git: the tracked file's, with the local overlay's over it."""
        return merge(_map(_read(self.tracked).get("config")), _map(_read(self._own).get("config")))

    @property
    def services(self) -> list[str]:
        """The local services that the local overlay lists."""
        return list(_read(self._own).get("services", []))

    @property
    def salted(self) -> bool:
        """Whether the salt is known."""
        return "encryptionsalt" in _read(self.path) or "encryptionsalt" in self._hand().identity

    def home(self, key: str) -> Path:
        """The file to edit for a key's value to change: where it was set by hand the instance's own, else the one of
        the tracked file and `local/overlays` that has it last."""
        current, last = _map(_read(self.path).get("config")), _map(_read(self._last).get("config"))
        if key in gather(self._hand(), last, current).set:
            return self.path
        return self._own if key in _map(_read(self._own).get("config")) else self.tracked

    def remake(self, overlay: Tree, identity: Tree | None = None) -> None:
        """Writes the merge of tracked file, `overlay` (configuration keys), `local/overlays/<stack>.yaml` and hand.

        `identity`: Pulumi's own entries where they are new. A file that already says the same stays as it is, to the
        byte.
        Raises `LocalError` when there is no tracked file, or one of the files is no YAML map.
        """
        if not self.tracked.exists():
            raise LocalError(
                f"{self.tracked.name} does not exist. Next: choose a STACK of {', '.join(sorted(StackFile.known()))}."
            )
        base = _read(self.tracked)
        config = _map(base.get("config"))
        if _ADDRESS in overlay:
            config.pop(_ADDRESS, None)
        below = merge(merge(config, overlay), _map(_read(self._own).get("config")))

        current, hand = _read(self.path), self._hand()
        if self.path.exists():
            last = _read(self._last)["config"] if self._last.exists() else apply(below, hand)
            hand = gather(hand, last, _map(current.get("config")))
        hand.identity |= {key: current[key] for key in _IDENTITY if key in current} | (identity or {})

        wanted = base | hand.identity | {"config": apply(below, hand)}
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if current != wanted:
            _write(self.path, wanted, _HEADER.format(tracked=self.tracked.name))
        _write(self._last, {"config": wanted["config"]})
        kept = {"set": hand.set, "removed": [list(key) for key in hand.removed], "identity": hand.identity}
        _write(self._kept, kept)

    @property
    def _own(self) -> Path:
        return PROJECT / "local" / "overlays" / f"{self.stack}.yaml"

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
        kept = _read(self._kept)
        removed = [tuple(map(str, key)) for key in kept.get("removed", [])]
        return Hand(_map(kept.get("set")), removed, _map(kept.get("identity")))


def merge(below: Tree, above: Tree) -> Tree:
    """Both, `above` winning; maps are merged, all else is replaced. Neither argument is changed."""
    result = deepcopy(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = merge(under, value) if _mergeable(under) and _mergeable(value) else deepcopy(value)
    return result


def apply(below: Tree, hand: Hand) -> Tree:
    """`below` with what was changed by hand."""
    result = deepcopy(below)
    for key in hand.removed:
        _remove(result, key)
    return merge(result, hand.set)


def gather(hand: Hand, last: Tree, current: Tree) -> Hand:
    """`hand` with the changes from `last`, the merge last written, to `current`, what is there now."""
    result = deepcopy(hand)
    for key, value, before in _changed(last, current):
        _remove(result.set, key)
        _set(result.set, key, value)
        if _mergeable(before) and key not in result.removed:
            # The map from below is out, also if a map of its own is set in its place later.
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
    # An encrypted value is one value, although it is written as a map.
    return isinstance(value, dict) and "secure" not in value


def _set(tree: Tree, key: Key, value: object) -> None:
    for part in key[:-1]:
        tree = tree.setdefault(part, {})
    tree[key[-1]] = deepcopy(value)


def _remove(tree: Tree, key: Key) -> bool:
    """Takes the path away, and maps that are empty thereby; whether it was there."""
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


def _map(value: object) -> Tree:
    return dict(cast(Mapping[str, Any], value)) if isinstance(value, Mapping) else {}


def _read(file: Path) -> Tree:
    """The map in the file; empty where there is no file or nothing in it."""
    try:
        content: object = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise LocalError(f"{file} is no valid YAML: {error}\nNext: put it right or remove it.") from error
    if content is not None and not isinstance(content, Mapping):
        raise LocalError(f"{file} holds no map. Next: put it right or remove it.")
    return _map(cast(object, content))


def _write(file: Path, content: Tree, header: str = "") -> None:
    text = header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    if file.exists() and file.read_text() == text:
        return
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)
