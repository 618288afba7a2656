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
ALL ?= 0
ONLY ?=
CHANGED ?= 0
KEEP ?= 0
BACKUP ?= latest

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

backup: env ## Back up the database while it is in use
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/backup.yml $(ARGS)

backups: env ## List the backups: when, how large, of which version, checked or not, which one is latest
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/backups.yml $(ARGS)

restore: env ## Restore a backup (BACKUP=latest, a name that backups lists, or a file here)
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/restore.yml -e prefect_server_restore=$(BACKUP) $(ARGS)

secrets: env ## Fetch the generated secrets from the hosts, for a controller that has lost them
	@$(RUN) ansible-playbook -i $(INVENTORY) playbooks/secrets.yml $(ARGS)

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

test: env ## The tests, on hosts with a real systemd (root, Debian or Ubuntu); ALL=1, ONLY=system/proxy, CHANGED=1, KEEP=1: see README
	@$(RUN) tests/suites.py run $(if $(filter 1,$(ALL)),--all) $(if $(ONLY),--only $(ONLY)) $(if $(filter 1,$(CHANGED)),--changed) $(if $(filter 1,$(KEEP)),--keep)

test-times: env ## How long the last run of the tests took, by suite and test, beside the run before it
	@$(RUN) tests/suites.py times

test-count: env ## How many tests and assertions there are, by suite (COMMIT=...: and how many there were)
	@$(RUN) tests/suites.py count $(COMMIT)

test-unit: env
	@$(RUN) pytest --numprocesses=2 $(or $(TESTS),tests/unit)

test-system: env
	@$(RUN) pytest -vv $(or $(TESTS),tests/system)

test-molecule: env
	@$(if $(filter 1,$(KEEP)),$(MOLECULE) dependency $(or $(TESTS),--all) &&) \
	$(MOLECULE) test $(or $(TESTS),--all) $(if $(filter 1,$(KEEP)),--destroy=never)

test-api test-flows: export PREFECT_TEST_PYTHON := $(CURDIR)/.cache/release-3.8.8/bin/python
test-api test-flows: export PREFECT_TEST_PYTHONS := $(CURDIR)/.cache/release-3.5.0/bin/python:$(CURDIR)/.cache/release-3.9.1/bin/python
test-api test-flows: env .cache/release-3.5.0/.ready .cache/release-3.8.8/.ready .cache/release-3.9.1/.ready

test-api:
	@$(RUN) pytest -vv $(or $(TESTS),tests/api)

test-flows:
	@$(RUN) pytest -vv $(or $(TESTS),tests/flows)

test-local: env
	@$(RUN) pytest -vv $(or $(TESTS),tests/local)

test-preset: env
	@$(RUN) pytest -vv $(or $(TESTS),tests/preset)

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

.PHONY: help env site absent status backup backups restore secrets check check-ansible check-types check-unit check-python check-yaml test test-times test-count test-unit test-system test-molecule test-api test-local test-preset test-flows faults bench docs lock
