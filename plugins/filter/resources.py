"""Filters that select the Prefect objects described in the inventory, and tell whether a server can apply them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ansible.errors import AnsibleFilterError, AnsibleUndefinedVariable
from ansible_collections.selfhosted.prefect.plugins.filter.definitions import definitions
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.inventory import merged

DATA = ("prefect_tasks", "prefect_runners")
"""Lists that are only for flows defined as data."""

DEPLOYMENTS = KINDS["deployment"].list_name

PROJECTS = "prefect_resources_projects"
"""The variable that names `prefect.yaml` files with deployments."""

Lists = dict[str, list[Any]]


def resources(described: Mapping[str, list[Any]], hosts: Collection[str], kinds: Collection[str]) -> Lists:
    """Return the objects for the module `resources`: those described but not defined as data, of `kinds` or all kinds.

    `hosts` are the hosts that run flows defined as data. Raises AnsibleFilterError for such a flow without a host.
    """
    defined = next((name for name in DATA if described.get(name)), "")
    if defined and not hosts:
        raise AnsibleFilterError(
            f"{defined}: no host runs it; put the workers' hosts into the group prefect_definitions"
        )
    elsewhere = definitions(described) if defined else {}
    return {
        name: [entry for entry in described[name] if entry not in elsewhere.get(name, [])]
        for name in nothing(kinds)
        if name in described
    }


def unapplied(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[str]:
    """Return the variables that describe objects, of the first host that has any, if no host applies them.

    Flows defined as data are applied by the hosts that run them. Raises AnsibleFilterError if no host runs them.
    """
    if groups.get("prefect_server") or groups.get("prefect_resources"):
        return []
    for host in groups.get("all", []):
        variables = hostvars[host]
        try:
            lists = merged(variables, variables.__getitem__, {})
        except AnsibleUndefinedVariable:
            # They use a default of a role, which hostvars does not have.
            continue
        described = resources(lists, groups.get("prefect_definitions") or [], kinds=[])
        found = [name for name, entries in described.items() if entries]
        found += [PROJECTS] if variables.get(PROJECTS) else []
        if found:
            return sorted(found)
    return []


def entrypoints(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], directory: str) -> dict[str, Any]:
    """Return the `entrypoint` and `directory` of each deployment that `hosts` register, by deployment.

    The directories are relative to the argument `directory`. Deployments that have a parameter schema, or whose code is
    outside it, are left out.
    """
    found: dict[str, Any] = {}
    for host in (host for host in hosts if host in hostvars):
        variables = hostvars[host]
        names = [name for name in variables if name.startswith(DEPLOYMENTS)]
        try:
            entries = merged(names, variables.__getitem__, {}).get(DEPLOYMENTS, [])
        except AnsibleUndefinedVariable:
            # They use a default of a role, which hostvars does not have: their schemas stay as they are.
            continue
        for entry in entries:
            key, given = without_schema(entry)
            place = PurePosixPath(directory, code_of(given)) if key and given.get("entrypoint") else None
            if place is not None and place.is_relative_to(directory) and ".." not in place.parts:
                below = str(place.relative_to(directory))
                found.setdefault(key, {"directory": below, "entrypoint": str(given["entrypoint"])})
    return found


def without_schema(entry: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the key and fields of a deployment that is wanted and has no schema; an empty key for other entries."""
    given = KINDS["deployment"].renamed(dict(entry)) if isinstance(entry, Mapping) else {}
    wanted = given.get("state", "present") == "present" and given.get("parameter_openapi_schema") is None
    return (f"{given['flow']}/{given['name']}" if wanted and given.get("flow") and given.get("name") else ""), given


def code_of(deployment: Mapping[str, Any]) -> str:
    """Return the directory that a deployment runs in, or / if it is known only after its pull steps have run."""
    steps = deployment.get("pull_steps")
    if not steps:
        return str(deployment.get("path") or ".")
    step = steps[0] if isinstance(steps, list) and len(steps) == 1 and isinstance(steps[0], Mapping) else {}
    place = step.get("prefect.deployments.steps.set_working_directory")
    return str(place["directory"]) if isinstance(place, Mapping) and place.get("directory") else "/"


def with_parameters(lists: Lists, hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]) -> Lists:
    """Return the lists with the parameter schemas that `hosts` read from their flow code in this run."""
    deployments = lists.get(DEPLOYMENTS) or []
    if not any(without_schema(entry)[0] for entry in deployments):
        return lists
    known: dict[str, Any] = {}
    for host in reversed(hosts):
        known |= (hostvars[host].get("__prefect_flows_parameters") or {}).get("schemas") or {}
    return {
        **lists,
        DEPLOYMENTS: [
            {**entry, "parameter_openapi_schema": known[key]} if (key := without_schema(entry)[0]) in known else entry
            for entry in deployments
        ],
    }


def nothing(kinds: Collection[str]) -> Lists:
    """Return an empty list for each of `kinds`, or of all kinds. Raises AnsibleFilterError for an unknown kind."""
    if unknown := set(kinds) - KINDS.keys():
        raise AnsibleFilterError(f"prefect_resources_kinds: {', '.join(sorted(unknown))}: one of {', '.join(KINDS)}")
    return {KINDS[kind].list_name: [] for kind in kinds or KINDS}


def answers(servers: Collection[str], hostvars: Mapping[str, Any], check_mode: bool) -> bool:
    """Return whether a server can be asked, as far as this run has seen the `servers` of the inventory.

    In check mode, a server that is not installed yet does not answer; without a service manager, none ever does.
    """
    seen = [hostvars[server].get("__prefect_host", {}) for server in servers if server in hostvars]
    return not any(
        host.get("service_manager") == "none" or (check_mode and host.get("release_present") is False) for host in seen
    )


def plan_text(done: Mapping[str, Any]) -> str:
    """Return the result of the module `resources` as text: the plan and its totals."""
    counts = done["summary"]
    words = {"create": "new", "update": "changed", "recreate": "recreated", "delete": "gone", "adopted": "adopted"}
    told = [f"{counts[name]} {word}" for name, word in words.items() if counts[name]]
    return "\n".join([*done["plan"], ", ".join([*told, f"{counts['unchanged']} as described"])])


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "answers": answers,
            "entrypoints": entrypoints,
            "nothing": nothing,
            "plan_text": plan_text,
            "resources": resources,
            "unapplied": unapplied,
            "with_parameters": with_parameters,
        }
