"""`loupe train DATA --recipe features` against the plain script that does the same, from files to the last number.

The two take turns, each in a process and with a cache of its own, so that Loupe decodes and computes everything every
time and writes its whole report. Medians of the wall-clock time, and their ratio, go to results/features.{json,md}.

    python benchmarks/features.py $LOUPE_DATA --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from setting import commit, machine

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds cats_vs_dogs and weights")
    parser.add_argument("--precisions", nargs="+", default=("fp32", "bf16"), help="of the plain script")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, default=RESULTS, metavar="FOLDER", help="write features.{json,md} here")
    given = parser.parse_args()
    photographs = given.data / "cats_vs_dogs"
    weights = given.data / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    plain = [sys.executable, str(HERE / "peers" / "timm_features.py"), str(photographs), "--weights", str(weights)]
    options = ["--recipe", "features", "--weights", str(weights), "--json"]
    contenders = {
        "loupe": [sys.executable, "-m", "loupe", "train", str(photographs), *options],
        **{f"plain {precision}": [*plain, "--precision", precision] for precision in given.precisions},
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, command in contenders.items():
            rows[name].append(timed(name, command))
            print(name, rows[name][-1], flush=True)
    write(rows, given.rounds, given.write)


def timed(name: str, command: list[str]) -> dict[str, float]:
    """Wall-clock seconds of the whole process, and the accuracies that it found."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        environment = {**os.environ, "LOUPE_CACHE": f"{folder}/cache"}
        extra = ["--output", f"{folder}/runs"] if name == "loupe" else []
        out = subprocess.run([*command, *extra], env=environment, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - began
    found = json.loads(out)
    if name == "loupe":
        found = {"val": found["validation"]["accuracy"]["value"], "test": found["test"]["accuracy"]["value"]}
    return {"seconds": seconds, "val": found["val"], "test": found["test"]}


def write(rows: dict[str, list[dict[str, float]]], rounds: int, folder: Path) -> None:
    median = {name: statistics.median(row["seconds"] for row in found) for name, found in rows.items()}
    content = {
        "commit": commit(),
        "machine": machine(os.cpu_count() or 1),
        "rounds": rounds,
        "median_seconds": median,
        "ratio_to": {name: median["loupe"] / seconds for name, seconds in median.items() if name != "loupe"},
        "runs": rows,
    }
    (folder / "features.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    place = content["machine"]
    lines = [
        "# From 4,000 photographs to a trained head and its evaluation",
        "",
        f"`python benchmarks/features.py $LOUPE_DATA --rounds {rounds}`, commit {content['commit']}, "
        f"{place['processor']}, {place['cores']} cores. tf_efficientnet_lite0, 224 px; whole processes, taking "
        "turns; nothing is cached between them.",
        "",
        "| | seconds, median (all) | validation | test |",
        "|---|---|---|---|",
    ]
    for name, found in rows.items():
        every = ", ".join(f"{row['seconds']:.0f}" for row in found)
        accuracy = f"{100 * found[-1]['val']:.2f} % | {100 * found[-1]['test']:.2f} %"
        lines.append(f"| {name} | {median[name]:.1f} ({every}) | {accuracy} |")
    ratios = "; ".join(f"{value:.2f} times {name}" for name, value in content["ratio_to"].items())
    lines += ["", f"Loupe takes {ratios}."]
    (folder / "features.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
