# Clone.dna: set-up, demo, tests, checks. Everything stays inside this folder (.venv, .demo); only pip's cache is outside.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
CODE := clonedna tests tools bench
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TOKENIZERS_PARALLELISM = false

# What is installed is named by what it was installed from, so a second run installs nothing, whatever the files' times are.
# A folder that was moved gets a new environment: the old one's programs point to where it was.
PINS := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' -)
HERE := $(shell pwd | cksum | tr ' ' -)
AT := $(VENV)/.at-$(HERE)
RUN := $(VENV)/.run-$(PINS)-$(HERE)
DEV := $(VENV)/.dev-$(PINS)-$(HERE)
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready-$(shell cat constraints-vllm.txt | cksum | tr ' ' -)-$(HERE)
PEERS := .venv-bench
BENCH_READY := $(PEERS)/.ready-$(shell cat constraints-bench.txt | cksum | tr ' ' -)-$(HERE)
INSTALL := env PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q

.DEFAULT_GOAL := help
.PHONY: help demo setup setup-system test test-long test-postgres check fmt bench sizes constraints clean vllm-env test-vllm bench-report bench-env reference

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

demo: $(RUN) ## mint a block from this repository's own history and show what it learned
	@$(BIN)/python tools/demo.py

setup: $(DEV) ## install everything for development

setup-system: ## install the system packages that the sandbox and the tests need (apt-get; as root)
	@sh tools/setup_system.sh

# One thread a process: the tests' processes share the cores, and threads that wait for each other spin. Files in their order: the slow
# ones (e2e, integration) would else come last, since they have few tests, and one process would wait for the other. The processes that
# tests start find the program compiled, also where the environment forbids to keep that.
test: $(DEV) ## run all tests
	@env OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q

test-long: $(DEV) ## the tests that take a minute each: versions and fine-tuning on the bundled base, more kills
	@env OMP_NUM_THREADS=1 TEST_CHAOS_JOBS=50 TEST_CHAOS_SECONDS=60 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --timeout 1300 -q -m long tests
	@env OMP_NUM_THREADS=1 TEST_CHAOS_JOBS=50 TEST_CHAOS_SECONDS=60 $(BIN)/python -m pytest --timeout 1300 -q tests/integration/test_workers.py tests/integration/test_chaos.py

check: $(DEV) ## format, lint, types, import contracts, unit and contract tests
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/unit tests/contract

fmt: $(DEV) ## format and fix what can be fixed
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

bench: $(DEV) $(BENCH_READY) ## measure against peers; each line of JSON is kept in bench/history/
	@$(BIN)/python -m bench.run $(NAMES)

bench-report: $(RUN) ## write what was measured into the README and docs/benchmarks.md
	@$(BIN)/python tools/bench_report.py

bench-env: $(BENCH_READY) ## make the environment with the peers that are measured against (TRL)

reference: $(RUN) ## write docs/reference from the program
	@$(BIN)/python tools/reference.py

sizes: $(RUN) ## print sizes of modules and functions
	@$(BIN)/python tools/sizes.py

# hatchling and editables build the package, in an environment of pip's own: here only so that their versions are pinned too.
constraints: $(DEV) ## pin what is installed now
	@$(BIN)/python -m pip install -q hatchling editables
	@{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | grep -v -i -e '^clone-dna' -e '^pip==' | sed 's/+cpu$$//' | LC_ALL=C sort -f; \
	  } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

vllm-env: $(VLLM_READY) ## make the environment that vLLM runs in (3.4 GB; Linux on x86-64)

test-vllm: $(DEV) $(VLLM_READY) ## contract tests against a real vLLM on this machine's CPU
	@$(BIN)/python tests/vllm/run.py

test-postgres: $(DEV) ## the tests of the database on a PostgreSQL that is started for them (Debian: postgresql)
	@$(BIN)/python -m tests.postgres.cluster $(BIN)/python -m pytest -q tests/postgres tests/contract/test_registry.py tests/contract/test_index.py \
	  $(addprefix tests/unit/store/test_,database.py developers.py dump.py holders.py lines.py registry.py threads.py tokens.py) \
	  tests/integration/test_workers.py

clean: ## remove what the targets above made
	@rm -rf $(VENV) $(VLLM) $(PEERS) .bench .demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(AT):
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say which with: make PYTHON=..." % sys.version_info[:2])'
	@if ls $(VENV)/.at-* >/dev/null 2>&1; then "$(PYTHON)" -m venv --clear $(VENV); else "$(PYTHON)" -m venv $(VENV); fi
	@touch $@

# The old stamps go first: an install that is cut short leaves none behind.
$(RUN): $(AT)
	@echo "installing (a minute or two) ..." >&2
	@rm -f $(VENV)/.run-* $(VENV)/.dev-*
	@$(INSTALL) -e .
	@touch $@

$(DEV): $(AT)
	@echo "installing, with the tools for development (a minute or two) ..." >&2
	@rm -f $(VENV)/.run-* $(VENV)/.dev-*
	@$(INSTALL) -e '.[dev]'
	@touch $(RUN) $@

$(VLLM_READY):
	@echo "installing vLLM (some minutes) ..." >&2
	@"$(PYTHON)" -m venv --clear $(VLLM)
	@$(VLLM)/bin/python -m pip install -q --no-deps -r constraints-vllm.txt
	@touch $@

$(BENCH_READY):
	@echo "installing what is measured against (some minutes) ..." >&2
	@"$(PYTHON)" -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --no-deps -r constraints-bench.txt
	@env PIP_CONSTRAINT=constraints.txt $(PEERS)/bin/python -m pip install -q --no-deps -e .
	@touch $@
