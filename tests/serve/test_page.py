"""The page of the server in a real browser: what a person drops, types and sees."""

import json

import httpx
import pytest
from colours import colours, picture, save_bundle, save_export
from running import running

from browsers import CONTRASTS, GROUNDS, SIZES, blocked, chromium, hand_over, quarters, until

pytestmark = pytest.mark.slow  # starting a browser takes seconds

SECRET = "<img src=x onerror=document.title='ran'>"
HOSTILE = "</script><script>document.title='ran'</script>"
FIRST = ("red", HOSTILE, "blue", "d" * 200, "e", "f", "g")
SECOND = ("blue", "red", HOSTILE)
TOKEN = "a-token-of-this-test"
ROWS = "#list > li"
FAILED = "Failed to load resource"  # a status or a failure, which the tests cause


@pytest.fixture(scope="module")
def browser():
    yield from chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    first = colours(FIRST, (0, 1, 2, 2, 2, 1, 1), scale=9.0)
    second = colours(SECOND, (2, 0, 1), scale=4.0)
    return {
        "run": save_bundle(folder / "run", first),
        SECRET: save_export(folder / "export", second, with_maps=True, threshold=0.4),
    }


@pytest.fixture(scope="module")
def both(folders):
    with running(folders) as address:
        yield address


@pytest.fixture(scope="module")
def alone(folders):
    """Server of one model, which asks for a token."""
    with running({"run": folders["run"]}, TOKEN) as address:
        yield address


@pytest.fixture
def visit(browser, both):
    """Opens the page; in the end no name has run, nothing was asked of others, and the console is empty."""
    contexts, wrong = [], []

    def opened(size="desk", at=both, **options):
        context = browser.new_context(viewport=SIZES[size], **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: None if message.text.startswith(FAILED) else wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request", lambda request: None if request.url.startswith(at.split("#")[0]) else wrong.append(request.url)
        )
        page.goto(at)
        return page

    yield opened
    titles = [page.title() for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not wrong
    assert "ran" not in titles


def give(page, **files: bytes) -> None:
    """Choose files by name, and wait for their answers."""
    given = [{"name": name, "mimeType": "image/*", "buffer": data} for name, data in files.items()]
    page.locator("#files").set_input_files(given)
    settled(page)


def settled(page) -> None:
    until(page, "!document.querySelector('.busy') && document.getElementById('said').textContent !== 'Ready.'")


def verdicts(page) -> list[str]:
    return page.locator(".side h3 .name").all_text_contents()


def predicted(address: str, data: bytes, model: str, top: int = 1, token: str | None = None) -> dict:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    query = {"model": model, "top": top}
    sent = httpx.post(f"{address}predict", params=query, files={"image": ("a.png", data)}, headers=headers)
    return sent.json()["images"][0]


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_an_image_gets_the_label_of_predict_from_both_models(visit, both, how):
    page, data = visit(), picture((40, 30, 200))
    hand_over(page, how, data, "a.png")
    settled(page)
    for side, model in enumerate(("run", SECRET)):
        expected = predicted(both, data, model)
        words = page.locator(".side").nth(side).locator("h3")
        assert words.locator(".name").text_content() == expected["label"] == "blue"
        assert words.locator("small").text_content() == f"{100 * expected['top'][0]['probability']:.1f}\xa0%"
    assert page.locator("#shown").text_content() == "a.png"
    assert "a.png" in page.locator("#said").inner_text()


def test_two_models_are_side_by_side_with_what_differs(visit, both):
    page, data = visit(), picture((150, 20, 200))
    give(page, **{"a.png": data, "red.png": picture()})
    assert page.locator("#agreement .mark").inner_text() == "Agree" and verdicts(page) == ["blue", "blue"]
    first, second = page.locator(".side").all()
    names = [side.locator(".odds .name").all_text_contents() for side in (first, second)]
    assert names[0] == names[1] and len(names[0]) == 5
    own = {one["class"]: one["probability"] for one in predicted(both, data, "run", 7)["top"]}
    other = {one["class"]: one["probability"] for one in predicted(both, data, SECRET, 3)["top"]}
    for row, name in enumerate(names[1]):
        texts = second.locator(".odds button").nth(row).locator("span").all_text_contents()
        if name in other:
            assert float(texts[1].replace("−", "-")) == pytest.approx(100 * (other[name] - own[name]), abs=0.051)
        else:
            assert texts[1:] == ["–"]
    second.locator("input[type=range]").fill("1")
    assert page.locator("#agreement .mark").inner_text() == "Differ" and verdicts(page) == ["blue", "unclassified"]
    assert page.locator(f"{ROWS} .other").count() == 2 and "2 differ" in page.locator("#said").inner_text()
    second.locator("select").select_option("")
    assert verdicts(page) == ["blue"] and not page.locator("#agreement").is_visible()
    first.locator("select").select_option(SECRET)
    settled(page)
    assert page.locator(".side h3 small").first.text_content() == f"{100 * other['blue']:.1f}\xa0%"


def test_the_threshold_starts_at_that_of_the_model(visit):
    page = visit()
    give(page, **{"grey.png": picture((100, 100, 100))})
    sliders = page.locator("input[type=range]")
    assert sliders.evaluate_all("all => all.map(one => one.value)") == ["0", "0.4"]
    assert verdicts(page)[0] in FIRST and verdicts(page)[1] == "unclassified"
    sliders.nth(1).fill("0.2")
    assert verdicts(page)[1] in SECOND
    page.locator(".own").nth(1).click()
    assert verdicts(page)[1] == "unclassified"
    assert page.evaluate("document.activeElement === document.querySelectorAll('input[type=range]')[1]")


def test_evidence_lies_over_the_picture_for_the_chosen_class(visit):
    pytest.importorskip("captum")
    page = visit()
    drawn = page.locator(".side figure canvas")
    give(page, **{"a.png": picture((60, 60, 60), size=(100, 100), quarter=(255, 60, 60))})
    for side in (0, 1):
        found = quarters(drawn.nth(side))
        assert found[0] > 100 and "top left" in page.locator("figcaption").nth(side).inner_text()
    page.locator(".side").first.locator(".odds button", has_text="blue").click()
    settled(page)
    assert "blue" in page.locator("figcaption").nth(1).inner_text()
    pressed = page.locator(".odds [aria-pressed=true] .name").all_text_contents()
    assert pressed == ["blue", "blue"]
    page.locator(".side").first.locator(".odds button").nth(4).click()
    settled(page)
    assert "none of this model" in page.locator("figcaption").nth(1).inner_text()
    page.locator("#evidence").uncheck()
    assert max(quarters(drawn.first)[1:]) == 0 and quarters(drawn.first)[0] == 195
    assert page.locator(".odds button").count() == 0


def test_hostile_names_are_text(visit):
    page = visit()
    give(page, **{f"{SECRET}.png": picture((0, 200, 0)), f"{HOSTILE.replace('/', '')}.png": b"damaged"})
    assert verdicts(page) == [HOSTILE, HOSTILE]
    assert page.locator("#shown").text_content() == f"{SECRET}.png"
    page.locator("summary").click()
    assert SECRET in page.locator("#about-models").inner_text()
    assert page.locator("main img, main script").count() == 0


def test_one_damaged_image_has_its_reason_and_others_their_answer(visit):
    page = visit()
    give(page, **{"bad.png": b"nothing of an image", "good.png": picture()})
    assert (
        page.locator(".side .problem").count() == 2 and page.locator(".side button", has_text="Try again").count() == 0
    )
    assert page.locator(f"{ROWS} .said").all_inner_texts()[1] == "red"
    assert "1 refused" in page.locator("#said").inner_text()
    page.locator(f"{ROWS} button").nth(1).click()
    settled(page)
    assert verdicts(page) == ["red", "red"]


def test_all_classes_are_shown_on_demand(visit):
    page = visit()
    give(page, **{"a.png": picture()})
    page.locator(".more").first.click()
    assert page.locator(".side").first.locator(".odds li").count() == 7
    assert page.evaluate(
        "document.activeElement === document.querySelectorAll('.odds')[0].querySelectorAll('button')[5]"
    )
    assert page.locator(".more:visible").count() == 0


@pytest.mark.parametrize("how", ["busy", "gone"])
def test_a_server_that_does_not_answer_is_asked_again(visit, how):
    page = visit()
    refusal = {"status": 429, "headers": {"Retry-After": "1"}, "body": json.dumps({"error": "128 images wait."})}
    page.route("**/predict?*", lambda route: route.fulfill(**refusal) if how == "busy" else route.abort())
    with page.expect_event("requestfinished" if how == "busy" else "requestfailed"):
        page.locator("#files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": picture()}])
    page.locator(".side button", has_text="Try again").first.wait_for()
    assert ("busy" if how == "busy" else "does not answer") in page.locator("#said").inner_text()
    page.unroute("**/predict?*")
    page.locator("#again").click()
    settled(page)
    assert verdicts(page) == ["red", "red"] and not page.locator("#again").is_visible()
    assert page.evaluate("document.activeElement.id") == "shown"


def test_the_token_of_the_address_is_taken_out_of_it(visit, alone):
    page, data = visit(at=f"{alone}#token={TOKEN}"), picture()
    give(page, **{"a.png": data})
    assert page.url == alone and verdicts(page) == [predicted(alone, data, "run", token=TOKEN)["label"]]
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert page.locator("#title").inner_text() == "run"


def test_a_token_is_asked_for_where_the_address_has_none(visit, alone):
    page = visit(at=alone)
    page.locator("#access[open]").wait_for()
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type("another-token-than-that")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('access-why').textContent.includes('refuses')")
    page.locator("#access[open]").wait_for()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    until(page, "document.getElementById('said').textContent === 'Ready.'")
    page.reload()
    page.locator("#access[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("#again").wait_for()
    page.locator("#again").click()
    page.locator("#access[open]").wait_for()


def test_by_keyboard_alone(visit):
    page = visit()
    focused = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    walk = []
    for _ in range(3):
        page.keyboard.press("Tab")
        walk.append(page.evaluate(focused))
    assert walk == ["skip", "choose", "use-camera"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.locator("#choose").focus()
        page.keyboard.press("Enter")
    chooser.value.set_files(
        [{"name": f"{n}.png", "mimeType": "image/png", "buffer": picture((99 * n, 0, 99))} for n in range(3)]
    )
    settled(page)
    page.locator(f"{ROWS} button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    settled(page)
    assert page.locator("#shown").inner_text() == "2.png" and verdicts(page) == ["red", "red"]
    assert page.locator("[aria-current=true]").inner_text().startswith("2.png")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "evidence"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"
    page.keyboard.press("End")
    assert verdicts(page) == ["unclassified", "red"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "own"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator(".odds").first.locator("button").nth(1).get_attribute("aria-pressed") == "true"
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "choose" and not page.locator("#work").is_visible()


def test_a_picture_from_the_camera(visit):
    page = visit()
    page.locator("#use-camera").click()
    page.locator("#camera[open]").wait_for()
    until(page, "document.activeElement.id === 'take'")
    page.keyboard.press("Enter")
    page.locator(".side h3").first.wait_for()
    assert page.evaluate("document.getElementById('view').srcObject") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_text_stands_out_and_nothing_needs_scrolling_to_the_side(visit, scheme, size):
    page = visit(size, color_scheme=scheme)
    wide = f"{'w' * 200}.png"
    give(page, **{wide: picture((90, 90, 200)), "bad.png": b"damaged", "c.tif": picture(kind="TIFF")})
    page.locator("summary").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    for row in range(3):
        page.locator(f"{ROWS} button").nth(row).click()
        settled(page)
        assert page.evaluate(CONTRASTS) == {}
        assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size]["width"]
        heights = page.locator("button:visible, select:visible").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert min(heights) >= 44
    assert page.locator(".unseen-picture").count() == 2 and verdicts(page) == ["red", "red"]
    unnamed = """() => [...document.querySelectorAll("button, select, input:not([hidden]), canvas")]
        .filter(one => one.checkVisibility() && !one.closest("[aria-hidden]") && !one.ariaLabel
            && !one.labels?.length && !one.textContent.trim()).map(one => one.outerHTML)"""
    assert page.evaluate(unnamed) == []


def test_what_is_injected_does_not_run_and_nothing_is_sent(browser, both):
    directives, title = blocked(browser, both, requests=True)
    assert directives == {"script-src-elem", "script-src-attr", "img-src", "connect-src"}
    assert title == "Loupe: classify photographs"


def test_a_file_that_cannot_be_read_is_told_from_a_server_that_is_gone(visit):
    page = visit()
    page.evaluate(
        """() => {
            const gone = new File(["x"], "folder");
            gone.slice = () => ({arrayBuffer: () => Promise.reject(new Error("it is a folder"))});
            add([gone]);
        }"""
    )
    page.locator(".side .problem").nth(1).wait_for()
    assert "folder" in page.locator(".side .problem").first.inner_text() and not page.locator("#again").is_visible()
