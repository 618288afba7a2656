"""What an inventory describes of the inside of Prefect."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory
author: The selfhosted.prefect maintainers
short_description: What an inventory describes of the inside of Prefect
description:
  - Returns C(prefect_work_pools), C(prefect_deployments) and the other lists of M(selfhosted.prefect.resources), and
    C(prefect_tasks) and C(prefect_runners), as far as a host has variables of these names.
  - A variable with a suffix, such as C(prefect_deployments__prod), adds to the one without. An object that is in
    both is there once, and the suffixed one's fields win. Of several suffixes the last one by the alphabet wins.
options:
  base:
    description: Lists by name, below those of the variables.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.inventory').prefect_deployments }}"
"""

RETURN = r"""
_raw:
  description: The lists by name, those that some variable has.
  type: list
  elements: dict
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.inventory import Lists, merged


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Lists]:
        self.set_options(var_options=variables, direct=kwargs)
        known = variables or {}
        return [merged(known, lambda name: self._templar.template(known[name]), self.get_option("base"))]
