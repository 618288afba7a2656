"""Plans what to write for the wanted objects, and finds all errors before the first write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .engine import Kind, Plan, Server, missing_fields, plan, same, unresolved
from .kinds.blocks import load_schemas
from .ownership import FORMER, Ownership, mark
from .reading import several
from .table import KINDS
from .wishes import Entry, Report, Wish

BEGUN = ["PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"]


IMPLIED = {"flow": "flow of a deployment"}
"""The kind under which an object that was not described itself is remembered, by its own kind."""


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


def problems_of(server: Server, todos: Sequence[Plan], entries: Sequence[Entry]) -> list[str]:
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
            found += [(todo, problem) for problem in missing_fields(todo.kind, todo.wanted)]
        found += [(todo, problem) for problem in unresolved(server, todo, coming)]
        for name, key in todo.kind.references(todo):
            if (name, key) in going:
                found.append((todo, f"it needs the {KINDS[name].label} {key}, which is to be absent"))
        # If the schema of its type is about to change, a block cannot be checked against the present one.
        if todo.kind.name != "block" or ("block_type", todo.kind.parts(todo.key)["block_type"]) not in changing:
            found += [(todo, problem) for problem in todo.kind.checks(todo, server)]
    for kind in KINDS.values():
        about = [todo for todo in todos if todo.kind is kind and todo.action in {"create", "update", "recreate"}]
        if about:
            found += kind.inquiries(about, server)
    return [f"{places.get((todo.kind.name, todo.key), todo.label)}: {problem}" for todo, problem in found]


def ownership_problems(
    todos: Iterable[Plan], entries: Iterable[Entry], ownership: Ownership, wish: Wish
) -> Iterator[str]:
    """Yield an error for each change of an object that another owner made and would change back.

    Only deployments have such problems, unless the owner adopts what is unowned: it describes its own objects alone.
    Pausing is allowed to every owner.
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
