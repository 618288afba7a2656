"""The option `secrets` of modules that read a host. Their action plugins compare it with the host's fingerprints."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  secrets:
    description:
      - Generated secrets that this host uses. They are compared with the fingerprints that the host stores. The task
        fails if the controller has lost a secret or holds another one. If left out, nothing is compared.
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
