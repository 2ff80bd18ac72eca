"""Damaged and hostile images over HTTP: each gets its error, and the others the answer of `loupe predict`."""

import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import bombs
import loupe
from bombs import png_chunk
from builders import save_varied
from child_processes import KILL
from image_files import FILES, NO_IMAGES, changed, cut_off

httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.slow

GOOD = {f"{name}.png": data for name, data in FILES.items()}  # formats are told by content
CLASSES = 2
SECONDS = 60.0  # an answer takes some milliseconds, and that to the worst image 15 s
SENT_BYTES = 150 * 2**20


@dataclass
class Server:
    """Process of `loupe serve`, and a client of it."""

    process: subprocess.Popen[str]
    client: "httpx.Client"

    def ask(self, files: dict[str, bytes]) -> "httpx.Response":
        parts = [("image", (name, data)) for name, data in files.items()]
        return self.client.post(f"/predict?top={CLASSES}", files=parts)

    def decoders(self) -> list[int]:
        """Process numbers of its children."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == self.process.pid and state != "Z":
                found.append(int(folder.name))
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory, bare) -> loupe.Run:
    folder = tmp_path_factory.mktemp("run")
    return loupe.train(
        save_varied(folder / "photos", 12),
        recipe="small-images",
        epochs=1,
        settings={"input.size_px": 20, "input.load_px": 24},
        device="cpu",
        output=folder,
        quiet=True,
    )


@pytest.fixture(scope="module")
def server(run) -> Iterator[Server]:
    words = ["serve", str(run.path), "--port", "0", "--decoders", "2", "--quiet", "--max-body", "160"]
    process = subprocess.Popen([sys.executable, "-m", "loupe", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+/", process.stdout.readline())
        assert found
        with httpx.Client(base_url=found[0], timeout=SECONDS) as client:
            yield Server(process, client)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def damaged() -> dict[str, bytes]:
    """Damaged images by name, some of which can be decoded."""
    files = {**cut_off(), **changed(20), **NO_IMAGES}
    return {f"{number:03}.jpg": data for number, data in enumerate(files.values())}


@pytest.fixture(scope="module")
def predicted(run, damaged, tmp_path_factory) -> dict[str, dict]:
    """What `loupe predict` says of intact images, and of the damaged ones that it can decode, by name."""
    folder = tmp_path_factory.mktemp("images")
    for name, data in {**GOOD, **damaged}.items():
        (folder / name).write_bytes(data)
    return predict(run, folder)


def predict(run: loupe.Run, folder: Path) -> dict[str, dict]:
    words = ["predict", str(run.path), str(folder), "--json", "--skip-damaged", "--top", str(CLASSES)]
    command = [sys.executable, "-m", "loupe", *words, "--to", str(folder.with_suffix(".csv"))]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {Path(image["path"]).name: image for image in json.loads(told)["images"]}


def check(answer: dict, expected: dict | None) -> None:
    """Compare the answer for an image with that of `loupe predict`; None for an image that it cannot decode."""
    if expected is None:
        assert answer["error"]
        return
    assert answer["label"] == expected["label"]
    assert [one["class"] for one in answer["top"]] == [one["class"] for one in expected["top"]]
    told, wanted = ([one["probability"] for one in each["top"]] for each in (answer, expected))
    assert told == pytest.approx(wanted, abs=1e-5)


def test_damaged_images_one_by_one(server, damaged, predicted):
    assert {name in predicted for name in damaged} == {True, False}
    for name, data in damaged.items():
        response = server.ask({name: data})
        assert response.status_code == (200 if name in predicted else 422), name
        (answer,) = response.json()["images"]
        assert answer["path"] == name
        check(answer, predicted.get(name))


def test_damaged_images_among_good_ones(server, damaged, predicted):
    names = [*damaged]
    for start in range(0, len(names), 20):
        some = {name: damaged[name] for name in names[start : start + 20]}
        response = server.ask({**some, **GOOD})
        assert response.status_code == 200
        answers = response.json()["images"]
        assert [answer["path"] for answer in answers] == [*some, *GOOD]
        for answer in answers:
            check(answer, predicted.get(answer["path"]))


def test_a_huge_image_is_refused_at_once(server):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(2**20))) + png_chunk(b"IEND", b"")
    began = time.monotonic()
    response = server.ask({"huge.png": data})
    assert time.monotonic() - began < 1
    assert response.status_code == 422
    assert "50000 x 50000" in response.json()["images"][0]["error"]


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_bombs(server, predicted, name):
    data = bombs.bomb(name)
    assert len(data) < SENT_BYTES
    response = server.ask({"bomb": data, "PNG.png": FILES["PNG"]})
    assert response.status_code == 200
    bomb, good = response.json()["images"]
    assert "error" in bomb or name in bombs.READ
    check(good, predicted["PNG.png"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_decoding_processes_that_are_killed_under_load_lose_no_request(server, predicted):
    before = server.decoders()
    assert len(before) == 2

    ends, asked = threading.Event(), []

    def ask() -> None:
        while not ends.is_set():
            response = server.ask(GOOD)
            assert response.status_code == 200
            for answer in response.json()["images"]:
                check(answer, predicted[answer["path"]])
            asked.append(answer)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            for killed in (before, None, None):
                time.sleep(1.5)  # an image that lost its process is decoded by then
                for pid in killed or server.decoders()[:1]:
                    os.kill(pid, KILL)
            time.sleep(1.5)
        finally:
            ends.set()
        for client in clients:
            client.result(SECONDS)
    assert len(asked) > 20
    assert len(server.decoders()) == 2 and not {*before} & {*server.decoders()}
