"""Flows as data run on every version of Prefect that has a lock: each Python of PREFECT_TEST_PYTHONS, one by one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prefect_definitions import directory
from server import SECONDS, alone

SHIPPED = Path(__file__).resolve().parents[2] / "roles/prefect_definitions/files/definitions"
PYTHONS = [Path(python) for python in os.environ.get("PREFECT_TEST_PYTHONS", "").split(":") if python]

# As a worker does it: the entrypoint of a deployment, and its parameters.
RUN = """
from prefect.flows import load_flow_from_entrypoint

print("results:", load_flow_from_entrypoint("definitions.py:small")(start=2))
state = load_flow_from_entrypoint("definitions.py:broken")(return_state=True)
print("broken:", state.type.value, state.message)
"""

SHOP = """
import pathlib, time

async def later(value): return value

def flaky(file):
    if not pathlib.Path(file).exists():
        pathlib.Path(file).touch()
        raise ConnectionError
    return "again"
"""


def task(name: str, flow: str = "small", **words: Any) -> dict[str, Any]:
    return {"flow_name": flow, "name": name, **words}


def definitions(place: Path) -> dict[str, list[dict[str, Any]]]:
    retry = {"max_retries": 1, "retry_delay_seconds": 0.1}
    return {
        "prefect_flows": [{"name": "small"}, {"name": "broken"}],
        "prefect_tasks": [
            task("first", use="operator:add", task_args=[1, {"parameter": "start"}]),
            task("left", use="shop:later", task_args=[{"result_of": "first"}], timeout_seconds=30),
            task("right", use="shop:flaky", task_args=[str(place / "tried")], retry_config=retry, depends_on=["first"]),
            task("last", command=["printf", "%s %s", {"result_of": "left"}, {"result_of": "right"}]),
            task("slow", "broken", use="time:sleep", task_args=[60], timeout_seconds=1),
            task("after", "broken", command="true", depends_on=["slow"]),
            task("beside", "broken", command="true"),
        ],
    }


@pytest.mark.parametrize("python", PYTHONS or [None], ids=lambda python: str(python and python.parents[1].name))
def test_flows_run(python: Path | None, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("PREFECT_TEST_PYTHONS is not set: name the Pythons of Prefect releases")
    place = Path(shutil.copytree(SHIPPED, tmp_path / "definitions"))
    (place / "shop.py").write_text(SHOP)
    directory.write(place, definitions(place), paths=[])
    done = subprocess.run(
        [python, "-c", RUN], cwd=place, env=alone(tmp_path), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert "results: {'first': 3, 'left': 3, 'right': 'again', 'last': '3 again" in done.stdout
    assert "broken: FAILED 1 of 3 tasks failed. slow: " in done.stdout
    assert "Not started: after." in done.stdout
