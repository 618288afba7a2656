"""Apply all Prefect objects in one call: read the present ones, plan, and write what differs.

The plan is complete before the first write, so all errors are reported at once. Writes follow the order in which
objects refer to each other, with as many at a time as the server can handle.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..api.client import Api, ApiError, Failure
from ..api.masking import Mask
from . import recreations
from .engine import Kind, Plan, Server, Values, carry_out, missing_fields, not_json, plan, same, unresolved
from .kinds import KINDS, Automation, is_off, load_schemas
from .ownership import FORMER, Ownership, mark, promise
from .schedules import KINDS as KINDS_OF_SCHEDULE

OLDEST = (3, 5)
"""The oldest version of Prefect that is known to behave as the table of kinds describes."""

BEGUN = ["PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"]

IMPLIED = {"flow": "flow of a deployment"}
"""The kind under which an object that was not described itself is remembered, by its own kind."""

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


class Gate:
    """Limits concurrent requests: raises the limit while they succeed, and halves it when the server is busy.

    After the server was busy, it waits longer each time before it raises the limit: SQLite never handles two.
    """

    def __init__(self, most: int) -> None:
        self._most, self._limit, self._active, self._well, self._patience = most, 1, 0, 0, 8
        self._condition = threading.Condition()

    def __enter__(self) -> None:
        with self._condition:
            while self._active >= self._limit:
                self._condition.wait()
            self._active += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._active -= 1
            self._well += 1
            if self._well >= self._patience and self._limit < self._most:
                self._limit, self._well = self._limit + 1, 0
            self._condition.notify_all()

    def busy(self) -> None:
        with self._condition:
            if self._limit > 1:
                self._patience = min(self._patience * 4, 2048)
            self._limit, self._well = max(1, self._limit // 2), 0


def reconcile(
    api: Api, wanted: Mapping[str, Sequence[Values]], wish: Wish, mask: Mask | None = None
) -> tuple[Report, Server]:
    """Apply the objects of `wanted`, keyed by inventory list such as `prefect_work_pools`.

    Raises Failure with every error, before the first write, and ApiError. `details` of both contains what was done
    until then.
    """
    kinds, entries = read(wanted, wish)
    server = Server(api, KINDS, bulk=True, mask=mask)
    version(api)
    ownership = Ownership(wish.owner)
    ownership.read(api)
    begun, useless = recreations.read(ownership.rest, KINDS)
    server.note(*begun)
    entries += implied(server, entries, ownership)
    report, complaints = Report(concurrency=wish.concurrency), []
    todos: list[Plan] = []
    load_schemas_of(server, entries)
    for entry in sorted(entries, key=lambda entry: entry.kind.level):
        try:
            todos.append(planned(server, entry, wish))
        except Failure as failure:
            complaints.append(f"{entry.place}: {failure}")
    complaints += objections(server, todos, entries)
    complaints += claims(todos, entries, ownership, wish)
    if complaints:
        raise several(complaints)
    todos = with_updated_references(todos)
    proven = [todo for todo in todos if made_before(todo, ownership)]
    report.kept = [f"{todo.label}: {kept}" for todo in todos for kept in todo.kept]
    report.kept += list(forgotten(server, entries))
    report.unchanged = sum(todo.action == "nothing" for todo in todos)
    todos = [todo for todo in todos if todo.action != "nothing"]
    gone = own_duplicates(server, entries, ownership)
    gone += leftovers(server, kinds, entries, todos, ownership, report) if wish.prune else []
    report.plans = [todo for todo in todos if todo.action != "delete"]
    report.plans += sorted(
        [*gone, *(todo for todo in todos if todo.action == "delete")], key=lambda todo: -todo.kind.level
    )
    adopted = [
        mark(entry.kind.name, row["id"])
        for entry in entries
        if entry.state == "present"
        and not entry.implied
        and (row := server.find(entry.kind.name, entry.key)) is not None
        and not entry.kind.is_system(row)
        and is_adopted(entry.kind.name, row["id"], ownership, wish)
    ]
    report.adopted = len(adopted)
    if not wish.check_mode:
        recreations.forget(api, useless)
        carry_all_out(server, report, entries, ownership, proven, adopted)
    report.requests = server.sent
    return report, server


def is_adopted(kind: str, identity: str, ownership: Ownership, wish: Wish) -> bool:
    """Whether an existing object becomes the owner's: by `adopt`, or because inventories once shared one owner."""
    made = mark(kind, identity)
    if wish.adopt == "true":
        return made not in ownership.marks or made in ownership.others
    if ownership.others.get(made) in {FORMER, wish.former}:
        return True
    implied = mark(IMPLIED.get(kind, ""), identity)
    return wish.adopt == "unowned" and made not in ownership.marks and not {made, implied} & ownership.others.keys()


def made_before(todo: Plan, ownership: Ownership) -> bool:
    """Whether an existing object is one that an earlier, interrupted run was creating.

    It must not contradict what was promised: fields that still differ were not written yet.
    """
    if todo.row is None or todo.state != "present" or ownership.has(todo.kind.name, todo.row["id"]):
        return False
    before = todo.diff["before"]
    return ownership.proves(todo.kind.name, todo.key, todo.wanted, todo.row) and not any(
        before.get(name) for name in todo.changes
    )


def forgotten(server: Server, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the objects that an interrupted run deleted in order to recreate, and that are no longer described."""
    described = {(entry.kind.name, entry.key) for entry in entries}
    for name, key in server.recreations.keys() - described:
        if server.begun(name, key, server.find(name, key)):
            yield (
                f"{KINDS[name].label} {key}: a run that was to recreate it was interrupted; describe it again to have "
                "back what went with it"
            )


def read(wanted: Mapping[str, Any], wish: Wish) -> tuple[list[Kind], list[Entry]]:
    """Return the kinds and objects that are described. Raises Failure with all errors in them."""
    by_name = {kind.list_name: kind for kind in KINDS.values()}
    complaints, entries, kinds = [], [], []
    if not re.fullmatch(r"[a-z0-9-]{1,60}", wish.owner):
        complaints.append(f"owner is {wish.owner!r}: it is made of lowercase letters, digits and dashes, 60 at most")
    for name, given in wanted.items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            complaints.append(f"{name} is unknown; {near[0]}?" if near else f"{name} is unknown")
        elif given is None:
            continue
        elif not isinstance(given, Sequence) or isinstance(given, str):
            complaints.append(f"{name} is not a list")
        else:
            kind = by_name[name]
            kinds.append(kind)
            seen: dict[str, str] = {}
            check = unchecked if wish.typed else checked_by_ansible(spec_of(kind))
            for index, each in enumerate(given):
                entry, wrong = read_entry(kind, check, each, f"{name}[{index}]", wish)
                complaints += wrong
                if entry is None:
                    continue
                if entry.key in seen:
                    complaints.append(f"{entry.place}: it is described twice, see {seen[entry.key]}")
                seen[entry.key] = f"{name}[{index}]"
                entries.append(entry)
            described = {entry.key: entry for entry in entries if entry.kind is kind and entry.state == "present"}
            wrong_together = kind.clashes({key: entry.wanted for key, entry in described.items()})
            complaints += [f"{described[key].place}: {complaint}" for key, complaint in wrong_together]
    if complaints:
        raise several(complaints)
    return kinds, entries


def spec_of(kind: Kind) -> dict[str, Any]:
    """Return the options of an entry."""
    return {
        **{name: {"type": "str", "required": True} for name in kind.keys},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        **{name: dict(about.spec) for name, about in kind.fields.items()},
    }


Check = Callable[[Values], tuple[Values, list[str]]]
"""Returns an entry converted to the types of its options, and the errors in it."""


def checked_by_ansible(spec: dict[str, Any]) -> Check:
    """Return a check of what a user has written."""
    # Imported here because a host that applies definitions by itself has no Ansible.
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    validator = ArgumentSpecValidator(spec)

    def check(entry: Values) -> tuple[Values, list[str]]:
        validated = validator.validate(entry)
        return validated.validated_parameters, validated.error_messages

    return check


def unchecked(entry: Values) -> tuple[Values, list[str]]:
    """Return an entry unchanged except for the default of `state`."""
    return {"state": "present", **entry}, []


def read_entry(kind: Kind, check: Check, given: Any, place: str, wish: Wish) -> tuple[Entry | None, list[str]]:
    """Return a described object, or None, and the errors in it."""
    if not isinstance(given, Mapping):
        return None, [f"{place} is not a mapping"]
    drop = is_off(given.get("is_active")) and wish.inactive == "absent"
    entry = {name: value for name, value in kind.renamed(dict(given)).items() if value is not None}
    label = "/".join(str(entry.get(name, "?")) for name in kind.keys)
    place = f"{place} ({label})"
    complaints = list(misspelt(entry, spec_of(kind), place))
    if complaints:
        return None, complaints
    checked, complaints = check(entry)
    if complaints:
        return None, [f"{place}: {message}" for message in complaints]
    values = {name: value for name, value in checked.items() if value is not None}
    state = "absent" if drop else values.pop("state")
    fields = {name: value for name, value in values.items() if name in kind.fields}
    if state == "present":
        complaints = [f"{place}: {complaint}" for complaint in (*kind.complaints(values), *not_json(values))]
    return Entry(kind=kind, key=kind.key(values), wanted=fields, state=state, place=place), complaints


def misspelt(given: Mapping[str, Any], spec: Mapping[str, Any], place: str) -> Iterator[str]:
    """Yield an error for each unknown option, at any depth."""
    for name, value in given.items():
        if name not in spec:
            near = difflib.get_close_matches(str(name), spec, n=1)
            yield f"{place}: {name} is unknown; " + (f"{near[0]}?" if near else f"one of {', '.join(spec)}")
        elif inner := spec[name].get("options"):
            for index, each in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(each, Mapping):
                    yield from misspelt(each, inner, f"{place}: {name}[{index}]")


def version(api: Api) -> None:
    """Raise Failure if the server is older than the oldest supported version."""
    text = str(api.get("/admin/version"))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise Failure(f"{api.url} is Prefect {text}: this needs {'.'.join(map(str, OLDEST))} or newer")


def implied(server: Server, entries: Iterable[Entry], ownership: Ownership) -> list[Entry]:
    """Return the flows that deployments need and that are not described, if they are missing or were just created."""
    entries = list(entries)
    listed = {entry.key for entry in entries if entry.kind.name == "flow"}
    needed: dict[str, str] = {}
    for entry in entries:
        if entry.kind.name == "deployment" and entry.state == "present":
            needed.setdefault(entry.kind.parts(entry.key)["flow"], entry.place)
    flow = KINDS["flow"]
    return [
        Entry(kind=flow, key=name, wanted={}, place=place, implied=True)
        for name, place in needed.items()
        if name not in listed
        and ((row := server.find("flow", name)) is None or ownership.may_have_made("flow", name, row))
    ]


def load_schemas_of(server: Server, entries: Iterable[Entry]) -> None:
    """Read the schemas of all block types that will be compared or completed, at once."""
    slugs = {entry.kind.parts(entry.key)["block_type"] for entry in entries if entry.kind.name == "block"}
    slugs |= {entry.key for entry in entries if entry.kind.name == "block_type"}
    if slugs:
        load_schemas(server, sorted(slugs))


def planned(server: Server, entry: Entry, wish: Wish) -> Plan:
    return plan(
        server,
        entry.kind,
        key=entry.key,
        wanted=entry.wanted,
        state=entry.state,
        row=server.find(entry.kind.name, entry.key),
        recreate=wish.recreate,
        keep=wish.pauses == "keep",
    )


def objections(server: Server, todos: Sequence[Plan], entries: Sequence[Entry]) -> list[str]:
    """Return the errors in the plan that the server's state shows."""
    places = {(entry.kind.name, entry.key): entry.place for entry in entries}
    coming = {(entry.kind.name, entry.key) for entry in entries if entry.state == "present"}
    coming |= {
        each
        for todo in todos
        for noted in server.recreations.get((todo.kind.name, todo.key), ())
        for each in (todo.kind.restored(noted) if todo.begun and todo.state == "present" else ())
    }
    going = {(entry.kind.name, entry.key) for entry in entries if entry.state == "absent"}
    changing = {(todo.kind.name, todo.key) for todo in todos if todo.action != "nothing"}
    found: list[tuple[Plan, str]] = []
    for todo in todos:
        if todo.action == "delete" and todo.row is not None and todo.kind.is_system(todo.row):
            found.append((todo, "it belongs to Prefect itself and cannot be deleted"))
        if todo.state == "absent" or todo.action == "nothing":
            continue
        if todo.row is None:
            found += [(todo, complaint) for complaint in missing_fields(todo.kind, todo.wanted)]
        found += [(todo, complaint) for complaint in unresolved(server, todo, coming)]
        for name, key in todo.kind.references(todo):
            if (name, key) in going:
                found.append((todo, f"it needs the {KINDS[name].label} {key}, which is to be absent"))
        # If the schema of its type is about to change, a block cannot be checked against the present one.
        if todo.kind.name != "block" or ("block_type", todo.kind.parts(todo.key)["block_type"]) not in changing:
            found += [(todo, complaint) for complaint in todo.kind.checks(todo, server)]
    for kind in KINDS.values():
        about = [todo for todo in todos if todo.kind is kind and todo.action in {"create", "update", "recreate"}]
        if about:
            found += kind.inquiries(about, server)
    return [f"{places.get((todo.kind.name, todo.key), todo.label)}: {complaint}" for todo, complaint in found]


def claims(todos: Iterable[Plan], entries: Iterable[Entry], ownership: Ownership, wish: Wish) -> Iterator[str]:
    """Yield an error for each change of an object that another owner made and would change back.

    Of the kinds, only deployments have claims, unless the owner adopts what is unowned: it describes its own objects
    alone. Pausing is allowed to every owner.
    """
    if wish.adopt == "true":
        return
    places = {(entry.kind.name, entry.key): entry.place for entry in entries}
    for todo in todos:
        if todo.row is None or todo.action == "nothing":
            continue
        if todo.kind.name != "deployment" and wish.adopt != "unowned":
            continue
        owner = ownership.others.get(mark(todo.kind.name, todo.row["id"]))
        if owner and owner not in {FORMER, wish.former} and todo.changes.keys() not in ({"paused"}, {"is_paused"}):
            yield (
                f"{places[todo.kind.name, todo.key]}: the owner {owner} has made it, and would change it back; "
                "describe it in one place, or take it over with adopt: true (prefect_resources_adopt, "
                "prefect_definitions_adopt)"
            )


def with_updated_references(todos: Sequence[Plan]) -> list[Plan]:
    """Return the plans, with automations updated that refer by id to an object about to be recreated."""
    recreated = {(todo.kind.name, todo.key) for todo in todos if todo.action == "recreate"}

    def follows(todo: Plan) -> bool:
        if todo.kind.name != "automation" or todo.action not in {"nothing", "update"}:
            return False
        used = set(todo.kind.uses(todo.key, todo.after))
        used |= {("work_pool", key.split("/")[0]) for name, key in used if name == "work_queue"}
        return bool(used & recreated)

    return [
        replace(todo, action="update", changes={**todo.changes, "actions": todo.after["actions"]})
        if follows(todo)
        else todo
        for todo in todos
    ]


def several(complaints: Sequence[str]) -> Failure:
    number = f"{len(complaints)} things are" if len(complaints) > 1 else "Something is"
    listed = "".join(f"\n- {complaint}" for complaint in complaints)
    return Failure(f"{number} wrong with the resources, and nothing was written:{listed}", errors=list(complaints))


def own_duplicates(server: Server, entries: Iterable[Entry], ownership: Ownership) -> list[Plan]:
    """Return deletions of the younger ones of objects that share a name, if this owner created them.

    Raises Failure if it is unclear which one is meant.
    """
    found = []
    for entry in entries:
        for row in server.namesakes.get((entry.kind.name, entry.key), []):
            first = server.find(entry.kind.name, entry.key)
            assert first is not None
            twin = same(entry.kind.shape(row, server), entry.kind.shape(first, server))
            made = ownership.may_have_made(entry.kind.name, entry.key, row)
            if ownership.has(entry.kind.name, row["id"]) or (made and twin):
                found.append(plan(server, entry.kind, key=entry.key, wanted={}, state="absent", row=row))
            else:
                raise several(
                    [
                        f"{entry.place}: there are several {entry.kind.label}s of this name, {first['id']} and "
                        f"{row['id']} among them: delete all but the one you mean"
                    ]
                )
    return found


def leftovers(
    server: Server,
    kinds: Iterable[Kind],
    entries: Sequence[Entry],
    todos: Sequence[Plan],
    ownership: Ownership,
    report: Report,
) -> list[Plan]:
    """Return deletions of what this owner created and no longer describes, unless an object that stays needs it."""
    wanted = {(entry.kind.name, entry.key) for entry in entries}
    wanted |= {("flow", entry.key.split("/", 1)[0]) for entry in entries if entry.kind.name == "deployment"}
    candidates = {
        (kind.name, key)
        for kind in kinds
        for key, row in server.load(kind.name).items()
        if row is not None
        and (kind.name, key) not in wanted
        and not kind.is_system(row)
        and (ownership.has(kind.name, row["id"]) or ownership.has(IMPLIED.get(kind.name, ""), row["id"]))
    }
    candidates |= unused_flows(server, kinds, wanted, ownership)
    if not candidates:
        return []
    going = candidates | {(todo.kind.name, todo.key) for todo in todos if todo.action == "delete"}
    after = {(todo.kind.name, todo.key): todo.after for todo in todos if todo.action != "delete"}
    users: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for kind in KINDS.values():
        if type(kind).uses is Kind.uses:
            continue
        for key, row in server.load(kind.name).items():
            # The default queue is deleted with its pool.
            if row is None or (kind.name == "work_queue" and row["name"] == "default"):
                continue
            values = after.get((kind.name, key)) or kind.shape(row, server)
            for target in kind.uses(key, values):
                users.setdefault(target, []).append((kind.name, key))
    plans = []
    for name, key in sorted(candidates, key=lambda each: (-KINDS[each[0]].level, each)):
        kind = KINDS[name]
        users_left = [user for user in users.get((name, key), []) if user not in going]
        reason = f"{KINDS[users_left[0][0]].label} {users_left[0][1]} needs it" if users_left else ""
        row = server.find(name, key)
        assert row is not None
        if not reason and name == "flow":
            # Runs that are only scheduled are deleted with their deployment.
            begun = {"state": {"type": {"any_": BEGUN}}}
            body = {"flows": {"id": {"any_": [row["id"]]}}, "flow_runs": begun}
            runs = server.api.post("/flow_runs/count", body)
            reason = f"the history of its {runs} runs would go with it" if runs else ""
        if reason:
            going.discard((name, key))
            report.kept.append(f"{kind.label} {key}: not deleted, {reason}")
        else:
            plans.append(plan(server, kind, key=key, wanted={}, state="absent", row=row))
    return plans


def unused_flows(
    server: Server, kinds: Iterable[Kind], wanted: set[tuple[str, str]], ownership: Ownership
) -> set[tuple[str, str]]:
    """Return the flows that were created for deployments none of which is described any more.

    Flows that were described themselves are left alone if their list is left out.
    """
    names = {kind.name for kind in kinds}
    if "deployment" not in names:
        return set()
    needed = {key.split("/", 1)[0] for name, key in wanted if name == "deployment"}
    return {
        ("flow", key)
        for key, row in server.load("flow").items()
        if row is not None
        and ("flow", key) not in wanted
        and key not in needed
        and ownership.has(IMPLIED["flow"], row["id"])
    }


def carry_all_out(
    server: Server,
    report: Report,
    entries: Sequence[Entry],
    ownership: Ownership,
    proven: Iterable[Plan],
    adopted: Iterable[str],
) -> None:
    """Carry out all plans, and record what the owner created."""
    api = server.api
    implied_keys = {(entry.kind.name, entry.key) for entry in entries if entry.implied}
    created = [todo for todo in report.plans if todo.action in {"create", "recreate"}]
    promises = {(todo.kind.name, todo.key): promise(todo.kind.name, todo.key, todo.wanted) for todo in created}
    ownership.give(api, promises.values())

    def marks(todos: Iterable[Plan]) -> list[str]:
        rows = [(todo, server.find(todo.kind.name, todo.key)) for todo in todos]
        return [mark(name, now) for name, before, now in server.replaced if ownership.has(name, before)] + [
            mark(IMPLIED[todo.kind.name] if (todo.kind.name, todo.key) in implied_keys else todo.kind.name, row["id"])
            for todo, row in rows
            if row is not None
        ]

    gate = Gate(report.concurrency)
    begun: list[Plan] = []
    done: list[Plan] = []
    try:
        for group in groups(report.plans):
            run_all(server, group, gate, begun.append, done.append)
            # Finish these before writing anything else: a recreation restores its objects until its record is removed.
            if recreated := [todo for todo in done if (todo.kind.name, todo.key) in server.recreations]:
                ownership.change(api, add=marks(recreated))
                server.finish(recreated)
        single(server, [todo.key for todo in created if todo.kind.name == "automation"])
    except Failure as failure:
        failure.details.update(changed=bool(done), done=[line(server, todo) for todo in done])
        with contextlib.suppress(ApiError):
            settle(server, ownership, created, begun=begun, done=done, marks=marks)
        raise
    deleted = [
        mark(name, todo.row["id"])
        for todo in report.plans
        if todo.action in {"delete", "recreate"} and todo.row
        for name in (todo.kind.name, IMPLIED.get(todo.kind.name, ""))
    ]
    deleted += [mark(name, before) for name, before, _ in server.replaced]
    ownership.change(api, add=[*marks(created), *marks(proven)], drop=deleted, take=adopted)
    present = {
        promise(entry.kind.name, entry.key, {})[0] for entry in entries if server.find(entry.kind.name, entry.key)
    }
    ownership.redeem(api, present)


def settle(
    server: Server,
    ownership: Ownership,
    created: Sequence[Plan],
    *,
    begun: Sequence[Plan],
    done: Sequence[Plan],
    marks: Callable[[Iterable[Plan]], list[str]],
) -> None:
    """After a failure, record what was created and withdraw the promises of what was not. Raises ApiError.

    If the server does not answer, the promises stay for the next run to judge.
    """
    finished = {(todo.kind.name, todo.key) for todo in done}
    doubtful = [todo for todo in begun if todo in created and (todo.kind.name, todo.key) not in finished]
    made = [todo for todo in created if (todo.kind.name, todo.key) in finished]
    for todo in doubtful:
        row = server.again(todo.kind.name, todo.key)
        if row is not None and ownership.proves(todo.kind.name, todo.key, todo.wanted, row):
            made.append(todo)
    ownership.change(server.api, add=marks(made))
    server.finish(done)
    ownership.redeem(server.api)


def groups(plans: Sequence[Plan]) -> Iterator[list[list[Plan]]]:
    """Yield groups that may be written at the same time: lists of plans, each list to be written in order."""
    writes = [todo for todo in plans if todo.action != "delete"]
    depth = depths(writes)
    for rank in sorted({(todo.kind.level, depth[todo.label]) for todo in writes}):
        units: dict[str, list[Plan]] = {}
        for todo in (todo for todo in writes if (todo.kind.level, depth[todo.label]) == rank):
            # A new priority shifts those of the pool's other queues: write them one after the other, the highest
            # priority first.
            unit = todo.key.split("/")[0] if todo.kind.name == "work_queue" else todo.label
            units.setdefault(unit, []).append(todo)
        yield [sorted(unit, key=lambda todo: todo.after.get("priority") or 0) for unit in units.values()]
    deletions = [todo for todo in plans if todo.action == "delete"]
    for level in sorted({todo.kind.level for todo in deletions}, reverse=True):
        yield [[todo] for todo in deletions if todo.kind.level == level]


def depths(plans: Sequence[Plan]) -> dict[str, int]:
    """Return how many other objects of its kind must exist before each object."""
    by_key = {(todo.kind.name, todo.key): todo for todo in plans}
    known: dict[str, int] = {}

    def depth(todo: Plan, above: tuple[str, ...] = ()) -> int:
        if todo.label not in known:
            needs = [by_key[each] for each in todo.kind.references(todo) if each in by_key]
            inner = [each for each in needs if each.kind is todo.kind and each.label not in (*above, todo.label)]
            known[todo.label] = max((depth(each, (*above, todo.label)) + 1 for each in inner), default=0)
        return known[todo.label]

    for todo in plans:
        depth(todo)
    return known


def run_all(
    server: Server,
    units: Sequence[Sequence[Plan]],
    gate: Gate,
    begin: Callable[[Plan], object],
    note: Callable[[Plan], object],
) -> None:
    """Write lists of plans, as many at a time as `gate` allows; call `begin` before and `note` after each plan.

    Raises the first Failure after all have stopped.
    """
    waiting: queue.SimpleQueue[Sequence[Plan]] = queue.SimpleQueue()
    for unit in units:
        waiting.put(unit)
    failures: list[BaseException] = []

    def work() -> None:
        server.api.busy = gate.busy
        while not failures:
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                for todo in unit:
                    begin(todo)
                    with gate:
                        carry_out(server, todo)
                    note(todo)
            except BaseException as error:
                failures.append(error)

    helpers = [threading.Thread(target=work, daemon=True) for _ in range(min(gate._most, len(units)) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def single(server: Server, names: list[str]) -> None:
    """Keep one automation per name if another controller created some at the same time."""
    automation = KINDS["automation"]
    assert isinstance(automation, Automation)
    for at in range(0, len(names), 50):
        seen: dict[str, dict[str, Any]] = {}
        for row in automation.namesakes(server, names[at : at + 50]):
            mine = server.find("automation", row["name"])
            if row["name"] not in seen:
                seen[row["name"]] = row
                if mine is not None and mine["id"] != row["id"]:
                    forget(server.api, "automation", mine)
                    server.put("automation", row["name"], row)


def forget(api: Api, name: str, row: Mapping[str, Any]) -> None:
    """Delete an object that may already have been deleted."""
    try:
        api.call("DELETE", KINDS[name].path(KINDS[name].item, row))
    except ApiError as error:
        if error.status != 404:
            raise


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
