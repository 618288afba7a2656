#!/usr/bin/python
"""Bring everything inside Prefect to what is written down, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: resources
short_description: Reconcile everything inside Prefect in one call
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Takes work pools, queues, variables, blocks, limits, automations, flows and deployments as lists, reads what the
    server has in pages, and writes what differs, in the order in which objects need each other, several at a time
    where the server bears it.
  - An entry has the options of the kind's own module, such as M(selfhosted.prefect.deployment), and O(ignore:state).
    What is left out is left alone.
  - Everything that is wrong is reported at once, before anything is written. A run that was interrupted is finished
    by the next one. Two controllers may run at the same time.
  - Words of older definitions are taken as well. C(pool_type) and C(config.base_job_template) of a pool;
    C(flow_name), C(work_pool_name), C(work_queue_name), C(schedule) and C(schedule_type) with C(schedule_config) of
    a deployment, where an interval of 0 is no schedule; and C(is_active). C(description) and C(flow_type) of a flow
    have no place in Prefect 3 and are left out.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Predicts the changes, and changes nothing.
    support: full
  diff_mode:
    description: Shows the fields that change, object by object. Of a secret, only that it changes.
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
      - Flows, as in M(selfhosted.prefect.flow). Those of deployments need not be listed.
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
      - Lists by name, in the place of the options above, as M(selfhosted.prefect.info) returns them in C(resources).
        An option above wins over the list of its name.
    type: dict
    default: {}
  owner:
    description:
      - Who makes these objects, where several inventories use one server. What an owner makes is remembered on the
        server, in variables whose names begin with C(ansible_owner_OWNER_).
      - A change of a deployment that another owner made is refused, since each would change it back.
    type: str
    default: ansible
  prune:
    description:
      - Whether to delete what O(owner) made and what is not in a list any more. A list that is left out is left
        alone, an empty one wants nothing.
      - Objects that somebody else made, Prefect's own, and those that something which stays needs are never deleted;
        nor is a flow with a history of runs.
    type: bool
    default: false
  adopt:
    description:
      - Whether objects of the lists that were there already become those of O(owner), as if it had made them, and
        are no other owner's any more.
    type: bool
    default: false
  pauses:
    description:
      - What becomes of a pause of a deployment or of a schedule that is not wanted. V(keep) takes it for a person's
        and leaves it alone, V(enforce) ends it.
    type: str
    choices: [keep, enforce]
    default: keep
  inactive:
    description:
      - What an entry with V(false) in C(is_active) is, paused or absent.
    type: str
    choices: [paused, absent]
    default: paused
  recreate:
    description:
      - Whether an object may be deleted and made anew where it cannot be changed, such as the type of a work pool.
    type: bool
    default: false
  concurrency:
    description:
      - How many requests are under way at a time at most. It begins with one and adapts to what the server bears.
    type: int
    default: 4
"""

EXAMPLES = r"""
- name: Have a pool, a secret and a deployment
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
    - What was done, or would be in check mode, a line an object. C(+) is new, C(~) changes, C(-) goes, C(±) is made
      anew, and C(=) stays as it is in spite of the lists.
  returned: success
  type: list
  elements: str
  sample:
    - "+ work pool main (type: process, concurrency_limit: 10)"
    - "~ deployment stock/daily (version: 1 -> 2)"
    - "- variable old"
changes:
  description: The same for a program.
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
      description: By field, C(before) and C(after).
      type: dict
summary:
  description: How many objects there are of each action, and C(unchanged) and C(adopted) ones.
  returned: success
  type: dict
  sample: {create: 1, update: 1, recreate: 0, delete: 1, unchanged: 40, adopted: 0}
kept:
  description: What stays as it is in spite of the lists, and why.
  returned: success
  type: list
  elements: str
  sample: ["deployment stock/daily: paused"]
requests:
  description: How many requests it took.
  returned: success
  type: int
  sample: 14
errors:
  description: Everything that is wrong with the lists.
  returned: when something is
  type: list
  elements: str
done:
  description: What had been done until a failure.
  returned: when it failed while writing
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

from ..module_utils.api import SECRETS, Api, Failure, mask_of, run_module
from ..module_utils.kinds import KINDS
from ..module_utils.reconcile import Wish, reconcile
from ..module_utils.resource import Kind

LISTS = {kind.list_name: kind for kind in KINDS.values()}


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the module's result. Raises Failure."""
    wish = Wish(
        **{name: params[name] for name in ("owner", "prune", "adopt", "pauses", "inactive", "recreate", "concurrency")},
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
    """Yield every object of the lists, as far as they hold any, with its kind."""
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
            "prune": {"type": "bool", "default": False},
            "adopt": {"type": "bool", "default": False},
            "pauses": {"type": "str", "choices": ["keep", "enforce"], "default": "keep"},
            "inactive": {"type": "str", "choices": ["paused", "absent"], "default": "paused"},
            "recreate": {"type": "bool", "default": False},
            "concurrency": {"type": "int", "default": 4},
        },
    )


if __name__ == "__main__":
    main()
