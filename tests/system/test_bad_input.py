"""What people get wrong: it is refused with the host, the variable and the way out, and the next good run works.

Whatever is refused before anything changes is tried in one run: each case is a host of its own to Ansible, and all of
them are the one test host.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_host import NAME, ROOT, Ended, Host, Variables

LOCK = ROOT / "roles/prefect/files/locks/3.8.8.txt"


@pytest.fixture(scope="module")
def host(host: Host) -> Host:
    """A bare host, which gets a release that can be upgraded."""
    host.common["prefect_version"] = "3.8.8"
    return host


@dataclass(frozen=True)
class Bad:
    """Something bad: `variables` of the host, or what `before` does to it, and what the run `says`, in any order."""

    name: str
    variables: Variables
    says: tuple[str, ...]
    before: str = "true"
    after: str = "true"
    groups: tuple[str, ...] = ("prefect_server", "prefect_worker", "prefect_flows")

    def __str__(self) -> str:
        return self.name


def refused(ended: Ended, *says: str, name: str = NAME) -> None:
    """Assert that a run failed on a host and said all that it should about it."""
    assert ended.rc not in (0, 250), f"exit code {ended.rc}, and it should have failed:\n{ended.output}"
    missing = [text for text in says if text not in ended.failure(name)]
    assert not missing, f"not said of {name}: {missing} in:\n{ended.output}"


REFUSED_BEFORE_ANYTHING_CHANGED = [
    Bad(
        "misspelt variable",
        {"prefect_server_prot": 4200},
        ("prefect_server_prot: there is no such variable; did you mean prefect_server_port?",),
    ),
    Bad(
        "misspelt variable of a role that comes later",
        {"prefect_flows_sorce": "flows"},
        ("prefect_flows_sorce", "did you mean prefect_flows_source?"),
    ),
    Bad("wrong type", {"prefect_server_port": "http"}, ("prefect_server_port", "'http'", "int")),
    Bad("wrong choice", {"prefect_scope": "everybody"}, ("prefect_scope", "everybody", "auto, system, user")),
    Bad(
        "setting that contradicts its variable",
        {"prefect_settings": {"PREFECT_SERVER_API_PORT": 4300}},
        ("prefect_settings: set prefect_server_port, not PREFECT_SERVER_API_PORT",),
    ),
    Bad(
        "setting of the server that contradicts its variable",
        {"prefect_server_settings": {"PREFECT_API_URL": "http://127.0.0.1:1/api"}},
        ("prefect_server_settings: set prefect_api_url, not PREFECT_API_URL",),
    ),
    Bad(
        "setting that Prefect does not know",
        {"prefect_settings": {"LOGGING_LEVEL": "DEBUG"}},
        ("prefect_settings: LOGGING_LEVEL is no setting of Prefect", "PREFECT_"),
    ),
    Bad("credential without a colon", {"prefect_api_auth": "s3cret"}, ("prefect_api_auth", "user:password")),
    Bad(
        "credential and version that Prefect cannot take",
        {"prefect_api_auth": "admin:s3cretß", "prefect_version": "latest"},
        ("prefect_api_auth: it holds a letter beyond ASCII", "prefect_version: latest is no exact version"),
    ),
    Bad(
        "server on another host that no client can reach",
        {"prefect_servers": ["elsewhere"]},
        ("prefect_server_host", "prefect_api_auth", "elsewhere", "127.0.0.1"),
        groups=("prefect_worker",),
    ),
    Bad(
        "Redis that does not listen",
        {"prefect_redis_url": "rediss://:s3cret@127.0.0.1:9/0"},
        ("prefect_redis_url: nothing listens at 127.0.0.1:9",),
    ),
    Bad(
        "port in use",
        {"prefect_server_port": 4200},
        ("prefect_server_port: port 4200 is in use by", "-m http.server 4200", "(pid ", "choose another port"),
        before="systemd-run --quiet --unit=faults-port python3 -m http.server 4200; "
        "until ss -tln | grep -q :4200; do sleep 0.1; done",
        after="systemctl stop faults-port",
    ),
    Bad(
        "too little disk",
        {"prefect_opt_dir": "/srv/small/prefect"},
        ("prefect_opt_dir: /srv/small/prefect has", "MB left and a release needs", "name another directory"),
        before="mkdir /srv/small && mount -t tmpfs -o size=100m tmpfs /srv/small",
        after="umount /srv/small && rmdir /srv/small",
    ),
    Bad(
        "Python too old",
        {"prefect_python": "/srv/python3.9"},
        ("prefect_python: no Python 3.10 or newer", "/srv/python3.9 (Python 3.9.18 is too old)"),
        before="printf '#!/bin/sh\\necho 3 9 18 /srv/python3.9\\n' > /srv/python3.9 && chmod 755 /srv/python3.9",
        after="rm /srv/python3.9",
    ),
    Bad(
        "Python that is not there",
        {"prefect_python": "/srv/nothing"},
        ("prefect_python: no Python 3.10 or newer", "/srv/nothing (cannot be run)"),
    ),
    Bad(
        "directory that cannot be written",
        {"prefect_etc_dir": "/srv/readonly/prefect"},
        ("prefect_etc_dir: /srv/readonly/prefect cannot be written", "/srv/readonly", "name another directory"),
        before="mkdir /srv/readonly && mount --bind /srv/readonly /srv/readonly && "
        "mount -o remount,bind,ro /srv/readonly",
        after="umount /srv/readonly && rmdir /srv/readonly",
    ),
    Bad(
        "directories that no unit sees and no account of a service enters",
        {"prefect_home": "/tmp/prefect", "prefect_opt_dir": "/srv/closed/prefect"},
        (
            "prefect_home: /tmp/prefect is in /tmp",
            "prefect has to reach /srv/closed/prefect and may not enter /srv/closed",
        ),
        before="mkdir --mode=700 /srv/closed",
        after="rmdir /srv/closed",
    ),
    Bad(
        "service user with another home",
        {"prefect_user": "taken"},
        ("prefect_user: taken exists with the home /srv/elsewhere", "/var/lib/prefect", "name another user"),
        before="useradd --system --home-dir /srv/elsewhere taken",
        after="userdel taken",
    ),
]


@dataclass(frozen=True)
class Tried:
    """How the runs of bad cases on a bare host ended, by groups, and what was on the host before and after."""

    ended: dict[tuple[str, ...], Ended]
    before: set[str]
    after: set[str]


@pytest.fixture(scope="module")
def tried(host: Host) -> Tried:
    """All bad cases on a bare host."""
    runs: dict[tuple[str, ...], dict[str, Variables]] = {}
    for number, bad in enumerate(REFUSED_BEFORE_ANYTHING_CHANGED):
        # Each an instance by itself, and no two with one port.
        own = {"ansible_host": NAME, "prefect_servers": [f"case{number}"], "prefect_server_port": 4300 + number}
        runs.setdefault(bad.groups, {})[f"case{number}"] = own | bad.variables
    for bad in REFUSED_BEFORE_ANYTHING_CHANGED:
        host.sh(bad.before)
    try:
        before = host.manifest()
        ended = {
            groups: host.play(
                others=cases | {"elsewhere": {}},
                groups={group: [*cases] for group in groups},
                arguments=("--limit", "case*"),
            )
            for groups, cases in runs.items()
        }
        return Tried(ended, before, host.manifest())
    finally:
        for bad in REFUSED_BEFORE_ANYTHING_CHANGED:
            host.sh(bad.after)


def test_a_bare_host_stays_as_it_was(tried: Tried) -> None:
    assert sorted(tried.before ^ tried.after) == []


@pytest.mark.parametrize("bad", REFUSED_BEFORE_ANYTHING_CHANGED, ids=str)
def test_it_is_refused(tried: Tried, bad: Bad) -> None:
    refused(tried.ended[bad.groups], *bad.says, name=f"case{REFUSED_BEFORE_ANYTHING_CHANGED.index(bad)}")


def test_absent_on_a_host_that_never_had_it(host: Host) -> None:
    before = host.manifest()
    ended = host.play("playbooks/absent.yml", {"prefect_purge": True})
    assert (ended.rc, ended.changed) == (0, 0), ended.output
    assert host.manifest() == before


def small_lock(directory: Path, *, changed: bool) -> Path:
    """Write a lock of the first package of the shipped one, with its hashes `changed` if asked; it holds no Prefect."""
    text = re.search(r"^\S+==.*(?:\n    --hash.*)+", LOCK.read_text(), re.MULTILINE)
    assert text
    lock = directory / f"{changed=}.txt"
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", text[0]) if changed else text[0])
    return lock


@pytest.fixture
def unproven(tmp_path: Path) -> dict[str, tuple[Variables, tuple[str, ...]]]:
    """What no release can be built from, by what is wrong with it: the variables, and what the run says."""
    return {
        "hash": (
            {"prefect_lock": str(small_lock(tmp_path, changed=True))},
            ("prefect_lock", "make the lock again", "mismatch"),
        ),
        "probe": (
            {"prefect_lock": str(small_lock(tmp_path, changed=False))},
            ("prefect_lock", "No module named 'prefect'"),
        ),
        "index": (
            {"prefect_index_url": "http://127.0.0.1:9/simple", "prefect_packages": ["six"]},
            ("prefect_index_url", "cannot be reached from this host", "prefect_ca_bundle"),
        ),
    }


@pytest.mark.parametrize("kind", ["hash", "index"])
def test_a_release_that_cannot_be_built_leaves_none(
    host: Host, unproven: dict[str, tuple[Variables, tuple[str, ...]]], kind: str
) -> None:
    variables, says = unproven[kind]
    refused(host.play(variables=variables), *says)
    assert (
        host.sh("ls -A /opt/prefect/releases /opt/prefect | grep -v -e ^[.] -e :$ | xargs")
        == "bin lib releases state uv"
    )
    assert host.server_pid() == 0


def test_a_server_that_cannot_start_is_given_up_with_its_log(host: Host) -> None:
    ended = host.play(variables={"prefect_database_url": "sqlite+aiosqlite:////nowhere/prefect.db"})
    refused(ended, "prefect-server does not stay up", "The end of its log:", "unable to open database file")


@pytest.fixture(scope="module")
def installed(host: Host) -> Iterator[Host]:
    """The host after a good run, which has repaired what the bad ones left."""
    ended = host.play()
    assert ended.rc == 0, ended.output
    assert host.last_run() == "COMPLETED"
    yield host


@pytest.fixture
def good(installed: Host) -> Iterator[Host]:
    """An instance that works, and that has to be the same after the test."""

    def read() -> str:
        services = "prefect-server prefect-worker@default"
        processes = installed.sh(f"systemctl show --property=Id,MainPID,ActiveState {services}")
        return f"{processes} {installed.sh('readlink /opt/prefect/current')}"

    before = read()
    yield installed
    assert read() == before, "the good instance is not what it was"
    assert installed.api("/ready"), "the good instance does not answer"


@pytest.mark.parametrize("kind", ["hash", "probe"])
def test_an_upgrade_that_fails_leaves_the_old_release_running(
    good: Host, unproven: dict[str, tuple[Variables, tuple[str, ...]]], kind: str
) -> None:
    variables, says = unproven[kind]
    refused(good.play(variables=variables | {"prefect_version": "3.9.1"}), *says)


def test_versions_that_do_not_fit_are_refused_before_anything_changes(good: Host) -> None:
    """An older version costs a backup, which the operator has to accept, and a worker is not newer than its server."""
    worker = {"ansible_host": NAME, "prefect_servers": [NAME], "prefect_api_url": "http://127.0.0.1:4200/api"}
    ended = good.play(
        "playbooks/upgrade.yml",
        {"prefect_version": "3.5.0"},
        others={"newer": worker | {"prefect_version": "3.9.1"}},
        groups={"prefect_server": [NAME], "prefect_worker": [NAME, "newer"]},
    )
    refused(ended, f"prefect_version: {NAME} runs Prefect 3.8.8, and 3.5.0 is older", "there is no backup")
    refused(ended, "prefect_version: newer is to run Prefect 3.9.1, which is newer than 3.5.0", name="newer")


REFUSE = """\
#!/usr/bin/python3
# Let systemd give up a server that is ready and so has migrated its database; note the revision of that.
import pathlib, sqlite3, sys, time, urllib.request

while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:4200/api/ready")
        break
    except OSError:
        time.sleep(0.5)
database = sqlite3.connect("/var/lib/prefect/prefect.db")
(revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
pathlib.Path("/var/lib/prefect/refused").write_text(revision)
sys.exit(1)
"""
REVISION = """\
import sqlite3
database = sqlite3.connect("file:/var/lib/prefect/prefect.db?mode=ro", uri=True)
print(*database.execute("SELECT version_num FROM alembic_version"))
"""


def test_an_upgrade_whose_release_does_not_get_ready_is_rolled_back(installed: Host) -> None:
    files = "/etc/prefect/server.env /etc/systemd/system/prefect-server.service"
    look = f"readlink /opt/prefect/current; sha256sum {files}; python3 -"
    before = installed.sh(look, stdin=REVISION)
    installed.write("/srv/refuse", REFUSE)
    options = {"ExecStartPost": "/srv/refuse", "TimeoutStartSec": 600}
    try:
        ended = installed.play(
            "playbooks/upgrade.yml", {"prefect_version": "3.9.1", "prefect_server_unit_options": options}
        )
    finally:
        installed.sh("rm /srv/refuse")
    # The first failure is the one of the server, which the upgrade rescues.
    refused(ended, "Job for prefect-server.service failed")
    assert ended.rc == 2
    assert f"{NAME}: the upgrade to Prefect 3.9.1 failed, and was rolled back: Prefect 3.8.8 runs again" in ended.words
    assert "; what it replaced is in /var/backups/prefect-server/safety/prefect_" in ended.words
    migrated = installed.sh("cat /var/lib/prefect/refused && rm /var/lib/prefect/refused")
    assert migrated and migrated not in before
    assert installed.sh(look, stdin=REVISION) == before
    assert installed.sh("ls /opt/prefect/state/upgrade.json", check=False) == ""
    installed.sh("prefect deployment run hello-flow/example --watch --watch-timeout 180")
    assert installed.last_run() == "COMPLETED"


INTERRUPTED = """\
import glob, json, os, pathlib
backup = min(glob.glob("/var/backups/prefect-server/safety/*.sqlite"), key=lambda path: path.rpartition("_")[2])
release = pathlib.Path("/opt/prefect/current").resolve().name
to = next(name for name in os.listdir("/opt/prefect/releases") if name.startswith("3.9.1-"))
record = {"release": release, "to": to, "revision": backup.split("_")[-2], "backup": backup, "files": []}
pathlib.Path("/opt/prefect/state/upgrade.json").write_text(json.dumps(record))
"""


def test_an_upgrade_that_was_interrupted_is_undone_without_the_loss_of_what_came_after(installed: Host) -> None:
    """Its backup is the one of the upgrade above; since then, the server has run on with the old release."""
    installed.api("/variables/", {"name": "written_after_the_backup", "value": 1})
    installed.sh("python3 -", stdin=INTERRUPTED)
    ended = installed.play("playbooks/upgrade.yml", {"prefect_version": "3.8.8"})
    assert ended.rc == 0, ended.output
    assert installed.api("/variables/name/written_after_the_backup")["value"] == 1
    assert installed.sh("ls /opt/prefect/state/upgrade.json", check=False) == ""


def test_a_workers_port_in_use(good: Host) -> None:
    good.sh(
        "systemd-run --quiet --unit=faults-port python3 -m http.server 5555; "
        "until ss -tln | grep -q :5555; do sleep 0.1; done"
    )
    try:
        ended = good.play(variables={"prefect_worker_health_port": 5555})
    finally:
        good.sh("systemctl stop faults-port")
    refused(ended, "prefect_worker_health_port", "port 5555 is in use by", "-m http.server 5555")


DEPLOY = """
    from prefect import flow
    flow.from_source(source=".", entrypoint="{entrypoint}").deploy("bad", work_pool_name="default")
"""
UNIMPORTABLE = """
    import no_such_package
    from prefect import flow

    @flow
    def bad_flow():
        pass
"""


def script(content: str) -> Variables:
    """Give the variables of one deployment script, beside that of the examples."""
    bad = {"name": "bad", "content": textwrap.dedent(content)}
    return {"prefect_flows_deployment_scripts": [{"name": "examples", "path": "deploy.py"}, bad]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(
            "def broken(:\n",
            ("prefect_flows_deployment_scripts: bad, line 1: invalid syntax",),
            id="syntax error",
        ),
        pytest.param(
            DEPLOY.format(entrypoint="hello_flow.py:nothing"),
            ("prefect_flows_deployment_scripts: bad failed with exit code 1", "nothing"),
            id="entrypoint that is not there",
        ),
    ],
)
def test_a_deployment_script_that_fails(good: Host, content: str, says: tuple[str, ...]) -> None:
    refused(good.play(variables=script(content), arguments=("--tags", "flows")), *says)


def test_a_flow_that_cannot_be_imported(good: Host) -> None:
    path = "/var/lib/prefect/flows/unimportable.py"
    good.write(path, textwrap.dedent(UNIMPORTABLE))
    variables = script(DEPLOY.format(entrypoint="unimportable.py:bad_flow"))
    try:
        smoke = {"prefect_flows_smoke": "bad-flow/bad"}
        ended = good.play(variables=variables | smoke, arguments=("--tags", "flows"))
    finally:
        good.sh(f"rm {path}")
    refused(ended, "no_such_package", "prefect_packages")


def test_a_good_run_after_all_that_completes_and_the_next_changes_nothing(good: Host) -> None:
    again = good.play()
    assert again.rc == 0, again.output
    assert good.last_run() == "COMPLETED"
    last = good.play()
    assert (last.rc, last.changed) == (0, 0), last.output
