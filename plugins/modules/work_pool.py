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
  - An option that is left out is left alone on a pool that exists.
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
      - It is chosen when the pool is created (V(process) unless given) and cannot be changed.
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
      - What the pool's flow runs are made of, C(job_configuration) and C(variables), as C(prefect work-pool
        get-default-base-job-template) prints it. It replaces the whole template.
      - The first worker of a pool without a template fills in that of its type. So leave this out unless the template
        is yours, and do not give an empty one.
      - The template's own C({{ }}) is not Ansible's. Read it from a file, as in the example, or tag it C(!unsafe).
    type: dict
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
    - The pool as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: main
    type: process
    status: READY
    is_paused: false
    concurrency_limit: 10
request:
  description:
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
  sample:
    method: GET
    path: /work_pools/main
    status: 401
    body:
      exception_message: Unauthorized
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..module_utils.resource import Field, Resource, run


def complaints(wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the server would refuse (403 and 422)."""
    name, limit, template = (wanted.get(option) for option in ("name", "concurrency_limit", "base_job_template"))
    if str(name).lower().startswith("prefect"):
        yield "Prefect keeps names that start with 'prefect' for itself: choose another name"
    if not re.fullmatch(r"[^/%&<>]+", str(name)):
        yield "name must not be empty or hold any of / % & < >"
    if limit is not None and limit < -1:
        yield f"concurrency_limit is {limit}: it is at least 0, or -1 for no limit"
    if template is not None and not {"job_configuration", "variables"} <= template.keys():
        yield (
            "base_job_template needs job_configuration and variables; leave it out to keep the one that is there, "
            "or to let the first worker fill it in"
        )


WORK_POOL = Resource(
    kind="work pool",
    collection="/work_pools/",
    item="/work_pools/{key}",
    fields={
        "type": Field(default="process", immutable=True),
        "description": Field(clear=""),
        "concurrency_limit": Field(clear=-1),
        "is_paused": Field(),
        "base_job_template": Field(),
    },
    complaints=complaints,
)


def main() -> None:
    run(
        WORK_POOL,
        {
            "type": {"type": "str"},
            "description": {"type": "str"},
            "concurrency_limit": {"type": "int"},
            "is_paused": {"type": "bool"},
            "base_job_template": {"type": "dict"},
        },
    )


if __name__ == "__main__":
    main()
