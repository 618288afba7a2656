"""The directory that a worker finds flows in: `definitions.py`, `definitions.json`, and `.env` beside them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .records import DefinitionError
from .schema import KINDS, Definitions, attribute, rows_of

if TYPE_CHECKING:
    from prefect import Flow

FILE = "definitions.json"
MODULE = "definitions.py"
PATHS = "search_paths"
"""Key of the file with the directories that `use` imports from, beside its own."""


def environment_of(directory: Path) -> dict[str, str]:
    """Return what `.env` in a directory sets: lines of NAME=value, the value bare or in double quotes with escapes."""
    file = directory / ".env"
    if not file.is_file():
        return {}
    found = re.findall(r'^\s*(?:export\s+)?(\w+)=(?:"((?:[^"\\]|\\.)*)"|(.*?))\s*$', file.read_text(), re.MULTILINE)
    return {name: re.sub(r'\\(["\\$`])', r"\1", quoted) or bare for name, quoted, bare in found}


def enter(directory: Path, paths: list[str]) -> None:
    """Let this process import what the definitions of a directory use, and see their environment."""
    for path in reversed([*paths, str(directory)]):
        if path not in sys.path:
            sys.path.insert(0, path)
    for name, value in environment_of(directory).items():
        os.environ.setdefault(name, value)


def content(directory: Path) -> dict[str, Any]:
    """Return what the file of definitions in a directory holds. Raises DefinitionError where there is none."""
    try:
        return dict(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DefinitionError([f"{directory / FILE}: {error}"]) from error


def definitions_in(directory: Path, *, flow: str = "") -> Definitions:
    """Return the definitions of a directory, or only what belongs to the flow that the module calls `flow`."""
    data = content(directory)
    data.pop(PATHS, None)
    if flow:
        keys = {
            "prefect_flows": "name",
            "prefect_tasks": "flow_name",
            "prefect_deployments": "flow_name",
            "prefect_runners": "id",
        }
        data = {kind: [row for row in data.get(kind, []) if attribute(row[key]) == flow] for kind, key in keys.items()}
    return Definitions.of(rows_of(data))


def differing(definitions: Definitions, held: Mapping[str, Any]) -> list[str]:
    """Return the flows of definitions that are not as the content of a directory's file has them."""
    try:
        before = Definitions.of(rows_of({kind: rows for kind, rows in held.items() if kind != PATHS}))
    except DefinitionError:
        return [flow.name for flow in definitions.flows]
    known = {flow.name for flow in before.flows}
    return [
        flow.name
        for flow in definitions.flows
        if flow.name not in known
        or before.flow(flow.name) != flow
        or before.tasks_of(flow.name) != definitions.tasks_of(flow.name)
        or before.deployments_of(flow.name) != definitions.deployments_of(flow.name)
    ]


def write(directory: Path, data: Mapping[str, Any], *, paths: list[str], dry: bool = False) -> bool:
    """Write a directory's file of definitions, and return whether that changes it; where `dry`, would change it.

    It may hold the arguments of tasks: other accounts of the host do not read it.
    """
    held = {kind: data[kind] for kind in KINDS if data.get(kind)} | {PATHS: paths}
    text, file = json.dumps(held, indent=1, sort_keys=True) + "\n", directory / FILE
    changed = not file.exists() or file.read_text(encoding="utf-8") != text or bool(file.stat().st_mode & 0o007)
    if changed and not dry:
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
        fresh.replace(file)
    return changed


def flow_in(directory: Path, name: str) -> Flow[..., Any]:
    """Return the flow that the module of a directory calls `name`. Raises AttributeError where there is none."""
    from .flows import flow_of

    definitions = definitions_in(directory, flow=name)
    if not definitions.flows:
        raise AttributeError(f"{directory / FILE} defines no flow {name}")
    enter(directory, content(directory).get(PATHS, []))
    return flow_of(definitions, definitions.flows[0].name)
