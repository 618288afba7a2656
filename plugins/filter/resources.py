"""What the inventory describes of the inside of Prefect, and whether there is a server to tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.selfhosted.prefect.plugins.filter.definitions import definitions
from ansible_collections.selfhosted.prefect.plugins.module_utils.kinds import KINDS
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.inventory import merged

DATA = ("prefect_tasks", "prefect_runners")
"""What only flows that are data have."""

DEPLOYMENTS = KINDS["deployment"].list_name

PROJECTS = "prefect_resources_projects"
"""The variable that describes deployments by `prefect.yaml` files."""

Lists = dict[str, list[Any]]


def resources(described: Mapping[str, list[Any]], hosts: Collection[str], kinds: Collection[str]) -> Lists:
    """Return what is described and not defined as data, of some `kinds` or of all, for the module `resources`.

    `hosts` are those that run what is data. Raises AnsibleFilterError where there is some, and no host.
    """
    defined = next((name for name in DATA if described.get(name)), "")
    if defined and not hosts:
        raise AnsibleFilterError(
            f"{defined}: nobody runs it; put the workers' hosts into the group prefect_definitions"
        )
    elsewhere = definitions(described) if defined else {}
    return {
        name: [entry for entry in described[name] if entry not in elsewhere.get(name, [])]
        for name in nothing(kinds)
        if name in described
    }


def unapplied(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[str]:
    """Return the variables of the first host that has some which describe objects, where no host applies them.

    Flows that are data are applied by the hosts that run them. Raises AnsibleFilterError where there is none of those.
    """
    if groups.get("prefect_server") or groups.get("prefect_resources"):
        return []
    for host in groups.get("all", []):
        variables = hostvars[host]
        described = resources(
            merged(variables, variables.__getitem__, {}), groups.get("prefect_definitions") or [], kinds=[]
        )
        found = [name for name, entries in described.items() if entries]
        found += [PROJECTS] if variables.get(PROJECTS) else []
        if found:
            return sorted(found)
    return []


def entrypoints(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], directory: str) -> dict[str, Any]:
    """Return by deployment the `entrypoint` and `directory` below another one of what `hosts` are to register.

    Left out is what has a schema of its parameters, or other code than what is put into the directory.
    """
    found: dict[str, Any] = {}
    for host in (host for host in hosts if host in hostvars):
        variables = hostvars[host]
        names = [name for name in variables if name.startswith(DEPLOYMENTS)]
        for entry in merged(names, variables.__getitem__, {}).get(DEPLOYMENTS, []):
            key, given = without_schema(entry)
            place = PurePosixPath(directory, code_of(given)) if key and given.get("entrypoint") else None
            if place is not None and place.is_relative_to(directory) and ".." not in place.parts:
                below = str(place.relative_to(directory))
                found.setdefault(key, {"directory": below, "entrypoint": str(given["entrypoint"])})
    return found


def without_schema(entry: Any) -> tuple[str, Mapping[str, Any]]:
    """Return key and fields of a deployment that is wanted without a schema; an empty key for any other entry."""
    given = KINDS["deployment"].renamed(dict(entry)) if isinstance(entry, Mapping) else {}
    wanted = given.get("state", "present") == "present" and given.get("parameter_openapi_schema") is None
    return (f"{given['flow']}/{given['name']}" if wanted and given.get("flow") and given.get("name") else ""), given


def code_of(deployment: Mapping[str, Any]) -> str:
    """Return the directory that a deployment runs in, or / where that is only known once its pull steps have run."""
    steps = deployment.get("pull_steps")
    if not steps:
        return str(deployment.get("path") or ".")
    step = steps[0] if isinstance(steps, list) and len(steps) == 1 and isinstance(steps[0], Mapping) else {}
    place = step.get("prefect.deployments.steps.set_working_directory")
    return str(place["directory"]) if isinstance(place, Mapping) and place.get("directory") else "/"


def with_parameters(lists: Lists, hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str]) -> Lists:
    """Return lists with the schemas of parameters that `hosts` have read from the code of their flows in this run."""
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
    """Return a list without an object for each of some `kinds`, or of all. Raises AnsibleFilterError for no kind."""
    if unknown := set(kinds) - KINDS.keys():
        raise AnsibleFilterError(f"prefect_resources_kinds: {', '.join(sorted(unknown))}: one of {', '.join(KINDS)}")
    return {KINDS[kind].list_name: [] for kind in kinds or KINDS}


def answers(servers: Collection[str], hostvars: Mapping[str, Any], check_mode: bool) -> bool:
    """Return whether there is somebody to ask, as far as this run has seen the `servers` of the inventory.

    In check mode, one that is yet to be installed does not answer, and where nothing is started nobody does.
    """
    seen = [hostvars[server].get("__prefect_host", {}) for server in servers if server in hostvars]
    return not any(
        host.get("service_manager") == "none" or (check_mode and host.get("release_present") is False) for host in seen
    )


def plan_text(done: Mapping[str, Any]) -> str:
    """Return for a person what the module `resources` returned: the plan, and the sum of it."""
    counts = done["summary"]
    words = {"create": "new", "update": "changed", "recreate": "made anew", "delete": "gone", "adopted": "ours by now"}
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
