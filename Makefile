# `make demo` and `make test` set up everything they need in .venv, on a bare machine with Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

# Compiled modules are kept: a process that starts reads them, and compiles nothing.
export PYTHONDONTWRITEBYTECODE :=
# No advertisement of another program among the messages of the build.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test test-slow lint dist docs lessons reference architecture layouts clean

demo: $(VENV)/.ready
	$(BIN)/loupe train digits

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  # the site, into site/: any warning is a failure
	$(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.ready  # the generated pages of docs/reference/, from the sources
	$(BIN)/python tests/test_reference.py

architecture: $(VENV)/.ready  # docs/architecture.md, from the docstrings
	$(BIN)/python tests/test_architecture.py

layouts: $(VENV)/.ready  # the tables of layouts in docs/data.md, from the tests of each
	$(BIN)/python tests/data/sources/test_layouts.py

lessons: $(VENV)/.ready  # the notebooks of docs/lessons, run from their sources; this takes minutes
	$(BIN)/python docs/lessons/make.py

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[cloud,cluster,cpu,explain,export,labels,serve,tune,dev]"
	@$(BIN)/python -c "import compileall; compileall.compile_dir('$(VENV)', quiet=2, workers=0)"  # on all processors
	@$(PYTHON) -c "import pathlib; pathlib.Path('$(VENV)/.ready').touch()"

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[docs]"
	@$(PYTHON) -c "import pathlib; pathlib.Path('$(VENV)/.docs').touch()"

# The wheel and the source distribution. `twine check` reads them as PyPI would.
dist: $(VENV)/.ready
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) dist site .mypy_cache .ruff_cache .pytest_cache
