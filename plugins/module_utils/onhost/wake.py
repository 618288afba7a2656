"""Lets a worker look for flow runs as soon as the server says that one was scheduled.

Prefect's worker looks for flow runs at an interval, so a flow run that is created for now waits for half of it on
average. The server also publishes an event for each: `prefect.flow-run.Scheduled`, at the websocket `/api/events/out`,
which `prefect.events.clients.get_events_subscriber` reads. The interval stays, for what was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import Any

SCHEDULED = "prefect.flow-run.Scheduled"

PAUSE = 0.25
"""Seconds between two looks, at least: many flow runs may be scheduled at once."""

SHARE = 10
"""How many times as long as a look the pause after it is, so that many workers do not load a busy server more."""

LONGEST = 5.0
"""Seconds of the longest pause."""

JITTER = 0.1
"""Seconds by which the workers of a pool differ."""

DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before each attempt to listen again; the last one holds for all others."""

SETTLED = 60.0
"""Seconds after which listening counts as having worked."""


class Wake:
    """What a worker of a pool hears from the server, in the event loop of the worker."""

    def __init__(self, worker: Any, pool: str) -> None:
        self.worker, self.pool = worker, pool
        # Two looks at once would take the same flow runs.
        self.turn, self.due = asyncio.Lock(), asyncio.Event()
        self.tasks = [asyncio.create_task(each) for each in (self.listen(), self.answer(), self.refill())]

    def concerns(self, event: Any) -> bool:
        """Return whether an event is about a flow run of the pool: the server's filter lets others pass as well."""
        return any(related.role == "work-pool" and related.name == self.pool for related in event.related)

    def end(self) -> None:
        """Look for no flow run any more."""
        for task in self.tasks:
            task.cancel()

    async def listen(self) -> None:
        """Note each flow run that is scheduled, for as long as the worker runs."""
        failures = 0
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                from prefect.events.clients import get_events_subscriber
                from prefect.events.filters import EventFilter, EventNameFilter

                scheduled = EventFilter(event=EventNameFilter(name=[SCHEDULED]))
                # Its own attempts to connect again have no pause, and no end while the server accepts connections.
                async with get_events_subscriber(scheduled, reconnection_attempts=0) as events:
                    async for event in events:
                        if self.concerns(event):
                            self.due.set()
                said = "the server closed the connection"
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            if asyncio.get_running_loop().time() > begun + SETTLED:
                failures = 0
            if failures == len(DELAYS) - 1:
                heard = f"Cannot hear of new flow runs ({said.splitlines()[0]})."
                print(f"{heard} The worker looks for them at its interval.", file=sys.stderr, flush=True)
            await asyncio.sleep(DELAYS[min(failures, len(DELAYS) - 1)])
            failures += 1

    async def answer(self) -> None:
        """Look for flow runs whenever there may be one."""
        loop = asyncio.get_running_loop()
        while True:
            await self.due.wait()
            await asyncio.sleep(random.uniform(0, JITTER))
            self.due.clear()
            begun = loop.time()
            # The regular look reports what fails.
            with contextlib.suppress(Exception):
                await self.worker.get_and_submit_flow_runs()
            await asyncio.sleep(min(max(PAUSE, SHARE * (loop.time() - begun)), LONGEST))

    async def refill(self) -> None:
        """Look again when a flow run of the worker has ended: there may have been no room for another one."""
        before = 0
        while True:
            await asyncio.sleep(PAUSE)
            # A worker without a limit has no limiter.
            with contextlib.suppress(Exception):
                now = self.worker.limiter.borrowed_tokens
                if now < before:
                    self.due.set()
                before = now


def install(worker_class: Any, pool: str) -> None:
    """Let the worker of a pool hear of its flow runs; its class is derived from Prefect's BaseWorker."""
    look, teardown = worker_class.get_and_submit_flow_runs, worker_class.teardown
    wake: Wake | None = None

    async def alone(worker: Any) -> Any:
        nonlocal wake
        wake = wake or Wake(worker, pool)
        async with wake.turn:
            return await look(worker)

    async def quietly(worker: Any, *arguments: Any) -> Any:
        # Prefect has ended its own looks by now, and ends the flow runs that the worker has.
        if wake:
            wake.end()
        return await teardown(worker, *arguments)

    worker_class.get_and_submit_flow_runs, worker_class.teardown = alone, quietly
