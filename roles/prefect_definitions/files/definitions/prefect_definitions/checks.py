"""What can only be told on a host that runs flows: imports, the environment, Celery's workers."""

from __future__ import annotations

from collections.abc import Mapping

from .celery_tasks import unserved
from .execution import check_call
from .records import DefinitionError
from .resources import unset
from .schema import Definitions


def problems_here(definitions: Definitions, environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for everything that would fail on this host."""
    problems = unset(definitions, environment)
    for task in definitions.tasks:
        if task.use and task.is_active:
            try:
                check_call(task.use, task.task_args, task.task_kwargs)
            except (ImportError, TypeError) as error:
                problems.append(f"prefect_tasks ({task.name} of {task.flow_name}): {error}")
    names = {task.celery_task_name for task in definitions.tasks if task.celery_task_name and task.is_active}
    if names:
        try:
            problems += unserved(names, environment)
        except DefinitionError as error:
            problems += error.problems
    return problems
