#!/usr/bin/python
"""Make a variable present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: variable
short_description: Manage Prefect variables
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a variable over Prefect's API.
  - >-
    Everybody who may use the API can read variables. Keep a secret in a block: M(selfhosted.prefect.block).
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
      - >-
        Name of the variable: lowercase letters, digits, dashes and underscores. Names that start with
        C(ansible_owner_) are kept for M(selfhosted.prefect.resources).
    type: str
    required: true
  state:
    description:
      - Whether the variable is there.
    type: str
    choices: [present, absent]
    default: present
  value:
    description:
      - >-
        The value: any JSON, up to 5000 characters. A new variable has to have one.
    type: raw
  tags:
    description:
      - Tags of the variable. An empty list clears them.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Tell flows where the shop is
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
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("variable")


if __name__ == "__main__":
    main()
