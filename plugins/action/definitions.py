"""Read definition files on the controller for the module of the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

SUFFIXES = {".json", ".yaml", ".yml"}


def read(path: Path) -> dict[str, list[Any]]:
    """Return the content of a definition file, or the merged content of all definition files in a directory.

    Raises AnsibleActionFail for a file that cannot be read. The module on the host validates the content.
    """
    if not path.exists():
        raise AnsibleActionFail(f"prefect_definitions_source: there is no {path}")
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    merged: dict[str, list[Any]] = {}
    for file in files:
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise AnsibleActionFail(f"prefect_definitions_source: {file}: {' '.join(str(error).split())}") from error
        data = {} if data is None else data
        if not isinstance(data, dict) or not all(isinstance(values, list) for values in data.values()):
            raise AnsibleActionFail(
                f"prefect_definitions_source: {file} has to hold lists by name, as prefect_flows: [...]"
            )
        for kind, values in data.items():
            merged.setdefault(kind, []).extend(values)
    return merged


class ActionModule(ActionBase):
    """Passes the definitions as one text: there may be many, and no log may show a database's address."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        source = str(arguments.get("source") or "")
        data = arguments.pop("data", None) or {}
        if source and "://" not in source:
            data = read(Path(self._find_needle("files", source)))
            arguments["source"] = ""
        arguments["data"] = json.dumps(data)
        answer = self._execute_module(
            module_name="selfhosted.prefect.definitions", module_args=arguments, task_vars=task_vars
        )
        answer.pop("invocation", None)
        result |= answer
        return result
