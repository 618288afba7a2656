"""The option `ledger` of the modules that create something on a host."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  ledger:
    description:
      - The ledger of what the instance creates on this host. If it is set, the module refuses to use what exists
        outside the ledger unless O(ledger.adopt) allows it, and removes only what the ledger lists.
    type: dict
    suboptions:
      name:
        description: Name of the instance's files, or the ledger's absolute path.
        type: str
        required: true
      part:
        description: Part of the instance that the entries belong to.
        type: str
        default: prefect
      adopt:
        description: Kinds of existing objects of other owners that may be taken over.
        type: list
        elements: str
        choices: [user, directories, units, files, database]
        default: []
      opt:
        description: Directory of the releases. An earlier installation is recognized by it.
        type: path
"""
