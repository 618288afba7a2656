"""Lets a process worker finish its flow runs before it ends.

On SIGTERM, Prefect's worker ends its flow runs. A worker that drains stops looking for new ones instead, and ends like
Prefect's when its flow runs have ended, when its time is over, or on a second SIGTERM. Until then it stays online, and
still cancels flow runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

POLL = 0.25
"""Seconds between two looks at the flow runs."""


class Drain:
    """The end of a worker, which begins with SIGTERM."""

    def __init__(self, worker: Any, seconds: int) -> None:
        self.worker, self.seconds = worker, seconds
        self.begun, self.is_polling, self.over = False, False, threading.Event()
        # Prefect sets its own handler before the worker looks for flow runs.
        self.end: Any = signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self.begun:
            self.over.set()
            self.end(number, frame)
        else:
            self.begun = True
            threading.Thread(target=self.wait, daemon=True).start()

    def wait(self) -> None:
        """Wait for the flow runs, then end the worker."""
        # A flow run holds its slot from the moment that the worker takes it.
        runs, deadline = self.worker.limiter, time.monotonic() + self.seconds
        print(f"Draining: {runs.borrowed_tokens} flow runs have {self.seconds} s to end.", flush=True)
        while (self.is_polling or runs.borrowed_tokens) and time.monotonic() < deadline:
            if self.over.wait(POLL):
                return
        print(f"Drained: {runs.borrowed_tokens} flow runs have not ended.", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def turn_to_release() -> None:
    """Replace this process by the same one, whose Python is that of a release and not of the link `current`.

    An upgrade changes the link before the worker restarts, and while flow runs are under way. The worker and their
    processes, which run the Python of this one, must import modules of the release that they began with.
    """
    release = os.path.realpath(sys.prefix)
    if release != sys.prefix:
        python = f"{release}/bin/python"
        os.execv(python, [python, *sys.orig_argv[1:]])


def install(worker_class: Any, seconds: int) -> None:
    """Let the workers of a class, which is Prefect's BaseWorker, drain for at most `seconds`."""
    get_and_submit_flow_runs = worker_class.get_and_submit_flow_runs
    # Not public. Without it, a worker takes what the server answers to a request that SIGTERM overtakes.
    submit_flow_runs: Any = getattr(worker_class, "_submit_scheduled_flow_runs", None)
    drain: Drain | None = None

    async def until_drained(worker: Any) -> Any:
        nonlocal drain
        drain = drain or Drain(worker, seconds)
        drain.is_polling = True
        try:
            return [] if drain.begun else await get_and_submit_flow_runs(worker)
        finally:
            drain.is_polling = False

    async def unless_draining(worker: Any, *arguments: Any, **options: Any) -> Any:
        return [] if drain and drain.begun else await submit_flow_runs(worker, *arguments, **options)

    worker_class.get_and_submit_flow_runs = until_drained
    if submit_flow_runs:
        worker_class._submit_scheduled_flow_runs = unless_draining
