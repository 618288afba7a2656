#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Install packages of the distribution and record their dependencies, so that exactly these can be removed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_packages
short_description: Install packages of the distribution so that they can be removed without a trace
description:
  - Before it installs, the module records which packages will be installed, and which accounts will be new. Later it
    removes exactly those, unless something else needs them by then.
  - A package stays, and is no longer recorded, if its directories hold a file that is neither its own nor recorded in
    a ledger, or if one of its configuration files was changed, because someone else may use it by then.
  - Works with apt and dpkg on Debian and its kin, and with dnf and rpm on the RHEL family.
  - A package is purged only if its directories and accounts did not exist before. Otherwise it is removed and its files
    stay. So the module records which of them did not exist before.
  - Rejects an installation that would remove other packages.
  - Several owners may need the same package. It is removed with the last of them.
  - A package of the RHEL family has no purge. In its place, its directories are removed after it if they did not exist
    before, and the accounts in O(accounts) with the last owner.
  - Calls C(apt-get) or C(dnf) itself. M(ansible.builtin.apt) installs python3-apt if it is missing, and leaves it;
    M(ansible.builtin.dnf) needs the bindings of the system's Python, which may not be the one that runs modules.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  owner:
    description: Name of the owner, which needs the packages.
    type: str
    required: true
  names:
    description: The packages.
    type: list
    elements: str
    default: []
  components:
    description:
      - What the owner needs, by a name that is the same on every distribution. It adds the packages of this host's
        distribution to O(names), and what belongs to them to O(accounts) and O(mask).
    type: list
    elements: str
    choices: [postgresql, psycopg2, redis, nginx, certbot, firewall]
    default: []
  accounts:
    description: Users and groups that the packages create and do not remove. They are removed with the packages.
    type: list
    elements: str
    default: []
  mask:
    description: Units of the packages, with their suffix, that must not start when this module installs the packages.
    type: list
    elements: str
    default: []
  streams:
    description:
      - Module streams of the RHEL family, such as V(postgresql:16), to enable before packages are installed. A module
        that has one enabled keeps it. They are reset with the last owner.
    type: list
    elements: str
    default: []
  keep:
    description: Whether V(absent) keeps the packages for other users of the host.
    type: bool
    default: false
  state:
    description: Whether the owner needs the packages.
    type: str
    choices: [present, absent]
    default: present
  record:
    description: Record file on the host. It is removed with the last owner.
    type: path
    default: /var/lib/selfhosted-prefect/packages.json
attributes:
  check_mode:
    description: Reports what would be installed or removed.
    support: full
"""

EXAMPLES = r"""
- name: Install Redis
  selfhosted.prefect.host_packages:
    owner: prefect-redis
    components: [redis]
"""

RETURN = r"""
installed:
  description: Packages that this call installed; in check mode, the missing ones of O(names).
  returned: success
  type: list
  elements: str
came:
  description: Packages that this module has installed, now or before.
  returned: success
  type: list
  elements: str
removed:
  description: Packages that this call removed.
  returned: success
  type: list
  elements: str
fresh:
  description: Paths and accounts of these packages that did not exist before this module installed them.
  returned: success
  type: list
  elements: str
left:
  description: Removed packages that were not purged, and why.
  returned: success
  type: dict
kept:
  description: Packages that this module has installed and now leaves to others, and why.
  returned: success
  type: dict
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import dpkg, rpm, safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.distributions import (
    COMPONENTS,
    DEBIAN,
    REDHAT,
    current,
    facts,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.package_manager import (
    DisplacedError,
    PackageError,
    PackageManager,
    claims,
    existed_before,
    existing,
    run,
    used_since,
)

MANAGERS: dict[str, PackageManager] = {DEBIAN: dpkg, REDHAT: rpm}
"""By the family of the distribution."""

UNITS = Path("/lib/systemd/system")
MASKS = Path("/etc/systemd/system")


def chosen() -> PackageManager:
    """Return the package manager of this host. Raises PackageError if it is not known."""
    here = current()
    if here.family not in MANAGERS:
        raise PackageError(f"{os.uname().nodename} runs {here.name}, which has no package manager that is known")
    return MANAGERS[here.family]


def removable(manager: PackageManager, record: dict[str, Any], owner: str) -> list[str]:
    """Return the packages that this module installed and that only this owner needs."""
    if not all((MASKS / unit).is_symlink() for unit in record["masked"]):
        # The package's own service was unmasked and may be in use.
        return []
    others = {name for other, names in record["owners"].items() if other != owner for name in names}
    doomed = manager.present(record["came"]) - manager.needed_by(manager.present(others))
    if doomed:
        # A package that was installed since may depend on one of them.
        doomed -= manager.needed_by(manager.going_with(doomed) - doomed)
    return sorted(doomed)


def in_use(
    manager: PackageManager, doomed: Collection[str], *, older: Collection[str], ledgers: Path
) -> dict[str, str]:
    """Return the packages that stay because others use them, or because such a package needs them, and why."""
    used = used_since(manager, set(doomed) - set(older), relatives=doomed, ledgers=ledgers)
    needs = {name: f"needed by {', '.join(sorted(used))}" for name in manager.needed_by(used) & set(doomed)}
    return needs | used


def remove_accounts(names: Collection[str]) -> None:
    """Remove users and groups that exist."""
    for name in names:
        for database, command in (("passwd", "userdel"), ("group", "groupdel")):
            if subprocess.run(["getent", database, name], capture_output=True, check=False).returncode == 0:
                run(command, name)


@contextlib.contextmanager
def held(path: Path, *, dry: bool) -> Iterator[None]:
    """Lock the record against other runs while it is read and written."""
    if dry:
        yield
        return
    with safe_files.locked(str(path)):
        yield
        # The directory stays if it contains other files.
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record, or remove it if it is empty."""
    if not record["owners"] and not record["came"] and not record["streams"]:
        safe_files.remove(path)
        return
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    safe_files.write(path, text.encode(), owner=os.geteuid(), group=os.getegid(), mode=0o644)


def install(manager: PackageManager, params: dict[str, Any], record: dict[str, Any], *, missing: set[str]) -> list[str]:
    """Install the missing packages, after recording all that will be installed."""
    path = Path(params["record"])
    streams = manager.disabled(params["streams"])
    record["streams"] = sorted({*record["streams"], *streams})
    if streams:
        write(path, record)
        manager.enable(streams)
    try:
        coming = manager.coming_with(missing)
    except DisplacedError:
        raise
    except PackageError:
        manager.refresh()
        coming = manager.coming_with(missing)
    earlier = claims(manager, manager.present(record["came"]))
    # A recorded package that was removed and installed again by others stays on record.
    record["came"] = sorted({*record["came"], *coming})
    claimed = {*claims(manager, coming), *params["accounts"], *manager.leftovers(coming)}
    there = existing(claimed)
    record["accounts"] = sorted({*record["accounts"], *(set(params["accounts"]) - there)})
    # What a run that was killed has installed is still new. Without its packages, it is another owner's by now.
    known = set(record["fresh"]) - (set() if record["installing"] else there - earlier)
    record |= {"fresh": sorted(known | (claimed - there)), "installing": True}
    mine = [unit for unit in params["mask"] if not (UNITS / unit).exists() and not (MASKS / unit).is_symlink()]
    for unit in mine:
        if (MASKS / unit).exists():
            raise PackageError(
                f"{MASKS / unit} exists, and this collection did not create it; {', '.join(sorted(missing))} would "
                "start it now and stop it at its removal. Give it another name"
            )
    for unit in mine:
        (MASKS / unit).symlink_to("/dev/null")
        record["masked"] = sorted({*record["masked"], unit})
    write(path, record)
    try:
        manager.install(missing)
    except PackageError:
        # The package list may name versions that the archive has replaced since.
        manager.refresh()
        manager.install(missing)
    record["installing"] = False
    return sorted(coming)


def purge(
    manager: PackageManager,
    record: dict[str, Any],
    doomed: list[str],
    left: Collection[str],
    kept: Collection[str],
) -> None:
    """Remove packages, and with the last of them their accounts and masks. Do not purge those in `left`.

    Those in `kept` stay, and are no longer recorded.
    """
    # A purge also takes packages that depend on one of them, so the others are removed before.
    if left:
        manager.remove(left)
    if purged := set(doomed) - set(left):
        manager.purge(purged, fresh=record["fresh"])
    record["came"] = sorted(manager.present(set(record["came"]) - {*doomed, *kept}))
    for unit in [unit for unit in record["masked"] if not (record["owners"] and (UNITS / unit).exists())]:
        (MASKS / unit).unlink(missing_ok=True)
        record["masked"].remove(unit)
    if not record["owners"]:
        if not record["came"]:
            # Files that stay may belong to an account of their package.
            remove_accounts(set(record["accounts"]) - claims(manager, [*left, *kept]))
            manager.reset(record["streams"])
        # Packages that something else needs by now are no longer managed.
        record.update({"came": [], "accounts": [], "fresh": [], "streams": [], "installing": False})


def by_reason(found: dict[str, str]) -> list[tuple[str, str]]:
    """Return each reason with the names that it applies to."""
    return [(why, ", ".join(name for name in found if found[name] == why)) for why in dict.fromkeys(found.values())]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "components": {"type": "list", "elements": "str", "choices": [*COMPONENTS], "default": []},
            "accounts": {"type": "list", "elements": "str", "default": []},
            "mask": {"type": "list", "elements": "str", "default": []},
            "streams": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "record": {"type": "path", "default": "/var/lib/selfhosted-prefect/packages.json"},
        },
        supports_check_mode=True,
    )
    params, dry = module.params, module.check_mode
    for option, adds in (
        ("names", "packages"),
        ("accounts", "accounts"),
        ("mask", "mask"),
        ("streams", "streams"),
    ):
        params[option] = [*params[option], *(name for what in params["components"] for name in facts(what)[adds])]
    path = Path(params["record"])
    known = path.exists()
    if params["state"] == "absent" and not known:
        module.exit_json(changed=False, installed=[], came=[], removed=[], fresh=[], left={}, kept={})
    os.umask(0o022)
    installed: list[str] = []
    removed: list[str] = []
    left: dict[str, str] = {}
    kept: dict[str, str] = {}
    try:
        manager = chosen()
        with held(path, dry=dry):
            record: dict[str, Any] = {"owners": {}, "came": [], "accounts": [], "masked": [], "ledgers": []}
            record |= {"fresh": [], "streams": [], "installing": False}
            if known:
                record |= json.loads(safe_files.read(path))
            before, fresh = json.dumps(record, sort_keys=True), record["fresh"]
            if params["state"] == "present":
                if params["owner"] not in record["owners"]:
                    # The ledger recognizes a host of a version without ledgers by owners that are missing here.
                    record["ledgers"] = sorted({*record["ledgers"], params["owner"]})
                record["owners"][params["owner"]] = sorted(params["names"])
                if missing := set(params["names"]) - manager.present(params["names"]):
                    installed = sorted(missing) if dry else install(manager, params, record, missing=missing)
            elif params["owner"] in record["owners"]:
                doomed = [] if params["keep"] else removable(manager, record, params["owner"])
                left = existed_before(manager, doomed, fresh=record["fresh"])
                kept = in_use(manager, doomed, older=left, ledgers=path.parent)
                removed = [name for name in doomed if name not in kept]
                left = {name: why for name, why in left.items() if name not in kept}
                del record["owners"][params["owner"]]
                record["ledgers"] = [owner for owner in record["ledgers"] if owner != params["owner"]]
                if not dry:
                    purge(manager, record, removed, left, kept)
            changed = bool(installed or removed) or json.dumps(record, sort_keys=True) != before
            if changed and not dry:
                write(path, record)
    except (PackageError, OSError) as error:
        module.fail_json(msg=f"packages for {params['owner']}: {error}")
    for reason, names in by_reason(left):
        module.warn(f"Removed {names} without a purge, so that the configuration and data stay: {reason}.")
    for reason, names in by_reason(kept):
        module.warn(f"Kept {names}, which someone else may use by now: {reason}. If not, purge it yourself.")
    result = {"installed": installed, "came": record["came"], "removed": removed}
    module.exit_json(changed=changed, fresh=record["fresh"] or fresh, left=left, kept=kept, **result)


if __name__ == "__main__":
    main()
