#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: environment_locks
short_description: Lock the packages of environments of deployments
description:
  - Resolves each environment once, with the Prefect of the release, into a hashed requirement file on the controller,
    from which all hosts install the same packages.
  - Runs on the controller and connects to no host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  environments:
    description:
      - Environments, each with C(name), C(requirements), C(requirements_file) and C(python).
    type: list
    elements: dict
    required: true
  directory:
    description: Directory on the controller that keeps the locks. It is created if it does not exist.
    type: path
    required: true
  base:
    description: Directory on the controller that a C(requirements_file) is relative to.
    type: path
    required: true
  version:
    description: Version of Prefect, which every environment has.
    type: str
    required: true
  requirements:
    description: Content of the release's lock, whose versions are preferred; empty if it has none.
    type: str
    default: ''
  constraints:
    description: Content of a constraint file.
    type: str
    default: ''
  uv:
    description: Path of the controller's uv; empty if it has none.
    type: str
    default: ''
  uv_lock:
    description:
      - Content of a hashed requirement file of uv. Without O(uv), its wheel is fetched from the package index.
    type: str
    default: ''
  index_url:
    description: Package index to use instead of uv's default.
    type: str
    default: ''
  ca_bundle:
    description: File of the certificate authorities to trust when fetching packages, if the controller has it.
    type: str
    default: ''
attributes:
  check_mode:
    description: Resolves what has no lock yet, and keeps no lock.
    support: full
"""

EXAMPLES = r"""
- name: Lock the environments
  selfhosted.prefect.environment_locks:
    environments:
      - {name: etl, requirements: ["pandas==2.3.*"]}
    directory: environments
    base: "{{ inventory_dir }}"
    version: 3.8.8
    uv: "{{ lookup('selfhosted.prefect.uv').path }}"
"""

RETURN = r"""
locks:
  description: The content of each lock, by the environment's name.
  returned: success
  type: dict
made:
  description: The environments that were resolved now.
  returned: success
  type: list
  elements: str
"""
