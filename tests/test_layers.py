"""The order of the rooms: each imports only from rooms above it, and none is missing from the list."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "loupe"

ORDER = """
errors schema architecture optimization recipe settings console runtime disk ledger data.table data.decode data.arrays
data.archives data.folders data.given data.csvfile data.memory data.arrow_file data.parquet data.download data.catalog
data.sources data.processes data.parallel data.content data.carve data.split data.folds data.check data.pixels
data.pixel_file data.store data.likeness data.neighbours data.near data.prepare data.batches augment.random
augment.geometry augment.pixels augment.pipeline models.classifier models.layers models.heads models.cnn
models.chains models.families models.backbones models.build models.engine models.catalog models.summary models.overview
models.bundle evaluate.predictions evaluate.intervals evaluate.metrics evaluate.groups evaluate.missed
evaluate.calibration evaluate.selective evaluate.spread evaluate.paired evaluate.compare evaluate.predict
evaluate.layouts evaluate.activation_maps evaluate.filters evaluate.explain evaluate.label_errors evaluate.diagnosis
training.muon training.optimizers training.schedules training.averaging training.checkpoint training.activations
training.feeds training.frozen training.work training.learner training.logistic training.solver training.progress
training.loop training.precision training.features training.cross_fit report.figures report.texts report.charts
report.template report.pictures report.content report.confidence report.gallery report.receipt report.page
report.explanation report.experiments_text report.experiments report.checked report.label_page report.comparison_text
report.comparison recipes.from_scratch recipes.transfer recipes.published recipes.published_transfer recipes.quick
recipes.wording recipes.publication recipes.experiments recipes.described recipes.catalog recipes.choice
recipes.ladder recipes.resolve receipt exhibits results outcome predictor trained opening session run sweep reproduce
repetition repeat plan candidates planning comparison_files comparison labelling cache label_check label_files tables
repetition_text options doctor doctor_speed checking commands.train commands.predict commands.compare commands.check
commands.labels commands.explain commands.report commands.reproduce commands.listings commands.doctor cli __main__
"""
ROOMS = ORDER.split()


def modules() -> list[str]:
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.parts) for path in paths)


def imports(module: str) -> set[str]:
    """The rooms of ours that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "loupe":
            base = node.module.removeprefix("loupe").lstrip(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}".lstrip(".")
                found.add(deeper if deeper in ROOMS else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("loupe.") for alias in node.names if alias.name.startswith("loupe.")}
    return found - {""}


def test_every_module_has_its_place_in_the_order():
    assert modules() == sorted(ROOMS)


@pytest.mark.parametrize("module", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(module):
    above = set(ROOMS[: ROOMS.index(module)])
    assert imports(module) <= above


@pytest.mark.parametrize(
    "package", ["data", "augment", "models", "evaluate", "training", "report", "recipes", "commands"]
)
def test_package_files_are_empty(package):
    assert (SOURCE / package / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    "room", ["ledger", "report.page", "evaluate.compare", "data.sources", "data.check", "repetition", "doctor", "cli"]
)
def test_rooms_that_read_files_do_not_load_torch(room):
    code = f"import sys, loupe, loupe.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_does_not_load_torch():
    code = (
        "import sys\nsys.argv = ['loupe', '--help']\nfrom loupe.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nassert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_only_the_runtime_knows_of_ranks():
    users = [
        module for module in ROOMS if "torch.distributed" in (SOURCE / (module.replace(".", "/") + ".py")).read_text()
    ]
    assert set(users) <= {"runtime"}
