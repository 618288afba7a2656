#!/usr/bin/python
"""Create, change or delete a block type."""

from __future__ import annotations

DOCUMENTATION = r"""
module: block_type
short_description: Manage Prefect block types
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a block type over Prefect's API. Use it for types that no Python code registers
    (C(prefect block register)).
  - Changing O(schema) adds a schema. Prefect uses the newest; existing blocks keep their schema until they are changed.
  - An option that is left out keeps its value on an existing type.
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
  slug:
    description:
      - >-
        Name of the type in URLs and in O(selfhosted.prefect.block#module:block_type): lowercase letters, digits and
        dashes.
    type: str
    required: true
  state:
    description:
      - Whether the type exists.
      - Deleting a type deletes its blocks. Prefect's built-in types cannot be deleted.
    type: str
    choices: [present, absent]
    default: present
  name:
    description:
      - Name that the UI shows. It is set when the type is created, by default from O(slug), and cannot be changed.
    type: str
  description:
    description:
      - What its blocks are for. An empty text clears it.
    type: str
  logo_url:
    description:
      - URL of a logo. An empty text clears it.
    type: str
  documentation_url:
    description:
      - URL of its documentation. An empty text clears it.
    type: str
  code_example:
    description:
      - Code example in Markdown that the UI shows. An empty text clears it.
    type: str
  schema:
    description:
      - JSON Schema of its blocks. C(secret_fields) lists the fields that are never shown.
    type: dict
  capabilities:
    description:
      - What its blocks can do, such as C(get-directory). They belong to the schema.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Create a block type for a shop's account
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
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("block_type")


if __name__ == "__main__":
    main()
