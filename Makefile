# One command each; `make help` lists them. Everything lives in .venv, which the commands make themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find src -name '*.rs')
PORT ?= 8000
# Synthetic users of `make demo`, such as LOAD=36, so that there is something to watch on the dashboard.
LOAD ?= 0
# Processes of `make demo`; several share a Redis, which the command starts unless ISOLANE_REDIS_URL names one.
WORKERS ?= 1
# Interpreters for the wheels, such as PYTHONS="python3.12 python3.13"; all that are found when empty.
PYTHONS ?=
# How many tests of the package run at once: much of their time is spent waiting for clocks and sockets.
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo demo-check test test-rust test-python lint fmt stubs bench bench-limits bench-events bench-audit bench-scale prove docs shots site build \
	wheel wheel-check test-matrix clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.built $(VENV)/.demo ## Build, then run the example on http://127.0.0.1:8000 (PORT=... for another, LOAD=36 for users, WORKERS=4 on a Redis)
	$(BIN)/python -m examples.optimizer --port $(PORT) --load $(LOAD) --workers $(WORKERS)

demo-check: $(VENV)/.built $(VENV)/.demo ## Run the example over real WebSockets and check what each user received (WORKERS=2 over several)
	$(BIN)/python -m examples.optimizer.check --workers $(WORKERS)

test: test-rust test-python ## Build and run all tests

test-rust: ## The tests of the core
	cargo test --quiet
	cargo test --quiet --features shuttle --test shuttle_limiter --test shuttle_log

test-python: $(VENV)/.built $(VENV)/.dev ## The tests of the package, on real servers and sockets
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile

lint: $(VENV)/.built $(VENV)/.dev ## clippy, rustfmt, ruff, mypy, stubs, and the rules of the house
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --all-targets --features mutants,shuttle --quiet -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python scripts/stubs.py --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest isolane._core --allowlist tests/typing/stubtest-allowlist.txt
	$(BIN)/python scripts/house_rules.py

fmt: $(VENV)/.dev ## Format everything
	cargo fmt
	$(BIN)/ruff format
	$(BIN)/ruff check --fix --quiet

stubs: $(VENV)/.built $(VENV)/.dev ## Write python/isolane/_core.pyi from the extension
	$(BIN)/python scripts/stubs.py

bench: $(VENV)/.built $(VENV)/.dev ## Measure side by side with named peers
	$(BIN)/python -m benches.python

bench-limits: $(VENV)/.built $(VENV)/.dev ## The adaptive limit, fairness and nesting in virtual time, against thresholds
	$(BIN)/python -m benches.limits

bench-events: $(VENV)/.built $(VENV)/.dev ## Events on their way to clients, beside a bare loop and python-socketio
	$(BIN)/python -m benches.events

bench-audit: $(VENV)/.built $(VENV)/.dev ## The audit log beside logs that prove less, with latencies
	$(BIN)/python -m benches.audit

bench-scale: $(VENV)/.built $(VENV)/.dev ## Limits and events over 1, 2 and 4 workers, beside redis-py's lock and python-socketio
	$(BIN)/python -m benches.scale

prove: $(VENV)/.built $(VENV)/.dev ## The long checks: soaks with many users, faults that tests must notice, schedules of threads
	$(BIN)/python -m pytest tests/stress tests/adversity tests/leaks --prove
	$(BIN)/python -m tests.mutants

docs: $(VENV)/.built $(VENV)/.dev ## Check that the examples of the documents run, and build the Rust documentation
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
	$(BIN)/python -m pytest tests/python/test_documents.py -q

shots: $(VENV)/.built $(VENV)/.dev ## Take the pictures of docs/dashboard.md, in Chromium, under load
	$(BIN)/python scripts/dashboard_shots.py

site: $(VENV)/.docs ## Build the documentation's site into site/; broken links and names fail
	$(BIN)/zensical build --strict --clean

build: $(VENV)/.built ## Build the extension into .venv

wheel: $(VENV)/.build-tools $(VENV)/.wheel ## Build a wheel for each CPython 3.11 to 3.13 that is found into dist/
	$(BIN)/python scripts/wheels.py build --pythons "$(PYTHONS)"

wheel-check: $(VENV)/.wheel $(VENV)/.dev ## Install the wheels without Rust, run the quickstart, measure the import
	$(BIN)/python -m pytest tests/packaging --wheels dist --pythons "$(PYTHONS)" --write

test-matrix: ## Run the tests of the package against each wheel in dist/
	$(PYTHON) scripts/wheels.py test --pythons "$(PYTHONS)"

clean: ## Remove what the commands made
	rm -rf $(VENV) target dist site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build-tools: requirements/build.txt | $(VENV)/bin/python
	$(PIP) -r requirements/build.txt
	@touch $@

$(VENV)/.built: $(VENV)/.build-tools $(SOURCES)
	$(BIN)/maturin develop --release --quiet
	@touch $@

$(VENV)/.demo: requirements/demo.txt | $(VENV)/bin/python
	$(PIP) -r requirements/demo.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/demo.txt | $(VENV)/bin/python
	$(PIP) -r requirements/dev.txt -r requirements/demo.txt
	@touch $@

$(VENV)/.wheel: requirements/wheel.txt | $(VENV)/bin/python
	$(PIP) -r requirements/wheel.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt | $(VENV)/bin/python
	$(PIP) -r requirements/docs.txt
	@touch $@
