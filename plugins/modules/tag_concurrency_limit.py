#!/usr/bin/python
"""Create, change or delete a tag concurrency limit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tag_concurrency_limit
short_description: Manage Prefect concurrency limits by tag
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes the limit on the task runs with a tag over Prefect's API.
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
  tag:
    description:
      - The tag.
    type: str
    required: true
  state:
    description:
      - Whether the limit exists.
    type: str
    choices: [present, absent]
    default: present
  concurrency_limit:
    description:
      - How many task runs with the tag may run at the same time. V(0) prevents all runs. Required for a new limit.
    type: int
"""

EXAMPLES = r"""
- name: Limit the task runs with a tag to two at a time
  selfhosted.prefect.tag_concurrency_limit:
    api_url: http://127.0.0.1:4200/api
    tag: shop
    concurrency_limit: 2
"""

RETURN = r"""
object:
  description:
    - The tag concurrency limit as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    tag: shop
    concurrency_limit: 2
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("tag_concurrency_limit")


if __name__ == "__main__":
    main()
