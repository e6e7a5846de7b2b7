# Everything a newcomer needs; `make help` lists it. Only Python 3.11+ and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
READY := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
LOWEST := .venv-lowest
SPREAD := --numprocesses auto --dist loadscope --no-loadscope-reorder
EXTRAS := explain,gbm,joblib,kronos,mlflow,postgresql,slurm,tensorboard,wandb,yahoo

# what was installed for another folder, or only half, is installed again
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: help setup train test test-deep test-lowest lint type docs bench gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY)  ## make the virtual environment and install stockenh into it, without what only tests need

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "stockenh needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV); the first time this takes some minutes, for torch is large"
	$(PIP) --editable .
	@printf '%s' '$(CURDIR)' > $@

$(DEV): $(READY)
	@echo "installing what lint, types and tests need"
	$(PIP) --editable '.[dev]'
	@touch $@

train: $(READY)  ## train on the shipped real bars, print the result and where the pictures are
	$(BIN)/stockenh train

test: $(DEV) lint type  ## lint, types and the tests of every rule
	$(BIN)/python -m pytest $(SPREAD)

test-deep: $(DEV)  ## the same rules in more combinations and with more engines: kills, Slurm, Ray, trackers, golden weights
	$(BIN)/python -m pytest $(SPREAD) -m deep

test-lowest:  ## every command once, with the lowest versions of libraries that pyproject.toml allows
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[$(EXTRAS)]'
	$(LOWEST)/bin/python tools/smoke.py

lint: $(DEV)  ## ruff: style and common mistakes
	$(BIN)/ruff check .

type: $(DEV)  ## mypy --strict
	$(BIN)/mypy

docs: $(DEV)  ## the docs as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open site/index.html; the search works with a server: $(BIN)/python -m http.server --directory site'

bench: $(READY)  ## measure this machine: training, inference, data, against the plain recipe (under ten minutes)
	$(BIN)/stockenh bench

gpu: $(DEV)  ## check and measure this machine's GPU, in outputs/gpu (at most six minutes)
	@$(BIN)/python tools/gpu.py

clean:  ## remove the virtual environment and caches, keep outputs/
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
