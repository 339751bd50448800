# Every target sets up what it needs in .venv: dependencies only, never the project itself.
PYTHON ?= python3
EXTRAS := simulation vision entropy gossip edge export dev
PY     := .venv/bin/python
PIP    := $(PY) -m pip --quiet --quiet --disable-pip-version-check

export FLWR_TELEMETRY_ENABLED := 0
export PATH := $(CURDIR)/.venv/bin:$(PATH)# flwr starts flower-superlink by its name

.PHONY: help run test test-slow check mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make run        compare what compression costs, on this machine"
	@echo "make test       the tests, without the long ones"
	@echo "make test-slow  the long tests"
	@echo "make check      lint, format and types"
	@echo "make mutants    break the code on purpose: each break must fail its test"
	@echo "make clean      remove .venv and caches; runs/ stays"

run: .venv/.installed
	@$(PY) -m simulations compare

test: .venv/.installed
	@$(PY) -m pytest -m "not slow"

test-slow: .venv/.installed
	@$(PY) -m pytest -m slow

check: .venv/.installed
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy --strict fedbias strategies clients simulations

mutants: .venv/.installed
	@$(PY) tests/mutants/run.py

.venv/.installed: pyproject.toml tests/tools/requirements.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "fedbias needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up .venv (once, a few minutes)…"
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv || { \
	    echo "$(PYTHON) cannot make .venv; Debian has what it lacks in python3-venv" >&2; exit 1; }
	@$(PIP) install --upgrade pip
	@$(PY) tests/tools/requirements.py $(EXTRAS) > .venv/requirements.txt
	@echo "  installing $$(wc -l < .venv/requirements.txt) packages and what they need"
	@$(PIP) install --requirement .venv/requirements.txt
	@touch $@
	@echo "  .venv is ready"

clean:
	rm -rf .venv build dist *.egg-info *.fab .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
