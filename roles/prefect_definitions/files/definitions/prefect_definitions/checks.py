"""What can only be told on a host that runs flows: imports, the environment, Celery's workers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

from .celery_tasks import unserved
from .execution import check_call
from .limits import bad_limits
from .records import DefinitionError
from .resources import unset
from .schema import Definitions


def problems_here(
    definitions: Definitions, environment: Mapping[str, str], *, flows: Iterable[str] | None = None
) -> list[str]:
    """Return a sentence for everything that would fail on this host. Only `flows` are built, or all."""
    problems = unset(definitions, environment) + bad_limits(environment)
    problems += unbuilt(definitions, [flow.name for flow in definitions.flows] if flows is None else flows)
    problems += uncallable(definitions)
    names = {task.celery_task_name for task in definitions.tasks if task.celery_task_name and task.is_active}
    if names:
        try:
            problems += unserved(names, environment)
        except DefinitionError as error:
            problems += error.problems
    return problems


def uncallable(definitions: Definitions) -> list[str]:
    """Return a sentence for each `use` that cannot be imported, resolved, or called with the arguments of its task."""
    problems = []
    for task in definitions.tasks:
        if task.use and task.is_active:
            try:
                check_call(task.use, task.task_args, task.task_kwargs, factory=task.factory)
            except (ImportError, TypeError) as error:
                row = definitions.runners.get(task.flow_name)
                problems.append(f"{definitions.said(task, 'use' if row and row.spelled else '')}: {error}")
    return problems


def unbuilt(definitions: Definitions, flows: Iterable[str]) -> list[str]:
    """Return a sentence for each flow that Prefect refuses; none where Prefect is not installed."""
    names = list(flows)
    # Prefect takes seconds to import.
    if not names or importlib.util.find_spec("prefect") is None:
        return []
    from .flows import flow_of

    problems = []
    for name in names:
        try:
            flow_of(definitions, name)
        except Exception as error:
            problems.append(f"prefect_flows ({name}): Prefect refuses it: {type(error).__name__}: {error}")
    return problems
