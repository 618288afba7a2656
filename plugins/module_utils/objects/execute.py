"""Writes what was planned, in the order in which objects refer to each other.

As many requests run at a time as the server can handle.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..api.client import Api, ApiError, Failure
from .engine import Plan, Server, carry_out
from .kinds.automations import Automation
from .ownership import Ownership, mark, promise
from .plan import IMPLIED
from .table import KINDS
from .wishes import Entry, Report, line


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
