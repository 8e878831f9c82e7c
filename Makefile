PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13

DEMO := build/demo
TEST := build/test
OLDEST := build/oldest
PEERS := build/peers
# What only generates: on the oldest cookiecutter, and at the same time on the latest.
BAKING := tests/test_answers.py tests/test_bake.py tests/lift/test_sub_template.py
SERVICE := {{cookiecutter.project_slug}}
LINTED := hooks tests benchmarks docs/screenshots.py patterns/hooks 'patterns/{{cookiecutter.__unpacked}}/lift.py'
LOCK := $(TEST)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock"
# The service's locks are made with every answer that needs a package; what Redis needs is kept for that answer alone.
ONLY_REDIS = /^(async-timeout|redis|supervisor)==/ { print "\#% if cookiecutter.redis"; only = 1 } { print } \
	only && !/\\$$/ { print "\#% endif"; only = 0 }

.DEFAULT_GOAL := help
.PHONY: help demo test matrix combinations ends fresh image schemathesis lift peers lint check lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO)/.installed ## Generate the default service into demo/ and run it on 127.0.0.1:8080
	@rm -rf demo/my-service/src demo/my-service/tests
	$(DEMO)/bin/cookiecutter --no-input --default-config --overwrite-if-exists --output-dir demo . >/dev/null
	@$(MAKE) --no-print-directory -C demo/my-service install
	@printf '\nOpen http://127.0.0.1:8080/ to see it live, http://127.0.0.1:8080/docs for its API.\nIn another shell: make -C demo/my-service tour\n\n'
	@$(MAKE) --no-print-directory -C demo/my-service run

test: $(TEST)/.installed $(OLDEST)/.installed ## Run the tests: the template's own and the generated services'
	$(OLDEST)/bin/python -m pytest $(BAKING) & $(TEST)/bin/python -m pytest $(BAKING) && wait $$!
	$(TEST)/bin/python -m pytest $(BAKING:%=--ignore=%)

matrix: $(TEST)/.installed ## Run what is generated on every Python, with uv and without (PYTHONS="...")
	PYTHONS="$(PYTHONS)" $(TEST)/bin/python -m pytest -m matrix tests/test_matrix.py

combinations: $(TEST)/.installed ## Generate and check every combination of answers (10 minutes)
	EVERY=1 $(TEST)/bin/python -m pytest -m '' tests/test_bake.py tests/test_combinations.py

ends: $(TEST)/.installed ## Test the service on the lowest and on the latest versions that it declares
	$(TEST)/bin/python -m pytest -m matrix tests/test_ends.py

image: $(TEST)/.installed ## Build and run the container image without a daemon (as root, with buildah)
	$(TEST)/bin/python -m pytest -m image tests/docker

fresh: $(TEST)/.installed ## Time the way from a clone to a green service, with a cold and with a warm cache
	$(TEST)/bin/python benchmarks/clone_to_green.py

schemathesis: $(TEST)/.installed ## Ask schemathesis at length whether the API is as documented (10 minutes)
	$(TEST)/bin/cookiecutter --no-input --default-config --overwrite-if-exists --output-dir build/schemathesis . >/dev/null
	$(TEST)/bin/python tests/openapi/schemathesis_run.py build/schemathesis/my-service

lift: $(TEST)/.installed ## Copy each pattern alone into an empty environment, with the lowest and latest packages
	$(TEST)/bin/python -m pytest -m '' tests/lift

peers: $(PEERS)/.installed ## Measure the service beside every peer: 15 minutes; a look with QUICK=1: 4 minutes
	$(PEERS)/bin/python benchmarks/peers/run.py $(if $(QUICK),--size quick)

lint: $(TEST)/.installed ## Check the template's own hooks and tests: format, lint, types
	$(TEST)/bin/ruff format --check $(LINTED)
	$(TEST)/bin/ruff check $(LINTED)
	$(TEST)/bin/mypy

check: lint test ## Everything that CI runs

lock: $(TEST)/.installed $(DEMO)/.installed ## Refresh the lock files, those of the service too
	$(LOCK) --group pyproject.toml:demo --output-file requirements/demo.txt
	$(LOCK) --group pyproject.toml:test --output-file requirements/test.txt
	$(LOCK) --group pyproject.toml:oldest --output-file requirements/oldest.txt
	$(LOCK) --group pyproject.toml:peers --output-file requirements/peers.txt
	$(DEMO)/bin/cookiecutter --no-input --default-config --overwrite-if-exists --output-dir build/lock . redis=yes >/dev/null
	@$(MAKE) --no-print-directory -C build/lock/my-service lock
	@for lock in build/lock/my-service/requirements/*.txt; do awk '$(ONLY_REDIS)' $$lock >'$(SERVICE)/requirements/'$${lock##*/}; done

clean: ## Remove what the others made
	rm -rf build demo .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

build/%/.installed: requirements/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CPython 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv build/$*
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@
