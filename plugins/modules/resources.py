#!/usr/bin/python
"""Apply lists of Prefect objects in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: resources
short_description: Reconcile all Prefect objects in one call
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Takes work pools, queues, variables, blocks, limits, automations, flows and deployments as lists, reads the
    server's objects in pages, and writes what differs. It writes in the order of dependencies, with as many requests
    at a time as the server can handle.
  - An entry has the options of the kind's own module, such as M(selfhosted.prefect.deployment), and O(ignore:state).
    An option that is left out keeps its value on an existing object.
  - All errors in the lists are reported together, before anything is written. The next run completes an interrupted
    one. Two controllers may run at the same time.
  - Field names of older definitions are accepted as well. C(pool_type) and C(config.base_job_template) of a pool;
    C(flow_name), C(work_pool_name), C(work_queue_name), C(schedule) and C(schedule_type) with C(schedule_config) of
    a deployment, where an interval of 0 means no schedule; and C(is_active). Prefect 3 does not have C(description)
    and C(flow_type) of a flow; they are ignored.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the fields that change, object by object. For a secret, it only shows that it changes.
    support: full
options:
  prefect_work_pools:
    description:
      - Work pools, as in M(selfhosted.prefect.work_pool).
    type: list
    elements: dict
  prefect_work_queues:
    description:
      - Work queues, as in M(selfhosted.prefect.work_queue).
    type: list
    elements: dict
  prefect_variables:
    description:
      - Variables, as in M(selfhosted.prefect.variable).
    type: list
    elements: dict
  prefect_block_types:
    description:
      - Block types of your own, as in M(selfhosted.prefect.block_type).
    type: list
    elements: dict
  prefect_blocks:
    description:
      - Blocks, as in M(selfhosted.prefect.block). Their secrets are never shown.
    type: list
    elements: dict
  prefect_global_concurrency_limits:
    description:
      - Global concurrency limits, as in M(selfhosted.prefect.global_concurrency_limit).
    type: list
    elements: dict
  prefect_tag_concurrency_limits:
    description:
      - Concurrency limits by tag, as in M(selfhosted.prefect.tag_concurrency_limit).
    type: list
    elements: dict
  prefect_flows:
    description:
      - Flows, as in M(selfhosted.prefect.flow). The flows of deployments need not be listed.
    type: list
    elements: dict
  prefect_deployments:
    description:
      - Deployments, as in M(selfhosted.prefect.deployment).
    type: list
    elements: dict
  prefect_automations:
    description:
      - Automations, as in M(selfhosted.prefect.automation).
    type: list
    elements: dict
  lists:
    description:
      - Lists by name instead of the options above, as M(selfhosted.prefect.info) returns them in C(resources).
        An option above overrides the list of the same name.
    type: dict
    default: {}
  owner:
    description:
      - Name of the owner of these objects, for servers that several inventories use. The module stores on the server
        what an owner creates, in variables whose names begin with C(ansible_owner_OWNER_).
      - The module refuses to change or delete a deployment of another owner, since each owner would change it back.
    type: str
    default: ansible
  former_owner:
    description:
      - An owner that several inventories shared before each had its own. Listed objects of it become those of O(owner).
    type: str
    default: ""
  prune:
    description:
      - Whether to delete objects that O(owner) created and that are no longer listed. Objects of a list that is left
        out stay; an empty list deletes all.
      - The module never deletes objects that others created, built-in objects, objects that a remaining one needs, and
        flows with a history of runs.
    type: bool
    default: false
  adopt:
    description:
      - Whether O(owner) takes over listed objects that exist already, as if it had created them. With V(true), their
        previous owner loses them. With V(unowned), only objects without an owner are taken over, and the module
        refuses to change an object of another owner, of whatever kind.
    type: str
    choices: ["false", unowned, "true"]
    default: "false"
  pauses:
    description:
      - How to handle a deployment or schedule that is paused although the lists do not say so. V(keep) assumes that a
        person paused it and leaves it paused, V(enforce) resumes it.
    type: str
    choices: [keep, enforce]
    default: keep
  inactive:
    description:
      - Whether an entry with V(false) in C(is_active) is paused or absent.
    type: str
    choices: [paused, absent]
    default: paused
  recreate:
    description:
      - Whether an object may be deleted and recreated if it cannot be changed, such as a work pool of another type.
    type: bool
    default: false
  concurrency:
    description:
      - Maximum number of concurrent requests. The module begins with one and adapts to the load of the server.
    type: int
    default: 4
"""

EXAMPLES = r"""
- name: Create a pool, a secret and a deployment
  selfhosted.prefect.resources:
    api_url: http://127.0.0.1:4200/api
    prune: true
    prefect_work_pools:
      - name: main
        type: process
        concurrency_limit: 10
    prefect_blocks:
      - block_type: secret
        name: shop-password
        data:
          value: "{{ vault_shop_password }}"
    prefect_deployments:
      - flow: stock
        name: daily
        work_pool: main
        entrypoint: stock.py:stock
        path: /var/lib/prefect/flows
        schedules:
          - cron: 0 6 * * *
            timezone: Europe/Berlin
  register: prefect

- name: Show what has changed
  ansible.builtin.debug:
    var: prefect.plan
"""

RETURN = r"""
plan:
  description:
    - What was done, or would be in check mode, one line per object. C(+) is created, C(~) changed, C(-) deleted, C(±)
      recreated, and C(=) kept in spite of the lists.
  returned: success
  type: list
  elements: str
  sample:
    - "+ work pool main (type: process, concurrency_limit: 10)"
    - "~ deployment stock/daily (version: 1 -> 2)"
    - "- variable old"
changes:
  description: The same in machine-readable form.
  returned: success
  type: list
  elements: dict
  contains:
    action:
      description: C(create), C(update), C(recreate) or C(delete).
      type: str
    kind:
      description: The kind of the object, such as C(work_pool).
      type: str
    key:
      description: Its name, such as C(stock/daily).
      type: str
    fields:
      description: C(before) and C(after) of each field.
      type: dict
summary:
  description: Number of objects for each action, and of C(unchanged) and C(adopted) ones.
  returned: success
  type: dict
  sample: {create: 1, update: 1, recreate: 0, delete: 1, unchanged: 40, adopted: 0}
kept:
  description: What was kept in spite of the lists, and why.
  returned: success
  type: list
  elements: str
  sample: ["deployment stock/daily: paused"]
requests:
  description: Number of requests that were sent.
  returned: success
  type: int
  sample: 14
errors:
  description: All errors in the lists.
  returned: when the lists have errors
  type: list
  elements: str
done:
  description: What had been done before the failure.
  returned: when the module failed while writing
  type: list
  elements: str
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..module_utils.api.module import SECRETS, Api, Failure, mask_of, run_module
from ..module_utils.objects.engine import Kind
from ..module_utils.objects.reconcile import reconcile
from ..module_utils.objects.table import KINDS
from ..module_utils.objects.wishes import Wish

LISTS = {kind.list_name: kind for kind in KINDS.values()}


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the module's result. Raises Failure."""
    wish = Wish(
        **{name: params[name] for name in ("owner", "prune", "adopt", "pauses", "inactive", "recreate", "concurrency")},
        former=params["former_owner"],
        check_mode=check_mode,
    )
    wanted = {**params["lists"], **{name: params[name] for name in LISTS if params[name] is not None}}
    mask = mask_of(params)
    try:
        report, server = reconcile(api, wanted, wish, mask)
    except Failure as failure:
        failure.details[SECRETS] = [text for kind, entry in entries(wanted) for text in kind.suspects(entry, mask)]
        raise
    secrets = [
        text
        for kind, entry in entries(wanted)
        for text in kind.secrets(entry, server, kind.key(kind.renamed({**dict.fromkeys(kind.keys), **entry})))
    ]
    server.close()
    diff = [todo.diff for todo in report.plans]
    return {**report.result(server), "diff": diff, SECRETS: secrets}


def entries(wanted: Mapping[str, Any]) -> Iterator[tuple[Kind, Mapping[str, Any]]]:
    """Yield every object of the lists with its kind."""
    for name, given in wanted.items():
        if name in LISTS and isinstance(given, list):
            yield from ((LISTS[name], entry) for entry in given if isinstance(entry, Mapping))


def main() -> None:
    lists: dict[str, dict[str, Any]] = {name: {"type": "list", "elements": "dict", "no_log": True} for name in LISTS}
    run_module(
        work,
        {
            **lists,
            "lists": {"type": "dict", "default": {}, "no_log": True},
            "owner": {"type": "str", "default": "ansible"},
            "former_owner": {"type": "str", "default": ""},
            "prune": {"type": "bool", "default": False},
            "adopt": {"type": "str", "choices": ["false", "unowned", "true"], "default": "false"},
            "pauses": {"type": "str", "choices": ["keep", "enforce"], "default": "keep"},
            "inactive": {"type": "str", "choices": ["paused", "absent"], "default": "paused"},
            "recreate": {"type": "bool", "default": False},
            "concurrency": {"type": "int", "default": 4},
        },
    )


if __name__ == "__main__":
    main()
