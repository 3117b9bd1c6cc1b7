# EnergyLens: `make quickstart` does the main job, `make test` runs the whole test suite.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
GPU_OUT ?= runs/gpu-check
GPU_SLICE_S ?= 480
# One thread each for the linear algebra of small problems: faster, and the cores stay free.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: quickstart install install-dev check format test bench gpu-check clean help

help:
	@echo "make quickstart  install, then sweep -> run -> fit -> evaluate -> recommend -> report"
	@echo "make test        install, then the whole test suite"
	@echo "make check       format, lint, types, import contracts"
	@echo "make bench       speed and quality figures (docs/benchmarks.md)"
	@echo "make gpu-check   one slice (8 min at most) of the GPU check on a CUDA machine (docs/gpu.md)"
	@echo "make clean       remove what was built here (not your runs)"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"EnergyLens needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

quickstart: $(VENV)/.installed
	$(BIN)/energylens run sweeps/quickstart.yaml --out $(RUN)
	$(BIN)/energylens fit $(RUN) --out $(RUN)/fit.json --samples 50
	$(BIN)/energylens evaluate $(RUN) --samples 50
	$(BIN)/energylens recommend $(RUN)/fit.json
	$(BIN)/energylens report $(RUN)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/fleet
	$(BIN)/python -m pytest tests/fleet

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run_all.py

# No install: what the machine has must do. Call it again to go on.
gpu-check:
	PYTHONPATH=. $(PYTHON) -m harness.gpucheck --out $(GPU_OUT) --slice-s $(GPU_SLICE_S)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
