# make demo | test | test-clusters | lint | types | docs | bench | test-oldest | clean
# A fresh machine needs python3 (3.11 or newer) with venv and pip; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
PIP_INSTALL := -m pip install --disable-pip-version-check --no-color
# one thread for BLAS in each of the two test processes: tiny matrices gain nothing from more
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PYTEST_ARGS ?= -q -n 2 --dist loadgroup

.PHONY: demo test test-oldest test-clusters lint types docs bench clean

demo: $(VENV)/.installed
	$(BIN)/lmm "log_radon ~ floor + (1|county)" radon

test: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS)

# the same tests, the slow ones left out, on the oldest versions that pyproject.toml admits
test-oldest: $(OLDEST)/.installed
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(PYTEST_ARGS) -m "not slow"

# real clusters of processes on this machine; Spark needs Java 17
test-clusters: $(VENV)/.installed-test $(VENV)/.installed-spark
	$(PYTEST) -q tests/stream/test_parts.py tests/stream/test_dask.py tests/stream/test_spark.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.after
	$(BIN)/python -m benchmarks.batch
	$(BIN)/python -m benchmarks.repeated
	$(BIN)/python -m benchmarks.scale --growth

# each environment is installed once, and again when pyproject.toml changes
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "== pip installs lmm and what it needs into $(VENV); the first time this takes some minutes"
	$(BIN)/python $(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "== pip installs lmm[$*] into $(VENV); the first time this takes some minutes"
	$(BIN)/python $(PIP_INSTALL) -e ".[$*]"
	touch $@

$(OLDEST)/.installed: pyproject.toml tests/oldest.txt
	@echo "== pip installs the oldest versions that are admitted into $(OLDEST); the first time this takes some minutes"
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP_INSTALL) -c tests/oldest.txt -e ".[test-core]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
