"""Select the scripts for a host, and send the ones that are on the controller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.filter.services import setting_text


def meant_for(script: dict[str, Any], names: set[str]) -> bool:
    """Return whether a script names the host or one of its groups, or names no host at all."""
    hosts = script.get("hosts") or []
    return not hosts or bool(names & set([hosts] if isinstance(hosts, str) else hosts))


class ActionModule(ActionBase):
    """Replaces `src` with `content` and drops scripts for other hosts; the module does the rest."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        names = {variables["inventory_hostname"], *variables["group_names"]}
        arguments = dict(self._task.args)
        scripts = []
        for script in arguments.get("scripts", []):
            if not isinstance(script, dict) or "name" not in script:
                raise AnsibleActionFail(f"prefect_flows_deployment_scripts: a script has no name: {script}")
            if not meant_for(script, names):
                continue
            given = {key: value for key, value in script.items() if key not in ("hosts", "src")}
            if "src" in script:
                if "content" in script:
                    raise AnsibleActionFail(
                        f"prefect_flows_deployment_scripts: {script['name']} has a content and a src; leave one out"
                    )
                given["content"] = Path(self._find_needle("files", script["src"])).read_text(encoding="utf-8")
            scripts.append(given)
        environment = arguments.get("environment") or {}
        arguments["scripts"] = scripts
        arguments["environment"] = json.dumps({name: setting_text(value) for name, value in environment.items()})
        result |= self._execute_module(
            module_name="selfhosted.prefect.host_deployment_scripts", module_args=arguments, task_vars=task_vars
        )
        return result
