#!/usr/bin/python
"""Write down what is inside Prefect, as an inventory would describe it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: export
short_description: Write down what is inside Prefect
version_added: 0.1.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Returns everything inside Prefect as M(selfhosted.prefect.resources) takes it, without what an object is anyway.
    To apply it to the same server changes nothing, to apply it to an empty one makes the same objects there.
  - Left out is what belongs to Prefect itself, and what cannot be described, such as flow runs.
extends_documentation_fragment:
  - selfhosted.prefect.api
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: Only reads.
    support: none
options:
  kinds:
    description:
      - Kinds of objects. All, if there is none.
    type: list
    elements: str
    choices: [automation, block, block_type, deployment, flow, global_concurrency_limit, tag_concurrency_limit,
      variable, work_pool, work_queue]
    default: []
  secrets:
    description:
      - What becomes of secrets. V(variables) puts a variable in the place of each, V(omitted) leaves them out, and
        V(clear) returns them.
      - Secret is every field of a block that is not known to be harmless, a value under a key that looks like that of
        a credential, and a URL with a password or of a webhook.
    type: str
    choices: [variables, omitted, clear]
    default: variables
"""

EXAMPLES = r"""
- name: Read what is there
  selfhosted.prefect.export:
    api_url: http://127.0.0.1:4200/api
    secrets: clear
  register: there
  no_log: true

- name: Have the same on another server
  selfhosted.prefect.resources:
    api_url: http://other.example.com:4200/api
    lists: "{{ there.resources }}"
"""

RETURN = r"""
resources:
  description: The lists by name, those that are not empty.
  returned: success
  type: dict
  sample:
    prefect_variables:
      - name: shop
        value: {retries: 3}
variables:
  description: The variables in the place of secrets, and what each is for.
  returned: success
  type: dict
  sample:
    vault_secret_shop_password_value: secret/shop-password/value
references:
  description:
    - By variable, the keys and indices that lead to the reference to it in RV(resources). Only there is a text meant as
      a template; P(selfhosted.prefect.inventory_yaml#filter) writes all others so that Ansible does not evaluate them.
  returned: success
  type: dict
  sample:
    vault_secret_shop_password_value: [prefect_blocks, 0, data, value]
"""

from collections.abc import Mapping
from typing import Any

from ..module_utils.api import Api, mask_of, run_module
from ..module_utils.export import export
from ..module_utils.kinds import KINDS
from ..module_utils.resource import Server


def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the module's result. Raises ApiError."""
    server = Server(api, KINDS, bulk=True, mask=mask_of(params))
    found = export(server, params["kinds"] or KINDS, secrets=params["secrets"])
    return {
        "changed": False,
        "resources": found.lists,
        "variables": found.variables,
        "references": found.references,
    }


def main() -> None:
    run_module(
        work,
        {
            "kinds": {"type": "list", "elements": "str", "choices": sorted(KINDS), "default": []},
            "secrets": {"type": "str", "choices": ["variables", "omitted", "clear"], "default": "variables"},
        },
    )


if __name__ == "__main__":
    main()
