"""Schedules of a deployment: their options, how the server stores them, and how wanted and present ones are matched.

The server stores a schedule's definition as an object of one of three kinds, completes it and rewrites it: an interval
gets an anchor, a recurrence rule a start, and a missing time zone becomes UTC. A schedule has no name unless it has a
slug.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from ...api.client import Api, ApiError

Schedule = dict[str, Any]

KINDS = ("cron", "interval", "rrule")
NO_DEPLOYMENT = "00000000-0000-0000-0000-000000000000"
"""A deployment id that no server has."""

SCHEDULE_SPEC: dict[str, dict[str, Any]] = {
    "cron": {"type": "str"},
    "day_or": {"type": "bool"},
    "interval": {"type": "float"},
    "anchor_date": {"type": "str"},
    "rrule": {"type": "str"},
    "timezone": {"type": "str"},
    "active": {"type": "bool"},
    "parameters": {"type": "dict"},
    "max_scheduled_runs": {"type": "int"},
    "slug": {"type": "str"},
}


def renamed(entry: Mapping[str, Any]) -> Schedule:
    """Return a schedule with former option names, such as `schedule_type: cron`, replaced by current ones."""
    schedule = dict(entry)
    nested = schedule.pop("schedule_config", None)
    if isinstance(nested, Mapping):
        schedule = {**nested, **schedule}
    schedule.pop("schedule_type", None)
    for old, new in (("cron_string", "cron"), ("interval_seconds", "interval"), ("is_active", "active")):
        if old in schedule:
            schedule.setdefault(new, schedule.pop(old))
    return schedule


def is_manual(entry: Mapping[str, Any]) -> bool:
    """Whether an entry means no schedule: an interval of 0, or the type `manual` or `none`."""
    return entry.get("interval") == 0 or entry.get("schedule_type") in {"manual", "none"}


def problems(schedule: Mapping[str, Any]) -> Iterator[str]:
    """Yield the errors in a schedule that need no server; `refusals` asks the server for the others."""
    kinds = [kind for kind in KINDS if schedule.get(kind) is not None]
    if len(kinds) != 1:
        yield f"a schedule is one of cron, interval and rrule, not {' and '.join(kinds) or 'none of them'}"
        return
    (kind,) = kinds
    for option, owner in (("day_or", "cron"), ("anchor_date", "interval")):
        if schedule.get(option) is not None and kind != owner:
            yield f"{option} belongs to {owner}, not to {kind}"
    if kind == "interval" and whole(schedule["interval"]) <= 0:
        yield f"interval is {schedule['interval']:g}: it is a number of seconds above 0"
    runs = schedule.get("max_scheduled_runs")
    if runs is not None and runs < 1 and runs != -1:
        yield f"max_scheduled_runs is {runs}: it is at least 1, or -1 for no limit of its own"
    anchor = schedule.get("anchor_date")
    if anchor is not None and instant(anchor) is None:
        yield f"anchor_date is {anchor!r}: it should be like 2026-01-31T06:00:00+01:00"


def refusals(api: Api, schedules: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return by index why the server would reject a schedule, without creating any. Raises ApiError.

    They are sent for a deployment that does not exist: the server validates them before it looks for the deployment.
    """
    found: dict[int, list[str]] = {}
    try:
        api.post(f"/deployments/{NO_DEPLOYMENT}/schedules", [to_server(schedule) for schedule in schedules])
    except ApiError as error:
        if error.status == 404:
            return {}
        details = error.body.get("exception_detail") if isinstance(error.body, dict) else None
        if error.status != 422 or not isinstance(details, list):
            raise
        for detail in details:
            place = [part for part in detail.get("loc", ()) if part != "body"]
            # The server tries all three kinds: only its errors for the kind that was meant are of interest.
            if not place or not isinstance(place[0], int) or detail.get("type") in {"missing", "extra_forbidden"}:
                continue
            zone = schedules[place[0]].get("timezone")
            if "timezone" in str(detail).lower() and detail.get("type") == "string_pattern_mismatch":
                # The pattern is the list of all time zones.
                near = difflib.get_close_matches(str(zone), re.findall(r"[\w+/-]+", detail["msg"]), n=1)
                reason = f"timezone is {zone!r}, which the server does not know" + (f"; {near[0]}?" if near else "")
            else:
                reason = str(detail.get("msg", "")).removeprefix("Value error, ")
            if not reason.startswith("Invalid timezone"):
                found.setdefault(place[0], []).append(reason)
        if not found:
            raise
    return {index: "; ".join(dict.fromkeys(reasons)) for index, reasons in found.items()}


def from_server(row: Mapping[str, Any]) -> Schedule:
    """Return a schedule from the server under this collection's names, with its `id`."""
    definition = {name: value for name, value in row["schedule"].items() if name != "timezone"}
    if "rrule" in definition:
        definition["rrule"] = definition["rrule"].strip()
    return {
        **definition,
        "timezone": row["schedule"].get("timezone"),
        **{name: row.get(name) for name in ("active", "parameters", "max_scheduled_runs", "slug", "id")},
    }


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Schedule]:
    """Return a deployment's schedules in order of creation; the server returns the newest first."""
    return [from_server(row) for row in sorted(rows, key=lambda row: str(row.get("created")))]


def to_server(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request body for a schedule. An update sends it whole, because the server removes what is missing."""
    kind = next(kind for kind in KINDS if schedule.get(kind) is not None)
    names = {"cron": ("cron", "day_or"), "interval": ("interval", "anchor_date"), "rrule": ("rrule",)}[kind]
    definition = {name: schedule[name] for name in (*names, "timezone") if schedule.get(name) is not None}
    rest = ("active", "parameters", "max_scheduled_runs", "slug")
    return {"schedule": definition, **{name: schedule[name] for name in rest if schedule.get(name) is not None}}


def merged(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> Schedule:
    """Return the resulting schedule: as wanted, and as present where `wanted` leaves something out."""
    kept = {name: present.get(name) for name in ("active", "parameters", "max_scheduled_runs", "slug", "id")}
    # An unchanged rule, or an interval of another length, keeps its start.
    if wanted.get("interval") is not None and present.get("interval") is not None:
        kept["anchor_date"] = present.get("anchor_date")
    if wanted.get("rrule") is not None and present.get("rrule") is not None and _same_rule(wanted, present):
        kept["rrule"] = present["rrule"]
        wanted = {name: value for name, value in wanted.items() if name != "rrule"}
    after = {**kept, **{name: value for name, value in wanted.items() if value is not None}}
    if after.get("max_scheduled_runs") == -1:
        after["max_scheduled_runs"] = None
    return after


def canonical(schedule: Mapping[str, Any]) -> Schedule:
    """Return a schedule in the form that is compared and shown: with defaults, without empty values."""
    after: Schedule = {name: value for name, value in schedule.items() if value is not None and name != "id"}
    if after.get("cron") is not None:
        after["day_or"] = after.get("day_or", True)
    if after.get("interval") is not None:
        after["interval"] = whole(after["interval"])
    if after.get("anchor_date") is not None:
        after["anchor_date"] = (instant(after["anchor_date"]) or after["anchor_date"]) and _iso(after["anchor_date"])
    after["timezone"] = after.get("timezone") or "UTC"
    after["active"] = after.get("active", True)
    if not after.get("parameters"):
        after.pop("parameters", None)
    if after.get("max_scheduled_runs") == -1:
        after.pop("max_scheduled_runs")
    return after


def pair(
    wanted: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """Match each `wanted` schedule with one of the `present` ones; None if there is no counterpart.

    They are matched by slug first, then by definition, and the rest in order, unless both sides have slugs of their
    own.
    """
    left = list(present)
    partner: dict[int, Mapping[str, Any]] = {}

    def match(is_it: Any) -> None:
        for index, each in enumerate(wanted):
            if index in partner:
                continue
            found = next((other for other in left if is_it(each, other)), None)
            if found is not None:
                partner[index] = found
                left.remove(found)

    def free(each: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return not (each.get("slug") and other.get("slug"))

    match(lambda each, other: each.get("slug") and each.get("slug") == other.get("slug"))
    match(lambda each, other: free(each, other) and definition(merged(each, other)) == definition(other))
    match(free)
    return [(each, partner.get(index)) for index, each in enumerate(wanted)] + [(None, other) for other in left]


def definition(schedule: Mapping[str, Any]) -> Schedule:
    """Return only when a schedule fires, without its other options."""
    return {
        name: value
        for name, value in canonical(schedule).items()
        if name in {*KINDS, "day_or", "anchor_date", "timezone"}
    }


def whole(seconds: float) -> float:
    """Return a duration as the server stores it, in whole microseconds; one that it does not store as it is."""
    try:
        return timedelta(seconds=seconds).total_seconds()
    except (OverflowError, ValueError):
        return float(seconds)


def instant(text: Any) -> datetime | None:
    """Parse a date as a point in time, or return None if it is not a date. Without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00").replace(" ", "T"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _iso(text: Any) -> str:
    moment = instant(text)
    return str(text) if moment is None else moment.astimezone(timezone.utc).isoformat()


def _same_rule(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rules are the same, ignoring a start that the server chose for a rule without one."""
    wanted, present = str(one["rrule"]).strip(), str(other["rrule"])
    if "DTSTART" not in wanted:
        present = re.sub(r"^DTSTART[^\n]*\n", "", present)
    return wanted == present
