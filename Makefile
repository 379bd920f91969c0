# make demo: virtual environment, then the main job on scikit-learn's digits.
# make check: virtual environment, then lint, types, import rules and tests.
# make check-all: the same with the tests marked slow, and every program started, none forked.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu gets the small CPU build.
TORCH_INDEX ?=
# Optional dependencies: tests of those that are not installed are skipped.
EXTRAS ?= dev

.PHONY: demo check check-all lint faults fuzz lock clean

demo: $(VENV)/.ready
	$(BIN)/lepton run digits --budget 3m

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check-all: lint
	LEPTON_TESTS_START_PROCESSES=1 $(BIN)/python -m pytest -m "" -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An hour of injected faults (tests/faults); every case that shows a fault is kept in .faults/.
faults: $(VENV)/.ready
	$(BIN)/python -m tests.faults --seconds $(or $(LEPTON_FAULTS_SECONDS),3600) \
	  --seed $(or $(LEPTON_FAULTS_SEED),0)

# 10,000 damaged ONNX files instead of the suite's 200.
fuzz: $(VENV)/.ready
	LEPTON_MUTATED=10000 $(BIN)/python -m pytest -s -n 0 tests/compress/test_external_load.py -k damaged

# Exact versions of today's newest releases that pyproject.toml admits, but torch, which is pinned.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --no-deps torch==2.13.0
	$(VENV)-lock/bin/pip install --quiet '.[dev,audio,parquet,litert,dask]'
	{ head -1 constraints.txt; $(VENV)-lock/bin/pip freeze --exclude lepton-automl \
	  | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# torch first and alone, so that the build already chosen (or found on disk) is the one that stays.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps torch -c constraints.txt \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]' -c constraints.txt
	touch $@
