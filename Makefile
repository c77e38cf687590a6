# make demo   sets up what it needs, makes a small world, trains on it, evaluates, prints the table
# make screenshots  makes README's pictures from the pages of the demo (needs Chromium)
# make test   sets up what it needs, checks the code and runs the tests
# make docs   writes the docs site into site/
# make setup  only installs, into $(VENV); nothing is installed twice
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
# One thread a process: the tests run a process a core, and two threads on two busy cores are many times slower.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH := $(CURDIR)

.PHONY: setup demo screenshots test test-slow lint types copies format docs coverage
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

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto -m "not slow"

# Prints the coverage of minigpt4 by file. Counting costs a third more time, so that `make test` does without.
coverage: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto -m "not slow" --cov --cov-report term:skip-covered

test-slow: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(MAKE) --no-print-directory -j 2 types copies

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
