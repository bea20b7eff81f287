# make demo   set up, then run the main job, offline, on real photographs and real classifiers
# make test   the tests            make check   lint, types and tests            make setup   only the set-up
#
# TORCH_INDEX names another index for torch and torchvision, such as PyTorch's own for CPU builds:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo setup test check lint types clean

demo: setup
	$(BIN)/apibench run data/recipes/demo.toml

setup: $(VENV)/installed

# The stamp is newer than what the set-up is made from: a second `make` installs nothing.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apibench needs Python 3.11 or newer; name one with make PYTHON=python3.11")'
	@echo "Installing into $(VENV) (a few minutes; the sizes are in README.md)"
	$(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	$(PIP) --no-deps --index-url $(TORCH_INDEX) torch torchvision
endif
	$(PIP) hatchling
	$(PIP) --no-build-isolation --editable '.[aws,azure,clarifai-lean,google,demo,evaluation,dev]'
	@touch $@

test: setup
	$(BIN)/python -m pytest

check: setup lint types test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) reports/demo
