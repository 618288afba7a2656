"""A worker in memory that drains; tests/api/test_drain.py has those of releases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRAIN = Path(__file__).resolve().parents[2] / "plugins/module_utils/onhost/drain.py"

SCENE = """
import asyncio, os, runpy, signal, sys, types

class BaseWorker:
    limiter = types.SimpleNamespace(borrowed_tokens=1)
    answers, submits = asyncio.Event(), asyncio.Event()

    async def get_and_submit_flow_runs(self):
        await self.answers.wait()
        return await self._submit_scheduled_flow_runs(["new"])

    async def _submit_scheduled_flow_runs(self, flow_run_response):
        await self.submits.wait()
        return flow_run_response

runpy.run_path(sys.argv[1])["install"](BaseWorker, int(sys.argv[2]))
worker, ends = BaseWorker(), []
poll, runs = worker.get_and_submit_flow_runs, worker.limiter

def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)

async def ended():
    for _ in range(600):
        if ends:
            return
        await asyncio.sleep(0.05)
    sys.exit("it did not end")

async def main():
    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
    worker.answers.set()
    worker.submits.set()
    assert await poll() == ["new"]
    {steps}
    await asyncio.sleep(0.6)
    assert len(ends) == 1, ends

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("drain", "steps"),
    [
        pytest.param(
            600,
            """
            sigterm()
            await asyncio.sleep(0.6)
            assert not ends and await poll() == []
            runs.borrowed_tokens = 0
            await ended()
            """,
            id="its flow runs have ended",
        ),
        pytest.param(600, "runs.borrowed_tokens = 0; sigterm(); await ended()", id="it has no flow run"),
        pytest.param(1, "sigterm(); await ended(); assert runs.borrowed_tokens", id="the time is over"),
        pytest.param(
            600,
            "sigterm(); await asyncio.sleep(0.6); sigterm(); await ended(); runs.borrowed_tokens = 0",
            id="a second signal",
        ),
        pytest.param(
            600,
            """
            runs.borrowed_tokens = 0
            worker.submits.clear()
            taking = asyncio.create_task(poll())
            await asyncio.sleep(0.1)
            sigterm()
            await asyncio.sleep(0.6)
            assert not ends
            worker.submits.set()
            runs.borrowed_tokens = len(await taking)
            await asyncio.sleep(0.6)
            assert not ends
            runs.borrowed_tokens = 0
            await ended()
            """,
            id="it is taking a flow run",
        ),
        pytest.param(
            600,
            """
            runs.borrowed_tokens = 0
            worker.answers.clear()
            asking = asyncio.create_task(poll())
            await asyncio.sleep(0.1)
            sigterm()
            await asyncio.sleep(0.6)
            assert not ends
            worker.answers.set()
            assert await asking == []
            await ended()
            """,
            id="the server has not answered",
        ),
    ],
)
def test_a_worker_ends_once_and_only_when(drain: int, steps: str) -> None:
    scene = SCENE.replace("{steps}", "\n".join(f"    {line.strip()}" for line in steps.strip().splitlines()).strip())
    command = [sys.executable, "-c", scene, str(DRAIN), str(drain)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
