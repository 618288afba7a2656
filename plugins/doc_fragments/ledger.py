"""What the modules that create something on a host have in common."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  ledger:
    description:
      - The ledger of what the instance creates on this host. Given, what exists and is not in it is refused unless
        O(ledger.adopt) allows it, and only what is in it is removed.
    type: dict
    suboptions:
      name:
        description: Name of the instance's files, or the ledger's absolute path.
        type: str
        required: true
      part:
        description: Part of the instance that creates.
        type: str
        default: prefect
      adopt:
        description: What of others may be taken over.
        type: list
        elements: str
        choices: [user, directories, units, files, database]
        default: []
      opt:
        description: Directory of the releases, by which an earlier installation is recognized.
        type: path
"""
