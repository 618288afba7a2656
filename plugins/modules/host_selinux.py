#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Tell SELinux which ports, directories and rights a component of Prefect uses, and take that back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_selinux
short_description: Tell SELinux what a component uses
description:
  - Sets the booleans of a component, labels its TCP ports and its directories, and records what it changed. Later it
    takes back exactly that.
  - What already applies is neither changed nor recorded. A port that has a label of another service is rejected.
  - Does nothing on a host without SELinux.
  - Written from the documentation of RHEL 9 and 10; never run on a real host.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  owner:
    description: Name of the owner, which needs this.
    type: str
    required: true
  component:
    description: What runs, which determines the booleans and the labels.
    type: str
    choices: [postgresql, redis, nginx]
  ports:
    description: TCP ports that it listens on.
    type: list
    elements: int
    default: []
  directories:
    description: Directories outside those of its package whose files it reads and writes. They must exist.
    type: list
    elements: path
    default: []
  state:
    description: Whether the owner needs it.
    type: str
    choices: [present, absent]
    default: present
  record:
    description: Record file on the host. It is removed with the last owner.
    type: path
    default: /var/lib/selfhosted-prefect/selinux.json
attributes:
  check_mode:
    description: Reports what would change.
    support: full
"""

EXAMPLES = r"""
- name: Tell SELinux what Redis uses
  selfhosted.prefect.host_selinux:
    owner: prefect-redis
    component: redis
    ports: [6380]
    directories: [/var/lib/prefect-redis]
"""

RETURN = r"""
changes:
  description: What this call set or took back, such as V(port 6380 redis_port_t).
  returned: success
  type: list
  elements: str
"""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.distributions import (
    confined,
    facts,
    missing_programs,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.package_manager import PackageError, run

UNSPECIFIC = {"ephemeral_port_t", "hi_reserved_port_t", "port_t", "reserved_port_t", "unreserved_port_t"}
"""Labels of ranges of ports that belong to no service."""

Change = tuple[str, str, str]
"""What is set (boolean, port or directory), its name, and its value."""


def below(directory: str) -> str:
    """Return the expression of semanage for a directory and all that is in it."""
    return f"{re.escape(directory)}(/.*)?".replace(r"\-", "-")


def labels(port: int) -> set[str]:
    """Return the labels that a TCP port has."""
    found = set()
    for line in run("semanage", "port", "--list", "--noheading").splitlines():
        kind, protocol, ranges = [*line.split(None, 2), "", "", ""][:3]
        bounds = [[int(bound) for bound in part.split("-")] for part in ranges.split(",") if part.strip()]
        if protocol == "tcp" and any(each[0] <= port <= each[-1] for each in bounds):
            found.add(kind)
    return found


def applies(change: Change) -> bool:
    """Return whether something is set. Raises PackageError for a port of another service."""
    kind, name, value = change
    if kind == "boolean":
        return run("getsebool", name).split()[-1] == value
    if kind == "directory":
        known = run("semanage", "fcontext", "--list", "--locallist", "--noheading")
        return any(line.split()[0] == below(name) and f":{value}:" in line for line in known.splitlines() if line)
    found = labels(int(name))
    if value not in found and (others := sorted(found - UNSPECIFIC)):
        raise PackageError(
            f"port {name}: SELinux knows it as {', '.join(others)}, so a service with {value} may not listen on it; "
            "choose another port"
        )
    return value in found


def put(change: Change) -> None:
    """Set something."""
    kind, name, value = change
    if kind == "boolean":
        run("setsebool", "-P", name, value)
    elif kind == "port":
        run("semanage", "port", "--add", "--type", value, "--proto", "tcp", name)
    else:
        run("semanage", "fcontext", "--add", "--type", value, below(name))
        run("restorecon", "-R", name)


def take_back(change: Change) -> None:
    """Undo what `put` did, unless someone else did so already."""
    kind, name, value = change
    if not applies(change):
        return
    if kind == "boolean":
        run("setsebool", "-P", name, {"on": "off", "off": "on"}[value])
    elif kind == "port":
        run("semanage", "port", "--delete", "--type", value, "--proto", "tcp", name)
    else:
        run("semanage", "fcontext", "--delete", below(name))


def wanted(params: dict[str, Any]) -> list[Change]:
    """Return what a component needs on this host."""
    about = facts(params["component"])
    found = [("boolean", name, "on") for name in about["booleans"]]
    if "port_type" in about:
        found += [("port", str(port), about["port_type"]) for port in params["ports"]]
    if "data_type" in about:
        found += [("directory", path, about["data_type"]) for path in params["directories"]]
    return found


def ensure(params: dict[str, Any], owners: dict[str, list[Change]], path: Path, *, dry: bool) -> list[Change]:
    """Set what is missing and take back what only this owner needed; return both. `owners` is the record."""
    mine = owners.get(params["owner"], [])
    needs = wanted(params) if params["state"] == "present" else []
    shared = {change for owner, changes in owners.items() if owner != params["owner"] for change in changes}
    missing = [change for change in needs if change not in mine and change not in shared and not applies(change)]
    # Two owners may need the same: it is recorded for both, and taken back with the last one.
    kept = [change for change in needs if change in mine or change in shared]
    again = [change for change in kept if not applies(change)]
    over = [change for change in mine if change not in needs and change not in shared]
    owners[params["owner"]] = [*kept, *missing]
    if not owners[params["owner"]] and not over:
        del owners[params["owner"]]
    if not dry:
        # Recorded before it is set, and until it is taken back, so that a run that was killed leaves nothing.
        write(path, {**owners, params["owner"]: [*owners.get(params["owner"], []), *over]})
        for change in over:
            take_back(change)
        for change in [*again, *missing]:
            put(change)
        write(path, {owner: changes for owner, changes in owners.items() if changes})
    return [*over, *again, *missing]


def write(path: Path, owners: dict[str, list[Change]]) -> None:
    """Write the record, or remove it if it is empty."""
    owners = {owner: changes for owner, changes in owners.items() if changes}
    if not owners:
        safe_files.remove(path)
        # The directory stays if it contains other files.
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return
    text = json.dumps(owners, indent=2, sort_keys=True) + "\n"
    if not path.exists() or safe_files.read(path) != text.encode():
        safe_files.write(path, text.encode(), owner=os.geteuid(), group=os.getegid(), mode=0o644)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str", "required": True},
            "component": {"type": "str", "choices": ["postgresql", "redis", "nginx"]},
            "ports": {"type": "list", "elements": "int", "default": []},
            "directories": {"type": "list", "elements": "path", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "record": {"type": "path", "default": "/var/lib/selfhosted-prefect/selinux.json"},
        },
        required_if=[("state", "present", ["component"])],
        supports_check_mode=True,
    )
    params, path = module.params, Path(module.params["record"])
    if not confined() or (params["state"] == "absent" and not path.exists()):
        module.exit_json(changed=False, changes=[])
    os.umask(0o022)
    alone = contextlib.nullcontext() if module.check_mode else safe_files.locked(str(path))
    try:
        with alone:
            known = json.loads(safe_files.read(path)) if path.exists() else {}
            owners = {owner: [(kind, name, value) for kind, name, value in each] for owner, each in known.items()}
            if module.check_mode and missing_programs("semanage"):
                # The packages that have it are not installed yet.
                changes = wanted(params) if params["state"] == "present" else owners.get(params["owner"], [])
            else:
                changes = ensure(params, owners, path, dry=module.check_mode)
    except (PackageError, OSError) as error:
        module.fail_json(msg=f"SELinux for {params['owner']}: {error}")
    module.exit_json(changed=bool(changes), changes=[" ".join(change) for change in changes])


if __name__ == "__main__":
    main()
