# The verbs of the project; `make help` lists them. Long work shows a bar, every failure says what to do next.
# A shell that evaluated `make env` works on the stack that it was made for.
STACK ?= $(or $(MLFLOW_STACK_STACK),dev)
INSTANCE ?= $(or $(MLFLOW_STACK_INSTANCE),default)
CONTEXT ?=
BACKEND ?= $(MLFLOW_STACK_BACKEND)
FORCE ?=
OUT ?=
BASE ?=
CHECK ?=
REMOVE ?=

PYTHON ?= python3
unexport PYTHONPATH VIRTUAL_ENV PYTHONHOME
VENV := .venv
BIN := $(VENV)/bin
WHERE = --instance '$(INSTANCE)' --stack '$(STACK)' --context '$(CONTEXT)' --backend '$(BACKEND)'
SANDBOX = $(BIN)/python -m sandbox $(WHERE)
DEPENDENCIES := requirements.txt sandbox/requirements.txt tests/requirements.txt requirements.lock components/pyproject.toml
UV_CACHE_DIR ?= $(or $(MLFLOW_STACK_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mlflow-stack)/uv
export UV_CACHE_DIR

.PHONY: help setup up down clean distclean status logs watch config env client-env preflight lock pin render preview drift \
	test test-fast soak lint bench docs

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/; s/\$$\$$/$$/g' | sort | expand -t 14

$(VENV)/.ready: $(DEPENDENCIES)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || { echo 'making $(VENV)' >&2; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9' >&2
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint requirements.lock \
		--requirement requirements.txt --requirement sandbox/requirements.txt --requirement tests/requirements.txt >&2
	@touch $@

setup: $(VENV)/.ready ## the Python environment alone

up: setup ## a running MLflow: STACK=dev INSTANCE=default CONTEXT=<kube context, else a local node>
	@$(SANDBOX) up

down: setup ## takes it down; data, users and passwords stay, and the node, while other stacks run on it: FORCE=1 ends all
	@$(SANDBOX) down $(if $(FORCE),--force)

clean: setup ## deletes an instance's data, after naming it: FORCE=1 without a terminal
	@$(SANDBOX) clean $(if $(FORCE),--force)

distclean: setup ## deletes the caches
	@$(SANDBOX) distclean $(if $(FORCE),--force)
	@rm -rf $(VENV)

status: setup ## what runs
	@$(SANDBOX) status

logs: setup ## the pods' last lines, or with COMPONENT=kubelet the node's
	@$(SANDBOX) logs $(COMPONENT)

watch: setup ## follows the pods while they start
	@$(SANDBOX) watch

pin: setup ## writes the versions that model aliases mean now into the stack file; CHECK=1 only says what has moved
	@$(SANDBOX) pin $(if $(CHECK),--check)

config: setup ## lists the keys that were set by hand on this machine; REMOVE=<key> or REMOVE=all drops them
	@$(SANDBOX) config --remove '$(REMOVE)'

env: setup ## what pulumi and kubectl need by hand: eval "$$(make -s env)"
	@$(SANDBOX) env

client-env: setup ## what MLflow's client needs: eval "$$(make -s client-env)"
	@$(SANDBOX) client-env

preflight: setup ## whether the cluster has what the stack names
	@$(SANDBOX) preflight

lock: setup ## writes the digests of a stack's images into its file, as their registries give them: STACK=prod
	@$(SANDBOX) lock

render: setup ## every object of a stack as a file: STACK=prod OUT=<folder>; needs no cluster and no secret
	@$(SANDBOX) render --out '$(or $(OUT),$(error name a folder: make render STACK=$(STACK) OUT=<folder>))'

preview: setup ## what a change will do, in words: against what runs, or against a revision with BASE=<revision>
	@$(SANDBOX) preview --base '$(BASE)'

drift: setup ## what in the cluster is no longer as the stack says
	@$(SANDBOX) drift

lint: setup ## format, lint, types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --warnings

test-fast: lint ## all tests that need no cluster
	@$(BIN)/python -m pytest tests --ignore tests/e2e --ignore tests/soak

# What runs on a node waits most of the time: all three run at once, and the output of two follows that of the first. An
# interrupt ends all.
test: lint ## the tests, on two nodes of their own
	@out=$$(mktemp -d); trap 'rm -rf '$$out EXIT; trap 'wait; exit 130' INT; \
		env --default-signal=INT $(BIN)/python -m pytest tests --ignore tests/soak --ignore tests/e2e >$$out/fast 2>&1 & fast=$$!; \
		MLFLOW_STACK_TEST_INSTANCE=$${MLFLOW_STACK_TEST_INSTANCE:-test}-2 \
			env --default-signal=INT $(BIN)/python -m pytest tests/e2e --node 2 >$$out/2 2>&1 & \
		two=$$!; $(BIN)/python -m pytest tests/e2e --node 1; ended=$$?; \
		wait $$two || ended=1; cat $$out/2; wait $$fast || ended=1; cat $$out/fast; exit $$ended

soak: lint ## all tests, the full matrices among them, which take longer
	@KILLS=25 $(BIN)/python -m pytest tests --durations=30

bench: setup ## what it costs, as ratios: bench/results
	@$(BIN)/python -m bench

docs: setup ## the documents as a site: OUT=<folder>
	@$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --doctree-dir '$(OUT)/.doctrees' docs \
		'$(or $(OUT),$(error name a folder: make docs OUT=<folder>))'
