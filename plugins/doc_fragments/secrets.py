"""The option `secrets` of the modules that read a host: what their action plugins compare with its fingerprints."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  secrets:
    description:
      - Generated secrets that this host uses, to be compared with what it remembers of them. Where the controller has
        lost one, or holds another, the task fails. Left out, nothing is compared.
    type: dict
    suboptions:
      directory:
        description: Directory on the controller that keeps the secrets of the instance.
        type: path
        required: true
      names:
        description: Names of the secrets that this host uses.
        type: list
        elements: str
        required: true
      replaced:
        description: Names of secrets that are being replaced on purpose.
        type: list
        elements: str
        required: true
"""
