"""What is wanted of a server and how, and the report of what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .engine import Kind, Plan, Server, Values, same
from .kinds.schedules import KINDS as KINDS_OF_SCHEDULE

SIGNS = {"create": "+", "update": "~", "recreate": "±", "delete": "-"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How to apply the wanted objects; see the options of the module `resources`.

    `adopt` is false, unowned or true, as a text. `typed` entries come from a program that ensures their types, so they
    are checked without Ansible.
    """

    owner: str = "ansible"
    prune: bool = False
    adopt: str = "false"
    former: str = ""
    pauses: str = "keep"
    inactive: str = "paused"
    recreate: bool = False
    check_mode: bool = False
    concurrency: int = 4
    typed: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One wanted object. `place` is where it was defined."""

    kind: Kind
    key: str
    wanted: Values
    state: str = "present"
    place: str = ""
    implied: bool = False


@dataclass(kw_only=True)
class Report:
    """The result: `plans` in order, `kept` as text for the user, and the number of `requests`."""

    plans: list[Plan] = field(default_factory=list)
    unchanged: int = 0
    adopted: int = 0
    kept: list[str] = field(default_factory=list)
    requests: int = 0
    concurrency: int = 4

    @property
    def changed(self) -> bool:
        return bool(self.plans or self.adopted)

    def lines(self, server: Server) -> list[str]:
        """Return the plan as text for the user, one line per object."""
        return [line(server, todo) for todo in self.plans] + [f"= {kept}" for kept in self.kept]

    def result(self, server: Server) -> dict[str, Any]:
        counts = {action: sum(todo.action == action for todo in self.plans) for action in SIGNS}
        return {
            "changed": self.changed,
            "plan": self.lines(server),
            "changes": [described(server, todo) for todo in self.plans],
            "summary": {**counts, "unchanged": self.unchanged, "adopted": self.adopted},
            "kept": self.kept,
            "requests": self.requests,
        }


def line(server: Server, todo: Plan) -> str:
    """Return one line of text for an object's plan."""
    text = f"{SIGNS[todo.action]} {todo.label}"
    fields = described(server, todo)["fields"]
    if todo.action == "create":
        told = ", ".join(f"{name}: {brief(each['after'])}" for name, each in fields.items())
        return f"{text} ({told})" if told else text
    told = ", ".join(f"{name}: {brief(each['before'])} -> {brief(each['after'])}" for name, each in fields.items())
    return f"{text} ({told})" if told else text


def described(server: Server, todo: Plan) -> dict[str, Any]:
    """Return an object's plan for a program."""
    before, after = todo.diff["before"], todo.diff["after"]
    names = [] if todo.action == "delete" else [name for name in after if name not in todo.kind.keys]
    fields = {
        name: {"before": before.get(name), "after": after[name]}
        for name in names
        if todo.action == "create" or not same(before.get(name), after[name])
    }
    return {"action": todo.action, "kind": todo.kind.name, "key": todo.key, "fields": fields}


def brief(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, dict) and "timezone" in each for each in value):
        value = "; ".join(moments(each) for each in value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def moments(schedule: Mapping[str, Any]) -> str:
    """Return when a schedule fires, in a few words."""
    kind = next((name for name in KINDS_OF_SCHEDULE if name in schedule), "")
    inactive = "" if schedule.get("active", True) else " inactive"
    return f"{kind} {schedule.get(kind)} {schedule['timezone']}{inactive}"
