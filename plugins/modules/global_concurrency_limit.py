#!/usr/bin/python
"""Create, change or delete a global concurrency limit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: global_concurrency_limit
short_description: Manage Prefect global concurrency limits
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a global concurrency limit over Prefect's API.
  - Limits named C(tag:*) and C(deployment:*) belong to other objects and are rejected.
  - An option that is left out keeps its value on an existing limit.
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
      - Name of the limit, as flows pass it to C(concurrency) and C(rate_limit).
    type: str
    required: true
  state:
    description:
      - Whether the limit exists.
    type: str
    choices: [present, absent]
    default: present
  limit:
    description:
      - Number of slots. Required for a new limit.
    type: int
  active:
    description:
      - Whether Prefect enforces the limit.
    type: bool
  slot_decay_per_second:
    description:
      - For a rate limit, how many slots become free each second. With V(0), a slot is free once it is released.
    type: float
"""

EXAMPLES = r"""
- name: Limit the database to five concurrent tasks
  selfhosted.prefect.global_concurrency_limit:
    api_url: http://127.0.0.1:4200/api
    name: database
    limit: 5
"""

RETURN = r"""
object:
  description:
    - The global concurrency limit as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: database
    limit: 5
    active: true
    slot_decay_per_second: 0.0
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("global_concurrency_limit")


if __name__ == "__main__":
    main()
