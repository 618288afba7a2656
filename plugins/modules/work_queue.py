#!/usr/bin/python
"""Create, change or delete a work queue."""

from __future__ import annotations

DOCUMENTATION = r"""
module: work_queue
short_description: Manage Prefect work queues
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a queue of a work pool over Prefect's API.
  - An option that is left out keeps its value on an existing queue.
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
  work_pool:
    description:
      - The pool that the queue belongs to. It must exist.
    type: str
    required: true
  name:
    description:
      - Name of the queue. The queue V(default) is created and deleted with its pool; it can be changed, but not
        deleted on its own.
    type: str
    required: true
  state:
    description:
      - Whether the queue exists.
      - Deployments are left without a queue when their queue is deleted. Assign another one to them first.
    type: str
    choices: [present, absent]
    default: present
  description:
    description:
      - What the queue is for. An empty text clears it.
    type: str
  concurrency_limit:
    description:
      - How many flow runs of the queue may run at the same time. V(-1) removes the limit, V(0) prevents all runs.
    type: int
  is_paused:
    description:
      - Whether the queue is paused. Workers then get no flow runs from it.
    type: bool
  priority:
    description:
      - Priority of the queue within its pool; V(1) is the highest. Prefect moves the other queues back to make room,
        so set the queues of a pool in the order of their priorities.
    type: int
"""

EXAMPLES = r"""
- name: Create a queue for urgent runs with the highest priority
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
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("work_queue")


if __name__ == "__main__":
    main()
