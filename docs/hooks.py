"""Files outside docs/ on the site: the measurements in results/, the changelog, and links to them; lessons as pages.

Pages link to these files as they lie in the repository, so that the links work there too. On the site the files stand
under the same names beside the pages. Links to other files of the repository, such as folders, become plain text. A
notebook is a page with its text, code and outputs, which links to the notebook itself.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
SAME = {"results": "results/index.md"}  # what stands for a folder on the site
SHOWN = {".md", ".png", ".webp", ".csv", ".json"}
LINK = re.compile(r"(!?)\[([^\]\n]*(?:\n[^\]\n]*)?)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/, and a list of the measurements."""
    results = sorted(path for path in (ROOT / "results").rglob("*") if path.suffix in SHOWN)
    for path in results:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for path, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.append(File.generated(config, _as_page(notebook.src_uri), content=_lesson(Path(notebook.abs_src_path))))
    rows = [
        f"- [{_title(path)}]({path.relative_to(ROOT / 'results').as_posix()})" for path in results if _is_page(path)
    ]
    text = "# Measurements\n\nEvery figure with its command, commit and machine.\n\n" + "\n".join(rows) + "\n"
    files.append(File.generated(config, "results/index.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to where these stand on the site."""
    here = PurePosixPath(page.file.src_uri)
    original = next((path for path, name in PAGES.items() if name == page.file.src_uri), None)
    in_docs = original is None and not page.file.src_uri.startswith("results/")
    folder = PurePosixPath("docs" if in_docs else "") / (PurePosixPath(original) if original else here).parent

    def on_site(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link.group()
        path = posixpath.normpath((folder / target).as_posix())
        name = SAME.get(path) or PAGES.get(path) or path.removeprefix("docs/")
        if name.endswith(".ipynb") and _as_page(name) != page.file.src_uri:
            name = _as_page(name)
        if files.get_file_from_path(name) is None:
            exists = (ROOT / path).exists() and not path.startswith("docs/")
            return text if exists else link.group()
        return f"{picture}[{text}]({posixpath.relpath(name, here.parent.as_posix() or '.')}{anchor or ''})"

    if not in_docs:
        page.meta["search"] = {"boost": 0.3}  # below the pages that say how something is done
    parts = CODE.split(markdown)  # code stands at the odd places
    return "".join(part if number % 2 else LINK.sub(on_site, part) for number, part in enumerate(parts))


def _is_page(path: Path) -> bool:
    return path.suffix == ".md"


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _as_page(notebook: str) -> str:
    return notebook.removesuffix(".ipynb") + ".md"


def _lesson(file: Path) -> str:
    """Text of a notebook: its cells in their order, code with its outputs."""
    title, *parts = [text for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] for text in _cell(cell)]
    return "\n\n".join([title, f"This page is the [notebook]({file.name}) with its outputs.", *parts]) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "text/html" in data:
            yield "".join(data["text/html"]).strip().replace("\n", "&#10;")  # one line, which Markdown leaves as it is
        elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            yield f"```text\n{text}\n```"
