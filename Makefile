# `make demo` and `make test` do all the set-up: a virtual environment, the pinned torch, the native build.
# Variables: PYTHON (3.11 or newer), VENV, PIP_ARGS (for instance the index of torch's CPU builds, see README).
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
NATIVE := setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test check docs install clean

demo: install
	$(BIN)/pydrift demo --out demo

test: install check
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

# The pages of docs/ as HTML in docs/_build/html; a warning is an error.
docs: install
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pydrift needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch numpy pybind11 cmake ninja 'setuptools>=68' wheel
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-build-isolation -e '.[dev,docs]'
	$(BIN)/pydrift doctor
	touch $@

clean:
	rm -rf build docs/_build *.egg-info pydrift/*.so demo $(VENV)
