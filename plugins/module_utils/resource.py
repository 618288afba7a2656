"""Objects inside Prefect as rows of a table, and the one engine that makes them present or absent.

A kind is a `Resource`: where its objects live and what is to be known about each field. `plan` compares and decides
without a request, `apply` writes what the plan says, `ensure` is both with a read before; `run` is a module's main.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .api import Api, ApiError, Failure, quoted, run_module

Action = Literal["nothing", "create", "update", "delete"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """What is to be known about one field of a kind.

    `normalise` brings the wanted and the present value into the form that is compared, `clear` is the option's value
    that stands for null on the server, `default` is what a new object gets when the option was left out.
    An `immutable` field can only be chosen at creation; a `secret` one is never shown.
    """

    normalise: Callable[[Any], Any] = lambda value: value
    clear: Any = None
    default: Any = None
    immutable: bool = False
    secret: bool = False


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A kind of object: one row of the table.

    `collection` is the path that creates, `item` the one that reads, changes and deletes; `{key}` in it is the
    object's value of the field `key`. `complaints` names, without a request, everything that the server would refuse.
    """

    kind: str
    collection: str
    item: str
    fields: Mapping[str, Field]
    key: str = "name"
    complaints: Callable[[Mapping[str, Any]], Iterable[str]] = lambda wanted: ()

    def path(self, key: str) -> str:
        return self.item.format(key=quoted(key))

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return `values` fit for a person's eyes."""
        hidden = {name for name, about in self.fields.items() if about.secret}
        return {name: "********" if name in hidden and value else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done to one object: `body` is what is sent, `diff` what a person sees of it."""

    action: Action
    body: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, Any] = field(default_factory=dict)


def plan(
    resource: Resource, *, key: str, wanted: Mapping[str, Any], state: str, present: Mapping[str, Any] | None
) -> Plan:
    """Compare what is wanted with what is `present` (None: nothing) and return what is to be done.

    A field that is not in `wanted` is left alone. Raises Failure when an immutable field would have to change.
    """
    label = f"{resource.kind} {key}"
    if state == "absent":
        known = {name: value for name, value in (present or {}).items() if name in resource.fields}
        return Plan(action="delete" if present else "nothing", diff=_diff(resource, label, known, {}))

    cleared = {name: None if value == resource.fields[name].clear else value for name, value in wanted.items()}
    if present is None:
        defaults = {name: about.default for name, about in resource.fields.items() if about.default is not None}
        body = {resource.key: key, **defaults, **{name: value for name, value in cleared.items() if value is not None}}
        return Plan(action="create", body=body, diff=_diff(resource, label, {}, body))

    body = {}
    for name, value in cleared.items():
        normalise = resource.fields[name].normalise
        if normalise(value) != normalise(present.get(name)):
            body[name] = value
    stuck = [name for name in body if resource.fields[name].immutable]
    if stuck:
        changes = ", ".join(f"{name} is {present.get(name)!r}, not {body[name]!r}" for name in stuck)
        raise Failure(
            f"{label}: {changes}, and that cannot be changed. Delete the {resource.kind} first (state: absent), "
            "or leave the option out to keep what is there",
            immutable=stuck,
        )
    before = {name: present.get(name) for name in cleared}
    after = {**before, **body}
    return Plan(action="update" if body else "nothing", body=body, diff=_diff(resource, label, before, after))


def apply(api: Api, resource: Resource, *, key: str, todo: Plan) -> dict[str, Any] | None:
    """Carry out a plan and return the object as it is then, or None when it is gone. Raises ApiError."""
    if todo.action == "create":
        created: dict[str, Any] = api.post(resource.collection, todo.body)
        return created
    if todo.action == "delete":
        api.call("DELETE", resource.path(key))
        return None
    if todo.action == "update":
        api.call("PATCH", resource.path(key), todo.body)
    found: dict[str, Any] = api.get(resource.path(key))
    return found


def ensure(
    api: Api, resource: Resource, *, key: str, wanted: Mapping[str, Any], state: str, check_mode: bool
) -> dict[str, Any]:
    """Make one object present with the `wanted` fields, or absent, and return `changed`, `object` and `diff`.

    Raises Failure before the first request for what can be known without one, and ApiError.
    """
    complaints = list(resource.complaints({resource.key: key, **wanted})) if state == "present" else []
    if complaints:
        raise Failure(f"{resource.kind} {key}: {'; '.join(complaints)}")
    tried: set[Action] = set()
    changed = False
    while True:
        present = api.find(resource.path(key))
        todo = plan(resource, key=key, wanted=wanted, state=state, present=present)
        after = present
        if todo.action != "nothing":
            if check_mode:
                after = None if state == "absent" else {**(present or {}), **todo.body}
            else:
                try:
                    after = apply(api, resource, key=key, todo=todo)
                except ApiError as error:
                    # Somebody else made or removed it between our read and our write: look again, once for each way.
                    if error.status not in {404, 409} or todo.action in tried:
                        raise
                    tried.add(todo.action)
                    changed = changed or error.lost
                    continue
        return {
            "changed": changed or todo.action != "nothing",
            "object": None if after is None else resource.shown(after),
            "diff": todo.diff,
        }


def run(resource: Resource, spec: Mapping[str, Any], **options: Any) -> None:
    """Be the `main` of a kind's module. `spec` holds the options of its fields, `options` are AnsibleModule's."""

    def work(api: Api, params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
        wanted = {name: params[name] for name in resource.fields if params[name] is not None}
        return ensure(
            api, resource, key=params[resource.key], wanted=wanted, state=params["state"], check_mode=check_mode
        )

    common = {
        resource.key: {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    run_module(work, {**common, **spec}, **options)


def _diff(resource: Resource, label: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return Ansible's diff; a secret shows that it changes, not what it is."""
    shown = resource.shown(after)
    for name, value in shown.items():
        if value != after[name] and before.get(name) != after[name]:
            shown[name] = f"{value} (new)"
    return {"before_header": label, "after_header": label, "before": resource.shown(before), "after": shown}
