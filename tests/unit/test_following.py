"""A followed database that shrinks: what is gone is doubted, then paused, and never deleted."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from prefect_definitions import directory, sources
from prefect_definitions.following import Following, Look, place
from prefect_definitions.records import DefinitionError, Row
from prefect_definitions.resources import Inactive
from prefect_definitions.schema import Definitions, Rows, rows_of

Data = dict[str, list[dict[str, Any]]]


def full(size: int = 4) -> Data:
    names = [f"f{number}" for number in range(size)]
    return {
        "prefect_work_pools": [{"name": "p", "pool_type": "process"}],
        "prefect_flows": [{"name": name} for name in names],
        "prefect_tasks": [{"name": "t", "flow_name": name, "command": "true"} for name in names],
        "prefect_deployments": [{"name": "d", "flow_name": name, "work_pool_name": "p"} for name in names],
    }


def without(data: Data, *flows: str) -> Data:
    return {
        kind: [row for row in rows if row.get("flow_name", row["name"]) not in flows] for kind, rows in data.items()
    }


class Database:
    """A database of definitions, a host that follows it, and what the host registers."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, inactive: Inactive) -> None:
        self.home, self.data, self.inactive = home, full(), inactive
        self.registered: list[dict[str, bool | None]] = []
        self.pools: list[dict[str, Any]] = []
        monkeypatch.setattr(sources, "read", lambda _: self.rows())
        monkeypatch.setattr(Following, "register", self.register)
        monkeypatch.setattr(Following, "placed", self.placed)
        self.look = self.start()

    def start(self) -> Look:
        return Look(
            Following(
                source="sqlite:///x",
                directory=self.home,
                paths=[str(self.home / "code")],
                work_pool="p",
                inactive=self.inactive,
                owner="o",
                every=0,
                engine="/engine",
            )
        )

    def rows(self) -> dict[str, list[Row]]:
        if not self.data:
            raise DefinitionError(["the database is away"])
        return rows_of(copy.deepcopy(self.data))

    def placed(self, rows: Rows, *, kept: Collection[tuple[str, str, str]]) -> dict[str, Any]:
        """Do here what takes a process of its own otherwise."""
        return place(self.home, rows, paths=[], work_pool="p", inactive=self.inactive, kept=kept)

    def register(self, made: dict[str, list[dict[str, Any]]]) -> list[str]:
        self.registered.append({row["flow"]: row.get("paused") for row in made["prefect_deployments"]})
        self.pools = made["prefect_work_pools"]
        return []


@pytest.fixture(params=["paused", "absent"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    made = Database(tmp_path, monkeypatch, request.param)
    made.look()
    assert made.registered == [dict.fromkeys(["f0", "f1", "f2", "f3"])]
    return made


EMPTY: Data = {kind: [] for kind in full()}


def test_a_database_that_is_empty_for_a_moment_changes_nothing(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    database.data = EMPTY
    database.look()
    said = capsys.readouterr().out
    assert "4 of 4 deployments and 1 of 1 work pools are gone" in said and "nothing is changed" in said
    database.data = full()
    database.look()
    assert len(database.registered) == 1
    # And a row that goes later goes at once.
    test_a_row_that_is_gone_takes_its_deployment_along(database)


def test_what_stays_away_is_paused_and_not_deleted(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.data = EMPTY
    for _ in range(4):
        database.look()
    assert database.registered[1:] == [dict.fromkeys(["f0", "f1", "f2", "f3"], True)]
    assert database.pools == [{"name": "p", "type": "process", "is_paused": True}]
    said = capsys.readouterr().out
    assert said.count("they are paused, not deleted. To delete them, run playbooks/definitions.yml") == 1
    # A run that has begun, or is begun by hand, finds its flow.
    assert [flow.name for flow in directory.definitions_in(database.home, flow="f2").flows] == ["f2"]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_comes_back_runs_again(database: Database, restarted: bool) -> None:
    database.data = EMPTY
    database.look()
    database.look()
    if restarted:
        database.look = database.start()
        database.look()
    database.data = full()
    database.look()
    assert database.registered[-1] == dict.fromkeys(["f0", "f1", "f2", "f3"], False)
    assert database.pools[0]["is_paused"] is False


def test_a_database_that_is_filled_again_row_by_row_deletes_nothing(database: Database) -> None:
    for flows in (4, 3, 2, 1, 0):
        database.data = without(full(), *(f"f{number}" for number in range(flows)))
        database.look()
    assert all(len(made) >= 3 for made in database.registered)


def test_a_row_that_is_gone_takes_its_deployment_along(database: Database) -> None:
    database.data = without(full(), "f1")
    database.look()
    assert database.registered[1:] == [dict.fromkeys(["f0", "f2", "f3"])]


def with_steps(*names: str) -> Data:
    """Return definitions whose flows have the tasks `names` each."""
    data = full()
    tasks = [
        {"name": name, "flow_name": flow["name"], "command": "true"}
        for flow in full()["prefect_flows"]
        for name in names
    ]
    return {**data, "prefect_tasks": tasks}


def test_a_database_whose_tasks_are_being_written_changes_nothing(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    database.data = with_steps("extract", "transform", "load")
    database.look()
    capsys.readouterr()
    database.data = with_steps("extract")
    database.look()
    assert "8 of 12 tasks are gone from the database; nothing is changed" in capsys.readouterr().out
    database.data = with_steps("extract", "transform")
    database.look()
    database.data = with_steps("extract", "transform", "load")
    database.look()
    assert len(directory.definitions_in(database.home).tasks) == 12
    # A person who removes them has to wait for the next look.
    database.data = with_steps("load")
    database.look()
    database.look()
    assert [task.name for task in directory.definitions_in(database.home).tasks] == ["load"] * 4
    assert database.registered[-1] == dict.fromkeys(["f0", "f1", "f2", "f3"])


def test_code_that_has_changed_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = Following.placed
    database = Database(tmp_path, monkeypatch, "paused")
    monkeypatch.setattr(Following, "placed", placed)
    (database.home / "code").mkdir()
    module = database.home / "code" / "shop.py"
    module.write_text("def one(): pass\n")
    for name in ("one", "two"):
        database.data["prefect_tasks"].append({"name": name, "flow_name": "f0", "use": f"shop:{name}"})
        database.look()
    assert "shop has no two" in capsys.readouterr().err
    module.write_text("def one(): pass\n\n\ndef two(): pass\n")
    database.look()
    assert "two" in [task.name for task in directory.definitions_in(database.home).tasks]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_paused_is_not_deleted_once_there_are_many_others(database: Database, restarted: bool) -> None:
    database.data = without(full(), "f0", "f1", "f2")
    database.look()
    database.look()
    assert database.registered[-1] == {"f0": True, "f1": True, "f2": True, "f3": None}
    database.data = without(full(40), "f0", "f1", "f2")
    database.look()
    database.look()
    assert len(database.registered[-1]) == 40
    if restarted:
        database.look = database.start()
        database.look()
    assert [flow for flow, paused in database.registered[-1].items() if paused] == ["f0", "f1", "f2"]


def test_deployments_that_lose_their_pool_column_stay_valid(database: Database) -> None:
    """Tasks of a flow that is still there are its own; those of one that is gone are kept with it."""
    database.data = without(full(), "f0", "f1", "f2")
    database.data["prefect_flows"].append({"name": "f0"})
    database.data["prefect_tasks"].append({"name": "other", "flow_name": "f0", "command": "false"})
    database.look()
    database.look()
    made: Definitions = directory.definitions_in(database.home)
    assert [task.name for task in made.tasks_of("f0")] == ["other"]
    assert [task.name for task in made.tasks_of("f1")] == ["t"]


def test_a_database_that_is_away_is_said_once(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.data = {}
    database.look()
    database.look()
    assert capsys.readouterr().err.count("the database is away") == 1
    assert len(database.registered) == 1
