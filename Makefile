# Every target sets up its own needs in a local virtual environment; nothing but Python >= 3.10 and make is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?= -n 2

# What the fast tests need beside fairloss[report]. fairloss[dev] would ask for a newer Triton than that of torch 2.6.
TEST_TOOLS := pytest pytest-cov pytest-xdist hypothesis safetensors tqdm fairlearn geomloss torchmetrics

.PHONY: bench demo tables test test-all test-oldest test-torch test-verl mutation docs release-check lint types format clean

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and by itself: resolved through the constraints it is a single pinned file.
$(VENV)/.torch: constraints.txt $(VENV)/.created
	$(PIP) torch
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[report]" tqdm SurvSet
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/.all: $(VENV)/.dev
	$(PIP) --editable ".[dev,examples,trl,bench,docs]" lightning
	touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[bench,trl]"
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.torch
	$(PIP) --editable ".[docs]"
	touch $@

demo: $(VENV)/.demo  ## the main job: real patients, before and after the recipe that the study recommends
	$(BIN)/python examples/patients.py

test: $(VENV)/.dev lint types  ## lint, types, doctests, contract, oracles, tables
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.all lint types  ## the above, examples, several processes, frameworks, fuzzing
	$(BIN)/python -m pytest $(PYTEST_ARGS) --all --cov

bench: $(VENV)/.bench  ## every operation against what PyPI offers; writes BENCHMARKS.md, its pictures and benchmarks/results
	$(BIN)/python -m benchmarks

# Which test reaches which line comes from a run of the fast tests; the mutants then run against those tests.
MUTATION := build/mutation
SEED ?= 1
MUTATION_ARGS ?= --jobs 2
mutation: $(VENV)/.dev  ## mutation score of the fast tests on a stratified sample; SEED=2 draws another
	$(PIP) --requirement tools/mutation/requirements.txt
	mkdir -p $(MUTATION)/reach
	COVERAGE_FILE=$(MUTATION)/reach/coverage $(BIN)/python -m pytest -q $(PYTEST_ARGS) --cov=fairloss --cov-context=test \
		--cov-report= --junitxml=$(MUTATION)/times.xml
	PYTHONPATH=tools OMP_NUM_THREADS=1 $(BIN)/python -m mutation --coverage $(MUTATION)/reach/coverage \
		--times $(MUTATION)/times.xml --results $(MUTATION)/results --seed $(SEED) $(MUTATION_ARGS)

tables: $(VENV)/.dev  ## what is made from the catalogue of losses and from the signatures: tables, API pages, lazy names
	$(BIN)/python -m tools.tables

docs: $(VENV)/.docs  ## the documentation, as a site under site/; a warning is an error
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html through a server: $(BIN)/python -m http.server --directory site"

# Tools of the release alone, apart from what the project is developed with.
$(VENV)-release/.created: constraints.txt
	$(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build twine cffconvert
	touch $@

release-check: $(VENV)-release/.created  ## build sdist and wheel, try the wheel alone in clean environments, with and without each extra
	$(VENV)-release/bin/python tools/release_check.py

# verl pins its own transformers, hence an environment of its own; torch first, as above, so that nothing brings another.
VERL_VENV ?= .venv-verl
VERL_PIP := $(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-verl.txt

$(VERL_VENV)/.verl: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_PIP) torch
	$(VERL_PIP) --editable ".[verl]" pytest cachetools fastapi uvicorn
	touch $@

test-verl: $(VERL_VENV)/.verl  ## FairGRPO in verl's v1 and legacy trainers, without GPU engines
	$(VERL_VENV)/bin/python -m pytest tests/integrations/with_verl tests/integrations/test_verl_state.py fairloss/integrations/verl.py

# The oldest versions that the package admits, on the oldest Python. PyPI's torch is a CUDA build of several gigabytes.
# Old packages warn of what new ones deprecate, hence -W default; what needs a newer Triton is skipped with that reason.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.10
OLDEST_PIP := $(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt

$(OLDEST)/.created: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST_PIP) torch
	$(OLDEST_PIP) --editable ".[report]" $(TEST_TOOLS)
	touch $@

test-oldest: $(OLDEST)/.created  ## the fast tests on the oldest versions of everything
	$(OLDEST)/bin/python -m pytest $(PYTEST_ARGS) -W default

# Another torch than the pinned one, with the Triton that it brings; the rest as pinned.
TORCH ?= 2.14.1
OTHER := .venv-torch-$(TORCH)

$(OTHER)/.created: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OTHER)
	grep --invert-match --extended-regexp '^(torch|triton)[=>]' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OTHER)/constraints.txt \
		--editable ".[report]" $(TEST_TOOLS)
	touch $@

test-torch: $(OTHER)/.created  ## the fast tests on TORCH=2.14.1, say, and PYTHON=python3.13
	$(OTHER)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv* site .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
