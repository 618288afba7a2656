"""Render templates on the controller for the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader


class ActionModule(ActionBase):
    """Sends every file's content in one call, secret ones in an option that nothing logs."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        text = {"type": "str"}
        _, arguments = self.validate_argument_spec(
            {
                "files": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": {
                        "path": {"type": "str", "required": True},
                        "template": text,
                        "vars": {"type": "dict", "default": {}},
                        "owner": text,
                        "group": text,
                        "mode": text,
                        "state": {
                            "type": "str",
                            "choices": ["present", "kept", "unused", "absent"],
                            "default": "present",
                        },
                        "recurse": {"type": "bool", "default": False},
                        "secret": {"type": "bool", "default": False},
                    },
                }
            }
        )
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        files, secrets = [], []
        for file in arguments["files"]:
            given = {
                name: file[name]
                for name in ("path", "state", "owner", "group", "mode", "recurse")
                if file[name] is not None
            }
            if file["template"]:
                content = lookup.run([file["template"]], task_vars, template_vars=file["vars"])[0]
                if file["secret"]:
                    given["secret"] = True
                    secrets.append(content)
                else:
                    given["content"] = content
            files.append(given)
        result |= self._execute_module(
            module_name="selfhosted.prefect.files",
            module_args={"files": files, "secrets": secrets},
            task_vars=task_vars,
        )
        # Whole files would drown everything else that `-vvv` prints; what was written is in `written` and in the diff.
        result.pop("invocation", None)
        return result
