"""Every command and every block of Python in the documents runs, on a few pictures and at debug sizes.

Blocks marked `sh` and `python` are run, page by page, in their order and in one folder that holds `photos/` (two
classes), `new/` and `weights.safetensors`. Blocks marked `console` and `text` show output and are not run: of the
commands in them, and in the text, only the names and the options are checked.
"""

import re
import shlex
import sys
import time
import tomllib
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import web_pages
from builders import save_photos, without_slow_parts
from loupe.cli import main
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe
from loupe.data.sources import datasets
from loupe.export import web_gate, web_runtime
from loupe.recipes import catalog
from loupe.search import clock, search

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if page.parent != DOCS / "lessons" / "source"]  # run as notebooks: tests/notebook
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^```python\n([^`]*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = {"sh", "python", "console", "text"}
# The packages without which these commands say what to install.
EXTRAS = {"explain": "captum", "export": "onnxscript", "labels": "cleanlab", "tune": "optuna"}
WHOLE = {"guarantees.md"}  # pages whose runs keep the report, OpenVINO and the timing of precisions
SLOW = {"README.md", "compare.md", "data.md", "explain.md", "export.md", "guarantees.md", "recipes.md", "remote.md"}
SLOW |= {"blend.md", "labels.md", "python.md", "predict.md", "scikit-learn.md", "time_limit.md", "transfer.md"}
SLOW |= {"tune.md"}
SLOW |= {f"howto/{name}.md" for name in ("csv", "millions", "mislabelled", "offline", "onnx", "own-photos")}
SLOW |= {f"howto/{name}.md" for name in ("reproduce", "resume", "scikit-learn", "unbalanced")}
SLOW |= {"explanation/frozen-cache.md", "explanation/locked-test-sets.md", "lessons/index.md", "reference/metrics.md"}
LIMIT_SECONDS = 35  # of a search, at most


def name_of(page: Path) -> str:
    """Name of a page: its path in docs/."""
    return page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()


IDS = [name_of(page) for page in PAGES]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shown(page: Path) -> list[list[str]]:
    """The commands that a page shows, those that are run and those in `console` blocks and in the text."""
    text = page.read_text(encoding="utf-8")
    found = [words for mark, body in blocks(page) if mark == "sh" for words in commands(body)]
    found += [shlex.split(line, comments=True) for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]
    code = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return found + [words.split() for words in code if words.startswith(("loupe ", "make ", "pip "))]


def debug_size(recipe: Recipe) -> Recipe:
    """The recipe with few epochs and small images; a backbone takes its weights from the file, not from a hub."""
    stages = tuple(
        stage.model_copy(update={"epochs": min(stage.planned_epochs, 2), "batch_size": 16}) for stage in recipe.stages
    )
    if recipe.name.startswith("digits"):
        return recipe.model_copy(update={"stages": stages})
    sizes = recipe.input.model_copy(update={"size_px": 48, "load_px": None})
    changes: dict[str, object] = {"stages": stages, "input": sizes}
    if isinstance(recipe.model, BackboneSpec):
        weights = str(Path("weights.safetensors").absolute())
        changes["model"] = recipe.model.model_copy(update={"weights": weights})
    return recipe.model_copy(update=changes)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    save_photos(folder / "photos", ("cat", "dog"), each=20)
    save_photos(folder, ("new",), each=3)
    torch.manual_seed(0)
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    return folder


@pytest.fixture
def folder(pictures, tmp_path, monkeypatch) -> Path:
    """The working folder of a page."""
    for path in pictures.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name, recipe in catalog.RECIPES.items():
        monkeypatch.setitem(catalog.RECIPES, name, lambda recipe=recipe: debug_size(recipe()))
    monkeypatch.setattr(search, "Clock", lambda limit, began: clock.Clock(min(limit, LIMIT_SECONDS), began))
    few_NV = datasets._digits_table()[:300]
    monkeypatch.setattr(datasets, "_digits_table", lambda: few_NV)
    return tmp_path


@pytest.fixture
def page_runtime(tmp_path_factory, monkeypatch) -> None:
    """A stand-in for the runtime of pages, which tests of documents do not fetch, and which no browser runs."""
    runtime = web_runtime.of_folder(web_pages.runtime_folder(tmp_path_factory.mktemp("runtime")))
    monkeypatch.setattr(web_runtime, "published", lambda: runtime)
    monkeypatch.setattr(web_gate, "has_browser", lambda: False)


def run_command(words: list[str], monkeypatch) -> None:
    assert words[0] == "loupe", f"{words}: mark as `sh` only what can be run here"
    monkeypatch.setattr(clock, "process_start", time.perf_counter)  # the process is that of all tests
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0, words


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for p, name in zip(PAGES, IDS, strict=True)
    ],
)
def test_what_a_page_shows_can_be_run(page, folder, page_runtime, monkeypatch):
    if name_of(page) not in WHOLE:
        without_slow_parts(monkeypatch)
    for mark, body in blocks(page):
        if mark == "python":
            exec(compile(body, name_of(page), "exec"), {})
        elif mark == "sh":
            for words in commands(body):
                if package := EXTRAS.get(words[1]):
                    pytest.importorskip(package)
                run_command(words, monkeypatch)


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name) for p, name in zip(PAGES, IDS, strict=True) if PRINTED.search(read(p))]
)
def test_what_stands_below_a_block_is_what_it_prints(page, folder, capsys):
    for body, printed in PRINTED.findall(read(page)):
        exec(compile(body, name_of(page), "exec"), {})
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_says_whether_it_is_run(page):
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= MARKS and set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_options_targets_and_extras_exist(page):
    options = command_options()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for program, *words in shown(page):
        if program == "make":
            assert words[0] in targets, words
        elif program == "pip":
            assert all(
                extra in extras for named in re.findall(r"\[(.+?)\]", " ".join(words)) for extra in named.split(",")
            )
        elif program == "loupe" and words[0] != "COMMAND":
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            if words[0].startswith("--"):
                assert given <= {"--version", "--help"}, words
            else:
                assert given <= options[words[0]] | {"--help"}, words


def command_options() -> dict[str, set[str]]:
    """The options of each command."""
    import typer

    group = typer.main.get_command(main.app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


def test_links_between_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{name_of(page)}: {target}"
