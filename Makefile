# make demo        reconstruct synthetic objects on the CPU and write a report
# make test        run all tests
# make lint        check style and types
# make docs        build the documentation; a warning is an error
# make benchmark   measure how fast everything is on this machine
# make viewer      bundle three.js for the report anew, after a change in pmni/reporting/three (needs npm)
#
# Each but the last sets up .venv first. PYTHON chooses the interpreter; TORCH is what pip installs as PyTorch,
# for example `make demo TORCH=torch==2.6.0`.

PYTHON ?= python3
CORES ?= all
# Without a GPU PyTorch's own index has a smaller build. pip would retry for minutes where it is out
# of reach: it is asked once, and then PyPI's build is installed.
CPU_INDEX := https://download.pytorch.org/whl/cpu
HAS_CPU_INDEX = $(PYTHON) -c 'import urllib.request as r; r.urlopen("$(CPU_INDEX)/torch/", timeout=3)'
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null),Linux)
TORCH ?= torch $$($(HAS_CPU_INDEX) 2>/dev/null && echo --extra-index-url $(CPU_INDEX))
else
TORCH ?= torch
endif

BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test lint docs benchmark viewer clean

demo: .venv/installed
	$(RUN) snakemake --configfile config/demo.yaml --cores $(CORES)
	@echo
	@echo "The report: $(CURDIR)/results/report/index.html"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint

docs: .venv/installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(RUN) sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo
	@echo "The documentation: $(CURDIR)/docs/_build/html/index.html"

benchmark: .venv/installed
	$(RUN) python -m benchmarks --output benchmarks/results

viewer:
	cd pmni/reporting/three && npm ci && npm run build

clean:
	rm -rf .venv

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,slurm]'
	touch $@
