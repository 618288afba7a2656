"""Compare the secrets of the controller with what the module of the same name reads on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.selfhosted.prefect.plugins.lookup.uv import uv_for
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import ReadHost


class ActionModule(ReadHost):
    module = "selfhosted.prefect.preflight"

    def missing(self, result: dict[str, Any], uv: str) -> list[str]:
        """Return why there is no uv for a host that needs one to get its release."""
        if result["release_present"]:
            return []
        try:
            if not uv:
                uv_for(result["architecture"])
            elif not Path(self._find_needle("files", uv)).is_file():
                return [f"prefect_uv: {uv} is no file on the controller; name the uv to copy to the hosts"]
        except AnsibleError as error:
            return [error.message if not uv else f"prefect_uv: {uv} does not exist on the controller; correct the path"]
        return []
