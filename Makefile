# Everything a person does with a checkout. State lives in FKS_HOME (default .fks/), the virtualenv in .venv/.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
FKS := $(BIN)/fks
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# compiled modules are kept whatever the caller's environment says: each process, and each test process, starts faster
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: install dev compiled web-assets docs up down test test-slow test-all soak lint audit report bench logs status health-check security-setup monitor-dashboard clean help \
        wheel gpu-up multi-up multi-down multi-logs multi-status multi-build multi-update

install: $(STAMP) ## virtualenv and the pinned packages

dev: $(DEV) # what tests and linters need, in the same virtualenv

PINNED := pyproject.toml constraints.txt $(wildcard deploy/hashes/*.txt) fks/interfaces/web/package-lock.json
$(STAMP): $(PINNED)
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $(STAMP)

$(DEV): $(PINNED) # one run for both
	@$(PYTHON) scripts/install.py $(VENV) dev
	@touch $(STAMP) $(DEV)

# the modules that tests import and the engine of backtests, compiled once: else each test process rewrites the assertions
# of every test file, and compiles the engine for 19 s of a processor. Test files that are as they were are not read again.
COMPILED := $(VENV)/.tests-compiled
compiled: dev
	@$(BIN)/python -m compileall -q fks actors serve_app.py
	@$(BIN)/python -c "from fks.research.jobs.runner import warm; warm()" & \
	if [ ! -e $(COMPILED) ] || [ -n "$$(find tests -name '*.py' -newer $(COMPILED) -print -quit)" ]; then \
	  for part in tests/unit "tests/contract tests/meta"; do $(BIN)/python -m pytest --collect-only $$part >/dev/null & done; wait; touch $(COMPILED); \
	fi; wait

web-assets: install ## fetch the npm packages of the pages (make install does, where the registry can be reached)
	@$(BIN)/python scripts/web_assets.py

docs: dev ## the guide: a site of docs/, which the gateway serves at /guide/
	@$(BIN)/python scripts/guide.py

up: install ## start everything and watch it (Ctrl-C stops it)
	@$(FKS) up $(ARGS)

down: ## stop a system that runs in the background
	@$(FKS) down

test: compiled ## ten minutes on 2 cores: all but the slow tests
	@$(BIN)/python scripts/run_tests.py $(ARGS)

test-slow: compiled ## the slow tests, which CI runs, too
	@$(BIN)/python scripts/run_tests.py --slow $(ARGS)

test-all: compiled ## both
	@$(BIN)/python scripts/run_tests.py --all $(ARGS)

soak: dev ## the long ones, hours: chaos, memory, full disks, a bare machine
	@FKS_EXAMPLES=400 $(BIN)/python -m pytest tests/unit -m hypothesis --timeout=600 -o addopts="-q --import-mode=importlib"
	@FKS_EXAMPLES=4000 $(BIN)/python -m pytest tests/unit/research/backtest/test_engines.py tests/unit/research/backtest/test_backtest.py -m hypothesis --timeout=3600 -o addopts="-q --import-mode=importlib"
	@FKS_EXAMPLES=4000 $(BIN)/python -m pytest tests/unit/market/collector/test_any_order.py --timeout=600 -o addopts="-q --import-mode=importlib"
	@FKS_EXAMPLES=10000 $(BIN)/python -m pytest tests/unit/trading/portfolio/test_attribution.py tests/unit/trading/portfolio/test_lots.py \
	    tests/unit/trading/portfolio/test_portfolio_valuation.py tests/unit/trading/portfolio/test_journal.py tests/unit/trading/portfolio/test_position.py \
	    -m hypothesis --timeout=3600 -o addopts="-q --import-mode=importlib"
	@FKS_EXAMPLES=300 $(BIN)/python -m pytest tests/contract/market/collector/test_restarts.py --timeout=600 -o addopts="-q --import-mode=importlib"
	@FKS_PARTITION_S=30 $(BIN)/python -m pytest -k partition --timeout=600 -o addopts="-q --import-mode=importlib" \
	    tests/contract/trading/order_manager/test_partitions.py tests/contract/system/supervision/test_partitions.py \
	    tests/contract/strategies/test_strategy_worker.py tests/contract/trading/guardian/test_guardian_postgres_dies.py \
	    tests/contract/market/collector/test_collector.py
	@$(BIN)/python -m pytest tests/unit tests/contract -m soak --timeout=1800 -o addopts="-q --import-mode=importlib"
	@$(BIN)/python -m pip install -q -e .[peers] -c constraints.txt
	@$(BIN)/python -m pytest tests/soak -m soak --timeout=5400 -s -o addopts="-q" $(ARGS)
	@scripts/bare_machine.sh

lint: dev ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

AUDIT := $(VENV)/audit/bin/pip-audit
$(AUDIT): constraints.txt
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	@touch $(AUDIT)

audit: $(AUDIT) ## known vulnerabilities of the pinned packages, as the package index reports them: by hand, before a release
	@$(AUDIT) -r constraints.txt --no-deps --disable-pip --strict --progress-spinner off

report: ## large modules, long functions and argument lists, for people to read
	@$(PYTHON) scripts/report.py $(ARGS)

bench: dev ## the benchmarks, each printing ours, the limit's and the ratio
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

logs: ## follow the logs
	@$(FKS) logs -f

status: ## what runs
	@$(FKS) status

health-check: ## one line and an exit code for scripts
	@$(FKS) status --json | $(BIN)/python scripts/health.py

security-setup: install ## strong secrets in a 0600 file
	@$(FKS) security-setup

monitor-dashboard: ## open the monitor page in a browser, or print where it is
	@$(BIN)/python scripts/monitor_dashboard.py

clean: ## caches and the virtualenv; never your data
	rm -rf $(VENV) .web-packages fks/web fks/interfaces/web/vendor fks/interfaces/web/guide build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

gpu-up: install ## check GPU, driver and engine, then start everything
	@$(FKS) ai doctor --gpu || { echo "gpu-up needs what is marked above; 'make up' runs without a GPU"; exit 1; }
	@$(FKS) up $(ARGS)

wheel: dev ## FKS as one file in dist/, with constraints.txt and hashes.txt beside it, to install anywhere
	@$(BIN)/python scripts/web_assets.py --required
	@$(BIN)/python scripts/guide.py
	@rm -rf build dist/fks-*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@rm -rf build && cp constraints.txt dist/ && cp deploy/hashes/fks.txt dist/hashes.txt && ls dist/fks-*.whl dist/*.txt

# A head and two workers on this machine, each with a home of its own: what `ray up cluster.yaml` does on several.
MULTI := .fks-multi
HEAD_AT ?= 127.0.0.2
HEAD_PORT ?= 26379

multi-up: install ## a head and two workers on this machine (several machines: docs/run-a-cluster.md)
	@FKS_SIM_ENABLED=$${FKS_SIM_ENABLED:-true} $(FKS) --home $(MULTI)/head node head --address $(HEAD_AT) --port $(HEAD_PORT) --name head --detach $(ARGS)
	@set -e; eval "$$($(BIN)/python scripts/stores.py $(MULTI)/head)"; export FKS_SIM_ENABLED=$${FKS_SIM_ENABLED:-true}; \
	for i in 1 2; do FKS_HTTP_PORT=0 $(FKS) --home $(MULTI)/worker-$$i node worker --address $(HEAD_AT):$(HEAD_PORT) --node-ip $(HEAD_AT:%2=%)$$((i + 2)) \
	  --name worker-$$i --token-file $(MULTI)/head/ray.token --detach; done

multi-build: wheel ## the packages and the wheel that the machines of a cluster run

multi-update: install ## bring every part of the running head and workers to the installed build, one at a time
	@$(FKS) --home $(MULTI)/head deploy $(ARGS)

multi-down: ## stop the head and the workers
	@for i in 2 1; do $(FKS) --home $(MULTI)/worker-$$i node stop; done; $(FKS) --home $(MULTI)/head node stop

multi-logs: ## follow the logs of all of them
	@trap 'kill $$(jobs -p) 2>/dev/null' EXIT; for i in 1 2; do $(FKS) --home $(MULTI)/worker-$$i logs -f & done; $(FKS) --home $(MULTI)/head logs -f

multi-status: ## what runs on all of them
	@$(FKS) --home $(MULTI)/head status; $(FKS) --home $(MULTI)/head cluster check --file cluster.yaml | grep -v '^skipped' | sed -n '/speaks/,$$p'

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+( [a-z-]+)*:.*## /{if (split($$1, names, " ") > 1) $$1 = "multi-*"; printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
