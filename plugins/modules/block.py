#!/usr/bin/python
"""Create, change or delete a block."""

from __future__ import annotations

DOCUMENTATION = r"""
module: block
short_description: Manage Prefect blocks
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Creates, changes and deletes a block of a built-in or any other type over Prefect's API.
  - The values of secret fields are compared, but never shown in results, diffs or logs.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Reports what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the fields that change. For a secret, it only shows that it changes.
    support: full
options:
  block_type:
    description:
      - Slug of the block's type, such as V(secret), V(slack-webhook) or V(s3-bucket).
    type: str
    required: true
  name:
    description:
      - >-
        Name of the block: lowercase letters, digits and dashes.
    type: str
    required: true
  state:
    description:
      - Whether the block exists.
    type: str
    choices: [present, absent]
    default: present
  data:
    description:
      - The block's fields. A field that is left out keeps its value, null sets it to null. A new block needs the
        fields that its type requires.
      - >-
        Refer to another block as C({$ref: type/name}).
    type: dict
"""

EXAMPLES = r"""
- name: Store a password
  selfhosted.prefect.block:
    api_url: http://127.0.0.1:4200/api
    block_type: secret
    name: shop-password
    data:
      value: "{{ vault_shop_password }}"

- name: Create a Slack webhook for notifications
  selfhosted.prefect.block:
    api_url: http://127.0.0.1:4200/api
    block_type: slack-webhook
    name: team
    data:
      url: "{{ vault_slack_url }}"
"""

RETURN = r"""
object:
  description:
    - The block as it is now, or as it would be in check mode. Null when it is absent.
  returned: success
  type: dict
  sample:
    block_type: secret
    name: shop-password
    data: {value: '********'}
request:
  description:
    - The request that failed. Its C(status) is null if the server did not answer.
  returned: when an API request failed
  type: dict
"""

from ..module_utils.objects.table import main as of_kind


def main() -> None:
    of_kind("block")


if __name__ == "__main__":
    main()
