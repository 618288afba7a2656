"""Preset files: find them, load them, and check the parameters of a call."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.parsing.dataloader import DataLoader

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = ("name", "with")
MASK = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
COLLECTION_PRESETS = Path(__file__).parents[2] / "presets"

FILE_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str", "required": True},
    "parameters": {"type": "dict", "default": {}},
    "steps": {"type": "list", "elements": "dict", "required": True},
}
TYPES = ("str", "bool", "int", "float", "path", "raw", "dict", "list", "bytes", "bits", "json", "jsonarg")
PARAMETER_SPEC: dict[str, Any] = {
    "type": {"type": "str", "choices": TYPES},
    "elements": {"type": "str", "choices": TYPES},
    "required": {"type": "bool"},
    "default": {"type": "raw"},
    "choices": {"type": "list", "elements": "raw"},
    "options": {"type": "dict"},
    "description": {"type": "raw", "required": True},
    "no_log": {"type": "bool"},
    "variable": {"type": "str"},
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The content of a `preset.yml`.

    Args:
        name: the name that tasks use, equal to the name of its directory.
        path: the file.
        parameters: argument spec by parameter name, each optionally with `variable`.
        steps: the tasks, as loaded (with trusted templates and known origins).
    """

    name: str
    path: Path
    parameters: Mapping[str, Any]
    steps: list[dict[str, Any]]

    def variables(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """`parameters`, and the variables that they set for the steps; a missing parameter sets none."""
        return {"parameters": parameters} | {
            spec["variable"]: parameters[name]
            for name, spec in self.parameters.items()
            if "variable" in spec and name in parameters
        }


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The validated parameters of a call.

    Args:
        values: coerced values by name, without parameters that have neither a value nor a default.
        secrets: the values of `no_log` parameters, as strings.
        shown: `values` with those parameters masked.
    """

    values: dict[str, Any]
    secrets: frozenset[str]
    shown: dict[str, Any]

    def hide(self, value: Any) -> Any:
        """`value` (text, or any nesting of it) with every secret masked, as modules mask it."""
        return remove_values(value, self.secrets) if self.secrets else value


def search_path(playbook_dir: str) -> list[Path]:
    """The directories to search for presets, the playbook's first and the collection's last."""
    home = Path(constants.config.get_config_value("ANSIBLE_HOME"))
    return list(
        dict.fromkeys(
            (Path(playbook_dir).resolve() / "presets", Path.cwd() / "presets", home / "presets", COLLECTION_PRESETS)
        )
    )


def find(name: str, directories: Collection[Path]) -> Path:
    """The first existing `<directory>/<name>/preset.yml`.

    Raises:
        AnsibleActionFail: the name is invalid, or no such preset exists; lists similar names and the directories.
    """
    if not NAME.fullmatch(name):
        raise AnsibleActionFail(f"{name!r} is not a preset's name: letters, digits, '.', '_' and '-' only.")
    for directory in directories:
        path = directory / name / "preset.yml"
        if path.is_file():
            return path
    there = sorted({path.parent.name for directory in directories for path in directory.glob("*/preset.yml")})
    raise AnsibleActionFail(
        f"There is no preset {name!r}.{suggest(name, there)}"
        f" Looked for {name}/preset.yml in {', '.join(map(str, directories))}."
        f" There {'are' if there else 'is'} {', '.join(there) or 'none at all'}."
    )


def load(path: Path, loader: DataLoader) -> Preset:
    """Read and check a preset's file.

    Raises:
        AnsibleActionFail: a key is missing, unknown or of the wrong type; names the file and key.
        AnsibleParserError: the file is not YAML; names the line and column.
    """
    data = loader.load_from_file(str(path), trusted_as_template=True)
    if not isinstance(data, dict):
        raise AnsibleActionFail(f"{path}: must be a mapping with {', '.join(FILE_SPEC)}.", obj=data)
    declared = check(FILE_SPEC, data, where=str(path)).values
    if declared["name"] != path.parent.name:
        raise AnsibleActionFail(f"{path}: name is {declared['name']!r}, but its directory is {path.parent.name!r}.")
    specs = data.get("parameters") or {}
    for name, spec in specs.items():
        where = f"{path}: parameters.{name}"
        if name in RESERVED:
            raise AnsibleActionFail(f"{where}: call it something else, {name!r} belongs to the preset task itself.")
        if not isinstance(spec, dict):
            raise AnsibleActionFail(f"{where}: must be a mapping with {', '.join(PARAMETER_SPEC)}.")
        check(PARAMETER_SPEC, spec, where=where)
    return Preset(name=path.parent.name, path=path, parameters=specs, steps=data["steps"])


def check(spec: Mapping[str, Any], given: Mapping[str, Any], *, where: str) -> Parameters:
    """Validate `given` against an argument spec.

    Args:
        where: the start of the message: a file and key, or a preset's name.

    Raises:
        AnsibleActionFail: with Ansible's messages for module arguments, and suggestions for unknown names.
    """
    result = ArgumentSpecValidator(spec).validate({key: value for key, value in given.items() if value is not None})
    secrets = frozenset(result._no_log_values)
    if result.unsupported_parameters:
        unknown = sorted(map(str, result.unsupported_parameters))
        hints = "".join(suggest(name, spec) for name in unknown)
        raise AnsibleActionFail(
            f"{where}: does not know {', '.join(map(repr, unknown))}.{hints}"
            f" It knows {', '.join(sorted(spec)) or 'no parameters'}."
        )
    if result.error_messages:
        raise AnsibleActionFail(remove_values(f"{where}: {'; '.join(result.error_messages)}", secrets))
    values = {key: value for key, value in result.validated_parameters.items() if value is not None}
    shown = values | {key: MASK for key in values if spec[key].get("no_log")}
    return Parameters(values=values, secrets=secrets, shown=shown)


def suggest(word: str, known: Collection[str]) -> str:
    """` Did you mean ...?`, or an empty string if no known word is similar."""
    near = get_close_matches(word, known)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
