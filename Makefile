# Everything a developer does, from a clean clone with Python 3.11, gcc and make. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE := setup.py bench tests zmqbroker
SOURCES := pyproject.toml setup.py $(wildcard ext/*.pyx ext/*.px[di] ext/*.h)

# The packages that are pure: every branch of theirs is taken by their own tests.
PURE := zmqbroker/raft/*,zmqbroker/wire/*,zmqbroker/broker/*,zmqbroker/realtime/*,zmqbroker/client/session.py,zmqbroker/client/routing.py,zmqbroker/client/search.py,zmqbroker/client/home.py,zmqbroker/client/cursor.py,zmqbroker/client/call_values.py,zmqbroker/client/call_bundles.py

ARGUMENTS ?=
SECONDS ?= 3600
MINUTES ?= 10
# Empty for root, who may have no sudo.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help run build check test test-quick test-unit test-pure test-exhaustive test-mutants test-alone test-processes test-processes-one test-processes-two sim sim-long fuzz \
	exhaustive mutants bench bench-compare bench-micro bench-long bench-soak failover fault-long deps-full clean

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

bench: .venv/run.stamp ## throughput and latency of this machine in both modes, then beside NATS JetStream (under half an hour)
	@$(BIN)/python -m bench $(ARGUMENTS)
	@$(BIN)/python -m bench.compare $(ARGUMENTS)

bench-micro: .venv/run.stamp ## nanoseconds of the steps of the hot paths, compiled and in Python (ARGUMENTS="--cases core-propose-to-applied")
	@$(BIN)/python -m bench.micro $(ARGUMENTS)

bench-compare: .venv/run.stamp ## only beside NATS JetStream (ARGUMENTS="--rounds 1 --rows batched-1KiB --modes persistent"; "--extra": Redis and RabbitMQ too)
	@$(BIN)/python -m bench.compare $(ARGUMENTS)

bench-long: .venv/run.stamp ## rates with many channels, clients, messages and nodes; then MINUTES (10) at saturation in each mode
	@$(BIN)/python -m bench.growth $(ARGUMENTS)
	@$(BIN)/python -m bench.saturation --volume ephemeral --minutes $(MINUTES) $(ARGUMENTS)
	@$(BIN)/python -m bench.saturation --volume persistent --minutes $(MINUTES) $(ARGUMENTS)

bench-soak: .venv/run.stamp ## a steady load for SECONDS (3600): is it as fast and as small at the end? (ARGUMENTS="--directory DIR")
	@$(BIN)/python -m bench.soak --seconds $(SECONDS) $(ARGUMENTS)

failover: .venv/dev.stamp ## how long a failover takes, 50 trials of each kind (ARGUMENTS="--volume persistent --trials 20")
	@$(BIN)/python -m tests.fault.failover_trials $(ARGUMENTS)

build: .venv/dev.stamp ## a wheel in dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

# --- tests -----------------------------------------------------------------------------------------------------------

check: .venv/dev.stamp ## style, format and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

# Three lanes: the nodes of the second and third mostly wait for something.
test: check ## everything but the long runs
	@$(MAKE) --no-print-directory -j3 --output-sync=recurse test-alone test-processes-one test-processes-two

test-alone: .venv/dev.stamp ## all that starts no node
	@$(MAKE) --no-print-directory -j1 test-unit test-pure sim test-mutants test-exhaustive

test-quick: .venv/dev.stamp ## unit and conformance tests, under a minute
	$(BIN)/python -m pytest -m 'not long' tests/unit tests/conformance $(ARGUMENTS)

test-unit: .venv/dev.stamp ## unit and conformance tests, with the coverage of the pure packages
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m 'not long' tests/unit tests/conformance
	$(BIN)/coverage report --skip-covered --show-missing --fail-under=100 --include='$(PURE)'

test-pure: .venv/dev.stamp ## the tests of bytes once more, on the Python twins
	ZMQBROKER_PURE=1 $(BIN)/python -m pytest -m 'not long' tests/unit/wire tests/conformance

sim: .venv/dev.stamp ## whole clusters in one thread, from fixed seeds (two to three minutes)
	$(BIN)/python -m pytest -m 'not long' tests/simulation $(ARGUMENTS)

sim-long: .venv/dev.stamp ## fresh seeds for SECONDS (3600; 0: until Ctrl-C); sim-ledger.json adds up all such runs
	$(BIN)/python -m tests.simulation --ledger sim-ledger.json --seconds $(SECONDS)

fuzz: .venv/dev.stamp ## every decoder of bytes from outside, SECONDS (3600) each, two at a time (ARGUMENTS="--only peer,batch"); finds go to .fuzz/
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGUMENTS)

test-exhaustive: .venv/dev.stamp ## every history of the Raft core in small scopes, under a minute
	$(BIN)/python -m pytest -m 'not long' tests/exhaustive

exhaustive: .venv/dev.stamp ## the same in the full scopes, about ten minutes and some gigabytes
	$(BIN)/python -m tests.exhaustive
	$(BIN)/python -m tests.exhaustive --bag 3 --terms 2 --proposals 1 --heartbeats 0

test-mutants: .venv/dev.stamp ## the gate: every known defect, put into the code, is found (half a minute)
	$(BIN)/python -m pytest -m 'not long' tests/mutants $(ARGUMENTS)

mutants: .venv/dev.stamp ## the same as a table (ARGUMENTS="--only M3,M22")
	@$(BIN)/python -m tests.mutants $(ARGUMENTS)

test-processes: test-processes-one test-processes-two ## real nodes: integration and fault tests

# Halves that take about the same time.
ONE := $(sort $(wildcard tests/fault/test_[a-e]*.py tests/fault/test_failing_disk.py tests/fault/test_failover.py))
TWO := $(filter-out $(ONE),$(sort $(wildcard tests/fault/test_*.py)))

test-processes-one: .venv/dev.stamp ## the first half of them
	$(BIN)/python -m pytest -m 'not long' $(ONE)

test-processes-two: .venv/dev.stamp ## the second half
	$(BIN)/python -m pytest -m 'not long' tests/integration $(TWO)

fault-long: .venv/dev.stamp ## the fault tests in their long versions; power-cut-ledger.json adds up the power cuts of all runs
	$(BIN)/python -m pytest -m long tests/fault tests/exhaustive tests/simulation tests/integration $(ARGUMENTS)

# --- the machine -----------------------------------------------------------------------------------------------------

# Node and a JDK only where there are none: other builds than the distribution's serve as well. The package of msgpack for C has two names.
deps-full: ## what only root can install: compiler, headers, tracing, containers, and Node, CZMQ and JeroMQ for docs/examples (ARGUMENTS=-y)
	$(AS_ROOT) apt-get update
	$(AS_ROOT) apt-get install $(ARGUMENTS) $(notdir $(PYTHON))-venv $(notdir $(PYTHON))-dev gcc libc6-dev strace e2fsprogs podman runc \
		pkg-config libczmq-dev libjeromq-java libmsgpack-java \
		$$(apt-cache show libmsgpack-c-dev >/dev/null 2>&1 && echo libmsgpack-c-dev || echo libmsgpack-dev) \
		$$(command -v npm >/dev/null || echo nodejs npm) $$(command -v javac >/dev/null || echo default-jdk-headless)
	npm ci --ignore-scripts --prefix docs/examples/node

clean: ## remove what was built and cached; data of dev clusters stays
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f zmqbroker/*/*.so
	find bench tests zmqbroker -name __pycache__ -type d -prune -exec rm -rf {} +
