"""What is read from a host, and every problem that is found there."""

from __future__ import annotations

import ast
import grp
import io
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import interpreter, ports, uv
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import opened
from ansible_collections.selfhosted.prefect.plugins.modules import host_backend as backend
from ansible_collections.selfhosted.prefect.plugins.modules import host_preflight as preflight
from ansible_collections.selfhosted.prefect.plugins.modules.host_preflight import (
    accounts,
    base_name,
    derived_account,
    directories,
    has_account,
    is_settled,
    unfit_accounts,
)
from fake_api import FakeApi, outcome

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the system scope is root's")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of the user who runs the module: everything is found below it in the user scope."""
    account = list(pwd.getpwuid(os.getuid()))
    account[5] = str(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(account))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    return tmp_path


def look(**options: Any) -> dict[str, Any]:
    result: dict[str, Any] = outcome(
        preflight.main, **{"scope": "user", "service_manager": "none", "python": sys.executable, **options}
    )
    result.pop("invocation", None)
    return result


def problems(**options: Any) -> list[str]:
    """Return the problems that the message holds, which has to be all of them."""
    result = look(**options)
    found: list[str] = result.get("problems", [])
    assert result.get("msg", "") == "\n".join(found)
    assert bool(result.get("failed")) is bool(found)
    return found


@pytest.mark.parametrize(
    ("instance", "name"),
    [
        ("prefect", "prefect"),
        ("blue", "prefect-blue"),
        ("prefect-blue", "prefect-blue"),
        ("prefect3", "prefect3"),
        ("my-prefect", "prefect-my-prefect"),
    ],
)
def test_base_name(instance: str, name: str) -> None:
    assert base_name(instance) == name


SYSTEM = {
    "opt": "/opt/prefect-blue",
    "etc": "/etc/prefect-blue",
    "home": "/var/lib/prefect-blue",
    "log": "/var/log/prefect-blue",
    "bin": "/usr/local/bin",
    "units": "/etc/systemd/system",
}
USER = {
    "opt": "/home/me/.local/share/prefect-blue",
    "etc": "/home/me/.config/prefect-blue",
    "home": "/home/me/.local/state/prefect-blue",
    "log": "/home/me/.local/state/prefect-blue/log",
    "bin": "/home/me/.local/bin",
    "units": "/home/me/.config/systemd/user",
}


@pytest.mark.parametrize(("scope", "derived"), [("system", SYSTEM), ("user", USER)])
@pytest.mark.parametrize("given", [{}, {"opt": "", "etc": "", "home": ""}, {"opt": "/srv/o", "etc": "", "home": "/h"}])
def test_directories(scope: str, derived: dict[str, str], given: dict[str, str]) -> None:
    chosen = {purpose: path for purpose, path in given.items() if path}
    assert directories(name="prefect-blue", scope=scope, user_home="/home/me", given=given) == derived | chosen


def test_what_a_good_host_says(home: Path) -> None:
    said = look(instance="blue", home=str(home / "data"))
    assert said == {
        "changed": False,
        "addresses": {},
        "components": {},
        "environments": {},
        "other_environments": [],
        "fingerprints": {},
        "installation": {"id": said["installation"]["id"], "formerly": {}},
        "instance": "blue",
        "name": "prefect-blue",
        "scope": "user",
        "service_manager": "none",
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "group": said["group"],
        "worker_user": pwd.getpwuid(os.getuid()).pw_name,
        "worker_group": said["group"],
        "operators": said["group"],
        "separate": False,
        "settled": True,
        "confinement": {},
        "accounts": [pwd.getpwuid(os.getuid()).pw_name],
        "user_groups": said["user_groups"],
        "members": said["members"],
        "uid": os.getuid(),
        "uv": "",
        "address": "",
        "peer_addresses": [],
        "architecture": os.uname().machine,
        "dirs": directories(name="prefect-blue", scope="user", user_home=str(home), given={"home": str(home / "data")})
        | {"worker": str(home / "data")},
        "home_present": False,
        "release_present": False,
        "release_current": False,
        "release": "",
        "version": "",
        "wanted": "",
        "upgrade": {},
        "python": {"path": os.path.realpath(sys.executable), "version": ".".join(map(str, sys.version_info[:3]))},
        "pythons_seen": [],
    }
    assert list(home.iterdir()) == []


def test_an_installation_keeps_its_id_and_generates_one_only_where_it_has_none(home: Path) -> None:
    one, two = look()["installation"], look()["installation"]
    assert one["id"] != two["id"]
    kept = home / ".local/share/prefect/state/installation"
    kept.parent.mkdir(parents=True)
    kept.write_text("#\n# Ansible managed\n#\n" + json.dumps(one | {"formerly": {"default": "localhost-default"}}))
    assert look()["installation"] == one | {"formerly": {"default": "localhost-default"}}
    kept.write_text("torn")
    assert re.fullmatch("[0-9a-f]{32}", look()["installation"]["id"])


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (".config/systemd/user/{}.service.d/instance.conf", "ExecStart=/p --no-prompt worker start --name {} --pool x"),
        (".config/systemd/user/{}.service.d/instance.conf", 'ExecStart=/p worker start --name "{}" --pool x'),
        (".local/share/prefect/supervisor/conf.d/{}.conf", "command=/bin/sh -c 'exec /p worker start --name {} -p'"),
    ],
)
def test_workers_that_were_there_before_the_id_keep_what_they_began(home: Path, file: str, line: str) -> None:
    for unit in ("default", "a.b-2"):
        unit_file = home / file.format(f"prefect-worker@{unit}")
        unit_file.parent.mkdir(parents=True, exist_ok=True)
        unit_file.write_text(line.format(f"old-{unit}") + "\n")
        other = home / file.format(f"prefect-blue-worker@{unit}")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(line.format("blue") + "\n")
    assert look()["installation"]["formerly"] == {"default": "old-default", "a.b-2": "old-a.b-2"}


def test_each_disk_has_to_have_space(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(f_blocks=100_000_000, f_frsize=1000, f_bavail=99_000, f_files=10, f_favail=5)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    (said,) = problems(disks={"the backups": str(home / "backups")})
    assert said.startswith(
        f"disk {home}: 0.1 of 100.0 GB are free for prefect_home, prefect_opt_dir, the logs, the backups"
    )
    assert look(disks={}, state="absent")["changed"] is False


@pytest.mark.parametrize(("minutes", "way"), [(5, "300 s behind"), (-5, "300 s ahead of"), (0, "")])
def test_a_clock_that_is_off_is_an_problem(home: Path, minutes: int, way: str) -> None:
    with FakeApi() as api:
        api.clock_ahead = timedelta(minutes=minutes)
        api.auth = "a:b"
        found = problems(clock_of=api.url)
    assert [re.sub(r"29[89]|30[012]", "300", each)[: len(way) + 28] for each in found] == (
        [f"clock: this host's clock is {way}"] if way else []
    )


def test_an_api_that_is_not_there_yet_has_no_clock(home: Path) -> None:
    assert problems(clock_of="http://127.0.0.1:9/api") == []


def test_an_existing_release_is_not_built_again(home: Path) -> None:
    release = home / ".local/share/prefect/releases/1"
    release.mkdir(parents=True)
    assert look(release="1", python="/nothing")["failed"]
    (release / ".proven").touch()
    said = look(release="1", python="/nothing")
    assert (said["release_present"], said["release_current"], said["python"]) == (True, False, None)
    (home / ".local/share/prefect/current").symlink_to("releases/1")
    assert look(release="1", python="/nothing")["release_current"] is True
    assert look(release="2")["release_current"] is False
    assert look(release="1")["version"] == ""
    (home / ".local/share/prefect/releases/.proven").touch()
    assert look(release="")["release_present"] is False


@pytest.mark.parametrize(
    ("instance", "good"),
    [
        ("a", True),
        ("a-1", True),
        ("a" * 24, True),
        ("a" * 25, False),
        ("", False),
        ("A", False),
        ("1a", False),
        ("-a", False),
        ("a_b", False),
        ("a b", False),
        ("a/../b", False),
        ("a\n", False),
        ("ä", False),
    ],
)
def test_names_of_instances(home: Path, instance: str, good: bool) -> None:
    said = look(instance=instance)
    assert bool(said.get("failed")) is not good
    assert good or said["msg"].startswith(f"prefect_instance: {instance!r} is no name for an instance")
    assert not good or len(said["name"]) <= 32


def test_a_port_in_use_names_its_process(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (said,) = problems(ports={"prefect_server_port": str(port), "prefect_worker_health_port": 1})
        command = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        assert said == (
            f"prefect_server_port: port {port} is in use by {command} (pid {os.getpid()}); "
            "stop it or choose another port"
        )
    assert problems(ports={"prefect_server_port": port}) == []


@pytest.mark.parametrize(
    ("calendar", "manager", "says"),
    [
        ("daily", "systemd", []),
        ("Mon..Fri 02:30", "none", []),
        ("", "supervisord", []),
        ("daily", "supervisord", ["runs its services by supervisord, which has no timers"]),
        ("every day", "systemd", ["does not know 'every day' as a time: Failed to parse"]),
        ("--help", "systemd", ["does not know '--help' as a time"]),
    ],
)
def test_a_schedule_that_the_host_cannot_keep(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calendar: str, manager: str, says: list[str]
) -> None:
    known = '[ "$1 $2" = "calendar --" ] || exit\ncase "$3" in daily|Mon*) ;; *) echo Failed to parse >&2; exit 1; esac'
    (tmp_path / "systemd-analyze").write_text(f"#!/bin/sh\n{known}\n")
    (tmp_path / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = problems(calendars={"prefect_server_backup_schedule": calendar}, service_manager=manager)
    assert len(found) == len(says)
    assert all(line.startswith("prefect_server_backup_schedule: ") for line in found)
    assert all(text in line for text, line in zip(says, found, strict=True))


def test_a_port_in_use_over_ipv6(home: Path) -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        assert len(problems(ports={"prefect_server_port": server.getsockname()[1]})) == 1


def test_a_connection_is_no_listener(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert problems(ports={"prefect_server_port": client.getsockname()[1]}) == []


@pytest.mark.parametrize("linked", [False, True])
def test_our_own_processes_are_no_problem(home: Path, linked: bool) -> None:
    """A process of the release that is in use holds the port, whether it was started by the link or by its target."""
    opt = home / "opt"
    python = home / ("disk" if linked else "opt") / "current" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    if linked:
        opt.symlink_to("disk")
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        port = int(process.stdout.readline())
        assert problems(ports={"prefect_server_port": port}, opt_dir=str(opt)) == []
        (said,) = problems(ports={"prefect_server_port": port}, opt_dir=str(home / "op"))
        assert f"(pid {process.pid})" in said
        process.stdin.close()


def test_a_process_that_cannot_be_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "listeners", lambda port: [(0, "a process of another user")])
    (said,) = problems(ports={"prefect_server_port": 4200})
    assert "is in use by a process of another user; stop it" in said


@pytest.mark.parametrize(
    ("option", "variable"), [("opt_dir", "prefect_opt_dir"), ("etc_dir", "prefect_etc_dir"), ("home", "prefect_home")]
)
def test_a_directory_that_cannot_be_written(home: Path, option: str, variable: str) -> None:
    (home / "file").write_text("x")
    (home / "file").chmod(0o755)
    (said,) = problems(**{option: str(home / "file" / "a" / "b")})
    assert said == (
        f"{variable}: {home}/file/a/b cannot be written, because {home}/file does not allow it; name another directory"
    )


def test_a_directory_without_permission(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != home or mode != os.W_OK | os.X_OK)
    found = problems(opt_dir=str(home / "a"), etc_dir=str(home), home="/")
    assert [line.split(":")[0] for line in found] == ["prefect_opt_dir", "prefect_etc_dir"]
    assert all(f"because {home} does not allow it" in line for line in found)


def python(path: Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho {says} {path}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "good"), [("2 7 18", False), ("3 9 18", False), ("3 10 0", True), ("3 13 1", True), ("4 0 0", True)]
)
def test_the_age_of_python(home: Path, version: str, good: bool) -> None:
    named = python(home / "py thon", version)
    said = look(python=named)
    assert bool(said.get("failed")) is not good
    dotted = version.replace(" ", ".")
    if good:
        assert said["python"] == {"path": named, "version": dotted}
    else:
        assert said["msg"] == (
            f"prefect_python: no Python 3.10 or newer on this host ({named} (Python {dotted} is too old)); "
            "install one or name it"
        )


@pytest.mark.parametrize(
    ("version", "release", "says"),
    [
        (
            "3 10 12",
            "3.9.1",
            "no Python 3.11 or newer and older than 3.15 on this host ({} (Python 3.10.12 is too old));",
        ),
        ("3 10 12", "3.10.0rc1", "no Python 3.11 or newer"),
        ("3 10 12", "3.8.8", ""),
        ("3 11 2", "3.9.1", ""),
        (
            "3 15 0",
            "3.8.8",
            "no Python 3.10 or newer and older than 3.15 on this host ({} (Python 3.15.0 is too new));",
        ),
        ("3 14 10", "3.9.1", ""),
        (
            "3 15 0",
            "3.9.1",
            "no Python 3.11 or newer and older than 3.15 on this host ({} (Python 3.15.0 is too new));",
        ),
    ],
)
def test_the_python_of_a_version(home: Path, version: str, release: str, says: str) -> None:
    named = python(home / "python", version)
    said = look(python=named, version=release, locks=["3.5.0", "3.8.8", "3.9.1"])
    assert bool(said.get("failed")) is bool(says)
    if says:
        assert said["msg"].startswith(f"prefect_python: {says.format(named)}")
        assert f"which Prefect {release} needs (prefect_version)" in said["msg"]
        assert ("; or set prefect_version: 3.8.8" in said["msg"]) is (version == "3 10 12")


@pytest.mark.parametrize(
    ("locks", "suggested"),
    [(["3.9.1", "3.8.8", "3.10.0"], "3.8.8"), (["3.6.29", "3.7.8", "3.7.10"], "3.7.10"), (["3.9.1"], ""), ([], "")],
)
def test_the_newest_lock_that_runs_on_the_python_is_named(home: Path, locks: list[str], suggested: str) -> None:
    (said,) = problems(python=python(home / "python", "3 10 12"), version="3.9.1", locks=locks)
    assert said.partition("; or set prefect_version: ")[2].partition(",")[0] == suggested


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of."""
    said: list[str] = []
    monkeypatch.setattr(f"{preflight.__name__}.AnsibleModule.warn", lambda module, text: said.append(text))
    return said


def pythons(monkeypatch: pytest.MonkeyPatch, directory: Path, *versions: str) -> None:
    """Let the host have these Pythons, and no other, in /usr/bin."""
    real = subprocess.run
    paths = {f"/usr/bin/python3.{version.split()[1]}": python(directory / version, version) for version in versions}

    def run(command: list[str], **options: Any) -> Any:
        if command[0] not in paths:
            raise FileNotFoundError
        return real([paths[command[0]]], **options)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("there", "proven", "taken", "said"),
    [
        (("3 14 2", "3 13 1", "3 11 2"), ["3.11.7", "3.13.0"], "3.13.1", False),
        (("3 14 2", "3 11 2"), ["3.11.7", "3.13.0"], "3.11.2", False),
        # Older than the newest that was proven: no reason to look further.
        (("3 12 2", "3 11 2"), ["3.11.7", "3.13.0"], "3.12.2", False),
        (("3 14 2",), ["3.11.7", "3.13.0"], "3.14.2", True),
        (("3 14 2", "3 10 2"), ["3.11.7", "3.13.0"], "3.14.2", True),
        (("3 14 2", "3 11 2"), [], "3.14.2", False),
    ],
)
def test_a_python_that_the_lock_was_proven_on_is_preferred(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    proven: list[str],
    taken: str,
    said: bool,
    warnings: list[str],
) -> None:
    pythons(monkeypatch, home, *there)
    assert look(python="", version="3.9.1", proven=proven)["python"]["version"] == taken
    assert len(warnings) == said
    if said:
        assert warnings[0].startswith(f"prefect_python: Python {taken} (")
        assert "newer than each that the lock of Prefect 3.9.1 was proven on (3.11.7, 3.13.0)" in warnings[0]


def test_a_python_that_the_user_names_is_taken_and_said_to_be_unproven(home: Path, warnings: list[str]) -> None:
    named = python(home / "python", "3 14 2")
    for proven, said in (["3.14.0"], 0), (["3.13.0"], 1):
        assert look(python=named, version="3.9.1", proven=proven)["python"] == {"path": named, "version": "3.14.2"}
        assert len(warnings) == said


PAGE = (
    '<a href="x">prefect-3.8.8-py3-none-any.whl</a> prefect-3.10.0.tar.gz prefect-3.9.1-py3-none prefect-3.11.0rc1-py3'
)


@pytest.mark.parametrize(
    ("version", "page", "says"),
    [
        (
            "3.99.0",
            PAGE,
            "prefect_version: the package index has no Prefect 3.99.0; its newest is 3.10.0 (prefect_index_url). "
            "These have a lock: 3.5.0, 3.9.1, 3.10.0",
        ),
        ("3.8.7", PAGE, "prefect_version: the package index has no Prefect 3.8.7"),
        ("3.8.8", PAGE, ""),
        ("3.11.0rc1", PAGE, ""),
        ("3.99.0", '{"files": [{"filename": "prefect-3.8.8.tar.gz"}]}', "prefect_version: the package index has no"),
        ("3.99.0", "<html>please log in</html>", ""),
        ("3.99.0", None, ""),
    ],
)
def test_a_version_that_the_index_does_not_have(
    home: Path, monkeypatch: pytest.MonkeyPatch, version: str, page: str | None, says: str
) -> None:
    asked: list[str] = []

    def opened(index: uv.Index, url: str) -> Any:
        asked.append(url)
        if page is None:
            raise OSError("no way there")
        return io.BytesIO(page.encode())

    monkeypatch.setattr(uv.Index, "opened", opened)
    given = {"version": version, "locked": False, "index_url": "https://127.0.0.1/packages/"}
    given |= {"locks": ["3.10.0", "3.9.1", "3.5.0"]}
    found = problems(**given)
    assert [said.startswith(says) for said in found] == ([True] if says else [])
    assert asked == ["https://127.0.0.1/packages/prefect/"]
    assert problems(**given | {"locked": True}) == [] and len(asked) == 1


@pytest.mark.parametrize("module", [preflight, backend])
def test_an_interpreter_that_is_too_old_for_the_modules(
    home: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    monkeypatch.setattr(module, "too_old", lambda: interpreter.too_old((3, 9, 18)))
    given = {"program_dir": "/x", "otherwise": "x", "fingerprints": "/nowhere/x"} if module is backend else {}
    said = outcome(module.main, **given)
    assert said["failed"]
    assert said["msg"].startswith("ansible_python_interpreter: Ansible runs Python 3.9.18 on this host (")
    assert interpreter.too_old((3, 10, 0)) == interpreter.too_old() == ""


def test_what_reads_a_host_first_can_be_imported_by_an_old_python() -> None:
    """A Python that cannot import it says nothing that helps. 3.9 is the oldest that ansible-core still runs on."""
    plugins = Path(preflight.__file__).parents[1]
    waiting, seen = ["modules.host_preflight", "modules.host_backend"], set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        tree = ast.parse((plugins / f"{name.replace('.', '/')}.py").read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and "plugins.module_utils" in (node.module or ""):
                below = (node.module or "").partition("plugins.")[2]
                names = [below] if below.count(".") > 1 else [f"{below}.{alias.name}" for alias in node.names]
                waiting += [found for found in names if found not in seen]
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*name.split(".")[: -node.level], *([node.module] if node.module else [])]
                whole = [".".join(base)] if node.module and (node.level == 1 or "." in node.module) else []
                names = whole or [".".join([*base, alias.name]) for alias in node.names]
                waiting += [found for found in names if found not in seen]
            words = [keyword.arg for keyword in node.keywords] if isinstance(node, ast.Call) else []
            called = getattr(getattr(node, "func", None), "id", "")
            assert called != "dataclass" or not {"kw_only", "slots"} & {*words}, f"{name}: {ast.unparse(node)}"
    assert {"module_utils.host.ledger", "module_utils.host.safe_files", "module_utils.host.ports"} <= seen


@pytest.mark.parametrize("kind", ["missing", "broken", "directory"])
def test_a_python_that_cannot_be_run(home: Path, kind: str) -> None:
    path = home / "python"
    if kind == "broken":
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    elif kind == "directory":
        path.mkdir()
    (said,) = problems(python=str(path))
    assert f"({path} (cannot be run))" in said


def test_the_newest_python_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        seen.append(command[0])
        if command[0] == "/usr/bin/python3.12":
            return real([python(home / "python", "3 12 4")], **options)
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", run)
    assert look(python="")["python"]["version"] == "3.12.4"
    assert seen == ["/usr/bin/python3.14", "/usr/bin/python3.13", "/usr/bin/python3.12"]


def test_no_python_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", run)
    assert problems(python="")[0].startswith("prefect_python: no Python 3.10 or newer on this host (none found)")


def test_a_python_that_only_its_owner_may_execute(tmp_path: Path) -> None:
    """The services run as another user, whom a home directory keeps out."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    (tmp_path / "home").mkdir(mode=0o700)
    named = python(tmp_path / "home" / "python", "3 12 0")
    assert preflight.find_python(named, for_others=False)[0] == {"path": named, "version": "3.12.0"}
    assert preflight.find_python(named, for_others=True) == (None, [f"{named} (only its owner may execute {named})"])
    (tmp_path / "home").chmod(0o755)
    assert preflight.find_python(named, for_others=True)[0] == {"path": named, "version": "3.12.0"}


@pytest.mark.parametrize(
    ("free", "present", "good"), [(699, False, False), (700, False, True), (0, True, True), (10**6, False, True)]
)
def test_disk(home: Path, monkeypatch: pytest.MonkeyPatch, free: int, present: bool, good: bool) -> None:
    asked: list[str] = []

    def usage(path: Path) -> Any:
        asked.append(str(path))
        return shutil._ntuple_diskusage(10**12, 0, free * 10**6)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    if present:
        (home / "opt/releases/1").mkdir(parents=True)
        (home / "opt/releases/1/.proven").touch()
    found = problems(opt_dir=str(home / "opt"), release="1")
    assert asked == ([] if present else [str(home)])
    assert found == (
        []
        if good
        else [
            f"prefect_opt_dir: {home}/opt has {free} MB left and a release needs 700 MB; "
            "free some or name another directory"
        ]
    )


def test_the_bound_of_the_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "RELEASE_MB", 10**7)
    (said,) = problems()
    assert "has 1000000 MB left and a release needs 10000000 MB" in said


@pytest.mark.parametrize("command", ["prefect-blue", "prefect-blue-info"])
@pytest.mark.parametrize(
    ("kind", "good"),
    [("this instance", True), ("foreign", False), ("other instance", False), ("binary", False), ("directory", False)],
)
def test_commands_of_another_owner(home: Path, command: str, kind: str, good: bool) -> None:
    path = home / ".local" / "bin" / command
    path.parent.mkdir(parents=True)
    opt = home / ".local" / "share" / "prefect-blue"
    if kind == "directory":
        path.mkdir()
    else:
        text = {
            "this instance": f"#!/bin/sh\nexec {opt}/current/bin/prefect\n",
            "foreign": "#!/usr/bin/python3\nfrom prefect.cli import app\n",
            "other instance": f"#!/bin/sh\nexec {opt}-info/current/bin/prefect\n",
            "binary": "\0\udcff",
        }[kind]
        path.write_bytes(text.encode(errors="surrogateescape"))
    found = problems(instance="blue")
    assert found == (
        []
        if good
        else [
            f"prefect_instance: {path} exists and does not belong to this instance; "
            "remove it or choose another name for the instance"
        ]
    )


@as_root
def test_a_user_with_another_home(home: Path) -> None:
    given = {"scope": "system", "user": "daemon", "python": "/usr/bin/python3"} | {
        name: str(home / name) for name in ("opt_dir", "etc_dir")
    }
    (said,) = [line for line in problems(home=str(home / "data"), **given) if "prefect_user" in line]
    actual = pwd.getpwnam("daemon").pw_dir
    assert said == (
        f"prefect_user: daemon exists with the home {actual}, not {home}/data; "
        "name another user, or set prefect_home to its home"
    )
    assert not [line for line in problems(home=actual, **given) if "prefect_user" in line]
    assert not [line for line in problems(**given | {"user": "not-created"}) if "prefect_user" in line]


@as_root
@pytest.mark.parametrize(("given", "user"), [("", "prefect-blue"), ("me", "me")])
def test_who_runs_the_system_scope(given: str, user: str) -> None:
    said = look(scope="auto", instance="blue", user=given, state="absent")
    assert (said["scope"], said["user"], said["group"], said["settled"]) == ("system", user, user, False)


def test_an_account_has_a_group_of_the_same_name() -> None:
    assert has_account("daemon", group="daemon")
    assert not has_account("sync", group="sync")
    assert not has_account("not-created", group="not-created")


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("prefect", {}, ("prefect", "prefect-worker", "prefect-operators", True)),
        ("prefect-blue", {}, ("prefect-blue", "prefect-blue-worker", "prefect-blue-operators", True)),
        ("prefect", {"user": "api"}, ("api", "prefect-worker", "prefect-operators", True)),
        ("prefect", {"worker_user": "etl"}, ("prefect", "etl", "prefect-operators", True)),
        ("prefect", {"worker_user": ""}, ("prefect", "prefect", "prefect-operators", False)),
        ("prefect", {"worker_user": "prefect"}, ("prefect", "prefect", "prefect-operators", False)),
        ("prefect", {"user": "api", "worker_user": "api"}, ("api", "api", "prefect-operators", False)),
    ],
)
def test_the_accounts_of_an_instance(name: str, given: dict[str, str], wanted: tuple[str, str, str, bool]) -> None:
    said = accounts(**{"name": name, "user": "", "worker_user": "auto", "home": "/var/lib/prefect", **given})
    assert (said["user"], said["worker_user"], said["operators"], said["separate"]) == wanted
    assert (said["group"], said["worker_group"]) == wanted[:2]


def test_the_home_of_a_person_is_not_divided(home: Path) -> None:
    actual = pwd.getpwnam("daemon").pw_dir
    named = accounts(name="prefect", user="daemon", worker_user="auto", home=actual)
    assert (named["worker_user"], named["separate"]) == ("daemon", False)
    host = accounts(name="prefect", user="daemon", worker_user="etl", home=actual)
    host |= {"scope": "system", "dirs": {"home": actual, "worker": f"{actual}/worker"}}
    (said,) = unfit_accounts({"worker_user": "etl"}, host)
    assert said.startswith(f"prefect_worker_user: {actual} is the home of daemon, so it cannot be divided")


def test_the_names_of_accounts_fit() -> None:
    names = [derived_account(f"prefect-{'a' * 23}{last}", kind) for last in "ab" for kind in ("worker", "operators")]
    assert {len(name) for name in names} == {32} and len(set(names)) == 4


@as_root
@pytest.mark.parametrize(
    ("mode", "settled"),
    [
        ("divided", True),
        ("no members", False),
        ("one account", False),
        ("no home", False),
        ("worker of another", False),
    ],
)
def test_when_a_home_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, settled: bool) -> None:
    members = [] if mode == "no members" else ["daemon", "mail"]
    monkeypatch.setattr(grp, "getgrall", lambda: [grp.struct_group(("ops", "x", 999, members))])
    home = tmp_path / "home"
    if mode != "no home":
        (home / "worker").mkdir(parents=True)
        shutil.chown(home, "daemon" if mode == "one account" else "root")
        shutil.chown(home / "worker", "bin" if mode == "worker of another" else "mail")
    named = {"scope": "system", "operators": "ops", "separate": True, "user": "daemon", "group": "daemon"}
    named |= {"name": str(tmp_path / "ledger.json")}
    dirs = {"home": str(home), "worker": str(home / "worker")}
    assert is_settled(named | {"worker_user": "mail", "worker_group": "mail", "dirs": dirs}) is settled
    one = {
        "separate": False,
        "worker_user": "daemon",
        "worker_group": "daemon",
        "dirs": {"home": str(home), "worker": str(home)},
    }
    assert is_settled(named | one) is (mode == "one account")


@as_root
@pytest.mark.parametrize("more", [{}, {"empty": True}])
def test_a_home_of_others_is_not_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    monkeypatch.setattr(grp, "getgrall", lambda: [grp.struct_group(("ops", "x", 999, ["daemon", "mail"]))])
    with opened(
        {"name": str(tmp_path / "ledger.json"), "part": "prefect", "adopt": [], "opt": None}, dry=False
    ) as book:
        assert book is not None
        book.record([{"kind": "data", "name": str(tmp_path), "origin": "adopted", **more}])
    dirs = {"home": str(tmp_path), "worker": str(tmp_path / "worker")}
    named = {"scope": "system", "operators": "ops", "separate": True, "user": "daemon", "group": "daemon", "dirs": dirs}
    named |= {"worker_user": "mail", "worker_group": "mail", "name": str(tmp_path / "ledger.json")}
    assert is_settled(named) is not more.get("empty", False)


@as_root
@pytest.mark.parametrize(("user", "good"), [("daemon", True), ("sync", False)])
def test_an_account_of_others_has_a_group_of_its_own(user: str, *, good: bool) -> None:
    host = accounts(name="prefect", user=user, worker_user="auto", home="/var/lib/prefect")
    host |= {"scope": "system", "dirs": {"home": "/var/lib/prefect", "worker": "/var/lib/prefect/worker"}}
    found = unfit_accounts({"worker_user": "auto", "adopt": ["user"]}, host)
    assert found == ([] if good else [said for said in found if f"the primary group of {user} is nogroup" in said])
    assert len(found) == (not good)


def test_one_account_in_the_user_scope(home: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    for given in ("auto", "", user):
        assert problems(worker_user=given) == []
    (said,) = problems(worker_user="etl")
    assert said.startswith(
        f"prefect_worker_user: etl cannot run flows, because an installation in the user scope has one account, {user};"
    )


@as_root
def test_flows_cannot_run_as_root_or_as_an_account_of_another_home(home: Path) -> None:
    given = {"scope": "system", "python": "/usr/bin/python3"} | {
        name: str(home / name) for name in ("home", "opt_dir", "etc_dir")
    }
    for user in ("root", "daemon"):
        found = [line for line in problems(**given, worker_user=user) if "prefect_worker_user" in line]
        actual = pwd.getpwnam(user).pw_dir
        assert found == [
            f"prefect_worker_user: {user} exists with the home {actual}, not {home}/home/worker; name another user"
        ]


def test_the_system_scope_is_root_s(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert look(scope="system")["msg"].startswith("prefect_scope: system needs root; use become")
    assert look(scope="auto")["scope"] == "user"


@pytest.mark.parametrize(("runs", "manager"), [(True, "systemd"), (False, "supervisord")])
def test_service_manager(home: Path, monkeypatch: pytest.MonkeyPatch, runs: bool, manager: str) -> None:
    monkeypatch.setattr(preflight, "systemd_runs", lambda scope: runs)
    assert look(service_manager="auto")["service_manager"] == manager
    assert look(service_manager="none")["service_manager"] == "none"


def test_all_problems_together(home: Path) -> None:
    (home / "file").write_text("x")
    (home / ".local" / "bin").mkdir(parents=True)
    (home / ".local" / "bin" / "prefect").write_text("foreign")
    with pytest.MonkeyPatch.context() as patched, socket.create_server(("127.0.0.1", 0)) as server:
        patched.setattr(preflight, "RELEASE_MB", 10**7)
        given: dict[str, Any] = {
            "opt_dir": str(home / "file" / "opt"),
            "etc_dir": str(home / "file" / "etc"),
            "home": str(home / "file" / "home"),
            "python": "/nothing",
            "ports": {"prefect_server_port": server.getsockname()[1]},
        }
        found = problems(**given)
        assert [line.split(":")[0] for line in found] == [
            "prefect_opt_dir",
            "prefect_etc_dir",
            "prefect_home",
            "prefect_opt_dir",
            "prefect_python",
            "prefect_instance",
            "prefect_server_port",
        ]
        assert not look(state="absent", **given).get("failed")
    assert sorted(path.name for path in home.iterdir()) == [".local", "file"]


def test_names_that_a_host_resolves(home: Path) -> None:
    said = look(resolve={"prefect_address": ["127.0.0.1", "localhost"]})
    assert said["addresses"]["127.0.0.1"] == ["127.0.0.1"]
    assert "127.0.0.1" in said["addresses"]["localhost"]


def test_names_that_a_host_does_not_resolve(home: Path) -> None:
    assert problems(resolve={"prefect_proxy_domain": ["prefect.invalid"], "prefect_address": ["api.invalid"]}) == [
        "prefect_proxy_domain: prefect.invalid cannot be resolved on this host; let your DNS know it, or set "
        "prefect_proxy_hosts_entry to true",
        "prefect_address: api.invalid cannot be resolved on this host; let your DNS know it",
    ]
    assert "failed" not in look(resolve={"prefect_proxy_domain": ["prefect.invalid"]}, state="absent")


def test_an_address_towards_a_peer() -> None:
    said = look(peers=["127.0.0.2"], state="absent")
    assert (said["address"], said["peer_addresses"]) == ("127.0.0.1", ["127.0.0.2"])
    assert (look(state="absent")["address"], look(state="absent")["peer_addresses"]) == ("", [])


def test_a_peer_that_cannot_be_resolved(home: Path) -> None:
    (said,) = problems(peers=["127.0.0.2", "nowhere.invalid"], opt_dir=str(home / "opt"))
    assert said.startswith("prefect_address: nowhere.invalid cannot be resolved on this host")


@as_root
@pytest.mark.parametrize("name", ["opt_dir", "etc_dir"])
@pytest.mark.parametrize("owner", [0, 1])
def test_what_root_trusts_is_where_only_root_can_replace_it(home: Path, name: str, owner: int) -> None:
    (home / "apps").mkdir()
    os.chown(home / "apps", owner, owner)
    wanted = str(home / "apps" / "deep" / "prefect")
    refused = f"prefect_{name}: another account can write {home / 'apps'}"
    assert any(found.startswith(refused) for found in problems(scope="system", **{name: wanted})) is (owner == 1)


def host_in(home: str, **different: Any) -> dict[str, Any]:
    dirs = {"home": home, "opt": "/opt/prefect", "etc": "/etc/prefect"} | different.pop("dirs", {})
    named = {"user": "prefect-of-tests", "worker_user": "prefect-of-tests-worker", "python": None}
    return {"scope": "system", "service_manager": "systemd", "dirs": dirs, **named, **different}


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that every account may enter, which stands for /home, with one of deploy in it."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    (tmp_path / "real" / "deploy").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    monkeypatch.setattr(preflight, "HOMES", (str(tmp_path / "home"),))
    monkeypatch.setattr(preflight, "TEMPORARY", (str(tmp_path / "tmp"),))
    return tmp_path


def test_environments(home: Path) -> None:
    opt = home / "opt"
    wanted = {"etl": {"release": "3.8.8-1", "python": ""}, "old": {"release": "3.8.8-2", "python": "3.99"}}
    release = opt / "environments" / "old" / "releases" / "3.8.8-2"
    release.mkdir(parents=True)
    (opt / "environments" / "left").mkdir()
    (said,) = problems(opt_dir=str(opt), version="3.8.8", environments=wanted)
    assert said.startswith(f"prefect_environments: old needs Python 3.99, which {os.uname().nodename} does not have")
    assert "Prefect 3.8.8 needs Python 3.10 or newer and older than 3.15" in said
    # What is installed needs no Python to be built on.
    (release / ".proven").touch()
    found = look(opt_dir=str(opt), version="3.8.8", environments=wanted)
    assert found["other_environments"] == ["left"]
    assert found["environments"]["old"] == {"present": True, "current": False, "python": None}
    assert found["environments"]["etl"] == {"present": False, "current": False, "python": found["python"]}
    (release.parents[1] / "current").symlink_to("releases/3.8.8-2")
    assert look(opt_dir=str(opt), version="3.8.8", environments=wanted)["environments"]["old"]["current"]
    wanted["etl"]["python"] = "/nowhere/python3"
    (said,) = problems(opt_dir=str(opt), version="3.8.8", environments=wanted)
    assert "etl needs /nowhere/python3, which" in said and "cannot be run" in said
    gone = look(opt_dir=str(opt), state="absent", environments={})
    assert gone["other_environments"] == ["left", "old"]


@pytest.mark.parametrize("different", [{}, {"service_manager": "supervisord"}, {"scope": "user"}])
def test_a_unit_sees_what_it_needs_below_home(homes: Path, different: dict[str, str]) -> None:
    real = homes / "real" / "deploy"
    (homes / "data").symlink_to(real / "data")
    dirs = {"opt": str(homes / "home/deploy/opt")}
    needs = {
        "user": {"prefect_database_ca": "", "prefect_redis_ca": "/etc/ssl/ca.pem"},
        "worker_user": {
            "prefect_flows_dir": f"{homes}/data/flows",
            "prefect_api_ca": str(homes / "home/deploy/ca.pem"),
        },
    }
    found = preflight.confinement(host_in(str(homes / "data"), dirs=dirs, **different), needs, str(real / "opt/py"))
    shown = {
        "ProtectHome": "tmpfs",
        "BindPaths": f"-{real}/data",
        "BindReadOnlyPaths": f"-{real}/ca.pem -{real}/opt",
    }
    assert found == ({} if different else shown)


def test_a_unit_that_needs_nothing_below_home_sees_nothing_there(homes: Path) -> None:
    needs = {"user": {}, "worker_user": {"prefect_flows_dir": "/srv/flows", "prefect_api_ca": ""}}
    assert preflight.confinement(host_in("/var/lib/prefect"), needs, "/usr") == {}
    assert preflight.confinement(host_in("/var/lib/prefect"), needs, str(homes / "home/deploy/py")) == {
        "ProtectHome": "tmpfs",
        "BindReadOnlyPaths": f"-{homes}/real/deploy/py",
    }


@as_root
def test_the_python_below_home_is_seen_before_and_after_the_release_is_built(home: Path, homes: Path) -> None:
    path = homes / "home/deploy/py/bin/python3.12"
    path.parent.mkdir(parents=True)
    given = {"scope": "system", "service_manager": "systemd", "python": python(path, "3 12 0"), "release": "1"}
    given |= {"opt_dir": str(home / "opt"), "home": "/var/lib/prefect"}
    wanted = f"-{homes}/home/deploy/py".replace("/home/", "/real/")
    assert look(**given)["confinement"]["BindReadOnlyPaths"] == wanted
    release = home / "opt/releases/1"
    release.mkdir(parents=True)
    (release / "pyvenv.cfg").write_text(f"home = {path.parent}\nimplementation = CPython\nuv = 0.9\n")
    (release / ".proven").touch()
    assert look(**given)["confinement"]["BindReadOnlyPaths"] == wanted
    (home / "opt/current").symlink_to("releases/1")
    assert look(**given | {"release": "", "state": "absent"})["confinement"]["BindReadOnlyPaths"] == wanted


@as_root
def test_paths_that_a_service_cannot_reach(homes: Path) -> None:
    closed = homes / "real" / "alice"
    closed.mkdir(mode=0o700)
    needs: dict[str, dict[str, str]] = {"user": {}, "worker_user": {"prefect_flows_dir": f"{homes}/tmp/flows"}}
    assert preflight.unseen(host_in(f"{homes}/home/alice/data"), needs) == [
        f"prefect_home: prefect-of-tests has to reach {homes}/home/alice/data and may not enter {closed}; name another "
        "place, or let the account enter that directory",
        f"prefect_home: prefect-of-tests-worker has to reach {homes}/home/alice/data and may not enter {closed}; name "
        "another place, or let the account enter that directory",
        f"prefect_flows_dir: {homes}/tmp/flows is in {homes}/tmp, and each service has a {homes}/tmp of its own "
        "(PrivateTmp), so none finds it; name another place",
    ]
    both = {"user": "daemon", "worker_user": "daemon", "service_manager": "supervisord"}
    assert len(preflight.unseen(host_in(f"{closed}/data", **both), needs)) == 1
    os.chown(closed, pwd.getpwnam("daemon").pw_uid, 0)
    assert preflight.unseen(host_in(f"{closed}/data", **both), needs) == []
    assert preflight.unseen(host_in(f"{closed}/data"), needs | {"worker_user": {}})
    os.chown(closed, 0, pwd.getpwnam("daemon").pw_gid)
    assert len(preflight.unseen(host_in(f"{closed}/data", **both), needs)) == 1
    closed.chmod(0o750)
    assert preflight.unseen(host_in(f"{closed}/data", **both), needs) == []
    closed.chmod(0o700)
    inside = {"worker_user": {"prefect_flows_dir": f"{closed}/flows"}}
    assert preflight.unseen(host_in(str(closed)), inside) == []
    tmp = host_in("/var/lib/prefect", python={"path": f"{homes}/tmp/bin/python", "version": "3.12.0"})
    assert [said.split(":")[0] for said in preflight.unseen(tmp, {})] == ["prefect_python"]


@pytest.mark.parametrize(
    ("origin", "comment", "groups"),
    [
        ("adopted", "Deploy", []),
        ("adopted", "Prefect (prefect)", []),
        ("created", "Prefect (prefect)", ["docker"]),
        (None, "Deploy", []),
        (None, "Prefect (prefect)", ["docker"]),
    ],
)
def test_flows_get_the_groups_of_no_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, comment: str, groups: list[str]
) -> None:
    """Members of docker or sudo are root."""
    monkeypatch.setattr(ledgers, "home_of_ledgers", lambda: tmp_path)
    monkeypatch.setattr(ledgers, "installed_before", lambda path, opt: True)
    account = pwd.struct_passwd(("deploy", "x", 1000, 1000, comment, "/home/deploy", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda user: account)
    listed = [grp.struct_group((name, "x", 999, ["deploy"])) for name in ("docker", "prefect-operators")]
    monkeypatch.setattr(grp, "getgrall", lambda: listed)
    if origin:
        entries = {"user deploy": {"kind": "user", "name": "deploy", "part": "prefect", "origin": origin}}
        book = {"format": 1, "recognized": False, "parents": [], "entries": entries}
        (tmp_path / "prefect.json").write_text(json.dumps(book))
    found = preflight.inherited_groups("deploy", name="prefect", operators="prefect-operators")
    assert found == groups
