# `make train` and `make test` each work as the first thing typed in a fresh
# clone: they make .venv and install into it what they need, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAIN_FLAGS ?=
PYTEST_FLAGS ?=
# Two processes, each with whole files, whose fixtures are costly.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: train test test-slow native clean
.NOTPARALLEL:

train: $(VENV)/.native
	$(BIN)/python -m experiments.train_auc $(TRAIN_FLAGS)

test: $(VENV)/.installed-dev $(VENV)/.native
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(PYTEST_FLAGS)

test-slow: $(VENV)/.installed-serving $(VENV)/.native
	$(PYTEST) -m slow $(PYTEST_FLAGS)

# The fast forms for the CPU, built beside their source; without a compiler
# there is nothing to build, and the library works all the same.
native: $(VENV)/.native

$(VENV)/.native: $(VENV)/.installed setup.py $(wildcard harmonrank_jax/*.h harmonrank_jax/*/*.h harmonrank_jax/*/native.cc)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@ $(VENV)/.installed

# What slow tests of serving need beside, most of it Spark with its Java.
$(VENV)/.installed-serving: requirements-serving.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-serving.txt
	touch $@ $(VENV)/.installed-dev $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f harmonrank_jax/_native*.so
