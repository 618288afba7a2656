"""Flow runs that are started, followed, cancelled and resumed, and what is said of those that do not get there."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import fake_objects
import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from ansible_collections.selfhosted.prefect.plugins.modules import flow_run
from fake_api import FakeApi, Fault, outcome

CREATE = "/create_flow_run"


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.add_pool("main")
        api.add_worker("main", "one")
        api.add_deployment("hello", "default", pool="main")
        api.add_deployment("alone", "served", pool=None)
        log(api, "Finished in state Completed()")
        yield api


def log(fake: FakeApi, message: str) -> None:
    when = "2026-11-21T01:02:03.500000Z"
    name = "prefect.flow_runs"
    fake.logs.append({"id": uuid.uuid4().hex, "timestamp": when, "level": 20, "name": name, "message": message})


def run(fake: FakeApi, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    what = {} if "id" in options or "deployment" in options else {"deployment": "hello/default"}
    result: dict[str, Any] = outcome(
        flow_run.main, check_mode=check_mode, **{"api_url": fake.url, "poll": 0.05, **what, **options}
    )
    return result


def created(fake: FakeApi) -> list[Any]:
    return [body for body, request in zip(fake.bodies, fake.requests, strict=True) if request.endswith(CREATE)]


def test_a_run_that_completes(fake: FakeApi) -> None:
    result = run(fake, name="mine", parameters={"name": "Ada"}, tags=["a"], job_variables={"env": {}})
    (body,) = created(fake)
    assert body.pop("idempotency_key")
    assert body == {"name": "mine", "parameters": {"name": "Ada"}, "tags": ["a"], "job_variables": {"env": {}}}
    assert result["changed"] is True
    assert (result["state_type"], result["state_name"], result["duration"]) == ("COMPLETED", "Completed", 1.5)
    assert result["logs"] == ["01:02:03 | INFO    | prefect.flow_runs | Finished in state Completed()"]
    assert result["url"] == f"{fake.root}/runs/flow-run/{result['id']}"


def test_check_mode_looks_up_the_deployment(fake: FakeApi) -> None:
    assert run(fake, check_mode=True)["changed"] is True
    assert run(fake, check_mode=True, deployment="hello/other")["failed"]
    assert fake.writes == []


def test_every_start_is_a_run(fake: FakeApi) -> None:
    assert run(fake, wait=False)["changed"] is run(fake, wait=False)["changed"] is True
    assert len(fake.runs) == 2


def test_one_run_for_one_idempotency_key(fake: FakeApi) -> None:
    first = run(fake, idempotency_key="release-42")
    again = run(fake, idempotency_key="release-42")
    assert (first["changed"], again["changed"]) == (True, False)
    assert first["id"] == again["id"]


def test_a_run_that_failed_is_followed_by_a_new_one_of_the_same_key(fake: FakeApi) -> None:
    fake.course = [("FAILED", "Failed")]
    failed = run(fake, idempotency_key="release-42")
    fake.course = [("COMPLETED", "Completed")]
    repaired = run(fake, idempotency_key="release-42")
    assert repaired["changed"] is True
    assert repaired["id"] != failed["id"]
    assert run(fake, idempotency_key="release-42")["changed"] is False
    assert len(fake.runs) == 2


def test_the_key_stays_short_however_often_a_run_fails(fake: FakeApi) -> None:
    """PostgreSQL indexes 2,700 bytes of it."""
    for _ in range(5):
        fake.course = [("FAILED", "Failed")]
        run(fake, idempotency_key="release-42")
    assert len(fake.runs) == 5
    assert max(len(body["idempotency_key"]) for body in created(fake)) == len("release-42 ") + 36


def test_check_mode_knows_the_run_of_a_key(fake: FakeApi) -> None:
    def changes() -> bool:
        return bool(run(fake, check_mode=True, idempotency_key="release-42")["changed"])

    assert changes()
    fake.course = [("FAILED", "Failed")]
    run(fake, idempotency_key="release-42")
    assert changes(), "a run that failed is followed by another one"
    fake.course = [("COMPLETED", "Completed")]
    done = run(fake, idempotency_key="release-42")
    assert not changes()
    assert run(fake, check_mode=True, idempotency_key="release-42")["id"] == done["id"]
    other = fake.add_deployment("other", "default", pool="main")
    assert run(fake, check_mode=True, deployment="other/default", idempotency_key="release-42")["changed"], other


def test_check_mode_knows_the_run_of_a_deployment_that_was_recreated(fake: FakeApi) -> None:
    """A key is the flow's: where the server returns a run that exists, check mode predicts none."""
    done = run(fake, idempotency_key="release-42")
    before = next(each for each in fake.deployments.values() if each["name"] == "default")
    del fake.deployments[before["id"]]
    fake.add_deployment("hello", "default", pool="main")
    again = run(fake, idempotency_key="release-42")
    dry = run(fake, check_mode=True, idempotency_key="release-42")
    assert (again["changed"], dry["changed"]) == (False, False)
    assert done["id"] == again["id"] == dry["id"]


def test_an_answer_that_was_lost_starts_no_second_run(fake: FakeApi) -> None:
    def lose(request: str) -> None:
        if request.endswith(CREATE) and not fake.runs:
            fake.faults.append(Fault(status=None, carried_out=True))

    fake.before = lose
    assert run(fake)["changed"] is True
    assert len(fake.runs) == 1


def test_not_waiting(fake: FakeApi) -> None:
    result = run(fake, wait=False)
    assert result["state_type"] == "SCHEDULED"
    assert not any(request.startswith("GET /flow_runs") for request in fake.requests)


def test_a_run_that_fails(fake: FakeApi) -> None:
    fake.course = [("RUNNING", "Running"), ("FAILED", "TimedOut")]
    log(fake, "Traceback:\n  deep")
    result = run(fake)
    assert result["failed"]
    assert result["state_name"] == "TimedOut"
    assert "flow run zealous-otter is TimedOut" in result["msg"]
    assert result["msg"].endswith("Traceback:\n  deep")
    assert result["url"] in result["msg"]


def test_a_package_that_is_missing(fake: FakeApi) -> None:
    fake.course = [("CRASHED", "Crashed")]
    log(fake, "ModuleNotFoundError: No module named 'pandas.core'")
    assert (
        "pandas.core is not there where it runs: correct the import, or add it to prefect_packages" in run(fake)["msg"]
    )


def test_a_failure_that_was_expected(fake: FakeApi) -> None:
    fake.course = [("FAILED", "Failed")]
    assert run(fake, until=["FAILED", "CRASHED"])["state_type"] == "FAILED"


def test_the_log_is_cut_by_lines(fake: FakeApi) -> None:
    log(fake, "\n".join(f"line {number}" for number in range(90)))
    lines = run(fake, log_lines=10)["logs"]
    assert (len(lines), lines[-1]) == (10, "line 89")


def test_the_newest_lines_are_read(fake: FakeApi) -> None:
    for number in range(30):
        log(fake, f"line {number}")
    log(fake, "Finished in state Completed()")
    log(fake, "first of the last")
    log(fake, "last")
    assert [line.rpartition("| ")[2] for line in run(fake, log_lines=2)["logs"]] == ["first of the last", "last"]


def test_no_log_is_read_where_none_is_wanted(fake: FakeApi) -> None:
    assert run(fake, log_lines=0)["logs"] == []
    assert "POST /logs/filter" not in fake.requests
    fake.course = [("FAILED", "Failed")]
    assert "Finished in state Completed()" in run(fake, log_lines=0)["msg"]


def test_the_end_of_the_log_is_waited_for(fake: FakeApi) -> None:
    fake.logs.clear()

    def flush(request: str) -> None:
        if fake.requests.count("POST /logs/filter") == 2 and not fake.logs:
            log(fake, "Finished in state Completed()")

    fake.before = flush
    assert len(run(fake)["logs"]) == 1


def test_a_log_without_an_end_has_a_bound(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_run, "SETTLE", 0.3)
    fake.logs.clear()
    began = time.monotonic()
    assert run(fake)["logs"] == []
    assert time.monotonic() - began > 0.3


def test_the_time_is_over_while_it_runs(fake: FakeApi) -> None:
    fake.course = [("RUNNING", "Running")]
    result = run(fake, timeout=0.2)
    assert "zealous-otter is Running after 0.2 s" in result["msg"]
    assert result["changed"] is True
    assert "waiting_for" not in result


def test_a_server_that_is_silent_for_long_while_it_runs(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has taken a run up is waited for as long as the run, however little patience there is elsewhere."""
    defaults = Api.__init__.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "patience", 0.0)
    silent = [CREATE, "GET /flow_runs/"]

    def wait(request: str) -> None:
        if silent and silent[0] in request:
            silent.pop(0)
            time.sleep(0.4)

    fake.before = wait
    assert run(fake, api_timeout=0.2)["state_type"] == "COMPLETED"
    assert silent == []
    assert len(fake.runs) == 1


def test_a_pause_that_does_not_end(fake: FakeApi) -> None:
    fake.course = [("PAUSED", "Paused")]
    assert "waits to be resumed" in run(fake, timeout=0.2)["msg"]


def test_waiting_for_a_pause(fake: FakeApi) -> None:
    fake.course = [("RUNNING", "Running"), ("PAUSED", "Paused")]
    assert run(fake, until=["PAUSED"])["state_type"] == "PAUSED"


@pytest.mark.parametrize(
    ("pool", "worker", "run_fields", "reason"),
    [
        ({}, "OFFLINE", {}, "no worker is online in the work pool main"),
        ({"is_paused": True}, "ONLINE", {}, "the work pool main is paused"),
        ({"concurrency_limit": 0}, "ONLINE", {}, "the work pool main has a concurrency limit of 0"),
        ({}, "ONLINE", {}, "the workers one are online and have not taken it"),
        ({}, "ONLINE", {"work_pool_name": None}, "has no work pool"),
        ({}, "ONLINE", {"work_pool_name": "gone"}, "its work pool gone is gone"),
        ({}, "ONLINE", {"name": "AwaitingConcurrencySlot"}, "a slot of its deployment's concurrency limit"),
        (
            {},
            "ONLINE",
            {"expected_start_time": (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()},
            "it is due at",
        ),
    ],
)
def test_why_a_run_has_not_begun(
    fake: FakeApi, pool: dict[str, Any], worker: str, run_fields: dict[str, Any], reason: str
) -> None:
    fake.pools["main"].update(pool)
    fake.workers["main"][0]["status"] = worker
    fake.course = []
    started = run(fake, wait=False, idempotency_key="same")
    state = run_fields.pop("name", "Late")
    fake.move(fake.runs[started["id"]], "SCHEDULED", state)
    fake.runs[started["id"]].update(run_fields)
    result = run(fake, idempotency_key="same", timeout=0.1)
    assert result["failed"]
    assert len(result["waiting_for"]) == 1
    assert reason in result["waiting_for"][0]
    assert reason in result["msg"]
    assert f"is {state} after 0.1 s" in result["msg"]


def test_a_paused_queue_is_named(fake: FakeApi) -> None:
    fake.queues[("main", "slow")] = fake_objects.queue("main", "slow", priority=2, is_paused=True)
    fake.course = []
    started = run(fake, wait=False, idempotency_key="same")
    fake.runs[started["id"]]["work_queue_name"] = "slow"
    assert run(fake, idempotency_key="same", timeout=0.1)["waiting_for"] == ["the work queue slow is paused"]


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        ("hello/defalt", "but hello/default"),
        ("nothing/like-it", "but alone/served, hello/default"),
        ("hello", "like flow/deployment"),
        ("/default", "like flow/deployment"),
    ],
)
def test_an_unknown_deployment(fake: FakeApi, deployment: str, words: str) -> None:
    result = run(fake, deployment=deployment)
    assert result["failed"]
    assert words in result["msg"]


def test_cancel(fake: FakeApi) -> None:
    started = fake.add_run(kind="RUNNING", name="Running")
    fake.course = [("RUNNING", "Running"), ("CANCELLING", "Cancelling"), ("CANCELLED", "Cancelled")]
    result = run(fake, state="cancelled", id=started["id"])
    assert (result["changed"], result["state_type"]) == (True, "CANCELLED")
    again = run(fake, state="cancelled", id=started["id"])
    assert again["changed"] is False
    assert len(fake.writes) == 1


def test_cancel_a_run_that_has_not_begun(fake: FakeApi) -> None:
    started = fake.add_run()
    fake.course = []
    assert run(fake, state="cancelled", id=started["id"])["state_type"] == "CANCELLED"


@pytest.mark.parametrize("state", ["cancelled", "resumed"])
def test_a_run_that_has_ended_stays_as_it_is(fake: FakeApi, state: str) -> None:
    ended = fake.add_run(kind="COMPLETED", name="Completed")
    fake.course = []
    result = run(fake, state=state, id=ended["id"])
    assert (result["changed"], result["state_type"]) == (False, "COMPLETED")
    assert fake.writes == []


@pytest.mark.parametrize("state", ["cancelled", "resumed"])
def test_check_mode_changes_no_run(fake: FakeApi, state: str) -> None:
    paused = fake.add_run(kind="PAUSED", name="Paused")
    assert run(fake, check_mode=True, state=state, id=paused["id"])["changed"] is True
    assert fake.writes == []


def test_resume_with_input(fake: FakeApi) -> None:
    paused = fake.add_run(kind="PAUSED", name="Paused")
    result = run(fake, state="resumed", id=paused["id"], run_input={"approved": True})
    assert (result["changed"], result["state_type"]) == (True, "COMPLETED")
    assert fake.bodies[fake.requests.index(fake.writes[0])] == {"run_input": {"approved": True}}


def test_resume_with_input_that_does_not_fit(fake: FakeApi) -> None:
    paused = fake.add_run(kind="PAUSED", name="Paused")
    result = run(fake, state="resumed", id=paused["id"], run_input={"approved": "maybe"})
    assert "cannot resume flow run zealous-otter: not of type 'boolean'" in result["msg"]


def test_resume_a_run_that_is_not_paused(fake: FakeApi) -> None:
    running = fake.add_run(kind="RUNNING", name="Running")
    fake.course = []
    assert "is Running, not Paused" in run(fake, state="resumed", id=running["id"])["msg"]


def test_an_unknown_run(fake: FakeApi) -> None:
    assert "there is no flow run no/pe" in run(fake, state="cancelled", id="no/pe")["msg"]


@pytest.mark.parametrize("options", [{"id": "x", "deployment": "a/b"}, {"until": ["DONE"]}])
def test_options_that_do_not_go_together(fake: FakeApi, options: dict[str, Any]) -> None:
    assert run(fake, **options)["failed"]
    assert fake.requests == []


def test_an_id_or_a_deployment_is_needed(fake: FakeApi) -> None:
    result = outcome(flow_run.main, api_url=fake.url, state="cancelled")
    assert "id, deployment" in result["msg"]


@pytest.mark.parametrize(("kind", "changed"), [("FAILED", True), ("CRASHED", True), ("CANCELLED", True)])
def test_retry(fake: FakeApi, kind: str, changed: bool) -> None:
    key = next(iter(fake.deployments))
    ended = fake.add_run(kind=kind, name=kind.title(), deployment_id=key, start_time="2026-11-21T01:02:03Z")
    fake.course = []
    dry = run(fake, state="retried", id=ended["id"], check_mode=True)
    assert (dry["changed"], fake.writes) == (changed, [])
    assert run(fake, state="retried", id=ended["id"], wait=False)["state_name"] == "AwaitingRetry"


@pytest.mark.parametrize("kind", ["COMPLETED", "RUNNING"])
def test_nothing_to_retry(fake: FakeApi, kind: str) -> None:
    each = fake.add_run(kind=kind, name=kind.title())
    fake.course = []
    result = run(fake, state="retried", id=each["id"], wait=False)
    assert (result["changed"], fake.writes) == (False, [])


def test_a_retry_that_is_refused(fake: FakeApi) -> None:
    ended = fake.add_run(kind="FAILED", name="Failed")
    fake.course = []
    assert "cannot retry flow run zealous-otter: Cannot restart" in run(fake, state="retried", id=ended["id"])["msg"]


def test_only_waiting(fake: FakeApi) -> None:
    each = fake.add_run(kind="RUNNING", name="Running", start_time="2026-11-21T01:02:03Z")
    fake.course = [("RUNNING", "Running"), ("COMPLETED", "Completed")]
    result = run(fake, state="waited", id=each["id"])
    assert (result["changed"], result["state_type"], fake.writes) == (False, "COMPLETED", [])


def test_the_latest_run_of_a_deployment(fake: FakeApi) -> None:
    fake.course = []
    (hello,) = (row["id"] for row in fake.deployments.values() if row["name"] == "default")
    for _ in range(2):
        latest = fake.add_run(kind="PAUSED", name="Paused", deployment_id=hello)
    assert run(fake, state="resumed", deployment="hello/default", wait=False)["id"] == latest["id"]


def test_a_deployment_without_such_a_run(fake: FakeApi) -> None:
    assert run(fake, state="cancelled", deployment="hello/default")["changed"] is False
    assert "no run that can be retried" in run(fake, state="retried", deployment="hello/default")["msg"]
