"""Deployments of a `prefect.yaml`, as entries of `prefect_deployments`, without Prefect and without running anything.

The flow's name, description and parameters, which `prefect deploy` gets by importing the flow, are read from its
source. Features that only that command supports are reported as errors.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = "prefect.yaml"
PLAIN = ("name", "version", "description", "tags", "entrypoint", "parameters", "enforce_parameter_schema", "paused")
"""Fields that are the same in an entry of `prefect_deployments`."""

KNOWN = {
    *PLAIN,
    "version_type",
    "flow_name",
    "schedule",
    "schedules",
    "concurrency_limit",
    "work_pool",
    "build",
    "push",
}
KNOWN |= {"pull", "triggers", "sla"}
PLACEHOLDER = re.compile(r"\{\{\s*(.+?)\s*\}\}")
TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "List": "array",
    "dict": "object",
    "Dict": "object",
}
"""JSON Schema types by Python type."""

Entry = dict[str, Any]


class ProjectError(Exception):
    """All errors in a project, including features that only `prefect deploy` supports, one per line."""

    def __init__(self, file: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))


def deployments(path: Path, *, directory: str, environment: Mapping[str, str]) -> list[Entry]:
    """Return the deployments of a `prefect.yaml`, given as file or directory, as entries of `prefect_deployments`.

    `directory` is the directory of the flow code on the hosts, for deployments without pull steps; `environment` has
    the values of `{{ $NAME }}`. Raises ProjectError, and OSError if the file cannot be read.
    """
    file = path / FILE if path.is_dir() else path
    try:
        project = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ProjectError(file, [" ".join(str(error).split())]) from error
    listed = project.get("deployments") if isinstance(project, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ProjectError(file, ["it has no list of deployments"])
    problems: list[str] = []
    found: list[Entry] = []
    for index, given in enumerate(listed):
        reader = Reader(project, file.parent, directory, environment)
        if isinstance(given, Mapping):
            found.append(reader.entry(given))
            name = f" ({given['name']})" if given.get("name") else ""
            problems += [f"deployments[{index}]{name}: {problem}" for problem in reader.problems]
        else:
            problems.append(f"deployments[{index}] is not a mapping")
    if problems:
        raise ProjectError(file, problems)
    return found


class Reader:
    """Reads one deployment of a project, and collects its errors in `problems`."""

    def __init__(self, project: Mapping[str, Any], root: Path, directory: str, environment: Mapping[str, str]) -> None:
        self.project, self.root, self.directory, self.environment = project, root, directory, environment
        self.problems: list[str] = []

    def entry(self, given: Mapping[str, Any]) -> Entry:
        """Return the entry of a deployment."""
        for name in given:
            if name not in KNOWN:
                near = difflib.get_close_matches(str(name), KNOWN, n=1)
                self.problems.append(f"{name} is unknown" + (f"; {near[0]}?" if near else ""))
        for name in ("build", "push"):
            if given[name] if name in given else self.project.get(name):
                self.problems.append(
                    f"{name} has steps, which only `prefect deploy` runs; set {name}: null here, or make the project a "
                    "deployment script: prefect_flows_deployment_scripts: [{name: ..., project: ...}]"
                )
        if given.get("triggers"):
            self.problems.append("triggers are automations: write them into prefect_automations")
        if given.get("sla"):
            self.problems.append("sla exists only in Prefect Cloud")
        made = {name: self.filled(given[name], name) for name in PLAIN if given.get(name) is not None}
        for name in ("name", "entrypoint"):
            if not made.get(name):
                self.problems.append(f"{name} is missing")
        if isinstance(made.get("tags"), str):
            made["tags"] = made["tags"].split()
        flow = self.flow(str(made.get("entrypoint") or ""))
        made = {**flow, **made}
        if given.get("flow_name"):
            made["flow"] = given["flow_name"]
        if not made.get("flow") and made.get("entrypoint"):
            self.problems.append(f"flow_name is missing: there is no source of {made['entrypoint']} to read it from")
        return {**made, **self.placed(given), **self.timed(given), **self.limited(given), **self.pulled(given)}

    def placed(self, given: Mapping[str, Any]) -> Entry:
        """Return the work pool, queue and job variables of a deployment."""
        pool = given.get("work_pool") or {}
        if not isinstance(pool, Mapping):
            self.problems.append("work_pool is not a mapping")
            return {}
        names = {"name": "work_pool", "work_queue_name": "work_queue", "job_variables": "job_variables"}
        made = {
            option: self.filled(pool[key], f"work_pool.{key}", later=key == "job_variables")
            for key, option in names.items()
            if pool.get(key)
        }
        if not made.get("work_pool"):
            self.problems.append("work_pool.name is missing")
        return made

    def timed(self, given: Mapping[str, Any]) -> Entry:
        """Return the schedules of a deployment; empty if it does not mention any, and an empty list if it has none."""
        if "schedules" in given:
            listed = given["schedules"] or []
        elif "schedule" in given:
            listed = [given["schedule"]] if given["schedule"] else []
        else:
            return {}
        return {"schedules": self.filled(listed, "schedules")}

    def limited(self, given: Mapping[str, Any]) -> Entry:
        """Return how many runs of a deployment may be active at a time, and what happens to further ones."""
        limit = self.filled(given.get("concurrency_limit"), "concurrency_limit")
        if limit is None:
            return {}
        if not isinstance(limit, Mapping):
            return {"concurrency_limit": limit}
        rest = {name: value for name, value in limit.items() if name != "limit"}
        made = {"concurrency_limit": limit.get("limit")}
        return {**made, "concurrency_options": rest} if rest else made

    def pulled(self, given: Mapping[str, Any]) -> Entry:
        """Return the pull steps of a deployment. The placeholders that `prefect deploy` leaves to a run are kept."""
        steps = given["pull"] if "pull" in given else self.project.get("pull")
        if steps:
            steps = [steps] if isinstance(steps, Mapping) else steps
            return {"pull_steps": self.filled(steps, "pull", later=True)}
        if steps == []:
            return {"pull_steps": []}
        return {"pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": self.directory}}]}

    def filled(self, value: Any, place: str, *, later: bool = False) -> Any:
        """Return a value with its placeholders filled in; with `later`, unknown ones that a run fills in are kept."""
        if isinstance(value, Mapping):
            return {str(name): self.filled(each, f"{place}.{name}", later=later) for name, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each, f"{place}[{index}]", later=later) for index, each in enumerate(value)]
        if not isinstance(value, str):
            # YAML parses dates itself, for example the anchor of an interval.
            return value.isoformat() if hasattr(value, "isoformat") else value

        def fill(found: re.Match[str]) -> str:
            name = found[1].removeprefix("$")
            if found[1].startswith("$") and name in self.environment:
                return self.environment[name]
            if not (later and (found[1].startswith(("$", "prefect.", "ctx.")))):
                self.problems.append(f"{place}: {self.reason(found[1])}")
            return found[0]

        return PLACEHOLDER.sub(fill, value)

    def reason(self, name: str) -> str:
        """Return why a placeholder cannot be filled in."""
        if name.startswith("$"):
            return f"{{{{ {name} }}}}: the environment of ansible-playbook has no {name[1:]}"
        if name.startswith("prefect."):
            return f"{{{{ {name} }}}}: here only `prefect deploy` fills it in; write the value"
        return f"{{{{ {name} }}}}: the output of a step, which only `prefect deploy` runs"

    def flow(self, entrypoint: str) -> Entry:
        """Return the fields from the source of a flow: `flow` (its name), `description`, `parameter_openapi_schema`."""
        place, separator, name = entrypoint.rpartition(":" if ":" in entrypoint else ".")
        file = self.root / (place if place.endswith(".py") else f"{place.replace('.', '/')}.py")
        if not separator or not file.is_file():
            return {}
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            self.problems.append(f"entrypoint {entrypoint}: {file.name} is no Python: {error}")
            return {}
        functions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        if name not in functions:
            near = difflib.get_close_matches(name, functions, n=1)
            hint = f"; {near[0]}?" if near else ""
            if not any(isinstance(node, ast.ClassDef) for node in tree.body) or near:
                self.problems.append(f"entrypoint {entrypoint}: {file.name} has no function {name}{hint}")
            return {}
        function = functions[name]
        words = {keyword.arg: keyword.value for node in function.decorator_list for keyword in keywords(node)}
        made: Entry = {"flow": literal(words.get("name")) or name.replace("_", "-")}
        if description := literal(words.get("description")) or ast.get_docstring(function):
            made["description"] = description
        return {**made, "parameter_openapi_schema": schema(function)}


def keywords(node: ast.expr) -> list[ast.keyword]:
    """Return the keyword arguments of a `flow` decorator; empty for other decorators."""
    called = node.func if isinstance(node, ast.Call) else node
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return node.keywords if name == "flow" and isinstance(node, ast.Call) else []


def literal(node: ast.expr | None) -> Any:
    """Return the value of a literal expression, or None for other expressions."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def schema(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Entry:
    """Return the schema of a flow's parameters; a parameter whose type is not known accepts any value."""
    properties: dict[str, Entry] = {}
    required = []
    for position, (argument, default) in enumerate(arguments(function.args)):
        about: Entry = {"title": argument.arg, "position": position}
        note = argument.annotation.value if isinstance(argument.annotation, ast.Subscript) else argument.annotation
        if isinstance(note, ast.Name) and note.id in TYPES:
            about["type"] = TYPES[note.id]
        if default is None:
            required.append(argument.arg)
        elif (value := literal(default)) is not None and isinstance(value, (str, int, float, list, dict)):
            about["default"] = value
        properties[argument.arg] = about
    made: Entry = {"title": "Parameters", "type": "object", "properties": properties}
    return {**made, "required": required} if required else made


def arguments(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Yield the arguments of a function with their defaults."""
    places = [*given.posonlyargs, *given.args]
    without = len(places) - len(given.defaults)
    yield from zip(places, [*[None] * without, *given.defaults], strict=True)
    yield from zip(given.kwonlyargs, given.kw_defaults, strict=True)
