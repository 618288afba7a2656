"""Real Prefect flows from definitions: Prefect starts the tasks, tries them again, and shows what came of each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import prefect
from prefect import Flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Failed, State

from . import schema
from .celery_tasks import send
from .execution import Limit, Stopped, call, run, words
from .limits import PER_FLOW, PER_HOST, in_turn, most, place_on_host, places_directory
from .schema import Definitions, needs
from .values import fill, own_parameters, signature

STOP: ContextVar[threading.Event] = ContextVar("STOP")
"""Set when the flow run is cancelled; Prefect hands the context of a flow run on to its tasks."""


def flow_of(definitions: Definitions, name: str) -> Flow[..., Any]:
    """Return the flow called `name`. Raises KeyError where none is."""
    definition = definitions.flow(name)
    deployments = definitions.deployments_of(name)
    return build(
        definition,
        definitions.tasks_of(name),
        parameters=parameters_of(definitions, name),
        defaults=deployments[0].parameters if len(deployments) == 1 else {},
        described=described_parameters(deployments),
        alone=name in definitions.runners,
    )


def parameters_of(definitions: Definitions, flow: str) -> list[str]:
    """Return the names of a flow's parameters: those that its tasks refer to, and those that its deployments set."""
    named = [name for task in definitions.tasks_of(flow) for name in task.references.parameters]
    given = [name for item in definitions.deployments_of(flow) for name in item.parameters]
    return list(dict.fromkeys([*named, *given]))


def described_parameters(deployments: Sequence[schema.Deployment]) -> dict[str, list[Any]]:
    """Return the values that deployments give each parameter."""
    found: dict[str, list[Any]] = {}
    for deployment in deployments:
        for name, value in deployment.parameters.items():
            found.setdefault(name, []).append(value)
    return found


def build(
    definition: schema.Flow,
    tasks: Sequence[schema.Task],
    *,
    parameters: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    described: Mapping[str, Sequence[Any]] | None = None,
    alone: bool = False,
) -> Flow[..., Any]:
    """Return a flow of tasks, each of which comes after all that it needs.

    `described` are the values that definitions give each parameter: only these refer to the environment.
    The flow's result is a mapping of its tasks' results, or the result itself of one that is `alone`.
    """
    work = {task.name: build_task(task, described or {}) for task in tasks}
    upstream = {task.name: needs(task) for task in tasks}
    inputs = {task.name: task.references for task in tasks}

    def body(**given: Any) -> Any:
        stop = threading.Event()
        token = STOP.set(stop)
        futures: dict[str, PrefectFuture[Any]] = {}

        def submit(name: str, ended: Callable[[], None]) -> None:
            futures[name] = work[name].submit(
                results={other: futures[other] for other in inputs[name].results},
                parameters={other: given[other] for other in inputs[name].parameters},
                wait_for=[futures[other] for other in upstream[name]],
            )
            futures[name].add_done_callback(lambda _: ended())

        try:
            in_turn(upstream, submit, limit=most(PER_FLOW, os.environ))
            for future in futures.values():
                future.wait()
        except BaseException:
            stop.set()
            raise
        finally:
            STOP.reset(token)
        states = {name: futures[name].state for name in work}
        if any(not state.is_completed() for state in states.values()):
            return failure(states)
        results = {name: futures[name].result() for name in work}
        return next(iter(results.values())) if alone else results

    body.__name__ = body.__qualname__ = schema.attribute(definition.name)
    body.__doc__ = definition.description
    body.__signature__ = signature(parameters, defaults or {})  # type: ignore[attr-defined]
    return Flow(
        body,
        name=definition.name,
        description=definition.description or None,
        log_prints=True,
        validate_parameters=False,
    )


def failure(states: Mapping[str, State[Any]]) -> State[Any]:
    """Return the state of a flow run not all of whose tasks were completed: which failed, why, and what never began."""
    failed = [
        f"{name}: {state.message}" for name, state in states.items() if state.is_final() and not state.is_completed()
    ]
    unstarted = [name for name, state in states.items() if not state.is_final()]
    return Failed(
        message=f"{len(failed)} of {len(states)} tasks failed. {' '.join(failed)}"
        + (f" Not started: {', '.join(unstarted)}." if unstarted else "")
    )


def build_task(task: schema.Task, described: Mapping[str, Sequence[Any]]) -> prefect.Task[..., Any]:
    """Return the Prefect task of a definition."""

    def body(results: dict[str, Any], parameters: dict[str, Any]) -> Any:
        stop = STOP.get()
        # A Celery worker has limits of its own.
        places = 0 if task.celery_task_name else most(PER_HOST, os.environ)
        try:
            own = own_parameters(parameters, described, environment=os.environ)
            with place_on_host(places_directory(os.environ), places, wait=Limit(stop=stop)):
                # The time of a task begins when it has a place.
                limit = Limit(task.timeout_seconds, stop=stop)
                return perform(task, results=results, parameters=own, limit=limit)
        except Stopped as error:
            return Cancelled(message=str(error))

    # What Prefect tells the tasks of a flow apart by.
    body.__name__ = body.__qualname__ = task.name
    return prefect.Task(
        body,
        name=task.name,
        description=task.description or None,
        tags=task.tags,
        retries=task.retry_config.max_retries,
        retry_delay_seconds=task.retry_config.retry_delay_seconds,
        cache_policy=NO_CACHE,
        log_prints=True,
    )


def perform(task: schema.Task, *, results: Mapping[str, Any], parameters: Mapping[str, Any], limit: Limit) -> Any:
    """Return what a task's definition makes of its arguments, which are put in here: no one but the task sees them."""

    def filled(value: Any) -> Any:
        return fill(value, environment=os.environ, results=results, parameters=parameters)

    logger = get_run_logger()
    args, kwargs = filled(task.task_args), filled(task.task_kwargs)
    if task.use:
        return call(task.use, args, kwargs, limit=limit, factory=task.factory)
    if task.command:
        return run([*filled(words(task.command)), *args], limit=limit, logger=logger)
    return send(
        task.celery_task_name,
        args,
        kwargs,
        queue=task.celery_queue,
        environment=os.environ,
        limit=limit,
        logger=logger,
    )
