"""A filter that separates flows defined as data from flows that are code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

CODE = {"entrypoint", "path", "pull_steps"}
"""Fields that only a deployment of a flow that is code has."""


def definitions(data: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the objects that are defined as data: tasks, runners, flows that are not code, and their deployments."""
    deployments = data.get("prefect_deployments", [])
    tasks = data.get("prefect_tasks", [])
    defined = {task.get("flow_name") for task in tasks} | {each.get("id") for each in data.get("prefect_runners", [])}
    code = {
        deployment.get("flow_name", deployment.get("flow"))
        for deployment in deployments
        if CODE & deployment.keys() or "flow" in deployment
    }
    if not tasks:
        code |= {flow.get("name") for flow in data.get("prefect_flows", [])}
        code |= {deployment.get("flow_name", deployment.get("flow")) for deployment in deployments}
    code -= defined
    return {
        "prefect_flows": [flow for flow in data.get("prefect_flows", []) if flow.get("name") not in code],
        "prefect_tasks": tasks,
        "prefect_deployments": [
            deployment for deployment in deployments if deployment.get("flow_name", deployment.get("flow")) not in code
        ],
        "prefect_runners": data.get("prefect_runners", []),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"definitions": definitions}
