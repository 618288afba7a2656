"""Run the module of the same name, and compare the controller's secrets with the fingerprints on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.trusted import sources
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import ReadHost


class ActionModule(ReadHost):
    module = "selfhosted.prefect.host_preflight"

    def read(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Return the module's result; a failed one if the uv to copy to the host does not exist."""
        named = arguments.pop("uv_file", "")
        # The host needs only the paths: a lock is long, and the URL of a package may contain a credential.
        if packages := arguments.pop("packages", None):
            arguments["packages"] = sources(packages)
        if requirements := arguments.pop("requirements", None):
            arguments["requirements"] = "\n".join(sources([requirements]))
        arguments["environments"] = {
            name: {option: about[option] for option in ("release", "python")}
            for name, about in arguments.get("environments", {}).items()
        }
        result = super().read(arguments, task_vars)
        if named and result.get("uv") == "controller" and not result.get("failed") and (wrong := self.refused(named)):
            return {"failed": True, "msg": wrong}
        return result

    def refused(self, uv: str) -> str:
        """Return why the uv that the user set cannot be copied, or an empty string."""
        try:
            if Path(self._find_needle("files", uv)).is_file():
                return ""
        except AnsibleError:
            return f"prefect_uv: {uv} does not exist on the controller; correct the path"
        return f"prefect_uv: {uv} is no file on the controller; name the uv to copy to the hosts"
