"""Filters for the environments of deployments."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleUndefinedVariable
from ansible_collections.selfhosted.prefect.plugins.module_utils.objects.table import KINDS
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.environment_resolver import problems_of
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.inventory import PATTERN, merged
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import secrets_dir

VARIABLE = "prefect_environments"


def environment_errors(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[str]:
    """Return the errors in the environments of all workers' hosts, and in the deployments that name them.

    Nothing is known of the workers of another inventory.
    """
    workers = [host for host in groups.get("prefect_worker") or [] if host in hostvars]
    known: dict[str, list[Mapping[str, Any]]] = {}
    for host in workers:
        try:
            # Other types are refused by the argument specs.
            known[host] = [each for each in hostvars[host].get(VARIABLE) or [] if isinstance(each, Mapping)]
        except AnsibleUndefinedVariable:
            # It uses a default of a role, which hostvars does not have.
            return []
    found = [*dict.fromkeys(error for entries in known.values() for error in problems_of(entries))]
    found += _differing(known)
    return found + (list(_unknown(hostvars, groups, known)) if known else [])


def _differing(known: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return an error for each name that stands for different environments on different hosts: it has one lock."""
    first: dict[str, tuple[str, Any]] = {}
    found = {}
    for host, entries in known.items():
        for entry in entries:
            name = str(entry.get("name"))
            other, same = first.setdefault(name, (host, entry))
            if dict(same) != dict(entry) and other != host:
                found[name] = (
                    f"{VARIABLE}: {name} is not the same on {other} and {host}, and it has one lock; give the two "
                    "different names"
                )
    return list(found.values())


def _unknown(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], known: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Yield an error for each deployment whose environment a host of its work pool does not have."""
    names = {host: [str(entry.get("name")) for entry in entries] for host, entries in known.items()}
    everywhere = sorted({name for each in names.values() for name in each})
    for key, entry in _deployments(hostvars, groups).items():
        wanted, pool = str(entry["environment"]), str(entry.get("work_pool") or "")
        if (entry.get("job_variables") or {}).get("command"):
            yield f"prefect_deployments: {key} has an environment and job_variables.command; leave one of them out"
        lacking = [host for host in names if pool in _pools(hostvars[host]) and wanted not in names[host]]
        if wanted not in everywhere:
            near = difflib.get_close_matches(wanted, everywhere, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(everywhere) or 'none'}"
            yield f"prefect_deployments: {key} names the environment {wanted}, which {VARIABLE} does not have; {meant}"
        elif lacking:
            yield (
                f"prefect_deployments: {key} names the environment {wanted}, and {', '.join(lacking)}, where workers "
                f"of its work pool {pool} run, does not have it; add it to {VARIABLE} there"
            )


def _deployments(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]]
) -> dict[str, Mapping[str, Any]]:
    """Return the described deployments that name an environment, by their keys."""
    kind = KINDS["deployment"]
    found: dict[str, Mapping[str, Any]] = {}
    hosts = groups.get("prefect_resources") or (groups.get("prefect_server") or [])[:1]
    for variables in (hostvars[host] for host in hosts if host in hostvars):
        try:
            entries = merged([name for name in variables if PATTERN.fullmatch(name)], variables.__getitem__, {})
        except AnsibleUndefinedVariable:
            continue
        for entry in entries.get(kind.list_name, []):
            given = kind.renamed(dict(entry)) if isinstance(entry, Mapping) else {}
            if given.get("environment") and given.get("state", "present") == "present":
                found[f"{given.get('flow')}/{given.get('name')}"] = given
    return found


def _pools(variables: Mapping[str, Any]) -> set[str]:
    """Return the work pools of a host's workers."""
    try:
        instances = variables.get("prefect_worker_instances") or []
        return {str(each.get("pool")) for each in instances} or {str(variables.get("prefect_worker_pool") or "default")}
    except AnsibleUndefinedVariable:
        return set()


def environment_releases(
    entries: Sequence[Mapping[str, Any]], locks: Mapping[str, str], version: str
) -> dict[str, Any]:
    """Return the release of each locked environment by its name: the name of its directory, its lock, its Python."""
    found = {}
    for entry in (entry for entry in entries if entry["name"] in locks):
        name, python = str(entry["name"]), str(entry.get("python") or "")
        digest = hashlib.sha256(f"{locks[name]} {python}".encode()).hexdigest()[:12]
        found[name] = {"release": f"{version}-{digest}", "python": python, "requirements": locks[name]}
    return found


def environments_dir(host: str, hostvars: Mapping[str, Any], servers: Sequence[str]) -> str:
    """Return the directory on the controller that holds the locks of environments: beside that of the secrets."""
    secrets = Path(secrets_dir(host, hostvars, servers))
    return str(secrets.with_name("environments") if secrets.name == ".secrets" else secrets / "environments")


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "environment_errors": environment_errors,
            "environment_releases": environment_releases,
            "environments_dir": environments_dir,
        }
