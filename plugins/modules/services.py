#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Keep services running with the settings that are on disk, under systemd or supervisord."""

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Keep services running with the settings that are on disk
description:
  - Starts services together, restarts exactly those whose files differ from the ones that they were last healthy
    with, and waits until each is healthy. The digest of those files is kept in a state directory and written after
    the wait, so that a run which was killed between writing and restarting is finished by the next one.
  - A service that does not become healthy fails the task with the end of its log.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
extends_documentation_fragment: selfhosted.prefect.ledger
options:
  services:
    description: The services.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the unit without its suffix, or of the supervisord program. One that ends in C(.timer) is a timer of
            systemd, and is with the service that it starts as one.
        type: str
        required: true
      files:
        description: Files that the service is made of. They are removed with it.
        type: list
        elements: path
        default: []
      watch:
        description: Further files and symbolic links whose change asks for a restart.
        type: list
        elements: path
        default: []
      ports:
        description:
          - TCP ports that the service needs, by the variables that set them. Unless each is free or held by one of our
            own, from the directory that O(state_dir) is in, nothing is stopped or started.
        type: dict
        default: {}
      settings:
        description: File of the service's settings, the environment of the commands below.
        type: path
      user:
        description: Account that the commands below run as. Left out, it is the one who connects.
        type: str
      prepare:
        description:
          - What has to be done each time before the service is started. It may take as long as it needs; when it fails,
            nothing is started.
        type: dict
        default: {}
        suboptions:
          command:
            description: Command line, run as the service's account. Services with the same one have it run once.
            type: list
            elements: str
      health:
        description:
          - How the service is known to be healthy. C(url) answers 200; C(worker) of C(pool) is online at
            C(api_url) since it was started; or C(command) ends with 0. Left out, it is enough that it runs.
          - With C(api), the API at that address also has to answer a request with O(api_auth).
        type: dict
        default: {}
        suboptions:
          command:
            description: Command line, run as the service's account, to which the number of its process is added.
            type: list
            elements: str
          api:
            description: Address of the API that the service is, on this host, ending in C(/api).
            type: str
          url:
            description: Address that answers 200 once the service is healthy.
            type: str
          pool:
            description: Work pool of the worker.
            type: str
          worker:
            description: Name of the worker.
            type: str
  state:
    description:
      - V(started) as described, V(restarted) in any case, V(halted) stopped until the next start or boot,
        V(stopped) and not started at boot, V(absent) stopped and its files removed.
    type: str
    choices: [started, restarted, halted, stopped, absent]
    default: started
  manager:
    description: What runs the services.
    type: str
    choices: [systemd, supervisord, none]
    default: systemd
  scope:
    description: The system's systemd, or that of the user who connects.
    type: str
    choices: [system, user]
    default: system
  state_dir:
    description: Directory of the digests.
    type: path
    required: true
  units_dir:
    description: Directory of the units.
    type: path
  supervisor:
    description: Directory of supervisord, with its C(bin), C(supervisord.conf) and C(conf.d).
    type: path
  log_dir:
    description: Directory of the log files of services that do not write to the journal.
    type: path
    default: /var/log
  prune:
    description:
      - Services of these names that are not listed are removed.
        A name that ends in C(@) stands for a template unit and its instances.
    type: list
    elements: str
    default: []
  shutdown:
    description: Whether to end supervisord itself, or the lingering of a user's services, once the services are gone.
    type: bool
    default: false
  api_url:
    description: Address of the API that workers report to, ending in C(/api). Needed where a service has a worker.
    type: str
  api_auth:
    description: The API's C(user:password).
    type: str
  api_ca:
    description: File of the certificate authorities to trust.
    type: path
  timeout:
    description: Seconds that the services have to become healthy.
    type: int
    default: 180
attributes:
  check_mode:
    description: Says what would be started, restarted or removed.
    support: full
"""

EXAMPLES = r"""
- name: Run the server
  selfhosted.prefect.services:
    state_dir: /opt/prefect/state
    units_dir: /etc/systemd/system
    services:
      - name: prefect-server
        files: [/etc/systemd/system/prefect-server.service]
        watch: [/etc/prefect/server.env, /opt/prefect/current]
        health: {url: "http://127.0.0.1:4200/api/ready"}
"""

RETURN = r"""
services:
  description: What was done to each service, by name; one of started, restarted, stopped, removed and unchanged.
  returned: success
  type: dict
"""

import contextlib
import hashlib
import http.client
import os
import pwd
import re
import signal
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.api import (
    Api,
    ApiError,
    Failure,
    worker_online_since,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.ledger import (
    LEDGER,
    Ledger,
    LedgerError,
    opened,
    put_back,
    recognizable,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.ports import taken
from ansible_collections.selfhosted.prefect.plugins.module_utils.processes import clean_environment
from ansible_collections.selfhosted.prefect.plugins.module_utils.safe_files import beside

LOG_LINES = 30
LOG_BYTES = 100_000

TIMER = ".timer"

POLL = 0.25
"""Seconds between two looks."""

SHUTDOWN = 180
"""Seconds that supervisord has to end what it runs; the slowest service has 60."""

CRASHES = 3
"""Processes of one service that may come and go within one wait before it is given up."""


class ServiceError(Exception):
    """A service that cannot be run; the message ends with its log."""


STATES = ["started", "restarted", "halted", "stopped", "absent"]


def run(
    command: list[str], *, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command and return it finished; a failure raises `ServiceError` with what it printed."""
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise ServiceError(
            f"{' '.join(command)}: exit code {result.returncode}\n{(result.stderr or result.stdout).strip()}"
        )
    return result


@dataclass(frozen=True)
class Status:
    """What the manager says of a service: its process (0 for none), whether it runs at boot, whether it is given up.

    A timer has no process; it is `waiting`.
    """

    pid: int = 0
    enabled: bool = False
    gone: bool = False
    waiting: bool = False

    @property
    def running(self) -> bool:
        return self.pid > 0 or self.waiting


def unit_of(name: str) -> str:
    """Return the unit of systemd that a service is started and enabled by."""
    return name if name.endswith(TIMER) else f"{name}.service"


def units_of(name: str) -> list[str]:
    """Return all units of systemd that a service has: what a timer starts is with it."""
    return [unit_of(name), f"{name.removesuffix(TIMER)}.service"] if name.endswith(TIMER) else [unit_of(name)]


class Manager(Protocol):
    """systemd, supervisord, or nothing."""

    def reload(self, names: Iterable[str]) -> None: ...
    def status(self, name: str) -> Status: ...
    def start(self, names: list[str]) -> None: ...
    def halt(self, name: str) -> None: ...
    def stop(self, name: str) -> None: ...
    def forget(self, names: list[str]) -> None: ...
    def log(self, name: str) -> str: ...
    def known(self, pattern: str) -> dict[str, list[Path]]: ...
    def alive(self) -> bool: ...
    def shutdown(self) -> None: ...


@dataclass
class Systemd:
    """systemd, the system's or the user's."""

    scope: str
    units: Path
    logs: Path
    """Directory of the log files, for services that do not write to the journal."""
    linger: Path
    """File that remembers that it was us who made the user's services linger."""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = dict(os.environ)
        if self.scope == "user":
            self.env["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"

    def _systemctl(self, *words: str, check: bool = True) -> str:
        return run(["systemctl", f"--{self.scope}", *words], env=self.env, check=check).stdout

    def reload(self, names: Iterable[str]) -> None:
        """Read the units again, when one of them is newer than what systemd knows."""
        units = [unit for name in names for unit in units_of(name)]
        if not units or "yes" in self._systemctl("show", "--property=NeedDaemonReload", "--value", *units).split():
            self._systemctl("daemon-reload")

    def status(self, name: str) -> Status:
        text = self._systemctl("show", "--property=ActiveState,MainPID,UnitFileState", unit_of(name))
        shown = dict(line.split("=", 1) for line in text.splitlines())
        active = shown["ActiveState"] in ("active", "reloading")
        return Status(
            pid=int(shown.get("MainPID", 0)) if active else 0,
            enabled=shown["UnitFileState"] == "enabled",
            gone=shown["ActiveState"] == "failed",
            waiting=active and name.endswith(TIMER),
        )

    def start(self, names: list[str]) -> None:
        """Enable and (re)start services, all at the same time."""
        units = [unit_of(name) for name in names]
        self._systemctl("reset-failed", *units, check=False)
        self._systemctl("enable", "--quiet", *units)
        started = run(["systemctl", f"--{self.scope}", "restart", *units], env=self.env, check=False)
        if started.returncode:
            raise ServiceError("\n".join([started.stderr.strip(), *map(self.log, names)]))
        account = pwd.getpwuid(os.getuid()).pw_name
        if self.scope == "user" and not Path("/var/lib/systemd/linger", account).exists():
            # Without lingering a user's services end when the user logs out and do not start at boot.
            run(["loginctl", "enable-linger"], env=self.env, check=False)
            self.linger.parent.mkdir(parents=True, exist_ok=True)
            self.linger.touch()

    def halt(self, name: str) -> None:
        self._systemctl("stop", *units_of(name))

    def stop(self, name: str) -> None:
        self._systemctl("disable", "--quiet", "--now", unit_of(name), check=False)
        if name.endswith(TIMER):
            self._systemctl("stop", *units_of(name), check=False)

    def forget(self, names: list[str]) -> None:
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", *(unit for name in names for unit in units_of(name)), check=False)

    def log(self, name: str) -> str:
        scope = [] if self.scope == "system" else ["--user"]
        file = self.logs / f"{name}.log"
        with contextlib.suppress(OSError), beside(file) as (directory, log), directory.open(log) as descriptor:
            os.lseek(descriptor, -min(os.fstat(descriptor).st_size, LOG_BYTES), os.SEEK_END)
            return "\n".join(os.read(descriptor, LOG_BYTES).decode(errors="replace").splitlines()[-LOG_LINES:])
        command = [
            "journalctl",
            *scope,
            "--no-pager",
            "--output=cat",
            f"--lines={LOG_LINES}",
            f"--unit={unit_of(name)}",
        ]
        return run(command, env=self.env, check=False).stdout

    def known(self, pattern: str) -> dict[str, list[Path]]:
        """Return the services that a pattern stands for and that have files, with these."""
        files = [self.units / unit for unit in units_of(pattern) if (self.units / unit).exists()]
        found = {pattern: files} if files else {}
        if pattern.endswith("@"):
            for path in self.units.glob(f"*.wants/{pattern}*.service"):
                found[path.name.removesuffix(".service")] = []
            for path in self.units.glob(f"{pattern}*.service.d"):
                # The directory itself, too: a run that was killed may have left it empty.
                found[path.name.removesuffix(".service.d")] = [*path.iterdir(), path]
        return found

    def alive(self) -> bool:
        """Return whether something of ours is left of which no service is the owner: the lingering."""
        return self.scope == "user" and self.linger.exists()

    def shutdown(self) -> None:
        run(["loginctl", "disable-linger"], env=self.env, check=False)
        self.linger.unlink()


@dataclass
class Supervisord:
    """supervisord from PyPI, one for each instance of Prefect, in an environment of its own."""

    directory: Path
    booted: bool = False
    """Whether supervisord was started by us, and every program with it."""

    def _ctl(self, *words: str) -> str:
        control = str(self.directory / "current" / "bin" / "supervisorctl")
        return run([control, "--configuration", str(self.directory / "supervisord.conf"), *words], check=False).stdout

    def alive(self) -> bool:
        return (self.directory / "current").exists() and self._ctl("pid").strip().isdigit()

    def reload(self, names: Iterable[str]) -> None:
        if not self.alive():
            (self.directory / "supervisor.sock").unlink(missing_ok=True)
            # A shell's background job ignores SIGINT and hands that on, and a worker that ignores it cannot be stopped.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            daemon = str(self.directory / "current" / "bin" / "supervisord")
            run([daemon, "--configuration", str(self.directory / "supervisord.conf")], env=clean_environment())
            self.booted = True
        else:
            self._ctl("reread")

    def status(self, name: str) -> Status:
        if not (self.directory / "current").exists():
            return Status()
        shown = re.match(r"\S+\s+([A-Z]+)(?:\s+pid (\d+))?", self._ctl("status", name))
        if shown is None:
            return Status()
        return Status(pid=int(shown[2] or 0), enabled=True, gone=shown[1] == "FATAL")

    def start(self, names: list[str]) -> None:
        for name in () if self.booted else names:
            # `update` starts what is new, restarts what has changed, and says so. What it left alone is stopped or
            # runs with old settings.
            if not self._ctl("update", name).strip():
                self._ctl("restart", name)

    def halt(self, name: str) -> None:
        self.stop(name)

    def stop(self, name: str) -> None:
        if self.alive():
            self._ctl("stop", name)

    def forget(self, names: list[str]) -> None:
        if self.alive():
            self._ctl("reread")
            for name in names:
                self._ctl("update", name)

    def log(self, name: str) -> str:
        return self._ctl("tail", f"-{LOG_LINES * 100}", name)

    def known(self, pattern: str) -> dict[str, list[Path]]:
        wanted = f"{pattern}*.conf" if pattern.endswith("@") else f"{pattern}.conf"
        return {path.name.removesuffix(".conf"): [path] for path in (self.directory / "conf.d").glob(wanted)}

    def shutdown(self) -> None:
        """End supervisord and what it runs; raise ServiceError where that takes too long."""
        pid = int(self._ctl("pid"))
        self._ctl("shutdown")
        deadline = time.monotonic() + SHUTDOWN
        while not ended(pid):
            if time.monotonic() > deadline:
                raise ServiceError(f"supervisord (pid {pid}) has not ended {SHUTDOWN} s after it was told to")
            time.sleep(POLL)


class Nothing:
    """No manager: files are written, nothing runs (the building of an image)."""

    def reload(self, names: Iterable[str]) -> None:
        pass

    def status(self, name: str) -> Status:
        return Status()

    def start(self, names: list[str]) -> None:
        pass

    def halt(self, name: str) -> None:
        pass

    def stop(self, name: str) -> None:
        pass

    def forget(self, names: list[str]) -> None:
        pass

    def log(self, name: str) -> str:
        return ""

    def known(self, pattern: str) -> dict[str, list[Path]]:
        return {}

    def alive(self) -> bool:
        return False

    def shutdown(self) -> None:
        pass


def digest(paths: Iterable[str]) -> str:
    """Return the SHA-256 of what the paths hold: a directory its Python code, a symbolic link its target's path.

    Flows can write some of them: nothing is read but regular files, see `safe_files`. Raises ServiceError.
    """
    total = hashlib.sha256()

    def add(path: str, content: bytes | None) -> None:
        total.update(f"{path}\0".encode())
        if content is not None:
            total.update(f"{len(content)}\0".encode() + content)

    listed = [Path(path) for path in paths]
    code: list[tuple[Path, bytes | None]] = []
    try:
        for path in listed:
            found = safe_files.state(path)
            is_directory = found is not None and stat.S_ISDIR(found.st_mode)
            content = None
            if found is not None and not is_directory:
                with beside(path) as (directory, name):
                    content = safe_files.held(directory, name, found)
            add(str(path), content)
            if is_directory:
                below = safe_files.code(path, suffixes={".py"})
                code += sorted((path / name, text) for name, text in below.items())
    except OSError as error:
        raise ServiceError(f"what a service is made of cannot be read: {error}") from error
    for path, content in code:
        add(str(path), content)
    return total.hexdigest()


def ended(pid: int) -> bool:
    """Return whether a process is gone. A zombie is: in a container there may be nobody to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def answers(url: str) -> bool:
    """Return whether a GET of ``url`` gives 200. No proxy of the environment is asked: the service is on this host."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, http.client.HTTPException), direct.open(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def settings_of(file: str) -> dict[str, str]:
    """Return what a file of settings holds; every value in it is in double quotes, with escapes."""
    text = safe_files.read(file).decode()
    found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE)
    return {name: re.sub(r'\\(["\\$`])', r"\1", value) for name, value in found}


def environment_of(account: pwd.struct_passwd | None) -> dict[str, str]:
    """Return the environment that a unit of an account starts with: of root's nothing. None is who runs this."""
    if account is None:
        return dict(os.environ)
    # Libraries look for certificates and passwords at home.
    identity = {"HOME": account.pw_dir, "LOGNAME": account.pw_name, "USER": account.pw_name}
    return identity | {"LANG": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def run_for(service: dict[str, Any], command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command with the settings of a service, as its account."""
    account = pwd.getpwnam(service["user"]) if service["user"] and os.getuid() == 0 else None
    environment = environment_of(account)
    if service["settings"]:
        environment |= settings_of(service["settings"])
    return subprocess.run(
        command,
        env=environment,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def prepare(services: list[dict[str, Any]]) -> None:
    """Do what has to be done before services start, each thing once. Raises ServiceError where that fails."""
    commands = {
        tuple(command): service for service in services if (command := (service["prepare"] or {}).get("command"))
    }
    for command, service in commands.items():
        done = run_for(service, list(command))
        if done.returncode:
            said = "\n".join(f"{done.stdout}{done.stderr}".strip().splitlines()[-LOG_LINES:])
            raise ServiceError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")


def logs_in(url: str, auth: str | None) -> bool:
    """Return whether the API of this host answers a request that only someone with its credential may make.

    Its other addresses answer anyone, so they do not show that clients can work. Raises ApiError with what it says.
    """
    with Api(url, auth=auth, direct=True, timeout=5) as api:
        return bool(api.call("GET", "/admin/version", patience=0))


def health_check(
    manager: Manager, service: dict[str, Any], *, api: Api | None, since: datetime, auth: str | None = None
) -> Callable[[], bool]:
    """Return a question to ask until it says yes: is the service healthy?"""
    health = service["health"] or {}
    if health.get("command"):
        return lambda: run_for(service, [*health["command"], str(manager.status(service["name"]).pid)]).returncode == 0
    if health.get("api"):
        return lambda: answers(health["url"]) and logs_in(health["api"], auth)
    if health.get("url"):
        return lambda: answers(health["url"])
    if health.get("worker") and api is not None:
        return lambda: worker_online_since(api, pool=health["pool"], worker=health["worker"], since=since)
    return lambda: True


def wait(
    manager: Manager, checks: dict[str, Callable[[], bool]], *, timeout: int, proven: Callable[[str], None]
) -> None:
    """Wait until every service is healthy, and tell `proven` the name of each at once.

    Raises ServiceError with the log of the first that is not.
    """
    deadline = time.monotonic() + timeout
    waiting = dict(checks)
    seen: dict[str, set[int]] = {name: set() for name in waiting}
    reason = ""
    while waiting:
        for name, healthy in list(waiting.items()):
            status = manager.status(name)
            seen[name].add(status.pid)
            if status.gone or len(seen[name] - {0}) > CRASHES:
                raise ServiceError(
                    f"{name} does not stay up: correct what it complains of, in prefect_settings or a variable of its "
                    f"role. The end of its log:\n{manager.log(name)}"
                )
            try:
                if status.running and healthy():
                    del waiting[name]
                    proven(name)
            except ApiError as error:
                reason = f" The API said: {error}."
        if waiting and time.monotonic() > deadline:
            name = next(iter(waiting))
            raise ServiceError(
                f"{name} is not healthy after {timeout} s.{reason} The end of its log:\n{manager.log(name)}"
            )
        if waiting:
            time.sleep(POLL)


def remembered(state_dir: Path, name: str) -> str:
    """Return the digest that a service was last healthy with, or an empty string."""
    with contextlib.suppress(FileNotFoundError):
        return safe_files.read(state_dir / f"{name}.healthy").decode().strip()
    return ""


def start(
    manager: Manager,
    services: list[dict[str, Any]],
    *,
    digests: dict[str, str],
    state_dir: Path,
    api: Api | None,
    auth: str | None,
    timeout: int,
) -> None:
    """(Re)start services together and wait for them; each that is healthy is remembered, so that none starts twice."""
    if not services:
        return
    names = [service["name"] for service in services]
    for name in names:
        safe_files.remove(state_dir / f"{name}.healthy")
    prepare(services)
    since = datetime.now(timezone.utc)
    manager.reload(names)
    manager.start(names)
    checks = {service["name"]: health_check(manager, service, api=api, since=since, auth=auth) for service in services}

    def remember(name: str) -> None:
        remembering = state_dir / f"{name}.healthy"
        own = {"owner": os.geteuid(), "group": os.getegid()}
        safe_files.write(remembering, f"{digests[name]}\n".encode(), mode=0o644, **own)

    wait(manager, checks, timeout=timeout, proven=remember)


def remove(manager: Manager, doomed: dict[str, list[Path]], *, state_dir: Path, ledger: Ledger | None = None) -> None:
    """Stop services, remove their files and what remembers them; what they replaced is put back."""
    for name in doomed:
        manager.stop(name)
    for name, files in doomed.items():
        for path in files:
            if ledger is not None and ledger.get("file", path):
                put_back(ledger, path)
            elif not path.is_dir():
                path.unlink(missing_ok=True)
            drop_ins = path if path.is_dir() else path.parent
            if drop_ins.name.endswith(".service.d"):
                # Somebody else's drop-in keeps the directory.
                with contextlib.suppress(OSError):
                    drop_ins.rmdir()
                    if ledger is not None:
                        ledger.forget("directory", drop_ins)
        safe_files.remove(state_dir / f"{name}.healthy")
    if ledger is not None:
        ledger.write()
    if doomed:
        manager.forget(list(doomed))


def manager_of(params: dict[str, Any]) -> Manager:
    """Return the manager that the module was told to use."""
    if params["manager"] == "systemd":
        units, logs, linger = Path(params["units_dir"]), Path(params["log_dir"]), Path(params["state_dir"], "linger")
        return Systemd(scope=params["scope"], units=units, logs=logs, linger=linger)
    return Supervisord(directory=Path(params["supervisor"])) if params["manager"] == "supervisord" else Nothing()


def created(ledger: Ledger | None, path: Path) -> bool:
    """Return whether this instance wrote a file of a service, as far as there is a ledger to say so."""
    if ledger is None or path.is_dir():
        return True
    return bool(ledger.get("file", path)) or ledger.holds(path) or recognizable(ledger, "file", path)


def surplus(
    manager: Manager,
    services: dict[str, dict[str, Any]],
    *,
    patterns: list[str],
    absent: bool,
    ledger: Ledger | None = None,
) -> dict[str, list[Path]]:
    """Return the services to remove and their files: all that are known, or those that are not listed.

    A service of others that has such a name is none of them.
    """
    found = {name: files for pattern in patterns for name, files in manager.known(pattern).items()}
    others = {name for name, files in found.items() if not all(created(ledger, path) for path in files)}
    # An instance is its template's.
    known = {
        name: files
        for name, files in found.items()
        if name not in others and f"{name.partition('@')[0]}@" not in others
    }
    if not absent:
        return {name: files for name, files in known.items() if name not in services and not name.endswith("@")}
    for name, service in services.items():
        files = [path for path in map(Path, service["files"]) if path.exists()]
        ours = [path for path in files if created(ledger, path)]
        if ours or (not files and manager.status(name).running):
            known[name] = ours
    return known


def action_for(status: Status, *, state: str, proven: bool) -> str:
    """Return what has to be done to a service so that it is in the wanted state with proven files."""
    if state == "halted":
        return "halted" if status.running else "unchanged"
    if state == "stopped":
        return "stopped" if status.running or status.enabled else "unchanged"
    if not status.running or not status.enabled:
        return "started"
    return "unchanged" if proven and state == "started" else "restarted"


def main() -> None:
    text = {"type": "str"}
    command = {"type": "list", "elements": "str"}
    module = AnsibleModule(
        argument_spec={
            "services": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "files": {"type": "list", "elements": "path", "default": []},
                    "watch": {"type": "list", "elements": "path", "default": []},
                    "ports": {"type": "dict", "default": {}},
                    "settings": {"type": "path"},
                    "user": text,
                    "prepare": {"type": "dict", "default": {}, "options": {"command": command}},
                    "health": {
                        "type": "dict",
                        "default": {},
                        "options": {"api": text, "url": text, "pool": text, "worker": text, "command": command},
                    },
                },
            },
            "state": {
                "type": "str",
                "choices": ["started", "restarted", "halted", "stopped", "absent"],
                "default": "started",
            },
            "manager": {"type": "str", "choices": ["systemd", "supervisord", "none"], "default": "systemd"},
            "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
            "state_dir": {"type": "path", "required": True},
            "units_dir": {"type": "path"},
            "supervisor": {"type": "path"},
            "log_dir": {"type": "path", "default": "/var/log"},
            "prune": {"type": "list", "elements": "str", "default": []},
            "shutdown": {"type": "bool", "default": False},
            "api_url": text,
            # Not in a mapping: Ansible does not mask every secret that is a suboption.
            "api_auth": {"type": "str", "no_log": True},
            "api_ca": {"type": "path"},
            "timeout": {"type": "int", "default": 180},
            "ledger": LEDGER,
        },
        required_if=[("manager", "systemd", ["units_dir"]), ("manager", "supervisord", ["supervisor"])],
        supports_check_mode=True,
    )
    params = module.params
    services = {service["name"]: service for service in params["services"]}
    state_dir = Path(params["state_dir"])
    manager = manager_of(params)
    actions: dict[str, str] = {}
    try:
        url, auth, ca = params["api_url"], params["api_auth"] or None, params["api_ca"] or None
        # Only who starts something waits. A bare host, and one half taken away, has no certificate authority to trust.
        waits = params["state"] in {"started", "restarted"} and not module.check_mode
        api = Api(url, auth=auth, ca=ca) if url and waits else None
        absent = params["state"] == "absent"
        with opened(params["ledger"], dry=True) as ledger:
            doomed = surplus(manager, services, patterns=params["prune"], absent=absent, ledger=ledger)
        digests = {name: digest([*service["files"], *service["watch"]]) for name, service in services.items()}
        actions = dict.fromkeys(services, "unchanged") | dict.fromkeys(doomed, "removed")
        if params["manager"] != "none" and params["state"] != "absent":
            for name in services:
                actions[name] = action_for(
                    manager.status(name), state=params["state"], proven=digests[name] == remembered(state_dir, name)
                )
        ends = params["shutdown"] and manager.alive()
        changed = ends or any(action != "unchanged" for action in actions.values())
        touched = [services[name] for name, action in actions.items() if action in ("started", "restarted")]
        if refused := [said for service in touched for said in taken(service["ports"], ours=str(state_dir.parent))]:
            raise ServiceError("\n".join(refused))
        if not module.check_mode:
            with opened(params["ledger"] if doomed else None, dry=False) as ledger:
                remove(manager, doomed, state_dir=state_dir, ledger=ledger)
            for name, action in actions.items():
                if action == "halted":
                    manager.halt(name)
                elif action == "stopped":
                    manager.stop(name)
            start(
                manager,
                touched,
                digests=digests,
                state_dir=state_dir,
                api=api,
                auth=auth,
                timeout=params["timeout"],
            )
            if ends:
                manager.shutdown()
    except (ServiceError, LedgerError, Failure) as error:
        module.fail_json(msg=str(error), services=actions)
    module.exit_json(changed=changed, services=actions)


if __name__ == "__main__":
    main()
