.PHONY: help setup setup-dev run test check lock clean
PYTHON ?= python3
V := .venv/bin
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -q

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv/.run: requirements.lock pyproject.toml
	@test -x $(V)/python || $(PYTHON) -m venv .venv
	$(V)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(V)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.run requirements-dev.lock
	$(V)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

setup: .venv/.run ## make the .venv alone, from the hash-locked requirements

setup-dev: .venv/.dev ## the same plus what tests and checks need

run: .venv/.run ## a gateway on loopback that has just answered real requests
	$(V)/gateway quickstart

test: .venv/.dev ## the whole test suite
	$(V)/python -m pytest -n 2 -q

check: .venv/.dev ## ruff, mypy --strict, import rules
	$(V)/ruff check .
	$(V)/mypy
	$(V)/lint-imports

lock: ## resolve the locks anew (needs uv)
	$(LOCK) pyproject.toml requirements.in --extra ner --extra redis --extra tokens --extra otel -o requirements.lock
	$(LOCK) pyproject.toml requirements.in -c requirements.lock --all-extras --group dev -o requirements-dev.lock

clean: ## remove what the commands above made
	rm -rf .venv .quickstart .mypy_cache .ruff_cache .hypothesis
