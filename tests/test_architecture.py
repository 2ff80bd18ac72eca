"""The order of the packages: each imports only from those above it, and none is missing from the list."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "loupe"
ROOMS = """
errors log files records cache devices config rundir data provenance augment models recipes evaluate training explain
report runs comparison labels doctor cli __main__
"""
ORDER = ROOMS.split()


def modules() -> list[str]:
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.parts) for path in paths)


MODULES = modules()


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "loupe":
            base = node.module.removeprefix("loupe").lstrip(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}".lstrip(".")
                found.add(deeper if deeper in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("loupe.") for alias in node.names if alias.name.startswith("loupe.")}
    return found - {""}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_package_and_every_module_of_the_root_has_its_place():
    assert sorted({room(module) for module in MODULES}) == sorted(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_packages_above_its_own(module):
    above = set(ORDER[: ORDER.index(room(module))])
    assert {room(name) for name in imports(module)} - {room(module)} <= above


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("init", sorted(path for path in SOURCE.rglob("*/__init__.py")))
def test_package_files_are_empty(init):
    assert init.read_text() == ""


@pytest.mark.parametrize(
    "module",
    [
        *("rundir", "report.run_page", "evaluate.selection", "data.sources.open", "data.audit.check", "runs.diff"),
        *("doctor.checks", "cli.main"),
    ],
)
def test_modules_that_read_files_do_not_load_torch(module):
    code = f"import sys, loupe, loupe.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_does_not_load_torch():
    code = (
        "import sys\nsys.argv = ['loupe', '--help']\nfrom loupe.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nassert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_only_devices_knows_of_ranks():
    users = [
        module for module in MODULES if "torch.distributed" in (SOURCE / (module.replace(".", "/") + ".py")).read_text()
    ]
    assert set(users) <= {"devices"}
