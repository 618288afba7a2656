#!/usr/bin/python
"""Export Prefect objects in the form in which an inventory describes them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: export
short_description: Export Prefect objects
version_added: 1.0.0
author:
  - The selfhosted.prefect maintainers (@selfhosted)
description:
  - Returns all Prefect objects in the form that M(selfhosted.prefect.resources) takes, without default values.
    Applying the export to the same server changes nothing; applying it to an empty server creates the same objects.
  - It leaves out Prefect's built-in objects and those that cannot be described, such as flow runs.
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
      - Kinds of objects. An empty list means all kinds.
    type: list
    elements: str
    choices: [automation, block, block_type, deployment, flow, global_concurrency_limit, tag_concurrency_limit,
      variable, work_pool, work_queue]
    default: []
  secrets:
    description:
      - How to export secrets. V(variables) replaces each by a variable, V(omitted) leaves them out, and V(clear)
        returns them.
      - Secrets are every field of a block that is not known to be harmless, values under keys that look like
        credentials', URLs with a password and URLs of webhooks.
    type: str
    choices: [variables, omitted, clear]
    default: variables
"""

EXAMPLES = r"""
- name: Export all objects of a server
  selfhosted.prefect.export:
    api_url: http://127.0.0.1:4200/api
    secrets: clear
  register: there
  no_log: true

- name: Create the same objects on another server
  selfhosted.prefect.resources:
    api_url: http://other.example.com:4200/api
    lists: "{{ there.resources }}"
"""

RETURN = r"""
resources:
  description: The lists that are not empty, by name.
  returned: success
  type: dict
  sample:
    prefect_variables:
      - name: shop
        value: {retries: 3}
variables:
  description: The variables that replace secrets, and the secret of each.
  returned: success
  type: dict
  sample:
    vault_secret_shop_password_value: secret/shop-password/value
references:
  description:
    - For each variable, the keys and indices of its reference in RV(resources). Only these texts are templates;
      P(selfhosted.prefect.inventory_yaml#filter) writes all others so that Ansible does not evaluate them.
  returned: success
  type: dict
  sample:
    vault_secret_shop_password_value: [prefect_blocks, 0, data, value]
"""

from collections.abc import Mapping
from typing import Any

from ..module_utils.api.module import Api, mask_of, run_module
from ..module_utils.objects.engine import Server
from ..module_utils.objects.export import export
from ..module_utils.objects.table import KINDS


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
