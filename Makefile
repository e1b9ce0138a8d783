# Clone.dna: set-up, demo, tests, checks. Everything stays inside this folder (.venv, .demo); only pip's cache is outside.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help demo setup test check fmt bench sizes constraints clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.run-stamp ## mint a block from this repository's own history and show what it learned
	@$(BIN)/python tools/demo.py

setup: $(VENV)/.dev-stamp ## install everything for development

test: $(VENV)/.dev-stamp ## run all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q

check: $(VENV)/.dev-stamp ## format, lint, types, import contracts, unit and contract tests
	@$(BIN)/ruff format --check clonedna tests tools bench
	@$(BIN)/ruff check clonedna tests tools bench
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit tests/contract

fmt: $(VENV)/.dev-stamp ## format and fix what can be fixed
	@$(BIN)/ruff format clonedna tests tools bench
	@$(BIN)/ruff check --fix clonedna tests tools bench

bench: $(VENV)/.dev-stamp ## measure; each line of JSON is kept in bench/history/
	@mkdir -p bench/history
	@set -e; for script in bench/mint.py bench/engine_*.py; do \
	  [ -f "$$script" ] || continue; name=$$(basename "$$script" .py); \
	  $(BIN)/python "$$script" | tee -a "bench/history/$$name.jsonl"; done

sizes: $(VENV)/.run-stamp ## print sizes of modules and functions
	@$(BIN)/python tools/sizes.py

constraints: $(VENV)/.dev-stamp ## pin what is installed now
	@{ echo "# Everything, pinned. Made by: make constraints"; \
	  $(BIN)/pip freeze --all --exclude-editable | grep -v -i -e '^clone-dna' -e '^pip==' | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.txt

clean: ## remove what the targets above made
	@rm -rf $(VENV) .demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A stamp is as new as the install it stands for; a second run installs nothing.
$(VENV)/.made-stamp:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say which with: make PYTHON=..." % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-stamp: $(VENV)/.made-stamp pyproject.toml constraints.txt
	@echo "installing (a minute or two) ..." >&2
	@env PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.run-stamp
	@echo "installing the tools for development ..." >&2
	@env PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e '.[dev]'
	@touch $@
