"""A Chromium for tests of pages, and what several of them look at."""

import os
import shutil
from collections.abc import Iterator

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"phone": {"width": 400, "height": 800}, "desk": {"width": 1400, "height": 900}}
GROUNDS = {"light": "rgb(246, 245, 242)", "dark": "rgb(17, 19, 23)"}

# Every text that stands out less than 4.5 to 1 from what is below it.
CONTRASTS = """() => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    const over = (below, css) => {
        context.fillStyle = `rgb(${below.join()})`; context.fillRect(0, 0, 1, 1);
        context.fillStyle = css; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const ground = element => element
        ? over(ground(element.parentElement), getComputedStyle(element).backgroundColor) : [255, 255, 255];
    const light = color => color.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const found = {};
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(node => node.nodeType == 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest("svg, script, .bar")) continue;
        const below = ground(element), text = over(below, getComputedStyle(element).color);
        const [low, high] = [light(below), light(text)].sort((a, b) => a - b);
        const ratio = (high + .05) / (low + .05);
        if (ratio < 4.5) found[`${element.tagName}.${element.className} in ${element.parentElement.className}`] = ratio;
    }
    return found;
}"""


def chromium(*flags: str) -> Iterator:
    """One Chromium for the tests of a file; where CI_BROWSER is set its absence is a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if path is None or sync_playwright is None:
        missing = "no chromium on the PATH" if path is None else "playwright is not installed"
        if os.environ.get("CI_BROWSER"):
            pytest.fail(f"CI_BROWSER is set, and there is {missing}")
        pytest.skip(f"the page is not tested in a browser: {missing}")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield running
        running.close()


def until(page, condition: str) -> None:
    """Waits for it without the page's own eval, which its policy refuses."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def quarters(canvas) -> list[float]:
    """Colourfulness in the middle of each quarter of a canvas: grey is 0."""
    return canvas.evaluate(
        """canvas => {
            const {width, height} = canvas, context = canvas.getContext("2d");
            return [[.25, .25], [.75, .25], [.25, .75], [.75, .75]].map(([x, y]) => {
                const {data} = context.getImageData(x * width, y * height, 1, 1);
                return Math.max(...data.slice(0, 3)) - Math.min(...data.slice(0, 3));
            });
        }"""
    )


def hand_over(page, how: str, data: bytes, name: str) -> None:
    """Drop or paste a PNG file."""
    page.evaluate(
        """([how, bytes, name]) => {
            const data = new DataTransfer(), [kind, carrier] = how === "drop"
                ? ["DragEvent", "dataTransfer"] : ["ClipboardEvent", "clipboardData"];
            data.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
            document.body.dispatchEvent(new window[kind](how, {[carrier]: data, bubbles: true, cancelable: true}));
        }""",
        [how, list(data), name],
    )


def blocked(browser, address: str, *, requests: bool = False) -> tuple[set[str], str]:
    """Directives by which the policy of a page refuses what is injected into it, and the title of the page then.

    Injected are a script, an image with a handler and, if `requests`, a request.
    """
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.evaluate(
        """requests => {
            window.blocked = [];
            addEventListener("securitypolicyviolation", event => blocked.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
            const holder = document.createElement("div");
            holder.innerHTML = "<img src='https://example.invalid/x.png' onerror='document.title = 1'>";
            document.body.append(holder);
            if (requests) fetch("https://example.invalid/").catch(() => {});
        }""",
        requests,
    )
    until(page, f"blocked.length >= {3 + requests}")
    found = set(page.evaluate("blocked")), page.title()
    context.close()
    return found
