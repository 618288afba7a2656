#!/usr/bin/python
"""Create, change or delete a deployment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment
short_description: Manage Prefect deployments
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a deployment with its schedules over Prefect's API. The module does not read the
    flow's code.
  - It writes only what differs. Unchanged schedules keep their ids and their scheduled runs.
  - An option that is left out keeps its value on an existing deployment.
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
  flow:
    description:
      - Name of the flow. It is created if it does not exist.
    type: str
    required: true
  name:
    description:
      - Name of the deployment.
    type: str
    required: true
  state:
    description:
      - Whether the deployment exists.
      - Deleting it deletes its runs that have not started.
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
      - Labels. They are set when the deployment is created and can only be changed with O(recreate). Its other labels
        stay.
    type: dict
  entrypoint:
    description:
      - Location of the flow, as C(file.py:function) or C(package.module.function). An empty text clears it.
    type: str
  path:
    description:
      - Directory of the code on the worker, unless O(pull_steps) set it. An empty text clears it.
    type: str
  pull_steps:
    description:
      - Steps by which a worker gets the code, as in C(prefect.yaml). An empty list clears them.
    type: list
    elements: dict
  parameters:
    description:
      - Parameters of its runs. They replace the existing ones. If the flow's schema is known, they are checked against
        it before anything is written.
    type: dict
  parameter_openapi_schema:
    description:
      - The flow's parameters as JSON Schema. The Prefect client writes it when it deploys.
    type: dict
  enforce_parameter_schema:
    description:
      - Whether Prefect rejects runs whose parameters do not match the schema.
    type: bool
  environment:
    description:
      - The environment of packages in which a process worker runs it, an entry of C(prefect_environments) on the
        workers' hosts. It stands as C(command) in the job variables. An empty text runs it with the packages of the
        release.
    type: str
  job_variables:
    description:
      - Variables of the work pool's job template. They replace the existing ones, and without O(environment) that one
        as well.
    type: dict
  work_pool:
    description:
      - The work pool of its runs. An empty text removes the deployment from its pool, which older versions of Prefect
        do not support.
    type: str
  work_queue:
    description:
      - The queue in O(work_pool). If only the pool is set and changes, it is V(default).
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
      - How a run over the limit is handled, with C(collision_strategy) (V(ENQUEUE) or V(CANCEL_NEW)) and
        C(grace_period_seconds). An empty mapping clears it.
    type: dict
  paused:
    description:
      - Whether all its schedules are paused.
    type: bool
  schedules:
    description:
      - All schedules of the deployment. Each sets one of C(cron), C(interval) and C(rrule). An empty list removes
        them.
      - A schedule is matched by its slug, else by when it fires, else by its position. An unchanged schedule keeps its
        id, its anchor and its scheduled runs.
    type: list
    elements: dict
    suboptions:
      cron:
        description:
          - Cron expression of when it fires.
        type: str
      day_or:
        description:
          - Whether a day of the month and a day of the week in O(schedules[].cron) match if either does, or with
            V(false) only if both do. Default V(true).
        type: bool
      interval:
        description:
          - Seconds between two runs.
        type: float
      anchor_date:
        description:
          - Time from which intervals are counted, in ISO 8601. If left out, it does not change; for a new schedule, it
            is the time of creation.
        type: str
      rrule:
        description:
          - Recurrence rule of when it fires (RFC 5545).
        type: str
      timezone:
        description:
          - The time zone, such as V(Europe/Berlin). Default UTC.
        type: str
      active:
        description:
          - Whether it fires. If left out, it does not change.
        type: bool
      parameters:
        description:
          - Parameters of its runs, which override those of the deployment. If left out, they do not change.
        type: dict
      max_scheduled_runs:
        description:
          - How many runs are scheduled ahead. V(-1) leaves it to the server.
        type: int
      slug:
        description:
          - A name that identifies the schedule.
        type: str
  pauses:
    description:
      - How to handle a paused deployment or schedule where O(paused) is V(false) or C(active) is V(true). V(enforce)
        resumes it. V(keep) assumes that a person paused it and leaves it paused.
    type: str
    choices: [keep, enforce]
    default: enforce
  recreate:
    description:
      - Whether the deployment may be deleted and recreated if O(labels) change. Its scheduled runs are scheduled
        again; runs that have started are kept.
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

- name: Pause the deployment
  selfhosted.prefect.deployment:
    api_url: http://127.0.0.1:4200/api
    flow: stock
    name: daily
    paused: true

- name: Remove its schedules so that it only runs by hand
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
  description: The pauses that O(pauses=keep) left in place.
  returned: success
  type: list
  elements: str
  sample: [paused]
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("deployment", {"pauses": {"type": "str", "choices": ["keep", "enforce"], "default": "enforce"}})


if __name__ == "__main__":
    main()
