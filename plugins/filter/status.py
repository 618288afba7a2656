"""Filters that combine the status readings of all hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

HEADER = ("HOST", "WHAT", "", "HOW IT IS")
AWAY = "could not be read: is it up, and does ssh lead there?"


def status_report(hosts: Sequence[str], hostvars: Mapping[str, Any], variable: str) -> dict[str, Any]:
    """Return whether all hosts are healthy, and each host's reading, which the module `status` left in a variable."""
    readings = {}
    for host in hosts:
        found = hostvars[host].get(variable) or {}
        away = {"name": "host", "healthy": False, "detail": AWAY, "shared": False}
        readings[host] = found.get("status") or {"checks": [away], "problems": [f"host: {AWAY}"]}
    return {"healthy": not any(reading["problems"] for reading in readings.values()), "hosts": readings}


def status_table(report: Mapping[str, Any]) -> list[str]:
    """Return a report as the lines of a table; checks that all hosts share are listed once, at the end."""
    rows = [HEADER]
    shared: dict[str, Mapping[str, Any]] = {}
    for host, reading in report["hosts"].items():
        for check in reading["checks"]:
            if not check["shared"]:
                rows.append(_row(host, check))
            elif check["name"] not in shared or shared[check["name"]]["healthy"]:
                shared[check["name"]] = check if not check["healthy"] else shared.get(check["name"], check)
    rows += [_row("(all)", check) for check in shared.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]


def _row(host: str, check: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return host, check["name"], "ok" if check["healthy"] else "WRONG", " ".join(check["detail"].split())


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"status_report": status_report, "status_table": status_table}
