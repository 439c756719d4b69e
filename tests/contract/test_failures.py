"""The table of failures quotes messages as the project prints them."""

import ast
import re
from collections.abc import Iterator

import pytest
from repository import files

import engine

PAGE = engine.PROJECT / "docs" / "reference" / "failures.md"
FOREIGN = {
    "cannot locate context": "Kubernetes' client",
    "resource … cannot be deleted … because it is protected": "Pulumi",
    "unable to replace resource …-identity": "Pulumi",
    "unable to replace resource … marked for protection": "Pulumi",
}
"""Messages of other programs."""


def constants(module: ast.Module) -> dict[str, str]:
    """Return the texts and numbers that a module assigns to a name."""
    found: dict[str, str] = {}
    for node in module.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and len(value.args) == 1:
            value = value.args[0]  # Path("…")
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            found[target.id] = str(value.value)
    return found


def texts(source: str) -> Iterator[str]:
    """Yield each string of a Python source, with `…` for a value that is not a constant of the module."""
    module = ast.parse(source)
    known = constants(module)

    def part(node: ast.expr) -> str:
        if isinstance(node, ast.FormattedValue):
            return known.get(node.value.id, "…") if isinstance(node.value, ast.Name) else "…"
        return str(node.value) if isinstance(node, ast.Constant) else "…"

    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(part, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def printed() -> Iterator[str]:
    """Yield each text that the project's own programs may print."""
    for name in files():
        source = (engine.PROJECT / name).read_text() if name.endswith((".py", ".sh")) else ""
        if not name.startswith(("tests/", "bench/", "docs/", "examples/")):
            yield from texts(source) if name.endswith(".py") else source.splitlines()


TEXTS = [" ".join(text.replace("`", "").split()) for text in printed()]


def messages() -> list[str]:
    """Return the messages in backticks of the first column, which have more than one word; make's verbs are not
    messages."""
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| (?!message|---)", line)]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    return [text for text in quoted if " " in text and not text.startswith("make ")]


def is_printed(message: str) -> bool:
    """Return whether one text has all parts of a message, in order; numbers and `…` stand for any value."""
    body = re.sub(r"^(error|Refused|Waiting): ", "", message)
    pattern = re.compile(".*".join(re.escape(part) for part in re.split(r"…|\b\d+\b", body)))
    return any(pattern.search(text) for text in TEXTS)


def test_finds_messages() -> None:
    assert len(messages()) > 50


@pytest.mark.parametrize("message", sorted({*messages()} - FOREIGN.keys()))
def test_every_message_is_printed(message: str) -> None:
    assert is_printed(message)


@pytest.mark.parametrize("message", ["Refused: … has … moons", "the registry … answers 401 to the moon"])
def test_rejects_message_that_nothing_prints(message: str) -> None:
    assert not is_printed(message)


def test_messages_of_other_programs_are_quoted() -> None:
    assert FOREIGN.keys() - {*messages()} == set()
