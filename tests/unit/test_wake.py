"""When a worker looks for flow runs between its intervals. tests/flows/test_wake.py has Prefect's worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import wake


class Limiter:
    borrowed_tokens = 0


class Worker:
    """What is used of Prefect's worker. A teardown asks the server before the worker ends."""

    def __init__(self) -> None:
        self.looks, self.limiter = 0, Limiter()

    async def get_and_submit_flow_runs(self) -> list[Any]:
        self.looks += 1
        return []

    async def teardown(self, *_: Any) -> None:
        await asyncio.sleep(0.2)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(wake, "PAUSE", 0.01)
    monkeypatch.setattr(wake, "JITTER", 0.0)
    kind = type("Woken", (Worker,), {})
    wake.install(kind, "pool")
    woken: Worker = kind()
    return woken


def test_it_looks_when_a_flow_run_has_ended(worker: Worker) -> None:
    async def scene() -> None:
        await worker.get_and_submit_flow_runs()
        worker.limiter.borrowed_tokens = 2
        await asyncio.sleep(0.1)
        assert worker.looks == 1
        worker.limiter.borrowed_tokens = 1
        await asyncio.sleep(0.1)
        assert worker.looks == 2

    asyncio.run(scene())


def test_a_worker_that_ends_looks_for_no_more(worker: Worker) -> None:
    async def scene() -> None:
        await worker.get_and_submit_flow_runs()
        worker.limiter.borrowed_tokens = 2
        await asyncio.sleep(0.1)
        ending = asyncio.create_task(worker.teardown(None, None, None))
        await asyncio.sleep(0)
        worker.limiter.borrowed_tokens = 0
        await ending
        assert worker.looks == 1

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("related", "concerns"),
    [([("flow", "pool"), ("work-pool", "pool")], True), ([("work-pool", "other"), ("work-queue", "pool")], False)],
)
def test_what_concerns_a_pool(worker: Worker, related: list[tuple[str, str]], concerns: bool) -> None:
    async def scene() -> bool:
        event = SimpleNamespace(related=[SimpleNamespace(role=role, name=name) for role, name in related])
        return wake.Wake(worker, "pool").concerns(event)

    assert asyncio.run(scene()) == concerns
