"""A worker that drains, with a release's own worker and flow runs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.workers import worker_command
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api
from conftest import AUTH, RELEASES, PrefectServer, Release
from local_servers import free_port

ROOT = Path(__file__).resolve().parents[2]

# As templates/opt/prefect/lib/launch-worker.j2.
LAUNCHER = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
from selfhosted_prefect.onhost.launch import main
del sys.path[0]
main(sys.argv)
"""
SECONDS = 180

# Writes a line when it begins, and ends when a file says so.
FLOW = """
import pathlib, time
from prefect import flow

@flow
def wait(directory: str, name: str):
    place = pathlib.Path(directory)
    with (place / f"{name}.begun").open("a") as begun:
        begun.write("begun\\n")
    while not (place / f"{name}.end").exists():
        time.sleep(0.1)
"""

pytestmark = pytest.mark.parametrize("server", RELEASES, ids=str, indirect=True)


def until(reached: Callable[[], bool], *, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


@dataclass
class Worker:
    """A worker of a pool of its own, and the flow runs that wait for it."""

    api: Api
    process: subprocess.Popen[bytes]
    directory: Path
    deployment: str

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def submit(self, name: str) -> str:
        parameters = {"directory": str(self.directory), "name": name}
        run = self.api.post(f"/deployments/{self.deployment}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> str:
        return str(self.api.get(f"/flow_runs/{run}")["state_type"])

    def begun(self, name: str) -> int:
        file = self.directory / f"{name}.begun"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def wait_for(self, name: str) -> None:
        until(lambda: self.begun(name) == 1, what=lambda: self.log)

    def finish(self, name: str) -> None:
        (self.directory / f"{name}.end").touch()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        until(lambda: "Draining" in self.log, what=lambda: self.log)

    def ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def worker(server: PrefectServer, python: Path, directory: Path, *, drain: int) -> Iterator[Worker]:
    """Run a worker that looks for flow runs twice a second, through a link to its release."""
    (directory / "current").symlink_to(python.parents[1])
    (directory / "lib").mkdir()
    (directory / "lib" / "launch-worker").write_text(LAUNCHER)
    (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    (directory / "waiting.py").write_text(FLOW)
    pool = f"drain-{free_port()}"
    described: dict[str, Any] = {"name": pool, "pool": pool, "type": "process", "limit": 0, "queues": []}
    version = ".".join(map(str, server.version))
    command = worker_command(described, opt=str(directory), version=version, drain=drain)
    settings = {
        "PREFECT_HOME": str(directory / "home"),
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": AUTH,
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
    with server.api() as api, (directory / "log").open("w") as log:
        api.post("/work_pools/", {"name": pool, "type": "process"})
        flow = api.post("/flows/", {"name": "wait"})["id"]
        deployed = {"name": pool, "flow_id": flow, "work_pool_name": pool, "entrypoint": f"{directory}/waiting.py:wait"}
        deployment = api.post("/deployments/", {**deployed, "path": str(directory)})["id"]
        process = subprocess.Popen(
            # A shell's background job ignores SIGINT, by which Prefect's worker ends.
            ["env", "--default-signal=INT", *command],
            env=inherited | settings,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Worker(api=api, process=process, directory=directory, deployment=deployment)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def python(request: pytest.FixtureRequest, server: PrefectServer) -> Path:
    release: Release = request.node.callspec.params["server"]
    return Path(str(release.python))


def test_a_worker_finishes_its_flow_run_takes_no_other_and_ends(
    server: PrefectServer, python: Path, tmp_path: Path
) -> None:
    with worker(server, python, tmp_path, drain=600) as draining:
        had = draining.submit("had")
        draining.wait_for("had")
        # An upgrade may change the link now.
        ran = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert f"{python.parents[1].resolve()}/bin/python -m prefect.engine" in ran, draining.log
        draining.stop()
        later = draining.submit("later")
        time.sleep(3)
        assert not draining.ended(), draining.log
        assert (draining.state(had), draining.state(later)) == ("RUNNING", "SCHEDULED"), draining.log
        draining.finish("had")
        until(draining.ended, what=lambda: draining.log)
        assert (draining.state(had), draining.state(later)) == ("COMPLETED", "SCHEDULED"), draining.log
        assert draining.begun("had") == 1


OVERTAKEN = """
import asyncio, os, runpy, signal, sys, types
from prefect.workers.base import BaseWorker

class Worker(BaseWorker):
    type, limiter = "overtaken", types.SimpleNamespace(borrowed_tokens=1)
    _has_successfully_synced = True

    def __init__(self):
        pass

    async def run(self, *arguments):
        pass

    async def _get_scheduled_flow_runs(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return ["later"]

runpy.run_path(sys.argv[1])["install"](BaseWorker, 600)
assert asyncio.run(Worker().get_and_submit_flow_runs()) == []
"""


def test_a_worker_does_not_take_what_the_server_answers_once_it_drains(python: Path) -> None:
    command = [str(python), "-c", OVERTAKEN, str(ROOT / "plugins/module_utils/onhost/drain.py")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_flow_run_that_takes_longer_is_left_as_without_a_drain(
    server: PrefectServer, python: Path, tmp_path: Path
) -> None:
    with worker(server, python, tmp_path, drain=2) as draining:
        had = draining.submit("had")
        draining.wait_for("had")
        draining.stop()
        until(draining.ended, what=lambda: draining.log)
        assert "1 flow runs have not ended" in draining.log
        # What the unit's rescue-flow-runs looks for.
        assert draining.state(had) == "RUNNING", draining.log
