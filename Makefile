# Two commands set everything up on a fresh machine with Python 3.11 or later:
#   make demo    the main job, local, on a small scene
#   make test    style, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs benchmark clean help

help:
	@grep -E '^#   ' Makefile

demo: $(VENV)/.demo
	$(BIN)/geoseg demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy geoseg

docs: $(VENV)/.test
	$(BIN)/python -m mkdocs build --strict

benchmark: $(VENV)/.test
	$(BIN)/python -m pip install -q monai
	$(BIN)/python tests/benchmarks/bench_segment.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "geoseg needs Python 3.11 or later; say PYTHON=python3.12, for one"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[models,plot,sklearn]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
