"""The distribution `loupe-vision`: one version, an entry point that exists, and extras of which each is named."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import loupe
from loupe.doctor.installation import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_the_version_comes_from_the_package_alone():
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    source = (ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE) == [loupe.__version__]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [loupe.__version__]


def test_the_command_exists():
    [(name, target)] = PROJECT["scripts"].items()
    module, _, function = target.partition(":")
    assert name == "loupe" and callable(getattr(import_module(module), function))


def test_the_readme_names_every_extra_of_users():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{extra}`" in readme for extra in PROJECT["optional-dependencies"] if extra != "dev")


def test_every_file_of_the_source_distribution_is_there():
    for path in PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / path.lstrip("/")).exists(), path
