"""No more tasks run at once than the limits of a flow and of a host say, and each comes after what it needs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect_definitions import limits
from prefect_definitions.checks import problems_here
from prefect_definitions.execution import Limit, Stopped
from prefect_definitions.limits import PER_FLOW, PER_HOST, in_turn, most, place_on_host, places_directory
from prefect_definitions.records import DefinitionError
from prefect_definitions.schema import Definitions

SHIPPED = Path(limits.__file__).parents[1]


class Started:
    """Ends the task that began last once `limit` are going on, or no other begins."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.going: dict[str, Callable[[], None]] = {}
        self.most = 0

    def __call__(self, name: str, ended: Callable[[], None]) -> None:
        self.order.append(name)
        self.going[name] = ended
        self.most = max(self.most, len(self.going))
        threading.Timer(0.002, self.end, [name]).start()

    def end(self, name: str) -> None:
        self.going.pop(name)()


@pytest.mark.parametrize(("limit", "at_once"), [(1, 1), (3, 3), (0, 40)])
def test_no_more_run_than_the_limit(limit: int, at_once: int) -> None:
    started = Started()
    in_turn({f"t{number}": [] for number in range(40)}, started, limit=limit)
    assert started.order == [f"t{number}" for number in range(40)]
    assert started.most <= at_once
    assert not started.going


def test_what_waits_takes_no_place() -> None:
    """Of ten that wait for the first and one that waits for none, that one is second."""
    started = Started()
    in_turn({"first": [], **{f"t{n}": ["first", "first"] for n in range(10)}, "free": []}, started, limit=2)
    assert started.order[:2] == ["first", "free"]
    assert len(started.order) == 12


def test_a_long_chain_runs() -> None:
    order: list[str] = []

    def submit(name: str, ended: Callable[[], None]) -> None:
        order.append(name)
        ended()

    in_turn({f"t{n}": [f"t{n - 1}"] if n else [] for n in range(10_000)}, submit, limit=20)
    assert order == [f"t{n}" for n in range(10_000)]


def test_a_host_has_so_many_places(tmp_path: Path) -> None:
    stopped = Limit()
    stopped.stop.set()
    with place_on_host(tmp_path / "places", 2, wait=Limit()), place_on_host(tmp_path / "places", 2, wait=Limit()):
        with pytest.raises(Stopped), place_on_host(tmp_path / "places", 2, wait=stopped):
            pass
        with place_on_host(tmp_path / "places", 0, wait=stopped):
            pass
    with place_on_host(tmp_path / "places", 2, wait=Limit()):
        pass


def test_a_place_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from prefect_definitions.limits import locked; "
        "assert locked(Path(sys.argv[1])) is not None; print('held', flush=True); sys.stdin.read()"
    )
    file = tmp_path / "0"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(file)], cwd=SHIPPED, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == b"held\n"
    assert limits.locked(file) is None
    process.kill()
    process.communicate()
    assert limits.locked(file) is not None


def test_limits_are_numbers() -> None:
    assert (most(PER_FLOW, {}), most(PER_HOST, {PER_HOST: ""}), most(PER_HOST, {PER_HOST: "0"})) == (20, 100, 0)
    for text in ("-1", "many", "1.5"):
        with pytest.raises(DefinitionError, match="has to be a whole number, or 0 for no limit"):
            most(PER_FLOW, {PER_FLOW: text})


def test_bad_limits_are_known_before_a_run() -> None:
    nothing = Definitions.of({})
    assert problems_here(nothing, {PER_FLOW: "x", PER_HOST: "-1"}) == [
        f"{PER_FLOW} is 'x', but has to be a whole number, or 0 for no limit",
        f"{PER_HOST} is '-1', but has to be a whole number, or 0 for no limit",
    ]
    assert problems_here(nothing, {}) == []


def test_the_places_are_in_the_home_of_prefect(tmp_path: Path) -> None:
    assert places_directory({"PREFECT_HOME": str(tmp_path)}) == tmp_path / "definitions-places"
