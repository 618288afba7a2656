"""Triggers and actions of an automation: fill in defaults, and use names in place of the server's ids.

The server refers to the objects of an action by id, such as `deployment_id`. This collection uses a name, `deployment:
flow/name`, and in the labels that a trigger matches `prefect.deployment.flow/name`. Ids are accepted as well, and read
as names.
"""

from __future__ import annotations

import difflib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .schedules import whole

Translate = Callable[[str, str], str]
"""Given kind and name or id of an object, returns the other of the two, or the same text if the object is unknown."""

TARGETS = {
    "deployment_id": ("deployment", "deployment"),
    "block_document_id": ("block", "block"),
    "work_pool_id": ("work_pool", "work_pool"),
    "work_queue_id": ("work_queue", "work_queue"),
    "automation_id": ("automation", "automation"),
}
"""API name of the field for an action's object: this collection's option for it, and the kind of the object."""

ACTIONS: dict[str, dict[str, Any]] = {
    "do-nothing": {},
    "run-deployment": {
        "source": "selected",
        "deployment": None,
        "parameters": None,
        "job_variables": None,
        "schedule_after": 0.0,
    },
    "pause-deployment": {"source": "selected", "deployment": None},
    "resume-deployment": {"source": "selected", "deployment": None},
    "cancel-flow-run": {},
    "delete-flow-run": {},
    "suspend-flow-run": {},
    "resume-flow-run": {},
    "change-flow-run-state": {"name": None, "state": None, "message": None, "force": False},
    "call-webhook": {"block": None, "payload": ""},
    "send-notification": {"block": None, "subject": "Prefect automated notification", "body": None},
    "pause-work-pool": {"source": "selected", "work_pool": None},
    "resume-work-pool": {"source": "selected", "work_pool": None},
    "pause-work-queue": {"source": "selected", "work_queue": None},
    "resume-work-queue": {"source": "selected", "work_queue": None},
    "pause-automation": {"source": "selected", "automation": None},
    "resume-automation": {"source": "selected", "automation": None},
}
"""The fields of each type of action, with their defaults."""

TRIGGERS: dict[str, dict[str, Any]] = {
    "event": {
        "posture": "Reactive",
        "expect": [],
        "after": [],
        "for_each": [],
        "match": {},
        "match_related": {},
        "threshold": 1,
        "within": 0.0,
    },
    "compound": {"require": "all", "within": None, "triggers": []},
    "sequence": {"within": None, "triggers": []},
}
"""The fields of each type of trigger, with their defaults."""

LABELLED = {
    "deployment": "deployment",
    "flow": "flow",
    "work-pool": "work_pool",
    "work-queue": "work_queue",
    "block-document": "block",
    "automation": "automation",
    "concurrency-limit": "global_concurrency_limit",
}
"""The middle part of a `prefect.resource.id`, and the kind that it names."""


def trigger_problems(trigger: Any, place: str = "trigger") -> Iterator[str]:
    """Yield the errors in a trigger."""
    if not isinstance(trigger, Mapping):
        yield f"{place} is not a mapping"
        return
    kind = str(trigger.get("type", "event"))
    if kind not in TRIGGERS:
        yield f"{place}.type is {kind!r}: {_choice(kind, TRIGGERS)}"
        return
    yield from _unknown(trigger, {*TRIGGERS[kind], "type", "id"}, place)
    within = trigger.get("within")
    if within is not None and seconds(within) is None:
        yield f"{place}.within is {within!r}: it is a number of seconds"
    if kind == "event":
        posture = str(trigger.get("posture", "Reactive"))
        if posture not in {"Reactive", "Proactive"}:
            yield f"{place}.posture is {posture!r}: {_choice(posture, ['Reactive', 'Proactive'])}"
        elif posture == "Proactive" and 0 <= (seconds(within) or 0) < 10:
            yield f"{place}.within is {within}: a Proactive trigger waits for at least 10 seconds"
        for name in ("expect", "after", "for_each"):
            if not isinstance(trigger.get(name, []), (list, str)):
                yield f"{place}.{name} is not a list"
        related = trigger.get("match_related", {})
        for name, labels in (
            ("match", [trigger.get("match", {})]),
            ("match_related", related if isinstance(related, list) else [related]),
        ):
            if not all(isinstance(each, Mapping) for each in labels):
                yield f"{place}.{name} is not a mapping of labels"
        return
    triggers = trigger.get("triggers")
    if not isinstance(triggers, list) or not triggers:
        yield f"{place}.triggers is missing: a {kind} trigger has others"
        return
    require = trigger.get("require", "all")
    if kind == "compound" and require not in ("any", "all", *range(1, len(triggers) + 1)):
        yield f"{place}.require is {require!r}: it is any, all, or a number from 1 to {len(triggers)}"
    for index, each in enumerate(triggers):
        yield from trigger_problems(each, f"{place}.triggers[{index}]")


def action_problems(action: Any, place: str) -> Iterator[str]:
    """Yield the errors in an action. An unknown type is left to the server, unless it looks misspelt."""
    if not isinstance(action, Mapping) or not action.get("type"):
        yield f"{place}.type is missing"
        return
    kind = str(action["type"])
    if kind not in ACTIONS:
        if near := difflib.get_close_matches(str(kind), ACTIONS, n=1):
            yield f"{place}.type is {kind!r}: {near[0]}?"
        return
    fields = ACTIONS[kind]
    ids = {api_name: option for api_name, (option, _) in TARGETS.items() if option in fields}
    yield from _unknown(action, {*fields, *ids, "type"}, place)
    for api_name, option in ids.items():
        given = action.get(option) or action.get(api_name)
        selected = action.get("source", "selected") == "selected"
        if selected and not given:
            inferred = ", or source: inferred" if "source" in fields else ""
            yield f"{place}.{option} is missing: the name of a {option.replace('_', ' ')}{inferred}"
        if not selected and given:
            yield f"{place}.{option} and source: {action['source']} exclude each other"
    for name in ("state", "body"):
        if name in fields and not action.get(name):
            yield f"{place}.{name} is missing"


def trigger_canonical(trigger: Mapping[str, Any], name_of: Translate) -> dict[str, Any]:
    """Return a trigger in the form that is compared and shown. `name_of` translates ids."""
    kind = trigger.get("type", "event")
    given = {name: value for name, value in trigger.items() if name != "id" and value is not None}
    after = {"type": kind, **TRIGGERS.get(kind, {}), **given}
    if after["within"] is not None:
        after["within"] = seconds(after["within"])
    for name in ("expect", "after", "for_each"):
        if name in after:
            after[name] = sorted({after[name]} if isinstance(after[name], str) else set(after[name]))
    if "match" in after:
        after["match"] = _labels(after["match"], name_of)
        related = after["match_related"]
        several = related if isinstance(related, list) else [related]
        after["match_related"] = [_labels(each, name_of) for each in several if each]
    if "triggers" in after:
        after["triggers"] = [trigger_canonical(each, name_of) for each in after["triggers"]]
    return after


def action_canonical(action: Mapping[str, Any], name_of: Translate) -> dict[str, Any]:
    """Return an action in the form that is compared and shown. `name_of` translates ids."""
    after = {**ACTIONS.get(action["type"], {}), **{name: value for name, value in action.items() if value is not None}}
    for api_name, (option, kind) in TARGETS.items():
        if api_name in after:
            identity = after.pop(api_name)
            if identity is not None and after.get(option) is None:
                after[option] = identity
        if after.get(option) is not None:
            after[option] = name_of(kind, str(after[option]))
    if "schedule_after" in after:
        after["schedule_after"] = seconds(after["schedule_after"])
    return after


def trigger_to_server(trigger: Mapping[str, Any], id_of: Translate) -> dict[str, Any]:
    """Return the request body for a canonical trigger. `id_of` translates names."""
    after = dict(trigger)
    if "match" in after:
        after["match"] = _labels(after["match"], id_of)
        related = [_labels(each, id_of) for each in after["match_related"]]
        after["match_related"] = related[0] if len(related) == 1 else related or {}
    if "triggers" in after:
        after["triggers"] = [trigger_to_server(each, id_of) for each in after["triggers"]]
    return after


def action_to_server(action: Mapping[str, Any], id_of: Translate) -> dict[str, Any]:
    """Return the request body for a canonical action. `id_of` translates names."""
    after = dict(action)
    for api_name, (option, kind) in TARGETS.items():
        if option in after:
            name = after.pop(option)
            after[api_name] = None if name is None else id_of(kind, name)
    return after


def references(automation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every object that a canonical automation refers to."""
    found: list[tuple[str, str]] = []

    def note(kind: str, name: str) -> str:
        found.append((kind, name))
        return name

    if automation.get("trigger"):
        trigger_to_server(automation["trigger"], note)
    for name in ("actions", "actions_on_trigger", "actions_on_resolve"):
        for action in automation.get(name) or []:
            action_to_server(action, note)
    yield from ((kind, name) for kind, name in found if not is_id(name))


def seconds(value: Any) -> float | None:
    """Return a duration (a number or ISO 8601, such as `PT5M`) in seconds; None if it is neither."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return whole(value)
    text = str(value)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return whole(float(text))
    units = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", text)
    if units is None or not any(units.groups()):
        return None
    return whole(sum(float(part or 0) * unit for part, unit in zip(units.groups(), (86400, 3600, 60, 1), strict=True)))


def is_id(text: str) -> bool:
    """Whether a text is a server id."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _labels(match: Mapping[str, Any], translate: Translate) -> dict[str, Any]:
    """Return the labels of a resource with every value as a list, and the names or ids in them translated."""
    return {
        label: [_label(str(value), translate) for value in (values if isinstance(values, list) else [values])]
        for label, values in sorted(match.items())
    }


def _label(value: str, translate: Translate) -> str:
    parts = re.fullmatch(r"(prefect\.([\w-]+)\.)(.+)", value)
    if parts is None or parts[2] not in LABELLED or "*" in parts[3]:
        return value
    return parts[1] + translate(LABELLED[parts[2]], parts[3])


def _unknown(given: Mapping[str, Any], known: set[str], place: str) -> Iterator[str]:
    """Yield an error for each unknown field: the server would silently drop it."""
    for name in given:
        if name not in known:
            yield f"{place}.{name} is unknown: {_choice(name, known)}"


def _choice(given: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(given), list(known), n=1)
    return f"{near[0]}?" if near else f"one of {', '.join(sorted(known))}"
