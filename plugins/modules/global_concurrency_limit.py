#!/usr/bin/python
"""Make a global concurrency limit present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: global_concurrency_limit
short_description: Manage Prefect global concurrency limits
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a global concurrency limit over Prefect's API.
  - Limits named C(tag:*) and C(deployment:*) are parts of other objects and are refused.
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
      - Name of the limit, which flows name in C(concurrency) and C(rate_limit).
    type: str
    required: true
  state:
    description:
      - Whether the limit is there.
    type: str
    choices: [present, absent]
    default: present
  limit:
    description:
      - How many slots there are. A new limit has to have it.
    type: int
  active:
    description:
      - Whether the limit counts.
    type: bool
  slot_decay_per_second:
    description:
      - How many slots become free again each second, for a rate limit. V(0) frees a slot when it is given back.
    type: float
"""

EXAMPLES = r"""
- name: Let at most five tasks use the database at a time
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
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("global_concurrency_limit")


if __name__ == "__main__":
    main()
