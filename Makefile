# Everything a newcomer needs; `make help` lists it. Only Python 3.11+ and make are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# what was installed for another folder, or only half, is installed again
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: help setup train test lint type docs bench gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY)  ## make the virtual environment and install stockenh into it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else "stockenh needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV); the first time this takes some minutes, for torch is large"
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@printf '%s' '$(CURDIR)' > $(READY)

train: $(READY)  ## train on the shipped real bars, print the result and where the pictures are
	$(BIN)/stockenh train

test: $(READY) lint type  ## lint, types and all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

lint: $(READY)  ## ruff: style and common mistakes
	$(BIN)/ruff check .

type: $(READY)  ## mypy --strict
	$(BIN)/mypy

docs: $(READY)  ## the docs as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open site/index.html; the search works with a server: $(BIN)/python -m http.server --directory site'

bench: $(READY)  ## measure this machine: training, inference, data, against the plain recipe (under ten minutes)
	$(BIN)/stockenh bench

gpu: $(READY)  ## check and measure this machine's GPU, in outputs/gpu (at most six minutes)
	@$(BIN)/python tools/gpu.py

clean:  ## remove the virtual environment and caches, keep outputs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
