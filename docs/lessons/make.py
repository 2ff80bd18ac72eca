"""Notebooks of the lessons, from their Markdown sources: `make lessons`, or `python docs/lessons/make.py NAME`.

Each block marked `python` becomes a code cell, and the text between becomes cells of text. The notebook is run in an
empty folder, and written with its outputs. With `--text` only the text is written anew, and the outputs are kept.
These environment variables change what is run:

    LESSON_DATA    images in place of the data set by name, as `loupe.train` takes them
    LESSON_IMAGES  training images in place of those of the lesson
    LESSON_EPOCHS  epochs in place of those of the lesson

The first cell of a lesson has the names of its other variables.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
VALUE = re.compile(r'"(LESSON_\w+)", "([^"]*)"')  # of a variable of the environment, where it is not set
CELL_SECONDS = 3600


def cells(text: str) -> list[tuple[str, str]]:
    """Kind (`markdown` or `code`) and text of each cell, in order."""
    pieces = BLOCK.split(text)
    kinds = (("code" if number % 2 else "markdown", piece.strip("\n")) for number, piece in enumerate(pieces))
    return [(kind, piece) for kind, piece in kinds if piece.strip()]


def notebook(source: Path):
    """Notebook of a source, without outputs; its cells have the same names in every build."""
    import nbformat

    made = nbformat.v4.new_notebook()
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, (kind, text) in enumerate(cells(source.read_text(encoding="utf-8")), 1):
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        made.cells.append(new(text, id=f"cell-{number}"))
    return made


def run(made, folder: Path) -> None:
    """Run a notebook in a folder; its cells get their outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbclient

    nbclient.NotebookClient(made, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)  # times of day, which change in every build
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs) -> list:
    """Outputs of a cell with printed text that arrived in several parts as one."""
    found: list = []
    for output in outputs:
        if found and output.get("name") and output.get("name") == found[-1].get("name"):
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def keep_outputs(made, before) -> None:
    """Give the cells the outputs of an earlier notebook with the same code.

    Raises:
        SystemExit: its code is other code.
    """
    ours, theirs = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (made, before))
    if [cell.source for cell in ours] != [cell.source for cell in theirs]:
        raise SystemExit("The code has changed: run the lesson, without --text.")
    for cell, old in zip(ours, theirs, strict=True):
        cell.outputs, cell.execution_count = joined(old.outputs), old.execution_count


def without_places(text: str, source: str, folder: Path | None = None) -> str:
    """Text of a notebook without the folders of this machine: the values of its source stand in their place.

    Args:
        folder: folder in which it was run; paths in it become relative.
    """
    places = [(os.environ.get(key, ""), key, value) for key, value in VALUE.findall(source)]
    for place, key, value in sorted(places, key=lambda found: -len(found[0])):  # one may begin with another
        if "/" in place:
            text = text.replace(place, value or key.removeprefix("LESSON_").lower())
    for parent in {folder, folder.resolve()} if folder else ():
        text = text.replace(f"{parent}{os.sep}", "")
    return text


def main(names: list[str]) -> None:
    import nbformat

    for source in sorted((FOLDER / "source").glob("*.md")):
        if {*names} - {"--text"} and source.stem not in names:
            continue
        made, target, place = notebook(source), FOLDER / f"{source.stem}.ipynb", None
        place = None
        if "--text" in names:
            keep_outputs(made, nbformat.read(target, as_version=4))
        else:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                run(made, place)
        text = without_places(nbformat.writes(made), source.read_text(encoding="utf-8"), place)
        target.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        print(f"{source.stem}: {len(text) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
