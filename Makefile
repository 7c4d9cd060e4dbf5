# Every target sets itself up: from a bare checkout it needs Python 3.11 or newer (with venv and pip) and make.
#
#     make test PYTHON=python3.12      another interpreter; `make clean` first if .venv exists already
#     make test PYTEST_ARGS="-k wheel" options for pytest
#     make demo DEMO_ARGS="--seed 1"   options for `cutlayer demo`
#     make bench OMP_NUM_THREADS=4     another number of threads

PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
BENCHMARK_ARGS ?=
SOAK_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The networks here are small: on two shared cores a second thread makes training 8 to 25 times slower, by waiting.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check docs notebooks bench benchmark clean soak

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## run the main job end to end; prints a table and writes runs/demo
	$(BIN)/cutlayer demo $(DEMO_ARGS)

# .venv/bin/pytest, not `python -m pytest`: the latter puts the repository root on sys.path, where `import envs` works by accident.
test: check ## lint, types, then every test
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(STAMP) ## lint, formatting and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# -W: a link that leads nowhere, a name that does not exist or a page that nobody finds ends the build.
docs: $(STAMP) ## build the pages into build/docs, with every link checked; about two minutes
	$(BIN)/sphinx-build -nW --keep-going -q -b html docs build/docs
	@echo "written: build/docs/index.html"

notebooks: $(STAMP) ## run the notebooks, without a network and without data; a few minutes
	$(BIN)/pytest -q --nbmake --nbmake-timeout=900 notebooks

bench: $(STAMP) ## measure the engines and the data plane; 20,000 random worlds, 120,000 spoilt frames, a storm at the edge
	$(BIN)/cutlayer bench engines $(BENCH_ARGS)
	$(BIN)/cutlayer bench split
	CUTLAYER_WORLDS=20000 $(BIN)/pytest -q tests/envs/engines/test_agreement.py
	CUTLAYER_FRAMES=40000 $(BIN)/pytest -q tests/runtime/test_split_protocol.py
	CUTLAYER_STORM=60 $(BIN)/pytest -q tests/runtime/testbed/test_uplink.py

soak: $(STAMP) ## the daemon through 2 million decisions, reloads, lost edges and malformed lines; under ten minutes
	$(BIN)/cutlayer bench soak $(SOAK_ARGS)

benchmark: $(STAMP) ## run every policy on every world and draw docs/benchmark.md; hours, goes on where it was cut off
	$(BIN)/cutlayer benchmark -o runs/benchmark --page docs/benchmark.md $(BENCHMARK_ARGS)

clean: ## remove .venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist docs/reference .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find agents envs profiles runtime src tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(STAMP) ## make .venv and install into it, as the other targets do

# A copied or moved checkout carries a .venv that still runs the old one: the stamp holds the path it was made for.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# hatchling comes first, pinned, and builds without isolation: an isolated build would fetch whichever version is newest.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "no '$(PYTHON)' on PATH; name an interpreter: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cutlayer needs Python 3.11 or newer and '$(PYTHON)' is $$("$(PYTHON)" -c 'import platform; print(platform.python_version())'); name another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@[ ! -e $(STAMP) ] || [ "$$(cat $(STAMP))" = "$(CURDIR)" ] || rm -rf $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "installing cutlayer and its tools into $(VENV), through constraints.txt (a minute or two, then kept)"
	@quiet=--quiet; [ ! -t 1 ] || quiet=; \
	$(BIN)/python -m pip install $$quiet -c constraints.txt hatchling && \
	$(BIN)/python -m pip install $$quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@echo "$(CURDIR)" > $@
