"""A flow run that a script serves ends in the same way whether its process is a fork of a warm one or a new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from server import END, PYTHON, SECONDS, Api, alone, needs_release, started, until
from test_warm import LAUNCHER, ROOT, children

pytestmark = needs_release

WAYS = ("cold", "warm")
KINDS = ("one", "several")
"""Flow.serve() starts a process of multiprocessing for a flow run, and serve() one of `python -m prefect.engine`."""

SCRIPT = """
import json, logging, multiprocessing, os, random, re, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from prefect import flow, serve
from prefect.context import get_settings_context
from prefect.runtime import flow_run

def write(notes, **seen):
    Path(notes + ".new").write_text(json.dumps(seen, sort_keys=True))
    Path(notes + ".new").replace(notes)

def when_ended(flow, flow_run, state):
    write(flow_run.parameters["notes"], hook=state.type.value)

@flow(on_crashed=[when_ended], on_cancellation=[when_ended], log_prints=True)
def ends(notes: str, how: str):
    if how == "raises":
        raise ValueError("no")
    if how == "exits":
        sys.exit(3)
    if how == "exits at once":
        os._exit(5)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleeps":
        write(notes, pid=os.getpid())
        time.sleep(300)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        squares = list(pool.map(abs, range(3)))
    print("loaded early:", "early" in sys.modules)
    own = ("PREFECT__CONTROL_", "PREFECT__FLOW_RUN_ID", "PREFECT__STORAGE_BASE_PATH", "PREFECT__DEPLOYMENT")
    write(
        notes,
        arguments=sys.argv[1:],
        directory=os.getcwd(),
        environment={name: value for name, value in os.environ.items() if not name.startswith(own)},
        executable=sys.executable,
        main=sys.modules["__main__"].__name__,
        path=sys.path,
        run=bool(flow_run.id),
        settings=str(get_settings_context().settings.api.url),
        signals=[str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGCHLD)],
        level=logging.getLogger("prefect").level,
        squares=squares,
        umask=os.umask(0o022),
    )

if __name__ == "__main__":
    print("serving", sys.argv[1:], flush=True)
    kind, way = sys.argv[1:]
    if kind == "one":
        ends.serve(f"{kind} {way}", limit=1)
    else:
        serve(ends.to_deployment(f"{kind} {way}"), limit=1)
"""

ENDINGS = ("returns", "raises", "exits", "exits at once", "is killed", "sleeps")
Runs = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("host")
    (directory / "lib").mkdir()
    (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    (directory / "launcher").write_text(LAUNCHER.replace("LIB", repr(str(directory / "lib"))))
    (directory / "early.py").write_text("")
    (directory / "script.py").write_text(SCRIPT)
    return directory


@pytest.fixture(scope="module")
def scripts() -> dict[tuple[str, str], subprocess.Popen[bytes]]:
    return {}


@pytest.fixture(scope="module")
def api(place: Path, scripts: dict[tuple[str, str], subprocess.Popen[bytes]]) -> Iterator[Api]:
    launched = {"cold": [], "warm": [str(place / "launcher"), "--warm", "--served", "--preload=early"]}
    environment = alone(place / "home") | {"PYTHONPATH": str(place), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with started(environment, place, launchers={}) as call, ExitStack() as ending:
        environment["PREFECT_API_URL"] = call.url
        for kind in KINDS:
            for way in WAYS:
                command = [str(PYTHON), *launched[way], str(place / "script.py"), kind, way]
                process = subprocess.Popen(command, env=environment, cwd=place)
                ending.callback(process.wait, SECONDS)
                ending.callback(process.terminate)
                scripts[kind, way] = process
        yield call


def begin(api: Api, place: Path, kind: str, way: str, how: str) -> str:
    wanted = {"deployments": {"name": {"any_": [f"{kind} {way}"]}}}
    until(lambda: bool(api("POST", "/deployments/filter", wanted)), "the script to register its deployment")
    (deployment,) = api("POST", "/deployments/filter", wanted)
    parameters = {"notes": str(notes(place, kind, way, how)), "how": how}
    return str(api("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"])


def notes(place: Path, kind: str, way: str, how: str) -> Path:
    return place / f"{kind} {way} {how}.json"


@pytest.fixture(scope="module")
def ended(api: Api, place: Path) -> Runs:
    found = {}
    # One ending after the other: SQLite is locked for long when many requests come at once.
    for how in ENDINGS:
        runs = {(kind, way, how): begin(api, place, kind, way, how) for kind in KINDS for way in WAYS}
        for key, run in runs.items():
            if how == "sleeps":
                until(notes(place, *key).exists, f"{key} to begin")
                state = {"type": "CANCELLING", "name": "Cancelling"}
                api("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})
        for key, run in runs.items():
            until(lambda run=run: api.state(run) in END, f"{key} to end")
            found[key] = api("GET", f"/flow_runs/{run}")
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENDINGS)
def test_the_end_is_the_same(ended: Runs, api: Api, place: Path, kind: str, how: str) -> None:
    def seen(way: str) -> tuple[str, str, Any]:
        run, path = ended[kind, way, how], notes(place, kind, way, how)
        message = (run["state"]["message"] or "").replace(run["id"], "ID")
        said = path.read_text().replace(f'"{way}"', '"WAY"') if path.exists() else "null"
        return run["state"]["type"], message, json.loads(said)

    assert seen("warm") == seen("cold"), api.log(ended[kind, "warm", how]["id"])


def test_flow_runs_end_as_they_are_called(ended: Runs) -> None:
    states = {how: ended["one", "warm", how]["state"]["type"] for how in ENDINGS}
    assert (states["returns"], states["raises"], states["sleeps"]) == ("COMPLETED", "FAILED", "CANCELLED")


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_process_has_what_was_loaded_early(ended: Runs, api: Api, kind: str) -> None:
    def line(way: str) -> list[str]:
        run = ended[kind, way, "returns"]["id"]
        until(lambda: "loaded early" in api.log(run), "the log")
        return [line for line in api.log(run).splitlines() if line.startswith("loaded early")]

    assert (line("warm"), line("cold")) == (["loaded early: True"], ["loaded early: False"])


def test_without_its_zygote_a_script_goes_on(
    ended: Runs, api: Api, place: Path, scripts: dict[tuple[str, str], subprocess.Popen[bytes]]
) -> None:
    script = scripts["one", "warm"].pid
    before = [pid for pid in children(script) if b"--warm" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    assert len(before) == 1
    os.kill(before[0], signal.SIGKILL)
    run = begin(api, place, "one", "warm", "returns")
    until(lambda: api.state(run) in END, "the flow run to end")
    assert api.state(run) == "COMPLETED"
    assert before[0] not in children(script)


OWN = """
import multiprocessing, os, subprocess, sys, time
os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"

def nested():
    inner = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(4,))
    inner.start()
    inner.join(60)
    sys.exit(inner.exitcode)

if __name__ == "__main__":
    from prefect.settings import PREFECT_LOGGING_LEVEL
    said = [PREFECT_LOGGING_LEVEL.value(), subprocess.run(map(str, ["echo", 1]), capture_output=True).stdout]
    for target, arguments in ((sys.exit, (3,)), (nested, ())):
        process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
        process.start()
        # Long enough for what reads the exit statuses of processes that flow runs have left behind.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.1)
        time.sleep(1)
        process.join(60)
        said.append(process.exitcode)
    print(said)
"""


def test_a_script_has_settings_and_processes_of_its_own(tmp_path: Path) -> None:
    """What it sets before it imports Prefect counts, and it learns how its own processes end."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    patched = LAUNCHER.replace("LIB", repr(str(tmp_path / "lib")))
    patched = patched.replace("launch.main", "launch.zygotes.REAPING = 0.1\nlaunch.main")
    (tmp_path / "launcher").write_text(patched)
    (tmp_path / "own.py").write_text(OWN)
    command = [str(PYTHON), str(tmp_path / "launcher"), "--warm", "--served", str(tmp_path / "own.py")]
    done = subprocess.run(command, env=alone(tmp_path / "home"), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['DEBUG', b'1\\n', 3, 4]"
