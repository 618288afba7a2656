"""Apply all Prefect objects in one call: read the present ones, plan, and write what differs.

The plan is complete before the first write, so all errors are reported at once. Writes follow the order in which
objects refer to each other, with as many at a time as the server can handle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..api.client import Api, Failure
from ..api.masking import Mask
from . import recreations
from .engine import Plan, Server, Values
from .execute import carry_all_out
from .ownership import Ownership, mark
from .plan import (
    forgotten,
    implied,
    is_adopted,
    leftovers,
    load_schemas_of,
    made_before,
    own_duplicates,
    ownership_problems,
    planned,
    problems_of,
    with_updated_references,
)
from .reading import read, several
from .table import KINDS
from .wishes import Report, Wish

OLDEST = (3, 5)
"""The oldest version of Prefect that is known to behave as the table of kinds describes."""


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
    report, problems = Report(concurrency=wish.concurrency), []
    todos: list[Plan] = []
    load_schemas_of(server, entries)
    for entry in sorted(entries, key=lambda entry: entry.kind.level):
        try:
            todos.append(planned(server, entry, wish))
        except Failure as failure:
            problems.append(f"{entry.place}: {failure}")
    problems += problems_of(server, todos, entries)
    problems += ownership_problems(todos, entries, ownership, wish)
    if problems:
        raise several(problems)
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


def version(api: Api) -> None:
    """Raise Failure if the server is older than the oldest supported version."""
    text = str(api.get("/admin/version"))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise Failure(f"{api.url} is Prefect {text}: this needs {'.'.join(map(str, OLDEST))} or newer")
