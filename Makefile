# Everything that a person or CI does here. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
# Bytecode is written even where the environment says otherwise: without it each command takes twice as long.
RUN := PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
MOLECULE := $(RUN) ANSIBLE_HOME=$(CURDIR)/.ansible MOLECULE_COMMAND_BORDERS=false MOLECULE_GLOB='molecule/*/molecule.yml' molecule
INVENTORY ?= inventories/local
ARGS ?=
PURGE ?= 0

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.ready ## Install the locked Python environment of the controller into .venv

$(VENV)/.ready: requirements/controller.txt requirements/uv.txt requirements/env.sh
	@PYTHON="$(PYTHON)" requirements/env.sh $(VENV)
	@touch $@

site: env ## Put a complete Prefect on the inventory's hosts (INVENTORY=..., ARGS=...)
	@$(RUN) ansible-playbook -i $(INVENTORY) site.yml $(ARGS)

absent: env ## Take it away again (PURGE=1: the data too)
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/absent.yml -e '{"prefect_purge": $(if $(filter 1,$(PURGE)),true,false)}' $(ARGS)

status: env ## Ask every host how it is; exit code 0 when all is well (ARGS="-e prefect_status_file=status.json": as JSON)
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/status.yml $(ARGS)

check: env ## Lint, types, docs and unit tests: under a minute, without a network
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target check-unit check-ansible check-types check-python check-yaml

check-ansible: env
	@$(RUN) tests/lint.py

check-types: env
	@$(RUN) mypy

check-unit: env
	@$(RUN) pytest --numprocesses=2 tests/unit

check-python: env
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .

check-yaml: env
	@$(RUN) yamllint --strict .

# The longest first, two at a time; each line says whose it is.
test: check ## Every test of the project, on hosts with a real systemd (root, Debian or Ubuntu)
	@trap 'tests/hosts/host end' EXIT; tests/hosts/prepare; \
	$(MAKE) --no-print-directory --jobs=2 --keep-going LABEL="| sed --unbuffered 's/^/\$$(@:test-%=%) | /'" test-system test-molecule test-here

test-system: env
	@$(RUN) pytest -vv tests/system $(LABEL)

test-molecule: env
	@$(MOLECULE) test --all $(LABEL)

# What needs no host.
test-here: env
	@$(MAKE) --no-print-directory --jobs=1 LABEL= test-preset test-api test-flows $(LABEL)

test-api test-flows: export PREFECT_TEST_PYTHON := $(CURDIR)/.cache/release-3.8.8/bin/python
test-api test-flows: export PREFECT_TEST_PYTHONS := $(CURDIR)/.cache/release-3.5.0/bin/python:$(CURDIR)/.cache/release-3.9.1/bin/python
test-api test-flows: env .cache/release-3.5.0/.ready .cache/release-3.8.8/.ready .cache/release-3.9.1/.ready

test-api:
	@$(RUN) pytest tests/api

test-flows:
	@$(RUN) pytest tests/flows

test-preset: env
	@$(RUN) pytest tests/preset

.cache/release-%/.ready: roles/prefect/files/locks/%.txt roles/prefect/files/locks/celery/%.txt | env
	@$(VENV)/bin/uv venv --quiet --clear $(@D)
	@$(VENV)/bin/uv pip sync --quiet --require-hashes --python $(@D) $^
	@touch $@

faults: env ## What happens to a platform on four hosts when a part of it fails
	@trap 'tests/hosts/host end' EXIT; tests/hosts/prepare; \
	for action in destroy create prepare converge side-effect destroy; do $(MOLECULE) $$action -s platform; done

bench: env .cache/release-3.8.8/.ready ## Measure ourselves against the way by hand and against the floor
	@tests/hosts/prepare
	@$(RUN) python benchmarks/bench.py $(ARGS)
	@.cache/release-3.8.8/bin/python benchmarks/flows_as_data.py
	@$(RUN) python benchmarks/resources.py .cache/release-3.8.8/bin/python

docs: env ## Write the generated pages anew
	@$(RUN) python docs/generate.py

lock: env ## Resolve every lock anew: the controller's and Prefect's
	@cd requirements && for name in uv controller; do \
	  ../$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $$name.in -o $$name.txt; done
	@$(RUN) python requirements/locks.py make

.PHONY: help env site absent status check check-ansible check-types check-unit check-python check-yaml test test-system test-molecule test-here test-api test-preset test-flows faults bench docs lock
