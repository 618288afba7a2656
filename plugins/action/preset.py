"""The preset task: find the preset, check the parameters, run the steps, report them as one task."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import ansible_internals as internals
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_file import (
    Parameters,
    Preset,
    check,
    find,
    load,
    search_path,
)


class ActionModule(ActionBase):
    """`- preset: prefect`."""

    supports_raw_params = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the preset that the task names, on the task's host.

        Raises:
            AnsibleActionFail: the preset does not exist or is malformed, or the parameters do not fit it.
            AnsibleError: presets cannot run in this version of ansible-core.
        """
        internals.require_core()
        # Imported late: on an unsupported ansible-core these may fail to load.
        from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_output import StepOutput
        from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_run import run_steps

        super().run(tmp, task_vars)
        seen = task_vars or {}
        name, given = self._call()
        preset = load(find(name, search_path(self._loader.get_basedir())), self._loader)
        parameters = self._check(preset, given)
        host = internals.inventory_of(self._task.get_variable_manager()).get_host(seen["inventory_hostname"])
        output = StepOutput(preset=preset.name, task=self._task, host=host, hide=parameters.hide)
        outcome = run_steps(
            preset,
            task=self._task,
            host=host,
            variables=self._near_variables(seen) | preset.variables(parameters.values),
            loader=self._loader,
            play_context=self._play_context,
            output=output,
            hide=parameters.hide,
        )
        result: dict[str, Any] = {
            "changed": any(step.changed for step in output.steps),
            "preset": preset.name,
            "path": str(preset.path),
            "parameters": parameters.shown,
        }
        if not outcome.failed:
            result["steps"] = [step.summary() for step in output.steps]
            if outcome.facts:
                result |= {"ansible_facts": outcome.facts, "_ansible_verbose_override": True}
        else:
            # The whole list would drown the message: the `default` callback prints every field of a failed result.
            result["steps"] = [step.summary() for step in output.steps if step.changed or step is output.failure]
            result["unreachable" if outcome.unreachable else "failed"] = True
            result["msg"] = f"{preset.name}: {output.failure.text if output.failure else 'not all steps were run.'}"
        return dict(parameters.hide(result))

    def _call(self) -> tuple[str, dict[str, Any]]:
        """The preset's name and the parameters, from any spelling of the task.

        Raises:
            AnsibleActionFail: the name is missing, or `with` is not a mapping.
        """
        args = dict(self._task.args)
        name = args.pop("_raw_params", None) or args.pop("name", None)
        inner = args.pop("with", None) or {}
        if not isinstance(name, str) or not name:
            raise AnsibleActionFail("Name the preset: `preset: prefect` or `preset: {name: prefect}`.")
        if not isinstance(inner, dict):
            raise AnsibleActionFail(f"{name}: `with` must be a mapping of parameters.", obj=inner)
        return name, args | inner

    def _check(self, preset: Preset, given: dict[str, Any]) -> Parameters:
        """The parameters to run the preset with; a declared default may be a template."""
        spec = {
            name: declared | ({"default": self._templar.template(declared["default"])} if "default" in declared else {})
            for name, declared in preset.parameters.items()
        }
        return check(spec, given, where=f"preset {preset.name}")

    def _near_variables(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Variables of the task that its play does not have: parameters of its role and include, and the loop item."""
        role = internals.role_of(self._task)
        near = dict(role.get_role_params(self._task.get_dep_chain()) if role else {})
        names = {"ansible_loop_var", "ansible_index_var", "ansible_loop"} if self._task.loop else set()
        names |= {seen[name] for name in ("ansible_loop_var", "ansible_index_var") if name in names and name in seen}
        near |= self._task.get_include_params()
        return near | {name: seen[name] for name in names if name in seen}
