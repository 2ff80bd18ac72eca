"""Files, servers and tables of one call of `serving.py`."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import Contender, Server, loupe_server, peer_server, running
from serving_loads import warm_up
from setting import commit, machine

SOURCES = Path(__file__).resolve().parents[1] / "src"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
Settings = Sequence[Sequence[int]]


class Bench:
    """Files, servers and results of one call.

    Attributes:
        found: figures of each section.
        tables: headings and tables, in order.
    """

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.found: dict[str, Any] = {}
        self.tables: list[str] = []
        paths = (path for path in sorted(given.photos.rglob("*")) if path.suffix.lower() in SUFFIXES)
        chosen = [path for path, _ in zip(paths, range(given.images), strict=False)]
        if not chosen:
            raise SystemExit(f"{given.photos} has no images.")
        self.folder, self.one = work / "photos", work / "one"
        for place, files in ((self.folder, chosen), (self.one, chosen[:1])):
            place.mkdir()
            for number, path in enumerate(files):
                shutil.copyfile(path, place / f"{number:05}{path.suffix.lower()}")
        self.files = sorted(self.folder.iterdir())

    def loupe(self, model: Path, name: str, *options: str) -> Contender:
        return loupe_server(model, name, SOURCES, self.given.deadline, *options)

    def peers(self, litserve: Settings, bentoml: Settings) -> list[Contender]:
        """Other servers with each of the settings, in their own environments."""
        pythons = {"LitServe": (self.given.litserve_python, litserve), "BentoML": (self.given.bentoml_python, bentoml)}
        return [
            peer_server(library, python, self.export, *each, threads=self.given.threads, sources=SOURCES)
            for library, (python, settings) in pythons.items()
            if python
            for each in settings
        ]

    @property
    def export(self) -> Path:
        """ONNX export of the run, made at first use."""
        if not self.given.export:
            self.given.export = self.work / "onnx"
            words = ["export", self.given.run, "--to", "onnx", "--folder", self.given.export, "--quiet"]
            environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
            subprocess.run([sys.executable, "-m", "loupe", *map(str, words)], env=environment, check=True)
        return self.given.export

    @contextmanager
    def started(self, contender: Contender) -> Iterator[Server]:
        """Server whose caches are full."""
        with running(contender, self.work / "server.log") as server:
            warm_up(server, contender.requests(self.files), self.given.connections, self.given.warm_up)
            yield server

    def table(self, head: str, rows: list[list[str]]) -> None:
        columns = head.count("|") + 1
        lines = [f"| {head} |", "|---" * columns + "|", *(f"| {' | '.join(row)} |" for row in rows)]
        self.tables.append("\n".join(lines))
        print(self.tables[-1], flush=True)

    def report(self) -> None:
        setting = {"commit": commit(), "machine": machine(self.given.threads), "images": len(self.files)}
        if self.given.write:
            command = f"python benchmarks/serving.py RUN PHOTOS {' '.join(sys.argv[3:])}"
            text = "\n\n".join([f"`{command}`. {json.dumps(setting)}", *self.tables])
            self.given.write.write_text(f"# Server\n\n{text}\n", encoding="utf-8")
        print(json.dumps({**self.found, **setting}))
