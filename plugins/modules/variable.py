#!/usr/bin/python
"""Create, change or delete a variable."""

from __future__ import annotations

DOCUMENTATION = r"""
module: variable
short_description: Manage Prefect variables
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a variable over Prefect's API.
  - Everyone with access to the API can read variables. Store secrets in a block, see M(selfhosted.prefect.block).
  - An option that is left out keeps its value on an existing variable.
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
      - >-
        Name of the variable: lowercase letters, digits, dashes and underscores. Names that start with
        C(ansible_owner_) are reserved for M(selfhosted.prefect.resources).
    type: str
    required: true
  state:
    description:
      - Whether the variable exists.
    type: str
    choices: [present, absent]
    default: present
  value:
    description:
      - The value, any JSON of up to 5000 characters. Required for a new variable.
    type: raw
  tags:
    description:
      - Tags of the variable. An empty list clears them.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Set the shop's address for flows
  selfhosted.prefect.variable:
    api_url: http://127.0.0.1:4200/api
    name: shop
    value:
      url: https://shop.example.org
      retries: 3
    tags: [shop]
"""

RETURN = r"""
object:
  description:
    - The variable as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    name: shop
    value: {url: https://shop.example.org, retries: 3}
    tags: [shop]
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("variable")


if __name__ == "__main__":
    main()
