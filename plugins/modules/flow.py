#!/usr/bin/python
"""Create, change or delete a flow."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flow
short_description: Manage Prefect flows
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a flow over Prefect's API. Deploying or running a flow also creates it.
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
      - Name of the flow.
    type: str
    required: true
  state:
    description:
      - Whether the flow exists.
      - Deleting a flow deletes its deployments and the history of its runs.
    type: str
    choices: [present, absent]
    default: present
  tags:
    description:
      - Tags of the flow. An empty list clears them. If left out, the flow keeps its tags.
    type: list
    elements: str
  labels:
    description:
      - Labels of the flow. They can only be set when it is created. Its other labels stay.
    type: dict
"""

EXAMPLES = r"""
- name: Create a flow with a tag
  selfhosted.prefect.flow:
    api_url: http://127.0.0.1:4200/api
    name: stock
    tags: [shop]
"""

RETURN = r"""
object:
  description:
    - The flow as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: stock
    tags: [shop]
    labels: {}
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("flow")


if __name__ == "__main__":
    main()
