"""The page of a run in a real browser: what a person clicks, types and sees, and that names of theirs run nowhere."""

import json

import numpy as np
import pytest

from browsers import CONTRASTS, GROUNDS, SIZES, blocked, chromium, until
from builders import comparison_content, make_run
from loupe.evaluate.comparison_results import ComparisonResults
from loupe.report import comparison_page as comparison
from loupe.report.gallery import Exhibit
from loupe.report.gallery import write as write_gallery
from loupe.report.run_page import write_page

CLASSES = (
    "cat",
    "</script><img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.etihw\N{HEBREW LETTER ALEF}",
    "\N{CAT FACE}\N{ZERO WIDTH JOINER}" + "long" * 75,
)
SECRET = "<b onclick=document.title='ran'>"


def color(truth: int, guess: int, number: int) -> list[int]:
    """A colour of its own for each picture, so that a picture can be told by looking at it."""
    return [60 * truth + 10, 60 * guess + 10, 20 * number % 256]


def exhibits(matrix):
    """Up to five pictures of each cell, each as confident and as lossy as its number says."""
    for truth, row in enumerate(matrix):
        for guess, count in enumerate(row):
            for number in range(min(count, 5)):
                yield Exhibit(
                    np.full((32, 32, 3), color(truth, guess, number), np.uint8),
                    "hit" if truth == guess else "missed",
                    f"set/{SECRET if number == 1 else ''}t{truth}-g{guess}-n{number}.png",
                    split="test",
                    label=CLASSES[truth],
                    predicted=CLASSES[guess],
                    probability=0.9 - number / 10,
                    loss=float(number + truth / 10 + guess / 100),
                    top=[(CLASSES[guess], 0.9 - number / 10), (CLASSES[truth], 0.05)],
                )


@pytest.fixture(scope="module")
def matrix():
    return [[16, 2, 0, 2], [7, 12, 1, 0], [1, 1, 18, 0], [0, 3, 0, 17]]


@pytest.fixture(scope="module")
def address(tmp_path_factory, matrix) -> str:
    folder = tmp_path_factory.mktemp("runs") / "a run"
    run = make_run(folder, CLASSES, diagnosis={"verdict": "overfitting", "text": "It fits.", "next": "loupe train x"})
    results = json.loads((run / "results.json").read_text())
    results["test"]["confusion_matrix"] = matrix
    (run / "results.json").write_text(json.dumps(results))
    write_gallery(run / "gallery.parquet", exhibits(matrix))
    return write_page(run).as_uri()


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of this file; where CI_BROWSER is set its absence is a failure."""
    yield from chromium()


@pytest.fixture
def visit(browser, address):
    """Opens the page; in the end nothing has run, nothing was asked for, and the console is empty."""
    contexts, wrong = [], []

    def opened(size="desk", **options):
        context = browser.new_context(viewport=SIZES[size], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: wrong.append(request.url) if not is_here(request.url) else None)
        page.goto(address)
        return page

    def is_here(url):
        return url.startswith("data:image/") or url == address

    yield opened
    titles = [page.title() for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not wrong
    assert all(title.startswith("a run: ") for title in titles)


def colors_of(page, selector: str) -> list[list[int]]:
    """The colour in the middle of each picture that can be seen, as the browser decoded it."""
    return page.eval_on_selector_all(
        f"{selector} img",
        """images => images.filter(image => image.checkVisibility()).map(image => {
            const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
            const context = canvas.getContext("2d", {willReadFrequently: true});
            context.drawImage(image, 0, 0);
            return [...context.getImageData(16, 16, 1, 1).data].slice(0, 3);
        })""",
    )


def paths_of(page, selector: str) -> list[str]:
    return page.locator(f"{selector} .path").all_text_contents()


def cell(page, truth: int, guess: int):
    return page.locator(f'.matrix a[href="#cell-{truth}-{guess}"]')


def test_a_click_on_a_cell_shows_its_images(visit, matrix):
    page = visit()
    assert page.locator(".matrix td a").count() == sum(count > 0 for row in matrix for count in row)
    for truth, guess in ((1, 0), (2, 2), (3, 1)):
        cell(page, truth, guess).click()
        numbers = range(min(matrix[truth][guess], 5) - 1, -1, -1)
        assert colors_of(page, "#sheet") == [color(truth, guess, number) for number in numbers]
        hostile = [f"set/{SECRET if number == 1 else ''}t{truth}-g{guess}-n{number}.png" for number in numbers]
        assert paths_of(page, "#sheet") == hostile
    title = page.locator("#sheet-title").inner_text()
    assert CLASSES[3][:40] in title and "<img src=x" in title and "3 images" in title
    first = page.locator("#sheet li").first
    assert first.locator(".odds dd").all_inner_texts() == ["70\xa0%", "5\xa0%"]
    assert first.locator(".loss").inner_text() == "loss 2.310"
    cell(page, 1, 0).click()
    assert "5 of 7 images" in page.locator("#sheet-title").inner_text()
    page.locator("#sheet-next").click()
    assert page.locator("#sheet-title").inner_text() == title and page.locator("#sheet li").count() == 3
    page.locator("#sheet-close").click()
    assert not page.locator("#sheet").is_visible()


def test_by_keyboard_alone(visit):
    page = visit()
    focused = "document.activeElement.getAttribute('href') ?? document.activeElement.id"
    cell(page, 0, 0).focus()
    walk = [("ArrowRight", "#cell-0-1"), ("ArrowRight", "#cell-0-3"), ("ArrowRight", "#cell-0-3")]
    walk += [("ArrowDown", "#cell-3-3"), ("ArrowLeft", "#cell-3-1"), ("ArrowUp", "#cell-2-1"), ("ArrowUp", "#cell-1-1")]
    for key, expected in walk:
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected
    outline = cell(page, 1, 1).evaluate("link => getComputedStyle(link).boxShadow")
    assert outline != "none" and outline != cell(page, 1, 0).evaluate("link => getComputedStyle(link).boxShadow")
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "sheet-title"
    assert cell(page, 1, 1).get_attribute("aria-expanded") == "true"
    assert "5 pictures" in page.locator("#sheet-said").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#sheet").is_visible() and page.evaluate(focused) == "#cell-1-1"
    assert page.locator('.matrix td a[tabindex="0"]').count() == 1


def test_missed_images_are_sorted_filtered_and_grouped(visit):
    page = visit()
    names = [path.replace(SECRET, "") for path in paths_of(page, "#missed-list")]
    assert names[:3] == ["set/t1-g0-n4.png", "set/t1-g0-n3.png", "set/t3-g1-n2.png"] and len(names) == 15
    tools = page.locator("#missed-tools")
    tools.locator("[name=order]").select_option("path")
    found = paths_of(page, "#missed-list")
    assert found[-1] == "set/t3-g1-n2.png" and len(found) == 15
    tools.locator("[name=order]").select_option("unsure")
    assert paths_of(page, "#missed-list")[0] == "set/t1-g0-n4.png"
    tools.locator("[name=truth]").select_option("1")
    assert "6 pictures of 15" in page.locator("#missed-said").inner_text()
    tools.locator("[name=guess]").select_option("0")
    assert colors_of(page, "#missed-list") == [color(1, 0, number) for number in (4, 3, 2, 1, 0)]
    tools.locator("[name=path]").fill("onclick=DOC")
    assert paths_of(page, "#missed-list") == [f"set/{SECRET}t1-g0-n1.png"]
    tools.locator("button[type=reset]").click()
    until(page, "document.querySelectorAll('#missed-list li').length == 15")
    tools.locator("[name=grouped]").check()
    headings = page.locator("#missed-list h3").all_inner_texts()
    assert len(headings) == 7 and headings[0].endswith("taken for cat")
    assert colors_of(page, "#missed-list ul:first-of-type") == [color(1, 0, number) for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(visit, scheme):
    page = visit(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == GROUNDS[scheme]
    cell(page, 1, 0).click()
    assert page.evaluate(CONTRASTS) == {}


def test_a_phone_needs_no_scrolling_to_the_side(visit):
    page = visit("phone", reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    cell(page, 1, 0).click()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.evaluate("document.getElementById('sheet').scrollWidth") <= 400
    above = page.evaluate("document.getElementById('sheet').getBoundingClientRect().top")
    assert cell(page, 1, 0).evaluate("link => link.getBoundingClientRect().bottom") < above
    assert page.locator("#sheet").evaluate("sheet => getComputedStyle(sheet).animationName") == "none"


def test_without_scripts_the_page_has_everything(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("#missed-list img").count() == 15
    assert not page.locator("#missed-tools").is_visible() and not page.locator("#sheet").is_visible()
    cell(page, 1, 0).click()
    assert page.locator("#cell-1-0 img").first.is_visible()
    assert paths_of(page, "#cell-1-0")[0] == "set/t1-g0-n4.png"
    assert page.locator("#receipt").is_visible()


def test_on_paper_there_are_no_controls_and_the_worst_errors(visit):
    page = visit()
    cell(page, 1, 0).click()
    page.emulate_media(media="print")
    for selector in ("#sheet", "#missed-tools", ".cells", ".copy >> nth=0"):
        assert not page.locator(selector).is_visible()
    assert page.locator("#missed-list img").last.is_visible()


def test_what_were_read_as_a_script_would_not_run(browser, address):
    directives, title = blocked(browser, address)
    assert directives == {"script-src-elem", "script-src-attr", "img-src"}
    assert title.startswith("a run: ")


def test_a_comparison_hides_and_shows_its_curves_without_script(browser, tmp_path):
    page = browser.new_context(viewport=SIZES["phone"], java_script_enabled=False).new_page()
    page.goto(comparison_page(tmp_path).as_uri())
    second = page.locator(".narrow .series-2").first
    assert second.is_visible()
    page.locator(".show-2").uncheck()
    assert not second.is_visible()
    assert page.locator(".narrow .series-1").first.is_visible()
    assert page.locator("html").evaluate("all => all.scrollWidth <= all.clientWidth")
    page.context.close()


def comparison_page(folder):
    """The page of two recipes and a failed one; one has a hostile name."""
    content = comparison_content()
    content["rows"][1]["name"] = content["dataset"] = SECRET
    for number, row in enumerate(content["rows"][:2]):
        (folder / f"run{number}").mkdir()
        (folder / f"run{number}" / "metrics.csv").write_text("epoch,val_accuracy\n1,0.5\n2,0.7\n3,0.9\n")
        row["measured"] = row["measured"] | {"runs": [f"run{number}"], "seeds": [0]}
    comparison.write_page(folder / "comparison.html", ComparisonResults.of(content, folder / "comparison.json"))
    return folder / "comparison.html"
