"""The proof of a backup: it is restored into a scratch database, and a scratch server of the same release serves it.

A proof compares twice. The restored rows are compared with those that the backup was made from, read in the same
snapshot: the number of rows of each table, and a digest of every kind of object and of the newest flow runs. What the
scratch server lists is then compared with the restored rows. Everything that a proof creates is in one directory, in
one scratch database whose name is recorded there, and in one unit; `clear` removes all of it, also after a killed run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ..api.client import Api, ApiError, Failure
from .backups import Backup, BackupError
from .ports import listeners
from .postgres import DatabaseError
from .processes import settings_in
from .safe_files import AccountError, beside, locked, reach, read, remove, write

NEWEST = 200
"""Flow runs, the newest ones, that a proof compares one by one."""

RUNS = "flow_run"
TAG_LIMITS = "concurrency_limit"

Pair = Sequence[str | None]
"""The ID of an object and its name, or another column."""

DIGESTED = (
    "automation",
    "block_document",
    "block_document_reference",
    "block_schema",
    "block_schema_reference",
    "block_type",
    TAG_LIMITS,
    "concurrency_limit_v2",
    "configuration",
    "deployment",
    "deployment_schedule",
    "deployment_version",
    "flow",
    RUNS,
    "saved_search",
    "variable",
    "work_pool",
    "work_queue",
)
"""The tables of every kind of object. Of flow runs, only the newest have a digest: all would take too long."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object: its table, the route that lists it, and the column and field that identify it beside its ID."""

    table: str
    column: str
    route: str
    body: Mapping[str, Any] = field(default_factory=dict)


KINDS = (
    Kind(table="automation", column="name", route="/automations/filter"),
    # The server decrypts the secrets for this answer, which shows that it has their key.
    Kind(
        table="block_document",
        column="name",
        route="/block_documents/filter",
        body={"block_documents": {"is_anonymous": None}, "include_secrets": True},
    ),
    Kind(table="block_type", column="slug", route="/block_types/filter"),
    Kind(table=TAG_LIMITS, column="tag", route="/concurrency_limits/filter"),
    Kind(table="concurrency_limit_v2", column="name", route="/v2/concurrency_limits/filter"),
    Kind(table="deployment", column="name", route="/deployments/filter"),
    Kind(table="flow", column="name", route="/flows/filter"),
    Kind(table="variable", column="name", route="/variables/filter"),
    Kind(table="work_pool", column="name", route="/work_pools/filter"),
    Kind(table="work_queue", column="name", route="/work_queues/filter"),
)

SCHEDULES = "deployment_schedule"
NAMED = {kind.table: kind.column for kind in KINDS} | {SCHEDULES: "deployment_id", RUNS: "name"}
"""The tables whose IDs are compared with what the server lists, with a second column."""

TAKEN = re.compile(r"PREFECT_(?:SERVER|API)_DATABASE_\w+|PREFECT_SERVER_ENCRYPTION_KEY|ORION_ENCRYPTION_KEY")
"""The settings that a scratch server gets from the real one. No other, so that it cannot reach Redis, for example."""

SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "EVENT_LOGGER",
    "EVENT_PERSISTER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TASK_RUN_RECORDER",
    "TRIGGERS",
)
SILENT = {
    "DO_NOT_TRACK": "1",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "false",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "true",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in SERVICES},
}
"""Settings of every scratch server: it runs nothing but the API, and sends nothing."""

RECORD = "proof.json"
LAST_LINES = 20
SECONDS_TO_END = 60
LONGEST = 4 * 3600
"""Seconds after which systemd ends a scratch server that a killed run left."""


class ProofError(BackupError):
    """A backup is not proven; the message says why. `log` is the end of the scratch server's log."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how a backup is proven on this host.

    `release` is the directory of the release, `settings` the file of the real server's settings, `scratch` a directory
    that only root can replace, `account` the server's account (empty for the user who runs this). With `unit`, systemd
    runs the scratch server in a unit of this name, with `options` as its properties. `timeout` is the seconds in which
    the server must answer.
    """

    release: Path
    settings: Path
    scratch: Path
    account: str = ""
    unit: str = ""
    scope: str = "system"
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: int = 180

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Place:
        """Return the place that a module's options describe; options that are None keep their defaults."""
        known = {name: value for name, value in given.items() if value is not None}
        return cls(**known | {name: Path(known[name]) for name in ("release", "settings", "scratch")})

    @property
    def home(self) -> Path:
        """The scratch server's PREFECT_HOME, which its account can write."""
        return self.scratch / "home"

    @property
    def log(self) -> Path:
        return self.scratch / "server.log"

    @property
    def owner(self) -> tuple[int, int]:
        """The user and group of the scratch server. Raises ProofError."""
        if not self.account or os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        try:
            account = pwd.getpwnam(self.account)
        except KeyError as error:
            raise ProofError(f"the server's account {self.account} does not exist: run site.yml") from error
        return account.pw_uid, account.pw_gid


@dataclass(frozen=True, kw_only=True)
class Census:
    """What a database contains: rows and digests by table, and the ID and name of each object by table."""

    rows: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Sequence[Pair]] = field(default_factory=dict)


class Scratch(Protocol):
    """A scratch database."""

    name: str

    def restore(self, backup: Path) -> None: ...

    def census(self, *, names: bool = False) -> Census: ...

    def connection(self, settings: Mapping[str, str]) -> dict[str, str]: ...


class Database(Protocol):
    """The database that was backed up."""

    def scratch(self, home: Path) -> Scratch: ...

    def check_scratch(self, scratch: Any) -> None: ...

    def create_scratch(self, scratch: Any) -> None: ...

    def drop_scratch(self, name: str) -> None: ...


def prove(database: Database, backup: Backup, place: Place) -> None:
    """Restore a backup into a scratch database, and compare what a scratch server shows of it.

    Raises ProofError if the backup is not proven. In either case nothing of the proof is left.
    """
    try:
        with locked(f"proof {place.scratch}"):
            _clear(database, place)
            try:
                _prove(database, backup, place)
            finally:
                _clear(database, place)
    except ProofError:
        raise
    except (AccountError, BackupError, DatabaseError, Failure, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        raise ProofError(str(reason)) from error


def clear(database: Database, place: Place) -> None:
    """Remove what a killed proof left: its unit, its processes, its database and its directory.

    Raises AccountError, BackupError, DatabaseError and OSError.
    """
    with locked(f"proof {place.scratch}"):
        _clear(database, place)


def _clear(database: Database, place: Place) -> None:
    if not place.scratch.exists():
        return
    _end(place)
    with contextlib.suppress(FileNotFoundError):
        recorded = json.loads(read(place.scratch / RECORD))
        database.drop_scratch(recorded["database"])
    remove(place.scratch)


def _prove(database: Database, backup: Backup, place: Place) -> None:
    if not backup.digests:
        raise ProofError("its manifest has no digests of what it was made from: make another with this proof")
    if not (place.release / "bin" / "prefect").exists():
        raise ProofError(f"{place.release} has no release of Prefect on this host: run site.yml")
    uid, gid = place.owner
    own = {"owner": os.geteuid(), "group": os.getegid()}
    with beside(place.scratch, make=True) as (above, name):
        if not above.is_safe:
            raise ProofError(f"another account can write {above.path}, and replace {place.scratch} there")
        above.make(name, owner=os.geteuid(), group=gid, mode=0o710)
    with reach(place.scratch) as directory:
        directory.make(place.home.name, owner=uid, group=gid, mode=0o700)
    scratch = database.scratch(place.home)
    database.check_scratch(scratch)
    write(place.scratch / RECORD, json.dumps({"database": scratch.name}).encode(), mode=0o600, **own)
    database.create_scratch(scratch)
    scratch.restore(backup.path)
    restored = scratch.census(names=True)
    compare(backup, restored)
    given = settings_in(read(place.settings).decode())
    token = f"proof:{secrets.token_hex(16)}"
    settings = {
        **{name: value for name, value in given.items() if TAKEN.fullmatch(name)},
        **SILENT,
        "HOME": str(place.home),
        "PREFECT_HOME": str(place.home),
        "PREFECT_SERVER_API_AUTH_STRING": token,
        **scratch.connection(given),
    }
    with _served(place, settings) as url, Api(url, auth=token, direct=True, timeout=place.timeout) as api:
        compare_served(api, restored, version=backup.origin.version)


def compare(backup: Backup, restored: Census) -> None:
    """Compare the restored rows with those that the backup was made from. Raises ProofError."""
    for table in sorted({*backup.rows, *restored.rows}):
        was, found = backup.rows.get(table, 0), restored.rows.get(table, 0)
        if was != found:
            raise ProofError(
                f"the table {table} has {found} rows when restored, and had {was} when the backup was made"
            )
    for table in sorted({*backup.digests, *restored.digests}):
        if backup.digests.get(table) != restored.digests.get(table):
            raise ProofError(f"the table {table} has other rows when restored than when the backup was made")


def compare_served(api: Api, restored: Census, *, version: str) -> None:
    """Compare what a server lists with the rows of its database. Raises ProofError and ApiError."""
    serves = str(api.get("/admin/version"))
    if version and serves != version:
        raise ProofError(f"the release on this host is Prefect {serves}, and the backup was made of Prefect {version}")
    stored = {**restored.names, TAG_LIMITS: tag_limits(restored)}
    for kind in KINDS:
        listed = list(api.pages(kind.route, kind.body))
        _same(kind.table, ((row["id"], row.get(kind.column)) for row in listed), stored)
        if kind.table == "deployment":
            schedules = [(each["id"], row["id"]) for row in listed for each in row.get("schedules") or []]
            _same(SCHEDULES, schedules, stored)
    counted = int(api.post("/flow_runs/count", {}))
    if counted != restored.rows[RUNS]:
        raise ProofError(f"the scratch server counts {counted} flow runs, and its database has {restored.rows[RUNS]}")
    ids = [identifier for identifier, _ in stored[RUNS]]
    runs = api.pages("/flow_runs/filter", {"flow_runs": {"id": {"any_": ids}}}) if ids else ()
    _same(RUNS, ((row["id"], row["name"]) for row in runs), stored)


def tag_limits(restored: Census) -> list[Pair]:
    """Return the ID and tag of each limit of a tag. New ones are in the table of the other limits."""
    newer = [
        (identifier, name.removeprefix("tag:"))
        for identifier, name in restored.names["concurrency_limit_v2"]
        if name and name.startswith("tag:")
    ]
    tags = {tag for _, tag in newer}
    return [*newer, *((identifier, tag) for identifier, tag in restored.names[TAG_LIMITS] if tag not in tags)]


def _same(table: str, listed: Iterable[Pair], stored: Mapping[str, Sequence[Pair]]) -> None:
    served = sorted((str(one), str(other)) for one, other in listed)
    wanted = sorted((str(one), str(other)) for one, other in stored[table])
    if len(served) != len(wanted):
        raise ProofError(f"the scratch server lists {len(served)} of {table}, and its database has {len(wanted)}")
    if served != wanted:
        different = next(one for one in served if one not in set(wanted))
        raise ProofError(f"the scratch server lists a {table} that its database does not have: {' '.join(different)}")


def digest_of(rows: Iterable[Sequence[Any]]) -> str:
    """Return a digest of rows, whatever their order."""
    each = sorted(hashlib.sha256(repr(tuple(row)).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


@contextlib.contextmanager
def _served(place: Place, settings: Mapping[str, str]) -> Iterator[str]:
    """Run a scratch server; yield the URL of its API once that answers. Raises ProofError with the end of its log."""
    port = free_port()
    release = place.release.resolve()
    words = [str(release / "bin" / "prefect"), "--no-prompt", "server", "start", "--no-services"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"owner": os.geteuid(), "group": os.getegid()}
    write(place.log, b"", mode=0o600, **own)
    process = None
    if place.unit:
        file = place.scratch / "settings.env"
        content = "".join(f"{name}={quoted(value)}\n" for name, value in settings.items())
        write(file, content.encode(), mode=0o600, **own)
        _start_unit(place, words, file)
    else:
        become: dict[str, Any] = {}
        if place.account and os.geteuid() == 0:
            uid, gid = place.owner
            become = {"user": uid, "group": gid, "extra_groups": os.getgrouplist(place.account, gid)}
        with place.log.open("wb") as log:
            process = subprocess.Popen(
                words,
                cwd="/",
                env=dict(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **become,
            )
    try:
        url = f"http://127.0.0.1:{port}/api"
        if failed := _wait(place, process, port=port, url=url):
            said = _tail(place.log, settings)
            raise ProofError(f"the scratch server {failed}{cause(said)}", log=said)
        yield url
    except ApiError as error:
        raise ProofError(f"the scratch server: {error}", log=_tail(place.log, settings)) from error
    finally:
        _end(place)
        if process:
            process.kill()
            process.wait(SECONDS_TO_END)


def _wait(place: Place, process: subprocess.Popen[bytes] | None, *, port: int, url: str) -> str:
    """Wait until the scratch server answers; return what it did instead, or an empty text."""
    deadline = time.monotonic() + place.timeout
    with Api(url, direct=True, timeout=10, patience=0) as api:
        while True:
            # Another account may have taken the port in the meantime, and would answer.
            own = processes(place)
            if any(pid in own for pid, _ in listeners(port)):
                with contextlib.suppress(ApiError):
                    api.call("GET", "/ready", patience=0)
                    return ""
            if process.poll() is not None if process else _systemctl(place, "is-active"):
                return "ended at its start"
            if time.monotonic() > deadline:
                return f"did not answer within {place.timeout} s"
            time.sleep(0.25)


def _end(place: Place) -> None:
    """End a scratch server and all its processes."""
    if place.unit:
        # It may not exist any more, or not yet.
        _systemctl(place, "stop")
    deadline = time.monotonic() + SECONDS_TO_END
    while found := processes(place):
        if time.monotonic() > deadline:
            raise ProofError(f"the scratch server does not end: {', '.join(map(str, sorted(found)))} still run")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _start_unit(place: Place, words: Sequence[str], settings: Path) -> None:
    options = {
        **place.options,
        "EnvironmentFile": settings,
        "KillSignal": "SIGKILL",
        "RuntimeMaxSec": LONGEST,
        "StandardError": f"append:{place.log}",
        "StandardOutput": f"append:{place.log}",
        "Type": "exec",
        "WorkingDirectory": "/",
    }
    if place.scope == "system":
        options |= {"User": place.account, "ReadWritePaths": place.home}
    run = ["systemd-run", f"--{place.scope}", "--quiet", "--collect", f"--unit={place.unit}"]
    run += [f"--property={name}={value}" for name, value in options.items()]
    done = subprocess.run([*run, "--", *words], env=runtime(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProofError(f"systemd-run: {done.stderr.strip()}")


def _systemctl(place: Place, verb: str) -> int:
    words = ["systemctl", f"--{place.scope}", "--quiet", verb, f"{place.unit}.service"]
    return subprocess.run(words, env=runtime(), capture_output=True, check=False).returncode


def runtime() -> dict[str, str]:
    """Return the environment for systemd's commands. A login sets this variable; `su` or plain ssh may not."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"} | dict(os.environ)


def processes(place: Place) -> set[int]:
    """Return the processes of a scratch server, by the home in their environment and their account."""
    mark = f"PREFECT_HOME={place.home}".encode()
    uid, _ = place.owner
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid and mark in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quoted(value: str) -> str:
    """Return a value as systemd's EnvironmentFile reads it; the same as the filter `env_value`."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def cause(log: str) -> str:
    """Return the exception in a log, or its last line, as the end of a sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return f": {(raised or lines)[-1]}" if lines else ""


def _tail(log: Path, settings: Mapping[str, str]) -> str:
    """Return the last lines of a log, without the secrets of the settings."""
    with contextlib.suppress(OSError):
        text = read(log).decode(errors="replace")
        for name, value in settings.items():
            secret = urlsplit(value).password if name.endswith("_URL") else value
            if secret and re.search("URL|PASSWORD|KEY|AUTH", name):
                text = text.replace(secret, "********").replace(unquote(secret), "********")
        return "\n".join(text.strip().splitlines()[-LAST_LINES:])
    return ""
