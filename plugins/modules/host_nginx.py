#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Configure a site of Nginx and verify it. The action plugin of the same name renders the templates."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_nginx
short_description: Add a site to Nginx or remove it without affecting the others
description:
  - Nginx tests a copy of its configuration with the change. The module writes or removes files only if the test
    passes. If Nginx still rejects the result, the module rolls it back.
  - Fails before any change if Nginx rejects its configuration because of files outside this instance.
  - Nginx is reloaded if one of the files, or the directory of a removed one, is newer than its worker processes. So
    the next run completes one that was interrupted before the reload.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment:
  - selfhosted.prefect.files
  - selfhosted.prefect.ledger
options:
  state:
    description:
      - V(probed) changes nothing, returns facts, resolves O(servers), and fails for a port that another program holds
        and a configuration with which Nginx would not start even without O(files).
      - V(present) starts Nginx if it is not running and waits until the site answers.
      - V(absent) stops and disables Nginx where V(present) started and enabled another owner's, and otherwise neither
        starts nor stops it.
    type: str
    choices: [probed, present, absent]
    default: present
  ports:
    description: TCP ports that must be free or held by Nginx, as a mapping of variable names to ports.
    type: dict
    default: {}
  servers:
    description:
      - API servers as host:port, for V(probed). Names are resolved on this host; a name without an address is an error.
    type: list
    elements: str
    default: []
  files:
    description:
      - The directories and files, in the order in which they are created. Those of a former site, which the ledger
        lists and this option does not, are removed.
    required: false
    default: []
  kept:
    description: Files that V(present) leaves although O(files) does not list them, such as the maintenance switch.
    type: list
    elements: path
    default: []
  unwanted:
    description:
      - Links of the Nginx package to remove, such as its default site. One that leads elsewhere, or to a file that was
        changed, stays.
    type: list
    elements: path
    default: []
  lineage:
    description:
      - Certificate that certbot keeps for the site. V(probed) fails if another owner has one of this name, V(present)
        records it before it is requested, and V(absent) deletes one that this collection requested.
    type: dict
    suboptions:
      name:
        description: Certbot's name of the certificate.
        type: str
        required: true
      webroot:
        description: Directory of the files that the certificate authority asks for.
        type: path
        required: true
  site:
    description:
      - How to check that the site answers. It must present the certificate in its file, and answer 200, or 503 with
        the header C(Prefect-Maintenance).
    type: dict
    suboptions:
      name:
        description: Name that clients request.
        type: str
        required: true
      address:
        description: Address to connect to.
        type: str
        default: 127.0.0.1
      port:
        description: Port to connect to.
        type: int
        required: true
      path:
        description: Path to request.
        type: str
        required: true
      certificate:
        description: File with the certificate.
        type: path
        required: true
  started:
    description: Whether to run Nginx. Files are written and tested in any case.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for the site to answer.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would be written.
    support: full
  diff_mode:
    description: Shows what changes, except in secret files.
    support: full
"""

EXAMPLES = r"""
- name: Serve the API
  selfhosted.prefect.host_nginx:
    files:
      - path: /etc/nginx/conf.d/prefect.conf
        template: etc/nginx/conf.d/prefect.conf.j2
        mode: "0644"
    site:
      name: prefect.example.com
      port: 443
      path: /api/ready
      certificate: /etc/nginx/prefect/prefect.pem
"""

RETURN = r"""
installed:
  description: Whether Nginx is installed.
  returned: success
  type: bool
ipv6:
  description: Whether the host has IPv6.
  returned: success
  type: bool
sites:
  description: Files of its configuration that define sites, except the distribution's default site.
  returned: success
  type: list
  elements: str
servers:
  description: The API servers with addresses instead of names, IPv4 first; one entry for each address of a name.
  returned: success
  type: list
  elements: str
written:
  description: Paths that were created, written or removed, or whose owner or mode changed.
  returned: success
  type: list
  elements: str
reloaded:
  description: Whether Nginx was started or reloaded.
  returned: success
  type: bool
"""

import contextlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import certbot, dpkg, nginx_trial
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.files import (
    FILES,
    SECRETS,
    FileError,
    write,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    LEDGER,
    Ledger,
    LedgerError,
    ensure_files,
    opened,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ports import held
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import clean_environment
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import locked

CONFIGURATION = Path("/etc/nginx")
DEFAULT_SITE = "default"
"""The site that Debian's package serves by default."""

TITLE = "nginx: "
"""Prefix of the command lines of its processes."""

UNIT = "nginx.service"

LEAVING = "shutting down"
"""Part of the title of a worker process that only finishes its last connections after a reload."""

POLL = 0.2
"""Seconds between two polls."""


class NginxError(Exception):
    """Nginx rejects something or does not answer; the message says what to do."""


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Kept:
    """Previous state of a path: a file with its content, a directory (no content), or nothing (no mode)."""

    path: Path
    content: bytes | None = None
    owner: int = -1
    group: int = -1
    mode: int | None = None

    @classmethod
    def of(cls, path: Path) -> Kept:
        if not path.exists():
            return cls(path)
        found = path.stat()
        content = None if path.is_dir() else path.read_bytes()
        return cls(path, content, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def put_back(self) -> None:
        if self.content is not None and self.mode is not None:
            write(self.path, self.content, owner=self.owner, group=self.group, mode=self.mode)
        elif self.mode is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            os.chown(self.path, self.owner, self.group)
            self.path.chmod(self.mode)
        elif self.path.is_dir():
            # A directory stays if something else was created there in the meantime.
            with contextlib.suppress(OSError):
                self.path.rmdir()
        else:
            self.path.unlink(missing_ok=True)


class Nginx:
    """The Nginx of this host, run by systemd if the host has it."""

    def __init__(self) -> None:
        self.systemd = Path("/run/systemd/system").is_dir()

    @property
    def program(self) -> str | None:
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

    def test(self, name: str) -> None:
        """Raise NginxError with the output of Nginx if it rejects its configuration, or ignores `name` in it."""
        tested = run(self.program or "nginx", "-t")
        refuse(tested.returncode, tested.stderr, name)

    def try_out(self, changes: Mapping[Path, bytes | None]) -> tuple[int, str]:
        """Let Nginx test a copy of its configuration with new contents of files, or without the files (None).

        Return its exit code and its output, with the names of the live files.
        """
        with nginx_trial.trial(CONFIGURATION, changes) as copy:
            tested = run(self.program or "nginx", "-t", "-c", str(copy / nginx_trial.MAIN))
            return tested.returncode, tested.stderr.replace(str(copy), str(CONFIGURATION))

    def main_process(self) -> int:
        """Return the ID of its main process, 0 if it does not run."""
        if self.systemd:
            return int(run("systemctl", "show", "--property=MainPID", "--value", "nginx.service").stdout.strip() or 0)
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path("/run/nginx.pid").read_text())
            return pid if Path(f"/proc/{pid}").exists() else 0
        return 0

    def workers_since(self) -> float:
        """Return the start of the oldest process that accepts connections, in seconds since the epoch; 0 for none."""
        main = self.main_process()
        children = (began for parent, title, began in processes() if parent == main and LEAVING not in title)
        return min(children, default=0.0) if main else 0.0

    def start(self) -> None:
        """Start Nginx and enable it at boot."""
        command = ["systemctl", "enable", "--quiet", "--now", "nginx.service"] if self.systemd else [self.program or ""]
        started = run(*command, env=None if self.systemd else clean_environment())
        if started.returncode:
            log = (
                run("journalctl", "--unit=nginx", "--no-pager", "--output=cat", "--lines=10").stdout
                if self.systemd
                else ""
            )
            raise NginxError(f"Nginx does not start: {started.stderr.strip()}\n{log}".strip())

    def restore(self, *, enabled: bool, active: bool) -> None:
        """Stop Nginx and disable it at boot, unless it was active or enabled before."""
        commands = [["systemctl", "disable", "--quiet", "nginx.service"]] if self.systemd and not enabled else []
        if not active and self.main_process():
            stop = ["systemctl", "stop", "nginx.service"] if self.systemd else [self.program or "", "-s", "quit"]
            commands.append(stop)
        for command in commands:
            done = run(*command)
            if done.returncode:
                raise NginxError(f"{' '.join(command)}: {done.stderr.strip()}")

    def enabled(self) -> bool:
        return not self.systemd or not run("systemctl", "is-enabled", "--quiet", "nginx.service").returncode

    def reload(self) -> None:
        command = ["systemctl", "reload", "nginx.service"] if self.systemd else [self.program or "", "-s", "reload"]
        told = run(*command)
        if told.returncode:
            raise NginxError(f"Nginx does not reload: {told.stderr.strip()}")


def refuse(code: int, said: str, name: str) -> None:
    """Raise NginxError if a test has failed, or Nginx ignores `name` in its configuration."""
    ignored = [line for line in said.splitlines() if f'conflicting server name "{name}"' in line]
    if ignored:
        raise NginxError(
            f"prefect_proxy_domain: this Nginx serves {name} already, in {', '.join(sites())}; choose another "
            f"domain, or name the instance that has it in prefect_proxy_site\n{ignored[0]}"
        )
    if code:
        raise NginxError(f"Nginx refuses the configuration:\n{said.strip()}")


def require_foundation(nginx: Nginx, paths: list[str]) -> None:
    """Raise NginxError if Nginx rejects its live configuration because of files other than `paths`."""
    if not nginx.try_out({})[0]:
        return
    code, said = nginx.try_out({Path(path): None for path in paths})
    if code:
        raise NginxError(
            "This Nginx refuses its configuration even without the files of this instance, so it would not start again "
            "and serve no site. Nothing was changed. Correct the file that it names, then run this again:\n"
            f"{said.strip()}"
        )


def changes_of(params: dict[str, Any]) -> dict[Path, bytes | None]:
    """Return the new content of the files that differ, and None for files to remove."""
    hidden = iter(params["secrets"])
    wanted: dict[Path, bytes | None] = dict.fromkeys(map(Path, params["unwanted"]))
    for file in params["files"]:
        content = next(hidden) if file["secret"] else file["content"]
        if content is not None or file["state"] == "absent":
            wanted[Path(file["path"])] = None if file["state"] == "absent" else content.encode()
    return {path: content for path, content in wanted.items() if Kept.of(path).content != content}


def require_change(nginx: Nginx, params: dict[str, Any]) -> None:
    """Raise NginxError, before anything changes, if Nginx would reject its configuration with the change."""
    changes = changes_of(params)
    if not nginx.program or not changes:
        return
    nginx_trial.sweep()
    code, said = nginx.try_out(changes)
    if code:
        require_foundation(nginx, [file["path"] for file in params["files"]])
    try:
        refuse(code, said, (params["site"] or {}).get("name", ""))
    except NginxError as error:
        raise NginxError(f"{error}\nNothing was changed.") from error


def addresses(name: str) -> list[str]:
    """Return the addresses of a name in the syntax of Nginx, IPv4 first. Raises OSError if it has none."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    unique = {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    ordered = sorted(unique, key=lambda address: (address.version, int(address)))
    return [f"[{address}]" if address.version == 6 else str(address) for address in ordered]


def resolved(servers: list[str]) -> list[str]:
    """Return servers (host:port, maybe with parameters) with addresses instead of names.

    Raises NginxError with all names that have no address.
    """
    found, unknown = [], []
    for server in servers:
        # These are not names: an address in brackets, a socket (`unix:`), an IPv4 address.
        named = re.match(r"(?!unix:|\[|[\d.]+(?:[:\s]|$))([^:\s]+)", server)
        if not named:
            found.append(server)
            continue
        try:
            found += [f"{address}{server[named.end() :]}" for address in addresses(named[1])]
        except (OSError, UnicodeError) as error:
            unknown.append(
                f"prefect_proxy_servers: {named[1]} has no address on {socket.gethostname()}: {error}. Nginx does not "
                "start with a name that it cannot resolve, and would serve none of its sites; correct the name there "
                "or in prefect_address of the server's host, or add it to the DNS or to /etc/hosts of this host"
            )
    if unknown:
        raise NginxError("\n".join(unknown))
    return found


def processes() -> Iterator[tuple[int, str, float]]:
    """Yield the parent's ID, the title and the start (seconds since the epoch) of each Nginx process."""
    booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if title.startswith(TITLE):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                yield int(fields[1]), title, booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def sites() -> list[str]:
    """Return the files that define sites, except the distribution's default site."""
    found = [*CONFIGURATION.glob("conf.d/*.conf"), *CONFIGURATION.glob("sites-enabled/*")]
    return sorted(str(path) for path in found if path.name != DEFAULT_SITE)


def newest(paths: list[Path]) -> float:
    """Return the latest change of a file, or of the directory of a removed one, in seconds since the epoch."""
    there = [path if path.exists() else path.parent for path in paths if not path.is_dir()]
    return max((path.stat().st_ctime for path in there if path.exists()), default=0.0)


def trouble(site: dict[str, Any]) -> str | None:
    """Return why a site does not answer as expected; None if it does."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    wanted = certificate(Path(site["certificate"]))
    try:
        with (
            socket.create_connection((site["address"], site["port"]), timeout=10) as connection,
            blind.wrap_socket(connection, server_hostname=site["name"]) as secured,
        ):
            if secured.getpeercert(binary_form=True) != wanted:
                return f"it presents another certificate than that of {site['certificate']}"
            request = f"GET {site['path']} HTTP/1.1\r\nHost: {site['name']}\r\nConnection: close\r\n\r\n"
            secured.sendall(request.encode())
            answer = http.client.HTTPResponse(secured)
            answer.begin()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    if answer.status == 200 or (answer.status == 503 and answer.getheader("Prefect-Maintenance") == "true"):
        return None
    return f"{site['path']} answers {answer.status} {answer.reason}"


def certificate(path: Path) -> bytes:
    """Return the first certificate of a PEM file, in DER."""
    block, end = path.read_text().partition("-----BEGIN CERTIFICATE-----")[2], "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(f"-----BEGIN CERTIFICATE-----{block.partition(end)[0]}{end}")


def wait(question: Callable[[], str | None], *, timeout: float, otherwise: str) -> None:
    """Poll until `question` returns no error. After the timeout, raise NginxError with `otherwise` and the last one."""
    deadline = time.monotonic() + timeout
    while wrong := question():
        if time.monotonic() > deadline:
            raise NginxError(f"{otherwise}: {wrong}")
        time.sleep(POLL)


def former(ledger: Ledger | None, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the files and directories of a former site, which the ledger lists and the task does not, to be removed.

    Such a file would be served under the former domain, and Nginx would refuse it once the upstream is gone.
    """
    used = {Path(path) for path in [*(file["path"] for file in params["files"]), *params["kept"]]}
    if params["state"] == "present":
        used |= {step for path in used for step in path.parents}
    shared = {"content": None, "secret": False, "recurse": False}
    return [
        shared | {"path": entry["name"], "state": "absent" if entry["kind"] == "file" else "unused"}
        # The deepest first.
        for entry in sorted(ledger.entries.values() if ledger else (), key=lambda each: -each["name"].count("/"))
        if ledger is not None and entry["part"] == ledger.part and entry["kind"] in ("file", "directory")
        if CONFIGURATION in Path(entry["name"]).parents and Path(entry["name"]) not in used
    ]


def write_all(params: dict[str, Any], *, dry: bool) -> tuple[list[str], list[dict[str, str]]]:
    """Write the files, record new ones in the ledger, and remove unwanted ones."""
    unwanted = [
        {"path": path, "state": "absent", "content": None, "secret": False, "recurse": False}
        for path in params["unwanted"]
    ]
    with opened(params["ledger"], dry=dry) as ledger:
        written, diff = ensure_files(ledger, params["files"], params["secrets"], dry=dry)
        more, shown = ensure_files(None, unwanted, [], dry=dry)
    return written + more, diff + shown


def apply(nginx: Nginx, params: dict[str, Any]) -> tuple[list[str], list[dict[str, str]]]:
    """Write the files. If Nginx then rejects its configuration, restore the previous state and raise NginxError.

    Nginx has tested a copy before, but the copy lacks files outside the directory, which other programs may change.
    """
    require_change(nginx, params)
    kept = [Kept.of(Path(path)) for path in [*(file["path"] for file in params["files"]), *params["unwanted"]]]
    try:
        written, diff = write_all(params, dry=False)
        if nginx.program and written:
            nginx.test((params["site"] or {}).get("name", ""))
    except (NginxError, FileError, LedgerError) as error:
        for before in reversed(kept):
            before.put_back()
        raise NginxError(f"{error}\nWhat was there before has been put back.") from error
    return written, diff


def reload_where_needed(nginx: Nginx, params: dict[str, Any]) -> bool:
    """Reload a running Nginx if its configuration is newer, or start it for a site. Return whether it did."""
    if not nginx.main_process():
        if params["state"] != "present":
            return False
        nginx.start()
        return True
    # A site that is present has another file to write whenever one has to be removed. The directory alone also changes
    # with the maintenance switch, which needs no reload.
    counts = [file for file in params["files"] if params["state"] == "absent" or file["state"] != "absent"]
    # The directory of a former site's file is removed with it.
    gone = [next(step for step in Path(path).parents if step.exists()) for path in params["former"]]
    changed = max([newest([Path(file["path"]) for file in counts]), *(step.stat().st_ctime for step in gone)])
    if changed < nginx.workers_since():
        return False
    nginx.reload()
    wait(
        lambda: None if nginx.workers_since() > changed else "its processes are those of before",
        timeout=params["timeout"],
        otherwise="Nginx was told to reload and has not",
    )
    return True


def remember(nginx: Nginx, ledger: Ledger | None) -> None:
    """Record whether another owner's Nginx was enabled and active, before it is started for the first time."""
    if ledger is None or ledger.get("service", UNIT):
        return
    entry = next((entry for entry in ledger.others_entries if entry["kind"] == "service"), None)
    state = {"enabled": nginx.enabled(), "active": nginx.main_process() > 0}
    if entry is None and not all(state.values()):
        entry = {"kind": "service", "name": UNIT, "origin": "adopted", **state, "sites": sites()}
    if entry is not None:
        # Another instance that needs Nginx as well may be removed before this one.
        ledger.record([{name: value for name, value in entry.items() if name != "part"}])


def restore(nginx: Nginx, ledger: Ledger | None) -> bool:
    """Stop and disable another owner's Nginx if it was so before; return whether that changes anything."""
    entry = ledger.get("service", UNIT) if ledger is not None else None
    if ledger is None or entry is None:
        return False
    needed = any(other["kind"] == "service" for other in ledger.others_entries) or set(sites()) - set(entry["sites"])
    before = {name: entry[name] for name in ("enabled", "active")}
    now = {"enabled": nginx.enabled(), "active": nginx.main_process() > 0}
    differs = not needed and nginx.program is not None and any(now[name] and not before[name] for name in now)
    if differs and not ledger.dry:
        nginx.restore(**before)
    ledger.forget("service", UNIT)
    ledger.write()
    return differs


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["probed", "present", "absent"], "default": "present"},
            "ports": {"type": "dict", "default": {}},
            "servers": {"type": "list", "elements": "str", "default": []},
            "files": FILES | {"required": False, "default": []},
            "kept": {"type": "list", "elements": "path", "default": []},
            "secrets": SECRETS,
            "ledger": LEDGER,
            "lineage": certbot.LINEAGE,
            "unwanted": {"type": "list", "elements": "path", "default": []},
            "site": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "default": "127.0.0.1"},
                    "port": {"type": "int", "required": True},
                    "path": {"type": "str", "required": True},
                    "certificate": {"type": "path", "required": True},
                },
            },
            "started": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params, nginx = module.params, Nginx()
    params["unwanted"] = [path for path in params["unwanted"] if dpkg.is_packaged_link(path, "nginx")]
    written: list[str] = []
    diff: list[dict[str, str]] = []
    reloaded = enabled = deleted = stopped = False
    problems = held(params["ports"], but=lambda command: command.startswith(TITLE))
    if problems:
        module.fail_json(msg="\n".join(problems))
    servers: list[str] = []
    try:
        with opened(params["ledger"], dry=True) as ledger:
            old = former(ledger, params)
        params["former"] = [file["path"] for file in old]
        # If a run is killed, Nginx can start: locations are removed before their upstream.
        first = [file for file in old if file["state"] == "absent" and params["state"] == "absent"]
        params["files"] = [*first, *params["files"], *(file for file in old if file not in first)]
        if params["lineage"] and params["state"] != "absent":
            with opened(params["ledger"], dry=module.check_mode or params["state"] == "probed") as ledger:
                if ledger is not None:
                    certbot.expect(ledger, params["lineage"], write=params["state"] == "present")
        if params["state"] == "probed":
            servers = resolved(params["servers"])
            if nginx.program:
                require_foundation(nginx, [file["path"] for file in params["files"]])
        elif module.check_mode:
            written, diff = write_all(params, dry=True)
        else:
            # Without the lock, two instances of a host would each test its change without the other's.
            with locked("nginx"):
                written, diff = apply(nginx, params)
                if nginx.program and params["started"]:
                    if params["state"] == "present":
                        with opened(params["ledger"], dry=False) as ledger:
                            remember(nginx, ledger)
                    if params["state"] == "present" and not nginx.enabled():
                        nginx.start()
                        enabled = True
                    reloaded = reload_where_needed(nginx, params)
        if params["state"] == "absent":
            with opened(params["ledger"], dry=module.check_mode) as ledger:
                stopped = restore(nginx, ledger)
        if params["lineage"] and params["state"] == "absent":
            # Certbot cannot renew it without the site.
            with opened(params["ledger"], dry=module.check_mode) as ledger:
                deleted = ledger is not None and certbot.remove(ledger, params["lineage"])
        site = params["site"]
        if site and params["started"] and not module.check_mode and params["state"] != "probed":
            wait(
                lambda: trouble(site),
                timeout=params["timeout"],
                otherwise=f"https://{site['name']}:{site['port']} does not answer as it should",
            )
    except (NginxError, FileError, LedgerError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(written or reloaded or enabled or deleted or stopped),
        installed=nginx.program is not None,
        ipv6=Path("/proc/net/if_inet6").exists(),
        sites=sites(),
        servers=servers,
        written=written,
        reloaded=reloaded or enabled,
        diff=diff,
    )


if __name__ == "__main__":
    main()
