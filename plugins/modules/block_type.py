#!/usr/bin/python
"""Make a block type present or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: block_type
short_description: Manage Prefect block types
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a type of block over Prefect's API, where Python code does not register it
    (C(prefect block register)).
  - A change of O(schema) adds a schema, of which the newest counts. Blocks that exist keep theirs until they are
    changed.
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
  slug:
    description:
      - >-
        What the type is called in addresses and in O(selfhosted.prefect.block#module:block_type): lowercase letters,
        digits and dashes.
    type: str
    required: true
  state:
    description:
      - Whether the type is there.
      - Deleting a type deletes its blocks. Prefect's own types cannot be deleted.
    type: str
    choices: [present, absent]
    default: present
  name:
    description:
      - What people see. It is chosen when the type is created, from O(slug) unless given, and cannot be changed.
    type: str
  description:
    description:
      - What its blocks are for. An empty text clears it.
    type: str
  logo_url:
    description:
      - Address of a picture. An empty text clears it.
    type: str
  documentation_url:
    description:
      - Address of its documentation. An empty text clears it.
    type: str
  code_example:
    description:
      - Markdown that the UI shows. An empty text clears it.
    type: str
  schema:
    description:
      - What its blocks hold, as JSON Schema. C(secret_fields) lists the fields that are never shown.
    type: dict
  capabilities:
    description:
      - What its blocks can do, such as C(get-directory). They belong to the schema.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Have a type of block for a shop's account
  selfhosted.prefect.block_type:
    api_url: http://127.0.0.1:4200/api
    slug: shop-account
    description: An account at the shop
    schema:
      title: ShopAccount
      type: object
      required: [user, password]
      properties:
        user: {type: string, title: User}
        password: {type: string, title: Password, format: password, writeOnly: true}
      secret_fields: [password]
"""

RETURN = r"""
object:
  description:
    - The block type as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    slug: shop-account
    name: Shop Account
    description: An account at the shop
request:
  description:
    - The request that failed. Its C(status) is null when there was no answer.
  returned: when the API was the reason of a failure
  type: dict
"""

from ..module_utils.kinds import main as of_kind


def main() -> None:
    of_kind("block_type")


if __name__ == "__main__":
    main()
