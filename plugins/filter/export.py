"""Objects inside Prefect as a file of an inventory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml


class Dumper(yaml.SafeDumper):
    """Writes what Ansible would take for a template so that it does not."""

    references: frozenset[str] = frozenset()
    """Templates that are meant as such."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def text(self, value: str) -> yaml.Node:
        unsafe = re.search(r"\{[{%#]", value) and value not in self.references
        style = "|" if "\n" in value else None
        return self.represent_scalar("!unsafe" if unsafe else "tag:yaml.org,2002:str", value, style=style)

    def several(self, values: list[Any]) -> yaml.Node:
        brief = all(not isinstance(value, (dict, list)) for value in values) and len(str(values)) < 80
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=brief)


Dumper.add_representer(str, Dumper.text)
Dumper.add_representer(list, Dumper.several)


def inventory_yaml(exported: Mapping[str, Any]) -> str:
    """Return what the module `export` returns as YAML, for `group_vars` and for `-e @FILE`."""
    variables = exported["variables"]
    dumper = type("Dumper", (Dumper,), {"references": frozenset(f"{{{{ {name} }}}}" for name in variables)})
    head = "# Everything inside Prefect, by selfhosted.prefect.export.\n"
    if variables:
        head += "# Define these elsewhere, encrypted with Ansible Vault for example:\n"
        head += "".join(f"#   {name}: {place}\n" for name, place in variables.items())
    return f"---\n{head}" + "\n".join(
        yaml.dump({name: plain(entries)}, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
        for name, entries in exported["resources"].items()
    )


def plain(value: Any) -> Any:
    """Return a value of Ansible's as one of Python's own types, which is what YAML knows."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"inventory_yaml": inventory_yaml}
