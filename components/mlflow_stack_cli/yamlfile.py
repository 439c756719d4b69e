"""Unambiguous YAML: reject, by line, whatever PyYAML and the engine's YAML library read differently.

The engine reads YAML 1.2 with exceptions (go-yaml), PyYAML reads YAML 1.1: they differ in ``12345e6``, ``0o14``,
``yes``, ``1:30``, dates, tags, empty values and duplicate keys.
"""

import re
from pathlib import Path
from typing import Any, Final, cast

import yaml

from mlflow_stack_cli.errors import LocalError

Tree = dict[str, Any]

_PLAIN: Final = "plain"
_TEXT: Final = "tag:yaml.org,2002:str"
_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})", re.ASCII)
_FRACTION: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)
# Plain values that go-yaml reads as a number, a date, a boolean or null. `y` and `n` are booleans in YAML 1.1.
_GO: Final = re.compile(
    r"|~|null|y|n|true|false|[-+]?\.inf|\.nan|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(e[-+]?[0-9]+)?"
    r"|[-+]?0(b[01]+|o?[0-7]+|x[0-9a-f]+)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([t ].*)?",
    re.ASCII | re.IGNORECASE,
)
_MOST: Final = 20_000
"""Values of a file, aliases included: a few lines of aliases can expand beyond a machine's memory."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, which leaves the meaning of plain values to this module."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a node without an explicit tag."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _no_text(plain: str) -> bool:
    """Return whether either library reads a plain value as something other than text."""
    loader: Any = yaml.SafeLoader("")
    tag: str = loader.resolve(yaml.ScalarNode, plain, (True, False))
    return tag != _TEXT or _GO.fullmatch(plain.replace("_", "")) is not None


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, with quotes around each text that either library would read as something else."""

    def represent_text(self, text: str) -> Any:
        """Return the node of a text."""
        style = '"' if _no_text(text) or not text.isprintable() else None
        return self.represent_scalar(_TEXT, text, style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _Dumper.represent_text)


def load(file: Path) -> Tree:
    """Return the map in a file; empty if the file is empty or does not exist.

    Raises `LocalError` with every place that is invalid or ambiguous.
    """
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise LocalError(f"{file} is not UTF-8 text (byte {error.start}). Next: save it as UTF-8.") from error
    return loads(text, str(file))


def loads(text: str, name: str) -> Tree:
    """Return the map in a text; ``name`` identifies it in messages."""
    try:
        root = cast(Any, yaml.compose(text, Loader=_Loader))  # pyright: ignore[reportUnknownMemberType]
    except yaml.YAMLError as error:
        # Not the error's own text, which quotes the content.
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}:{mark.line + 1}"
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise LocalError(f"{where} is not valid YAML: {why}. Next: correct or remove it.") from None
    except RecursionError:
        raise LocalError(f"{name} is not valid YAML: it is nested too deeply. Next: correct or remove it.") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise LocalError(f"{name} does not contain a map. Next: correct or remove it.")
    reader = _Reader(name)
    content = reader.value(root, ())
    if reader.problems:
        raise LocalError("\n".join([*reader.problems, "Next: fix the errors above, then run the same command again."]))
    return content


def dump(content: Tree) -> str:
    """Return YAML text that the engine reads as the same map."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Reader:
    """Values of nodes, and the problems found in them."""

    def __init__(self, name: str) -> None:
        self.problems: list[str] = []
        self._name = name
        self._count = 0

    def value(self, node: Any, above: tuple[int, ...]) -> Any:
        """Return the value of a node; ``above`` are the ids of its ancestors."""
        self._count += 1
        if id(node) in above:
            return self._refuse(node, "it is part of itself")
        if self._count > _MOST:
            return self._refuse(node, "too many values") if self._count == _MOST + 1 else None
        within = (*above, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._map(node, within)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item, within) for item in node.value]
        if not isinstance(node, yaml.ScalarNode) or node.tag not in (_PLAIN, _TEXT):
            return self._refuse(node, f"the tag {node.tag} is not supported")
        return self._scalar(node) if node.tag == _PLAIN else node.value

    def _map(self, node: Any, within: tuple[int, ...]) -> Tree:
        content: Tree = {}
        for key, value in node.value:
            name = self.value(key, within)
            if not isinstance(name, str):
                if name is not None:
                    self._refuse(key, "a key that is no text. Quote it")
            elif name in content:
                self._refuse(key, f"the key {name} must be set once")
            elif value.tag == _PLAIN and value.value == "" and within == (id(node),):
                content[name] = {}
            else:
                content[name] = self.value(value, within)
        return content

    def _scalar(self, node: Any) -> Any:
        text: str = node.value
        if text in ("true", "false"):
            return text == "true"
        if _WHOLE.fullmatch(text):
            return int(text)
        if _FRACTION.fullmatch(text):
            return float(text)
        if text in ("", "~") or text.lower() == "null":
            return self._refuse(node, "no value. Give one or remove the key")
        if _no_text(text):
            return self._refuse(
                node, "programs read this value differently. Quote it for text, or write a plain number"
            )
        return text

    def _refuse(self, node: Any, why: str) -> None:
        self.problems.append(f"{self._name}:{node.start_mark.line + 1}: {why}.")
