#!/usr/bin/python
"""Make a work queue present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: work_queue
short_description: Manage Prefect work queues
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a queue of a work pool over Prefect's API.
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
  work_pool:
    description:
      - The pool that the queue belongs to. It has to be there.
    type: str
    required: true
  name:
    description:
      - >-
        Name of the queue. The queue V(default) comes and goes with its pool: it can be changed, not deleted.
    type: str
    required: true
  state:
    description:
      - Whether the queue is there.
      - >-
        Deployments of a queue that is deleted move to none: give them another one first.
    type: str
    choices: [present, absent]
    default: present
  description:
    description:
      - What the queue is for. An empty text clears it.
    type: str
  concurrency_limit:
    description:
      - How many flow runs of the queue may run at the same time. V(-1) removes the limit, V(0) lets none run.
    type: int
  is_paused:
    description:
      - Whether the queue hands out no flow runs.
    type: bool
  priority:
    description:
      - Place of the queue among those of its pool, V(1) is served first. Prefect moves the other queues back to make
        room, so set the queues of a pool in the order of their priorities.
    type: int
"""

EXAMPLES = r"""
- name: Serve urgent runs first, three at a time
  selfhosted.prefect.work_queue:
    api_url: http://127.0.0.1:4200/api
    work_pool: main
    name: urgent
    priority: 1
    concurrency_limit: 3
"""

RETURN = r"""
object:
  description:
    - The work queue as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    work_pool: main
    name: urgent
    priority: 1
    concurrency_limit: 3
    is_paused: false
request:
  description:
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("work_queue")


if __name__ == "__main__":
    main()
