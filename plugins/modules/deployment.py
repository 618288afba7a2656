#!/usr/bin/python
"""Make a deployment present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment
short_description: Manage Prefect deployments
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a deployment with its schedules over Prefect's API. The code of the flow is not
    looked at.
  - >-
    Only what differs is written: schedules that have not changed keep their ids and their planned runs.
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
  flow:
    description:
      - Name of the flow. One that is not there is created.
    type: str
    required: true
  name:
    description:
      - Name of the deployment.
    type: str
    required: true
  state:
    description:
      - Whether the deployment is there.
      - Deleting it deletes its runs that have not begun.
    type: str
    choices: [present, absent]
    default: present
  description:
    description:
      - What the deployment is for. An empty text clears it.
    type: str
  version:
    description:
      - Version of the deployment. An empty text clears it.
    type: str
  tags:
    description:
      - Tags of the deployment and its runs. An empty list clears them.
    type: list
    elements: str
  labels:
    description:
      - Labels. They can only be chosen when the deployment is created, and changed with O(recreate). Others that it
        has are left alone.
    type: dict
  entrypoint:
    description:
      - Where the flow is, as C(file.py:function) or C(package.module.function). An empty text clears it.
    type: str
  path:
    description:
      - Directory of the code for a worker, if O(pull_steps) do not say it. An empty text clears it.
    type: str
  pull_steps:
    description:
      - What a worker does to get the code, as in a C(prefect.yaml). An empty list clears them.
    type: list
    elements: dict
  parameters:
    description:
      - Parameters of its runs. They replace those that are there. They are checked against the flow's schema, if that
        is known, before anything is written.
    type: dict
  parameter_openapi_schema:
    description:
      - The flow's parameters as JSON Schema. The Prefect client writes it when it deploys.
    type: dict
  enforce_parameter_schema:
    description:
      - Whether runs with parameters that do not fit the schema are refused.
    type: bool
  job_variables:
    description:
      - Variables of the work pool's job template. They replace those that are there.
    type: dict
  work_pool:
    description:
      - The work pool of its runs. An empty text takes the deployment out of its pool, which older versions of Prefect
        cannot do.
    type: str
  work_queue:
    description:
      - The queue in O(work_pool). Where only the pool is given and changes, it is V(default).
    type: str
  concurrency_limit:
    description:
      - How many of its runs may run at the same time. V(-1) removes the limit.
    type: int
  global_concurrency_limit:
    description:
      - Name of a global concurrency limit that its runs share with others, instead of O(concurrency_limit). An empty
        text removes it.
    type: str
  concurrency_options:
    description:
      - What becomes of a run over the limit, C(collision_strategy) (V(ENQUEUE) or V(CANCEL_NEW)) and
        C(grace_period_seconds). An empty mapping clears it.
    type: dict
  paused:
    description:
      - Whether its schedules are paused as a whole.
    type: bool
  schedules:
    description:
      - All schedules of the deployment, each one of C(cron), C(interval) and C(rrule). An empty list removes them.
      - A schedule is found again by its slug, else by when it fires, else by its place. What has not changed keeps
        its id, its anchor and its planned runs.
    type: list
    elements: dict
    suboptions:
      cron:
        description:
          - When it fires, as a cron expression.
        type: str
      day_or:
        description:
          - How O(schedules[].cron) reads a day of the month and a day of the week, either of them, or with V(false)
            both. V(true) unless given.
        type: bool
      interval:
        description:
          - Seconds between two runs.
        type: float
      anchor_date:
        description:
          - The point in time that intervals are counted from, in ISO 8601. Left out, it is left alone, and the moment
            of creation for a new schedule.
        type: str
      rrule:
        description:
          - When it fires, as a recurrence rule of RFC 5545.
        type: str
      timezone:
        description:
          - The time zone, such as V(Europe/Berlin). UTC unless given.
        type: str
      active:
        description:
          - Whether it fires. Left out, it is left alone.
        type: bool
      parameters:
        description:
          - Parameters of its runs, over those of the deployment. Left out, they are left alone.
        type: dict
      max_scheduled_runs:
        description:
          - How many runs are planned ahead. V(-1) leaves it to the server.
        type: int
      slug:
        description:
          - A name for the schedule, by which it is found again.
        type: str
  pauses:
    description:
      - What becomes of a pause of the deployment or of a schedule that is not wanted, by V(false) in O(paused) or
        V(true) in C(active). V(enforce) ends it. V(keep) takes it for a person's and leaves it alone.
    type: str
    choices: [keep, enforce]
    default: enforce
  recreate:
    description:
      - Whether the deployment may be deleted and made anew where O(labels) change. Its planned runs are planned
        again; runs that have begun are kept.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run a flow every morning and every ten minutes
  selfhosted.prefect.deployment:
    api_url: http://127.0.0.1:4200/api
    flow: stock
    name: daily
    work_pool: main
    entrypoint: stock.py:stock
    path: /var/lib/prefect/flows
    parameters:
      items: [apples, pears]
    tags: [shop]
    schedules:
      - slug: morning
        cron: 0 6 * * *
        timezone: Europe/Berlin
      - slug: often
        interval: 600
        active: false

- name: Pause it
  selfhosted.prefect.deployment:
    api_url: http://127.0.0.1:4200/api
    flow: stock
    name: daily
    paused: true

- name: Let it run by hand only
  selfhosted.prefect.deployment:
    api_url: http://127.0.0.1:4200/api
    flow: stock
    name: daily
    schedules: []
"""

RETURN = r"""
object:
  description:
    - The deployment as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    flow: stock
    name: daily
    work_pool: main
    work_queue: default
    paused: false
    schedules:
      - slug: morning
        cron: 0 6 * * *
        day_or: true
        timezone: Europe/Berlin
        active: true
kept:
  description: The pauses that were kept.
  returned: success
  type: list
  elements: str
  sample: [paused]
request:
  description:
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("deployment", {"pauses": {"type": "str", "choices": ["keep", "enforce"], "default": "enforce"}})


if __name__ == "__main__":
    main()
