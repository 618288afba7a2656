"""The flow runs that a worker leaves behind when it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import rescue
from fake_api import FakeApi

POOL = {"work_pool_name": "default", "deployment_id": "57c1f1ce-6f5c-4ac6-9a3f-5d1b3cbd7a63"}
CLAIMED = POOL | {"labels": {"prefect.worker.name": "here-default"}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """An API with a flow run of this worker in each state in which one can be interrupted, and some of others."""
    with FakeApi() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        fake.add_pool("default")
        for kind, name in (("PENDING", "Pending"), ("RUNNING", "Running"), ("CANCELLING", "Cancelling")):
            fake.add_run(kind=kind, name=name, **CLAIMED)
        fake.add_run(kind="RUNNING", name="Running", labels={"prefect.worker.name": "there-default"}, **POOL)
        fake.add_run(kind="RUNNING", name="Running", labels={}, **POOL)
        fake.add_run(kind="COMPLETED", name="Completed", **CLAIMED)
        yield fake


def states(api: FakeApi) -> list[str]:
    return [run["state_name"] for run in api.runs.values()]


def ended(then: str) -> int:
    return rescue.main(["--pool", "default", "--worker", "here-default", "--then", then])


@pytest.mark.parametrize(("then", "name"), [("reschedule", "AwaitingRetry"), ("crash", "Crashed")])
def test_flow_runs_of_this_worker_get_their_state_and_no_others(api: FakeApi, then: str, name: str) -> None:
    assert ended(then) == 0
    assert states(api) == [name, name, "Cancelled", "Running", "Running", "Completed"]


def killed(api: FakeApi, monkeypatch: pytest.MonkeyPatch, *, limit: int, result: str = "oom-kill") -> dict[str, Any]:
    """End a worker with a flow run again and again, until that is not scheduled any more or has begun ten times."""
    monkeypatch.setenv("SERVICE_RESULT", result)
    run: dict[str, Any] = api.add_run(kind="RUNNING", name="Running", **CLAIMED)
    for _ in range(10):
        rescue.main(["--pool", "default", "--worker", "here-default", "--then", "reschedule", "--limit", str(limit)])
        if run["state_type"] != "SCHEDULED":
            break
        api.move(run, "RUNNING", "Running")
    return run


@pytest.mark.parametrize("limit", [0, 2])
def test_a_flow_run_that_kills_its_worker_does_not_begin_for_ever(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    run = killed(api, monkeypatch, limit=limit)
    assert [state["name"] for state in api.states[run["id"]]] == ["AwaitingRetry", "Running"] * limit + ["Crashed"]
    said = run["state"]["message"]
    assert f"{limit + 1} times" in said
    assert "killed for memory, see prefect_worker_memory_max" in said
    assert f"prefect_worker_interrupted_runs_limit is {limit}" in said


def test_a_worker_that_is_stopped_is_not_counted(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    run = killed(api, monkeypatch, limit=2, result="success")
    assert [state["name"] for state in api.states[run["id"]]] == ["AwaitingRetry", "Running"] * 10


@pytest.mark.parametrize(
    ("environment", "events", "said"),
    [
        ({"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}, "oom_kill 3", ""),
        ({"SERVICE_RESULT": "oom-kill"}, None, "killed for memory"),
        ({"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, "oom_kill 1", "killed for memory"),
        (
            {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"},
            "oom_kill 0",
            "signal, killed KILL",
        ),
        ({"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, None, "signal, killed KILL"),
        (
            {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"},
            "oom_kill 1",
            "exit-code, exited 1",
        ),
        ({}, None, "its host or its service manager ended"),
    ],
)
def test_why_a_worker_ended(tmp_path: Path, environment: dict[str, str], events: str | None, said: str) -> None:
    own = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    unit = tmp_path / (own[1] if own else "")
    unit.mkdir(parents=True, exist_ok=True)
    if events:
        (unit / "memory.events").write_text(f"low 0\noom 9\n{events}\noom_group_kill 0\n")
    reason = rescue.cause(environment, tmp_path)
    assert said in reason
    assert bool(reason) is bool(said)


def after_upgrade(api: FakeApi) -> int:
    """End a worker that has an identity, and was called here-default before it had one."""
    known = ["--worker", "here-default-0a1b2c3d", "--identity", "0a1b2c3d", "--formerly", "here-default"]
    return rescue.main(["--pool", "default", *known, "--then", "crash"])


def test_a_worker_knows_what_it_began_whatever_its_host_was_called(api: FakeApi) -> None:
    for name in ("here-default-0a1b2c3d", "before-default-0a1b2c3d", "here-default-99999999"):
        api.add_run(kind="RUNNING", name="Running", labels={"prefect.worker.name": name}, **POOL)
    api.add_worker("default", "before-default-0a1b2c3d")
    assert after_upgrade(api) == 0
    assert states(api)[-3:] == ["Crashed", "Crashed", "Running"]


def test_a_host_of_the_same_name_keeps_its_flow_runs(api: FakeApi) -> None:
    """Both were here-default once, and the other one still is."""
    api.add_worker("default", "there-default", created="2020-01-01T00:00:00Z")
    api.add_worker("default", "here-default-0a1b2c3d", created="2026-01-01T00:00:00Z")
    assert after_upgrade(api) == 0
    assert api.writes == []


@pytest.mark.parametrize("created", [None, "2999-01-01T00:00:00Z"])
def test_an_upgraded_host_rescues_what_it_began_before(api: FakeApi, created: str | None) -> None:
    """Its worker by the new name is not known yet, or is since later."""
    if created:
        api.add_worker("default", "here-default-0a1b2c3d", created=created)
    assert after_upgrade(api) == 0
    assert states(api)[:4] == ["Crashed", "Crashed", "Cancelled", "Running"]


def test_a_second_time_there_is_nothing_left(api: FakeApi) -> None:
    ended("reschedule")
    api.requests.clear()
    assert ended("reschedule") == 0
    assert api.writes == []


def test_what_still_runs_is_let_be(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = next(key for key, run in api.runs.items() if run["state_name"] == "Running")
    monkeypatch.setattr(rescue, "running", lambda: {alive})
    ended("crash")
    assert states(api)[:3] == ["Crashed", "Running", "Cancelled"]


def test_one_that_its_worker_took_and_left_nameless_begins_again(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that another worker takes meanwhile, or that gets a name, is left alone."""
    nameless, named, later = (api.add_run(kind="PENDING", name="Pending", labels={}, **POOL) for _ in range(3))
    api.move(later, "SCHEDULED", "Scheduled")

    def meanwhile(seconds: float) -> None:
        assert seconds == rescue.GRACE
        named["labels"] = {"prefect.worker.name": "there-default"}
        api.move(later, "PENDING", "Pending")

    monkeypatch.setattr(time, "sleep", meanwhile)
    ended("crash")
    assert [run["state_name"] for run in (nameless, named, later)] == ["AwaitingRetry", "Pending", "Pending"]


def test_running_processes_are_known_by_their_environment() -> None:
    run = uuid.uuid4()
    with subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PREFECT__FLOW_RUN_ID": run.hex},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert str(run) in rescue.running()
        process.kill()
    assert str(run) not in rescue.running()


def test_an_api_that_stays_away_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setitem(rescue.PATIENCE, "start", 0)
    monkeypatch.delenv("SERVICE_RESULT", raising=False)
    assert ended("crash") == 1
    assert "the state of its flow runs is unknown" in capsys.readouterr().out
