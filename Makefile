# Every command of the project. `make help` lists them; `make demo` and `make test` set up all that they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
LULL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lull
export LULL_CACHE
export PATH := $(LULL_CACHE)/uv/bin:$(PATH)
# Bytecode that is not kept is compiled anew by each of many short processes.
unexport PYTHONDONTWRITEBYTECODE
RUN = uv run --locked
SEED ?= $(shell date +%s)
PYTEST = $(RUN) pytest -q

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: ## Install the tools and the locked Python packages
	@e2e/bootstrap "$(LULL_CACHE)"
	@uv sync --locked --quiet

demo: setup ## Do the main job on a cluster that it starts: 0 -> 1 -> N -> 0, with real vLLM
	@$(RUN) python -m e2e.demo

test: setup lint type unit integration chart-test wheel-test contract e2e ## Run every test

lint: setup ## Check style, the dependency direction and generated files
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) lint-imports
	@$(RUN) lull crd --check crds/llmdeployments.lull.dev.yaml
	@$(RUN) python -m docs.generate --check

type: setup ## Check types
	@$(RUN) mypy

fmt: setup ## Format, and mend what can be mended
	@$(RUN) ruff check --fix-only
	@$(RUN) ruff format

unit: setup ## Run unit, golden, property and simulation tests (no cluster)
	@$(PYTEST) -n 3 tests/unit tests/golden tests/properties tests/simulation tests/hostile tests/test_house_rules.py

fuzz: setup ## Look for bytes that break a parser, for minutes; SEED=n repeats a run
	@echo "seed $(SEED)"
	@HYPOTHESIS_PROFILE=fuzz $(PYTEST) -n 2 -p no:randomly --timeout=1800 --hypothesis-seed=$(SEED) tests/hostile/test_fuzz.py tests/properties/test_sse.py

integration: setup tools ## Run tests against a real kube-apiserver
	@$(PYTEST) tests/integration

chart-test: setup tools ## Test the Helm chart with the real Helm
	@$(PYTEST) tests/chart

contract: setup ## Compare engine-sim with the real vLLM, request by request
	@$(PYTEST) tests/contract

e2e: setup ## Run the scenarios on a real cluster
	@$(RUN) pytest -v e2e/scenarios

golden: setup ## Rewrite the golden files; the diff is the review
	@$(RUN) python -m tests.golden.rewrite

crds: setup ## Generate crds/ and the chart's copy from the types
	@$(RUN) lull crd > crds/llmdeployments.lull.dev.yaml
	@cp crds/llmdeployments.lull.dev.yaml charts/lull/files/

docs: setup ## Write docs/reference/ from the code
	@$(RUN) python -m docs.generate

tools: setup ## Build or find kubectl, helm and, for the local cluster, Kubernetes itself
	@$(RUN) python -m e2e.cluster tools

cluster: setup ## Start the cluster: yours, kind, or one made of this machine
	@$(RUN) python -m e2e.cluster up

cluster-down: setup ## Stop the cluster and leave nothing behind
	@$(RUN) python -m e2e.cluster down

images: setup ## Build the images
	@$(RUN) python -m e2e.images build

bench: setup ## Measure what is claimed, as tables; BENCH="wake cluster", JSON=1 for --json, FULL=1 for what takes long, QUICK=1, PROCESSES=2
	@$(RUN) python -m bench $(BENCH) $(if $(JSON),--json) $(if $(FULL),--full) $(if $(QUICK),--quick) $(if $(PROCESSES),--processes $(PROCESSES))

wheel: setup ## Build the wheel
	@uv build --wheel --quiet --out-dir dist

wheel-test: wheel ## Install the wheel into an empty environment and run it
	@$(RUN) python -m tests.wheel dist

.NOTPARALLEL:
.PHONY: help setup demo test lint type fmt unit integration chart-test contract e2e fuzz golden crds docs tools cluster cluster-down images bench wheel wheel-test
