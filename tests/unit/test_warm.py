"""What can run in a fork of a process that has imported Prefect, and what needs a new process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import launch, warm

ENGINE = [sys.executable, "-m", "prefect.engine"]


def usual(**more: Any) -> dict[str, Any]:
    """What subprocess.Popen gives its own method for a process with none of its options."""
    given = dict.fromkeys(launch.PARAMETERS) | {"close_fds": True, "pass_fds": (), "shell": False, "umask": -1}
    return given | {"restore_signals": True, "start_new_session": False, "process_group": -1} | more


def test_the_engine_is_forked() -> None:
    assert warm.task_of(ENGINE, {"A": "b", **os.environ}, usual()) == warm.Task(
        "prefect.engine", [], {"A": "b", **os.environ}
    )


def test_a_program_that_prepares_the_workspace_is_forked_in_a_session_and_a_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefect.runner._workspace_supervisor", "config.json"]
    task = warm.task_of(command, os.environ, usual(cwd=tmp_path, start_new_session=True))
    assert task == warm.Task(command[2], ["config.json"], dict(os.environ), str(tmp_path), new_session=True)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["/bin/true"],
        [sys.executable],
        [sys.executable, "-m"],
        [sys.executable, "-m", "pip", "install", "x"],
        [sys.executable, "-m", "prefect"],
        [sys.executable, "-m", "prefect.engine.other"],
        [sys.executable, "-c", "prefect.engine"],
        ["python", "-m", "prefect.engine"],
        ["/usr/bin/python3", "-m", "prefect.engine"],
    ],
)
def test_other_programs_are_not(command: list[str]) -> None:
    assert warm.task_of(command, os.environ, usual()) is None


@pytest.mark.parametrize(
    "option",
    [
        {"preexec_fn": print},
        {"executable": "/bin/sh"},
        {"shell": True},
        {"pass_fds": (3,)},
        {"close_fds": False},
        {"restore_signals": False},
        {"umask": 0o77},
        {"uid": 1},
        {"gid": 1},
        {"gids": [1]},
        {"process_group": 0},
        {"cwd": "/nonexistent"},
    ],
)
def test_what_only_a_new_process_can_have_is_not_forked(option: dict[str, Any]) -> None:
    assert warm.task_of(ENGINE, os.environ, usual(**option)) is None


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONHASHSEED", "PYTHONUTF8", "LD_PRELOAD", "LC_ALL", "LANG", "MALLOC_ARENA_MAX"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "HOME", "NO_COLOR", "FSSPEC_S3_KEY"),
    ],
)
def test_what_is_read_only_at_the_start_of_a_process_needs_a_new_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    assert not warm.may_fork({**os.environ, name: "1"})
    monkeypatch.setenv(name, "1")
    assert warm.may_fork(dict(os.environ))
    assert not warm.may_fork({key: value for key, value in os.environ.items() if key != name})


@pytest.mark.parametrize("name", ["PYTHONPATH", "TZ", "PREFECT_HOME", "PREFECT_PROFILES_PATH", "PATH"])
def test_what_a_process_can_change_needs_none(name: str) -> None:
    assert warm.may_fork({**os.environ, name: "/elsewhere"})


def test_a_process_that_cannot_adopt_a_task_becomes_a_new_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here, Prefect cannot be imported."""
    (tmp_path / "scene.py").write_text("import os, sys; print(sys.argv[1:], os.environ['SHOP'], os.getcwd())")
    pid = os.fork()
    if pid == 0:
        try:
            sys.modules["prefect.context"] = None  # type: ignore[assignment]
            warm.adopt(warm.Task("scene", ["a"], {"SHOP": "b"}, str(tmp_path)))
        finally:
            os._exit(70)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    said = capfd.readouterr()
    assert said.out == f"['a'] b {tmp_path}\n"
    assert "This flow run starts in a new process: ModuleNotFoundError" in said.err
