"""Services by their module, on a manager in memory, and the filters that write what services are made of."""

from __future__ import annotations

import configparser
import http.server
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.selfhosted.prefect.plugins.filter.services import (
    env_value,
    program_command,
    service_files,
    service_states,
    unit_command,
    unit_word,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.modules import host_services as services
from ansible_collections.selfhosted.prefect.plugins.modules.host_services import Manager, Status
from fake_api import FakeApi, now, outcome

NASTY = [
    "plain",
    "",
    " ",
    "p@:/%s #'\"$x`\\ and spaces ",
    "\\",
    "\\\\$HOME${HOME}$(id)`id`",
    "\\n \\t \\x41 \\u00e9",
    "# not a comment",
    "; not one either ; # nor this",
    "it's #1 ;2",
    "100% %i %% %(ENV_HOME)s",
    "Ünïcödé 🐙",
    "a\tb",
    '"quoted"',
    "!history -flag @file",
]
LINES = "-----BEGIN KEY-----\n#a\\b$c\n\n-----END KEY-----\n"


@dataclass
class Memory:
    """A `Manager` whose services are numbers in a dict. `crashing` ones get a new process at every look."""

    directory: Path
    processes: dict[str, int] = field(default_factory=dict)
    enabled: set[str] = field(default_factory=set)
    crashing: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    sources: dict[str, Path] = field(default_factory=dict)
    runs: bool = False
    spawned: int = 0
    fails: str = ""

    def spawn(self, name: str) -> None:
        self.spawned += 1
        self.processes[name] = self.spawned

    def reload(self, names: Iterable[str]) -> None:
        self.calls.append(f"reload {' '.join(names)}")

    def status(self, name: str) -> Status:
        if name in self.crashing and name in self.processes:
            self.spawn(name)
        return Status(
            pid=self.processes.get(name, 0),
            enabled=name in self.enabled,
            gone=name in self.given_up & {*self.processes},
        )

    def start(self, names: list[str]) -> None:
        self.calls.append(f"start {' '.join(names)}")
        if self.fails:
            raise services.ServiceError(self.fails)
        self.enabled.update(names)
        for name in names:
            self.spawn(name)

    def halt(self, name: str) -> None:
        self.calls.append(f"halt {name}")
        self.processes.pop(name, None)

    def stop(self, name: str) -> None:
        self.calls.append(f"stop {name}")
        self.processes.pop(name, None)
        self.enabled.discard(name)

    def forget(self, names: list[str]) -> None:
        self.calls.append(f"forget {' '.join(names)}")

    def log(self, name: str) -> str:
        return f"last words of {name}"

    def known(self, pattern: str) -> dict[str, list[Path]]:
        names = f"{pattern}*" if pattern.endswith("@") else pattern
        return {path.name: [path] for path in sorted(self.directory.iterdir()) if fnmatchcase(path.name, names)}

    def source(self, name: str) -> Path | None:
        return self.sources.get(name)

    def alive(self) -> bool:
        return self.runs

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        self.runs = False


@dataclass
class Host:
    """A directory of units and one of digests, and the manager between them."""

    directory: Path
    manager: Memory

    def unit(self, name: str, content: str = "unit") -> str:
        path = self.directory / "units" / name
        path.write_text(content)
        return str(path)

    def ensure(self, *names: str, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        wanted = [{"name": name, "files": [str(self.directory / "units" / name)]} for name in names]
        result: dict[str, Any] = outcome(
            services.main,
            check_mode=check_mode,
            **{
                "services": wanted,
                "state_dir": str(self.directory / "state"),
                "units_dir": str(self.directory / "units"),
                "supervisor": str(self.directory),
                **options,
            },
        )
        result.pop("invocation", None)
        return result

    def remembered(self) -> list[str]:
        return sorted(path.stem for path in (self.directory / "state").glob("*.healthy"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "units").mkdir()
    manager = Memory(tmp_path / "units")
    monkeypatch.setattr(services, "manager_of", lambda params: manager)
    monkeypatch.setattr(services, "POLL", 0.01)
    return Host(tmp_path, manager)


def test_the_double_is_a_manager(tmp_path: Path) -> None:
    manager: Manager = Memory(tmp_path)
    assert not manager.alive()


def test_who_waits_for_nothing_needs_no_certificate_authority(host: Host) -> None:
    host.unit("server")
    api: dict[str, Any] = {"api_url": "https://prefect.example.com/api", "api_ca": "/no/such/ca.crt"}
    assert host.ensure("server", check_mode=True, **api)["services"] == {"server": "started"}
    assert "no such file" in host.ensure("server", **api)["msg"]
    assert host.ensure(state="absent", prune=["server"], **api)["services"] == {"server": "removed"}


def test_dry_for_real_and_again(host: Host) -> None:
    host.unit("server")
    host.unit("worker")
    dry = host.ensure("server", "worker", check_mode=True)
    assert host.manager.calls == []
    assert not (host.directory / "state").exists()

    assert host.ensure("server", "worker") == dry
    assert dry == {"changed": True, "services": {"server": "started", "worker": "started"}}
    assert host.manager.calls == ["reload server worker", "start server worker"]
    assert host.remembered() == ["server", "worker"]

    assert host.ensure("server", "worker")["services"] == {"server": "unchanged", "worker": "unchanged"}
    assert len(host.manager.calls) == 2


def test_only_what_changed_is_restarted(host: Host) -> None:
    host.unit("server")
    host.unit("worker")
    host.ensure("server", "worker")
    host.unit("worker", "another")
    assert host.ensure("server", "worker")["services"] == {"server": "unchanged", "worker": "restarted"}
    assert host.manager.calls[2:] == ["reload worker", "start worker"]
    assert host.ensure("server", "worker")["changed"] is False


def test_a_run_that_was_killed_before_the_wait_ended_is_finished_by_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.unit("server")
    host.ensure("server")
    host.unit("server", "another")

    def killed(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(services, "wait", killed)
        host.ensure("server")
    host.unit("server")
    assert host.ensure("server")["services"] == {"server": "restarted"}
    assert host.ensure("server")["changed"] is False


RUNNING, STOPPED = Status(pid=1, enabled=True), Status()


@pytest.mark.parametrize(
    ("status", "state", "proven", "action"),
    [
        (RUNNING, "started", True, "unchanged"),
        (RUNNING, "started", False, "restarted"),
        (RUNNING, "restarted", True, "restarted"),
        (RUNNING, "stopped", True, "stopped"),
        (RUNNING, "halted", True, "halted"),
        (Status(enabled=True), "halted", True, "unchanged"),
        (Status(pending=True), "halted", True, "halted"),
        (Status(pending=True), "stopped", True, "stopped"),
        (STOPPED, "started", True, "started"),
        (STOPPED, "restarted", True, "started"),
        (STOPPED, "stopped", True, "unchanged"),
        (Status(enabled=True), "stopped", True, "stopped"),
        (Status(enabled=True), "started", True, "started"),
        (Status(pid=1), "started", True, "started"),
        (Status(pid=1), "stopped", False, "stopped"),
    ],
)
def test_action(status: Status, state: str, proven: bool, action: str) -> None:
    assert services.action_for(status, state=state, proven=proven) == action


def test_a_service_that_keeps_crashing_is_given_up(host: Host) -> None:
    host.unit("server")
    host.manager.crashing.add("server")
    result = host.ensure("server", services=[unhealthy(host, "server")], timeout=60)
    assert result["failed"]
    assert result["msg"].startswith("server does not stay up: correct what it complains of")
    assert result["msg"].endswith(" The end of its log:\nlast words of server")
    assert host.manager.spawned <= services.CRASHES + 2
    assert host.remembered() == []


def test_a_service_that_its_manager_gave_up_is_not_waited_for(host: Host) -> None:
    host.unit("server")
    host.manager.given_up.add("server")
    assert "does not stay up" in host.ensure("server", services=[unhealthy(host, "server")], timeout=60)["msg"]


def test_the_wait_has_a_bound_and_shows_the_log(host: Host) -> None:
    host.unit("server")
    result = host.ensure("server", services=[unhealthy(host, "server")], timeout=0)
    assert result["msg"] == "server is not healthy after 0 s. The end of its log:\nlast words of server"
    assert host.remembered() == []
    assert host.ensure("server")["services"] == {"server": "restarted"}


def test_the_log_of_a_service_that_rejects_a_setting_shows_no_secret(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = host.directory / "server.env"
    url = "postgresql+asyncpg://prefect:p%40canary4@db/prefect"
    settings = {
        "PREFECT_API_AUTH_STRING": "admin:canary1",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Any": ["canary2"]}',
        "PREFECT_API_DATABASE_CONNECTION_URL": url,
        "PREFECT_LOGGING_LEVEL": "NO_LEVEL",
    }
    file.write_text("".join(f"{name}={env_value(value)}\n" for name, value in settings.items()))
    # Pydantic writes the input that it rejects, a library the password that it could not use.
    log = f"input_value=['canary2'] admin:canary1 canary1 {url} p@canary4 NO_LEVEL"
    monkeypatch.setattr(host.manager, "log", lambda name: log)
    service = {**unhealthy(host, "server"), "settings": str(file)}
    host.unit("server")
    said = host.ensure(services=[service], timeout=0)["msg"]
    assert "canary" not in said
    assert said.endswith("NO_LEVEL")


def test_who_is_healthy_beside_a_failure_is_not_started_again(host: Host) -> None:
    host.unit("server")
    host.unit("worker")
    both = [{"name": "server", "files": [str(host.directory / "units" / "server")]}, unhealthy(host, "worker")]
    assert "worker is not healthy" in host.ensure(services=both, timeout=0)["msg"]
    assert host.remembered() == ["server"]
    assert host.ensure("server", "worker")["services"] == {"server": "unchanged", "worker": "restarted"}


def test_a_manager_that_cannot_start_says_why(host: Host) -> None:
    host.manager.fails = "Unit is masked."
    result = host.ensure("server")
    assert (result["msg"], result["services"]) == ("Unit is masked.", {"server": "started"})


def test_an_address_that_is_none(host: Host) -> None:
    assert "should look like" in host.ensure("server", api_url="localhost")["msg"]
    assert host.manager.calls == []


def test_stopped_dry_for_real_and_again(host: Host) -> None:
    host.unit("server")
    host.ensure("server")
    host.manager.calls.clear()
    assert host.ensure("server", state="stopped", check_mode=True)["services"] == {"server": "stopped"}
    assert host.manager.calls == []
    assert host.ensure("server", state="stopped")["services"] == {"server": "stopped"}
    assert host.manager.calls == ["stop server"]
    assert host.ensure("server", state="stopped")["changed"] is False


def test_halted_and_still_enabled(host: Host) -> None:
    host.unit("server")
    host.ensure("server")
    host.manager.calls.clear()
    assert host.ensure("server", state="halted", check_mode=True)["services"] == {"server": "halted"}
    assert host.manager.calls == []
    assert host.ensure("server", state="halted")["services"] == {"server": "halted"}
    assert host.manager.calls == ["halt server"] and host.manager.status("server") == Status(enabled=True)
    assert host.ensure("server", state="halted")["changed"] is False


def test_absent_dry_for_real_and_again(host: Host) -> None:
    for name in ("server", "worker@", "worker@one", "worker@left-over", "foreign"):
        host.unit(name)
    host.ensure("server", "worker@one")
    absent: dict[str, Any] = {"state": "absent", "prune": ["server", "worker@"], "shutdown": True}
    host.manager.runs = True
    host.manager.calls.clear()
    dry = host.ensure("server", "worker@one", check_mode=True, **absent)
    assert host.manager.calls == []
    assert host.ensure("server", "worker@one", **absent) == dry
    assert dry["services"] == dict.fromkeys(("server", "worker@", "worker@one", "worker@left-over"), "removed")
    assert host.manager.calls[-2:] == ["forget server worker@ worker@left-over worker@one", "shutdown"]
    assert [path.name for path in (host.directory / "units").iterdir()] == ["foreign"]
    assert host.remembered() == []
    assert host.ensure("server", "worker@one", **absent) == {
        "changed": False,
        "services": {"server": "unchanged", "worker@one": "unchanged"},
    }


def test_absent_stops_what_runs_without_its_files(host: Host) -> None:
    host.manager.start(["server"])
    assert host.ensure("server", state="absent")["services"] == {"server": "removed"}
    assert host.manager.processes == {}


@pytest.mark.parametrize("ledger", [True, False])
def test_absent_leaves_a_packages_unit_of_the_name(host: Host, monkeypatch: pytest.MonkeyPatch, ledger: bool) -> None:
    packaged = host.directory / "usr"
    packaged.mkdir()
    monkeypatch.setitem(ledgers.UNITS, "system", [packaged])
    host.manager.start(["server"])
    host.manager.sources["server"] = packaged / "server.service"
    (packaged / "server.service").write_text("# Ansible managed\n")
    given: dict[str, Any] = {"name": str(host.directory / "ledgers/prefect.json")}
    assert host.ensure("server", state="absent", ledger=given if ledger else None)["services"] == {
        "server": "unchanged"
    }
    assert "server" in host.manager.processes


@pytest.mark.parametrize("source", ["usr", "units", ""])
def test_an_instance_that_only_a_link_enables_belongs_to_its_template(
    host: Host, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setitem(ledgers.UNITS, "system", [host.directory / "usr"])
    monkeypatch.setattr(host.manager, "known", lambda _: {"worker@etl": []})
    (host.directory / "usr").mkdir()
    template = host.directory / source / "worker@"
    if source:
        template.write_text("unit")
        host.manager.sources["worker@etl"] = template
    state = host.directory / "ledgers/prefect.json"
    state.parent.mkdir()
    entry = {"kind": "file", "name": str(host.directory / "units/worker@"), "part": "prefect", "origin": "created"}
    book = {"format": 1, "recognized": False, "parents": [], "entries": {f"file {entry['name']}": entry}}
    state.write_text(json.dumps(book))
    host.manager.start(["worker@etl"])
    ended = host.ensure(prune=["worker@"], state="absent", ledger={"name": str(state)})["services"]
    assert ended == ({"worker@etl": "removed"} if source == "units" else {})


def test_systemd_says_what_a_service_runs_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systemctl").write_text(
        '#!/bin/sh\ncase "$*" in *FragmentPath*one.service) echo /usr/lib/one.service ;; esac'
    )
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    manager = services.Systemd(scope="system", units=tmp_path, logs=tmp_path, linger=tmp_path / "linger")
    assert (manager.source("one"), manager.source("two")) == (Path("/usr/lib/one.service"), None)


def test_surplus_is_removed_and_the_template_stays(host: Host) -> None:
    for name in ("worker@", "worker@one", "worker@two", "worker-of-another@three"):
        host.unit(name)
    host.ensure("worker@one", "worker@two", prune=["worker@"])
    host.manager.calls.clear()
    assert host.ensure("worker@one", prune=["worker@"])["services"] == {
        "worker@one": "unchanged",
        "worker@two": "removed",
    }
    assert host.manager.calls == ["stop worker@two", "forget worker@two"]
    assert not (host.directory / "units" / "worker@two").exists()
    assert (host.directory / "units" / "worker@").exists()
    assert (host.directory / "units" / "worker-of-another@three").exists()
    assert host.remembered() == ["worker@one"]


def test_without_a_manager_nothing_runs(host: Host) -> None:
    host.unit("server")
    assert host.ensure("server", manager="none") == {"changed": False, "services": {"server": "unchanged"}}
    assert host.manager.calls == []


def test_systemd_knows_instances_by_links_and_drop_ins(tmp_path: Path) -> None:
    (tmp_path / "multi-user.target.wants").mkdir()
    (tmp_path / "multi-user.target.wants" / "w@enabled.service").symlink_to(tmp_path / "w@.service")
    (tmp_path / "w@.service").write_text("")
    for name in ("w@full", "w@empty", "other@x"):
        (tmp_path / f"{name}.service.d").mkdir()
    (tmp_path / "w@full.service.d" / "instance.conf").write_text("")
    given = {
        "manager": "systemd",
        "scope": "system",
        "units_dir": str(tmp_path),
        "log_dir": str(tmp_path),
        "state_dir": "",
    }
    known = services.manager_of(given).known("w@")
    assert known == {
        "w@": [tmp_path / "w@.service"],
        "w@enabled": [],
        "w@full": [tmp_path / "w@full.service.d" / "instance.conf", tmp_path / "w@full.service.d"],
        "w@empty": [tmp_path / "w@empty.service.d"],
    }
    services.remove(Memory(tmp_path), known, state_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["multi-user.target.wants", "other@x.service.d"]


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {0}/calls
case "$*" in
  *NeedDaemonReload*) echo yes ;;
  *ActiveState*) cat {0}/state ;;
esac
"""


@pytest.mark.parametrize(("state", "action"), [("activating", "halted"), ("failed", "unchanged")])
def test_a_service_that_systemd_starts_again_after_a_pause_is_halted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, action: str
) -> None:
    """Otherwise it would start in the middle of what it was halted for."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "state").write_text(f"ActiveState={state}\nMainPID=0\nUnitFileState=enabled\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    manager = services.Systemd(scope="system", units=tmp_path, logs=tmp_path, linger=tmp_path / "linger")
    assert services.action_for(manager.status("server"), state="halted", proven=True) == action


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("ActiveState=active\nUnitFileState=enabled\n", "unchanged"),
        ("ActiveState=inactive\nUnitFileState=enabled\n", "started"),
        ("ActiveState=active\nUnitFileState=disabled\n", "started"),
    ],
)
def test_a_timer_is_enabled_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, action: str) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "state").write_text(state)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    manager = services.Systemd(scope="system", units=tmp_path, logs=tmp_path, linger=tmp_path / "linger")
    status = manager.status("backup.timer")
    assert services.action_for(status, state="started", proven=True) == action
    (tmp_path / "calls").write_text("")
    manager.reload(["backup.timer"])
    manager.start(["backup.timer"])
    manager.halt("backup.timer")
    manager.stop("backup.timer")
    # What it starts is never started or enabled with it, and ends with it.
    assert (tmp_path / "calls").read_text().replace("--system ", "").splitlines() == [
        "show --property=NeedDaemonReload --value backup.timer backup.service",
        "daemon-reload",
        "reset-failed backup.timer",
        "enable --quiet backup.timer",
        "restart backup.timer",
        "stop backup.timer backup.service",
        "disable --quiet --now backup.timer",
        "stop backup.timer backup.service",
    ]
    for name in ("backup.service", "backup.timer"):
        (tmp_path / name).write_text("")
    assert manager.known("backup.timer") == {"backup.timer": [tmp_path / "backup.timer", tmp_path / "backup.service"]}


def test_systemd_shows_the_end_of_a_log_file_where_there_is_one(tmp_path: Path) -> None:
    given = {
        "manager": "systemd",
        "scope": "system",
        "units_dir": str(tmp_path),
        "log_dir": str(tmp_path),
        "state_dir": "",
    }
    lines = [f"line {number}" for number in range(services.LOG_LINES + 1)]
    (tmp_path / "server.log").write_bytes("\n".join(lines).encode() + b"\xff\n")
    assert services.manager_of(given).log("server") == "\n".join(lines[1:]) + "\ufffd"


def test_a_drop_in_of_another_owner_stays(tmp_path: Path) -> None:
    directory = tmp_path / "server.service.d"
    directory.mkdir()
    for name in ("instance.conf", "override.conf"):
        (directory / name).write_text("")
    services.remove(Memory(tmp_path), {"server": [directory / "instance.conf"]}, state_dir=tmp_path)
    assert [path.name for path in directory.iterdir()] == ["override.conf"]


def test_supervisord_knows_programs_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in ("w@one", "w@two", "server", "server-2"):
        (tmp_path / "conf.d" / f"{name}.conf").write_text("")
    manager = services.Supervisord(tmp_path)
    assert sorted(manager.known("w@")) == ["w@one", "w@two"]
    assert manager.known("server") == {"server": [tmp_path / "conf.d" / "server.conf"]}
    assert not manager.alive()
    assert manager.status("server") == Status()


def test_supervisord_starts_without_the_environment_of_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps what it started with, and hands it on to every flow."""
    for name, script in {"supervisord": f"env > {tmp_path}/environment", "supervisorctl": "exit 1"}.items():
        program = tmp_path / "current/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("VAULT_TOKEN", "hush")
    services.Supervisord(tmp_path).reload([])
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"HOME", "LANG", "LOGNAME", "PATH", "USER"}


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not services.ended(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert services.ended(process.pid)
    process.communicate()
    assert services.ended(process.pid)


def test_digest(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    seen = set()

    def note(*paths: Path) -> None:
        seen.add(services.digest(map(str, paths)))

    note(a)
    a.write_text("")
    note(a)
    a.write_text("x")
    note(a)
    note(a, b)
    b.symlink_to("releases/1")
    note(a, b)
    b.unlink()
    b.symlink_to("releases/2")
    note(a, b)
    note(b, a)
    assert len(seen) == 7
    note(b, a)
    assert len(seen) == 7


def test_digest_of_a_directory_is_that_of_its_code(tmp_path: Path) -> None:
    def digest() -> str:
        return services.digest([str(tmp_path)])

    empty = digest()
    (tmp_path / "flows").mkdir()
    (tmp_path / "data.csv").write_text("1")
    assert digest() == empty
    (tmp_path / "flows" / "a.py").write_text("1")
    first = digest()
    (tmp_path / "flows" / "a.py").write_text("2")
    assert len({empty, first, digest()}) == 3


@dataclass
class Site:
    """A web server on the loopback that gives one answer, bytes as they are."""

    answer: bytes = b"HTTP/1.0 200 OK\r\n\r\n"
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    here = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            self.wfile.write(here.answer)
            self.close_connection = True

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        here.url = f"http://127.0.0.1:{server.server_port}/api/ready"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield here
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unhealthy(host: Host, name: str) -> dict[str, Any]:
    files = [str(host.directory / "units" / name)]
    return {"name": name, "files": files, "health": {"url": f"http://127.0.0.1:{free_port()}/"}}


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", False),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.0 204 No Content\r\n\r\n", False),
        (b"what?\r\n\r\n", False),
        (b"", False),
    ],
)
def test_a_service_is_healthy_when_its_address_answers_200(site: Site, answer: bytes, healthy: bool) -> None:
    site.answer = answer
    assert services.answers(site.url) is healthy


def test_no_proxy_is_asked_how_a_service_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert services.answers(site.url)


@pytest.mark.parametrize(("auth", "healthy"), [("admin:s3cret", True), ("admin:other", False), (None, False)])
def test_a_server_is_healthy_when_it_answers_with_the_credential(
    host: Host, monkeypatch: pytest.MonkeyPatch, auth: str | None, healthy: bool
) -> None:
    """`/ready` answers anyone, also where each request of a client fails."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with FakeApi() as api:
        api.auth = "admin:s3cret"
        monkeypatch.setattr(services, "answers", lambda url: url == f"{api.url}/ready")
        health = {"url": f"{api.url}/ready", "api": api.url}
        server = {"name": "server", "files": [str(host.directory / "units" / "server")], "health": health}
        said = host.ensure(services=[server], timeout=0, api_auth=auth)
        assert bool(said.get("failed")) is not healthy
        assert healthy or f"The API said: GET {api.url}/admin/version: 401 Unauthorized" in said["msg"]
        assert "s3cret" not in str(said.get("msg"))


@pytest.mark.parametrize(("version", "healthy"), [("", True), ("3.9.1", True), ("3.8.8", False)])
def test_a_server_of_another_version_is_not_healthy(
    host: Host, monkeypatch: pytest.MonkeyPatch, version: str, healthy: bool
) -> None:
    monkeypatch.setattr(services, "answers", lambda url: True)
    with FakeApi() as api:
        api.version = "3.9.1"
        health = {"url": f"{api.url}/ready", "api": api.url, "version": version}
        server = {"name": "server", "files": [str(host.directory / "units" / "server")], "health": health}
        assert bool(host.ensure(services=[server], timeout=0).get("failed")) is not healthy


def test_nothing_listens() -> None:
    assert not services.answers(f"http://127.0.0.1:{free_port()}/")


def prepared(host: Host, script: str, **more: Any) -> list[dict[str, Any]]:
    """Return two services that share a preparation, which runs with their settings."""
    (host.directory / "settings.env").write_text('WORDS="it\'s \\"said\\""\n')
    return [
        {
            "name": name,
            "files": [host.unit(name)],
            "settings": str(host.directory / "settings.env"),
            "prepare": {"command": ["/bin/sh", "-c", script]},
            **more,
        }
        for name in ("server", "services")
    ]


def test_what_comes_before_the_start_comes_once_and_only_then(host: Host) -> None:
    noted = host.directory / "noted"
    both = prepared(host, f'echo "$WORDS" >> {noted}')
    assert host.ensure(services=both, check_mode=True)["changed"]
    assert not noted.exists()
    host.ensure(services=both)
    assert noted.read_text() == 'it\'s "said"\n'
    host.ensure(services=both)
    assert noted.read_text() == 'it\'s "said"\n'
    assert host.remembered() == ["server", "services"]


def test_nothing_starts_where_what_comes_before_fails(host: Host) -> None:
    both = prepared(host, "echo first; echo prefect_version: it is older than its database >&2; exit 3")
    said = host.ensure(services=both)["msg"]
    assert said.endswith("exit code 3\nfirst\nprefect_version: it is older than its database")
    assert host.manager.processes == {}
    assert host.remembered() == []


def test_a_service_is_healthy_when_its_command_says_so(host: Host) -> None:
    health = {"command": ["/bin/sh", "-c", '[ "$WORDS" ] && [ "$1" = 2 ]', "sh"]}
    first, second = prepared(host, "true", health=health)
    said = host.ensure(services=[first, second], timeout=1)["msg"]
    assert said.startswith("server is not healthy after 1 s")
    assert host.remembered() == ["services"]


def test_a_worker_is_healthy_when_the_api_has_heard_of_it_since(host: Host) -> None:
    host.unit("worker")
    health = {"pool": "main", "worker": "one"}
    worker = {"name": "worker", "files": [str(host.directory / "units" / "worker")], "health": health}
    with FakeApi() as api:
        options: dict[str, Any] = {"services": [worker], "api_url": api.url, "timeout": 0}
        assert "The API said: " in host.ensure(**options)["msg"]
        api.add_pool("main")
        api.add_worker("main", "one", heartbeat="2026-01-01T00:00:00Z")
        assert "worker is not healthy" in host.ensure(**options)["msg"]
        api.workers["main"][0]["last_heartbeat_time"] = now()
        before = datetime(2026, 1, 2, tzinfo=timezone.utc)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(services, "datetime", type("Clock", (), {"now": staticmethod(lambda zone: before)}))
            assert host.ensure(**options)["services"] == {"worker": "restarted"}


def test_rolling_stops_one_worker_at_a_time_and_waits_for_the_next_one(host: Host) -> None:
    """The last heartbeat of a worker that drains comes after the restart has begun, and is not that of the next one."""
    units = str(host.directory / "units")
    workers = [
        {"name": name, "files": [f"{units}/{name}"], "health": {"pool": "main", "worker": name}}
        for name in ("one", "two")
    ]
    with FakeApi() as api:
        api.add_pool("main")
        for name in ("one", "two"):
            host.unit(name)
            api.add_worker("main", name, heartbeat="2100-01-01T00:00:00Z")
        options: dict[str, Any] = {"services": workers, "api_url": api.url, "timeout": 0, "rolling": True}
        assert host.ensure(**options)["services"] == {"one": "started", "two": "started"}
        assert [call for call in host.manager.calls if call.startswith("start")] == ["start one two"]
        for name in ("one", "two"):
            host.unit(name, "changed")
        host.manager.calls.clear()
        assert host.ensure(**options)["services"] == {"one": "restarted", "two": "restarted"}
        turns = [[f"halt {name}", f"reload {name}", f"start {name}"] for name in ("one", "two")]
        assert host.manager.calls == [*turns[0], *turns[1]]

        times = {"now": datetime(2026, 1, 1, tzinfo=timezone.utc)}

        def halt(name: str) -> None:
            Memory.halt(host.manager, name)
            times["now"] = datetime(2200, 1, 1, tzinfo=timezone.utc)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(services, "datetime", type("Clock", (), {"now": staticmethod(lambda zone: times["now"])}))
            patched.setattr(host.manager, "halt", halt)
            host.manager.calls.clear()
            said = host.ensure(**options, state="restarted")["msg"]
        assert said.startswith("one is not healthy after 0 s")
        assert not [call for call in host.manager.calls if "two" in call] and "two" in host.manager.processes


def systemd_environment(text: str) -> dict[str, str]:
    """Read an EnvironmentFile as systemd.exec(5) says that systemd does, double quotes alone."""
    found, rest = {}, text
    while rest:
        head = re.match(r'(?:[#;][^\n]*|\s*)\n|([A-Za-z_]\w*)="', rest)
        assert head, f"systemd would read something else here: {rest!r}"
        rest = rest[head.end() :]
        if head[1] is None:
            continue
        value = ""
        while not rest.startswith('"'):
            if rest[0] == "\\":
                # Before anything but these a backslash is one.
                value += rest[1] if rest[1] in '"\\`$' else "" if rest[1] == "\n" else rest[:2]
                rest = rest[2:]
            else:
                value += rest[0]
                rest = rest[1:]
        assert rest.startswith('"\n')
        rest, found[head[1]] = rest[2:], value
    return found


def shell_environment(path: Path) -> dict[str, str]:
    """Read a file of settings as a shell does."""
    printed = "import json, os; print(json.dumps(dict(os.environ)))"
    command = f"set -a; . {shlex.quote(str(path))}; exec {shlex.quote(sys.executable)} -c {shlex.quote(printed)}"
    shell = subprocess.run(["/bin/sh", "-ec", command], capture_output=True, check=True, env={"LANG": "C.UTF-8"})
    return dict(json.loads(shell.stdout))


def test_settings_are_the_same_for_systemd_and_for_a_shell(tmp_path: Path) -> None:
    wanted = {f"V{number}": value for number, value in enumerate([*NASTY, LINES])}
    text = "# Ansible managed\n" + "".join(f"{name}={env_value(value)}\n" for name, value in wanted.items())
    (tmp_path / "settings.env").write_text(text)
    assert systemd_environment(text) == wanted
    assert shell_environment(tmp_path / "settings.env").items() >= wanted.items()
    assert services.settings_of(str(tmp_path / "settings.env")) == wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, ""),
        (4200, "4200"),
        (0.5, "0.5"),
        (["a", "ü"], '["a", "\\u00fc"]'),
        ({"b": {"c": None}, "a": "$"}, '{"a": "$", "b": {"c": null}}'),
    ],
)
def test_settings_are_written_as_prefect_wants_them(value: Any, text: str) -> None:
    assert systemd_environment(f"NAME={env_value(value)}\n") == {"NAME": text}


@pytest.mark.parametrize("value", ["a\rb", "a\0b", "\x1b[31m", "\x7f"])
def test_what_systemd_would_drop_is_refused(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="control character"):
        env_value(value)


def systemd_words(text: str, *, expands: bool = True) -> list[str]:
    """Split a line of a unit as systemd.syntax(7) and systemd.service(5) say that systemd does."""
    words = []
    for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"\\]+)', text):
        word = re.sub(r'\\([\\"n])', lambda found: {"n": "\n"}.get(found[1], found[1]), quoted or bare)
        assert not re.search(r"(?<!%)(%%)*%(?!%)", word), f"a specifier: {word}"
        word = word.replace("%%", "%")
        if expands:
            assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", word), f"a variable: {word}"
            word = word.replace("$$", "$")
        words.append(word)
    assert "\n" not in text
    return words


@pytest.mark.parametrize("word", [*NASTY, LINES])
def test_a_unit_takes_words_literally(word: str) -> None:
    assert systemd_words(unit_command(["/bin/echo", word, 1])) == ["/bin/echo", word, "1"]
    assert systemd_words(unit_word(f"NAME={word}"), expands=False) == [f"NAME={word}"]


def test_plain_words_stay_readable() -> None:
    assert unit_command(["/opt/prefect/current/bin/prefect", "--limit", 10]) == (
        "/opt/prefect/current/bin/prefect --limit 10"
    )


def test_a_program_gets_its_settings_and_words(tmp_path: Path) -> None:
    """Read as supervisord 4.3 reads it: a configuration with comments at the ends of lines, `%` and shlex."""
    settings = tmp_path / "a dir; #1" / "it's 100%.env"
    settings.parent.mkdir()
    settings.write_text(f"FROM_FILE={env_value(NASTY[3])}\nBOTH=file\n")
    printed = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    service = {
        "command": [sys.executable, "-c", printed, *NASTY],
        "environment": {"OWN": NASTY[8], "BOTH": "service", "PORT": 1},
    }
    configuration = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    configuration.read_string(f"[program:x]\ncommand={program_command(service, str(settings))}\n")
    words = shlex.split(configuration["program:x"]["command"] % {})
    shell = subprocess.run(words, capture_output=True, check=True, env={"LANG": "C.UTF-8"})
    arguments, environment = json.loads(shell.stdout)
    assert arguments == NASTY
    assert environment.items() >= {"FROM_FILE": NASTY[3], "OWN": NASTY[8], "BOTH": "service", "PORT": "1"}.items()


def test_a_program_is_its_shell_so_that_signals_reach_it(tmp_path: Path) -> None:
    (tmp_path / "settings.env").write_text("")
    command = program_command({"command": ["/bin/sh", "-c", "echo $$"]}, str(tmp_path / "settings.env"))
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0].strip() == str(process.pid)


def test_a_program_refuses_line_breaks() -> None:
    with pytest.raises(AnsibleFilterError, match="line break"):
        program_command({"command": ["echo", LINES]}, "/etc/prefect/server.env")


SERVER = {
    "name": "prefect-server",
    "account": {"user": "prefect", "group": "prefect"},
    "settings_file": "server.env",
    "health": {"url": "http://127.0.0.1:4200/api/ready"},
}
WORKERS = [
    {
        "name": f"prefect-worker@{name}",
        "template": "prefect-worker@",
        "account": {"user": "prefect-worker", "group": "flows"},
        "settings_file": "worker.env",
        "watch": ["/ca"],
    }
    for name in ("one", "two")
]
DIRS = {"units": "/units", "etc": "/etc/prefect", "opt": "/opt/prefect"}
UNITS = {
    "/etc/prefect/server.env": "etc/prefect/settings.env.j2",
    "/units/prefect-server.service": "etc/systemd/system/service.j2",
    "/etc/prefect/worker.env": "etc/prefect/settings.env.j2",
    "/units/prefect-worker@.service": "etc/systemd/system/service.j2",
    "/units/prefect-worker@one.service.d/instance.conf": "etc/systemd/system/instance.conf.j2",
    "/units/prefect-worker@two.service.d/instance.conf": "etc/systemd/system/instance.conf.j2",
}
PROGRAMS = {
    "/etc/prefect/server.env": "etc/prefect/settings.env.j2",
    "/supervisor/conf.d/prefect-server.conf": "opt/prefect/supervisor/program.conf.j2",
    "/etc/prefect/worker.env": "etc/prefect/settings.env.j2",
    "/supervisor/conf.d/prefect-worker@one.conf": "opt/prefect/supervisor/program.conf.j2",
    "/supervisor/conf.d/prefect-worker@two.conf": "opt/prefect/supervisor/program.conf.j2",
}


@pytest.mark.parametrize(("manager", "wanted"), [("systemd", UNITS), ("supervisord", PROGRAMS)])
def test_the_files_of_services(manager: str, wanted: dict[str, str]) -> None:
    seen = {"service_manager": manager, "dirs": DIRS}
    files = service_files([SERVER, *WORKERS], seen, "/supervisor")
    assert {file["path"]: file["template"] for file in files} == wanted
    for file in files:
        secret = file["path"].endswith(".env")
        assert file.get("secret", False) is secret
        assert file["mode"] == ("0640" if secret else "0644")
        readers = {"/etc/prefect/server.env": "prefect", "/etc/prefect/worker.env": "flows"}
        assert file.get("group") == readers.get(file["path"])
    assert [file["vars"]["service"]["name"] for file in files[-2:]] == ["prefect-worker@one", "prefect-worker@two"]


BACKUP = {
    "name": "prefect-backup.timer",
    "schedule": "daily",
    "account": {"user": "root", "group": "root"},
    "settings_file": "backup.env",
}


def test_a_service_with_a_schedule_is_a_timer_and_what_it_starts() -> None:
    seen = {"service_manager": "systemd", "dirs": DIRS}
    assert {file["path"]: file["template"] for file in service_files([BACKUP], seen, "/supervisor")} == {
        "/etc/prefect/backup.env": "etc/prefect/settings.env.j2",
        "/units/prefect-backup.service": "etc/systemd/system/job.service.j2",
        "/units/prefect-backup.timer": "etc/systemd/system/timer.j2",
    }
    (state,) = service_states([BACKUP], seen, "/supervisor")
    assert state["name"] == "prefect-backup.timer" and len(state["files"]) == 3


def test_a_service_brings_files_of_its_own() -> None:
    seen = {"service_manager": "systemd", "dirs": DIRS}
    tool = {"path": "/opt/prefect/tool", "template": "opt/prefect/tool.j2", "mode": "0755"}
    both: list[dict[str, Any]] = [{**SERVER, "files": [tool]}, {**WORKERS[0], "files": [tool]}]
    files = service_files(both, seen, "/supervisor")
    assert [file["mode"] for file in files if file["path"] == "/opt/prefect/tool"] == ["0755"]
    assert all("/opt/prefect/tool" in state["files"] for state in service_states(both, seen, "/supervisor"))


def test_the_states_of_services() -> None:
    seen = {"service_manager": "systemd", "dirs": DIRS}
    states = service_states([SERVER, *WORKERS], seen, "/supervisor")
    assert [state["name"] for state in states] == ["prefect-server", "prefect-worker@one", "prefect-worker@two"]
    assert states[0]["health"] == SERVER["health"]
    assert [state["user"] for state in states] == ["prefect", "prefect-worker", "prefect-worker"]
    assert states[1]["files"] == [path for path in UNITS if "worker" in path and "two" not in path]
    assert states[1]["watch"] == ["/opt/prefect/current", "/ca"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account's commands to run")
def test_a_command_of_a_service_has_the_rights_and_settings_of_its_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PLAY", "s3cret")
    settings = tmp_path / "celery.env"
    settings.write_text('CELERY_BROKER_URL="redis://:p4ss@h/2"\n')
    settings.chmod(0o600)
    done = services.run_for({"settings": str(settings), "user": "daemon"}, ["/bin/sh", "-c", "id; env"], timeout=30)
    assert "uid=1(daemon) gid=1(daemon) groups=1(daemon)\n" in done.stdout
    assert "CELERY_BROKER_URL=redis://:p4ss@h/2\n" in done.stdout
    assert "s3cret" not in done.stdout
