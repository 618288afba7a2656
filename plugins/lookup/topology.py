"""What a host derives from its inventory, evaluated once for a task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: topology
author: The selfhosted.prefect maintainers
short_description: Facts that a host derives from its inventory
description:
  - Returns entries of the dictionary C(__prefect_topology), whose values are templates.
  - Ansible evaluates a variable again each time that another variable refers to it. The addresses of an API, a database
    and a proxy refer to each other, so one of them is evaluated up to twenty times for a task. This lookup evaluates an
    entry once, and keeps it in the variables of the task.
  - An entry must not depend on a loop variable.
version_added: 1.0.0
options:
  _terms:
    description: Names of entries.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.topology', 'api') }}"
  vars:
    __prefect_topology:
      api: "{{ groups['prefect_server'] | first }}"
"""

RETURN = r"""
_raw:
  description: The values, in the order of the names.
  type: list
  elements: raw
"""

from typing import Any

from ansible.plugins.lookup import LookupBase

KNOWN = "__prefect_topology_known"
"""The variable of a task that holds the entries that were evaluated."""


class LookupModule(LookupBase):
    """Evaluates entries of the topology."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        assert variables is not None
        known = variables.setdefault(KNOWN, {})
        for name in terms:
            if name not in known:
                known[name] = self._templar.template(variables["__prefect_topology"][name])
        return [known[name] for name in terms]
