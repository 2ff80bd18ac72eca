"""The order of the packages, and the generated page that lists their files.

A package imports only from those above it, and none is missing from the list. `docs/architecture.md` is written anew
by `python tests/test_architecture.py` (`make architecture`).
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "loupe"
PAGE = PROJECT / "docs" / "architecture.md"
ROOMS = """
errors deadline openmp ranks log files csv_files records offline cache devices config rundir data provenance settled
augment models recipes evaluate training explain report notebook track runs comparison search tuning labels export bulk
cluster estimator serve doctor cli __main__
"""
ORDER = ROOMS.split()

# First words of docstrings that say neither what a thing is nor what it does.
NO_NOUN = re.compile(r"(What|Whether|Which|How|Where|When|Why|Who|Everything)(ever)?\b")

# One sentence for each package, here and in README.md: their `__init__.py` files are empty.
ROOT = (
    "errors, ranks, files, CSV tables, JSON records, the cache, devices, threads, settled choices, deadlines, logging, "
    "offline mode, the run folder, provenance."
)
PACKAGES = {
    "config": "recipes as frozen, typed values: network, optimizer, stages; YAML and `--set`.",
    "data": "one image table from every source, and everything that happens to images before training.",
    "data/remote": "files of object stores, web servers and hubs: addresses, retries, checks, and a cache of shards.",
    "data/sources": "readers of folders, CSV, Parquet, archives, arrays and named data sets.",
    "data/pixels": "decoding, the pixel cache, and batches on the device.",
    "data/splits": "train, validation and test splits, and folds.",
    "data/audit": "damaged, duplicated and leaking images; near duplicates.",
    "augment": "random changes to images, in batches, from counter-based random numbers.",
    "models": "networks, their layers and heads, the stored model, and the engines that run frozen blocks.",
    "models/timm": "networks of timm, cut at the blocks at which they can be frozen.",
    "recipes": "recipes by name, the automatic choice, and what resolves and validates them.",
    "recipes/published": "the experiments of course notes and project reports, and their quick forms.",
    "evaluate": "predictions, metrics, intervals, calibration, thresholds, paired tests.",
    "training": "the training loop, optimizers, schedules, checkpoints, frozen features, solved heads.",
    "explain": "class activation maps, and images that activate filters.",
    "report": "pages, tables and figures, from the files of runs alone.",
    "notebook": "what a notebook shows: images and labels, augmented views, layers, the parts of a run.",
    "track": "trackers of experiments, which get what a run holds where they are asked for.",
    "runs": "one run from data to results: train, resume, repeat, evaluate, predict.",
    "comparison": "several runs: plan, cost, sweep, verdict; the published experiments.",
    "search": "the best classifier in a given time: selection of blends, candidates, the planner.",
    "tuning": "the search for better settings of a recipe, and its confirmation on other seeds.",
    "labels": "the search for wrong labels.",
    "export": "a run as a model for other programs, with the proof that it predicts the same there.",
    "bulk": "predictions of any number of images in constant memory, in parts that a kill does not lose.",
    "cluster": "trainings, heads and predictions as tasks of Ray, on the nodes of a cluster.",
    "estimator": "the estimator of scikit-learn, with features that all folds and settings share.",
    "serve": "the HTTP server of trained models and its page: it reads bundles and exports, never runs.",
    "doctor": "checks of the installation, and short measurements of the machine.",
    "cli": "the command line: one module for each command, and the tables that they print.",
}


def modules() -> list[str]:
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.parts) for path in paths)


MODULES = modules()


@cache
def tree(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def source(module: str) -> Path:
    return SOURCE / (module.replace(".", "/") + ".py")


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree(source(module))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "loupe":
            base = node.module.removeprefix("loupe").lstrip(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}".lstrip(".")
                found.add(deeper if deeper in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("loupe.") for alias in node.names if alias.name.startswith("loupe.")}
    return frozenset(found - {""})


def room(module: str) -> str:
    return module.split(".")[0]


def summary(path: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    text = ast.get_docstring(tree(path))
    assert text, f"{path} has no docstring"
    return " ".join(text.split("\n\n")[0].split())


def listed(folder: Path, names: list[str]) -> list[str]:
    rows = [f"| `{name}.py` | {summary(folder / f'{name}.py')} |" for name in names]
    return ["| file | |", "|---|---|", *rows, ""]


def architecture() -> str:
    """The content of docs/architecture.md: each package in order, with one line for each of its files."""
    root = ["__init__", *(name for name in ORDER if (SOURCE / f"{name}.py").is_file())]
    lines = [
        *("# Architecture", ""),
        "Every source file under `src/loupe/`, with the first sentence of its docstring. Packages are in the order in",
        "which data flows: each imports only from those above it. This page is generated: `make architecture`.",
        *("", "## `loupe/`", "", f"The root: {ROOT}", ""),
        *listed(SOURCE, root),
    ]
    for name, sentence in PACKAGES.items():
        files = sorted(path.stem for path in (SOURCE / name).glob("*.py") if path.name != "__init__.py")
        lines += [f"## `loupe/{name}/`", "", sentence[0].upper() + sentence[1:], "", *listed(SOURCE / name, files)]
    return "\n".join(lines)


def test_every_package_and_every_module_of_the_root_has_its_place():
    assert sorted({room(module) for module in MODULES}) == sorted(ORDER)


def test_a_module_imports_only_from_packages_above_its_own():
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imports(module)
        if room(name) != room(module) and place[room(name)] >= place[room(module)]
    ]
    assert wrong == []


def test_the_page_of_the_architecture_is_that_of_these_sources():
    assert PAGE.read_text(encoding="utf-8") == architecture(), "write it anew: make architecture"


def test_each_package_has_a_sentence_in_the_order_of_the_packages():
    folders = {path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*/__init__.py")}
    assert set(PACKAGES) == folders
    assert [name for name in PACKAGES if "/" not in name] == [name for name in ORDER if (SOURCE / name).is_dir()]


def test_the_readme_lists_each_package_with_its_sentence():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    lines = [f"- `{name}/`: {sentence}" for name, sentence in PACKAGES.items() if "/" not in name]
    assert "\n".join([f"- root: {ROOT}", *lines]) in text


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_docstrings_begin_with_a_noun_or_a_verb():
    documented = [
        (module, ast.get_docstring(node) or "")
        for module in MODULES
        for node in ast.walk(tree(source(module)))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert [(module, text) for module, text in documented if NO_NOUN.match(text)] == []


def test_package_files_are_empty():
    assert [path for path in SOURCE.rglob("*/__init__.py") if path.read_text()] == []


def test_modules_that_read_files_do_not_load_torch():
    modules = ("rundir", "report.run_page", "evaluate.selection", "data.sources.open", "data.audit.check", "runs.diff")
    code = (
        "import importlib, sys\n"
        f"for module in {(*modules, 'doctor.checks', 'cli.main')}:\n"
        "    importlib.import_module('loupe.' + module)\n"
        "    if 'torch' in sys.modules: sys.exit(module)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


SLOW = ("torch", "timm", "numpy", "scipy", "pyarrow")


def loaded(folder: Path, *commands: Sequence[str], modules: tuple[str, ...] = SLOW) -> set[str]:
    """Those of the modules that commands have loaded, run in an empty folder with a cache of its own."""
    code = (
        f"import sys\nfrom loupe.cli.main import main\nfor words in {commands}:\n    sys.argv = ['loupe', *words]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code\n"
        f"print('LOADED', *({set(modules)} & set(sys.modules)))"
    )
    environment = {**os.environ, "LOUPE_CACHE": str(folder / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    return set(ran.stdout.rpartition("LOADED")[2].split())


def test_listings_load_nothing_slow(tmp_path):
    assert loaded(tmp_path, ["--help"], ["recipes"], ["recipes", "digits"], ["runs"], ["cache"]) == set()


@pytest.mark.slow
def test_a_training_loads_neither_the_compiler_nor_scikit_learn(tmp_path):
    words = ("train", "digits", "--epochs", "1", "--device", "cpu", "--quiet")
    assert loaded(tmp_path, words, modules=("torch._dynamo", "sympy", "sklearn", "scipy.stats", "timm")) == set()


@pytest.mark.slow
def test_names_of_timm_are_loaded_once(tmp_path):
    assert "timm" in loaded(tmp_path, ["models", "resnet1"])
    assert loaded(tmp_path, ["models", "resnet1"]) == set()
    for path in (tmp_path / "cache" / "models").iterdir():
        path.write_text("{")
    assert "timm" in loaded(tmp_path, ["models", "resnet1"])


def test_only_ranks_and_training_know_of_torch_distributed():
    users = [module for module in MODULES if "torch.distributed" in source(module).read_text()]
    assert {user for user in users if room(user) != "training"} <= {"ranks"}


def test_only_the_cluster_knows_of_ray():
    users = {module for module in MODULES if re.search(r"\b(import|from) ray\b", source(module).read_text())}
    assert users and {room(user) for user in users} == {"cluster"}


if __name__ == "__main__":
    PAGE.write_text(architecture(), encoding="utf-8")
