"""Pictures of Loupe's own pages for the site, in light and dark.

    loupe train $LOUPE_DATA/cats_vs_dogs --name cats
    loupe labels $LOUPE_DATA/cats_vs_dogs --to cats-labels
    loupe train $LOUPE_DATA/magnetic_tiles --set split.group=near --name tiles
    loupe train $LOUPE_DATA/magnetic_tiles --set split.group=near --set class_weights=balanced --name tiles-balanced
    loupe compare tiles tiles-balanced --name balanced
    python docs/pictures.py report=runs/cats/report.html confusion=runs/cats/report.html#confusion \
        labels=cats-labels/labels.html comparison=runs/balanced.html
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

FOLDER = Path(__file__).parent / "assets"
SIZE = {"width": 1200, "height": 800}


def main() -> None:
    pages = dict(argument.split("=", 1) for argument in sys.argv[1:])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, page in pages.items():
            for scheme in ("light", "dark"):
                picture(browser, page, scheme).save(FOLDER / f"{name}-{scheme}.webp", quality=82, method=6)
        browser.close()


def picture(browser: Browser, address: str, scheme: str) -> Image.Image:
    """Upper part of a page, or of its section after `#`, as a browser shows it in light or dark colours."""
    path, _, section = address.partition("#")
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)
    page.goto(Path(path).resolve().as_uri())
    if section:
        page.locator(".matrix td.miss a").first.click()
        page.locator(f"#{section}").evaluate("section => section.scrollIntoView()")
    page.wait_for_timeout(500)
    shown = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return shown.convert("RGB")


if __name__ == "__main__":
    main()
