"""Every variable of every role is declared once, documented, and named so that its role is plain to see.

A preset's parameter that sets a variable is declared like it.

Ansible sets no default from an argument spec, and templates the whole spec before it validates: a ``{{ }}`` there runs
for every host, even where the variable is overridden, and prints what it rendered when the validation fails. So a
literal default stands in both files with an equal value, and a templated one in ``defaults/main.yml`` alone.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.name for path in (ROOT / "roles").glob("*/tasks"))
"""Those that run something. prefect_vars is the variables of prefect, for the others."""

PRIVATE_ROLES = {"prefect_common"}

Spec = Mapping[str, Any]


@functools.cache
def load(role: str, *names: str) -> dict[str, Any]:
    """Return a role's YAML file as a mapping, empty where the file is missing or empty. Callers do not change it."""
    path = ROOT.joinpath("roles", role, *names)
    return (yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}) if path.exists() else {}


def entry_points(role: str) -> dict[str, Spec]:
    """Return a role's argument specs by entry point."""
    return dict(load(role, "meta", "argument_specs.yml").get("argument_specs") or {})


def nested(options: Mapping[str, Spec], prefix: str) -> Iterator[tuple[str, Spec]]:
    """Yield each option and suboption with its dotted path."""
    for name, spec in options.items():
        yield f"{prefix}{name}", spec
        yield from nested(spec.get("options") or {}, f"{prefix}{name}.")


def internal(role: str) -> set[str]:
    """Return the names that a role's ``vars/`` set."""
    return {name for path in ROOT.glob(f"roles/{role}/vars/*.yml") for name in load(role, "vars", path.name)}


def templated(value: object) -> bool:
    """Return whether Ansible would template `value` or anything inside it."""
    return any(mark in str(value) for mark in ("{{", "{%"))


def owner(name: str) -> str | None:
    """Return the role whose variable `name` is by its prefix: the longest role name wins."""
    return max((role for role in ROLES if name.startswith(f"{role}_")), key=len, default=None)


def carries(name: str, role: str) -> bool:
    """Return whether a variable is named like its role; what roles share, like what it is about: prefect_redis_port."""
    return owner(name) == role or (role == "prefect" and owner(name) is not None)


DEFAULTS = [(role, name, value) for role in ROLES for name, value in load(role, "defaults", "main.yml").items()]
OPTIONS = [
    (role, entry_point, name, option)
    for role in ROLES
    for entry_point, spec in entry_points(role).items()
    for name, option in (spec.get("options") or {}).items()
]
VARIABLES = {name: option for _, entry_point, name, option in OPTIONS if entry_point == "main"}
PARAMETERS = {
    path.parent.name: dict(yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader).get("parameters") or {})
    for path in sorted((ROOT / "presets").glob("*/preset.yml"))
}
DESCRIBED = [
    pytest.param(option, id=f"{role}/{entry_point}/{path}")
    for role in ROLES
    for entry_point, spec in entry_points(role).items()
    for path, option in nested(spec.get("options") or {}, "")
] + [
    pytest.param(parameter, id=f"{preset}/{path}")
    for preset, parameters in PARAMETERS.items()
    for path, parameter in nested(parameters, "")
]

each_role = pytest.mark.parametrize("role", ROLES)
each_public_role = pytest.mark.parametrize("role", sorted(set(ROLES) - PRIVATE_ROLES))
each_default = pytest.mark.parametrize(("role", "name", "value"), DEFAULTS, ids=lambda item: str(item)[:60])
each_option = pytest.mark.parametrize(
    ("role", "name", "option"),
    [pytest.param(role, name, option, id=f"{role}/{entry}/{name}") for role, entry, name, option in OPTIONS],
)
each_described = pytest.mark.parametrize("option", DESCRIBED)


@each_default
def test_default_is_in_the_spec(role: str, name: str, value: object) -> None:
    specs = entry_points(role)
    declared = [specs["main"]] if "main" in specs else list(specs.values())
    assert any(name in (spec.get("options") or {}) for spec in declared), f"declare {name} in meta/argument_specs.yml"


@each_option
def test_option_is_required_or_has_a_default(role: str, name: str, option: Spec) -> None:
    has_default = name in load(role, "defaults", "main.yml")
    assert has_default != option.get("required", False), f"{name}: required: true, or a value in defaults/main.yml"


@each_option
def test_literal_default_is_equal_in_the_spec(role: str, name: str, option: Spec) -> None:
    defaults = load(role, "defaults", "main.yml")
    literal = name in defaults and not templated(defaults[name])
    wanted = (type(defaults[name]), defaults[name]) if literal else None
    declared = (type(option["default"]), option["default"]) if "default" in option else None
    assert declared == wanted, (
        f"{name}: the spec's default is that of defaults/main.yml, and none where it is a template"
    )


@each_option
def test_default_has_the_declared_type(role: str, name: str, option: Spec) -> None:
    wanted = {"bool": bool, "dict": dict, "float": float, "int": int, "list": list, "path": str, "str": str}
    default = option.get("default")
    assert default is None or type(default) is wanted.get(option["type"], type(default)), f"quote {role}'s {name}?"


@each_role
def test_spec_holds_no_template(role: str) -> None:
    assert not templated(entry_points(role)), "Ansible would run it on every validation"


@each_described
def test_type_is_explicit(option: Spec) -> None:
    assert "type" in option
    assert option["type"] != "list" or "elements" in option, "say what the list holds: elements"


@each_described
def test_description_is_one_sentence(option: Spec) -> None:
    assert re.fullmatch(r"[A-Z](?:(?![.!?] [A-Z])[^\n])*\.", option["description"])


EXPRESSIONS = [
    *(path for kind in ("defaults", "tasks", "vars") for path in ROOT.glob(f"roles/*/{kind}/*.yml")),
    *ROOT.glob("playbooks/*.yml"),
    *ROOT.glob("templates/**/*.j2"),
]


@pytest.mark.parametrize("path", EXPRESSIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_true_and_false_may_be_text(path: Path) -> None:
    """`-e prefect_purge=false` and inventories in INI give text, and to Jinja `"false"` is true."""
    names = "|".join(name for _, _, name, option in OPTIONS if option["type"] == "bool")
    text = re.sub(r"^\s*(#.*|\w+:(?= ))", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # Filters of this collection read options that may be left out.
    bare = rf"(?<![\w.'])({names})\b(?!'|(?: \| default\(\w+\))? \| bool\b| \| default\(''\))"
    assert re.findall(bare, text) == [], "each is given to `| bool` where it is used"


@each_role
def test_entry_points_say_what_they_are_for(role: str) -> None:
    assert entry_points(role), "meta/argument_specs.yml is missing"
    for spec in entry_points(role).values():
        assert re.fullmatch(r"[A-Z][^\n]*[^.\s]", spec["short_description"]), "a capital first, no full stop: a title"


@each_role
def test_entry_points_are_task_files(role: str) -> None:
    files = {path.stem for path in ROOT.glob(f"roles/{role}/tasks/*.yml")}
    assert set(entry_points(role)) <= files


@each_public_role
def test_state_is_present_or_absent(role: str) -> None:
    state = entry_points(role)["main"]["options"][f"{role}_state"]
    assert state["default"] == "present"
    assert {"present", "absent"} <= set(state["choices"])


@each_role
def test_user_variables_carry_the_roles_name(role: str) -> None:
    names = {name for owned, name, _ in DEFAULTS if owned == role}
    names |= {name for owned, _, name, _ in OPTIONS if owned == role}
    assert {name for name in names if not carries(name, role)} == set()


@each_role
def test_internal_variables_carry_the_roles_name_and_underscores(role: str) -> None:
    assert {name for name in internal(role) if not name.startswith("__") or not carries(name[2:], role)} == set()


def test_no_variable_belongs_to_two_roles() -> None:
    declared = Counter(name for role in ROLES for name in {*load(role, "defaults", "main.yml"), *internal(role)})
    assert {name: count for name, count in declared.items() if count > 1} == {}


@pytest.mark.parametrize(
    "parameter",
    [
        pytest.param(parameter, id=f"{preset}/{name}")
        for preset, parameters in PARAMETERS.items()
        for name, parameter in parameters.items()
        if "variable" in parameter
    ],
)
def test_preset_parameter_is_declared_like_its_variable(parameter: Spec) -> None:
    variable = VARIABLES[parameter["variable"]]
    shared = ("type", "elements", "choices", "no_log")
    assert {key: parameter.get(key) for key in shared} == {key: variable.get(key) for key in shared}
