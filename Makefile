# Every target makes its own virtual environment; the first one takes a few minutes, most of them PyTorch.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help demo test lint types wheel leaderboard pages docs bench clean

help:  ## Show this help.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: $(VENV)/.run  ## Install, then the whole main job on synthetic data, offline: train, evaluate, validate, rank.
	$(BIN)/vlmed demo

test: $(VENV)/.dev  ## Install, then all tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.dev  ## Style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Static types.
	$(BIN)/mypy

wheel: $(VENV)/.dev  ## Build the wheel and use it where there is no torch.
	.ci/check-wheel $(BIN)/python

leaderboard: $(VENV)/.run  ## Build leaderboard/ from submissions/.
	$(BIN)/vlmed leaderboard build submissions --out leaderboard

pages: $(VENV)/.run  ## Write the pages that are made from tasks.yaml and from the schemas.
	$(BIN)/vlmed tasks pages docs/tasks
	$(BIN)/python tests/docs/schema_reference.py > docs/schemas.md

docs: $(VENV)/.docs  ## Build the documentation site into site/; any broken link fails.
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev  ## Measure; prints ratios against limits and peers.
	for script in tests/bench/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:  ## Remove what these targets made.
	rm -rf $(VENV) .venv-core dist demo site

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[run]'
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
