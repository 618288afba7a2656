"""Render the templates of the files that a task describes, for the modules that write them on the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

TEXT = {"type": "str"}
FILES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "path": {"type": "str", "required": True},
        "template": TEXT,
        "src": TEXT,
        "vars": {"type": "dict", "default": {}},
        "owner": TEXT,
        "group": TEXT,
        "mode": TEXT,
        "state": {"type": "str", "choices": ["present", "kept", "unused", "absent"], "default": "present"},
        "recurse": {"type": "bool", "default": False},
        "recurse_root": {"type": "bool", "default": False},
        "secret": {"type": "bool", "default": False},
    },
}
"""Option of an action: the wanted files and directories.

An entry with a `template`, or with `src`, the path of a file on the controller that is copied as it is, is a file.
"""

LEDGER: dict[str, Any] = {"type": "dict"}
"""Option of an action: the ledger, which is passed to the module."""


class Variables(dict[str, Any]):
    """Variables of a task, whose deep copy is a dictionary with the same values.

    The template lookup makes a deep copy for each template and then only sets variables in it. With the variables of a
    host, which hold its facts and those of all other hosts, that takes longer than to render the template.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return dict(self)


def rendered(
    action: ActionBase, files: list[dict[str, Any]], task_vars: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Render the templates of files; return the files for the module, and the contents of secret files in order."""
    lookup = lookup_loader.get("ansible.builtin.template", loader=action._loader, templar=action._templar)
    variables = Variables(task_vars or {})
    given, secrets = [], []
    for file in files:
        sent = {
            name: file[name]
            for name in ("path", "state", "owner", "group", "mode", "recurse", "recurse_root")
            if file[name] is not None
        }
        if file["template"] or file["src"]:
            if file["state"] == "absent":
                content = ""
            elif file["src"]:
                content = Path(file["src"]).read_text(encoding="utf-8")
            else:
                content = lookup.run([file["template"]], variables, template_vars=file["vars"])[0]
            if file["secret"]:
                sent["secret"] = True
                secrets.append(content)
            else:
                sent["content"] = content
        given.append(sent)
    return given, secrets
