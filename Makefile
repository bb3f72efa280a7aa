# For a fresh machine with Python, make and gcc:
#   make demo   makes a small Polish corpus, trains a separator and a recogniser on it,
#               shows what the one makes of voices, and how much of it the other understands
#   make test   runs the tests, but for a few that take a minute each
#   make page   serves a page in the browser, on this machine alone, with the demo's model
# and for those who stay longer:
#   make results   trains and tests all architectures, small, on one budget, and
#                  writes recipes/separation/README.md: some three and a half hours of two CPU cores
#                  (make results OPTIONS='--budget 1 --output_folder results/quick': 80 minutes
#                  of process time, and the page is there)
#   make test-slow runs those few, which .ci/run does too
#   make lint      checks style and types, and that pages say what their figures do
# Each makes its own virtual environment in .venv first, if it is missing or stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo

.PHONY: help demo page results test test-slow lint install benchmark clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

install: $(INSTALLED)

# A stale environment is one whose interpreter is gone or whose requirements changed.
ALIVE := $(shell $(BIN)/python -c 'print(1)' 2>/dev/null)

.PHONY: always
$(INSTALLED): requirements.txt pyproject.toml $(if $(ALIVE),,always)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; try make PYTHON=python3.11" >&2; exit 2; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV): about 5 GB, PyTorch for the most part"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		Resemblyzer==0.1.4 -e .
	@touch $@

# The demo's model is so small that a second thread costs more than it brings.
demo: export OMP_NUM_THREADS ?= 1
demo: $(INSTALLED)
	$(BIN)/python recipes/corpus/generate.py hparams/corpus/mini_polsess.yaml \
		--output_folder=$(DEMO)/MiniPolSESS --n_train=1500 --n_val=60 --n_test=100 \
		--sentences=matrix
	$(BIN)/python recipes/separation/train.py hparams/demo.yaml \
		--data_folder=$(DEMO)/MiniPolSESS --output_folder=$(DEMO)/results
	$(BIN)/python recipes/recognition/train.py hparams/recognition/demo.yaml \
		--data_folder=$(DEMO)/MiniPolSESS --output_folder=$(DEMO)/recogniser
	$(BIN)/python recipes/separation/evaluate.py $(DEMO)/results/hyperparams.yaml \
		--recogniser mini:$(DEMO)/recogniser --variants C --metrics= \
		--output_folder=$(DEMO)/words

page: $(DEMO)/exported
	$(BIN)/python recipes/separation/app.py $(DEMO)/exported \
		--examples '$(DEMO)/results/audio/*_mixture.wav'

$(DEMO)/exported: | $(INSTALLED)
	$(MAKE) demo
	$(BIN)/python recipes/separation/export.py $(DEMO)/results/hyperparams.yaml $@

results: $(INSTALLED)
	$(BIN)/python recipes/separation/benchmark_all.py --preset small --budget 8 --jobs 2 --remix=True $(OPTIONS)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) -m slow tests

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python recipes/benchmark/check_pages.py

benchmark: $(INSTALLED)
	$(BIN)/python recipes/benchmark/data.py

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
