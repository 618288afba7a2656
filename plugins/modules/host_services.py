#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Keep services running with their current settings, under systemd or supervisord."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_services
short_description: Keep services running with their current settings
description:
  - Starts services together, restarts exactly those whose files have changed since they were last healthy, and waits
    until each is healthy. The digest of those files is kept in a state directory and written after the wait. So the
    next run completes one that was killed between writing and restarting.
  - If a service does not become healthy, the task fails with the end of its log.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
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
          - Name of the unit without its suffix, or of the supervisord program. A name that ends in C(.timer) is a
            systemd timer, and stands for the timer and the service that it starts.
        type: str
        required: true
      files:
        description: Files of the service. They are removed with it.
        type: list
        elements: path
        default: []
      watch:
        description: Further files and symbolic links whose change restarts the service.
        type: list
        elements: path
        default: []
      ports:
        description:
          - TCP ports that the service needs, by the variables that set them. Unless each is free or held by a process
            of this instance, from the directory that O(state_dir) is in, nothing is stopped or started.
        type: dict
        default: {}
      settings:
        description: Settings file of the service, which is the environment of the commands below.
        type: path
      user:
        description: Account that the commands below run as. Defaults to the user who connects.
        type: str
      prepare:
        description:
          - What to run each time before the service starts. It has four hours; if it fails, nothing is started.
        type: dict
        default: {}
        suboptions:
          command:
            description: Command line, run as the service's account. It runs once for services with the same command.
            type: list
            elements: str
      health:
        description:
          - How to check that the service is healthy. C(url) answers 200; C(worker) of C(pool) has come online at
            C(api_url) since its start; or C(command) exits with 0. If left out, it is enough that the service runs.
          - With C(api), the API at that address must also answer a request with O(api_auth).
        type: dict
        default: {}
        suboptions:
          command:
            description: Command line, run as the service's account. The service's process ID is its last argument.
            type: list
            elements: str
          api:
            description: Address of the API that the service provides on this host, ending in C(/api).
            type: str
          version:
            description: Version of Prefect that this API must report. Empty accepts any.
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
      - V(started) starts or restarts services as described, V(restarted) restarts them in any case, V(halted) stops
        them until the next start or boot, V(stopped) also disables them at boot, V(absent) also removes their files.
    type: str
    choices: [started, restarted, halted, stopped, absent]
    default: started
  manager:
    description: What runs the services.
    type: str
    choices: [systemd, supervisord, none]
    default: systemd
  scope:
    description: Whether to use the system's systemd or that of the user who connects.
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
      - Names of services to remove unless they are listed.
        A name that ends in C(@) stands for a template unit and its instances.
    type: list
    elements: str
    default: []
  rolling:
    description:
      - Whether to restart services one after the other, each once the one before it is healthy, after those that do not
        run were started together. If one does not become healthy, the others keep running as they are.
    type: bool
    default: false
  shutdown:
    description: Whether to stop supervisord itself, or disable the user's lingering, once the services are removed.
    type: bool
    default: false
  api_url:
    description: Address of the API that workers report to, ending in C(/api). Required for a service with a worker.
    type: str
  api_auth:
    description: The API's C(user:password).
    type: str
  api_ca:
    description: File of the certificate authorities to trust.
    type: path
  timeout:
    description: Seconds to wait for the services to become healthy.
    type: int
    default: 180
attributes:
  check_mode:
    description: Reports what would be started, restarted or removed.
    support: full
"""

EXAMPLES = r"""
- name: Run the server
  selfhosted.prefect.host_services:
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
  description: What was done to each service, by name; one of started, restarted, halted, stopped, removed, unchanged.
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
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.masking import secrets_in
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import (
    Api,
    ApiError,
    Failure,
    worker_online_since,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.results import conceal
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    LEDGER,
    UNITS,
    Ledger,
    LedgerError,
    opened,
    put_back,
    recognizable,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ports import taken
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import (
    TimedOutError,
    clean_environment,
    run_as,
    settings_in,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import beside

INSTANCE = "instance.conf"
"""Name of this collection's drop-in for an instance of a template."""

LOG_LINES = 30
LOG_BYTES = 100_000

TIMER = ".timer"

PREPARED = 4 * 3600.0
"""Maximum seconds of what runs before a service starts, such as the migration of a large database."""

CHECKED = 60.0
"""Maximum seconds of one check."""

POLL = 0.25
"""Seconds between two polls."""

SHUTDOWN = 180
"""Seconds that supervisord may take to stop its programs, without what drains: those are removed before."""

CRASHES = 3
"""Processes that a service may start within one wait before the wait fails."""


class ServiceError(Exception):
    """A service does not run; the message ends with its log."""


STATES = ["started", "restarted", "halted", "stopped", "absent"]


def run(
    command: list[str], *, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command and return the completed process; a failure raises `ServiceError` with its output."""
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise ServiceError(
            f"{' '.join(command)}: exit code {result.returncode}\n{(result.stderr or result.stdout).strip()}"
        )
    return result


@dataclass(frozen=True)
class Status:
    """State of a service: its process (0 for none), whether it starts at boot, whether the manager has given it up.

    A timer has no process; it is `waiting`. A service that is starting, or that the manager starts again after a pause,
    is `pending`.
    """

    pid: int = 0
    enabled: bool = False
    gone: bool = False
    waiting: bool = False
    pending: bool = False

    @property
    def running(self) -> bool:
        return self.pid > 0 or self.waiting


def unit_of(name: str) -> str:
    """Return the systemd unit to start and enable for a service."""
    return name if name.endswith(TIMER) else f"{name}.service"


def units_of(name: str) -> list[str]:
    """Return all systemd units of a service: a timer includes the service that it starts."""
    return [unit_of(name), f"{name.removesuffix(TIMER)}.service"] if name.endswith(TIMER) else [unit_of(name)]


class Manager(Protocol):
    """systemd, supervisord, or none."""

    def reload(self, names: Iterable[str]) -> None: ...
    def status(self, name: str) -> Status: ...
    def start(self, names: list[str]) -> None: ...
    def halt(self, name: str) -> None: ...
    def stop(self, name: str) -> None: ...
    def forget(self, names: list[str]) -> None: ...
    def log(self, name: str) -> str: ...
    def known(self, pattern: str) -> dict[str, list[Path]]: ...
    def source(self, name: str) -> Path | None: ...
    def alive(self) -> bool: ...
    def shutdown(self) -> None: ...


@dataclass
class Systemd:
    """The system's or the user's systemd."""

    scope: str
    units: Path
    logs: Path
    """Directory of the log files, for services that do not write to the journal."""
    linger: Path
    """File that marks that this module enabled the user's lingering."""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = dict(os.environ)
        if self.scope == "user":
            self.env["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"

    def _systemctl(self, *words: str, check: bool = True) -> str:
        return run(["systemctl", f"--{self.scope}", *words], env=self.env, check=check).stdout

    def reload(self, names: Iterable[str]) -> None:
        """Reload the units if one of them has changed since systemd read it."""
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
            pending=shown["ActiveState"] in ("activating", "deactivating"),
        )

    def start(self, names: list[str]) -> None:
        """Enable and (re)start services together."""
        units = [unit_of(name) for name in names]
        self._systemctl("reset-failed", *units, check=False)
        self._systemctl("enable", "--quiet", *units)
        started = run(["systemctl", f"--{self.scope}", "restart", *units], env=self.env, check=False)
        if started.returncode:
            raise ServiceError("\n".join([started.stderr.strip(), *map(self.log, names)]))
        account = pwd.getpwuid(os.getuid()).pw_name
        if self.scope == "user" and not Path("/var/lib/systemd/linger", account).exists():
            # Without lingering, a user's services stop when the user logs out and do not start at boot.
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
        """Return the files of the services that match a pattern and have files."""
        files = [self.units / unit for unit in units_of(pattern) if (self.units / unit).exists()]
        found = {pattern: files} if files else {}
        if pattern.endswith("@"):
            for path in self.units.glob(f"*.wants/{pattern}*.service"):
                found[path.name.removesuffix(".service")] = []
            for path in self.units.glob(f"{pattern}*.service.d"):
                # Including the directory: a run that was killed may have left it empty. Other drop-ins are the user's.
                own = [path / INSTANCE] if any(path.iterdir()) else []
                found[path.name.removesuffix(".service.d")] = [*own, path]
        return found

    def source(self, name: str) -> Path | None:
        """Return the file from which systemd has loaded a service; None if it has none."""
        shown = self._systemctl("show", "--property=FragmentPath", "--value", unit_of(name), check=False).strip()
        return Path(shown) if shown else None

    def alive(self) -> bool:
        """Return whether lingering, which belongs to no single service, is still enabled by this module."""
        return self.scope == "user" and self.linger.exists()

    def shutdown(self) -> None:
        run(["loginctl", "disable-linger"], env=self.env, check=False)
        self.linger.unlink()


@dataclass
class Supervisord:
    """supervisord from PyPI, one for each Prefect instance, in its own virtual environment."""

    directory: Path
    booted: bool = False
    """Whether this run started supervisord, and thereby every program."""

    def _ctl(self, *words: str) -> str:
        control = str(self.directory / "current" / "bin" / "supervisorctl")
        return run([control, "--configuration", str(self.directory / "supervisord.conf"), *words], check=False).stdout

    def alive(self) -> bool:
        return (self.directory / "current").exists() and self._ctl("pid").strip().isdigit()

    def reload(self, names: Iterable[str]) -> None:
        if not self.alive():
            (self.directory / "supervisor.sock").unlink(missing_ok=True)
            # A shell's background job ignores SIGINT, and its children inherit that; such a worker cannot be stopped.
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
        pending = shown[1] in ("STARTING", "BACKOFF", "STOPPING")
        return Status(pid=int(shown[2] or 0), enabled=True, gone=shown[1] == "FATAL", pending=pending)

    def start(self, names: list[str]) -> None:
        for name in () if self.booted else names:
            # `update` starts new programs, restarts changed ones, and reports both. Any other program is stopped or
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

    def source(self, name: str) -> Path | None:
        """Return None: all its programs are the instance's."""
        return None

    def shutdown(self) -> None:
        """Stop supervisord and its programs; raise ServiceError if that takes too long."""
        pid = int(self._ctl("pid"))
        self._ctl("shutdown")
        deadline = time.monotonic() + SHUTDOWN
        while not ended(pid):
            if time.monotonic() > deadline:
                raise ServiceError(f"supervisord (pid {pid}) has not ended {SHUTDOWN} s after it was told to")
            time.sleep(POLL)


class Nothing:
    """No manager: files are written, but nothing runs (when building an image)."""

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

    def source(self, name: str) -> Path | None:
        return None

    def alive(self) -> bool:
        return False

    def shutdown(self) -> None:
        pass


def digest(paths: Iterable[str]) -> str:
    """Return the SHA-256 of the paths' content: of a directory its Python code, of a symbolic link its target's path.

    Flows can write some of them, so it reads only regular files, see `safe_files`. Raises ServiceError.
    """
    total = hashlib.sha256()

    def add(path: str, content: bytes | None) -> None:
        total.update(f"{path}\0".encode())
        if content is not None:
            total.update(f"{len(content)}\0".encode() + content)

    listed = [Path(path) for path in paths]
    directories: list[Path] = []
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
                directories.append(path)
        for path in directories:
            safe_files.hash_code(total, path, suffixes={".py"}, above=path)
    except OSError as error:
        raise ServiceError(f"what a service is made of cannot be read: {error}") from error
    return total.hexdigest()


def ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie counts as ended: in a container, nothing may reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def answers(url: str) -> bool:
    """Return whether a GET of ``url`` gives 200. Ignores the environment's proxy: the service is on this host."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, http.client.HTTPException), direct.open(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def settings_of(file: str) -> dict[str, str]:
    """Return the settings in a file. Raises OSError."""
    return settings_in(safe_files.read(file).decode())


def secrets_of(services: Iterable[dict[str, Any]]) -> set[str]:
    """Return the secrets in the settings of services, which a service that rejects a setting writes to its log."""
    found: set[str] = set()
    for file in {service["settings"] for service in services if service["settings"]}:
        with contextlib.suppress(OSError):
            found |= secrets_in(settings_of(file))
    return found


def environment_of(account: pwd.struct_passwd | None) -> dict[str, str]:
    """Return the environment of an account's unit, without root's variables. None is the user who runs this."""
    if account is None:
        return dict(os.environ)
    # Libraries look for certificates and passwords in the home directory.
    identity = {"HOME": account.pw_dir, "LOGNAME": account.pw_name, "USER": account.pw_name}
    return identity | {"LANG": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def run_for(service: dict[str, Any], command: list[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command as a service's account, with its settings. Raises TimedOutError."""
    account = pwd.getpwnam(service["user"]) if service["user"] and os.getuid() == 0 else None
    environment = environment_of(account)
    if service["settings"]:
        environment |= settings_of(service["settings"])
    return run_as(account, command, timeout=timeout, env=environment)


def prepare(services: list[dict[str, Any]]) -> None:
    """Run the commands that precede the start of services, each once. Raises ServiceError if one fails."""
    commands = {
        tuple(command): service for service in services if (command := (service["prepare"] or {}).get("command"))
    }
    for command, service in commands.items():
        try:
            done = run_for(service, list(command), timeout=PREPARED)
        except TimedOutError as error:
            said = "\n".join(error.output.strip().splitlines()[-LOG_LINES:])
            raise ServiceError(f"{' '.join(command)}: {error}\n{said}") from error
        if done.returncode:
            said = "\n".join(f"{done.stdout}{done.stderr}".strip().splitlines()[-LOG_LINES:])
            raise ServiceError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")


def logs_in(url: str, auth: str | None, *, version: str = "") -> bool:
    """Return whether the API of this host answers a request that requires its credential, with a version if given.

    Its health endpoints need none, so they do not show that clients can log in. Raises ApiError with its answer.
    """
    with Api(url, auth=auth, direct=True, timeout=5) as api:
        found = api.call("GET", "/admin/version", patience=0).body
        return bool(found == version if version else found)


def succeeds(service: dict[str, Any], command: list[str]) -> bool:
    """Return whether a command of a service exits with 0 in time. It may import code of flows."""
    try:
        return run_for(service, command, timeout=CHECKED).returncode == 0
    except TimedOutError:
        return False


def health_check(
    manager: Manager, service: dict[str, Any], *, api: Api | None, since: datetime, auth: str | None = None
) -> Callable[[], bool]:
    """Return a function that returns whether the service is healthy."""
    health = service["health"] or {}
    if health.get("command"):
        return lambda: succeeds(service, [*health["command"], str(manager.status(service["name"]).pid)])
    if health.get("api"):
        version = health.get("version") or ""
        return lambda: answers(health["url"]) and logs_in(health["api"], auth, version=version)
    if health.get("url"):
        return lambda: answers(health["url"])
    if health.get("worker") and api is not None:
        return lambda: worker_online_since(api, pool=health["pool"], worker=health["worker"], since=since)
    return lambda: True


def wait(
    manager: Manager, checks: dict[str, Callable[[], bool]], *, timeout: int, proven: Callable[[str], None]
) -> None:
    """Wait until every service is healthy, and call `proven` with the name of each as soon as it is.

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
    halts: bool = False,
) -> None:
    """(Re)start services together and wait for them. Each healthy one is recorded, so that none starts twice.

    With `halts`, they are stopped first: as long as a worker ends, it reports to the API, as the next one does.
    """
    if not services:
        return
    names = [service["name"] for service in services]
    for name in names:
        safe_files.remove(state_dir / f"{name}.healthy")
    # Before the reload: a service ends by the unit that it was started with.
    for name in names if halts else []:
        manager.halt(name)
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
    """Stop services, remove their files and records, and restore the files that they replaced."""
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
                # The directory stays if it contains another owner's drop-in.
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
    """Return the manager that the parameters select."""
    if params["manager"] == "systemd":
        units, logs, linger = Path(params["units_dir"]), Path(params["log_dir"]), Path(params["state_dir"], "linger")
        return Systemd(scope=params["scope"], units=units, logs=logs, linger=linger)
    return Supervisord(directory=Path(params["supervisor"])) if params["manager"] == "supervisord" else Nothing()


def created(ledger: Ledger | None, path: Path) -> bool:
    """Return whether this instance wrote a file of a service. Without a ledger, it is assumed to have."""
    if ledger is None or path.is_dir():
        return True
    return bool(ledger.get("file", path)) or recognizable(ledger, "file", path)


def runs_from_own(manager: Manager, ledger: Ledger | None, name: str, files: Iterable[str | Path]) -> bool:
    """Return whether a service without files is this instance's: by the file that it runs from.

    A service whose file was removed belongs to this instance only if the ledger still records one of `files`.
    """
    source = manager.source(name)
    if source is not None and source.exists():
        return not in_static_directory(source) and created(ledger, source)
    recorded = ledger is None or any(ledger.get("file", path) for path in (*files, *([source] if source else ())))
    return recorded and (source is None or not in_static_directory(source))


def in_static_directory(source: Path) -> bool:
    """Return whether a unit is a package's or an administrator's, in a directory that this collection never uses."""
    return any(source.parent in directories for directories in UNITS.values())


def surplus(
    manager: Manager,
    services: dict[str, dict[str, Any]],
    *,
    patterns: list[str],
    absent: bool,
    ledger: Ledger | None = None,
) -> dict[str, list[Path]]:
    """Return the services to remove and their files: all known ones, or those that are not listed.

    Another owner's service with a matching name is not included.
    """
    found = {name: files for pattern in patterns for name, files in manager.known(pattern).items()}
    others = {
        name
        for name, files in found.items()
        if not (all(created(ledger, path) for path in files) if files else runs_from_own(manager, ledger, name, []))
    }
    # An instance belongs to the owner of its template.
    known = {
        name: files
        for name, files in found.items()
        if name not in others and f"{name.partition('@')[0]}@" not in others
    }
    if not absent:
        return {name: files for name, files in known.items() if name not in services and not name.endswith("@")}
    for name, service in services.items():
        files = [path for path in map(Path, service["files"]) if path.exists()]
        created_files = [path for path in files if created(ledger, path)]
        if created_files or (
            not files and manager.status(name).running and runs_from_own(manager, ledger, name, service["files"])
        ):
            known[name] = created_files
    return known


def action_for(status: Status, *, state: str, proven: bool) -> str:
    """Return the action that brings a service to the wanted state with files that it was healthy with."""
    if state == "halted":
        return "halted" if status.running or status.pending else "unchanged"
    if state == "stopped":
        return "stopped" if status.running or status.pending or status.enabled else "unchanged"
    if not status.running or not status.enabled:
        return "started"
    return "unchanged" if proven and state == "started" else "restarted"


def turns(services: list[dict[str, Any]], actions: dict[str, str]) -> list[list[dict[str, Any]]]:
    """Return the order in which to (re)start services: those that do not run together, then each other one alone."""
    started = [service for service in services if actions[service["name"]] == "started"]
    return [started, *([service] for service in services if service not in started)]


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
                        "options": {
                            **dict.fromkeys(("api", "version", "url", "pool", "worker"), text),
                            "command": command,
                        },
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
            "rolling": {"type": "bool", "default": False},
            "shutdown": {"type": "bool", "default": False},
            "api_url": text,
            # Not in a mapping: Ansible does not mask every secret in a suboption.
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
        # Only a start waits. A bare or partly removed installation has no certificate authority to trust.
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
        if refused := [
            said for service in touched for said in taken(service["ports"], program_dir=str(state_dir.parent))
        ]:
            raise ServiceError("\n".join(refused))
        if not module.check_mode:
            with opened(params["ledger"] if doomed else None, dry=False) as ledger:
                remove(manager, doomed, state_dir=state_dir, ledger=ledger)
            for name, action in actions.items():
                if action == "halted":
                    manager.halt(name)
                elif action == "stopped":
                    manager.stop(name)
            for together in turns(touched, actions) if params["rolling"] else [touched]:
                start(
                    manager,
                    together,
                    digests=digests,
                    state_dir=state_dir,
                    api=api,
                    auth=auth,
                    timeout=params["timeout"],
                    halts=params["rolling"],
                )
            if ends:
                manager.shutdown()
    except (ServiceError, LedgerError, Failure) as error:
        secrets = module.no_log_values | secrets_of(services.values())
        module.fail_json(**conceal(module, {"msg": str(error), "services": actions}, secrets))
    module.exit_json(changed=changed, services=actions)


if __name__ == "__main__":
    main()
