#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Configure a PostgreSQL cluster of a host for Prefect without changing what others use."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_postgres_cluster
short_description: Configure a PostgreSQL cluster of a host for Prefect
description:
  - Writes one settings file beside those of the cluster, and one block at the top of its C(pg_hba.conf). Files that
    PostgreSQL would reject are rolled back. PostgreSQL is reloaded, and restarted only if a setting requires it.
  - A cluster that M(selfhosted.prefect.host_packages) did not install belongs to others. It keeps its tuning, its
    certificate and its addresses, to which O(listen) is added, and is never dropped.
  - On Debian and its kin, the cluster is one that C(pg_lsclusters) lists. On the RHEL family it is the one below
    C(/var/lib/pgsql/data), which is created if it does not exist, and its C(postgresql.conf) gets a block that includes
    the settings file; that was written from documentation and never run on a real host.
  - A settings file of that name that does not begin with this collection's header is another owner's, and is refused.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.ledger
options:
  name:
    description: Name of the settings file and of the block.
    type: str
    required: true
  port:
    description: Port of the cluster. A cluster that this collection installed is moved to it.
    type: int
    default: 5432
  settings:
    description: Settings for every cluster.
    type: dict
    default: {}
  tuning:
    description: Settings for a cluster that this collection installed.
    type: dict
    default: {}
  listen:
    description: Addresses to listen on in addition to the loopback.
    type: list
    elements: str
    default: []
  max_connections:
    description: Minimum number of connections.
    type: int
    default: 100
  certificate:
    description: File of the certificate, for a cluster without its own.
    type: path
  key:
    description: File of the certificate's key.
    type: path
  hba:
    description: Lines of the block in C(pg_hba.conf).
    type: list
    elements: str
    default: []
  database:
    description: Prefect's database.
    type: str
  role:
    description: Prefect's role.
    type: str
  purge:
    description:
      - Whether V(absent) drops the databases and the roles that the ledger lists as created, also those of former
        names, and the cluster if this collection installed it and it contains nothing else. A cluster that does not run
        cannot be checked, and is not dropped.
    type: bool
    default: false
  backup_dir:
    description: Directory to which a database is dumped before it is dropped; empty for no dump.
    type: str
    default: ''
  state:
    description:
      - Whether the cluster serves Prefect. V(probed) changes nothing, and fails if a role or a database of these names
        exists and is not in the ledger, or the cluster belongs to others and does not run.
    type: str
    choices: [probed, present, absent]
    default: present
  record:
    description: File in which M(selfhosted.prefect.host_packages) records what it installed.
    type: path
    default: /var/lib/selfhosted-prefect/packages.json
  timeout:
    description: Seconds to wait for PostgreSQL to answer.
    type: int
    default: 120
attributes:
  check_mode:
    description: Reports whether something would be written.
    support: full
  diff_mode:
    description: Shows the settings file and the block.
    support: full
"""

EXAMPLES = r"""
- name: Configure PostgreSQL
  selfhosted.prefect.host_postgres_cluster:
    name: prefect
    listen: [10.0.0.5]
    hba: [hostssl prefect prefect 10.0.0.11/32 scram-sha-256]
"""

RETURN = r"""
cluster:
  description: Version and name of the cluster, such as 15/main. Empty if there is none.
  returned: success
  type: str
owned:
  description: Whether this collection installed the cluster.
  returned: success
  type: bool
restarted:
  description: Whether PostgreSQL was restarted.
  returned: success
  type: bool
socket:
  description: Directory of its Unix socket.
  returned: success
  type: str
certificate:
  description: File of the certificate that it presents.
  returned: success
  type: str
in_use:
  description: Whether others have a database there. True if the cluster does not run, since they may have one.
  returned: success
  type: bool
unknown:
  description: Whether a cluster does not run, so that a later run must complete the purge.
  returned: success
  type: bool
adopted:
  description: Which of role and database existed and are used unchanged.
  returned: success
  type: list
  elements: str
dumps:
  description: Files to which databases were dumped before they were dropped.
  returned: success
  type: list
  elements: str
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import ssl
import stat
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions, safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.backups import SCRATCH
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    KEPT,
    LEDGER,
    Ledger,
    LedgerError,
    described,
    facts,
    keep_aside,
    opened,
    put_back,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.processes import TimedOutError, run_as
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import beside, followed, reach

UNCHOSEN = {"", "server.crt", "/etc/ssl/certs/ssl-cert-snakeoil.pem"}
"""Default certificates, which no one has chosen."""

HEADER = "# Ansible managed: selfhosted.prefect\n"
"""The first line of a settings file of this collection."""

HBA_PROBLEMS = (
    "select 'pg_hba.conf, line ' || line_number || ': ' || error from pg_hba_file_rules where error is not null"
)


FOREIGN_ROLES = "select rolname from pg_roles where oid >= 16384"
"""Roles that did not come with PostgreSQL."""

FOREIGN_OBJECTS = (
    "select nspname || '.' || relname from pg_class c join pg_namespace n on n.oid = relnamespace "
    "where c.oid >= 16384 and nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)' "
    "union select 'schema ' || nspname from pg_namespace where oid >= 16384 and nspname !~ '^pg_(toast|temp)' "
    "union select 'function ' || proname from pg_proc where oid >= 16384 "
    "union select 'extension ' || extname from pg_extension where oid >= 16384 "
    "union select 'large object ' || oid from pg_largeobject_metadata"
)
"""What others created in the database postgres. PostgreSQL's own objects have lower numbers."""

LONGEST = 4 * 3600.0
"""Maximum seconds of a command of PostgreSQL, such as a dump."""


Object = tuple[str, str]
"""A role or a database: its kind and its name."""


class ClusterError(Exception):
    """A cluster cannot serve Prefect; the message names the variable and the fix."""


def as_postgres(command: list[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as the superuser of PostgreSQL and return the completed process."""
    account = pwd.getpwnam("postgres")
    try:
        return run_as(
            account,
            command,
            timeout=LONGEST,
            stdin=stdin,
            # Nothing of root's environment.
            env={
                "HOME": account.pw_dir,
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "USER": account.pw_name,
            },
            groups=os.getgrouplist(account.pw_name, account.pw_gid),
        )
    except TimedOutError as error:
        raise ClusterError(f"{command[0]}: {error}\n{error.output}") from error


@dataclass(frozen=True)
class Cluster:
    """A cluster as `pg_lsclusters` reports it."""

    version: str
    name: str
    port: int
    config: Path
    socket: str
    running: bool
    settings: dict[str, str]

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def package(self) -> str:
        """Return the package that created the cluster."""
        return f"postgresql-{self.version}"

    @property
    def hba(self) -> Path:
        return Path(self.settings.get("hba_file") or self.config / "pg_hba.conf")

    def drop_in(self, name: str) -> Path:
        """Return the settings file of an instance."""
        return self.config / "conf.d" / f"{name}.conf"

    def includes(self, name: str, *, present: bool) -> dict[Path, str | None]:
        """Return the files that have to change so that the settings file is read, or no longer."""
        return {}

    def settings_files(self) -> list[Path]:
        """Return the files that PostgreSQL reads its settings from, in its order."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError), reach(self.config / "conf.d") as directory:
            names = [name for name in directory.names() if name.endswith(".conf") and not name.startswith(".")]
        return [self.config / "postgresql.conf", *(self.config / "conf.d" / name for name in names)]

    @property
    def server(self) -> list[str]:
        """Return the command of the server."""
        return [f"/usr/lib/postgresql/{self.version}/bin/postgres", "-c", f"config_file={self.config}/postgresql.conf"]

    def sql(self, statement: str) -> str:
        """Run SQL as the superuser and return the rows as unaligned text. Raises ClusterError."""
        psql = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        command = [*psql, f"--host={self.socket}", f"--port={self.port}", "--dbname=postgres", "--file=-"]
        done = as_postgres(command, stdin=statement)
        if done.returncode:
            raise ClusterError(f"PostgreSQL {self.version}/{self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def problems(self) -> str:
        """Return the errors that PostgreSQL finds in its current files."""
        # To print one setting, it reads all files.
        read = as_postgres([*self.server, "-C", "port"])
        return read.stderr.strip() if read.returncode else self.sql(HBA_PROBLEMS)

    def drop(self) -> None:
        """Remove the cluster with its data."""
        command = ["pg_dropcluster", "--stop", self.version, self.name]
        subprocess.run(command, capture_output=True, check=True)


class RedhatCluster(Cluster):
    """The one cluster of a host of the RHEL family. Its configuration is in its directory of data."""

    @property
    def unit(self) -> str:
        return str(distributions.facts("postgresql")["unit"])

    @property
    def package(self) -> str:
        return "postgresql-server"

    def drop_in(self, name: str) -> Path:
        return self.config / f"{name}.conf"

    def includes(self, name: str, *, present: bool) -> dict[Path, str | None]:
        main = self.config / "postgresql.conf"
        text = with_block(text_of(main) or "", name, [])
        if present:
            begin, end = marks(name)
            # Last, since the last setting counts.
            text = f"{text}{'' if text.endswith(chr(10)) else chr(10)}{begin}include_if_exists '{name}.conf'\n{end}"
        return {main: text}

    def settings_files(self) -> list[Path]:
        main = self.config / "postgresql.conf"
        names = re.findall(r"^include_if_exists '([\w-]+\.conf)'$", text_of(main) or "", re.MULTILINE)
        return [main, *(self.config / name for name in names)]

    @property
    def server(self) -> list[str]:
        return [str(distributions.facts("postgresql")["server"]), "-D", str(self.config)]

    def drop(self) -> None:
        subprocess.run(["systemctl", "disable", "--quiet", "--now", self.unit], capture_output=True, check=True)
        safe_files.remove(self.config)


def clusters() -> list[Cluster]:
    """Return the clusters of this host."""
    if distributions.current().family == distributions.REDHAT:
        return redhat_clusters(distributions.facts("postgresql"))
    if shutil.which("pg_lsclusters") is None:
        return []
    listed = subprocess.run(["pg_lsclusters", "--json"], capture_output=True, text=True, check=True)
    return [
        Cluster(
            version=str(cluster["version"]),
            name=cluster["cluster"],
            port=int(cluster["port"]),
            config=Path(cluster["configdir"]),
            socket=cluster["socketdir"],
            running=bool(int(cluster["running"])),
            settings=cluster["config"],
        )
        for cluster in json.loads(listed.stdout or "[]")
    ]


def redhat_clusters(about: dict[str, Any]) -> list[Cluster]:
    """Return the cluster of a host of the RHEL family, if it has been created."""
    data = Path(about["data"])
    version = (text_of(data / "PG_VERSION") or "").strip()
    if not version:
        return []
    running = not subprocess.run(["systemctl", "is-active", "--quiet", about["unit"]], check=False).returncode
    found = RedhatCluster(
        version=version, name=data.name, port=5432, config=data, socket=about["socket"], running=running, settings={}
    )
    return [replaced(found, port=int(others_settings(found, Path()).get("port", found.port)))]


def create_cluster(about: dict[str, Any]) -> None:
    """Create the cluster of a host of the RHEL family, whose package does not, and start it at boot."""
    env = os.environ | {"PGSETUP_INITDB_OPTIONS": "--encoding=UTF8", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(about["setup"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(about['setup'])}: {(done.stderr or done.stdout).strip()}")
    systemctl("enable", about["unit"])


def is_owned(cluster: Cluster, record: Path) -> bool:
    """Return whether this collection installed a cluster's PostgreSQL."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(safe_files.read(record))
        # Where the package does not create the cluster, it may have existed before.
        is_new = not isinstance(cluster, RedhatCluster) or str(cluster.config.parent) in known["fresh"]
        return cluster.package in known["came"] and is_new
    return False


def choose(found: list[Cluster], params: dict[str, Any]) -> Cluster:
    """Return the cluster to use: that of the port, or the only one if this collection installed it."""
    for cluster in found:
        if cluster.port == params["port"]:
            return cluster
    if len(found) == 1 and is_owned(found[0], Path(params["record"])):
        return found[0]
    there = ", ".join(f"{cluster.version}/{cluster.name} on {cluster.port}" for cluster in found) or "none"
    raise ClusterError(
        f"prefect_database_port: no PostgreSQL of this host has port {params['port']} (it has {there}); "
        "set it to the port of a cluster"
    )


def quoted(value: Any) -> str:
    """Return a value in the syntax of postgresql.conf."""
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[\w.]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def wanted_settings(cluster: Cluster, params: dict[str, Any], *, owned: bool, drop_in: Path) -> dict[str, Any]:
    """Return the settings for a cluster. The settings of another owner's cluster are only extended."""
    wanted: dict[str, Any] = dict(params["tuning"]) if owned else {}
    # Without the settings of this instance's own file.
    others = others_settings(cluster, drop_in)
    if owned and cluster.port != params["port"]:
        wanted["port"] = params["port"]
    elif owned and (set_before := re.search(r"^port = (\d+)", text_of(drop_in) or "", re.MULTILINE)):
        wanted["port"] = int(set_before[1])
    listening = [] if owned else re.findall(r"[^\s,]+", others.get("listen_addresses", "localhost"))
    if "*" not in listening:
        wanted["listen_addresses"] = ",".join(dict.fromkeys([*(listening or ["localhost"]), *params["listen"]]))
    current = int(others.get("max_connections", 100))
    if owned or current < params["max_connections"]:
        wanted["max_connections"] = params["max_connections"]
    chosen = others.get("ssl", "off") == "on" and others.get("ssl_cert_file", "") not in UNCHOSEN
    if params["certificate"] and (owned or not chosen):
        wanted |= {"ssl": True, "ssl_cert_file": params["certificate"], "ssl_key_file": params["key"]}
    return {**wanted, **params["settings"]}


def others_settings(cluster: Cluster, drop_in: Path) -> dict[str, str]:
    """Return a cluster's settings by parsing all its files except this instance's."""
    found: dict[str, str] = {}
    for path in cluster.settings_files():
        if path != drop_in:
            for name, value in re.findall(
                r"^\s*(\w+)\s*=?\s*('(?:[^']|'')*'|[^\s#]+)", text_of(path) or "", re.MULTILINE
            ):
                found[name.lower()] = value.strip("'").replace("''", "'")
    return found


def marks(name: str) -> tuple[str, str]:
    return f"# BEGIN {name} (selfhosted.prefect)\n", f"# END {name} (selfhosted.prefect)\n"


def with_block(text: str, name: str, lines: list[str]) -> str:
    """Return pg_hba.conf with this instance's block first, since the first match decides; no block without lines."""
    begin, end = marks(name)
    rest = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
    return f"{begin}{''.join(f'{line}{chr(10)}' for line in lines)}{end}{rest}" if lines else rest


def block_of(text: str, name: str) -> str:
    """Return this instance's block of pg_hba.conf; the rest may be another owner's."""
    begin, end = marks(name)
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
    return found[0] if found else ""


def text_of(path: Path) -> str | None:
    """Return the content of a cluster's file; None if it does not exist. Raises OSError: postgres can write there."""
    try:
        return safe_files.read(path).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def replace(path: Path, content: str | None) -> None:
    """Replace a file with the owner and mode of the previous one or of its directory; None removes it."""
    if content is None:
        safe_files.remove(path)
        return
    with beside(followed(path)) as (directory, name):
        there = directory.state(name)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise directory.refused(name, there, wanted="file")
        like = there or directory.own_state()
        mode = stat.S_IMODE(there.st_mode) & 0o777 if there else 0o644
        encoded = content.encode(errors="surrogateescape")
        directory.write(name, encoded, owner=like.st_uid, group=like.st_gid, mode=mode)


def check_certificate(params: dict[str, Any]) -> None:
    """Raise ClusterError for a certificate and key with which PostgreSQL would not start."""
    if not params["certificate"]:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(params["certificate"], params["key"])
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(
            f"prefect_postgres_certificate, prefect_postgres_key: {params['certificate']} and {params['key']} do not "
            f"go together or cannot be read: {error}"
        ) from error


def systemctl(action: str, unit: str) -> None:
    done = subprocess.run(["systemctl", action, unit], capture_output=True, text=True, check=False)
    if done.returncode:
        command = ["journalctl", "--no-pager", "--output=cat", "--lines=15", f"--unit={unit}"]
        log = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        raise ClusterError(f"systemctl {action} {unit}: {done.stderr.strip()}\nThe end of its log:\n{log}")


def wait_until(cluster: Cluster, statement: str, *, timeout: float) -> None:
    """Wait until a statement returns `t`. Raises ClusterError with the last error."""
    deadline, said = time.monotonic() + timeout, "no answer"
    while True:
        try:
            said = cluster.sql(statement)
        except ClusterError as error:
            said = str(error)
        if said == "t":
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"PostgreSQL {cluster.version}/{cluster.name} is not ready after {timeout:g} s: {said}")
        time.sleep(0.2)


def apply(cluster: Cluster, files: dict[Path, str | None], *, port: int, timeout: float) -> bool:
    """Write files and apply them, or roll them back if PostgreSQL rejects them; return whether it was restarted."""
    before = {path: text_of(path) for path in files}
    if not cluster.running:
        systemctl("start", cluster.unit)
        wait_until(cluster, "select true", timeout=timeout)
    for path, content in files.items():
        if content != before[path]:
            replace(path, content)
    if problems := cluster.problems():
        for path, text in before.items():
            replace(path, text)
        raise ClusterError(f"prefect_postgres_settings: PostgreSQL refuses what would be written:\n{problems}")
    newest = max((path.stat().st_mtime for path in files if path.exists()), default=0)
    # This completes a run that was killed between writing and reloading.
    loaded = float(cluster.sql("select extract(epoch from pg_conf_load_time())"))
    if newest >= loaded or any(content != before[path] for path, content in files.items()):
        since = cluster.sql("select pg_conf_load_time()")
        cluster.sql("select pg_reload_conf()")
        wait_until(cluster, f"select pg_conf_load_time() > '{since}'", timeout=timeout)
    if cluster.sql("select count(*) from pg_settings where pending_restart") == "0":
        return False
    systemctl("restart", cluster.unit)
    moved = replaced(cluster, port=port)
    wait_until(moved, "select true", timeout=timeout)
    return True


def strangers(cluster: Cluster, *, dropped: Collection[Object]) -> list[str]:
    """Return what others have in a cluster, including other instances, and this instance's unless it is dropped."""
    names = cluster.sql("select datname from pg_database where datname not in ('postgres', 'template0', 'template1')")
    roles = cluster.sql(FOREIGN_ROLES)
    return [
        *(name for name in names.splitlines() if ("database", name) not in dropped),
        *(name for name in roles.splitlines() if ("role", name) not in dropped),
        *(f"{name} in the database postgres" for name in cluster.sql(FOREIGN_OBJECTS).splitlines()),
    ]


def literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def exists(cluster: Cluster, kind: str, name: str) -> bool:
    """Return whether a cluster has a role or a database of this name."""
    catalog, column = {"database": ("pg_database", "datname"), "role": ("pg_roles", "rolname")}[kind]
    return cluster.sql(f"select exists (select from {catalog} where {column} = {literal(name)})") == "t"


def owner_of(cluster: Cluster, database: str) -> str:
    """Return the owner of a database; an empty text if it does not exist."""
    return cluster.sql(f"select pg_get_userbyid(datdba) from pg_database where datname = {literal(database)}")


def key(cluster: Cluster, name: str) -> str:
    """Return the name of a cluster's role or database in the ledger."""
    return f"{cluster.version}/{cluster.name} {name}"


def recorded(ledger: Ledger | None, cluster: Cluster) -> list[Object]:
    """Return the roles and databases of a cluster in the ledger, also those of former names."""
    beginning = key(cluster, "")
    return [
        (entry["kind"], entry["name"].removeprefix(beginning))
        for entry in (ledger.entries.values() if ledger is not None else ())
        if entry["kind"] in ("role", "database") and entry["name"].startswith(beginning)
    ]


def configured_before(ledger: Ledger, cluster: Cluster, params: dict[str, Any]) -> bool:
    """Return whether an earlier version without a ledger configured a cluster for this instance."""
    return ledger.recognized and has_header(drop_in_of(cluster, params))


def drop_in_of(cluster: Cluster, params: dict[str, Any]) -> Path:
    """Return the settings file of this instance in a cluster."""
    return cluster.drop_in(params["name"])


def has_header(path: Path) -> bool:
    """Return whether this collection wrote a settings file."""
    with contextlib.suppress(OSError):
        return (text_of(path) or "").startswith(HEADER)
    return False


def wrote(ledger: Ledger | None, path: Path) -> bool:
    """Return whether a settings file is this instance's: recorded, or of a version that did not record it."""
    return os.path.lexists(path) and (has_header(path) or (ledger is not None and bool(ledger.get("file", path))))


def expect_drop_in(ledger: Ledger | None, path: Path, *, write: bool) -> None:
    """Record the settings file before it is written, and keep another owner's. Raises LedgerError for that."""
    if ledger is None or ledger.get("file", path):
        return
    entry: dict[str, Any] = {"kind": "file", "name": str(path), "origin": "created"}
    if os.path.lexists(path) and not has_header(path):
        if "files" not in ledger.adopt:
            raise LedgerError(
                f"prefect_instance: {path} is {described(path)}, and this collection did not create it; rename it, or "
                "add files to prefect_adopt to replace it: what it is now is restored when Prefect is removed"
            )
        entry |= {"origin": "adopted", "was": facts(path)}
    if write:
        if entry["origin"] == "adopted":
            keep_aside(ledger, entry)
        ledger.record([entry])


def former(ledger: Ledger | None, path: Path) -> str | None:
    """Return the content that the settings file has without Prefect: None unless it replaced another owner's."""
    entry = ledger.get("file", path) if ledger is not None else None
    return text_of(path.with_name(path.name + KEPT)) if entry and entry["origin"] == "adopted" else None


def entry_of(ledger: Ledger, cluster: Cluster, params: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the ledger entry of the role or the database, also for an earlier version's; None if it is another's."""
    name = params[kind]
    if known := ledger.get(kind, key(cluster, name)):
        return known
    fresh = {"kind": kind, "name": key(cluster, name), "origin": "created"}
    if not exists(cluster, kind, name) or configured_before(ledger, cluster, params):
        return fresh
    return fresh | {"origin": "adopted"} if "database" in ledger.adopt else None


def expect_database(ledger: Ledger | None, cluster: Cluster, params: dict[str, Any], *, write: bool) -> list[str]:
    """Record the role and the database before they are created; return which of them exist and are used unchanged.

    Raises LedgerError if one exists, is not in the ledger and may not be adopted.
    """
    if ledger is None or not params["database"] or not cluster.running:
        return []
    entries, refused = [], []
    for kind in ("role", "database"):
        entry = entry_of(ledger, cluster, params, kind)
        if entry is not None:
            entries.append(entry)
            continue
        variable = {"role": "prefect_database_user", "database": "prefect_database_name"}[kind]
        refused.append(
            f"{variable}: PostgreSQL {cluster.version}/{cluster.name} has a {kind} {params[kind]}, and this collection "
            f"did not create it; choose another name, or add database to prefect_adopt and set "
            "prefect_database_password to the role's: both stay as they are, also when Prefect is removed"
        )
    if refused:
        raise LedgerError("\n".join(refused))
    if write:
        ledger.record(entries)
    return [entry["kind"] for entry in entries if entry["origin"] == "adopted"]


def dump(cluster: Cluster, database: str, directory: str) -> str:
    """Dump a database to a file in a directory that only root can read; return the file.

    The file gets its name once it is completely on disk, since the database is dropped next.
    """
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    path = Path(directory, f"purged-{database}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.dump")
    account = pwd.getpwnam("postgres")
    command = ["pg_dump", "--format=custom", f"--host={cluster.socket}", f"--port={cluster.port}", database]
    with (
        beside(path) as (above, name),
        above.create(name, owner=os.geteuid(), group=os.getegid(), mode=0o600) as descriptor,
        os.fdopen(os.dup(descriptor), "wb") as file,
    ):
        done = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.PIPE,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            timeout=LONGEST,
            check=False,
        )
        if done.returncode:
            raise ClusterError(
                f"The database {database} cannot be dumped, and is not dropped: "
                f"{done.stderr.decode(errors='replace').strip()}; set prefect_purge_backup to false to drop it anyway"
            )
    return str(path)


def created(cluster: Cluster, params: dict[str, Any], ledger: Ledger | None) -> list[Object]:
    """Return the databases and then the roles that exist and that this collection created for this instance alone."""

    def is_created(kind: str, name: str) -> bool:
        if ledger is None:
            return True
        if any((entry["kind"], entry["name"]) == (kind, key(cluster, name)) for entry in ledger.others_entries):
            return False
        entry = ledger.get(kind, key(cluster, name))
        return entry["origin"] == "created" if entry else configured_before(ledger, cluster, params)

    today = [(kind, params[kind]) for kind in ("database", "role") if params[kind]]
    known = sorted(dict.fromkeys([*today, *recorded(ledger, cluster)]), key=lambda each: each[0])
    return [(kind, name) for kind, name in known if is_created(kind, name) and exists(cluster, kind, name)]


def drop(
    cluster: Cluster, params: dict[str, Any], ledger: Ledger | None, *, dry: bool
) -> tuple[list[Object], list[str]]:
    """Drop the databases and the roles that this collection created; return which of them existed, and the dumps."""
    doomed = created(cluster, params, ledger)
    dumps: list[str] = []
    if dry:
        return doomed, dumps
    roles = {name for kind, name in doomed if kind == "role"}
    for kind, name in doomed:
        if kind == "database" and params["backup_dir"]:
            dumps.append(dump(cluster, name, params["backup_dir"]))
        # A proof of a backup that was killed left its copy of the database.
        if kind == "database" and owner_of(cluster, name + SCRATCH) in roles:
            cluster.sql(f"drop database {identifier(name + SCRATCH)} with (force)")
        cluster.sql(f"drop {kind} {identifier(name)}{' with (force)' if kind == 'database' else ''}")
    for kind, name in recorded(ledger, cluster):
        if ledger is not None:
            ledger.forget(kind, key(cluster, name))
    return doomed, dumps


def former_names(cluster: Cluster, params: dict[str, Any], ledger: Ledger | None) -> list[str]:
    """Return the databases and roles of former names that stay in a cluster, for a message."""
    left = created(cluster, params, ledger) if ledger is not None and cluster.running else []
    return [f"the {kind} {name}" for kind, name in left if name != params[kind]]


def require_known(ledger: Ledger | None, cluster: Cluster, params: dict[str, Any]) -> None:
    """Raise ClusterError for a stopped cluster of others: what it holds is not known."""
    used = bool(recorded(ledger, cluster))
    before = ledger is not None and configured_before(ledger, cluster, params)
    if not (cluster.running or used or before or is_owned(cluster, Path(params["record"]))):
        raise ClusterError(
            f"prefect_database_port: PostgreSQL {cluster.version}/{cluster.name} on port {cluster.port} does not run, "
            f"and this collection did not install it; start {cluster.unit}, or set the port of another cluster"
        )


def ensure_probed(params: dict[str, Any], ledger: Ledger | None, *, dry: bool) -> dict[str, Any]:
    """Raise LedgerError or ClusterError if others keep the cluster of the port from use. Nothing is changed."""
    adopted: list[str] = []
    for cluster in clusters():
        if cluster.port == params["port"]:
            require_known(ledger, cluster, params)
            adopted = expect_database(ledger, cluster, params, write=False)
            expect_drop_in(ledger, drop_in_of(cluster, params), write=False)
    return {"changed": False, "cluster": "", "owned": False, "restarted": False, "socket": "", "adopted": adopted}


def ensure_present(params: dict[str, Any], ledger: Ledger | None, *, dry: bool) -> dict[str, Any]:
    found = clusters()
    if dry and not found:
        return {"changed": True, "cluster": "", "owned": True, "restarted": False, "socket": "", "certificate": ""}
    if not found and (about := distributions.facts("postgresql"))["family"] == distributions.REDHAT:
        create_cluster(about)
        found = clusters()
    cluster = choose(found, params)
    require_known(ledger, cluster, params)
    check_certificate(params if not dry else params | {"certificate": None})
    if not cluster.running and not dry:
        systemctl("start", cluster.unit)
        wait_until(cluster, "select true", timeout=params["timeout"])
        cluster = replaced(cluster, running=True)
    drop_in = drop_in_of(cluster, params)
    expect_drop_in(ledger, drop_in, write=False)
    adopted = expect_database(ledger, cluster, params, write=True)
    expect_drop_in(ledger, drop_in, write=not dry)
    owned = is_owned(cluster, Path(params["record"]))
    wanted = wanted_settings(cluster, params, owned=owned, drop_in=drop_in)
    lines = "".join(f"{name} = {quoted(value)}\n" for name, value in sorted(wanted.items()))
    hba = text_of(cluster.hba) or ""
    files: dict[Path, str | None] = {
        drop_in: f"{HEADER}{lines}",
        **cluster.includes(params["name"], present=True),
        cluster.hba: with_block(hba, params["name"], params["hba"]),
    }
    result = serve(cluster, files, dry=dry, params=params)
    return {
        **result,
        "owned": owned,
        "adopted": adopted,
        "certificate": str(wanted.get("ssl_cert_file") or others_settings(cluster, drop_in).get("ssl_cert_file", "")),
    }


def shown(cluster: Cluster, path: Path, text: str | None, params: dict[str, Any]) -> str:
    """Return what a diff shows of a file: this instance's lines, and nothing that others wrote, such as a password."""
    if path == cluster.hba:
        return block_of(text or "", params["name"])
    return text or "" if not text or text.startswith(HEADER) else "(the content of another owner is not shown)\n"


def serve(cluster: Cluster, files: dict[Path, str | None], *, dry: bool, params: dict[str, Any]) -> dict[str, Any]:
    """Apply files to a cluster unless `dry`; return its part of the module's result."""
    changes = {path: text_of(path) for path in files}
    changes = {path: text for path, text in changes.items() if text != files[path]}
    diff = [
        {"before_header": str(path), "after_header": str(path)}
        | {"before": shown(cluster, path, text, params), "after": shown(cluster, path, files[path], params)}
        for path, text in changes.items()
    ]
    started = not cluster.running
    restarted = False if dry else apply(cluster, files, port=params["port"], timeout=params["timeout"])
    return {
        "changed": bool(changes) or restarted or started,
        "cluster": f"{cluster.version}/{cluster.name}",
        "restarted": restarted,
        "socket": cluster.socket,
        "diff": diff,
    }


def ensure_absent(params: dict[str, Any], ledger: Ledger | None, *, dry: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"changed": False, "cluster": "", "owned": False, "in_use": False, "restarted": False}
    result |= {"socket": "", "certificate": "", "dumps": [], "diff": [], "warnings": []}
    for cluster in clusters():
        drop_in = drop_in_of(cluster, params)
        configured = wrote(ledger, drop_in)
        hba = text_of(cluster.hba) or ""
        files = {**cluster.includes(params["name"], present=False), cluster.hba: with_block(hba, params["name"], [])}
        if configured:
            files = {drop_in: former(ledger, drop_in), **files}
        # After a removal without a purge, only the ledger knows the cluster.
        used = configured or files[cluster.hba] != hba or bool(recorded(ledger, cluster))
        if cluster.port != params["port"] and not used:
            # Purging the package would drop all clusters of its version, including this one.
            result["in_use"] = True
            continue
        owned = is_owned(cluster, Path(params["record"]))
        dropped: list[Object] = []
        if params["purge"] and cluster.running:
            dropped, dumps = drop(cluster, params, ledger, dry=dry)
            result["dumps"] += dumps
        elif stays := former_names(cluster, params, ledger):
            result["warnings"].append(
                f"PostgreSQL {cluster.version}/{cluster.name} still has {' and '.join(stays)}, which this collection "
                "created when prefect_database_name or prefect_database_user had another value. A purge dumps and "
                "drops them."
            )
        # A cluster that cannot be checked may contain anything.
        in_use = not cluster.running or bool(strangers(cluster, dropped=dropped))
        if params["purge"] and not cluster.running:
            result["unknown"] = True
            result["warnings"].append(
                f"PostgreSQL {cluster.version}/{cluster.name} does not run: what it holds is not known, and nothing "
                "of it was dropped. Start it and run this again to purge it."
            )
        result |= {"cluster": f"{cluster.version}/{cluster.name}", "owned": owned}
        result["in_use"] = result["in_use"] or in_use
        if params["purge"] and owned and not in_use:
            result |= {"changed": True, "cluster": ""}
            if not dry:
                # pg_dropcluster would leave a file that it does not know, and so its directories.
                if configured:
                    replace(drop_in, None)
                cluster.drop()
            continue
        touched = configured or files[cluster.hba] != hba
        if touched and not cluster.running:
            # The cluster reads the files when its administrator starts it again.
            result["changed"] = True
            for path, content in files.items() if not dry else ():
                replace(path, content)
        elif touched:
            left = {"port": 5432} if owned else {"port": cluster.port}
            result |= serve(cluster, files, dry=dry, params=params | left)
        if ledger is not None:
            # With the owner and the mode that the file had.
            put_back(ledger, drop_in)
        result["changed"] = result["changed"] or bool(dropped)
    if params["purge"] and ledger is not None:
        # Entries of a cluster that no longer exists.
        here = {f"{cluster.version}/{cluster.name}" for cluster in clusters()}
        for entry in [entry for entry in ledger.entries.values() if entry["kind"] in ("role", "database")]:
            if entry["name"].split()[0] not in here and not dry:
                ledger.forget(entry["kind"], entry["name"])
    return result


def main() -> None:
    strings = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "default": 5432},
            "settings": {"type": "dict", "default": {}},
            "tuning": {"type": "dict", "default": {}},
            "listen": strings,
            "max_connections": {"type": "int", "default": 100},
            "certificate": {"type": "path"},
            "key": {"type": "path", "no_log": False},
            "hba": strings,
            "database": {"type": "str"},
            "role": {"type": "str"},
            "purge": {"type": "bool", "default": False},
            "backup_dir": {"type": "str", "default": ""},
            "ledger": LEDGER,
            "state": {"type": "str", "choices": ["probed", "present", "absent"], "default": "present"},
            "record": {"type": "path", "default": "/var/lib/selfhosted-prefect/packages.json"},
            "timeout": {"type": "int", "default": 120},
        },
        required_together=[("certificate", "key")],
        required_if=[("purge", True, ["database", "role"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    params = module.params
    ensure = {"probed": ensure_probed, "present": ensure_present, "absent": ensure_absent}[params["state"]]
    # Two instances of a host write to the same pg_hba.conf.
    alone = contextlib.nullcontext() if module.check_mode else safe_files.locked("postgresql")
    try:
        with alone, opened(params["ledger"], dry=module.check_mode or params["state"] == "probed") as ledger:
            result = ensure(params, ledger, dry=module.check_mode)
            if ledger is not None:
                ledger.write()
    except (ClusterError, LedgerError, OSError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**({"in_use": False, "unknown": False, "adopted": [], "dumps": []} | result))


if __name__ == "__main__":
    main()
