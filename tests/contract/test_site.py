"""The documents as a site."""

import subprocess
import sys
from pathlib import Path

import engine


def test_the_documents_become_a_site_without_warnings(tmp_path: Path) -> None:
    command = ["make", "--silent", "docs", f"OUT={tmp_path}"]
    done = subprocess.run(command, cwd=engine.PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    docs = engine.PROJECT / "docs"
    pages = {str(path.relative_to(docs).with_suffix("")) for path in docs.rglob("*.md")}
    built = {str(path.relative_to(tmp_path).with_suffix("")) for path in tmp_path.rglob("*.html")}
    assert built == pages | {"genindex", "search"}
    index = (tmp_path / "index.html").read_text()
    assert all(f'href="{page}.html"' in index for page in pages - {"index"})
    assert (tmp_path / "_images" / "resources.svg").exists()


def test_the_picture_shows_what_the_engine_receives() -> None:
    command = [sys.executable, "docs/tree.py"]
    drawn = subprocess.run(command, cwd=engine.PROJECT, capture_output=True, text=True, check=True).stdout
    assert drawn == (engine.PROJECT / "docs" / "resources.svg").read_text(), "run it again and look at the picture"
