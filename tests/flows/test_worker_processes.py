"""What a worker's flow runs are on their host: killed before the worker, said to be, and able to add packages by uv."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.launch import MORE
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.platform import uv_settings
from server import END, PYTHON, Api, alone, needs_release, started, until

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=str(Path(sys.executable).parent))
OWN = int(Path("/proc/self/oom_score_adj").read_text())

pytestmark = needs_release

FLOW = """
import importlib.util, os, signal
from pathlib import Path
from prefect import flow

@flow(log_prints=True)
def look(killed=False):
    print("adjustment", Path("/proc/self/oom_score_adj").read_text().strip())
    print("added", importlib.util.find_spec("added") is not None)
    if killed:
        Path(COUNTER).write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)
"""

# As templates/opt/prefect/lib/launch-worker.j2, with a counter that a test can set.
LAUNCHER = """
import sys
from pathlib import Path
sys.path.insert(0, LIB)
from selfhosted_prefect.onhost import launch
del sys.path[0]
launch.memory_kills = lambda *_: int(Path(COUNTER).read_text())
launch.main(sys.argv)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("host")
    (directory / "lib").mkdir()
    (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    counter = directory / "kills"
    counter.write_text("0")
    for name, text in (("look.py", FLOW), ("launcher", LAUNCHER)):
        text = text.replace("COUNTER", repr(str(counter))).replace("LIB", repr(str(directory / "lib")))
        (directory / name).write_text(text)
    with zipfile.ZipFile(directory / "added-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("added.py", "")
        archive.writestr("added-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
        archive.writestr("added-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("added-1.0.dist-info/RECORD", "")
    return directory


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[Api]:
    (place / "opt" / "bin").mkdir(parents=True)
    (place / "opt" / "current").symlink_to(PYTHON.parent.parent)
    if UV is not None:
        shutil.copy(UV, place / "opt" / "bin" / "uv")
    dirs = {"opt": str(place / "opt"), "bin": "/usr/local/bin"}
    settings = uv_settings({"scope": "system", "dirs": dirs}, index_url="")
    environment = alone(place / "home") | settings | {"HOME": str(place), "UV_OFFLINE": "1"}
    cold = [str(PYTHON), str(place / "launcher")]
    with started(environment, place, launchers={"cold": cold, "warm": [*cold, "--warm"]}) as call:
        yield call


def run(api: Api, place: Path, pool: str, name: str, **more: Any) -> tuple[str, str]:
    """Run the flow by a deployment of its own, and return the state and the log."""
    flow = api("POST", "/flows/", {"name": "look"})["id"]
    deployment = {
        "name": f"{name} {pool}",
        "flow_id": flow,
        "entrypoint": "look.py:look",
        "work_pool_name": pool,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(place)}}],
        **more,
    }
    identifier = api("POST", "/deployments/", deployment)["id"]
    started_run = str(api("POST", f"/deployments/{identifier}/create_flow_run", {})["id"])
    until(lambda: api.state(started_run) in END, f"{name} to end")
    wanted = "for memory" if more.get("parameters") else "added"
    until(lambda: wanted in api.log(started_run), f"the log of {name}")
    return api.state(started_run), api.log(started_run)


def test_a_flow_run_that_the_kernel_has_killed_says_so(api: Api, place: Path) -> None:
    """Its own last lines are lost with it: Prefect sends them every two seconds."""
    state, log = run(api, place, "cold", "killed", parameters={"killed": True})
    assert state == "CRASHED"
    assert "The kernel killed this flow run for memory." in log


@pytest.mark.skipif(UV is None, reason="no uv beside this Python")
@pytest.mark.parametrize("pool", ["cold", "warm"])
def test_a_deployment_adds_packages_of_its_own_and_comes_before_the_worker(api: Api, place: Path, pool: str) -> None:
    """The worker goes on after the flow run that was killed, and other deployments do not get the packages."""
    command = f"uv run --no-project --with {place}/added-1.0-py3-none-any.whl python -m prefect.engine"
    state, log = run(api, place, pool, "with", job_variables={"command": command})
    assert state == "COMPLETED", log
    assert "added True" in log
    assert f"adjustment {min(OWN + MORE, 1000)}" in log
    state, log = run(api, place, pool, "without")
    assert (state, "added False" in log) == ("COMPLETED", True)
    assert f"adjustment {min(OWN + MORE, 1000)}" in log
    assert "for memory" not in log
