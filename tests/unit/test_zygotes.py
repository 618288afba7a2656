"""A worker asks the zygote of the right Python, replaces one that has ended, and starts flow runs itself until then."""

from __future__ import annotations

import json
import multiprocessing.spawn
import multiprocessing.util
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import launch, warm, zygotes
from test_warm import ENGINE, usual

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["prefect-environment", "etl"]


class Ready:
    """A zygote that notes what it is asked for, and answers with `pid`; None is no answer."""

    def __init__(self, held: Mapping[str, str] | None = None) -> None:
        self.held: Mapping[str, str] = dict(os.environ) if held is None else held
        self.begun, self.pid = 0.0, 77
        self.number: int | None = 4711
        self.is_ready = self.alive = True
        self.asked: list[warm.Task] = []
        self.given: list[tuple[dict[int, int], list[int]]] = []
        self.channel, self.other = socket.socketpair()

    def is_alive(self) -> bool:
        return self.alive

    def start(self, task: warm.Task, descriptors: Mapping[int, int], more: Sequence[int] = ()) -> int | None:
        self.asked.append(task)
        self.given.append((dict(descriptors), list(more)))
        return self.number

    def kill(self) -> None:
        self.channel.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str], Ready]]:
    """The zygotes that were started, each with its Python and its variables."""
    found: list[tuple[str, dict[str, str], Ready]] = []

    def spawn(python: str, program: Any, variables: dict[str, str]) -> Ready:
        found.append((python, variables, Ready({**os.environ, **variables})))
        return found[-1][2]

    monkeypatch.setattr(zygotes, "spawn", spawn)
    return found


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with two releases of an environment, of which the first is in use."""
    program = tmp_path / zygotes.PROGRAM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for release in "ab":
        python = tmp_path / "environments/etl/releases" / release / "bin/python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    use(tmp_path, "a")
    return tmp_path


def use(host: Path, release: str) -> None:
    link = host / "environments/etl/current"
    link.unlink(missing_ok=True)
    link.symlink_to(f"releases/{release}")


def python_of(host: Path, release: str) -> str:
    return str(host / "environments/etl/releases" / release / "bin/python")


@pytest.fixture
def kept(host: Path, clock: Clock, spawned: list[Any]) -> zygotes.Zygotes:
    return made(host)


def made(host: Path, *, idle: float = 60, first: Any = None) -> zygotes.Zygotes:
    zygote: Any = first or Ready()
    return zygotes.Zygotes(["launch"], zygote, set, environments=host / "environments", idle=idle)


def start(kept: zygotes.Zygotes, host: Path, command: Any = COMMAND, **more: Any) -> int | None:
    variables = more.pop("env", {"PATH": f"{host / 'bin'}:/usr/bin"})
    held = {name: value for name, value in os.environ.items() if name not in ("PWD", "PATH")}
    return kept.start(command, held | variables, usual(**more), {})


def test_an_environment_has_a_zygote_from_its_first_flow_run_on(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any]
) -> None:
    kept.tend()
    assert spawned == []
    start(kept, host)
    ((python, variables, zygote),) = spawned
    directory = str(Path(python_of(host, "a")).parent)
    assert python == python_of(host, "a")
    assert variables["UV_PYTHON"] == python
    assert variables["PATH"].split(":")[0] == directory
    assert start(kept, host, cwd=host) == zygote.number
    assert len(spawned) == 1
    task = zygote.asked[-1]
    assert (task.module, task.arguments, task.directory) == ("prefect.engine", [], str(host))
    assert task.environment["PATH"] == f"{directory}:{host / 'bin'}:/usr/bin"
    assert task.environment["UV_PYTHON"] == python
    assert "PWD" not in task.environment


def test_the_release_and_an_environment_have_a_zygote_each(host: Path, spawned: list[Any], clock: Clock) -> None:
    first = Ready()
    kept = made(host, first=first)
    for command in (COMMAND, ENGINE, COMMAND):
        start(kept, host, command)
    assert (len(first.asked), len(spawned[0][2].asked)) == (1, 2)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["prefect-environment"], {}),
        (["prefect-environment", "etl", "-m", "shop"], {}),
        (["prefect-environment", "nosuch"], {}),
        (["prefect-environment", "../environments/etl"], {}),
        (["prefect-environment", ""], {}),
        (["/usr/bin/prefect-environment", "etl"], {}),
        (["sh", "etl"], {}),
        ("prefect-environment etl", {"shell": True}),
        (b"prefect-environment etl", {}),
        (COMMAND, {"env": {"PATH": "/usr/bin"}}),
        (COMMAND, {"env": {}}),
        (COMMAND, {"env": {"PATH": "BIN", "PYTHONHASHSEED": "7"}}),
        (COMMAND, {"env": {"PATH": "BIN", "a.b": "the shell drops it"}}),
        (COMMAND, {"pass_fds": (3,)}),
    ],
)
def test_what_no_zygote_can_do_starts_none(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any], command: Any, options: dict[str, Any]
) -> None:
    more = json.loads(json.dumps(options).replace("BIN", str(host / "bin")))
    assert start(kept, host, command, **more) is None
    assert spawned == []


def test_a_shell_corrects_the_working_directory(kept: zygotes.Zygotes, host: Path, spawned: list[Any]) -> None:
    for _ in range(2):
        start(kept, host, env={"PATH": str(host / "bin"), "PWD": "/elsewhere"}, cwd=host)
    assert spawned[0][2].asked[-1].environment["PWD"] == str(host)


def test_no_time_is_no_zygote(host: Path, spawned: list[Any], clock: Clock) -> None:
    assert start(made(host, idle=0), host) is None
    assert spawned == []


def test_a_flow_run_does_not_wait_for_one_that_is_not_ready(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any]
) -> None:
    start(kept, host)
    spawned[0][2].asked.clear()
    spawned[0][2].is_ready = False
    assert start(kept, host) is None
    assert spawned[0][2].asked == []


def test_a_new_release_of_an_environment_has_a_zygote_of_its_own(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any]
) -> None:
    start(kept, host)
    use(host, "b")
    start(kept, host)
    assert [python for python, *_ in spawned] == [python_of(host, "a"), python_of(host, "b")]
    assert ended(spawned[0][2]) and not ended(spawned[1][2])


@pytest.mark.parametrize("change", ["release", "removed", "idle"])
def test_a_zygote_ends_when_its_environment_is_another_one_or_is_not_used(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any], clock: Clock, change: str
) -> None:
    start(kept, host)
    clock.now += 60
    kept.tend()
    assert not ended(spawned[0][2])
    if change == "release":
        use(host, "b")
    elif change == "removed":
        (host / "environments/etl/current").unlink()
    else:
        clock.now += 1
    kept.tend()
    assert ended(spawned[0][2])
    assert kept.own() == {77}


def ended(zygote: Ready) -> bool:
    return zygote.channel.fileno() < 0


def test_a_zygote_that_ends_again_and_again_is_replaced_less_and_less_often(
    host: Path, spawned: list[Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Ready()
    kept = made(host, first=first)
    first.alive = False
    waits = []
    for _ in zygotes.DELAYS:
        number, begun = len(spawned), clock.now
        while len(spawned) == number:
            kept.tend()
            clock.now += 1
        waits.append(clock.now - 1 - begun)
        spawned[-1][2].begun, spawned[-1][2].alive = clock.now, False
    assert waits == list(zygotes.DELAYS)
    kept.tend()
    clock.now += 10**6
    kept.tend()
    assert len(spawned) == len(zygotes.DELAYS)
    said = capsys.readouterr().out
    assert said.count("The warm process has ended. Flow runs start in new ones until another one is ready.") == 5
    assert said.count("The warm process has ended 6 times. Flow runs start in new ones until the worker restarts.") == 1


def test_one_that_ran_for_long_is_replaced_at_once(host: Path, spawned: list[Any], clock: Clock) -> None:
    kept = made(host)
    for number in range(20):
        assert kept.release.zygote
        clock.now += zygotes.SETTLED + 1
        kept.release.zygote.alive = False  # type: ignore[attr-defined]
        kept.tend()
        assert len(spawned) == number + 1
        spawned[-1][2].begun = clock.now


def test_a_flow_run_starts_without_a_zygote_that_does_not_answer(
    kept: zygotes.Zygotes, host: Path, spawned: list[Any]
) -> None:
    start(kept, host)
    spawned[0][2].number = None
    assert start(kept, host) is None
    assert ended(spawned[0][2])
    assert start(kept, host) == spawned[1][2].number


def test_a_python_that_cannot_be_started_is_no_error(
    host: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spawn(*_: Any) -> Any:
        raise OSError("no memory")

    monkeypatch.setattr(zygotes, "spawn", spawn)
    kept = made(host)
    assert start(kept, host) is None
    assert "Cannot start the warm process of the environment etl: no memory" in capsys.readouterr().err


@pytest.fixture
def pair() -> Iterator[tuple[zygotes.Zygote, socket.socket]]:
    # Before the sockets, which it would hold until it has become another program.
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    zygote = zygotes.Zygote(pid, own, held=dict(os.environ), is_ready=False)
    yield zygote, other
    zygote.kill()
    other.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@pytest.mark.parametrize(("said", "ready"), [(warm.READY, True), (b"ready for orders of kind 0", False)])
def test_a_zygote_says_that_it_is_ready(
    pair: tuple[zygotes.Zygote, socket.socket], clock: Clock, said: bytes, ready: bool
) -> None:
    zygote, other = pair
    assert (zygote.is_alive(), zygote.is_ready) == (True, False)
    other.send(said)
    assert (zygote.is_alive(), zygote.is_ready) == (ready, ready)
    other.close()
    assert not zygote.is_alive()


def test_a_zygote_has_its_time_to_become_ready(pair: tuple[zygotes.Zygote, socket.socket], clock: Clock) -> None:
    zygote, _ = pair
    clock.now = zygote.begun + zygotes.STARTING
    assert not zygote.is_alive()


def test_a_zygote_that_says_nothing_has_no_answer(
    pair: tuple[zygotes.Zygote, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "PATIENCE", 0.1)
    assert pair[0].start(warm.Task("prefect.engine", [], {}), {}) is None


def test_a_worker_without_its_zygote_starts_processes_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    first = zygotes.Zygote(pid, own, held=dict(os.environ), is_ready=True)
    monkeypatch.setattr(zygotes, "DELAYS", (60.0,))
    monkeypatch.setattr(launch.Process, "zygotes", zygotes.Zygotes(["launch"], first, set))
    for _ in range(2):
        with launch.Process([*ENGINE, "no id"], stdout=-1, stderr=-1, text=True) as process:
            assert "No module named" in process.communicate()[1]
        assert process.returncode == 1
    assert capfd.readouterr().out.count("The warm process has ended") == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def of_multiprocessing(*, tracker: int = 5, pipe: int = 8) -> list[str | bytes]:
    return list(multiprocessing.spawn.get_command_line(tracker_fd=tracker, pipe_handle=pipe))


def test_a_process_of_multiprocessing_is_a_fork(host: Path, clock: Clock) -> None:
    first = Ready()
    kept = made(host, first=first)
    assert kept.spawn(of_multiprocessing(), [5, 8, 11]) == first.number
    (task,) = first.asked
    assert (task.module, task.environment, task.directory) == (warm.SPAWNED, dict(os.environ), str(Path.cwd()))
    assert first.given == [({0: 0, 1: 1, 2: 2}, [5, 8, 11])]


@pytest.mark.parametrize(
    ("change", "descriptors"),
    [
        ({}, [5, 8, 11, 12]),
        ({}, [5, 8]),
        ({0: "/usr/bin/python3"}, [5, 8, 11]),
        ({-3: "-E"}, [5, 8, 11]),
        ({-2: "from multiprocessing.resource_tracker import main;main(5)"}, [5, 8, 11]),
        ({-1: "--other"}, [5, 8, 11]),
    ],
)
def test_other_processes_of_multiprocessing_are_not(
    host: Path, clock: Clock, change: dict[int, str], descriptors: list[int]
) -> None:
    first = Ready()
    command = of_multiprocessing()
    for index, word in change.items():
        command[index] = word
    assert made(host, first=first).spawn(command, descriptors) is None
    assert first.asked == []


def test_a_process_of_multiprocessing_needs_what_the_zygote_has_read(
    host: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = made(host, first=Ready())
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert kept.spawn(of_multiprocessing(), [5, 8, 11]) is None


@pytest.mark.parametrize("number", [4711, None])
def test_a_script_starts_processes_of_multiprocessing_by_its_zygote_or_as_usual(
    host: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    raised: list[int] = []
    first = Ready()
    first.number = number
    kept = made(host, idle=0, first=first)
    monkeypatch.setattr(zygotes, "DELAYS", (60.0,))
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", lambda *_: 12)
    monkeypatch.setattr(launch.Process, "zygotes", kept)
    monkeypatch.setattr(launch, "raise_adjustment", raised.append)
    launch.replace_spawn()
    for command in (of_multiprocessing(), ["python", "-c", "other"]):
        multiprocessing.util.spawnv_passfds(b"python", command, [5, 8, 11])
    assert (kept.spawned, raised) == ({12, number or 12}, [number or 12])


@pytest.mark.parametrize("order", ["kept", "unknown"])
def test_an_exit_status_is_left_to_the_one_who_waits_for_it(host: Path, order: str) -> None:
    kept = made(host)
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    if order == "kept":
        kept.spawned.add(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        kept.reap()
    if order == "kept":
        assert os.waitpid(pid, 0) == (pid, 0)
    else:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


def test_a_process_that_has_not_ended_is_not_counted(host: Path) -> None:
    kept = made(host)
    pid = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    for _ in range(5):
        kept.reap()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    kept.reap()
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)


PROGRAM = """
import json, os, socket, sys
sys.path.insert(0, LIB)
from selfhosted_prefect.onhost import warm
channel = socket.socket(fileno=int(sys.argv[2]))
warm.close_inherited(channel)
channel.send(json.dumps({
    "open": [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")],
    "arguments": sys.argv[3:], "mark": os.environ["PREFECT__FLOW_RUN_ID"], "shop": os.environ["SHOP"],
    "python": sys.executable,
}).encode())
"""


def test_a_zygote_inherits_its_end_of_the_socket_and_no_other_file(tmp_path: Path) -> None:
    program = tmp_path / "launch"
    (tmp_path / "selfhosted_prefect").symlink_to(ROOT / "plugins/module_utils")
    program.write_text(PROGRAM.replace("LIB", repr(str(tmp_path))))
    inherited = os.open(program, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        zygote = zygotes.spawn(sys.executable, [str(program), "--warm", "worker"], {"SHOP": "a b"})
    finally:
        os.close(inherited)
    try:
        said = json.loads(zygote.channel.recv(4096))
    finally:
        zygote.channel.close()
        os.waitpid(zygote.pid, 0)
    assert len(set(said["open"]) - {"0", "1", "2"}) == 1
    assert (said["arguments"], said["python"], said["shop"]) == (["--warm", "worker"], sys.executable, "a b")
    assert said["mark"] == warm.NO_RUN
    assert zygote.held["SHOP"] == "a b" and warm.MARK not in zygote.held


def test_the_adjustment_of_a_flow_run_does_not_depend_on_who_sets_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7").mkdir()
    monkeypatch.setattr(launch, "PROCESSES", tmp_path)
    for _ in range(2):
        launch.raise_adjustment(7, 100)
        assert (tmp_path / "7" / "oom_score_adj").read_text() == str(100 + launch.MORE)
