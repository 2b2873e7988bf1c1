# Two commands matter: `make run` and `make test`. Both set everything up first, on a machine that has Python 3.11 or
# newer, make, and a network to a package index. No root, no Docker, no database.

VENV := .venv
BIN := $(VENV)/bin
# Another Python: make PYTHON=/path/to/python3.12
ifndef PYTHON
PYTHON := $(shell for candidate in python3.11 python3 python3.12 python3.13; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$candidate; break; }; done)
endif
# Further options of `tallygate serve` (make run) or `tallygate bench` (make bench,
# make bench-query, make bench-simulate, make bench-lifecycle, make bench-tiers).
ARGS ?=
# Processes that run tests; each has its own Postgres and Valkey. One more than cores: many tests wait.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run test proof proof-lifecycle lint types imports protos docs-check tests gen fmt docs bench bench-query bench-simulate bench-lifecycle bench-tiers doctor second-opinion lock image clean

help:
	@echo 'make run      start Tallygate with its own Postgres and Redis on 127.0.0.1:50051 (data in .tallygate)'
	@echo 'make test     run every check and every test'
	@echo 'make proof    tell a month of webhooks of a hundred subscriptions in a hundred shuffled ways; takes hours'
	@echo 'make proof-lifecycle   kill processes that move and erase data 200 times, and try thousands of tables'
	@echo 'make second-opinion   compare our local Stripe with localstripe, which it installs into .second-opinion'
	@echo 'make doctor   find what is wrong with the set-up'
	@echo 'make fmt      format Python and protos'
	@echo 'make gen      generate the Python code of the protos'
	@echo 'make docs     renew the generated parts of the documentation'
	@echo 'make bench    measure calls per second (needs h2load: Debian package nghttp2-client)'
	@echo 'make bench-simulate   measure SimulateLimits over 1,000,000 ledger entries, and increments beside it'
	@echo 'make bench-query   measure QueryUsage over 5,000,000 ledger entries against a scan of them'
	@echo 'make bench-lifecycle   measure archived records against Parquet (ARGS: CSV files)'
	@echo 'make bench-tiers   move 30,000,000 records from hot to cold, against COPY (ARGS: CSV files)'
	@echo 'make lock     renew requirements.txt from pyproject.toml'
	@echo 'make clean    remove the environment and what was built, but no data'

# ---------------------------------------------------------------- the environment

install: $(VENV)/installed

# Made from nothing whenever the lock changes, so that it never holds what the lock does not.
$(VENV)/locked: requirements.txt
	@test -n '$(PYTHON)' || { \
	  echo 'No Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '$(PYTHON) is not Python 3.11 or newer. Name another one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments: its venv or ensurepip module is missing.' >&2; \
	  echo 'Debian and Ubuntu: apt install python3-venv. Or name another one: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; }
	'$(PYTHON)' -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
	@touch $@

$(VENV)/installed: $(VENV)/locked pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# ---------------------------------------------------------------- running

run: install
	@exec $(BIN)/tallygate serve $(ARGS)

doctor: install
	@exec $(BIN)/tallygate doctor $(ARGS)

bench: install
	@exec $(BIN)/tallygate bench $(ARGS)

bench-query: install
	@exec $(BIN)/tallygate bench-query $(ARGS)

bench-simulate: install
	@exec $(BIN)/tallygate bench-simulate $(ARGS)

bench-lifecycle: install
	@exec $(BIN)/tallygate bench-lifecycle $(ARGS)

bench-tiers: install
	@exec $(BIN)/tallygate bench-tiers $(ARGS)

# ---------------------------------------------------------------- checking: quick ones first

test: lint types imports protos docs-check tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

protos: install
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/lint.py

docs-check: install
	$(BIN)/python docs/generate.py --check

tests: install
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

# The long form of a test of the suite: make proof SEEDS=10 SUBSCRIPTIONS=50 for a shorter one.
proof: export TALLYGATE_LONG := 1
proof: install
	$(BIN)/pytest --timeout 0 tests/journeys/test_shuffled_month.py $(ARGS)

# Two hundred kills, and thousands of tables in place of dozens: the data lifecycle's promises at full length.
proof-lifecycle: export TALLYGATE_LONG := 1
proof-lifecycle: install
	$(BIN)/pytest --timeout 0 tests/chaos/test_killed_lifecycle.py tests/property/test_lossy_error_bound.py \
	  tests/property/test_columnar_roundtrip.py tests/property/test_record_model.py tests/property/test_retention.py $(ARGS)

# Not part of `make test`: it installs a package that is no dependency (GPL; a process of its own) from the index.
second-opinion: install
	$(BIN)/python tests/local_stripe/second_opinion.py

# ---------------------------------------------------------------- writing

gen: install
	$(BIN)/python protos/generate.py

fmt: install
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/python protos/lint.py --fix

docs: install
	$(BIN)/python docs/generate.py

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --group dev \
	  --custom-compile-command 'make lock' --upgrade --output-file requirements.txt pyproject.toml

image:
	docker build --tag tallygate .

clean:
	rm -rf $(VENV) .second-opinion build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.tallygate/*' -prune -exec rm -rf {} +
