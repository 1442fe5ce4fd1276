# Everything a person does with a checkout. State lives in FKS_HOME (default .fks/), the virtualenv in .venv/.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
FKS := $(BIN)/fks
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: install up down test soak lint bench logs status health-check security-setup monitor-dashboard clean help \
        gpu-up multi-up multi-down multi-logs multi-status

install: $(STAMP) ## virtualenv and the pinned packages

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $(STAMP)

up: install ## start everything and watch it (Ctrl-C stops it)
	@$(FKS) up $(ARGS)

down: ## stop a system that runs in the background
	@$(FKS) down

test: install ## every property, under 12 minutes on 2 cores
	@$(BIN)/python -m pytest tests/unit tests/contract tests/meta -n $${FKS_TEST_WORKERS:-3} --dist loadfile $(ARGS)
	@$(BIN)/python -m pytest tests/acceptance $(ARGS)

soak: install ## the long ones: chaos and memory over 30 minutes
	@$(BIN)/python -m pytest tests/soak -m soak --timeout=5400 -s -o addopts="-q" $(ARGS)

lint: install ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/mypy fks actors serve_app.py
	@$(BIN)/lint-imports

bench: install ## the benchmarks, each printing ours, the limit's and the ratio
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

logs: ## follow the logs
	@$(FKS) logs -f

status: ## what runs
	@$(FKS) status

health-check: ## one line and an exit code for scripts
	@$(FKS) status --json | $(BIN)/python scripts/health.py

security-setup: install ## strong secrets in a 0600 file
	@$(FKS) security-setup

monitor-dashboard: ## where the monitor page is
	@$(FKS) status | sed -n 's/^.*monitor page: //p' | grep . || { echo "not running: make up"; exit 3; }

clean: ## caches and the virtualenv; never your data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

gpu-up: install ## start with GPU actors
	@command -v nvidia-smi >/dev/null || { echo "gpu-up needs an NVIDIA GPU and its driver (nvidia-smi was not found); 'make up' runs without one"; exit 1; }
	@$(FKS) up $(ARGS)

multi-up multi-down multi-logs multi-status: ## several nodes: make multi-up … (needs a filled-in cluster.yaml)
	@! grep -q 'HERE' cluster.yaml || { echo "$@ needs cluster.yaml with your nodes (lines marked HERE); on one machine use 'make $(patsubst multi-%,%,$@)'"; exit 1; }
	@$(MAKE) --no-print-directory $(patsubst multi-%,%,$@)

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+( [a-z-]+)*:.*## /{if (split($$1, names, " ") > 1) $$1 = "multi-*"; printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
