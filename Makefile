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
# An empty one would make the playbook the inventory.
PLAY = $(RUN) ansible-playbook -i $(or $(strip $(INVENTORY)),$(error INVENTORY is empty: name an inventory, such as INVENTORY=inventories/local))
ARGS ?=
PURGE ?= 0
ALL ?= 0
HOSTS ?= 1
ONLY ?=
CHANGED ?= 0
KEEP ?= 0
BACKUP ?= latest

help: ## Show this list
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z_-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.ready ## Install the locked Python environment of the controller into .venv

$(VENV)/.ready: requirements/controller.txt roles/prefect/files/locks/uv.txt requirements/env.sh
	@PYTHON="$(PYTHON)" requirements/env.sh $(VENV)
	@touch $@

##@ Install and remove (INVENTORY=inventories/local, ARGS="--limit one.example.com")
site: ## Install what the inventory describes
absent: ## Remove it; PURGE=1: its data as well
upgrade: ## Upgrade to another version, one host at a time (ARGS="-e prefect_version=...")
shortname: ## Make the task name `preset` known to all playbooks of this user

##@ Operate
status: ## Check every host, and exit with an error if anything is wrong (ARGS="-e prefect_status_file=status.json")
restart: ## Restart every service, and wait until each is healthy
maintenance: ## Let clients wait during maintenance (ARGS="-e prefect_proxy_maintenance=true", then false)
rotate: ## Replace generated secrets on every host: docs/operations.md
secrets: ## Fetch the generated secrets from the hosts, for a controller that has lost them

##@ Data
backup: ## Back up the database while it is in use
backups: ## List the backups: when, how large, of which version, checked or proven, which one is latest
restore: ## Restore a backup (BACKUP=latest, a name that backups lists, or a file here)
reset: ## Start with an empty database; the old one is backed up (ARGS="-e prefect_server_reset=prefect")
sqlite_to_postgres: ## Move from SQLite to the PostgreSQL that the inventory names

##@ Prefect objects and flow runs
plan: ## Show what differs between Prefect and the inventory
apply: ## Apply the Prefect objects in the inventory
export: ## Write all Prefect objects to a file for an inventory
run: ## Run a deployment and wait for its end (ARGS="-e prefect_resources_run=flow/deployment")
pause: ## Pause a deployment or a work pool (ARGS="-e prefect_resources_pause=flow/deployment")
resume: ## Resume it, or a flow run that waits (ARGS="-e prefect_resources_resume=flow/deployment")
definitions: ## Apply flows that are defined as data
definitions_load: ## Load definitions from files into a database

PLAYBOOKS := $(filter-out inventory present reached,$(basename $(notdir $(wildcard playbooks/*.yml))))

absent: OWN = -e '{"prefect_purge": $(if $(filter 1,$(PURGE)),true,false)}'
restore: OWN = -e prefect_server_restore=$(BACKUP)

$(PLAYBOOKS): env
	@$(PLAY) $(if $(filter site,$@),,playbooks/)$@.yml $(OWN) $(ARGS)

##@ Develop
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

test: env ## The tests, on hosts with a real systemd (root, Debian or Ubuntu); ALL=1, ONLY=system/proxy, CHANGED=1, KEEP=1: see docs/development.md
	@$(RUN) tests/suites.py run $(if $(filter 1,$(ALL)),--all) $(if $(ONLY),--only $(ONLY)) $(if $(filter 1,$(CHANGED)),--changed) $(if $(filter 1,$(KEEP)),--keep)

matrix: env ## The tests on every supported ansible-core and Python (ONLY="2.21 2.22/3.13", HOSTS=0): docs/development.md
	@$(RUN) tests/cores.py run $(if $(ONLY),--only $(ONLY)) $(if $(filter 0,$(HOSTS)),--without-hosts)

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

test-api test-flows: export PREFECT_TEST_PYTHON := $(CURDIR)/.cache/release-3.9.1/bin/python
test-api test-flows: export PREFECT_TEST_PYTHONS := $(CURDIR)/.cache/release-3.5.0/bin/python:$(CURDIR)/.cache/release-3.9.1/bin/python
test-api test-flows: env .cache/release-3.5.0/.ready .cache/release-3.9.1/.ready

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

faults: env ## What happens to a platform on four hosts when it is upgraded, and when a part of it fails
	@trap 'tests/hosts/host end' EXIT; tests/hosts/prepare; \
	for action in destroy create prepare; do $(MOLECULE) $$action -s platform; done; \
	$(MOLECULE) converge -s platform -- --extra-vars=prefect_version=3.8.8; \
	for action in side-effect destroy; do $(MOLECULE) $$action -s platform; done

bench: env .cache/release-3.9.1/.ready ## Compare with an installation by hand, and with the floor
	@tests/hosts/prepare
	@$(RUN) python benchmarks/bench.py $(ARGS)
	@.cache/release-3.9.1/bin/python benchmarks/flows_as_data.py
	@$(RUN) python benchmarks/resources.py .cache/release-3.9.1/bin/python
	@$(RUN) PREFECT_TEST_PYTHON=$(CURDIR)/.cache/release-3.9.1/bin/python python benchmarks/starts.py

docs: env ## Write the generated pages
	@$(RUN) python docs/generate.py

controller-locks: env ## Resolve the locks of the controller, of `make matrix` and of publishing again
	@cd requirements && for name in controller publish; do \
	  ../$(VENV)/bin/uv pip compile --quiet --upgrade --universal --fork-strategy requires-python --python-version 3.11 \
	    --generate-hashes --output-file $$name.txt $$name.in; done
	@$(RUN) tests/cores.py lock

locks: env ## Resolve what hosts install, prove it on every Python found, and write the table (ONLY="3.9.1 supervisor")
	@$(RUN) python requirements/locks.py make $(ONLY)
	@$(RUN) python requirements/locks.py prove $(ONLY)
	@$(RUN) python docs/generate.py

##@ Publish
sanity: env ## ansible-test's sanity tests of what Galaxy gets, on the oldest and the newest core (ONLY="2.20 2.21")
	@$(RUN) tests/galaxy.py sanity $(if $(ONLY),--only $(ONLY))

sanity-ignore: env ## Write tests/sanity/ignore-*.txt again, from the reasons in tests/galaxy.py (ONLY="2.20 2.21")
	@$(RUN) tests/galaxy.py ignore $(if $(ONLY),--only $(ONLY))

import-check: .cache/publish/.ready ## galaxy-importer and ansible-lint, as Galaxy runs them, and the linters of documentation and changelog
	@PYTHONDONTWRITEBYTECODE= $(<D)/bin/python tests/galaxy.py import

docs-site: .cache/publish/.ready ## The documentation as a site, in .cache/docs, with every link in it followed
	@PYTHONDONTWRITEBYTECODE= $(<D)/bin/python docs/site/build.py

changelog: .cache/publish/.ready ## Make the changelog of the version in galaxy.yml from the fragments
	@PATH="$(CURDIR)/$(<D)/bin:$$PATH" antsibull-changelog release

.cache/publish/.ready: requirements/publish.txt roles/prefect/files/locks/uv.txt requirements/env.sh
	@PYTHON="$(PYTHON)" requirements/env.sh $(@D) $<
	@touch $@

.PHONY: help env $(PLAYBOOKS) check check-ansible check-types check-unit check-python check-yaml test matrix test-times test-count test-unit test-system test-molecule test-api test-local test-preset test-flows faults bench sanity sanity-ignore import-check docs-site changelog docs controller-locks locks
