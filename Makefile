# Nightshift on a bare machine: Python 3.11 or newer and make are enough; everything else comes with pip.
# `make` prints the targets; a target's help is the text behind its `##`.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
ROOMS := core engine models price_sources services tasks schedules workers scripts benchmarks

# The newest interpreter on the PATH that we support and that can make a virtual environment.
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3; do \
	if command -v $$name >/dev/null 2>&1 && $$name -c '$(SUPPORTED)' >/dev/null 2>&1; then echo $$name; break; fi; done)

# Three test processes keep two cores busy: a third of what the tests do is wait for processes that start and end. A file
# stays in one process, so that a fixture of a module (servers, a filled database) is built once. The files begin in the
# order of tests/conftest.py: the longest first.
# PYTEST_ARGS adds options or names files.
TEST_PROCESSES ?= 3
PYTEST_ARGS ?=
ARGS ?=
MAX_LINES := 400

.PHONY: help venv demo up test check bench chaos alerts audit clean

help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z_-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.development ## Make .venv with Nightshift, its tests' and its checks' dependencies
	@echo "$(BIN)/nightshift is ready"

demo: $(VENV)/.runtime ## Thirty nights on real prices, then stay up until Ctrl-C (DEMO_EXIT=1: stop at the end)
	@exec $(BIN)/nightshift demo $(ARGS)

up: $(VENV)/.runtime ## The whole stack on embedded servers, in the foreground
	@exec $(BIN)/nightshift up $(ARGS)

test: $(VENV)/.development ## Run all tests (PYTEST_ARGS="-k ledger": some of them)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.development ## Lint, format, types, import contracts, length of files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@find $(ROOMS) tests -name '*.py' -exec awk 'END {if (NR > $(MAX_LINES)) print FILENAME ": " NR " lines"}' {} \; \
		| awk '{print $$0 ", more than $(MAX_LINES): split it by ideas"} END {exit NR > 0}'

bench: $(VENV)/.runtime ## Measure what docs/performance.md claims: fifteen minutes (ARGS="--users 100000": less)
	@exec $(BIN)/nightshift bench tables $(ARGS)

chaos: $(VENV)/.runtime ## Kill things during nights and compare the tables (ARGS="--seed 1": which ones)
	@exec $(BIN)/nightshift chaos $(ARGS)

alerts: $(VENV)/.runtime ## Provoke every alert with the real Prometheus: thirteen minutes (ARGS="--only BeatSilent": some)
	@exec $(BIN)/nightshift bench alerts $(ARGS)

audit: $(VENV)/.audit ## Known vulnerabilities and the licences of what comes along (ARGS=--demand: fail where nobody can say)
	@$(BIN)/python -m scripts.audit $(ARGS)

clean: ## Remove .venv and the caches of tools; data in .nightshift stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps. An interrupted installation leaves none, so the next call begins that step again.
# pip 25.1 is the first that installs dependency groups.
$(VENV)/.base:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.14 with the venv module on the PATH: install one, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/.base
	@echo "installing Nightshift into $(VENV)" >&2
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.development: pyproject.toml constraints.txt | $(VENV)/.base
	@echo "installing Nightshift and its development tools into $(VENV)" >&2
	@$(PIP) install --constraint constraints.txt --editable . --group dev
	@touch $(VENV)/.runtime $@

$(VENV)/.audit: pyproject.toml constraints.txt | $(VENV)/.development
	@echo "installing the tools of the audit into $(VENV)" >&2
	@$(PIP) install --constraint constraints.txt --group audit
	@touch $@
