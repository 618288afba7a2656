"""Every fault of a Prefect instance is found and reported, in every form of the report."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.services import env_value
from ansible_collections.selfhosted.prefect.plugins.filter.status import status_report, status_table
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.checks import Check, disk_checks
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.metrics import Exporter, metrics
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.status import (
    Instance,
    main,
    read,
    server_checks,
    settings,
    text,
)
from ansible_collections.selfhosted.prefect.plugins.modules import status
from fake_api import FakeApi, Fault, outcome

ROOT = Path(__file__).resolve().parents[2]
AUTH = 'ad"min:p$ss\\w`rd'
SCHEDULE = {"active": True, "schedule": {"cron": "0 0 * * *"}}


def ago(**given: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**given)).isoformat()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A healthy platform: a pool with a worker, a deployment with its next run, and a run that left an event."""
    with FakeApi() as server:
        server.auth = AUTH
        server.add_pool("default", status="READY")
        server.queues["default", "default"] = {"id": "1", "name": "default", "priority": 1}
        server.add_worker("default", "one", heartbeat=ago(seconds=7))
        server.add_worker("default", "gone", status="OFFLINE")
        deployment = server.add_deployment("hello", "daily", pool="default")
        deployment.update(schedules=[SCHEDULE], paused=False, updated=ago(hours=1))
        server.add_run(next_scheduled_start_time=ago(hours=-1), work_pool_name="default")
        server.add_run(kind="COMPLETED", name="Completed", end_time=ago(minutes=10), flow_id=deployment["flow_id"])
        server.events.append(datetime.now(timezone.utc) - timedelta(minutes=10))
        yield server


@pytest.fixture
def instance(api: FakeApi, tmp_path: Path) -> Instance:
    """An instance whose clients speak to the server, and that has no services here."""
    release = tmp_path / "releases" / "3.8.8-0123456789ab"
    release.mkdir(parents=True)
    (tmp_path / "current").symlink_to(release)
    values = {"PREFECT_API_URL": api.url, "PREFECT_API_AUTH_STRING": AUTH, "PREFECT_UI_URL": api.root}
    lines = [f"{name}={env_value(value)}" for name, value in values.items()]
    (tmp_path / "client.env").write_text("\n".join(["# a comment", *lines]) + "\n")
    directory = str(tmp_path)
    return Instance(instance="prefect", name="prefect", scope="system", manager="none", opt=directory, etc=directory)


def test_the_settings_are_read_as_they_were_written(instance: Instance) -> None:
    assert settings(instance.settings_file)["PREFECT_API_AUTH_STRING"] == AUTH


def test_nothing_is_wrong(instance: Instance) -> None:
    info = read(instance)
    assert info["problems"] == []
    assert info["version"] == "3.8.8"
    assert info["deployments"] == ["hello/daily"]
    assert info["work_pools"][0]["workers"] == {"one": "ONLINE", "gone": "OFFLINE"}
    details = {check["name"]: check["detail"] for check in info["checks"]}
    assert details.keys() == {
        "api",
        "clock",
        "database",
        "writes",
        "work pool default",
        "background services",
        "events",
    }
    assert all(check["expires"] is None for check in info["checks"])
    assert re.fullmatch("1 of 2 workers online, heard of \\d+ s ago, 0 waiting", details["work pool default"])
    assert re.fullmatch("1 flow runs planned, the next in 3[56]\\d\\d s", details["background services"])


def test_the_environments_of_deployments(instance: Instance, tmp_path: Path) -> None:
    release = tmp_path / "environments" / "etl" / "releases" / "3.8.8-0123456789ab"
    release.mkdir(parents=True)
    (release / "pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.12.4\n")
    (tmp_path / "environments" / "half-built" / "releases").mkdir(parents=True)
    assert read(instance)["environments"] == []
    (release.parents[1] / "current").symlink_to("releases/3.8.8-0123456789ab")
    info = read(instance)
    about = {"name": "etl", "release": "3.8.8-0123456789ab", "version": "3.8.8", "python": "3.12.4"}
    assert info["environments"] == [about]
    assert re.search(r"Environment +etl: 3\.8\.8-0123456789ab, Python 3\.12\.4", text(info))

    def said() -> list[str]:
        return [problem for problem in read(instance)["problems"] if problem.startswith("environment")]

    (problem,) = said()
    assert problem.startswith("environment etl: 3.8.8-0123456789ab, Python 3.12.4: its Python was removed; install it")
    (release / "bin").mkdir()
    (release / "bin" / "python").touch()
    assert said() == []
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("releases/3.9.1-0123456789ab")
    assert said() == ["environment etl: 3.8.8-0123456789ab, Python 3.12.4: the release has Prefect 3.9.1; run site.yml"]


def test_the_server_is_made_to_write_and_nothing_is_left(api: FakeApi, instance: Instance) -> None:
    read(instance)
    assert [request.split("_status_")[0] for request in api.writes] == [
        "POST /variables/",
        "DELETE /variables/name/selfhosted_prefect",
    ]
    assert api.objects.of("variables") == []
    # A check that was killed between the two.
    api.objects.add("variables", name=re.sub(".*/", "", api.writes[-1]), value="")
    assert read(instance)["problems"] == []
    assert api.objects.of("variables") == []
    api.requests.clear()
    assert read(replace(instance, writes=False))["problems"] == []
    assert api.writes == []


def test_a_slow_worker_may_be_silent_for_longer(api: FakeApi, instance: Instance) -> None:
    silent(api)
    api.workers["default"][0]["heartbeat_interval_seconds"] = 300
    assert read(instance)["problems"] == []


def test_a_heartbeat_is_as_old_as_the_server_says(api: FakeApi, instance: Instance) -> None:
    """The clock is five minutes behind the server's, which has heard of the worker just now."""
    api.clock_ahead = timedelta(minutes=5)
    api.workers["default"][0]["last_heartbeat_time"] = ago(minutes=-5)
    (problem,) = read(instance)["problems"]
    assert re.match(rf"clock: this host's clock is (299|300|301) s behind that of {api.url}: let a time", problem)


def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **usage: int) -> list[Check]:
    """Judge a file system of 100 GB, as much of which is left as is given."""
    given = {"f_blocks": 100_000_000, "f_frsize": 1000, "f_bavail": 50_000_000, "f_files": 10, "f_favail": 5} | usage
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**given))
    return list(disk_checks({"prefect_home": str(tmp_path), "the logs": str(tmp_path / "not/yet")}))


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        ({}, "50.0 of 100.0 GB are free for prefect_home, the logs"),
        ({"f_bavail": 400_000}, "0.4 of 100.0 GB are free for prefect_home, the logs: free some space"),
        ({"f_bavail": 0}, "0.0 of 100.0 GB are free"),
        ({"f_blocks": 1_000_000, "f_bavail": 60_000}, "0.1 of 1.0 GB are free"),
        ({"f_blocks": 1_000_000, "f_bavail": 40_000}, "0.0 of 1.0 GB are free for prefect_home, the logs: free"),
        ({"f_favail": 0}, "no inode is left for prefect_home, the logs"),
        # Btrfs counts none.
        ({"f_files": 0, "f_favail": 0}, "50.0 of 100.0 GB"),
    ],
)
def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: dict[str, int], said: str) -> None:
    (check,) = full(tmp_path, monkeypatch, **usage)
    assert said in check.detail
    assert check.healthy is (": " not in check.detail)
    assert check.name == f"disk {tmp_path}"


def test_a_full_disk_is_a_problem(instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full(tmp_path, monkeypatch, f_bavail=0)
    (problem,) = read(replace(instance, disks={"prefect_home": str(tmp_path)}))["problems"]
    assert problem.startswith(f"disk {tmp_path}: 0.0 of 100.0 GB are free for prefect_home")


def test_a_release_without_a_lock_is_said(instance: Instance) -> None:
    assert read(instance)["locked"] is False
    assert "3.8.8 (without a lock)" in text(read(instance))
    Path(instance.opt, "current", "lock.txt").touch()
    assert read(instance)["locked"] is True
    assert "without a lock" not in text(read(instance))


def paused(api: FakeApi) -> None:
    api.pools["default"].update(status="PAUSED", is_paused=True)


def no_worker(api: FakeApi) -> None:
    api.workers["default"][0]["status"] = "OFFLINE"


def late(api: FakeApi) -> None:
    api.add_run(name="Late", next_scheduled_start_time=ago(minutes=1), work_pool_name="default")


def unmarked(api: FakeApi) -> None:
    api.add_run(next_scheduled_start_time=ago(minutes=10), work_pool_name="default")


def nothing_planned(api: FakeApi) -> None:
    planned = next(key for key, run in api.runs.items() if run["state_type"] == "SCHEDULED")
    del api.runs[planned]


def no_events(api: FakeApi) -> None:
    api.events.clear()


def old_events(api: FakeApi) -> None:
    api.events[:] = [datetime.now(timezone.utc) - timedelta(minutes=30)]


def silent(api: FakeApi) -> None:
    api.workers["default"][0]["last_heartbeat_time"] = ago(seconds=259)


def full_disk(api: FakeApi) -> None:
    """Every write answers 500, everything else as always."""

    def before(request: str) -> None:
        if request.startswith("POST /variables/"):
            api.faults.append(Fault(status=500, body=b'{"exception_message": "Internal Server Error"}'))

    api.before = before


def no_database(api: FakeApi) -> None:
    api.ready = False


def no_answer(api: FakeApi) -> None:
    api.faults.extend([Fault(status=502, body=b"<html>")] * 9)


def wrong_credential(api: FakeApi) -> None:
    api.auth = "other:user"


@pytest.mark.parametrize(
    ("breaks", "problem"),
    [
        (paused, "work pool default: paused, 0 flow runs wait: prefect work-pool resume default"),
        (no_worker, "work pool default: no worker is online, 0 flow runs wait"),
        (late, "work pool default: 1 flow runs are late: a limit is reached, or the workers are busy"),
        (unmarked, "background services: 1 flow runs are overdue and not marked late"),
        (nothing_planned, "background services: 1 deployments have an active schedule and no flow run is planned"),
        (no_events, "events: none since zealous-otter ended"),
        (old_events, "events: none since zealous-otter ended"),
        (silent, "work pool default: workers that are called ONLINE are silent: one (2"),
        (full_disk, "writes: the server cannot write: POST"),
        (no_database, "database: sqlite does not answer the server"),
        (no_answer, "api: GET"),
        (wrong_credential, "api: POST"),
    ],
)
def test_what_is_wrong_is_said(
    api: FakeApi, instance: Instance, breaks: Callable[[FakeApi], None], problem: str
) -> None:
    breaks(api)
    info = read(instance)
    assert [line[: len(problem)] for line in info["problems"]] == [problem]
    assert AUTH not in json.dumps(info)
    name = problem.partition(":")[0]
    assert f'prefect_check_healthy{{check="{name}"}} 0\n' in metrics(info)
    assert f"Problem       {problem}" in text(info)


@pytest.mark.parametrize(
    ("deployment", "healthy"),
    [
        ({"paused": True}, True),
        ({"schedules": [{"active": False}]}, True),
        ({"updated": "now"}, True),
        ({}, False),
    ],
)
def test_only_an_active_schedule_needs_a_planned_run(
    api: FakeApi, instance: Instance, deployment: dict[str, Any], healthy: bool
) -> None:
    nothing_planned(api)
    changed = deployment | ({"updated": ago(seconds=1)} if "updated" in deployment else {})
    next(iter(api.deployments.values())).update(changed)
    assert (read(instance)["problems"] == []) is healthy


def test_a_run_that_has_just_ended_may_still_lack_its_events(api: FakeApi, instance: Instance) -> None:
    no_events(api)
    next(run for run in api.runs.values() if run["end_time"])["end_time"] = ago(seconds=5)
    assert read(instance)["problems"] == []


def test_requests_do_not_grow_with_history(api: FakeApi, instance: Instance) -> None:
    read(instance)
    before = len(api.requests)
    for _ in range(500):
        api.add_run(kind="COMPLETED", name="Completed", end_time=ago(days=1))
    read(instance)
    assert len(api.requests) == 2 * before


def test_a_proxy_of_the_environment_is_named_and_not_asked_for_a_server_of_this_host(
    api: FakeApi, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    given = {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(urlsplit(api.url).port)}
    assert [check.healthy for check in server_checks(given)] == [True]
    (found,) = [check for check in read(instance)["checks"] if check["name"] == "api"]
    assert not found["healthy"]
    assert "the request went through the proxy 127.0.0.1:1, which http_proxy names" in found["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_is_asked_though_its_clients_go_through_a_proxy(api: FakeApi, instance: Instance, host: str) -> None:
    port = urlsplit(api.url).port
    lines = [f'PREFECT_SERVER_API_HOST="{host}"', 'PREFECT_API_URL="https://prefect.example.com/api"']

    def found(listens_on: int | None) -> list[str]:
        instance.server_settings_file.write_text("\n".join([*lines, f'PREFECT_SERVER_API_PORT="{listens_on}"']) + "\n")
        info = read(instance)
        assert info["checks"][0]["name"] == "server"
        return [problem.split(":")[0] for problem in info["problems"]]

    assert (found(port), found(1)) == ([], ["server"])


@pytest.mark.parametrize("missing", ["client.env", "PREFECT_API_URL"])
def test_a_host_without_prefect(instance: Instance, missing: str) -> None:
    instance.settings_file.unlink()
    if missing != "client.env":
        instance.settings_file.write_text("")
    (problem,) = read(instance)["problems"]
    assert problem.startswith(f"api: {instance.settings_file}")


@pytest.mark.parametrize(
    ("written", "code", "problems"),
    [
        (
            "prefect-server.service loaded active running x\nprefect-worker@a.service loaded active running x\n",
            0,
            [],
        ),
        (
            "prefect-server.service loaded activating auto-restart x\n"
            "prefect-worker@a.service loaded active running x\n",
            0,
            ["prefect-server: auto-restart; see journalctl -u prefect-server"],
        ),
        (
            "prefect-server.service loaded active running x\n",
            0,
            ["prefect-worker@: does not run on this host, and it should: run site.yml"],
        ),
        ("", 1, []),
    ],
    ids=["well", "restarting", "missing", "unknown"],
)
def test_services(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, code: int, problems: list[str]
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nprintf '%s' '{written}'\nexit {code}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    wanted = replace(instance, manager="systemd", services=("prefect-server", "prefect-worker@"))
    assert read(wanted)["problems"] == problems


ANALYZE = """#!/bin/sh
printf 'Normalized form: x\\n    Next elapse: Fri 2026-11-27 02:00:00 UTC\\n       From now: 1 day\\n'
printf '       Iter. #2: Mon 2026-11-30 02:00:00 UTC\\n   Iteration #3: Tue 2026-12-01 02:00:00 UTC\\n'
"""


def schedule(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, analyze: str = ANALYZE
) -> Instance:
    """Have the instance back up its database from Monday to Friday, with a systemd that is a script."""
    (tmp_path / "systemd-analyze").write_text(analyze)
    (tmp_path / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "backup.env").write_text("")
    (tmp_path / "state").mkdir()
    return replace(instance, backup="Mon..Fri 02:00")


@pytest.mark.parametrize(
    ("age", "analyze", "problem"),
    [
        # The longest interval is three days, and a day more is allowed.
        ({"days": 3.9}, ANALYZE, None),
        (
            {"days": 4.1},
            ANALYZE,
            "backup: the newest is 98 h old, and Mon..Fri 02:00 makes one every 72 h; see the log",
        ),
        ({"days": 1.9}, "#!/bin/sh\nexit 1\n", None),
        ({"days": 2.1}, "#!/bin/sh\nexit 1\n", "backup: the newest is 50 h old"),
    ],
)
def test_the_age_of_the_newest_backup(
    instance: Instance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: dict[str, float],
    analyze: str,
    problem: str | None,
) -> None:
    scheduled = schedule(instance, tmp_path, monkeypatch, analyze=analyze)
    (tmp_path / "state/backup.json").write_text(json.dumps({"name": "one.sqlite", "made": ago(**age), "size": 1}))
    info = read(scheduled)
    assert [each.startswith(problem or "?") for each in info["problems"]] == ([True] if problem else [])
    (sample,) = re.findall(r"^prefect_newest_backup_age_seconds (\d+)$", metrics(info), re.MULTILINE)
    assert abs(int(sample) - age["days"] * 86400) < 60
    assert "one.sqlite, made at " in text(info)
    # Without a schedule, its age is a choice of the operator.
    assert read(instance)["problems"] == []


@pytest.mark.parametrize("is_proven", [True, False])
def test_whether_the_newest_backup_is_proven(instance: Instance, tmp_path: Path, is_proven: bool) -> None:
    (tmp_path / "state").mkdir()
    result = {"proven": ago(hours=1), "unproven": ""} if is_proven else {"proven": "", "unproven": "it does not boot"}
    backup = {"name": "two.sqlite", "made": ago(hours=2), "size": 1, "newest_proven": ago(hours=2 if is_proven else 9)}
    (tmp_path / "state/backup.json").write_text(json.dumps(backup | result))
    info = read(instance)
    says = "backup proof: two.sqlite is not proven: it does not boot; the newest proven one was made at 2"
    assert [each[: len(says)] for each in info["problems"]] == ([] if is_proven else [says])
    assert ("two.sqlite, made at " in text(info)) and ("proven at " in text(info)) is is_proven
    (sample,) = re.findall(r"^prefect_newest_proven_backup_age_seconds (\d+)$", metrics(info), re.MULTILINE)
    assert abs(int(sample) - (2 if is_proven else 9) * 3600) < 60
    assert f'prefect_check_healthy{{check="backup proof"}} {int(is_proven)}\n' in metrics(info)


def test_no_backup_yet(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "prefect_newest_backup_age_seconds" not in metrics(read(instance))
    scheduled = schedule(instance, tmp_path, monkeypatch)
    assert read(scheduled)["problems"] == []
    long_ago = (datetime.now(timezone.utc) - timedelta(days=5)).timestamp()
    os.utime(tmp_path / "backup.env", (long_ago, long_ago))
    assert read(scheduled)["problems"][0].startswith("backup: none yet, 120 h after the schedule was set")
    (tmp_path / "backup.env").unlink()
    assert read(scheduled)["problems"] == ["backup: the timer has no settings on this host: run site.yml"]


@pytest.mark.parametrize(
    ("job", "services", "problems"),
    [
        ("loaded inactive dead", {"prefect-backup.timer": "waiting"}, []),
        (
            "loaded failed failed",
            {"prefect-backup.timer": "waiting", "prefect-backup": "failed"},
            ["prefect-backup: failed; see journalctl -u prefect-backup"],
        ),
    ],
)
def test_a_timer_is_well_while_it_waits_and_what_it_starts_has_not_failed(
    instance: Instance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    services: dict[str, str],
    problems: list[str],
) -> None:
    systemctl = tmp_path / "systemctl"
    rows = f"prefect-backup.timer loaded active waiting Backup\nprefect-backup.service {job} Backup"
    systemctl.write_text(f"#!/bin/sh\necho '{rows}'\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    info = read(replace(instance, manager="systemd", services=("prefect-backup.timer",)))
    assert (info["services"], info["problems"]) == (services, problems)
    assert 'prefect_service_running{service="prefect-backup.timer"} 1\n' in metrics(info)
    assert ('prefect_service_running{service="prefect-backup"} 0\n' in metrics(info)) is bool(problems)


def test_metrics_are_well_formed(api: FakeApi, instance: Instance) -> None:
    late(api)
    page = metrics(read(instance))
    samples = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [\d.e+]+', line) for line in samples)
    assert re.findall(r"^# TYPE (\S+)", page, re.MULTILINE) == sorted(
        {line.partition(" ")[0].partition("{")[0] for line in samples},
        key=lambda name: page.index(f"# TYPE {name} "),
    )
    assert 'prefect_work_queue_waiting_flow_runs{work_pool="default",work_queue="default"} 1' in samples
    assert "prefect_late_flow_runs 1" in samples
    (oldest,) = (line for line in samples if line.startswith("prefect_oldest_due_flow_run_seconds"))
    assert 60 <= float(oldest.split()[1]) < 70


def test_the_alerts_are_on_what_is_measured(api: FakeApi, instance: Instance) -> None:
    rules = (ROOT / "roles/prefect_server/files/alerts.yml").read_text()
    info = read(instance)
    info["services"] = {"prefect-server": "running"}
    info["checks"].append(asdict(Check("certificate", True, "it expires", expires=ago(days=-90))))
    info["checks"].append(asdict(Check("backup", True, "the newest is 3 h old")))
    info["checks"].append(asdict(Check("backup proof", True, "it was proven")))
    page = metrics(info)
    expressions = "\n".join(re.findall(r"^ +expr: (.*(?:\n {10}\S.*)*)", rules, re.MULTILINE))
    assert set(re.findall(r"\bprefect_\w+", expressions)) <= set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    assert set(re.findall(r'check="(.*?)"', rules)) <= set(re.findall(r'check="(.*?)"', page))


def test_the_exporter_reads_once_for_scrapes_that_come_together() -> None:
    readings: list[int] = []

    def source() -> dict[str, Any]:
        readings.append(1)
        return {"version": "3.8.8", "services": {}, "checks": []}

    server = Exporter(("127.0.0.1", 0), source=source)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert urllib.request.urlopen(f"{url}/health").read() == b"OK\n"
        pages = {urllib.request.urlopen(f"{url}/metrics").read() for _ in range(3)}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (page,) = pages
    assert b'prefect_info{version="3.8.8",server_version=""} 1' in page
    assert b"prefect_exporter_seconds" in page
    assert readings == [1]


@pytest.mark.parametrize(("breaks", "code"), [(None, 0), (no_worker, 1)])
def test_the_command(
    api: FakeApi, instance: Instance, capsys: pytest.CaptureFixture[str], breaks: Any, code: int
) -> None:
    if breaks:
        breaks(api)
    given = vars(instance)
    assert main(given, []) == code
    assert capsys.readouterr().out.startswith("Prefect, instance prefect\n")
    assert main(given, ["--json"]) == code
    assert json.loads(capsys.readouterr().out)["ready"] is True
    assert main(given, ["--metrics"]) == code
    assert "prefect_ready 1\n" in capsys.readouterr().out


def test_the_module_reads_the_same(instance: Instance) -> None:
    result = outcome(
        status.main, **{name: value for name, value in vars(instance).items() if value and name != "writes"}
    )
    assert (result["changed"], result["status"]["problems"]) == (False, [])


def test_the_table_has_what_all_say_alike_once() -> None:
    def check(name: str, *, healthy: bool = True, shared: bool = False) -> dict[str, Any]:
        return {"name": name, "healthy": healthy, "detail": f"{name} on\ntwo lines", "shared": shared}

    one = {"checks": [check("api"), check("database", shared=True)], "problems": []}
    two = {"checks": [check("api"), check("database", shared=True, healthy=False)], "problems": ["database"]}
    hostvars = {"one": {"x": {"status": one}}, "two": {"x": {"status": two}}, "away": {}}
    report = status_report(["one", "two", "away"], hostvars, "x")
    assert report["healthy"] is False
    assert [line.split()[:3] for line in status_table(report)] == [
        ["HOST", "WHAT", "HOW"],
        ["one", "api", "ok"],
        ["two", "api", "ok"],
        ["away", "host", "WRONG"],
        ["(all)", "database", "WRONG"],
    ]
    assert status_report(["one"], hostvars, "x")["healthy"] is True
