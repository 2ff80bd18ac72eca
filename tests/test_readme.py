"""The documents as files: length of the README, its commands, links, and the names of versions and sections."""

import re
from pathlib import Path

import pytest

from loupe import __version__
from loupe.cli.main import COMMANDS

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for pattern in ("*.md", "docs/*.md", "results/*.md", "results/*/*.md")
    for path in PROJECT.glob(pattern)
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
KEPT_CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_readme_has_a_row_for_each_command():
    table = README.split("## Commands")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `loupe (\w+)", table, re.MULTILINE)
    assert rows == [command.__name__ for command in COMMANDS]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name):
    page = PROJECT / name
    targets = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    files = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [target for target in files if not (page.parent / target).exists()] == []


def test_the_index_of_the_documents_lists_each_page():
    index = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (PROJECT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(LINK.findall(index))


def test_pictures_have_alternative_texts():
    for name in DOCUMENTS:
        pictures = re.findall(r"!\[([^\]]*)\]\(", (PROJECT / name).read_text(encoding="utf-8"))
        assert all(len(text) >= 10 for text in pictures), name


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_changelog_has_the_sections_of_keep_a_changelog():
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0].startswith("[Unreleased]")
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= KEPT_CHANGES
