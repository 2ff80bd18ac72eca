"""Outputs of a page anew: the commands of its `console` blocks are run, and what they print replaces what stands there.

    python docs/outputs.py docs/howto/own-photos.md

The commands run with an empty cache, in a folder in which `photos/` is $LOUPE_DATA/cats_vs_dogs and `new/` has eight
images without labels; weights come from $LOUPE_DATA/weights. Lines that a page leaves out (`...`) stay left out. Blocks
without output and blocks with other programs, servers or interrupted runs stay as they are.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "..."
BY_HAND = {"serve", "--resume", "--cluster"}  # words of commands that end by a signal, or need other machines
NEW_IMAGES = 8
NO_BREAK = "\N{NO-BREAK SPACE}"


def main() -> None:
    data = Path(os.environ["LOUPE_DATA"]).resolve()
    for page in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            text = with_outputs(page.read_text(encoding="utf-8"), Path(folder), data)
        page.write_text(text, encoding="utf-8")


def with_outputs(text: str, folder: Path, data: Path) -> str:
    """Text of a page with the outputs of its commands, which run in a folder."""
    (folder / "photos").symlink_to(data / "cats_vs_dogs")
    (folder / "new").mkdir()
    for number in range(1, NEW_IMAGES + 1):
        shutil.copy(data / "cats_vs_dogs_unlabeled" / f"{number}.jpg", folder / "new")
    return BLOCK.sub(lambda block: f"```console\n{_block(block[1], folder, data)}```", text)


def _block(body: str, folder: Path, data: Path) -> str:
    """Content of a block with the outputs of its commands."""
    parts = re.split(r"^\$ (.+)\n", body, flags=re.MULTILINE)[1:]
    commands, outputs = parts[::2], parts[1::2]
    if not any(outputs) or any(not line.startswith("loupe ") or BY_HAND & {*line.split()} for line in commands):
        return body
    written = []
    for command, shown in zip(commands, outputs, strict=True):
        print(f"$ {command}")
        lines = renewed(shown.splitlines(), _run(command, folder, data).splitlines())
        written += [f"$ {command}\n", *(f"{line}\n" for line in lines)]
    return "".join(written)


def _run(command: str, folder: Path, data: Path) -> str:
    """Output of a command, without paths of this machine."""
    cache = str(folder / "cache")
    own = {"LOUPE_CACHE": cache, "LOUPE_WEIGHTS": str(data / "weights"), "LOUPE_OFFLINE": "1", "COLUMNS": "140"}
    words = [os.path.expandvars(word) for word in shlex.split(command)[1:]]
    ran = subprocess.run(
        [sys.executable, "-m", "loupe", *words],
        cwd=folder,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    text = ran.stdout.replace(cache, "~/.cache/loupe").replace(NO_BREAK, " ")
    return text.replace(str(data), "$LOUPE_DATA").replace(str(Path.home()), "~")


def renewed(shown: list[str], printed: list[str]) -> list[str]:
    """Lines of an output of which a page shows some: all if it leaves none out, else those like the ones shown.

    Lines are alike if they differ in numbers alone. Of more such lines than are shown, the last ones but one are left
    out.
    """
    printed = [line.rstrip() for line in printed]
    if not any(line.strip() == LEFT_OUT for line in shown):
        return printed
    wanted = Counter(map(_form, shown))
    places: dict[str, list[int]] = {}
    for place, line in enumerate(printed):
        places.setdefault(_form(line), []).append(place)
    kept = set()
    for form, count in wanted.items():
        found = places.get(form, [])
        kept |= {*found[: count - 1], *found[-1:]} if count < len(found) else {*found}
    lines: list[str] = []
    for place, line in enumerate(printed):
        if place in kept:
            lines.append(line)
        elif not lines or lines[-1].strip() != LEFT_OUT:
            indent = " " if line.startswith(" ") and lines and lines[-1].startswith(" ") else ""
            lines.append(indent + LEFT_OUT)
    return lines


def _form(line: str) -> str:
    """Beginning of a line without its numbers."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.,:%/]+", "#", line))[:24].strip()


if __name__ == "__main__":
    main()
