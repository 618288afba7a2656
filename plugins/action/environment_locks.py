"""Lock the packages of each environment of deployments, on the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import uv as own_uv
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.installing import InstallError
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.environment_resolver import (
    Release,
    Uv,
    locked,
    problems_of,
)


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = {"type": "str", "default": ""}
        _, given = self.validate_argument_spec(
            {
                "environments": {"type": "list", "elements": "dict", "required": True},
                "directory": {"type": "path", "required": True},
                "base": {"type": "path", "required": True},
                "version": {"type": "str", "required": True},
                "requirements": text,
                "constraints": text,
                "uv": text,
                "uv_lock": text,
                "index_url": text | {"no_log": True},
                "ca_bundle": text,
            }
        )
        if found := list(problems_of(given["environments"])):
            return result | {"failed": True, "msg": "\n".join(found)}
        release = Release(version=given["version"], lock=given["requirements"], constraints=given["constraints"])
        index = own_uv.Index(url=given["index_url"], ca_bundle=given["ca_bundle"])
        uv = Uv(path=given["uv"], lock=given["uv_lock"], index=index)
        locks, made = {}, []
        for entry in given["environments"]:
            try:
                locks[entry["name"]], is_new = locked(
                    entry,
                    release,
                    uv,
                    directory=given["directory"],
                    base=given["base"],
                    dry=self._task.check_mode,
                )
            except (InstallError, OSError) as error:
                return result | {"failed": True, "msg": str(error)}
            made += [entry["name"]] if is_new else []
        return result | {"changed": bool(made), "locks": locks, "made": made}
