"""The site of the documents: its pages and links, without MkDocs; and the whole build where MkDocs is installed."""

import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from browsers import SIZES, chromium

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
renewed = runpy.run_path(str(DOCS / "outputs.py"))["renewed"]
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent != DOCS / "lessons" / "source")
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
ADDED = {
    "overview.md",
    "changelog.md",
    "contributing.md",
    "results/index.md",
}  # by docs/hooks.py, from files outside docs/
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
PARTS = ["Start", "Lessons", "How-to", "Reference", "Explanation"]
SHOWN_IN = {"only-light", "only-dark"}  # anchors of pictures: the colours in which the theme shows them
FROM_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//|<link[^>]*rel="?(?:stylesheet|"""
    r"""preconnect|icon)"?[^>]*href="(?:https?:)?//"""
)


def nav() -> list[Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def files_of(entry: Any) -> Iterator[str]:
    """Pages of a part of the nav."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from files_of(part)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of the headings of a page, as Markdown's table of contents makes them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(
        r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), re.M
    ):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
        names.add(f"{name}_{found[name]}" if found[name] else name)
        found[name] += 1
    return frozenset(names)


def test_the_nav_names_every_page_once():
    named = Counter(files_of(nav()))
    assert {name: count for name, count in named.items() if count > 1} == {}
    notebooks = {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.ipynb")}
    assert set(named) == {*NAMES, *ADDED, *notebooks}


def test_the_nav_has_the_four_parts():
    assert [title for entry in nav() for title in entry] == PARTS


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_anchor_leads_somewhere(name):
    page = DOCS / name
    for target, anchor in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{name}: {target}#{anchor}"
        elif anchor:
            assert anchor in SHOWN_IN, f"{name}: {target}#{anchor}"


def test_pictures_have_texts_and_those_of_one_colour_have_their_counterpart():
    for page in PAGES:
        pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert all(len(text) >= 10 for text, _ in pictures), page
        light = [path.replace("light", "dark") for _, path in pictures if path.endswith("#only-light")]
        assert light == [path for _, path in pictures if path.endswith("#only-dark")], page


def test_an_output_that_is_written_anew_leaves_out_what_the_page_leaves_out():
    shown = ["4,000 images.", "epoch 1/9 loss 0.5", "...", "epoch 9/9 loss 0.3", "Report: runs/a"]
    printed = ["2,000 images.", "Recipe a.", *(f"epoch {n}/7 loss 0.{n}" for n in range(1, 8)), "Report: runs/a"]
    lines = ["2,000 images.", "...", "epoch 1/7 loss 0.1", "...", "epoch 7/7 loss 0.7", "Report: runs/a"]
    assert renewed(shown, printed) == lines
    assert renewed(["old"], ["new ", "lines"]) == ["new", "lines"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
    if missing:
        pytest.skip(f"the site is not built: {', '.join(missing)} not installed (make docs)")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and "WARNING" not in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


@pytest.mark.slow
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    built = sorted(site.rglob("*.html"))
    pages = {str(Path(name).with_suffix(".html")) for name in files_of(nav())}
    assert pages <= {page.relative_to(site).as_posix() for page in built}
    assert [page for page in built if FROM_ELSEWHERE.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
def test_a_search_works_on_pages_that_are_opened_from_the_disk(site, browser):
    page = browser.new_page(viewport=SIZES["desk"])
    page.goto((site / "howto" / "csv.html").as_uri())
    page.locator(".md-search__input").first.click()
    page.keyboard.type("unbalanced")
    page.wait_for_selector(".md-search-result__item", timeout=60_000)
    assert "My classes are unbalanced" in page.locator(".md-search-result__list").inner_text()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_on_a_phone(site, browser, scheme):
    page = browser.new_page(viewport=SIZES["phone"], color_scheme=scheme)
    for name in ("index", "howto/own-photos", "reference/recipe-keys", "reference/python", "reference/metrics"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"]["width"], name
    page.close()
