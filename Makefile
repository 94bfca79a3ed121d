# `make demo` and `make test` do all the set-up: a virtual environment, the locked packages, torch, the native build.
# Variables:
#   PYTHON             Python 3.11 or newer, for the virtual environment
#   VENV               where that environment lies
#   PIP_ARGS           more arguments for pip, for instance the index of torch's CPU builds (see README)
#   WORKERS            how many tests run at the same time
#   PYDRIFT_TEST_DATA  the folder of the real image sets; without it the tests that read them are skipped
#   TEST_PYTHONS       more Pythons that `make test-wheel` installs the wheel into
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
WORKERS ?= 2
TEST_PYTHONS ?=
BIN := $(VENV)/bin
# A file of tests stays on one worker, so that its fixtures are made once. In this order the long files come early.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet $(PIP_ARGS)
# Lint and docs are made at the same time.
MAKEFLAGS += --jobs=2
NATIVE := setup.py CMakeLists.txt $(shell find csrc -type f)

# `make quick` builds without CUDA, in a build folder of its own. The next `make test` brings the CUDA library back.
INSTALLED := $(VENV)/installed
ifneq (,$(filter quick,$(MAKECMDGOALS)))
export PYDRIFT_CUDA := 0
INSTALLED := $(VENV)/installed-cpu
endif

.PHONY: demo test quick check lint docs install wheel test-wheel lock sbom clean

demo: install
	$(BIN)/pydrift demo --out demo

test: check
	$(PYTEST)

# Before a commit: lint, types and the fast tests.
quick: check
	$(PYTEST) -m "not slow"

check: lint docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ as HTML in docs/_build/html; a warning is an error.
docs: install
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt requirements/dev.lock $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pydrift needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	rm -f $(VENV)/installed $(VENV)/installed-cpu
	$(PIP) --require-hashes -r requirements/dev.lock
	$(PIP) -c constraints.txt torch
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	$(BIN)/pydrift doctor
	touch $@

# One wheel for every Python. auditwheel finds the oldest glibc that it runs with. The libraries of torch and CUDA are not
# packed into it: Python loads those of the installed torch first.
wheel: install
	rm -rf dist build/lib* build/bdist* build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libcudart*' \
		--wheel-dir dist build/wheel/pydrift-*.whl

# Installs the wheel into fresh environments without a compiler, and compares a demo from it with one from this source.
test-wheel: wheel
	$(BIN)/python tests/check_wheel.py dist/pydrift-*.whl $(TEST_PYTHONS)

# The newest versions that the ranges in pyproject.toml allow.
lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header \
		--override requirements/without-torch.txt --extra dev --extra docs --extra release \
		--output-file build/dev.lock pyproject.toml requirements/dev.in
	cat requirements/dev.head build/dev.lock > requirements/dev.lock

# What the environment of a release consists of, as CycloneDX.
sbom: install
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
		--output-format JSON --output-file dist/pydrift.cdx.json $(BIN)/python

clean:
	rm -rf build dist docs/_build *.egg-info pydrift/*.so demo $(VENV)
