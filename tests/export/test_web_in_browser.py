"""The page of an export in a real browser, from disk and without network: what a person drops, types and sees."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import web_pages
from browsers import CONTRASTS, GROUNDS, SIZES, blocked, chromium, hand_over, quarters, until
from loupe.data.pixels.decode import decode

pytestmark = pytest.mark.slow  # starting a browser takes seconds

SECRET = "<img src=x onerror=document.title='ran'>"
CLASSES = ("red", "</script><script>document.title='ran'</script>", "b" * 300, "d", "e", "f")
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
CARDS = "#answers > li"


@pytest.fixture(scope="module")
def browser():
    yield from chromium(*FAKE_CAMERA)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return web_pages.page(tmp_path_factory.mktemp("page"), CLASSES, title=SECRET).as_uri()


@pytest.fixture
def visit(browser, address):
    """Opens the page; in the end nothing of a name has run, nothing was asked for, and the console is empty."""
    contexts, wrong = [], []

    def opened(size="desk", at=address, **options):
        context = browser.new_context(viewport=SIZES[size], **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: wrong.append(request.url) if not is_here(request.url, at) else None)
        page.goto(at)
        return page

    def is_here(url, at):
        return url.startswith("blob:null/") or url.startswith("blob:file:") or url == at

    yield opened
    titles = [page.title() for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not wrong
    assert "ran" not in titles


def saved(kind: str = "PNG", color=(250, 20, 30), size=(60, 40), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind, **options)
    return buffer.getvalue()


def give(page, **files: bytes) -> None:
    """Choose files by name, and wait for as many answers."""
    before = page.locator(CARDS).count()
    given = [{"name": name, "mimeType": "image/*", "buffer": data} for name, data in files.items()]
    page.locator("#files").set_input_files(given)
    page.locator(CARDS).nth(before + len(files) - 1).wait_for(state="attached")


def verdicts(page) -> list[str]:
    return page.locator(f"{CARDS} h2 .name").all_text_contents()


def test_chosen_photographs_get_their_class_and_bars(visit):
    page = visit()
    give(
        page,
        **{"a.jpg": saved("JPEG"), f"{SECRET}.png": saved(color=(3, 9, 240)), "c.webp": saved("WEBP", (0, 200, 0))},
    )
    assert verdicts(page) == [CLASSES[0], CLASSES[2], CLASSES[1]]
    assert page.locator(f"{CARDS} .file").all_text_contents() == ["a.jpg", f"{SECRET}.png", "c.webp"]
    assert page.locator(CARDS).first.locator(".odds li").count() == 5
    found = page.eval_on_selector_all(CARDS, "cards => cards.map(card => card.answer.probabilities)")
    assert np.allclose(found[1], np.array([3, 9, 240, 0, 0, 0]) / 252, atol=1e-6)
    first = page.locator(CARDS).nth(1).locator(".odds li").first
    assert first.locator("button > span").all_text_contents() == [CLASSES[2], "95.2\xa0%"]
    widths = first.evaluate("bar => [...bar.querySelectorAll('.track, .track span')].map(one => one.offsetWidth)")
    assert widths[1] / widths[0] == pytest.approx(240 / 252, abs=0.01)
    assert "3 photographs" in page.locator("#said").inner_text()
    give(page, **{"later.png": saved(color=(0, 250, 0))})
    assert verdicts(page) == [CLASSES[1], CLASSES[0], CLASSES[2], CLASSES[1]], "the newest come first"
    page.locator("#clear").click()
    assert page.locator(CARDS).count() == 0


def test_pixels_are_those_of_the_file(visit):
    """Lossless files: every pixel is that of Pillow, over white where it is transparent, upright, without a profile."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    plain = Image.fromarray(pixels[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(pixels[..., :3], -1)
    clear = Image.new("RGB", plain.size, "white")
    clear.paste(plain, mask=Image.fromarray(pixels[..., 3]))
    for image, options, expected in (
        (plain, {}, pixels[..., :3]),
        (plain, {"exif": exif}, turned),
        (plain, {"icc_profile": wide_profile()}, pixels[..., :3]),
        (Image.fromarray(pixels), {}, np.asarray(clear)),
        (plain.convert("L"), {}, np.asarray(plain.convert("L").convert("RGB"))),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        found = pixels_in(visit(), buffer.getvalue())
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() == 0


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"subsampling": 0}),
        ("JPEG", "RGB", {"subsampling": 1, "quality": 60}),
        ("JPEG", "RGB", {"subsampling": 2, "quality": 95, "progressive": True}),
        ("JPEG", "L", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
    ],
)
def test_photographs_are_decoded_as_by_pillow(visit, kind, mode, options):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((131, 97))
    buffer = io.BytesIO()
    coarse.convert(mode).save(buffer, kind, **options)
    expected = np.asarray(decode(buffer.getvalue(), "it"))
    found = pixels_in(visit(), buffer.getvalue())
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() == 0


def wide_profile() -> bytes:
    """A profile with green and red exchanged, by the names of the tags: a browser that applied it would show it."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def pixels_in(page, data: bytes) -> np.ndarray:
    """The pixels that the page gives to the network."""
    shape, values = page.evaluate(
        """async bytes => {
            const {rgb, width, height} = pixelsOf(await decoded(new File([Uint8Array.from(bytes)], "it")));
            return [[height, width, 3], [...rgb]];
        }""",
        list(data),
    )
    return np.array(values, np.uint8).reshape(shape)


def test_a_file_that_cannot_be_read_stops_no_other(visit):
    page = visit()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    whole = {}
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        whole[kind] = buffer.getvalue()
    flipped = bytearray(whole["PNG"])
    flipped[len(flipped) // 2] ^= 255
    bad = {
        "empty.jpg": b"",
        "text.png": b"not an image",
        "half.jpg": whole["JPEG"][: len(whole["JPEG"]) // 2],
        "half.png": whole["PNG"][: len(whole["PNG"]) // 2],
        "flipped.png": bytes(flipped),
        "huge.png": png_header(50_000, 50_000),
        f"{SECRET}.gif": b"GIF89a",
        "wide.png": saved(size=(13, 9)),
    }
    give(page, **{"first.png": saved(), **bad, "last.png": saved(color=(0, 0, 90))})
    assert verdicts(page) == [CLASSES[0], CLASSES[2]]
    refused = page.locator(f"{CARDS}.refused")
    assert refused.locator(".file").all_text_contents() == [*bad]
    assert "50000 × 50000" in refused.nth(5).inner_text() and "178,956,970" in refused.nth(5).inner_text()
    assert "bad_alloc" in refused.nth(7).inner_text()
    assert "8 refused" in page.locator("#said").inner_text()


def test_the_page_keeps_so_many_answers(visit):
    page = visit()
    fill = "length => answers.append(...Array.from({length}, () => document.createElement('li')))"
    page.evaluate(fill, 298)
    give(page, **{f"{number}.png": saved() for number in range(2)})
    page.locator("#files").set_input_files([{"name": "late.png", "mimeType": "image/png", "buffer": saved()}])
    until(page, "document.getElementById('said').textContent.includes('1 left out')")
    assert page.locator(CARDS).count() == 300
    page.locator("#clear").click()
    give(page, **{"a.png": saved()})
    assert "left out" not in page.locator("#said").inner_text()


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds hardly any pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_evidence_lies_where_the_map_says(visit, tmp_path):
    page = visit()
    picture = Image.new("RGB", (100, 100), (0, 0, 40))
    picture.paste((255, 0, 0), (0, 0, 50, 50))
    picture.paste((0, 90, 0), (50, 50, 100, 100))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    give(page, **{"corner.png": buffer.getvalue()})
    caption, drawn = page.locator("figcaption").nth(1), page.locator("figure canvas").nth(1)
    found = quarters(drawn)
    assert found[0] > 100 and max(found[1:]) < 30 and "strongest at the top left" in caption.inner_text()
    page.locator(".odds button").nth(1).click()
    found = quarters(drawn)
    assert found[3] > 100 and max(found[:3]) < 30 and "strongest at the bottom right" in caption.inner_text()
    page.locator(".odds button").nth(2).click()
    found = quarters(drawn)
    assert (
        min(found[1:3]) > 100 and max(found[0], found[3]) < 30 and "strongest at the top right" in caption.inner_text()
    )
    assert page.locator(".odds button").evaluate_all("all => all.map(one => one.ariaPressed)").index("true") == 2
    page.locator(".odds button").nth(3).click()
    assert "no positive evidence" in caption.inner_text() and max(quarters(drawn)) < 5
    assert page.locator("figure canvas").nth(1).get_attribute("aria-label") == "Evidence for d: no positive evidence"


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        ("crop", (400, 200), [0.25 + 0.5 / 16, 1 / 16, 0.5 - 1 / 16, 1 - 2 / 16]),
        ("squash", (400, 200), [1 / 16, 1 / 16, 1 - 2 / 16, 1 - 2 / 16]),
        ("pad", (400, 200), [1 / 16, -0.5 + 1 / 8, 1 - 2 / 16, 2 - 2 / 8]),
    ],
)
def test_the_part_that_the_network_sees(visit, tmp_path, resize, size, expected):
    preprocessing = web_pages.PREPROCESSING.model_copy(update={"resize": resize})
    page = visit(at=web_pages.page(tmp_path, CLASSES, preprocessing=preprocessing).as_uri())
    seen = page.evaluate("([width, height]) => seenPart(width, height, FACTS)", list(size))
    assert [seen[name] for name in ("left", "top", "width", "height")] == pytest.approx(expected)


def test_below_the_threshold_a_photograph_is_unclassified(visit, tmp_path):
    page = visit(at=web_pages.page(tmp_path, CLASSES, threshold=0.8).as_uri())
    give(page, **{"sure.png": saved(color=(200, 9, 9)), "unsure.png": saved(color=(100, 80, 80))})
    assert verdicts(page) == [CLASSES[0], "unclassified"]
    assert page.locator(CARDS).nth(1).locator(".odds button").first.inner_text().startswith("red")
    assert "80.0" in page.locator(f"{CARDS}.unclassified .note").inner_text()


def test_without_maps_the_page_says_so(visit, tmp_path):
    page = visit(at=web_pages.page(tmp_path, CLASSES, maps=False).as_uri())
    give(page, **{"a.png": saved()})
    assert page.locator("figure").count() == 1 and page.locator(".odds button").count() == 0
    assert "cannot show" in page.locator("#about-maps").text_content()


def test_by_keyboard_alone(visit):
    page = visit()
    focused = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    walk = []
    for _ in range(3):
        page.keyboard.press("Tab")
        walk.append(page.evaluate(focused))
    assert walk == ["skip", "choose", "use-camera"]
    page.locator("#choose").focus()
    page.evaluate("byId('files').addEventListener('click', event => (event.preventDefault(), window.asked = true))")
    page.keyboard.press("Enter")
    until(page, "window.asked")
    give(page, **{"a.png": saved()})
    page.locator("#clear").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.odds li') === document.querySelectorAll('.odds li')[1]")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert page.locator(".odds button").nth(1).get_attribute("aria-pressed") == "true"
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "choose" and page.locator(CARDS).count() == 0


def test_photographs_are_dropped_and_pasted(visit):
    page = visit()
    hand_over(page, "drop", saved(), "dropped")
    hand_over(page, "paste", saved(), "pasted")
    page.locator(CARDS).nth(1).wait_for()
    assert page.locator(f"{CARDS} .file").all_text_contents() == ["pasted", "dropped"]


def test_a_picture_from_the_camera(visit):
    page = visit()
    page.locator("#use-camera").click()
    page.locator("#camera[open]").wait_for()
    until(page, "document.activeElement.id === 'take'")
    page.keyboard.press("Enter")
    page.locator(CARDS).wait_for()
    assert not page.locator("#camera").is_visible()
    assert page.evaluate("document.getElementById('view').srcObject") is None
    page.locator("#use-camera").click()
    page.locator("#camera[open]").wait_for()
    page.keyboard.press("Escape")
    until(page, "document.getElementById('view').srcObject === null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_text_stands_out_and_nothing_needs_scrolling_to_the_side(visit, scheme, size):
    page = visit(size, color_scheme=scheme)
    give(page, **{"a.png": saved(), f"{SECRET}{'w' * 200}.png": b"damaged"})
    page.locator("summary").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    assert page.evaluate(CONTRASTS) == {}
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size]["width"]
    heights = page.locator("button:visible").evaluate_all("all => all.map(one => one.offsetHeight)")
    assert min(heights) >= 44


def test_what_is_injected_does_not_run_and_nothing_is_sent(browser, address):
    directives, title = blocked(browser, address, requests=True)
    assert directives == {"script-src-elem", "script-src-attr", "img-src", "connect-src"}
    assert title == f"{SECRET}: classify photographs"
