#!/usr/bin/python
"""Create, change or delete a work pool."""

from __future__ import annotations

DOCUMENTATION = r"""
module: work_pool
short_description: Manage Prefect work pools
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a work pool over Prefect's API.
  - An option that is left out keeps its value on an existing pool.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the options that change.
    support: full
options:
  name:
    description:
      - Name of the pool. Prefect reserves names that start with C(prefect), in any case.
      - It must not contain any of C(/ % & < >).
    type: str
    required: true
  state:
    description:
      - Whether the pool exists.
      - Deleting a pool also deletes its queues and its list of workers, and leaves its deployments without a pool.
    type: str
    choices: [present, absent]
    default: present
  type:
    description:
      - What runs the pool's flow runs, such as V(process), V(docker) or V(kubernetes).
      - It is set when the pool is created (default V(process)) and can only be changed with O(recreate).
    type: str
  description:
    description:
      - What the pool is for. An empty text clears it.
    type: str
  concurrency_limit:
    description:
      - How many flow runs of the pool may run at the same time. V(-1) removes the limit, V(0) prevents all runs.
    type: int
  is_paused:
    description:
      - Whether the pool is paused. Workers then get no flow runs from it; runs that are due wait and become Late.
    type: bool
  base_job_template:
    description:
      - Job template of the pool's flow runs with C(job_configuration) and C(variables), as C(prefect work-pool get-
        default-base-job-template) prints it. It replaces the whole template.
      - The first worker of a pool without a template fills in the default of its type. So set this only for a
        template of your own, and never to an empty mapping.
      - Ansible must not evaluate the template's C({{ }}). Read it from a file, as in the example, or tag it C(!unsafe).
    type: dict
  recreate:
    description:
      - Whether a pool of another O(type) may be deleted and recreated. Its queues are recreated and its deployments
        reassigned to it; its list of workers starts empty.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Create a pool for at most ten concurrent processes
  selfhosted.prefect.work_pool:
    api_url: http://127.0.0.1:4200/api
    name: main
    type: process
    concurrency_limit: 10

- name: Pause the pool before an upgrade
  selfhosted.prefect.work_pool:
    api_url: http://127.0.0.1:4200/api
    name: main
    is_paused: true

- name: Remove the limit and use a job template from a file
  selfhosted.prefect.work_pool:
    api_url: http://127.0.0.1:4200/api
    name: main
    concurrency_limit: -1
    base_job_template: "{{ lookup('ansible.builtin.file', 'main.json') | from_json }}"

- name: Set the address once for several tasks
  module_defaults:
    group/selfhosted.prefect.api:
      api_url: https://prefect.example.org/api
      api_auth: "{{ prefect_api_auth }}"
  block:
    - name: Remove a pool
      selfhosted.prefect.work_pool:
        name: old
        state: absent
"""

RETURN = r"""
object:
  description:
    - The work pool as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: main
    type: process
    description: null
    concurrency_limit: 10
    is_paused: false
    status: READY
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("work_pool")


if __name__ == "__main__":
    main()
