"""What a server has to be told of definitions, in the words of the module `resources`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from .directory import MODULE
from .schema import Cron, Definitions, Deployment, Flow, Interval, WorkPool, attribute
from .values import references

Inactive = Literal["paused", "absent"]


def resources(
    definitions: Definitions,
    *,
    directory: Path,
    work_pool: str,
    inactive: Inactive = "paused",
    kept: Collection[tuple[str, str, str]] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Return the work pools, flows and deployments that definitions make, flow code being in `directory` on the hosts.

    Deployments that name no pool get `work_pool`. What is not active is left out where it is to be removed,
    unless it is `kept`: kind, flow and name.
    """
    flows = {flow.name: flow for flow in definitions.flows}
    active = {item.name for item in definitions.flows if item.is_active is not False or inactive == "paused"}
    active |= {flow for _, flow, _ in kept}
    return {
        "prefect_work_pools": [
            pool_resource(pool)
            for pool in definitions.work_pools
            if pool.is_active is not False or inactive == "paused" or ("prefect_work_pools", "", pool.name) in kept
        ],
        "prefect_flows": [flow_resource(flow) for flow in definitions.flows if flow.name in active],
        "prefect_deployments": [
            deployment_resource(item, flows[item.flow_name], definitions, directory=directory, work_pool=work_pool)
            for item in definitions.deployments
            if item.flow_name in active
            and (
                item.is_active is not False
                or inactive == "paused"
                or ("prefect_deployments", item.flow_name, item.name) in kept
            )
        ],
    }


def pool_resource(pool: WorkPool) -> dict[str, Any]:
    """Return a work pool as a resource. What a definition leaves out, a person may choose."""
    made: dict[str, Any] = {"name": pool.name, "type": pool.pool_type}
    if pool.description:
        made["description"] = pool.description
    if pool.concurrency_limit is not None:
        made["concurrency_limit"] = pool.concurrency_limit
    if pool.config.get("base_job_template"):
        made["base_job_template"] = pool.config["base_job_template"]
    return made | paused(pool.is_active, name="is_paused")


def flow_resource(flow: Flow) -> dict[str, Any]:
    """Return a flow as a resource; its type is a tag."""
    return {"name": flow.name, "tags": [*flow.tags, *([flow.flow_type] if flow.flow_type else [])]}


def deployment_resource(
    deployment: Deployment, flow: Flow, definitions: Definitions, *, directory: Path, work_pool: str
) -> dict[str, Any]:
    """Return a deployment as a resource, with the place of its flow on the hosts that run it."""
    is_active = False if flow.is_active is False else deployment.is_active
    return {
        "flow": flow.name,
        "name": deployment.name,
        "description": deployment.description or flow.description,
        "tags": deployment.tags,
        "entrypoint": f"{MODULE}:{attribute(flow.name)}",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(directory)}}],
        "work_pool": deployment.work_pool_name or work_pool,
        **({"work_queue": deployment.work_queue_name} if deployment.work_queue_name else {}),
        "parameters": deployment.parameters,
        "parameter_openapi_schema": parameter_schema(definitions, flow.name),
        "schedules": [schedule_resource(deployment.schedule)] if deployment.schedule else [],
        **paused(is_active, name="paused"),
    }


def paused(is_active: bool | None, *, name: str) -> dict[str, bool]:
    """Return what to say of a pause: nothing, where the definition says nothing."""
    return {} if is_active is None else {name: not is_active}


def schedule_resource(schedule: Any) -> dict[str, Any]:
    """Return a schedule as a resource."""
    if isinstance(schedule, Cron):
        return {"cron": schedule.cron_string, "timezone": schedule.timezone}
    if isinstance(schedule, Interval):
        anchor = {"anchor_date": schedule.anchor_date} if schedule.anchor_date else {}
        return {"interval": schedule.interval_seconds, **anchor, "timezone": schedule.timezone}
    return {"rrule": schedule.rrule, "timezone": schedule.timezone}


def parameter_schema(definitions: Definitions, flow: str) -> dict[str, Any]:
    """Return the JSON schema of a flow's parameters, from which the UI makes a form."""
    names = [name for task in definitions.tasks_of(flow) for name in task.references.parameters]
    names += [name for item in definitions.deployments_of(flow) for name in item.parameters]
    return {
        "title": "Parameters",
        "type": "object",
        "properties": {name: {"title": name, "position": place} for place, name in enumerate(dict.fromkeys(names))},
        "required": [],
    }


def unset(definitions: Definitions, environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each name that a task or deployment needs of the environment, and that it lacks."""
    problems = [
        f"{definitions.said(task)}: ${{{name}}} is not set on this host and has no default; "
        "set it in prefect_definitions_environment"
        for task in definitions.tasks
        for name in task.references.names
        if task.is_active and name not in environment
    ]
    problems += [
        f"prefect_deployments ({item.name}): ${{{name}}} is not set on this host and has no default; "
        "set it in prefect_definitions_environment"
        for item in definitions.deployments
        for name in references(item.parameters).names
        if name not in environment
    ]
    return problems
