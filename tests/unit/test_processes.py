"""Commands that root runs as another account end in time, and enter no directory as root."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import processes
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import TimedOutError, run_as
from ansible_collections.selfhosted.prefect.plugins.modules import host_services as services

ENV = {"PATH": "/usr/bin:/bin"}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands of other accounts")


def test_what_a_command_reads_and_prints(tmp_path: Path) -> None:
    text = "x" * 300_000
    done = run_as(
        None, ["sh", "-c", "cat; pwd; echo no >&2; exit 3"], timeout=30, env=ENV, stdin=text, directory=tmp_path
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{text}{tmp_path}\n", "no\n", 3)
    merged = run_as(None, ["sh", "-c", "echo a; echo b >&2"], timeout=30, env=ENV, merge=True)
    assert (merged.stdout, merged.stderr) == ("a\nb\n", "")
    # It ends before it has read.
    assert run_as(None, ["true"], timeout=30, env=ENV, stdin=text).returncode == 0


def test_code_that_sleeps_is_killed_with_what_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    script = f"echo $$ > {tmp_path}/a; sleep 300 & echo $! > {tmp_path}/b; echo begun; wait"
    with pytest.raises(TimedOutError, match=r"no end after 0\.5 s") as raised:
        run_as(None, ["sh", "-c", script], timeout=0.5, env=ENV)
    assert raised.value.output == "begun\n" and time.monotonic() - started < 20
    left = [int((tmp_path / name).read_text()) for name in "ab"]
    while not all(map(services.ended, left)) and time.monotonic() - started < 60:
        time.sleep(0.1)
    assert all(map(services.ended, left))


def test_code_that_closes_its_output_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TimedOutError):
        run_as(None, ["sh", "-c", "exec >&- 2>&-; sleep 300"], timeout=0.5, env=ENV)


def test_code_that_prints_without_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MOST", 2**20)
    with pytest.raises(TimedOutError, match="more than 1 MiB of output"):
        run_as(None, ["yes"], timeout=60, env=ENV)


@as_root
def test_the_account_enters_the_directory(tmp_path: Path) -> None:
    """Root could enter a directory that is closed to the account."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    daemon = pwd.getpwnam("daemon")
    done = run_as(daemon, ["pwd"], timeout=30, env=ENV, directory=tmp_path / "closed")
    assert done.returncode and "cd" in done.stderr and not done.stdout
    done = run_as(daemon, ["sh", "-c", "id -un; id -Gn; pwd"], timeout=30, env=ENV, directory=tmp_path)
    assert done.stdout == f"daemon\ndaemon\n{tmp_path}\n"


def test_a_check_that_sleeps_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "CHECKED", 0.5)
    assert not services.succeeds({"user": None, "settings": None}, ["sleep", "300"])
    assert services.succeeds({"user": None, "settings": None}, ["true"])


def test_what_comes_before_a_service_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PREPARED", 0.5)
    service = {"user": None, "settings": None, "prepare": {"command": ["sh", "-c", "echo begun; sleep 300"]}}
    with pytest.raises(services.ServiceError, match=r"no end after 0\.5 s\nbegun"):
        services.prepare([service])
