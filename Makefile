# `make train` and `make test` each work as the first thing typed in a fresh
# clone: they make .venv and install into it what they need, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAIN_FLAGS ?=

.PHONY: train test test-slow clean

train: $(VENV)/.installed
	$(BIN)/python -m experiments.train_auc $(TRAIN_FLAGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@ $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
