"""Commands in documents: each runs in a test, or a comment directly before its block says why it does not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine

DOCUMENTS = [
    engine.PROJECT / "README.md",
    engine.PROJECT / "components" / "README.md",
    *sorted((engine.PROJECT / "docs").rglob("*.md")),
    *sorted((engine.PROJECT / "examples").rglob("README.md")),
]
SUPPORT = [engine.PROJECT / "tests" / "e2e" / name for name in ("fixtures.py", "platform_under_test.py")]
"""Modules that end-to-end tests share."""
RUN = re.compile(r"<!-- run by (\S+::\w+(?:, \S+::\w+)*) -->")
NOT_RUN = re.compile(r"<!-- not run: \S.+ -->")
VERBS = re.compile(r"^[^#]*?\b(make|pulumi|kubectl)(?: -\S+)*((?: [a-z][a-z-]*\b(?![/=.]))+)", re.M)
GROUPS = ("config", "stack", "state")
"""Commands of pulumi with subcommands."""


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield each block of commands: location, preceding line and text."""
    for document in DOCUMENTS:
        lines = document.read_text().splitlines()
        for number, line in enumerate(lines):
            if line.strip() == "```sh":
                end = next(index for index in range(number, len(lines)) if lines[index].strip() == "```")
                where = f"{document.relative_to(engine.PROJECT)}:{number + 1}"
                yield where, lines[number - 1].strip(), "\n".join(lines[number + 1 : end])


BLOCKS = list(blocks())


def verbs(commands: str) -> set[str]:
    """Yield the commands that make, pulumi and kubectl get."""
    found: set[str] = set()
    for program, words in VERBS.findall(commands):
        said = words.split()
        found |= {*said} if program == "make" else {*said[: 2 if said[0] in GROUPS else 1]}
    return found


def test_documents_have_commands() -> None:
    assert len(BLOCKS) > 50


@pytest.mark.parametrize(("where", "marker", "commands"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_a_block_of_commands_runs_or_says_why_not(where: str, marker: str, commands: str) -> None:
    if NOT_RUN.fullmatch(marker):
        return
    named = RUN.fullmatch(marker)
    assert named, f"{marker!r} is neither `<!-- run by FILE::TEST -->` nor `<!-- not run: REASON -->`"
    sources = ""
    for source in named[1].split(", "):
        file, _, test = source.partition("::")
        text = (engine.PROJECT / file).read_text()
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), source
        sources += text + "".join(path.read_text() for path in SUPPORT if "/e2e/" in file)
    # A test that reads the document runs all of it; any other repeats the command.
    document = Path(where.partition(":")[0])
    name = document.parent.name if document.name == "README.md" else document.name
    reads = bool(name) and f'"{name}"' in sources and ("README.md" in sources or name != document.parent.name)
    assert reads or {verb for verb in verbs(commands) if f'"{verb}"' not in sources} == set()
