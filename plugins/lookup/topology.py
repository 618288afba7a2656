"""A fact about the platform, as a host sees it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: topology
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: A fact about the platform that an inventory describes, as a host sees it
description:
  - Returns facts that the roles derive from the groups and the variables of an inventory, such as the URL of the API or
    the address of the database.
  - Each fact is computed once for a task and kept in the variables of the task. So a fact must not depend on a loop
    variable.
  - A fact without a secret in it asks for none.
version_added: 1.0.0
options:
  _terms:
    description: Names of facts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('selfhosted.prefect.topology', 'api_url') }}"
"""

RETURN = r"""
_raw:
  description: The facts, in the order of the names.
  type: list
  elements: raw
"""

from typing import Any

from ansible.errors import AnsibleLookupError, AnsibleUndefinedVariable
from ansible.plugins.lookup import LookupBase
from ansible.template import Templar
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.connections import InvalidConnection
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import Inventory, Platform

KEPT = "__prefect_platform"
"""The variable of a task that holds the platform."""

TEMPLATE = "{{ lookup('selfhosted.prefect.topology', '%s') }}"
"""The template of a variable that is a fact."""


def platform(templar: Templar, variables: dict[str, Any]) -> Platform:
    """Return the platform as the host of these variables sees it."""

    def read(name: str, *default: Any) -> Any:
        if name not in variables and not default:
            raise AnsibleUndefinedVariable(f"{name!r} is undefined")
        if name not in variables:
            return default[0]
        try:
            variables[name] = templar.template(variables[name])
            return variables[name]
        except AnsibleUndefinedVariable:
            if default:
                return default[0]
            raise

    return Platform(variables["inventory_hostname"], Inventory(variables["groups"], variables["hostvars"]), read)


class LookupModule(LookupBase):
    """Returns facts about the platform."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        assert variables is not None
        if KEPT not in variables:
            variables[KEPT] = platform(self._templar, variables)
        try:
            found = [variables[KEPT].fact(name) for name in terms]
        except InvalidConnection as error:
            raise AnsibleLookupError(str(error)) from error
        for name, value in zip(terms, found, strict=True):
            # Ansible compiles and evaluates a template again each time that another one refers to it.
            for variable in (f"__prefect_{name}", f"prefect_{name}"):
                if variables.get(variable) == TEMPLATE % name:
                    variables[variable] = value
        return found
