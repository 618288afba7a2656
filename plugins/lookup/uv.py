"""The uv executable of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: uv
author: The selfhosted.prefect maintainers
short_description: Path of the controller's uv
description:
  - Finds the uv that is to be brought to a host, in Ansible's own Python environment or on the PATH.
options:
  architecture:
    description: Architecture of the host. A uv for another one is an error.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.copy:
    src: "{{ lookup('selfhosted.prefect.uv', architecture='x86_64') }}"
    dest: /opt/prefect/uv
    mode: "0755"
"""

RETURN = r"""
_raw:
  description: Path of uv on the controller.
  type: list
  elements: path
"""

import platform
import shutil
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def find_uv() -> str | None:
    """Return the path of uv, the one beside Ansible first."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


def uv_for(architecture: str) -> str:
    """Return the path of uv for hosts of an architecture. Raises AnsibleLookupError where the controller has none."""
    path = find_uv()
    if path is None:
        raise AnsibleLookupError(
            "prefect_uv: the controller has no uv; install it beside Ansible (pip install uv) or name one"
        )
    ours = f"{platform.system()} on {platform.machine()}"
    if ours != f"Linux on {architecture}":
        raise AnsibleLookupError(
            f"prefect_uv: the host is Linux on {architecture} and the controller's uv is for {ours}; "
            f"name a uv for {architecture}"
        )
    return path


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        return [uv_for(self.get_option("architecture"))]
