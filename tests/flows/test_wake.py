"""A worker starts a flow run as soon as it is scheduled, however long its interval is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import END, PYTHON, Api, alone, needs_release, started, until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = needs_release

FLOW = """
from prefect import flow

@flow
def ready():
    return 1
"""

# As templates/opt/prefect/lib/launch-worker.j2.
LAUNCHER = """
import sys
sys.path.insert(0, LIB)
from selfhosted_prefect.onhost.launch import main
del sys.path[0]
main(sys.argv)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("host")
    (directory / "lib").mkdir()
    (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    (directory / "launcher").write_text(LAUNCHER.replace("LIB", repr(str(directory / "lib"))))
    (directory / "ready.py").write_text(FLOW)
    return directory


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[Api]:
    """Provide a server with a worker in the pool `woken`, which would look again after hours."""
    environment = alone(place / "home") | {"PREFECT_WORKER_QUERY_SECONDS": "36000"}
    launcher = [str(PYTHON), str(place / "launcher"), "--wake=woken", "--warm"]
    with started(environment, place, launchers={"woken": launcher}, options=("--limit", "1")) as call:
        yield call


def deployed(api: Api, place: Path) -> str:
    deployment: dict[str, Any] = {
        "name": "woken",
        "flow_id": api("POST", "/flows/", {"name": "ready"})["id"],
        "entrypoint": "ready.py:ready",
        "work_pool_name": "woken",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(place)}}],
    }
    return str(api("POST", "/deployments/", deployment)["id"])


def test_flow_runs_start_between_two_looks(api: Api, place: Path) -> None:
    """The worker has room for one, and looks for the others when that one has ended."""
    deployment = deployed(api, place)
    until(lambda: bool(api("POST", "/work_pools/woken/workers/filter", {})), "the worker to be online")
    runs = [str(api("POST", f"/deployments/{deployment}/create_flow_run", {})["id"]) for _ in range(3)]
    for run in runs:
        until(lambda run=run: api.state(run) in END, "a flow run to end")
        assert api.state(run) == "COMPLETED", api.log(run)
