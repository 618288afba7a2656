"""Filters for an upgrade: what a host does, what is wrong before anything changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Any

UPGRADE = "upgrade"
UNDO = "undo"
GO_BACK = "go back"
STAMP = "%Y%m%dT%H%M%SZ"
SHOWN = "%Y-%m-%d %H:%M:%S UTC"


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def version_of(release: str) -> str:
    """Return the version in the name of a release."""
    return release.rpartition("-")[0]


def age(made: str, now: datetime) -> str:
    """Return how long ago a backup was made, from a time as the module `backup` lists it."""
    then = datetime.strptime(made, SHOWN).replace(tzinfo=timezone.utc)
    minutes = int((now - then).total_seconds()) // 60
    if minutes < 0:
        return "at a time that is in the future, by a wrong clock"
    for unit, length in (("day", 1440), ("hour", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {unit}s ago"
    return f"{minutes} minutes ago"


def backup_for(version: str, backups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the newest good backup that a version of Prefect can use, of those that the module `backup` lists.

    The module lists them in the order in which they were made, whatever the clock said.
    """
    good = [each for each in backups if not each["safety"] and not each["problem"] and each["version"]]
    fitting = [each for each in good if numbers(each["version"]) <= numbers(version)]
    return fitting[-1] if fitting else None


def cost(wanted: str, backups: Sequence[Mapping[str, Any]], now: datetime) -> str:
    """Return what it costs to go back to a version, and how to accept it."""
    found = backup_for(wanted, backups)
    if found is None:
        return (
            f"there is no backup here that Prefect {wanted} can use: leave prefect_version as it is, or set "
            "prefect_server_restore to a file on the controller that has one"
        )
    return (
        f"this restores the backup {found['name']}, made {age(found['made'], now)} ({found['made']}), and loses what "
        f"Prefect recorded since then. To accept that, set prefect_server_restore to {found['name']}"
    )


def way_back(record: Mapping[str, Any], restore: str) -> str:
    """Return why the backup in the record of an upgrade may not be restored; an empty text if it may.

    `restore` is the backup that the user accepts to go back to.
    """
    backup = PurePath(record.get("backup") or "").name
    if not record.get("cost") or PurePath(restore).name == backup:
        return ""
    to, release = version_of(record["to"]), version_of(record["release"])
    return (
        f"the upgrade was interrupted, and going back to the backup {backup or 'from before it'} loses "
        f"{record['cost']}. Set prefect_version to {to} to complete the upgrade; to go back and accept that loss, set "
        f"prefect_version to {release} and prefect_server_restore to {backup}"
    )


def server_plan(
    name: str, host: Mapping[str, Any], *, backups: Sequence[Mapping[str, Any]] | None, restore: str, now: datetime
) -> tuple[str, list[str]]:
    """Return what a server does, and its errors. A server that does not list the backups has no error for them."""
    record, wanted = host["upgrade"], version_of(host["wanted"])
    if record and host["wanted"] not in (record["to"], record["release"]):
        return UPGRADE, [
            f"prefect_version: the upgrade of {name} to Prefect {version_of(record['to'])} was interrupted. Run this "
            f"again with that version to complete it, or with {version_of(record['release'])} to undo it, and not with "
            f"{wanted}"
        ]
    undoes = bool(record) and host["wanted"] == record["release"]
    if not host["version"] or numbers(wanted) >= numbers(host["version"]):
        return UNDO if undoes else UPGRADE, []
    action = UNDO if undoes else GO_BACK
    backup = PurePath(record["backup"]).name or "none" if undoes else ""
    if backups is None or (restore and PurePath(restore).name == (backup or PurePath(restore).name)):
        return action, []
    before = f"prefect_version: {name} runs Prefect {host['version']}, and {wanted} is older; "
    if undoes:
        made = re.search(r"(\d{8}T\d{6}Z)\.[^.]+$", backup)
        when = f" ({age(f'{datetime.strptime(made[1], STAMP):{SHOWN}}', now)})" if made else ""
        return action, [
            f"{before}the upgrade from it was interrupted after the switch. Undoing it brings back the schema of the "
            f"database or, where that fails and on SQLite, the backup {backup}{when}, and then loses what Prefect "
            f"recorded since. To accept that, set prefect_server_restore to {backup}"
        ]
    return action, [before + cost(wanted, backups, now)]


def plan_at(
    now: datetime,
    name: str,
    hostvars: Mapping[str, Any],
    servers: Sequence[str],
    *,
    backups: Sequence[Mapping[str, Any]] | None,
    restore: str,
) -> dict[str, Any]:
    """Return what `upgrade_plan` returns, at a time."""
    host = hostvars[name]["__prefect_host"]
    wanted = version_of(host["wanted"])
    others = {
        server: version_of(hostvars[server]["__prefect_host"]["wanted"])
        if "__prefect_host" in hostvars[server]
        else str(hostvars[server].get("prefect_version", ""))
        for server in servers
        if server in hostvars and server != name
    }
    others = {server: version for server, version in others.items() if version}
    if name not in servers:
        errors = [
            f"prefect_version: {name} is to run Prefect {wanted}, which is newer than {version} on its server {server}"
            f"; a worker must not be newer than its server: upgrade {server} as well, or set {version} for {name}"
            for server, version in others.items()
            if numbers(wanted) > numbers(version)
        ]
        return {"action": UPGRADE, "errors": errors}
    errors = [
        f"prefect_version: {name} is to run Prefect {wanted} and {server} {version}, with one database; "
        "set one version for all servers"
        for server, version in others.items()
        if version != wanted
    ]
    action, also = server_plan(name, host, backups=backups, restore=restore, now=now)
    return {"action": action, "errors": errors + also}


def upgrade_plan(
    name: str,
    hostvars: Mapping[str, Any],
    servers: Sequence[str],
    *,
    backups: Sequence[Mapping[str, Any]] | None = None,
    restore: str = "",
) -> dict[str, Any]:
    """Return what a host does in an upgrade, its `action`, and what is wrong before anything has changed, its `errors`.

    `hostvars` has the host's facts that the module `preflight` returned, in `__prefect_host`; so do those of the
    servers of its instance that are part of the run. For the other servers, `prefect_version` counts if it is set.
    `backups` is the list of the module `backup`, on the host that keeps the instance's backups.
    """
    return plan_at(datetime.now(timezone.utc), name, hostvars, servers, backups=backups, restore=restore)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"upgrade_plan": upgrade_plan, "way_back": way_back}
