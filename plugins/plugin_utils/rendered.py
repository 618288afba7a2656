"""Render the templates of the files that a task describes, for the modules that write them on the hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
        "package": TEXT,
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
With `package`, the name of a package of `module_utils`, it is a directory with the modules of that package and with all
that these import, each below the name of its own package.
"""

LEDGER: dict[str, Any] = {"type": "dict"}
"""Option of an action: the ledger, which is passed to the module."""


MODULE_UTILS = Path(__file__).resolve().parents[1] / "module_utils"
RELATIVE = re.compile(r"^from (\.+)([\w.]*) import (\([^)]*\)|.+)$", re.MULTILINE)


def modules_of(package: str) -> list[Path]:
    """Return the modules of a package of `module_utils` and all that they import from others, relative and sorted.

    Only what is imported relatively, and with the module itself, can be installed on a host: there, the packages have
    another parent and no Ansible.
    """
    waiting = [path.relative_to(MODULE_UTILS) for path in (MODULE_UTILS / package).rglob("*.py")]
    found: set[Path] = set()
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for dots, name, imported in RELATIVE.findall((MODULE_UTILS / module).read_text(encoding="utf-8")):
            base = module.parents[len(dots) - 1].joinpath(*name.split(".")) if name else module.parents[len(dots) - 1]
            below = [base / one.strip(" ()\n").partition(" ")[0] for one in imported.split(",")]
            waiting += [
                path for path in (base.with_suffix(".py"), base / "__init__.py") if (MODULE_UTILS / path).is_file()
            ]
            waiting += [path.with_suffix(".py") for path in below if (MODULE_UTILS / path.with_suffix(".py")).is_file()]
    return sorted(found)


def installed(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the directories and the files of an entry with a package."""
    modules = modules_of(file["package"])
    rest = {name: file[name] for name in ("state", "owner", "group")} | {"secret": False, "template": None}
    rest |= {"recurse": False, "recurse_root": False}
    for directory in sorted({parent for module in modules for parent in module.parents}):
        yield rest | {"path": str(Path(file["path"], directory)), "mode": "0755", "src": None}
    for module in modules:
        yield rest | {"path": str(Path(file["path"], module)), "mode": "0644", "src": str(MODULE_UTILS / module)}


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
    for file in (part for entry in files for part in (installed(entry) if entry["package"] else [entry])):
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
