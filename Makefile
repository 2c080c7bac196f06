# Everything runs inside the checkout: `make help` lists what there is.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# A uv of the machine's, else the one that the lock pins, fetched into the environment by its hash.
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
export UV_NO_PROGRESS := 1
# Compiled once at installation, every later start takes half as long (never cached where this is set).
export UV_COMPILE_BYTECODE := 1
# matplotlib writes its font list somewhere: here, not into the home directory.
export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib
# Silences a notice of Material for MkDocs about MkDocs 2.
export NO_MKDOCS_2_WARNING := 1
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Two files of tests at a time, for most of their time is waiting; the longest first, or one of the two waits at the end.
TWO := -n 2 --dist loadfile
LONGEST := submit servers pipeline interruption faults survival

.DEFAULT_GOAL := help
.PHONY: help setup repro check test bench ui lock docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install exactly what requirements.lock names

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Kiln runs on Python 3.11 to 3.13; $(PYTHON) is %d.%d. Name another: make setup PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x "$(UV)" || { echo "setup: fetching uv"; awk '/^[^ #]/ {on = /^uv==/} on' requirements.lock > .venv/uv.lock && $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.lock; }
	@echo "setup: installing the locked environment (about 6 GB, most of it torch)"
	@$(UV) pip sync -q --require-hashes --python $(BIN)/python requirements.lock
	@touch $@

lock: ## resolve pyproject.toml into requirements.lock (any platform, hashes, no addresses)
	$(UV) pip compile -q --universal --generate-hashes --no-emit-index-url --group dev pyproject.toml -o requirements.lock --custom-compile-command "make lock"

repro: $(READY) ## raw images to validated, registered models, then the closing table
	@python -m pipelines.preflight
	dvc repro
	@python -m pipelines.status

test: check ## everything: check, then the tests with real Ray, MLflow and DVC
	pytest -q $(TWO) --no-loadscope-reorder $(LONGEST:%=tests/integration/test_%.py) tests/golden tests/integration

check: $(READY) ## lint, types, import rules, documentation, unit tests
	ruff check .
	ruff format --check --quiet .
	mypy
	pytest -q $(TWO) tests/unit tests/architecture

bench: $(READY) ## measure Kiln beside its peers and the machine (about 40 minutes); one theme: make bench NAME=step
	python -m benchmarks $(NAME)

ui: $(READY) ## MLflow's pages on http://127.0.0.1:5000
	mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --host 127.0.0.1 --port 5000

docs: $(READY) ## build the documentation into site/ (open site/index.html)
	python -m mkdocs build --strict --quiet
