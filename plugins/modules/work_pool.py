#!/usr/bin/python
"""Make a work pool present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: work_pool
short_description: Manage Prefect work pools
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a work pool over Prefect's API.
  - An option that is left out is left alone on one that exists.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Predicts the change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the options that change.
    support: full
options:
  name:
    description:
      - Name of the pool. Prefect keeps names that start with C(prefect), in any case, for itself.
      - It may not hold any of C(/ % & < >).
    type: str
    required: true
  state:
    description:
      - Whether the pool is there.
      - Deleting a pool leaves its deployments without one, and deletes its queues and its list of workers.
    type: str
    choices: [present, absent]
    default: present
  type:
    description:
      - What runs the pool's flow runs, such as V(process), V(docker) or V(kubernetes).
      - It is chosen when the pool is created (V(process) unless given) and can only be changed with O(recreate).
    type: str
  description:
    description:
      - What the pool is for. An empty text clears it.
    type: str
  concurrency_limit:
    description:
      - How many flow runs of the pool may run at the same time. V(-1) removes the limit, V(0) lets none run.
    type: int
  is_paused:
    description:
      - Whether the pool hands out no flow runs. Runs that are due then wait, and become Late.
    type: bool
  base_job_template:
    description:
      - What the pool's flow runs are made of, C(job_configuration) and C(variables), as C(prefect work-pool get-
        default-base-job-template) prints it. It replaces the whole template.
      - The first worker of a pool without a template fills in that of its type. So leave this out unless the template
        is yours, and do not give an empty one.
      - The template's own C({{ }}) is not Ansible's. Read it from a file, as in the example, or tag it C(!unsafe).
    type: dict
  recreate:
    description:
      - Whether a pool of another O(type) may be deleted and made anew. Its queues are made again and its deployments
        brought back to it; its list of workers begins anew.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Have a pool for at most ten processes at a time
  selfhosted.prefect.work_pool:
    api_url: http://127.0.0.1:4200/api
    name: main
    type: process
    concurrency_limit: 10

- name: Stop handing out flow runs before an upgrade
  selfhosted.prefect.work_pool:
    api_url: http://127.0.0.1:4200/api
    name: main
    is_paused: true

- name: Remove the limit, and use a job template from a file
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
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("work_pool")


if __name__ == "__main__":
    main()
