# `make help` lists the targets. Only Python, make and the wheels that pip finds are needed; no compiler.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13 DJANGO=6.1     another Python, in an environment of its own
#   make test ARGS="-k outbox -x"                              arguments for pytest

PYTHON ?= python3
VENV ?= .venv
DJANGO ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all:

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(VENV)/.installed-demo ## the whole flow on real input, with a table of what each receiver did
	$(BIN)/python -m project.demo

serve: $(VENV)/.installed-demo ## the site alone, to be used by hand until Ctrl-C
	$(BIN)/python -m project.demo --serve

test: $(VENV)/.installed-test ## every test, against real services; those that do not run are started
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-lint ## ruff, mypy and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright

clean: ## remove the environment, caches and what the demo keeps
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist var
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "No venv: install the module (Debian: apt-get install python3-venv) or name another Python, PYTHON=..."; exit 1; }

# One stamp for each extra: the demo does not wait for the tests' tools. A change of pyproject.toml installs again.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing signalq[$*] into $(VENV)"
	@$(PIP) --editable '.[$*]' $(if $(DJANGO),'Django~=$(DJANGO).0')
	@touch $@
