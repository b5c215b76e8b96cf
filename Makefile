# Everything a developer does, from a clean clone with Python 3.11, gcc and make. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE := setup.py bench tests zmqbroker
SOURCES := pyproject.toml setup.py $(wildcard ext/*.pyx ext/*.pxd)

# The packages that are pure: every branch of theirs is taken by their own tests.
PURE := zmqbroker/raft/*,zmqbroker/wire/*,zmqbroker/broker/*,zmqbroker/client/session.py,zmqbroker/client/routing.py

ARGUMENTS ?=

.PHONY: help run build check test test-quick test-unit test-pure test-exhaustive test-processes exhaustive bench fault-long deps-full clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the virtual environment -----------------------------------------------------------------------------------------

.venv/run.stamp: $(SOURCES)
	@.ci/prerequisites "$(PYTHON)"
	@test -x $(BIN)/python || { echo "making .venv and installing zmqbroker into it (about a minute) ..."; "$(PYTHON)" -m venv .venv; }
	@$(PIP) -e '.[bench]'
	@touch $@

.venv/dev.stamp: $(SOURCES)
	@.ci/prerequisites "$(PYTHON)"
	@test -x $(BIN)/python || { echo "making .venv and installing zmqbroker into it (about a minute) ..."; "$(PYTHON)" -m venv .venv; }
	@$(PIP) -e '.[dev]'
	@touch .venv/run.stamp $@

# --- use -------------------------------------------------------------------------------------------------------------

run: .venv/run.stamp ## three nodes here, with messages through all of them (ARGUMENTS="--nodes 5 --fresh")
	@$(BIN)/zmqbroker dev --demo $(ARGUMENTS)

bench: .venv/run.stamp ## throughput and latency of this machine, in both modes
	@$(BIN)/python -m bench $(ARGUMENTS)

build: .venv/dev.stamp ## a wheel in dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

# --- tests -----------------------------------------------------------------------------------------------------------

check: .venv/dev.stamp ## style, format and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

test: check test-unit test-pure test-exhaustive test-processes ## everything but the long runs

test-quick: .venv/dev.stamp ## unit and conformance tests, under a minute
	$(BIN)/python -m pytest -m 'not long' tests/unit tests/conformance $(ARGUMENTS)

test-unit: .venv/dev.stamp ## unit, conformance and simulation tests, with the coverage of the pure packages
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m 'not long' tests/unit tests/conformance tests/simulation
	$(BIN)/coverage report --skip-covered --show-missing --fail-under=100 --include='$(PURE)'

test-pure: .venv/dev.stamp ## the tests of bytes once more, on the Python twins
	ZMQBROKER_PURE=1 $(BIN)/python -m pytest -m 'not long' tests/unit/wire tests/conformance

test-exhaustive: .venv/dev.stamp ## every history of the Raft core in small scopes, under a minute
	$(BIN)/python -m pytest -m 'not long' tests/exhaustive

exhaustive: .venv/dev.stamp ## the same in the full scopes, about ten minutes and some gigabytes
	$(BIN)/python -m tests.exhaustive
	$(BIN)/python -m tests.exhaustive --bag 3 --terms 2 --proposals 1 --heartbeats 0

test-processes: .venv/dev.stamp ## real nodes: integration and fault tests
	$(BIN)/python -m pytest -m 'not long' tests/integration tests/fault

fault-long: .venv/dev.stamp ## the fault tests in their long versions
	$(BIN)/python -m pytest -m long tests/fault tests/simulation tests/exhaustive $(ARGUMENTS)

# --- the machine -----------------------------------------------------------------------------------------------------

deps-full: ## what only root can install: compiler, headers, tracing, containers (asks for sudo)
	sudo apt-get install $(notdir $(PYTHON))-venv $(notdir $(PYTHON))-dev gcc libc6-dev strace podman runc

clean: ## remove what was built and cached; data of dev clusters stays
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f zmqbroker/*/*.so
	find bench tests zmqbroker -name __pycache__ -type d -prune -exec rm -rf {} +
