# make demo   sets up what it needs, makes a small world, trains on it, evaluates, prints the table
# make screenshots  makes README's pictures from the pages of the demo (needs Chromium)
# make test   sets up what it needs, checks the code, runs the tests and prints the coverage
# make docs   writes the docs site into site/
# make setup  only installs, into $(VENV); nothing is installed twice
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
# One thread a process: the tests run a process a core, and two threads on two busy cores are many times slower.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH := $(CURDIR)

.PHONY: setup demo screenshots test fast test-slow lint style types copies format docs coverage
setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m minigpt4.sample_world.demo

screenshots: $(STAMP)
	$(BIN)/python -m tools.screenshots --demo . --out docs/images

# Some tests wait for time-outs or other processes. Half as many test processes again as cores use these waits.
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')
TEST_PROCESSES ?= $(shell expr $(CORES) + $(CORES) / 2)
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n $(TEST_PROCESSES)

# mypy and pylint use one core each, so they run beside the tests.
test: style
	$(MAKE) --no-print-directory -j 3 types copies fast

fast: $(STAMP)
	$(PYTEST) -m "not slow" --cov --cov-report term:skip-covered

# The coverage counts the test processes, not the processes that a test starts.
coverage: fast

test-slow: lint
	$(PYTEST)

lint: style
	$(MAKE) --no-print-directory -j 2 types copies

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

# The cache lies in the environment, so that a new clone with the same one checks only what has changed.
types: $(STAMP)
	$(BIN)/mypy --cache-dir $(VENV)/.mypy_cache

copies: $(STAMP)
	$(BIN)/pylint minigpt4 train.py eval_scripts benchmarks tools

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
