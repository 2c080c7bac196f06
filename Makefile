# All targets write inside the checkout only. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.bench-ready
# The machine's own uv, or else the one that requirements.lock pins, installed into .venv by hash.
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
COMPILE = $(UV) pip compile -q --universal --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
export UV_NO_PROGRESS := 1
# Compile bytecode at installation, so that every later start takes half as long. Python itself
# caches none where PYTHONDONTWRITEBYTECODE is set.
export UV_COMPILE_BYTECODE := 1
# Silence a notice of Material for MkDocs about MkDocs 2.
export NO_MKDOCS_2_WARNING := 1
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Run two test files at a time, because tests mostly wait. Start the longest files first, so that
# both processes end at about the same time.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
LONGEST := $(patsubst %,tests/integration/test_%.py,submit pipeline servers interruption survival faults elastic refusals)
SHORTER = $(filter-out $(LONGEST),$(wildcard tests/integration/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help setup repro check test bench ui lock docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install exactly what requirements.lock names

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Kiln runs on Python 3.11 to 3.13; $(PYTHON) is %d.%d. Name another: make setup PYTHON=python3.12" % v)'
	@$(PYTHON) -c 'import shutil; free = shutil.disk_usage(".").free / 1e9; print(f"setup: about to download 3.5 GB (macOS: 1 GB) into .venv, which takes 7 GB of disk (macOS: 3 GB); {free:.0f} GB are free here. Two thirds of it is CUDA: docs/how-to/everyday.md has an installation without it")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x "$(UV)" || { echo "setup: fetching uv"; awk '/^[^ #]/ {on = /^uv==/} on' requirements.lock > .venv/uv.lock && $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.lock; }
	@echo "setup: installing what requirements.lock names"
	@$(UV) pip sync -q --require-hashes --python $(BIN)/python requirements.lock
	@touch $@

lock: ## resolve pyproject.toml into the two lock files (any platform, hashes, no addresses)
	$(COMPILE) --group dev pyproject.toml -o requirements.lock
	$(COMPILE) --group pyproject.toml:bench -c requirements.lock -o benchmarks/requirements.lock

repro: $(READY) ## raw images to validated, registered models, then the closing table
	@python -m pipelines.preflight
	dvc repro
	@python -m pipelines.status

test: check ## everything: check, then the tests with real Ray, MLflow and DVC
	pytest -q $(TWO) $(LONGEST) $(SHORTER) tests/golden

check: $(READY) ## lint, types, import rules, documentation, unit tests
	ruff check .
	ruff format --check --quiet .
	mypy
	pytest -q -n 2 --dist worksteal tests/unit tests/architecture

bench: $(BENCH_READY) ## measure Kiln beside its peers and the machine (about 40 minutes); one theme: make bench NAME=step
	python -m benchmarks $(NAME)

$(BENCH_READY): $(READY) benchmarks/requirements.lock
	@echo "bench: installing the frameworks that Kiln is compared with"
	@$(UV) pip install -q --require-hashes --python $(BIN)/python -r benchmarks/requirements.lock
	@touch $@

ui: $(READY) ## MLflow's pages on http://127.0.0.1:5000
	@python -c "from components.console import launch; from components.tracking import embedded; launch(embedded.relocate)"
	mlflow ui --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db" --host 127.0.0.1 --port 5000

docs: $(READY) ## build the documentation into site/ (open site/index.html)
	python -m mkdocs build --strict --quiet
