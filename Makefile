# One command each; `make help` lists them. Everything lives in .venv and .cache: `make clean` takes both away.
#
# `make demo` needs python3 (with venv), make and git, and installs only the locked run set.
# `make test` adds the locked development set and fetches what only tests need, where it may.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NICE ?=
PYTEST ?= $(BIN)/python -m pytest
TESTS ?= tests
SLICE_MINUTES ?= 30
TIER ?= nightly

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test lint imports types bench bench-quick bench-shm audit fuzz nightly fresh tools lock docs clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements/run.txt pyproject.toml tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements/run.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@tools/venv.sh $(PYTHON) $(VENV) requirements/dev.txt
	@touch $@

demo: $(VENV)/.run ## a whole hive plays a conversation through real HTTP and ends with `demo: ok`
	@$(BIN)/skep demo

test: $(VENV)/.dev tools lint types ## lint, types, import rule, all tests, the table of goals
	@$(PYTEST) $(TESTS) --goals -rfE --durations=12 --durations-min=2

lint: $(VENV)/.dev ## ruff
	@$(BIN)/ruff check .

types: $(VENV)/.dev ## mypy --strict on the packages
	@$(BIN)/mypy

imports: $(VENV)/.dev ## the import rule of docs/design.md
	@$(PYTEST) tests/test_imports.py

tools: $(VENV)/.dev ## what only tests and benchmarks need: compiler, nats-server, dbus-broker
	@$(BIN)/python tools/fetch.py

bench: $(VENV)/.dev tools ## Skep beside its peers, in one run; writes bench/results/latest.json
	@$(BIN)/python -m bench

bench-quick: $(VENV)/.dev tools ## the same, small: under a minute
	@$(BIN)/python -m bench --quick

bench-shm: $(VENV)/.dev ## shared memory alone, with sweeps
	@$(BIN)/python -m bench shm

audit: $(VENV)/.dev ## known vulnerabilities in the locked versions
	@$(BIN)/python tools/audit.py

fuzz: $(VENV)/.dev ## coverage-guided fuzzing of the parsers, one slice of SLICE_MINUTES
	@$(BIN)/python tools/nightly.py --slice-minutes $(SLICE_MINUTES) --only fuzz

nightly: $(VENV)/.dev tools ## the nightly tier, one resumable slice of SLICE_MINUTES; ledger in .cache/nightly
	@$(BIN)/python tools/nightly.py --slice-minutes $(SLICE_MINUTES) --tier $(TIER)

fresh: ## a minimal Debian 12, a clone of this checkout, `make demo` and `make test` in it (root)
	@tools/fresh.sh

lock: $(VENV)/.dev ## writes requirements/*.txt anew from pyproject.toml
	@tools/lock.sh

docs: $(VENV)/.dev ## the columns of docs/reliability.md that name tests, written from the tests' markers
	@PYTHONPATH=tests $(BIN)/python -m support.goals_doc

clean: ## removes what make made
	rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
