"""A flow run ends in the same way whether its process is a fork of a warm one or a new one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import END, PYTHON, Api, alone, needs_release, started, until

ROOT = Path(__file__).resolve().parents[2]
SCENES = Path(__file__).with_name("scenes.py")
POOLS = ("cold", "warm")

pytestmark = needs_release

# As templates/opt/prefect/lib/launch-worker.j2.
LAUNCHER = """
import sys
sys.path.insert(0, LIB)
from selfhosted_prefect.onhost import launch
del sys.path[0]
launch.main(sys.argv)
"""

HAS_DASK = any(PYTHON.parent.parent.glob("lib/python*/site-packages/prefect_dask"))
"""Only if it was installed into the release by hand: `uv pip install distributed`, then `--no-deps prefect-dask`."""

IN_ENVIRONMENT = (
    *("sleeps", "ignores_sigterm", "returns", "raises", "exits", "exits_at_once", "is_killed", "ends_by_sigterm"),
)
"""What is also run in an environment of packages, which is the release here, by the program on the worker's PATH."""

COMMAND = {"command": "prefect-environment etl"}

ENDINGS: dict[str, dict[str, Any]] = {
    "sleeps": {"cancel": True},
    "ignores_sigterm": {"cancel": True},
    "returns": {},
    "describes_itself": {"variables": {"env": {"SHOP": "a b", "TZ": "Asia/Tokyo", "PYTHONPATH": "PLACE/lib"}}},
    "logs_in_its_own_way": {
        "variables": {
            "env": {
                "PREFECT_LOGGING_LEVEL": "DEBUG",
                "PREFECT_LOGGING_EXTRA_LOGGERS": "shop",
                "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%M",
            }
        }
    },
    "raises": {},
    "exits": {},
    "exits_at_once": {},
    "is_killed": {},
    "ends_by_sigterm": {},
    "has_subflows_and_tasks": {},
    **({"runs_on_dask": {}} if HAS_DASK else {}),
    "starts_processes": {},
    "leaves_a_process": {},
    "is_async": {},
    "yields": {},
    "has_no_such_flow": {},
    "returns_with_other_hashes": {"flow": "returns", "variables": {"env": {"PYTHONHASHSEED": "7"}}},
    "describes_itself_in_an_environment": {
        "flow": "describes_itself",
        "variables": {**COMMAND, "env": {"SHOP": "a b", "TZ": "Asia/Tokyo", "PYTHONPATH": "PLACE/lib"}},
    },
}
ENDINGS |= {
    f"{name}_in_an_environment": {**ENDINGS[name], "flow": name, "variables": COMMAND} for name in IN_ENVIRONMENT
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("host")
    (directory / "lib").mkdir()
    (directory / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    (directory / "launcher").write_text(LAUNCHER.replace("LIB", repr(str(directory / "lib"))))
    (directory / "early.py").write_text("LOADED = True")
    (directory / "threaded.py").write_text(
        "import threading, time; threading.Thread(target=time.sleep, args=(9,)).start()"
    )
    return directory


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[Api]:
    # Processes say in the worker's log what they cannot import.
    cold = [str(PYTHON), str(place / "launcher")]
    warm = [*cold, "--warm", "--preload=early", "--preload=threaded", "--preload=missing"]
    warm += ["--environments", str(place / "opt/environments")]
    environment = alone(place / "home") | {"PYTHONPATH": str(place), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    environment["PATH"] = f"{program_of_environments(place).parent}:{environment['PATH']}"
    with started(environment, place, launchers={"cold": cold, "warm": warm}, limit=2) as call:
        yield call


def program_of_environments(place: Path) -> Path:
    """Write the program as the role does, and an environment, and return the program."""
    program, directory = place / "opt/bin/prefect-environment", place / "opt/environments/etl"
    program.parent.mkdir(parents=True)
    directory.mkdir(parents=True)
    (directory / "current").symlink_to(PYTHON.parent.parent)
    text = (ROOT / "templates/opt/prefect/bin/prefect-environment.j2").read_text()
    text = text.replace("{{ __prefect_host.dirs.opt }}", str(place / "opt"))
    program.write_text(re.sub(r"{{.*?}}", "#", text))
    program.chmod(0o755)
    return program


def begin(
    api: Api, place: Path, pool: str, name: str, *, flow: str = "", variables: dict[str, Any] | None = None
) -> str:
    """Start a run of a scene, by a deployment of its own, and return its id."""
    deployment = {
        "name": f"{name} {pool}",
        "flow_id": api("POST", "/flows/", {"name": (flow or name).replace("_", "-")})["id"],
        "entrypoint": f"{SCENES.name}:{flow or name}",
        "work_pool_name": pool,
        "parameters": {"notes": str(notes(place, pool, name))},
        "job_variables": json.loads(json.dumps(variables or {}).replace("PLACE", str(place))),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(SCENES.parent)}}],
        "enforce_parameter_schema": False,
    }
    identifier = api("POST", "/deployments/", deployment)["id"]
    return str(api("POST", f"/deployments/{identifier}/create_flow_run", {})["id"])


def notes(place: Path, pool: str, name: str) -> Path:
    """Where the scene writes what it sees."""
    return place / f"{name}.{pool}.json"


@pytest.fixture(scope="module")
def ended(api: Api, place: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """How the run of each scene ended, in each pool."""
    runs = {}
    # Before 3.8, a flow that yields is Running for ever.
    old = tuple(int(part) for part in api("GET", "/admin/version").split(".")[:2]) < (3, 8)
    # The first flow run in an environment starts its zygote, and does not wait for that.
    first = begin(api, place, "warm", "first_in_an_environment", flow="returns", variables=COMMAND)
    settled(api, first, "the first one")
    # Those first that are cancelled: they hold the others up.
    for name, how in sorted(ENDINGS.items(), key=lambda item: "cancel" not in item[1]):
        if old and name == "yields":
            continue
        for pool in POOLS:
            more = {key: value for key, value in how.items() if key != "cancel"}
            runs[name, pool] = begin(api, place, pool, name, **more)
    for (name, pool), run in runs.items():
        if ENDINGS[name].get("cancel"):
            until(notes(place, pool, name).exists, f"{name} to begin")
            state = {"type": "CANCELLING", "name": "Cancelling"}
            api("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})
    return {key: settled(api, run, " in the pool ".join(key)) for key, run in runs.items()}


def settled(api: Api, run: str, what: str) -> Any:
    """Wait for the end of a flow run, and return the run; begin it again if the worker found SQLite locked."""
    until(lambda: api.state(run) in END, f"{what} to end")
    ended = api("GET", f"/flow_runs/{run}")
    if "503 Service Unavailable" not in (ended["state"]["message"] or ""):
        return ended
    again = api("POST", f"/deployments/{ended['deployment_id']}/create_flow_run", {})
    return settled(api, again["id"], what)


NAMES = """
import importlib, json, os, sys
sys.path.insert(0, sys.argv[1])
from selfhosted_prefect.onhost import warm
kind, names = type(os.environ), set()
get = kind.__getitem__
kind.__getitem__ = lambda self, name: (names.add(name), get(self, name))[1]
for name in warm.IMPORTED:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
print(json.dumps([name for name in sorted(names) if not name.startswith(warm.READ_AT_START)]))
"""

CI = {
    *("APPVEYOR", "BITBUCKET_COMMIT", "BUDDY", "BUILDKITE", "CI", "CIRCLECI", "CI_NAME", "CODEBUILD_BUILD_ID"),
    *("DO_NOT_TRACK", "DRONE", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "SEMAPHORE", "TEAMCITY_VERSION"),
    *("TF_BUILD", "TRAVIS"),
}
"""By which Prefect decides, once it is imported, whether it counts its users: flow runs are not counted."""


def test_what_an_import_reads_is_read_again_or_needs_a_new_process(place: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
    command = [str(PYTHON), "-c", NAMES, str(place / "lib")]
    read = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    python = {"PATH", "_PYTHON_PROJECT_BASE", "_PYTHON_SYSCONFIGDATA_NAME"}
    assert [name for name in read if not name.startswith("PREFECT_") and name not in python | CI] == []


@pytest.mark.parametrize("name", ENDINGS)
def test_the_end_is_the_same(ended: dict[tuple[str, str], dict[str, Any]], api: Api, place: Path, name: str) -> None:
    if (name, "cold") not in ended:
        pytest.skip("this version of Prefect does not run such a flow")

    def seen(pool: str) -> tuple[str, str, Any]:
        run, path = ended[name, pool], notes(place, pool, name)
        message = (run["state"]["message"] or "").replace(run["id"], "ID")
        return run["state"]["type"], message, json.loads(path.read_text()) if path.exists() else None

    assert seen("warm") == seen("cold"), api.log(ended[name, "warm"]["id"])


def test_scenes_end_as_they_are_called(ended: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The comparison would also hold if no flow run began."""
    states = {name: run["state"]["type"] for (name, pool), run in ended.items() if pool == "warm"}
    good = {"returns", "describes_itself", "has_subflows_and_tasks", "starts_processes", "leaves_a_process", "is_async"}
    good |= {"logs_in_its_own_way", "yields", "returns_in_an_environment", "returns_with_other_hashes"}
    good |= {"describes_itself_in_an_environment", "runs_on_dask"}
    assert {name for name, state in states.items() if state == "COMPLETED"} == good & set(states)
    cancelled = {"sleeps", "ignores_sigterm"}
    cancelled |= {f"{name}_in_an_environment" for name in cancelled}
    assert {name for name, state in states.items() if state == "CANCELLED"} == cancelled


def test_each_flow_run_has_random_numbers_of_its_own(ended: dict[tuple[str, str], dict[str, Any]], place: Path) -> None:
    """Also those of the standard library, whose generator is the zygote's before the fork."""
    lines = [line for path in place.glob("*.warm.random") for line in path.read_text().splitlines()]
    assert len(lines) > 10
    for seen in zip(*(line.split() for line in lines), strict=True):
        assert len(set(seen)) == len(lines)


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_the_end_is_the_same_in_an_environment(
    ended: dict[tuple[str, str], dict[str, Any]], api: Api, place: Path, name: str
) -> None:
    def seen(scene: str) -> tuple[str, str, list[str]]:
        run, path = ended[scene, "cold"], notes(place, "cold", scene)
        message = (run["state"]["message"] or "").replace(run["id"], "ID")
        return run["state"]["type"], message, sorted(json.loads(path.read_text())) if path.exists() else []

    assert seen(f"{name}_in_an_environment") == seen(name), api.log(ended[f"{name}_in_an_environment", "cold"]["id"])


@pytest.mark.parametrize("name", ["describes_itself", "describes_itself_in_an_environment"])
def test_a_warm_process_has_what_was_loaded_early(
    ended: dict[tuple[str, str], dict[str, Any]], api: Api, name: str
) -> None:
    assert [is_warm(api, ended[name, pool]["id"]) for pool in ("warm", "cold")] == [True, False]


def is_warm(api: Api, run: str) -> bool:
    """Return whether a flow that describes itself had what only zygotes import."""
    until(lambda: "loaded early" in api.log(run), "the log")
    return "loaded early: True" in api.log(run).splitlines()


def test_processes_are_the_workers_and_leave_none_behind(
    ended: dict[tuple[str, str], dict[str, Any]], place: Path
) -> None:
    """Its zygotes, of the release and of an environment, are all that a worker with no flow run has."""
    worker, zygotes = zygotes_of(place)
    assert len(zygotes) == 2
    until(lambda: sorted(children(worker)) == zygotes, "the worker to have no more processes")
    assert [len(list(Path(f"/proc/{zygote}/task").iterdir())) for zygote in zygotes] == [1, 1]


def test_a_flow_run_is_seen_from_outside(api: Api, place: Path) -> None:
    """By `ps`, and by the variable that tells rescue.running() which flow runs still have a process."""
    run = begin(api, place, "warm", "seen", flow="sleeps")
    until(notes(place, "warm", "seen").exists, "the flow to begin")
    pid = json.loads(notes(place, "warm", "seen").read_text())["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").endswith(b"-m prefect.engine")
    assert f"PREFECT__FLOW_RUN_ID={run}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    os.kill(pid, signal.SIGKILL)
    until(lambda: api.state(run) == "CRASHED", "the flow run to crash")


def test_a_flow_run_keeps_the_release_of_its_environment(api: Api, place: Path) -> None:
    """Another release has another zygote, and the one before has none."""
    (before,) = of_environment(place)
    run = begin(api, place, "warm", "stays", flow="sleeps", variables=COMMAND)
    until(notes(place, "warm", "stays").exists, "the flow to begin")
    pid = json.loads(notes(place, "warm", "stays").read_text())["pid"]
    release = another_release(place)
    current = place / "opt/environments/etl/current"
    current.unlink()
    current.symlink_to(release)
    until(lambda: before not in of_environment(place), "the zygote to end")
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"{PYTHON.parent.parent}/".encode())
    # The pool runs one at a time.
    os.kill(pid, signal.SIGKILL)
    until(lambda: api.state(run) in END, "the flow run to end")
    for name, expected in (("new", False), ("newer", True)):
        run = begin(api, place, "warm", name, flow="describes_itself", variables=COMMAND)
        until(lambda run=run: api.state(run) in END, "the flow run to end")
        assert json.loads(notes(place, "warm", name).read_text())["executable"] == f"{release}/bin/python"
        assert is_warm(api, run) == expected
    assert len(of_environment(place)) == 1


def another_release(place: Path) -> Path:
    """Return a copy of the release, which shares its packages."""
    directory = place / "opt/environments/etl/other"
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/python").symlink_to(PYTHON.readlink())
    (directory / "lib").symlink_to(PYTHON.parent.parent / "lib")
    (directory / "pyvenv.cfg").write_text((PYTHON.parent.parent / "pyvenv.cfg").read_text())
    return directory


def of_environment(place: Path) -> list[int]:
    """Return the zygotes that are not the worker's first."""
    _, zygotes = zygotes_of(place)
    return [pid for pid in zygotes if b"--zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_without_its_zygote_a_worker_goes_on_until_it_has_another_one(api: Api, place: Path) -> None:
    """No flow run fails in the meantime."""
    worker, zygotes = zygotes_of(place)
    for zygote in zygotes:
        os.kill(zygote, signal.SIGKILL)
    for variables in ({}, COMMAND):
        for number in range(2):
            name = f"after {number} {len(variables)}"
            run = begin(api, place, "warm", name, flow="describes_itself", variables=variables)
            until(lambda run=run: api.state(run) in END, "the flow run to end")
            assert api.state(run) == "COMPLETED"
        assert is_warm(api, run)
    worker, others = zygotes_of(place)
    assert not set(zygotes) & set(children(worker)) and len(others) == 2


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def zygotes_of(place: Path) -> tuple[int, list[int]]:
    """Return the number of the worker, and those of its zygotes."""
    found = {}
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        words = command.read_bytes().split(b"\0")
        if str(place / "launcher").encode() in words and b"--warm" in words:
            pid = int(command.parent.name)
            found[pid] = int((command.parent / "stat").read_text().rpartition(")")[2].split()[1])
    zygotes = sorted(pid for pid, parent in found.items() if parent in found)
    (worker,) = set(found) - set(zygotes)
    return worker, zygotes
