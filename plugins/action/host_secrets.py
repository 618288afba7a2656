"""Keep the generated secrets that the module of the same name finds on a host, or set kept secrets aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import raw_results
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_secrets import missing, replace, store


class ActionModule(ActionBase):
    """Shows the names and paths of secrets, but never a secret."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "state": {"type": "str", "choices": ["fetched", "replaced"], "required": True},
                "directory": {"type": "path", "required": True},
                "instance": {"type": "str", "required": True},
                "names": {"type": "list", "elements": "str", "default": []},
                "name": {"type": "str"},
                "etc_dir": {"type": "str"},
                "scope": {"type": "str"},
            }
        )
        root, dry = Path(arguments["directory"]), self._task.check_mode
        try:
            if arguments["state"] == "replaced":
                directory = root / arguments["instance"]
                lost = missing(directory, arguments["names"])
                aside = [name for name in arguments["names"] if name not in lost]
                replaced = aside if dry else replace(directory, arguments["names"])
                return result | {"changed": bool(replaced), "replaced": replaced}
            with raw_results.hidden(self):
                answer = self._execute_module(
                    module_name="selfhosted.prefect.host_secrets",
                    module_args={name: arguments[name] for name in ("name", "etc_dir", "scope")},
                    task_vars=task_vars,
                )
            if answer.get("failed"):
                result |= answer
                return result
            found: dict[str, str] = answer["secrets"]
            written = store(root, arguments["instance"], found, dry=dry)
        except (OSError, ValueError) as error:
            raise AnsibleActionFail(f"prefect_secrets_dir: {error}") from error
        return result | {"changed": bool(written), "found": sorted(found), "written": written}
