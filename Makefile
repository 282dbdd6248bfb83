# Two commands do everything: `make demo` and `make test`. Each sets up what it needs first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONDONTWRITEBYTECODE =  # without compiled files every start of a process compiles the package again

.PHONY: demo check test stress lint clean

demo: $(VENV)/.demo ## See the paper work: select layers, train base and AI-STA, compare, open the report.
	$(BIN)/aista demo

check: lint ## Style, types, floors, and the tests that are not slow.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not stress"

test: $(VENV)/.dev ## Run every test but those of stress, a process per core.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

stress: $(VENV)/.dev ## The tests that take minutes each, one after the other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m stress --timeout 1800 tests

lint: $(VENV)/.dev ## Style, types, and the order of floors.
	$(BIN)/ruff check . && $(BIN)/ruff format --check src tests benchmarks tools && $(BIN)/mypy && $(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean: ## Forget the environment and every run.
	rm -rf $(VENV) runs
