# Everything a newcomer needs: `make repro` draws the paper's figures on the embedded dataset, `make test` runs the tests.
# Both make the environment first (.venv, several gigabytes because of torch).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help repro test lint faults bench bench-check bench-gpu clean

help:
	@echo "make repro   set up, then draw every figure on the embedded dataset and print the path of the report"
	@echo "make test    set up, then lint, type-check and test"
	@echo "make faults  set up, then plant faults one at a time and show that the tests catch each"
	@echo "make bench   set up, then time every op and whole fits beside their peers"
	@echo "make bench-check [BASE=COMMIT] [NEW=OPERATION]  time this tree and an earlier commit in turns; fails on a regression"
	@echo "make bench-gpu  check and time every kernel on the GPU at hand; needs torch and triton, and no network"
	@echo "make clean   remove the environment (runs/ stays)"

$(BIN)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(BIN)/.ready-bench: $(BIN)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	@touch $@

repro: $(BIN)/.ready
	$(BIN)/paper-repro run

lint: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: $(BIN)/.ready
	$(BIN)/python tests/planted_faults.py

bench: $(BIN)/.ready-bench
	$(BIN)/python -m benchmarks.record
	$(BIN)/python -m benchmarks.report

bench-check: $(BIN)/.ready-bench
	$(BIN)/python -m benchmarks.check $(BASE) $(if $(NEW),--new $(NEW))

# Where torch and triton are at hand already (a machine with a GPU often has them), nothing is installed.
bench-gpu:
	@if $(PYTHON) -c "import numpy, torch, triton" 2>/dev/null; then $(PYTHON) -m benchmarks.gpu; \
	else $(MAKE) $(BIN)/.ready && $(BIN)/python -m benchmarks.gpu; fi

clean:
	rm -rf $(VENV)
