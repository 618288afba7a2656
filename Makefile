# Everything that a person or CI does here. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
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

.PHONY: help env site absent
