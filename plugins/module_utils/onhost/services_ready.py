"""Exit with 0 if the background services of the process with the given ID take work from the queue in Redis.

Polls for a few seconds, because importing Docket again would cost more.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

ATTEMPTS = 10
PAUSE_SECONDS = 0.5


async def take_work(pid: str) -> bool:
    """Return whether the process takes work from the queue."""
    try:
        from docket import Docket
    except ImportError:
        # Before Prefect 3.6 there was no queue, and services that run are ready.
        return True
    async with Docket(name="prefect", url=os.environ["PREFECT_SERVER_DOCKET_URL"]) as docket:
        for _ in range(ATTEMPTS):
            workers = await docket.workers()
            if f"{socket.gethostname()}#{pid}" in {worker.name for worker in workers}:
                return True
            await asyncio.sleep(PAUSE_SECONDS)
    return False


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the process with the given ID is ready."""
    return 0 if asyncio.run(take_work(*arguments)) else 1
