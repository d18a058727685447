# `make help` lists the targets. Only Python, make and the wheels that pip finds are needed; no compiler.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13 DJANGO=6.1     another Python, in an environment of its own
#   make test ARGS="-k outbox -x"                              arguments for pytest
#   make test JOBS=0                                           in one process; many tests mostly wait, so the default is 3

PYTHON ?= python3
VENV ?= .venv
DJANGO ?=
ARGS ?=
JOBS ?= 3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all:

.DEFAULT_GOAL := help
.PHONY: help demo serve up down test matrix package messages faults fuzz bench scale docs lint clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(VENV)/.installed-demo ## the whole flow on real input, with a table of what each receiver did
	$(BIN)/python -m project.demo

serve: $(VENV)/.installed-demo ## the site alone, to be used by hand until Ctrl-C
	$(BIN)/python -m project.demo --serve

up: ## the demo in containers, by Docker Compose, until all are healthy; PROFILES=rabbitmq,metrics for more of them
	@docker compose version >/dev/null 2>&1 || { echo "No Docker Compose here. make demo and make serve need no Docker."; exit 1; }
	@docker version >/dev/null 2>&1 || { echo "No Docker engine answers: start it, or set DOCKER_HOST. make serve needs none."; exit 1; }
	@$(if $(PROFILES),COMPOSE_PROFILES=$(PROFILES)) docker compose up --build --detach --wait || \
	  { docker compose ps --all; echo "What is not healthy says why: docker compose logs SERVICE"; exit 1; }
	@for each in "web 8000 shop" "mailpit 8025 mails" "flower 5555 Flower" "prometheus 9090 Prometheus" "grafana 3000 Grafana"; do \
	  set -- $$each; at=$$(docker compose --profile '*' port $$1 $$2 2>/dev/null) && echo "$$3: http://$$at/"; done; true

down: ## end these containers; what they have stored stays, but for VOLUMES=1
	docker compose --profile '*' down --remove-orphans $(if $(VOLUMES),--volumes)

test: $(VENV)/.installed-test ## every test, against real services; those that do not run are started
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

matrix: $(VENV)/.installed-nox ## the unit tests on every Python, Django and Celery there is here, an hour: ARGS="--list", ARGS="-s lowest"
	$(BIN)/nox $(ARGS)

package: $(VENV)/.installed-nox ## build the wheel and the source distribution into dist/, and check them
	$(BIN)/nox -s package $(ARGS)

messages: $(VENV)/.installed-test ## the catalogs of signalq/locale, from the sources; needs gettext: LOCALE=fr for a new language
	cd signalq && $(abspath $(BIN))/django-admin makemessages $(if $(LOCALE),-l $(LOCALE),-a) --add-location file --no-wrap --no-obsolete
	cd signalq && $(abspath $(BIN))/django-admin compilemessages

fuzz: $(VENV)/.installed-test ## fuzzing of what a worker reads, minutes: SECONDS=300 for each target, SEED=
	$(BIN)/python -m tests.fuzz all --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

faults: $(VENV)/.installed-test ## the table of faults, each with many kills; its figures go into docs/reliability.md
	rm -rf var/faults
	-$(BIN)/python -m pytest -m "fault and alone" -v --long --durations=15 --faults=var/faults/alone.json $(ARGS)
	-$(BIN)/python -m pytest -m "fault and not alone" -v --long -n 4 --dist worksteal --durations=40 --faults=var/faults/together.json $(ARGS)
	$(BIN)/python -m tests.faults.table docs/reliability.md var/faults/*.json

bench: ## signalq, hand-written Celery and peers side by side, QUICK=1 for a short one; the table is kept in var/bench.md
	@$(MAKE) --no-print-directory VENV=$(VENV)-bench $(VENV)-bench/.installed-bench
	@$(MAKE) --no-print-directory VENV=$(VENV)-batches $(VENV)-batches/.installed-batches
	BENCH_BATCHES_PYTHON=$(CURDIR)/$(VENV)-batches/bin/python $(VENV)-bench/bin/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

scale: ## how signalq grows, what its constants do, what a delivery costs: docs/scale.md; kept in var/scale.md, QUICK=1 to see it run
	@$(MAKE) --no-print-directory VENV=$(VENV)-bench $(VENV)-bench/.installed-bench
	$(VENV)-bench/bin/python -m benchmarks.scale $(if $(QUICK),--quick) $(ARGS)

docs: $(VENV)/.installed-docs ## the documentation, into var/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Read var/site/index.html, or with search: $(BIN)/python -m http.server --directory var/site"

lint: $(VENV)/.installed-lint ## ruff, mypy and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright

clean: ## remove the environment, caches and what the demo keeps
	rm -rf $(VENV) $(VENV)-bench $(VENV)-batches .nox .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist var
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
