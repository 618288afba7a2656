"""The Prefect objects that an inventory describes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: The Prefect objects that an inventory describes
version_added: 1.0.0
description:
  - Returns C(prefect_work_pools), C(prefect_deployments) and the other lists of M(selfhosted.prefect.resources), and
    C(prefect_tasks) and C(prefect_runners), if the host has variables with these names.
  - A variable with a suffix, such as C(prefect_deployments__prod), adds to the variable without it. An object in both
    is returned once; the fields in the variable with the suffix take precedence. Of several suffixes, the
    alphabetically last one takes precedence.
options:
  base:
    description: Lists by name. The variables take precedence over them.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.inventory').prefect_deployments }}"
"""

RETURN = r"""
_raw:
  description: The lists by name; lists that neither O(base) nor a variable has are left out.
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
