# What a developer types. `make help` lists it. Everything is built into .venv, which `make clean-all` removes.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.made
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# How many files of tests run at once: most of the time they wait for daemons.
TEST_JOBS ?= 2
# Programs that tests run and that pip cannot bring.
TEST_TOOLS := cc:gcc strace:strace curl:curl ip:iproute2 pgrep:procps systemd-analyze:systemd sshd:openssh-server

FAULT_TESTS = $(wildcard tests/*/test_*faults*.py tests/*/test_*restarts*.py tests/*/test_*durability*.py tests/*/test_*supervision*.py)

UV_COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.PHONY: help
help: ## List what can be made.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(STAMPS)/rbees ## Install rbees and everything it needs to run models into .venv.

.PHONY: demo
demo: $(STAMPS)/rbees ## Install, start everything, stream one job, stop everything.
	@$(BIN)/python examples/demo.py

.PHONY: dev
dev: $(STAMPS)/dev ## Install what tests and checks need as well.

.PHONY: lint
lint: $(STAMPS)/dev ## Check style, types and who imports whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMPS)/dev ## Bring every file into the common form.
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

.PHONY: test
test: $(STAMPS)/dev test-tools templates lint ## Run the checks and every tier of tests but the bench.
	$(BIN)/python -m pytest -m "not gpu and not macos" -n $(TEST_JOBS)

.PHONY: properties
properties: $(STAMPS)/dev ## Search for inputs that break a property, each round other ones (ROUNDS=10).
	@for round in $$(seq $(or $(ROUNDS),10)); do \
	  $(BIN)/python -m pytest tests/property --hypothesis-profile search --timeout 1800 -n $(TEST_JOBS) || exit 1; \
	done

.PHONY: test-tools
test-tools:
	@scripts/test-tools $(TEST_TOOLS)

.PHONY: templates
templates: $(STAMPS)/dev
	@$(BIN)/python -m scripts.llama_source

.PHONY: bench
bench: $(STAMPS)/dev ## Measure, beside peers of the same run; writes build/bench.json.
	$(BIN)/python -m tests.bench

.PHONY: sim
sim: $(STAMPS)/dev ## Run the scheduler in a simulated, faulty cluster (SEEDS=500, DAY=1 for 200 hosts and 24 hours as well).
	$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(DAY),--day)

.PHONY: faults
faults: $(STAMPS)/dev test-tools ## Kill, stop and starve daemons under load, at full size; writes build/faults.json.
	FAULT_SIZE=full $(BIN)/python -m pytest --timeout 1800 -p tests.support.fault_rows $(FAULT_TESTS)

.PHONY: docs
docs: $(STAMPS)/dev ## Write the pages of docs/ and the services of packaging/ that are made from the code.
	$(BIN)/python -m rbees.service.docs_pages docs
	$(BIN)/python -m scripts.cli_page docs
	$(BIN)/python -m scripts.http_page docs
	$(BIN)/python -m scripts.apis_page docs
	$(BIN)/python -m scripts.service_files packaging

.PHONY: picture
picture: $(STAMPS)/dev ## Record docs/images/tour.svg from a real run.
	$(BIN)/python scripts/record_tour.py docs/images/tour.svg

.PHONY: lock
lock: ## Resolve the dependencies anew into requirements/ (needs uv).
	@command -v uv >/dev/null || { echo "make lock needs uv: see https://docs.astral.sh/uv/" >&2; exit 1; }
	$(UV_COMPILE) --extra llama pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) --extra llama --extra fast --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt

.PHONY: clean
clean: ## Remove what tests and builds left, but not .venv.
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## Remove .venv too.
	rm -rf $(VENV)

# ---- installation: each step leaves a stamp, so that a second run has nothing to do ----

$(STAMPS)/venv:
	@scripts/check-host
	"$$(scripts/find-python)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements/runtime.txt $(STAMPS)/venv
	@echo "Installing what rbees needs; llama.cpp is compiled, which takes some minutes the first time."
	CMAKE_ARGS="$$(scripts/cmake-args)" $(PIP) install --quiet --require-hashes -r requirements/runtime.txt
	@touch $@

$(STAMPS)/rbees: pyproject.toml $(STAMPS)/runtime
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/rbees
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@
