"""Pages of the documents: length, links between pages, and claims that name a test."""

import re
from pathlib import Path

import pytest
from repository import files

import engine

PAGES = sorted(name for name in files() if name.endswith(".md"))
LONGEST = 250
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST spell them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [name for name in PAGES if name != "CHANGELOG.md"])
def test_page_has_at_most_250_lines(name: str) -> None:
    assert len((engine.PROJECT / name).read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_pages_and_headings(name: str) -> None:
    page = engine.PROJECT / name
    broken = [
        path + anchor
        for path, anchor in LINK.findall(page.read_text())
        if not (target := page.parent / path if path else page).exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


@pytest.mark.parametrize("folder", ["how-to", "reference", "explanation/decisions"])
def test_index_links_every_page_of_its_folder(folder: str) -> None:
    pages = {path.name for path in (engine.PROJECT / "docs" / folder).glob("*.md")}
    linked = {path for path, _ in LINK.findall((engine.PROJECT / "docs" / folder / "index.md").read_text())}
    assert linked == pages - {"index.md"}


def test_each_claim_names_a_test() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (engine.PROJECT / "docs/reference/claims.md").read_text(), re.MULTILINE)
    claims = [row for row in rows if row[0] not in ("claim", "---")]
    assert len(claims) > 20
    assert [claim for claim, tests in claims if not re.search(r"`tests/\w+/test_\w+\.py(::\w+)?`", tests)] == []


def test_guide_to_reuse_quotes_the_example() -> None:
    program = (engine.PROJECT / "examples" / "reuse-python" / "__main__.py").read_text()
    assert f"```python\n{program}```\n" in (engine.PROJECT / "docs" / "how-to" / "reuse-the-component.md").read_text()
