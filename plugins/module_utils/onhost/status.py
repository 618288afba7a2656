"""Health of a Prefect instance: read in a few cheap requests, reported as text, JSON or Prometheus metrics.

The module `status` runs this on the controller; every host has it as `prefect-info` and as the exporter. Each API
request returns a count or one page, however long the history is. Everything that can fail is a `Check`; the problems
that `prefect-info` lists are the failed checks.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..api.client import PAGE, PROBE, Api, ApiError, Failure, moment, quoted
from .checks import (
    TIMEOUT,
    Check,
    certificate_checks,
    clock_check,
    disk_checks,
    postgres_check,
    proxy_checks,
    redis_check,
)
from .metrics import Exporter, metrics

UNMARKED = timedelta(minutes=5)
"""If a flow run was due that long ago and is not marked late (Prefect needs 15 s), the services do not run."""

UNHEARD = timedelta(minutes=2)
"""How long after the end of a flow run its events must have arrived."""

WINDOWS = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(days=1))
"""Successive windows in which the newest event is searched: the API counts all events of a window."""

RECENT = timedelta(hours=1)
"""How long ago the flow runs counted as recently ended may have ended."""

BEATS = 4
"""Heartbeats after which a worker is silent. The server marks it OFFLINE after three, as long as it can write that."""

LEAST_SILENCE = timedelta(minutes=2)
"""How long a worker may be silent, however short its heartbeat interval is."""

DAY = timedelta(days=1)

UNITS = ("server", "services", "exporter", "worker@*", "serve@*", "celery@*", "definitions*", "redis")
UP = ("running", "waiting")
"""Healthy states of a service, and of a timer."""

ITERATIONS = 100
"""Times of a schedule to inspect for the longest interval between two: enough for a week of working days."""

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
UNDER_WAY = ("PENDING", "RUNNING", "PAUSED", "CANCELLING")

Json = dict[str, Any]


@dataclass(frozen=True)
class Instance:
    """A Prefect instance on this host.

    `opt` and `etc` are directories, `services` the services that this host must have; a name ending in `@` stands for
    at least one instance of that template. `backup` is the calendar expression by which this host backs up the
    database, empty if it does not. `api` is whether it has clients of the API. `redis` (a URL), `postgres` (as for
    `postgres.connect`) and `proxy` (for `proxy_checks`) are the other parts of the platform on this host. `disks` maps
    purposes to the directories that must have free space. `writes` is whether to test that the server can write and
    delete an object.
    """

    instance: str
    name: str
    scope: str
    manager: str
    opt: str
    etc: str
    database: str = "sqlite"
    services: Sequence[str] = ()
    backup: str = ""
    api: bool = True
    redis: str = ""
    postgres: Mapping[str, Any] = field(default_factory=dict)
    proxy: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, str] = field(default_factory=dict)
    writes: bool = True

    @property
    def settings_file(self) -> Path:
        return Path(self.etc, "client.env")

    @property
    def server_settings_file(self) -> Path:
        return Path(self.etc, "server.env")


def settings(file: Path) -> dict[str, str]:
    """Return the settings in an environment file written by this collection. Raises OSError."""
    found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', file.read_text(), re.MULTILINE)
    return {name: re.sub(r'\\(["\\$`])', r"\1", value) for name, value in found}


def client_of(given: Mapping[str, str]) -> Api:
    """Return an API client with the settings of Prefect's own clients. Raises Failure for invalid settings."""
    return Api(
        given["PREFECT_API_URL"],
        auth=given.get("PREFECT_API_AUTH_STRING"),
        ca=given.get("PREFECT_API_SSL_CERT_FILE"),
        headers=json.loads(given.get("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}"),
        timeout=TIMEOUT,
        patience=3.0,
        maintenance=0.0,
    )


def services(instance: Instance) -> dict[str, str] | None:
    """Return the state of each service of the instance on this host, or None if it cannot be determined."""
    if instance.manager == "systemd":
        job = f"{instance.name}-backup"
        units = [*(f"{instance.name}-{unit}.service" for unit in UNITS), f"{job}.timer", f"{job}.service"]
        rows = _rows(["systemctl", f"--{instance.scope}", "list-units", "--all", "--plain", "--no-legend", *units])
        found = [row for row in rows or [] if len(row) > 3 and row[1] != "not-found"]
        # A service started by a timer is reported only if it failed.
        found = [row for row in found if row[0] != f"{job}.service" or row[3] == "failed"]
        return None if rows is None else {row[0].removesuffix(".service"): row[3] for row in found}
    if instance.manager == "supervisord":
        supervisor = Path(instance.opt, "supervisor")
        control, configuration = supervisor / "current/bin/supervisorctl", supervisor / "supervisord.conf"
        # Its exit code also tells whether all processes run.
        rows = _rows([str(control), "-c", str(configuration), "status"], codes=(0, 3))
        found = [row for row in rows or [] if len(row) > 1 and row[0].startswith(instance.name)]
        return None if rows is None else {row[0]: row[1].lower() for row in found}
    return None


def _rows(command: list[str], codes: Sequence[int] = (0,)) -> list[list[str]] | None:
    """Return the words of each line that a command prints, or None if it fails."""
    # A login sets this; `su` or a plain ssh command may not.
    runtime = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"} | dict(os.environ)
    try:
        done = subprocess.run(command, env=runtime, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return [line.split() for line in done.stdout.splitlines()] if done.returncode in codes else None


def read(instance: Instance) -> Json:
    """Return everything known about an instance, with its `checks` and the `problems` that they found."""
    current = Path(instance.opt, "current").resolve()
    release = current.name
    found = services(instance)
    info: Json = {
        "instance": instance.instance,
        "version": release.rsplit("-", 1)[0],
        "release": release,
        "locked": (current / "lock.txt").is_file(),
        "environments": environments(Path(instance.opt, "environments")),
        "services": found or {},
    }
    checks = [] if found is None else list(service_checks(instance, found))
    checks += environment_checks(instance, info)
    checks += disk_checks(instance.disks)
    checks += backend_checks(instance)
    checks += backup_checks(instance, info)
    if instance.api:
        checks += client_checks(instance, info)
    return info | {
        "checks": [asdict(check) for check in checks],
        "problems": [f"{check.name}: {check.detail}" for check in checks if not check.healthy],
    }


def environments(directory: Path) -> list[Json]:
    """Return the environments of deployments on this host, with their releases and versions."""
    found = []
    for link in sorted(directory.glob("*/current")):
        release, python = link.resolve(), ""
        with contextlib.suppress(OSError):
            said = re.search(r"^version_info = ([\d.]+)$", (release / "pyvenv.cfg").read_text(), re.MULTILINE)
            python = said[1] if said else ""
        version = release.name.rpartition("-")[0]
        found.append({"name": link.parent.name, "release": release.name, "version": version, "python": python})
    return found


def environment_checks(instance: Instance, info: Json) -> Iterator[Check]:
    """Check that each environment has its Python and the Prefect of the release."""
    for each in info["environments"]:
        release = Path(instance.opt, "environments", each["name"], "releases", each["release"])
        detail = f"{each['release']}, Python {each['python']}"
        if not (release / "bin" / "python").exists():
            yield Check(
                f"environment {each['name']}",
                False,
                f"{detail}: its Python was removed; install it again, or remove {release} and run site.yml",
            )
        elif each["version"] != info["version"]:
            detail += f": the release has Prefect {info['version']}; run site.yml"
            yield Check(f"environment {each['name']}", False, detail)
        else:
            yield Check(f"environment {each['name']}", True, detail)


def backup_checks(instance: Instance, info: Json) -> Iterator[Check]:
    """Add the newest backup that this host made to `info`; check its proof, and its age if backups are scheduled."""
    made = ""
    with contextlib.suppress(OSError, ValueError, KeyError):
        backup = json.loads(Path(instance.opt, "state", "backup.json").read_text(encoding="utf-8"))
        made = str(backup["made"])
        info["backup"] = backup | {"age": round(_age(made))}
        if backup.get("newest_proven"):
            info["backup"]["proven_age"] = round(_age(backup["newest_proven"]))
        if backup.get("proven") or backup.get("unproven"):
            yield proof_check(backup)
    if not instance.backup:
        return
    settings_file = Path(instance.etc, "backup.env")
    if not made and not settings_file.exists():
        yield Check("backup", False, "the timer has no settings on this host: run site.yml")
        return
    # Before the first backup, measure from the time when the schedule was set.
    age = timedelta(seconds=_age(made) if made else _now().timestamp() - settings_file.stat().st_mtime)
    interval = longest_interval(instance.backup)
    most = interval + min(interval, DAY)
    known = f"the newest is {_hours(age)} old" if made else f"none yet, {_hours(age)} after the schedule was set"
    late = f"{known}, and {instance.backup} makes one every {_hours(interval)}; see the log of {instance.name}-backup"
    yield Check("backup", age <= most, known if age <= most else late)


def proof_check(backup: Json) -> Check:
    """Check that the newest backup passed its proof."""
    if backup["proven"]:
        return Check("backup proof", True, f"{backup['name']} was proven at {backup['proven']}")
    newest = backup["newest_proven"]
    known = f"the newest proven one was made at {newest}" if newest else "none was proven yet"
    return Check("backup proof", False, f"{backup['name']} is not proven: {backup['unproven']}; {known}")


def longest_interval(calendar: str) -> timedelta:
    """Return the longest interval between the next times of a calendar expression; a day if it is unknown."""
    words = ["systemd-analyze", "calendar", f"--iterations={ITERATIONS}", "--", calendar]
    environment = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
    try:
        said = subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout
    except OSError:
        return DAY
    times = [
        datetime.strptime(found, "%Y-%m-%d %H:%M:%S")
        for found in re.findall(r"(?:elapse|#\d+): \w+ (\d+-\d+-\d+ \d+:\d+:\d+)", said)
    ]
    return max((later - time for time, later in pairwise(times)), default=DAY)


def _hours(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{hours * 60:.0f} min"


def backend_checks(instance: Instance) -> Iterator[Check]:
    """Check the server, database, Redis and proxy on this host, and the Redis that a server on it needs."""
    if instance.postgres:
        yield postgres_check(instance.postgres)
    given: dict[str, str] = {}
    with contextlib.suppress(OSError):
        given = settings(instance.server_settings_file)
    yield from server_checks(given)
    url = instance.redis or given.get("PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL", "")
    # Only a Sentinel client knows which of the servers behind a Sentinel it is.
    if url and "+sentinel" not in url:
        yield redis_check(url)
    if instance.proxy:
        yield from proxy_checks(**instance.proxy)


def server_checks(given: Mapping[str, str]) -> Iterator[Check]:
    """Query this host's server directly, using its settings, if its clients may be routed to another one."""
    host, port = given.get("PREFECT_SERVER_API_HOST", ""), given.get("PREFECT_SERVER_API_PORT", "")
    probe = "127.0.0.1" if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
    url = f"http://{probe}:{port}{given.get('PREFECT_SERVER_API_BASE_PATH', '/api')}"
    if not host or url == given.get("PREFECT_API_URL"):
        return
    try:
        with Api(url, timeout=TIMEOUT, patience=0.0, direct=True) as api:
            api.call("GET", "/health", patience=0)
        yield Check("server", True, url)
    except ApiError as error:
        yield Check("server", False, f"{error}: is it still starting? See its log")


def client_checks(instance: Instance, info: Json) -> Iterator[Check]:
    """Query the API as the clients on this host do, add the results to `info`, and check them."""
    try:
        given = settings(instance.settings_file)
        if "PREFECT_API_URL" not in given:
            raise Failure(f"{instance.settings_file} sets no PREFECT_API_URL: run site.yml")
        url = given["PREFECT_API_URL"]
        info |= {"api_url": url, "ui_url": given.get("PREFECT_UI_URL"), "ready": False}
        if url.startswith("https:"):
            yield from certificate_checks(url, ca=given.get("PREFECT_API_SSL_CERT_FILE"))
        with client_of(given) as api:
            yield from api_checks(api, info, database=instance.database, writes=instance.writes)
    except PermissionError:
        yield Check("api", False, f"{instance.settings_file} can only be read by root and by its group")
    except FileNotFoundError:
        yield Check("api", False, f"{instance.settings_file} does not exist: is Prefect installed on this host?")
    except ApiError as error:
        yield Check("api", False, f"{error}: is the server running, and does its address ({api.url}) lead here?")
    except Failure as error:
        yield Check("api", False, str(error))


def service_checks(instance: Instance, found: Mapping[str, str]) -> Iterator[Check]:
    """Check the services on this host: those that exist, and those that should exist."""
    log = "journalctl -u" if instance.scope == "system" else "journalctl --user -u"
    for name, state in found.items():
        yield Check(name, state in UP, state if state in UP else f"{state}; see {log} {name}")
    for name in instance.services:
        if not any(each == name or (name.endswith("@") and each.startswith(name)) for each in found):
            yield Check(name, False, "does not run on this host, and it should: run site.yml")


def api_checks(api: Api, info: Json, *, database: str, writes: bool) -> Iterator[Check]:
    """Query the API, add the results to `info`, and check them. Raises ApiError if it does not answer."""
    api.call("GET", "/health", patience=0)
    yield Check("api", True, api.url)
    yield clock_check(api.ahead, api.url)
    try:
        api.call("GET", "/ready", patience=0)
    except ApiError as error:
        # The server's own 503 is JSON; the proxy's 503, if no server is available, is an HTML page.
        if error.status != 503 or not isinstance(error.body, dict):
            raise
        yield Check(
            "database", False, f"{database or 'the database'} does not answer the server: is it running?", shared=True
        )
        return
    info["ready"] = True
    if database:
        info["database"] = database
    yield Check("database", True, database or "answers", shared=True)
    info |= platform(api)
    if writes:
        yield write_check(api)
    yield from map(pool_check, info["work_pools"])
    yield schedule_check(info)
    yield events_check(api, info)


@contextlib.contextmanager
def _allowed(status: int) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.status != status:
            raise


def write_check(api: Api) -> Check:
    """Create a variable through the server, and delete it. Raises ApiError if no server answers.

    A database that is full, or has become read-only, still answers all reads.
    """
    # One name for a host: a check that was killed left the variable, and then its removal is what writes.
    name = PROBE + hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:12]
    try:
        with _allowed(409):
            api.post("/variables/", {"name": name, "value": "written and removed by a status check"})
        with _allowed(404):
            api.call("DELETE", f"/variables/name/{name}")
    except ApiError as error:
        if error.status is None:
            raise
        reason = f"{error}: is the disk of the database full, or is the database read-only?"
        return Check("writes", False, f"the server cannot write: {reason}", shared=True)
    return Check("writes", True, "the server writes", shared=True)


def platform(api: Api) -> Json:
    """Return what a ready server reports. Raises ApiError."""
    flows = {flow["id"]: flow["name"] for flow in _first(api, "/flows/filter")}
    deployments = _first(api, "/deployments/filter")
    pools = sorted(_first(api, "/work_pools/filter"), key=lambda pool: str(pool["name"]))
    ended = {"end_time": {"is_null_": False}}
    last = api.post("/flow_runs/filter", {"limit": 1, "sort": "END_TIME_DESC", "flow_runs": ended})
    return {
        "server_version": api.get("/admin/version"),
        "work_pools": [work_pool(api, pool) for pool in pools],
        "deployments": sorted(f"{flows.get(row['flow_id'], '?')}/{row['name']}" for row in deployments),
        "scheduled_deployments": sum(map(_is_scheduled, deployments)),
        "flow_runs": flow_runs(api),
        "newest_event": newest_event(api),
        "last_flow_run": next(
            (
                {
                    "name": run["name"],
                    "flow": flows.get(run["flow_id"]),
                    "state": run["state_name"],
                    "end_time": run["end_time"],
                }
                for run in last
            ),
            None,
        ),
    }


def _first(api: Api, path: str) -> list[Json]:
    """Return the first objects of a `.../filter` route: at most one page at the server's default limit."""
    return list(api.pages(path, most=PAGE))


def _is_scheduled(deployment: Mapping[str, Any]) -> bool:
    """Return whether the scheduler should have created runs for a deployment by now."""
    active = any(schedule.get("active") for schedule in deployment.get("schedules") or [])
    settled = _now() - moment(deployment["updated"]) > UNHEARD if deployment.get("updated") else True
    return active and not deployment.get("paused") and settled


def work_pool(api: Api, pool: Mapping[str, Any]) -> Json:
    """Return a work pool with its workers, and the number of waiting flow runs by work queue. Raises ApiError."""
    path = f"/work_pools/{quoted(pool['name'])}"
    workers = sorted(_first(api, f"{path}/workers/filter"), key=lambda worker: str(worker["name"]))
    queues = _first(api, f"{path}/queues/filter")
    in_pool = {"work_pools": {"name": {"any_": [pool["name"]]}}}
    return {
        "name": pool["name"],
        "type": pool["type"],
        "status": pool.get("status"),
        "paused": pool.get("is_paused"),
        "late_flow_runs": _count(api, {"state": {"name": {"any_": ["Late"]}}}, **in_pool),
        "waiting_flow_runs": {
            queue["name"]: _count(api, _due(), work_pool_queues={"id": {"any_": [queue["id"]]}}) for queue in queues
        },
        "workers": {worker["name"]: worker.get("status") for worker in workers},
        "heartbeats": {worker["name"]: worker.get("last_heartbeat_time") for worker in workers},
        "silent_workers": {worker["name"]: int(age) for worker in workers if (age := silence(worker, api.ahead))},
    }


def silence(worker: Mapping[str, Any], ahead: timedelta) -> float:
    """Return the seconds since the last heartbeat of a worker that the server marks ONLINE; 0 if recent enough."""
    if worker.get("status") != "ONLINE" or not worker.get("last_heartbeat_time"):
        return 0.0
    age = _age(worker["last_heartbeat_time"]) + ahead.total_seconds()
    interval = float(worker.get("heartbeat_interval_seconds") or 30)
    return age if age > max(BEATS * interval, LEAST_SILENCE.total_seconds()) else 0.0


def flow_runs(api: Api) -> Json:
    """Return the number of flow runs by state, and when the oldest was due. Raises ApiError."""
    now = _now()
    ahead = {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"after_": now.isoformat()}}
    overdue = _due(now - UNMARKED)
    overdue["state"]["name"] = {"any_": ["Scheduled"]}
    oldest = _scheduled_for(api, _due(now))
    following = _scheduled_for(api, ahead)
    recent = {"after_": (now - RECENT).isoformat()}
    return {
        "late": _count(api, {"state": {"name": {"any_": ["Late"]}}}),
        "unmarked": _count(api, overdue),
        "upcoming": _count(api, ahead),
        "next": following.isoformat() if following else None,
        "oldest_due": oldest.isoformat() if oldest else None,
        "under_way": {kind: _count(api, {"state": {"type": {"any_": [kind]}}}) for kind in UNDER_WAY},
        "ended_last_hour": {
            kind: _count(api, {"state": {"type": {"any_": [kind]}}, "end_time": recent}) for kind in ENDED
        },
    }


def _due(until: datetime | None = None) -> Json:
    """Return the filter for flow runs that workers should have picked up by now."""
    before = (until or _now()).isoformat()
    return {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"before_": before}}


def _count(api: Api, runs: Json, **more: Any) -> int:
    return int(api.post("/flow_runs/count", {"flow_runs": runs, **more}))


def _scheduled_for(api: Api, runs: Json) -> datetime | None:
    """Return when the first of some scheduled flow runs is due."""
    found = api.post("/flow_runs/filter", {"limit": 1, "sort": "NEXT_SCHEDULED_START_TIME_ASC", "flow_runs": runs})
    return moment(found[0]["next_scheduled_start_time"]) if found else None


def newest_event(api: Api) -> str | None:
    """Return when the newest event of the last day occurred. Raises ApiError."""
    for window in WINDOWS:
        occurred = {"since": (_now() - window).isoformat(), "until": (_now() + window).isoformat()}
        page = api.post("/events/filter", {"limit": 1, "filter": {"occurred": occurred, "order": "DESC"}})
        if page["events"]:
            return str(page["events"][0]["occurred"])
    return None


def pool_check(pool: Mapping[str, Any]) -> Check:
    """Check that a work pool is not paused, and that its workers pick up flow runs."""
    name, waiting = f"work pool {pool['name']}", sum(pool["waiting_flow_runs"].values())
    online = [worker for worker, status in pool["workers"].items() if status == "ONLINE"]
    if pool["paused"]:
        resume = f"prefect work-pool resume {pool['name']}"
        return Check(name, False, f"paused, {waiting} flow runs wait: {resume}", shared=True)
    if not online:
        return Check(name, False, f"no worker is online, {waiting} flow runs wait", shared=True)
    heard = min(_age(pool["heartbeats"][worker]) for worker in online)
    detail = f"{len(online)} of {len(pool['workers'])} workers online, heard of {heard:.0f} s ago, {waiting} waiting"
    if pool["silent_workers"]:
        silent = ", ".join(f"{worker} ({age} s)" for worker, age in pool["silent_workers"].items())
        reason = "do they run, do they reach the server, and can it write?"
        return Check(name, False, f"workers that are called ONLINE are silent: {silent}: {reason}", shared=True)
    if pool["late_flow_runs"]:
        late = f"{pool['late_flow_runs']} flow runs are late: a limit is reached, or the workers are busy"
        return Check(name, False, f"{late}; {detail}", shared=True)
    return Check(name, True, detail, shared=True)


def schedule_check(info: Json) -> Check:
    """Check the background services by their results: runs scheduled ahead, and no overdue run left unmarked."""
    runs, name = info["flow_runs"], "background services"
    where = "see the log of the server or, where it has a unit of its own, of the services"
    if runs["unmarked"]:
        overdue = f"{runs['unmarked']} flow runs are overdue and not marked late"
        return Check(name, False, f"{overdue}: {where}", shared=True)
    if info["scheduled_deployments"] and not runs["upcoming"]:
        idle = f"{info['scheduled_deployments']} deployments have an active schedule and no flow run is planned"
        return Check(name, False, f"{idle}: {where}", shared=True)
    planned = f", the next in {-_age(runs['next']):.0f} s" if runs["next"] else ""
    return Check(name, True, f"{runs['upcoming']} flow runs planned{planned}", shared=True)


def events_check(api: Api, info: Json) -> Check:
    """Check that events of the last flow run arrived. Raises ApiError."""
    last, newest = info["last_flow_run"], info["newest_event"]
    detail = f"the newest is {_age(newest):.0f} s old" if newest else "none in the last day"
    if last and UNHEARD < timedelta(seconds=_age(last["end_time"])) < WINDOWS[-1]:
        ended = moment(last["end_time"])
        if newest is None or moment(newest) < ended - timedelta(seconds=5):
            lost = f"none since {last['name']} ended, so automations see nothing"
            return Check("events", False, f"{lost}: do websockets pass the proxy, and does Redis answer?", shared=True)
    return Check("events", True, detail, shared=True)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _age(text: str | None) -> float:
    """Return the seconds since a time that the API wrote; negative if it is in the future."""
    return (_now() - moment(text)).total_seconds() if text else 0.0


def text(info: Json) -> str:
    """Return the status as text for the user."""
    run = info.get("last_flow_run")
    version = info["version"] + ("" if info.get("locked", True) else " (without a lock)")
    version += f", server {info['server_version']}" if "server_version" in info else ""
    rows = [
        ("UI", info.get("ui_url") or "-"),
        ("API", f"{info.get('api_url', '-')} ({'ready' if info.get('ready') else 'not ready'})"),
        ("Version", version),
        *(
            ("Environment", f"{each['name']}: {each['release']}, Python {each['python']}")
            for each in info.get("environments", [])
        ),
        ("Database", info.get("database", "-")),
        *([("Backup", _backup(info["backup"]))] if "backup" in info else []),
        ("Services", ", ".join(f"{name} {state}" for name, state in info["services"].items()) or "-"),
        *(
            (
                "Work pool",
                f"{pool['name']} ({pool['type']}, {pool['status']}): "
                + (", ".join(f"{name} {state}" for name, state in pool["workers"].items()) or "no workers"),
            )
            for pool in info.get("work_pools", [])
        ),
        ("Deployments", _shown(info.get("deployments", []))),
        ("Last flow run", f"{run['flow']} {run['name']}: {run['state']} at {run['end_time']}" if run else "-"),
        *(("Problem", problem) for problem in info["problems"]),
    ]
    return "\n".join([f"Prefect, instance {info['instance']}", *(f"  {label:<14}{value}" for label, value in rows)])


def _backup(backup: Json) -> str:
    state = f"proven at {backup['proven']}" if backup.get("proven") else "not proven"
    return f"{backup['name']}, made at {backup['made']}, {state}"


def _shown(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "-") + more


def main(given: Mapping[str, Any], arguments: Sequence[str] | None = None) -> int:
    """Run `prefect-info` and return its exit code: 0 if there are no problems, otherwise 1."""
    instance = Instance(**given)
    parser = argparse.ArgumentParser(
        prog=f"{instance.name}-info",
        description="What Prefect is on this host, how it is, and what is wrong with it. "
        "Exit code 0 when nothing is, otherwise 1.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--metrics", action="store_true", help="print Prometheus metrics")
    form.add_argument("--serve", metavar="HOST:PORT", help="serve Prometheus metrics there, at /metrics")
    wanted = parser.parse_args(arguments)
    if wanted.serve:
        host, _, port = wanted.serve.rpartition(":")
        Exporter((host.strip("[]"), int(port)), source=lambda: read(instance)).serve_forever()
    info = read(instance)
    print(json.dumps(info, indent=2) if wanted.json else metrics(info) if wanted.metrics else text(info))
    return 1 if info["problems"] else 0
