# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED = 0
export RAY_AUTH_MODE = disabled

.PHONY: install demo test test-all check lint clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; name yours with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing into $(VENV): about 5 minutes and 7 GB, most of it PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: install
	$(BIN)/duskfuse demo

# Tests without Ray on two processes, then those that share one Ray.
test: check
	$(BIN)/python -m pytest -n 2 -m "not ray and not slow"
	$(BIN)/python -m pytest -m "ray and not slow"

test-all: check
	$(BIN)/python -m pytest

# What `make lint` would change or refuse, without changing anything.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

lint: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean:
	rm -rf demo .pytest_cache .ruff_cache .mypy_cache .grimp_cache .import_linter_cache
