# Two commands set everything up on a fresh machine with Python 3.11 or later:
#   make demo    the main job, local, on a scene that comes with the program
#   make test    style, types and tests
# For who changes geoseg:
#   make lint          style, and types for Linux, macOS and Windows
#   make docs          the documentation, strictly, into build/site
#   make test-newest   the tests with the newest release of everything
#   make test-lowest   the tests with the lowest versions that pyproject.toml names
#   make lock          the lock files anew; UPGRADE=--upgrade takes newest versions
#   make dist          wheel and sdist, checked, into dist
#   make container     the container for CPUs
# TESTS="tests/core tests/rasters" names the tests to run; default is all.
PYTHON ?= python3
VENV ?= .venv
TESTS ?=
UPGRADE ?=
# uv trusts the certificates that the machine trusts, as pip does.
export UV_SYSTEM_CERTS := 1
# Tests read and write UTF-8, on Windows too.
export PYTHONUTF8 := 1
BIN := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
    --fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command "make lock" $(UPGRADE) pyproject.toml

.PHONY: demo test lint docs test-newest test-lowest run-newest run-lowest lock dist container benchmark clean help

help:
	@grep -E '^# ' Makefile | cut -c 3-

demo: $(VENV)/.demo
	$(BIN)/geoseg demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 geoseg  # Windows opens text as cp1252
	$(BIN)/ruff format --check .
	printf '%s\n' linux darwin win32 | xargs -P 2 -I{} \
	    $(BIN)/mypy --platform {} --cache-dir .mypy_cache/{} geoseg

docs: $(VENV)/.test
	$(BIN)/python -m mkdocs build --strict --quiet

benchmark: $(VENV)/.test
	$(PIP) install -qq monai
	$(BIN)/python tests/benchmarks/bench_segment.py

# Newest and lowest have environments of their own, beside the locked one.
test-newest:
	$(MAKE) VENV=.venv-newest run-newest

test-lowest:
	$(MAKE) VENV=.venv-lowest run-lowest

run-newest: $(VENV)/.newest
	$(BIN)/python -m pytest $(TESTS)

# Old versions warn of each other, which is no error of ours.
run-lowest: $(VENV)/.lowest
	$(BIN)/python -m pytest -W default $(TESTS)

# The container's and the demo's versions are those of the tests.
lock: $(BIN)/uv
	$(LOCK) --extra test -o tests/requirements.lock
	$(LOCK) -c tests/requirements.lock --extra train --extra view \
	    -o requirements.lock
	$(LOCK) -c tests/requirements.lock --extra container -o cluster/requirements.lock

dist: $(BIN)/python
	rm -rf build/lib dist
	$(PIP) install -qq build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

container:
	docker build -f cluster/Dockerfile --target cpu -t geoseg:cpu .
	docker run --rm geoseg:cpu --version

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "geoseg needs Python 3.11 or later; say PYTHON=python3.12, for one"; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(BIN)/uv: $(BIN)/python
	@$(PIP) install -qq uv

# Setuptools is locked, too, so geoseg itself is built with it and not with another.
INSTALL = $(PIP) install -qq --require-hashes -r $(1) \
  && $(PIP) install -qq --no-deps --no-build-isolation -e .

$(VENV)/.demo: $(BIN)/python requirements.lock
	@echo "Installing $$(grep -c '==' requirements.lock) packages into $(VENV): up to 7 GB, 3 to 10 minutes, once"
	@$(call INSTALL,requirements.lock)
	@touch $@

$(VENV)/.test: $(BIN)/python tests/requirements.lock
	@echo "Installing $$(grep -c '==' tests/requirements.lock) packages into $(VENV): up to 8 GB, 4 to 12 minutes, once"
	@$(call INSTALL,tests/requirements.lock)
	@touch $@ $(VENV)/.demo

$(VENV)/.newest: $(BIN)/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --upgrade -e '.[test]'
	@touch $@

$(VENV)/.lowest: $(BIN)/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-newest .venv-lowest demo build dist *.egg-info .pytest_cache \
	    .mypy_cache .ruff_cache .hypothesis
