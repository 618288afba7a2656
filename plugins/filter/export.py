"""A filter that formats exported Prefect objects as an inventory file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml


class Reference(str):
    """Text to be read as a template."""


class Dumper(yaml.SafeDumper):
    """Tags every text that Ansible would evaluate as a template, including keys, as unsafe."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def text(self, value: str) -> yaml.Node:
        # Ansible reads a number or date with this tag as a number or date, so only texts that can be neither get it.
        unsafe = "{" in value or value.startswith("#jinja2:")
        style = "|" if "\n" in value else None
        return self.represent_scalar("!unsafe" if unsafe else TEXT, value, style=style)

    def reference(self, value: Reference) -> yaml.Node:
        return self.represent_scalar(TEXT, str(value))

    def several(self, values: list[Any]) -> yaml.Node:
        brief = all(not isinstance(value, (dict, list)) for value in values) and len(str(values)) < 80
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=brief)


TEXT = "tag:yaml.org,2002:str"

Dumper.add_representer(str, Dumper.text)
Dumper.add_representer(Reference, Dumper.reference)
Dumper.add_representer(list, Dumper.several)


def inventory_yaml(exported: Mapping[str, Any]) -> str:
    """Return the result of the module `export` as YAML, for `group_vars` and `-e @FILE`.

    Only the texts at the places in `references` become templates.
    """
    variables = exported["variables"]
    references = {tuple(place): name for name, place in exported.get("references", {}).items()}
    head = "# Everything inside Prefect, by selfhosted.prefect.export.\n"
    if variables:
        head += "# Define these elsewhere, encrypted with Ansible Vault for example:\n"
        head += "".join(f"#   {name}: {' '.join(place.split())}\n" for name, place in variables.items())
    return f"---\n{head}" + "\n".join(
        yaml.dump(
            {str(name): plain(entries, references, (name,))},
            Dumper=Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=120,
        )
        for name, entries in exported["resources"].items()
    )


def plain(value: Any, references: Mapping[tuple[Any, ...], str], place: tuple[Any, ...]) -> Any:
    """Return an Ansible value as a built-in Python type, which PyYAML can represent."""
    if place in references:
        return Reference(f"{{{{ {references[place]} }}}}")
    if isinstance(value, Mapping):
        return {str(name): plain(each, references, (*place, name)) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, references, (*place, index)) for index, each in enumerate(value)]
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"inventory_yaml": inventory_yaml}
