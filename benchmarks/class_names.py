"""Processor and wall time, and memory, of `loupe check` of many rows that share a few images.

    python benchmarks/class_names.py [--rows 1000000] [--classes 1000000] [--kinds parquet csv] [--json]

`parquet` holds the bytes of the images, `csv` names their files. Each is checked once, in a process of its own, with an
empty cache.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGES = 4
SIDE_PX = 8
MEASURE = """
import resource, sys
from loupe.cli.main import main
try:
    main()
finally:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(used.ru_utime + used.ru_stime for used in (own, children))
    print(f"{cpu:.1f} {own.ru_maxrss / 2**10:.0f}", file=sys.stderr)
"""


def pngs() -> list[bytes]:
    random, files = np.random.default_rng(0), []
    for _ in range(IMAGES):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)).save(out, "PNG")
        files.append(out.getvalue())
    return files


def write(folder: Path, kind: str, rows: int, classes: int) -> Path:
    """Write a list of rows whose labels take turns, and return its path."""
    images, labels = pngs(), [f"name {i % classes:07d}x" for i in range(rows)]
    file = folder / f"list.{kind}"
    if kind == "parquet":
        held = [{"bytes": images[i % IMAGES], "path": f"{i}.png"} for i in range(rows)]
        image = pa.array(held, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(pa.table({"image": image, "label": labels}), file)
        return file
    for k, data in enumerate(images):
        (folder / f"{k}.png").write_bytes(data)
    with file.open("w", encoding="utf-8") as out:
        out.write("path,label\n")
        out.writelines(f"{i % IMAGES}.png,{label}\n" for i, label in enumerate(labels))
    return file


def check(file: Path, cache: Path, *, as_json: bool) -> str:
    """Times and memory of a check, as a text."""
    command = [sys.executable, "-c", MEASURE, "check", str(file), *(["--json"] if as_json else [])]
    began = time.perf_counter()
    environment = {**os.environ, "LOUPE_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    cpu, mebibytes = done.stderr.splitlines()[-1].split()
    return f"{wall:.1f} s, {cpu} s of processor time, {mebibytes} MiB at most, {len(done.stdout):,} characters printed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--classes", type=int, default=10**6)
    parser.add_argument("--kinds", nargs="+", choices=("parquet", "csv"), default=("parquet", "csv"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder), kind, given.rows, given.classes)
            measured = check(file, Path(folder) / "cache", as_json=given.json)
        print(f"{kind}, {given.rows:,} rows, {given.classes:,} classes: {measured}")


if __name__ == "__main__":
    main()
