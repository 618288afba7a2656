"""Render templates on the controller for the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.rendered import FILES, LEDGER, rendered


class ActionModule(ActionBase):
    """Sends the content of all files in one call; secret content goes in an option that is never logged."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "state": {"type": "str", "choices": ["probed", "present", "absent"], "default": "present"},
                "ports": {"type": "dict"},
                "servers": {"type": "list", "elements": "str"},
                "files": FILES | {"required": False, "default": []},
                "kept": {"type": "list", "elements": "str"},
                "ledger": LEDGER,
                "lineage": {"type": "dict"},
                "unwanted": {"type": "list", "elements": "str"},
                "site": {"type": "dict"},
                "started": {"type": "bool"},
                "timeout": {"type": "int"},
            }
        )
        files, secrets = rendered(self, arguments["files"], task_vars)
        given = {name: value for name, value in arguments.items() if value is not None}
        result |= self._execute_module(
            module_name="selfhosted.prefect.host_nginx",
            module_args=given | {"files": files, "secrets": secrets},
            task_vars=task_vars,
        )
        # Whole files would drown the other output of `-vvv`; `written` and the diff show what was written.
        result.pop("invocation", None)
        return result
