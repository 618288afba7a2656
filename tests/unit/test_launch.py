"""A worker's flow runs are killed before the worker when memory is short, and their logs say so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import launch
from fake_api import FakeApi

ROOT = Path(__file__).resolve().parents[2]
RUN = "5f0e9a52-5a0a-4c4d-8f0e-0d3e6f2f0a11"
OWN = int(Path("/proc/self/oom_score_adj").read_text())


def run_environment(run: str = RUN) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PREFECT__FLOW_RUN_ID": run}


def adjustment(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def started(command: str = "exec sleep 60", env: dict[str, str] | None = None) -> launch.Process:
    return launch.Process(["/bin/sh", "-c", command], env=run_environment() if env is None else env)


@pytest.fixture(autouse=True)
def kills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the kernel has killed a process of the unit: the last number of the list."""
    found = [0]
    monkeypatch.setattr(launch, "memory_kills", lambda *_: found[-1])
    monkeypatch.setattr(launch, "_known", {"kills": 0})
    return found


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi() as fake:
        monkeypatch.setenv("PREFECT_API_URL", fake.url)
        yield fake


def reaped(*processes: subprocess.Popen[Any]) -> None:
    """Read the exit statuses, as a worker does, and wait until all has been said about them."""
    for process in processes:
        process.wait()
    until(lambda: not any("watch" in thread.name for thread in threading.enumerate()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_flow_run_and_what_it_starts_come_before_the_worker() -> None:
    process = started("sleep 60 & echo $!; wait", run_environment())
    with launch.Process(
        ["/bin/sh", "-c", "sleep 0.2; cat /proc/self/oom_score_adj"], env=run_environment(), stdout=-1
    ) as below:
        assert below.stdout is not None
        assert int(below.stdout.read()) == min(OWN + launch.MORE, 1000)
    assert adjustment(process.pid) == min(OWN + launch.MORE, 1000)
    assert adjustment(os.getpid()) == OWN
    process.kill()
    reaped(process)


@pytest.mark.parametrize("env", [None, {"PATH": "/usr/bin:/bin"}])
def test_other_processes_are_as_they_were(env: dict[str, str] | None) -> None:
    with launch.Process(["sleep", "60"], env=env) as process:
        assert adjustment(process.pid) == OWN
        process.kill()


def test_an_adjustment_has_a_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, held in (("self", "900"), ("7", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oom_score_adj").write_text(held)
    monkeypatch.setattr(launch, "PROCESSES", tmp_path)
    launch.raise_adjustment(7)
    assert (tmp_path / "7" / "oom_score_adj").read_text() == "1000"
    launch.raise_adjustment(8)


def test_the_log_of_a_flow_run_says_that_it_was_killed_for_memory(
    api: FakeApi, kills: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    process = started()
    kills.append(1)
    process.kill()
    reaped(process)
    (line,) = api.logs
    assert (line["flow_run_id"], line["level"]) == (RUN, 40)
    assert "killed this flow run for memory" in line["message"] and "prefect_worker_memory_max" in line["message"]
    assert capfd.readouterr().err == ""


def test_a_worker_that_uses_asyncio_is_no_exception(
    api: FakeApi, kills: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's worker does; asyncio reads the exit status itself and hands it on."""
    monkeypatch.setattr(subprocess, "Popen", launch.Process)

    async def work() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "60", env=run_environment())
        assert adjustment(process.pid) == min(OWN + launch.MORE, 1000)
        kills.append(1)
        process.kill()
        return await process.wait()

    assert asyncio.run(work()) == -9
    reaped()
    assert [line["flow_run_id"] for line in api.logs] == [RUN]


@pytest.mark.parametrize(
    ("command", "more", "why"),
    [
        ("kill -9 $$", 0, "another process killed it"),
        ("exit 0", 1, "another process was killed, and it went on"),
        ("exit 1", 1, "another process was killed, and it failed"),
        ("kill -15 $$", 1, "it was stopped"),
    ],
)
def test_nothing_is_said_that_is_not_known(api: FakeApi, kills: list[int], command: str, more: int, why: str) -> None:
    process = started(f"read line; {command}")
    kills.append(more)
    reaped(process)
    assert api.logs == [], why


def test_one_kill_is_the_end_of_one_flow_run(api: FakeApi, kills: list[int]) -> None:
    first, second = started(), started(env=run_environment("a7a0f0a6-3a3e-4b43-9f25-4d8e4d1f7c22"))
    kills.append(1)
    first.kill()
    reaped_one = first.wait()
    until(lambda: len(api.logs) == 1)
    second.kill()
    reaped(second)
    assert (reaped_one, [line["flow_run_id"] for line in api.logs]) == (-9, [RUN])
    later = started()
    later.kill()
    reaped(later)
    assert len(api.logs) == 1
    # Two that are killed at once are two.
    pair = [started(), started()]
    kills.append(3)
    for process in pair:
        process.kill()
    reaped(*pair)
    assert len(api.logs) == 3


def test_an_api_that_is_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, kills: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    process = started()
    kills.append(1)
    process.kill()
    reaped(process)
    assert f"flow run {RUN}: The kernel killed this flow run for memory." in capfd.readouterr().err


def test_a_program_runs_as_if_it_had_been_started_itself(tmp_path: Path) -> None:
    """Its arguments, its module, its directory and its exit status are its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "beside.py").write_text("")
    program = tmp_path / "bin" / "program"
    program.write_text(
        "import beside, subprocess, sys; print(__name__, sys.argv[1:], subprocess.Popen.__name__); sys.exit(3)"
    )
    launcher = tmp_path / "launcher"
    launcher.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(1, {str(tmp_path / "lib")!r})
            from selfhosted_prefect.onhost.launch import main
            del sys.path[1]
            main(sys.argv)
            """
        )
    )
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    done = subprocess.run([sys.executable, launcher, program, "a", "b c"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "__main__ ['a', 'b c'] Process\n"), done.stderr
