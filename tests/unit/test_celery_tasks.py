"""Celery's own retries and chords are waited for; a task is lost only with its worker, and sent only once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from prefect_definitions import celery_tasks
from prefect_definitions.celery_tasks import CeleryTaskLost, send
from prefect_definitions.execution import Limit

LOGGER = logging.getLogger("test")


class Away(Exception):
    """What kombu raises where there is no connection."""


class Celery:
    """An application whose time goes by the second with each look for a result; `course` says what is seen when."""

    def __init__(self, course: Callable[[int], dict[str, Any]] = lambda _: {}) -> None:
        self.course, self.second = course, 0
        self.sent: list[str] = []
        self.queued: list[bytes] = []
        self.failures = 0
        self.taken_when_failing = True
        self.revoked: list[str] = []
        self.conf = SimpleNamespace(task_default_queue="celery")
        self.backend = self.control = self

    def send_task(self, name: str, *, task_id: str, **options: Any) -> None:
        if self.failures == 0 or self.taken_when_failing:
            self.sent.append(task_id)
            self.queued.append(b'{"headers": {"id": "' + task_id.encode() + b'"}}')
        if self.failures:
            self.failures -= 1
            raise Away("connection reset after the message was taken")

    def get_task_meta(self, identifier: str) -> dict[str, Any]:
        self.second += 1
        seen = self.course(self.second)
        return {"status": "PENDING", "result": None, **seen.get("meta", {})}

    def inspect(self, **_: Any) -> Celery:
        return self

    def query_task(self, identifier: str) -> dict[str, Any]:
        seen = self.course(self.second)
        return {"one@host": {identifier: ["active", {}]} if seen.get("has") else {}}

    def stats(self) -> dict[str, Any]:
        seen = self.course(self.second)
        return {"one@host": {"pid": seen.get("pid", 7), "uptime": seen.get("uptime", self.second + 100)}}

    def active(self) -> dict[str, Any]:
        return {"one@host": [{"id": "of another task"}] if self.course(self.second).get("busy") else []}

    def scheduled(self) -> dict[str, Any]:
        return {"one@host": []}

    reserved = scheduled

    def registered(self, *_: str) -> dict[str, Any]:
        ignores = self.course(self.second).get("ignores", False)
        return {"one@host": [f"shop.price [ignore_result={ignores}]", "shop.total [ignore_result=False]"]}

    def revoke(self, identifier: str, **_: Any) -> None:
        self.revoked.append(identifier)

    def connection_for_read(self) -> Celery:
        return self

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    transport = SimpleNamespace(driver_type="redis")
    priority_steps = (0, 3)
    unacked_key = "unacked"

    @property
    def default_channel(self) -> Celery:
        return self

    @property
    def client(self) -> Celery:
        return self

    def _q_for_pri(self, name: str, priority: int) -> str:
        return f"{name}{priority or ''}"

    def lrange(self, key: str, first: int, last: int) -> list[bytes]:
        return self.queued if key == "celery" and not self.course(self.second).get("taken") else []

    def hvals(self, key: str) -> list[bytes]:
        return []

    def hlen(self, key: str) -> int:
        return 0

    keyprefix_queue = "_kombu.binding.%s"
    sep = "\x06\x16"

    def scan_iter(self, match: str, count: int) -> list[str]:
        return ["_kombu.binding.celery", "_kombu.binding.celeryev"]

    def smembers(self, key: str) -> set[bytes]:
        name = b"celery" if key.endswith("celery") else b"celeryev.4711"
        return {b"\x06\x16".join([name, b"", name])}

    def llen(self, key: str) -> int:
        return len(self.lrange(key, 0, -1)) if key != "celeryev.4711" else 1


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's modules are not installed here; nor is waited: each look for a result is a second."""
    for name, errors in {
        "kombu": (),
        "kombu.exceptions": ("OperationalError",),
        "redis": (),
        "redis.exceptions": ("RedisError", "ConnectionError", "TimeoutError", "ResponseError"),
    }.items():
        module = ModuleType(name)
        for error in errors:
            setattr(module, error, type(error, (Exception,), {}) if error == "ResponseError" else Away)
        monkeypatch.setitem(sys.modules, name, module)


def done(monkeypatch: pytest.MonkeyPatch, app: Celery) -> Any:
    monkeypatch.setattr(celery_tasks, "application", lambda _: app)
    monkeypatch.setattr(celery_tasks, "pause", lambda *_: None)
    monkeypatch.setattr(celery_tasks, "time", SimpleNamespace(monotonic=lambda: float(app.second)))
    return send("shop.price", [], {}, queue="", environment={}, limit=Limit(), logger=LOGGER)


RETRY = {"status": "RETRY", "date_done": "12:00", "traceback": "Retry in 25s"}
END = {"meta": {"status": "SUCCESS", "result": 5}}
COURSES: dict[str, Callable[[int], dict[str, Any]]] = {
    "a retry with a countdown": lambda at: {"has": True} if at < 8 else {"meta": RETRY},
    "a chord in its place": lambda at: {"has": True} if at < 8 else {"busy": True, "taken": True},
    "a queue that is long": lambda at: {},
    "a retry, and then a restart": lambda at: {"has": True} if at < 20 else {"meta": RETRY, "pid": 7 if at < 45 else 8},
    "a retry on a worker that is restarted before it is seen": lambda at: (
        {"has": True} if at < 20 else {"meta": RETRY, "pid": 8}
    ),
    "a restart, and the task exists again": lambda at: {"has": not 20 < at < 24, "pid": 7 if at < 20 else 8},
}


@pytest.mark.parametrize("course", COURSES)
def test_what_celery_puts_off_is_waited_for(monkeypatch: pytest.MonkeyPatch, course: str) -> None:
    app = Celery(lambda at: END if at > 90 else COURSES[course](at))
    assert done(monkeypatch, app) == 5
    assert app.revoked == []


@pytest.mark.parametrize(
    "after", [{"pid": 8}, {"pid": 7, "uptime": 1}], ids=["another process", "the same number in a container"]
)
@pytest.mark.parametrize("meta", [{}, RETRY], ids=["first", "retried"])
def test_what_a_restarted_worker_had_is_lost(
    monkeypatch: pytest.MonkeyPatch, after: dict[str, Any], meta: dict[str, Any]
) -> None:
    app = Celery(lambda at: END if at > 90 else {"has": at < 20, "meta": meta, **(after if at >= 20 else {})})
    with pytest.raises(CeleryTaskLost, match="one@host was restarted"):
        done(monkeypatch, app)
    assert app.revoked == app.sent


SILENT: dict[str, Callable[[int], dict[str, Any]]] = {
    "it was seen": lambda at: {"has": True} if at < 8 else {"taken": True},
    "it was done at once": lambda at: {"taken": True},
    "the application says so, and is busy": lambda at: {"taken": True, "busy": True, "ignores": True},
}


@pytest.mark.parametrize("course", SILENT)
def test_a_result_that_is_not_stored_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, course: str) -> None:
    app = Celery(lambda at: END if at > 90 else SILENT[course](at))
    with pytest.raises(CeleryTaskLost, match="the task stores no result"):
        done(monkeypatch, app)


def test_a_task_that_stores_no_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery(lambda at: {"ignores": True})
    monkeypatch.setattr(celery_tasks, "application", lambda _: app)
    silent, unknown = celery_tasks.unserved({"shop.price", "shop.total", "shop.totl"}, {})
    assert "'shop.price' stores no result" in silent
    assert "'shop.totl' is served by none of the Celery workers; did you mean shop.total?" in unknown


@pytest.mark.parametrize("taken", [True, False])
def test_a_message_that_arrived_is_not_sent_again(monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    app = Celery(lambda at: END if at > 3 else {})
    app.failures, app.taken_when_failing = 2, taken
    assert done(monkeypatch, app) == 5
    assert len(app.sent) == 1


@pytest.mark.parametrize("seen", [{"has": True}, {"meta": {"status": "STARTED"}}, END])
def test_a_message_that_a_worker_took_is_not_sent_again(monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    app = Celery(lambda at: END if at > 3 else seen)
    app.failures = 1
    app.lrange = lambda *_: []  # type: ignore[method-assign]
    assert done(monkeypatch, app) == 5
    assert len(app.sent) == 1
