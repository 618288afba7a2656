"""Read definition files on the controller for the module of the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import Mask, masked_diff
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import raw_results
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.vaulted import vaulted_texts

SUFFIXES = {".json", ".yaml", ".yml"}


class WithoutDates(yaml.SafeLoader):
    """A loader that leaves dates the texts that they are in the file: JSON has no dates."""


WithoutDates.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


ORCHESTRATOR = "orchestrator"
"""Key of an application's own configuration file, whose other keys are the application's."""


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the content of a definition file, or of all definition files in a directory, by the files' names.

    Raises AnsibleActionFail for a file that cannot be read. The module on the host validates the content.
    """
    if not path.exists():
        raise AnsibleActionFail(f"prefect_definitions_source: there is no {path}")
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise AnsibleActionFail(
            f"prefect_definitions_source: {path} has no file of definitions: {', '.join(sorted(SUFFIXES))}"
        )
    contents: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            data = yaml.load(file.read_text(encoding="utf-8"), Loader=WithoutDates)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise AnsibleActionFail(f"prefect_definitions_source: {file}: {' '.join(str(error).split())}") from error
        data = {} if data is None else data
        if not isinstance(data, dict) or not (
            ORCHESTRATOR in data or all(isinstance(values, list) for values in data.values())
        ):
            raise AnsibleActionFail(
                f"prefect_definitions_source: {file} has to hold lists by name, as prefect_flows: [...]"
            )
        # The rest of an application's configuration is none of the host's business, and may hold secrets.
        contents[str(file.relative_to(path)) if path.is_dir() else file.name] = {
            kind: values
            for kind, values in data.items()
            if ORCHESTRATOR not in data or kind == ORCHESTRATOR or str(kind).startswith("prefect_")
        }
    return contents


class ActionModule(ActionBase):
    """Passes the definitions as one text: there may be many, and no log may show a database's address."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        source = str(arguments.get("source") or "")
        files: dict[str, dict[str, Any]] = {}
        if source and "://" not in source:
            files = read(Path(self._find_needle("files", source)))
            arguments["source"] = ""
        for name, content in (("files", files), ("data", arguments.get("data"))):
            # As an empty text, Ansible does not hide it wherever else it stands.
            arguments[name] = json.dumps(content) if content else ""
        show = boolean(self._templar.template(variables.get("prefect_show_secrets", False)))
        mask = Mask(known=tuple(vaulted_texts(variables)), show=show)
        arguments["show_secrets"] = show
        with raw_results.hidden(self):
            answer = self._execute_module(
                module_name="selfhosted.prefect.host_definitions", module_args=arguments, task_vars=task_vars
            )
        answer.pop("invocation", None)
        if "before" in answer.get("diff", ()):
            answer["diff"] = masked_diff(answer["diff"], mask)
        resources = answer.get("resources") or {}
        if mask.fields(resources) != resources:
            # The next task needs them as they are. `-v` does not show this result then, as it does not show facts.
            answer["_ansible_verbose_override"] = True
        result |= answer
        return result
