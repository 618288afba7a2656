"""The uv executable of the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: uv
author: The selfhosted.prefect maintainers (@selfhosted)
short_description: The controller's uv and its platform
version_added: 1.0.0
description:
  - Finds uv on the controller, in Ansible's own Python environment or on the PATH.
  - A host of another platform, or of a controller without uv, uses its own uv or fetches one from the package index.
options: {}
"""

EXAMPLES = r"""
- name: Show the controller's uv
  ansible.builtin.debug:
    var: lookup('selfhosted.prefect.uv')
"""

RETURN = r"""
_raw:
  description: One dictionary with C(path) and C(platform), for example C(linux-x86_64-glibc); both empty without uv.
  type: list
  elements: dict
"""

import shutil
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.uv import own_platform


def find_uv() -> str | None:
    """Return the path of uv, preferably the one beside Ansible."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, str]]:
        path = find_uv()
        return [{"path": path or "", "platform": own_platform() if path else ""}]
