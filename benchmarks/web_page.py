"""A page of `loupe export RUN --to web` in Chromium, from disk with the network cut, beside `loupe predict`.

    python benchmarks/web_page.py EXPORT/index.html $LOUPE_DATA/cats_vs_dogs/val --run runs/RUN --images 200

Images are taken evenly from the folder. The table has the images whose best class differs, the largest difference in a
probability, how many pixel values the browser decodes to other values than Pillow and by how much, the median time from
opening the page to the first answer, and the median time for one more photograph, and for one of 12 megapixels.
"""

import argparse
import io
import statistics
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loupe.data.pixels.decode import decode
from loupe.export import web_gate
from loupe.runs.predictor import Predictor

LARGE = (4000, 3000)
PIXELS = """async () => {
    const {rgb} = pixelsOf(await decoded(document.getElementById("probe").files[0]));
    let text = "";
    for (let i = 0; i < rgb.length; i += 32768) text += String.fromCharCode(...rgb.subarray(i, i + 32768));
    return btoa(text);
}"""
PROBE = "() => document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'probe'}))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    paths = sorted(path for path in given.photographs.rglob("*") if path.is_file())
    paths = [paths[place] for place in np.linspace(0, len(paths) - 1, min(given.images, len(paths))).astype(int)]
    expected_NK = Predictor(given.run / "model").predict_proba(paths)
    found = web_gate.answers(given.page, paths)
    misses = found.misses(expected_NK)
    firsts = [web_gate.answers(given.page, paths[:1]).first_seconds for _ in range(given.rounds)]
    values, differing, largest = pixels(given.page, paths)
    print(f"{found.browser}, {len(paths)} photographs, page of {given.page.stat().st_size / 1e6:.1f} MB\n")
    print("| what | value |\n|---|---:|")
    rows = {
        "other best class": f"{misses['top1']:.0f}",
        "refused": f"{len(found.refused)}",
        "largest difference in a probability": f"{misses['probability']:.1e}",
        "pixel values": f"{values:,}",
        "of them other than Pillow's": f"{differing:,}",
        "largest difference in levels": f"{largest}",
        "first answer, s": f"{statistics.median(firsts):.2f} ({min(firsts):.2f} to {max(firsts):.2f})",
        **{name: f"{seconds:.2f}" for name, seconds in timed(given.page, paths[0], given.rounds).items()},
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def pixels(page: Path, paths: list[Path]) -> tuple[int, int, int]:
    """Number of pixel values, of those that differ between the page and Pillow, and the largest difference."""
    values = differing = largest = 0
    with web_gate.opened(120) as (context, _):
        view = context.new_page()
        view.goto(page.resolve().as_uri())
        view.evaluate(PROBE)
        for path in paths:
            view.locator("#probe").set_input_files(path)
            ours = np.asarray(decode(path.read_bytes(), str(path)))
            theirs = np.frombuffer(b64decode(view.evaluate(PIXELS)), np.uint8).reshape(ours.shape)
            difference = np.abs(theirs.astype(np.int16) - ours)
            values, differing = values + ours.size, differing + int((difference > 0).sum())
            largest = max(largest, int(difference.max()))
    return values, differing, largest


def timed(page: Path, photograph: Path, rounds: int) -> dict[str, float]:
    """Median seconds from choosing a photograph in an open page to its answer."""
    with tempfile.TemporaryDirectory() as folder, web_gate.opened(120) as (context, _):
        large = Path(folder) / "large.jpg"
        with Image.open(io.BytesIO(photograph.read_bytes())) as image:
            image.convert("RGB").resize(LARGE).save(large, quality=92)
        view = context.new_page()
        view.goto(page.resolve().as_uri())
        answer_seconds(view, photograph)
        return {
            "one more photograph, s": statistics.median(answer_seconds(view, photograph) for _ in range(rounds)),
            "one of 12 megapixels, s": statistics.median(answer_seconds(view, large) for _ in range(rounds)),
        }


def answer_seconds(view: Any, path: Path) -> float:
    count = view.locator(web_gate.ANSWERS).count()
    began = time.perf_counter()
    view.locator("#files").set_input_files(path)
    view.locator(web_gate.ANSWERS).nth(count).wait_for(state="attached")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
