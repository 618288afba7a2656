"""Roles, templates and modules stand where a reader looks for them, and have the parts that each of them owes."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import rendered
from jinja2 import Environment, nodes

ROOT = Path(__file__).resolve().parents[2]
PRIVATE_ROLES = {"prefect_common", "prefect_vars"}
ROLES = sorted(path for path in (ROOT / "roles").glob("*/") if path.name not in PRIVATE_ROLES)
TEMPLATES = sorted(path for path in (ROOT / "templates").rglob("*") if path.is_file())
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
each_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)


@functools.cache
def tasks(path: Path) -> list[dict[str, Any]]:
    """Return the tasks of a task file, or the plays of a playbook. No test changes them."""
    return list(yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or [])


@functools.cache
def names_used(test: Path) -> frozenset[str]:
    """Return the last parts of the dotted names that a test file imports or holds as strings."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return frozenset(name.rpartition(".")[2] for name in names)


def task_files() -> list[Path]:
    return sorted((ROOT / "roles").glob("*/tasks/*.yml")) + sorted((ROOT / "playbooks").glob("*.yml"))


def each_task(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the tasks of a task file or playbook, those in plays and blocks as well."""
    todo = [*tasks(path)]
    while todo:
        task = todo.pop()
        yield task
        for block in ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers"):
            todo += task.get(block) or []


UNRECORDED = {
    # A cache of Prefect's own, which is wrong for another database, in an adopted home as well.
    ("host_files", "Remove the record of registered block types"),
    ("host_files", "Remove the record of registered block types again"),
    # Only what came with packages that this collection installed, and directories that are empty.
    ("host_files", "Remove the files that the packages left"),
    ("host_files", "Remove the empty directory of enabled units"),
}
"""Tasks that create or remove without the ledger, and why that harms no other owner."""


@pytest.mark.parametrize("path", task_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_can_be_recorded_is_recorded(path: Path) -> None:
    """A module with the option `ledger` removes what it finds, or leaves what it creates, where it is not given one."""
    found = {
        (module.rpartition(".")[2], task["name"])
        for task in each_task(path)
        for module, options in task.items()
        if module.rpartition(".")[2] in with_ledger()
        and "ledger" not in options
        # Services that only start or stop are no one's to remove.
        and (module.rpartition(".")[2] != "host_services" or "prune" in options)
    }
    assert found - UNRECORDED == set()


def test_an_exception_is_used() -> None:
    names = {task.get("name") for path in task_files() for task in each_task(path)}
    assert {name for _, name in UNRECORDED} - names == set()


@functools.cache
def with_ledger() -> frozenset[str]:
    """Return the modules that record what they create."""
    return frozenset(module.stem for module in MODULES if '"ledger": LEDGER' in module.read_text(encoding="utf-8"))


@each_role
def test_role_enters_by_its_state(role: Path) -> None:
    included = [task.get("ansible.builtin.include_tasks") for task in tasks(role / "tasks" / "main.yml")]
    assert f"{{{{ {role.name}_state }}}}.yml" in included


@each_role
def test_role_has_a_task_file_for_each_state(role: Path) -> None:
    specs = yaml.load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"), yaml.CSafeLoader)[
        "argument_specs"
    ]
    states = specs["main"]["options"][f"{role.name}_state"]["choices"]
    assert {state for state in states if not (role / "tasks" / f"{state}.yml").is_file()} == set()


@each_role
def test_what_an_earlier_run_left_is_removed_whatever_the_variables_say_today(role: Path) -> None:
    """A variable may have changed since: the ledger and the records of packages say what is on the host."""
    purge = {"prefect_purge", "prefect_instance"}
    found = {
        task["name"]: variables - purge
        for task in each_task(role / "tasks" / "absent.yml")
        for conditions in [task.get("when", [])]
        if (variables := set(re.findall(r"\bprefect_\w+", str(conditions)))) - purge
    }
    assert found == {}


@pytest.mark.parametrize("link", sorted((ROOT / "roles").glob("*/templates")), ids=lambda path: path.parent.name)
def test_role_reaches_the_shared_templates_by_a_symlink(link: Path) -> None:
    assert link.is_symlink()
    assert str(link.readlink()) == "../../templates"


LAYERS = {"api": (), "host": ("api",), "objects": ("api",), "onhost": ("api", "host")}
"""The packages of `module_utils`, each with those that it may import from: no import runs upward."""

MODULE_UTILS = ROOT / "plugins" / "module_utils"
SHARED = sorted(MODULE_UTILS.rglob("*.py"))
WITH_ANSIBLE = {"api/module.py", "api/results.py"}
each_shared = pytest.mark.parametrize("path", SHARED, ids=lambda path: str(path.relative_to(MODULE_UTILS)))


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of the names of the modules that a module imports, relative to `module_utils`."""
    package = path.relative_to(MODULE_UTILS).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield (*package[: len(package) - node.level], *(node.module or "").split("."), node.names[0].name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith("ansible_collections.selfhosted") for name in names), "import it relatively"


@each_shared
def test_no_import_runs_upward(path: Path) -> None:
    package = path.relative_to(MODULE_UTILS).parts[0]
    found = {next(part for part in parts if part) for parts in imported(path)}
    assert found <= {package, *LAYERS[package]}


@each_shared
def test_only_what_modules_share_needs_ansible(path: Path) -> None:
    """All other code can be imported on a host, where Ansible is not installed."""
    imports = re.search(r"^(?:from|import) ansible\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    assert imports == (str(path.relative_to(MODULE_UTILS)) in WITH_ANSIBLE)


def test_what_is_installed_on_hosts_can_be_imported_there(tmp_path: Path) -> None:
    """A package is installed with what it imports and nothing else, and with no Ansible beside it."""
    role = (ROOT / "roles" / "prefect" / "tasks" / "present.yml").read_text(encoding="utf-8")
    modules = sorted({module for name in re.findall(r"package: (\w+)", role) for module in rendered.modules_of(name)})
    assert {"onhost", "objects", "host", "api"} == {module.parts[0] for module in modules}
    assert not {str(module) for module in modules} & WITH_ANSIBLE
    for module in modules:
        (tmp_path / "selfhosted_prefect" / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODULE_UTILS / module, tmp_path / "selfhosted_prefect" / module)
    names = ", ".join(f"selfhosted_prefect.{'.'.join(module.with_suffix('').parts)}" for module in modules)
    script = f"import sys; sys.modules['ansible'] = sys.modules['ansible_collections'] = None; import {names}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_template
def test_template_is_named_like_the_file_it_writes(template: Path) -> None:
    assert template.suffix == ".j2"
    assert template.relative_to(ROOT / "templates").parts[0] in {"etc", "opt", "usr", "var"}


@each_template
def test_template_says_that_ansible_manages_the_file(template: Path) -> None:
    lines = template.read_text(encoding="utf-8").splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.fullmatch(r"\{\{ ansible_managed \| comment(\(.+\))? \}\}", first)


@each_template
def test_template_only_branches_and_loops(template: Path) -> None:
    tree = Environment(autoescape=False).parse(template.read_text(encoding="utf-8"))
    statements = {type(node) for node in tree.find_all(nodes.Stmt)}
    assert statements <= {nodes.Output, nodes.If, nodes.For}, "compute it in vars/ or Python"


@each_module
def test_module_is_documented(module: Path) -> None:
    assigned = {
        target.id
        for statement in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    assert {"DOCUMENTATION", "EXAMPLES", "RETURN"} <= assigned


@each_module
def test_module_is_tested(module: Path) -> None:
    suites = ("unit", "local", "preset")
    tests = {path for suite in suites for path in ROOT.glob(f"tests/{suite}/test_*.py")} - {Path(__file__).resolve()}
    assert any(module.stem in names_used(test) for test in tests)


def options_of(action: Path) -> dict[str, str]:
    """Return the options that an action plugin takes itself, with their types; none if it hands on what it is given.

    The type of an option that several plugins share is empty here.
    """
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(action.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "validate_argument_spec":
            (spec,) = node.args
            assert isinstance(spec, ast.Dict), f"{action.name}: give the options where they are checked"
            for key, value in zip(spec.keys, spec.values, strict=True):
                kind = ast.literal_eval(value).get("type", "str") if isinstance(value, ast.Dict) else ""
                found[ast.literal_eval(key) if key else ""] = kind
    return found


@pytest.mark.parametrize(
    "action", sorted(filter(options_of, (ROOT / "plugins/action").glob("*.py"))), ids=lambda path: path.stem
)
def test_an_action_takes_what_tasks_give_it(action: Path) -> None:
    """A module's new option has to be known to the action plugin in front of it, with its type."""
    name, options = f"selfhosted.prefect.{action.stem}", options_of(action)
    files = [*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "playbooks").glob("*.yml")]
    given = {option for path in files for task in tasks(path) for option in task.get(name) or ()}
    assert given - options.keys() == set()
    module = ROOT / "plugins/modules" / action.name
    text = re.search(r'^DOCUMENTATION = r?"""(.+?)"""', module.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    documented = yaml.safe_load(text[1]).get("options", {}) if text else {}
    types = {option: about["type"] for option, about in documented.items() if options.get(option)}

    def said(kinds: dict[str, str]) -> dict[str, str]:
        # A path of a host is text on the controller, which would expand it.
        return {option: kinds[option].replace("path", "str") for option in types}

    assert said(options) == said(types)


WITH_SECRETS = {"secrets", "resources"}
"""Values of a result that hold secrets as they are, because another task needs them."""


@each_module
def test_a_module_that_returns_secrets_has_an_action_that_hides_them(module: Path) -> None:
    """Over ssh, `-vvv` shows what a module returns, whatever its action shows."""
    returned = {
        keyword.arg
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "exit_json"
        for keyword in node.keywords
    }
    action = ROOT / "plugins" / "action" / module.name
    assert not returned & WITH_SECRETS or "raw_results.hidden(self)" in action.read_text(encoding="utf-8")


def test_modules_that_speak_to_the_api_share_their_options() -> None:
    runtime = yaml.load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    speaking = [module.stem for module in MODULES if "- selfhosted.prefect.api\n" in module.read_text(encoding="utf-8")]
    assert runtime["action_groups"]["api"] == speaking


OTHERS = {"inventory", "reached", "shortname", "site"}
PLAYBOOKS = sorted(path for path in (ROOT / "playbooks").glob("*.yml") if path.stem not in OTHERS)
"""Playbooks that people run for hosts of the inventory: `shortname` is for the controller, and `site` runs others."""


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_playbook_checks_the_inventory_first(playbook: Path) -> None:
    assert tasks(playbook)[0]["ansible.builtin.import_playbook"] == "inventory.yml"


@pytest.mark.parametrize(
    "module", ["host_deployment_scripts", "host_definitions", "host_flow_parameters", "flow_run", "host_tree"]
)
def test_a_module_for_flows_is_used_by_a_role(module: str) -> None:
    """Two task files once lost their ends in a merge, and what was left of them was valid."""
    used = {key for path in (ROOT / "roles").glob("*/tasks/*.yml") for task in tasks(path) for key in task}
    assert f"selfhosted.prefect.{module}" in used


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (
            "prefect_flows/tasks/present.yml",
            {
                "Copy the flows",
                "Read the parameters of the flows",
                "Run the deployment scripts",
                "Run the serve processes",
            },
        ),
        (
            "prefect_definitions/tasks/present.yml",
            {"Register the definitions", "Run the processes that serve and follow definitions"},
        ),
        ("prefect_definitions/tasks/load.yml", {"Load the definitions into the database"}),
    ],
)
def test_a_role_does_all_that_it_is_for(path: str, names: set[str]) -> None:
    assert names <= {task["name"] for task in tasks(ROOT / "roles" / path)}
