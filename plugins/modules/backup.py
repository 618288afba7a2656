#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Back up the database of a Prefect, or put a backup in its place."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up the database of a Prefect, restore it, or empty it
description:
  - Copies a SQLite database while the server uses it, or dumps a PostgreSQL database with C(pg_dump), and proves that
    the copy can be read before it gets its name. Who runs the module needs to read the one, or to have the PostgreSQL
    client programs of the server's version for the other.
  - What is replaced or emptied is backed up first. A restore of PostgreSQL is one transaction. Stop the servers before.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  state:
    description: V(present) makes a backup, V(restored) replaces the database by one, V(emptied) leaves nothing in it.
    type: str
    choices: [present, restored, emptied]
    default: present
  directory:
    description:
      - Directory of the backups. It is made for its owner alone. Root refuses one that another account can write.
    type: path
    required: true
  former:
    description:
      - Directory in which earlier versions kept the backups. Those that root made there are moved to O(directory).
    type: path
  name:
    description: What the name of the backup begins with. When it was made follows.
    type: str
    required: true
  restore:
    description: The backup to restore, as a name in O(directory), a path, or V(latest).
    type: str
  keep:
    description: How many backups to keep, the oldest going first. 0 keeps all.
    type: int
    default: 0
  sqlite:
    description: The SQLite file. Left out, the database is a PostgreSQL.
    type: path
  owner:
    description: Account that a SQLite file is given to where there is none yet. Left out, its directory's owner.
    type: str
  host:
    description: Host of the PostgreSQL. Left out, its socket on this host.
    type: str
  port:
    description: Port of the PostgreSQL.
    type: int
    default: 5432
  database:
    description: Name of the PostgreSQL database.
    type: str
    default: prefect
  user:
    description: PostgreSQL user, and owner of what is restored.
    type: str
    default: prefect
  password:
    description: Password of that user.
    type: str
  sslmode:
    description: Libpq's word for how far the TLS of the PostgreSQL is trusted.
    type: str
    default: prefer
  ca:
    description: File of the certificate authorities to trust.
    type: path
  cert:
    description: File of the client certificate.
    type: path
  key:
    description: File of its key.
    type: path
  superuser:
    description: User of the host to run the client programs as, who is the PostgreSQL superuser on its socket.
    type: str
attributes:
  check_mode:
    description: Says that it would, and does not.
    support: full
"""

EXAMPLES = r"""
- name: Back up SQLite
  selfhosted.prefect.backup:
    sqlite: /var/lib/prefect/prefect.db
    directory: /var/backups/prefect-server
    name: prefect-3.8.8
    keep: 7

- name: Restore the newest backup
  selfhosted.prefect.backup:
    sqlite: /var/lib/prefect/prefect.db
    directory: /var/backups/prefect-server
    name: prefect-3.8.8
    restore: latest
    state: restored
"""

RETURN = r"""
path:
  description: The backup that was made. Null where there was nothing to back up before a restore.
  returned: success
  type: str
moved:
  description: Names of the backups that were moved from O(former).
  returned: with O(former)
  type: list
  elements: str
restored:
  description: The backup that was restored.
  returned: with O(state=restored)
  type: str
removed:
  description: Older backups that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils import sqlite_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.safe_files import (
    AccountError,
    beside,
    followed,
    reach,
)

EMPTY = """
DO $$
DECLARE it record;
BEGIN
  FOR it IN SELECT c.oid::regclass AS name FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
    EXECUTE 'DROP TABLE IF EXISTS ' || it.name || ' CASCADE';
  END LOOP;
  FOR it IN SELECT t.oid::regtype AS name FROM pg_type t
    WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' LOOP
    EXECUTE 'DROP TYPE ' || it.name || ' CASCADE';
  END LOOP;
END $$;
"""
"""A backup does not know what a newer version has made, and that version could not make it again if it stayed."""


class BackupError(Exception):
    """A backup that cannot be made or restored, and the way out."""


class Sqlite:
    """A SQLite database, which is a file, its log and its index."""

    suffix = ".sqlite"

    def __init__(self, file: Path, owner: str | None = None) -> None:
        self.file = file
        account = pwd.getpwnam(owner) if owner else None
        self.owner = (account.pw_uid, account.pw_gid) if account else None

    def exists(self) -> bool:
        """Return whether a server has ever made its tables here. Raises BackupError."""
        with as_backup_errors():
            return sqlite_files.exists(self.file)

    def dump(self, target: Path) -> None:
        """Copy the database as it is at one moment, also while it is written to. Raises BackupError."""
        with as_backup_errors():
            sqlite_files.copy(self.file, target)

    def prove(self, backup: Path) -> None:
        """See that a backup can be read and is Prefect's. Raises BackupError."""

        def question(copy: sqlite3.Connection) -> str:
            try:
                (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
                copy.execute("SELECT version_num FROM alembic_version").fetchone()
            except sqlite3.Error as error:
                return str(error)
            return str(found)

        with as_backup_errors():
            found = sqlite_files.ask(backup, question, like=self.file)
        if found != "ok":
            raise BackupError(f"{backup} is no good backup of a SQLite database of Prefect: {found}")

    def restore(self, backup: Path) -> None:
        """Put a backup where the database is, with the owner of its directory. Raises BackupError."""
        with as_backup_errors():
            sqlite_files.replace(self.file, backup, owner=self.owner)

    def empty(self) -> None:
        """Leave no database, and no log that the next one would take for its own. Raises BackupError."""
        with as_backup_errors():
            sqlite_files.remove(self.file)


@contextlib.contextmanager
def as_backup_errors() -> Iterator[None]:
    """Raise BackupError for what the host, SQLite or an account refuses."""
    try:
        yield
    except (AccountError, OSError) as error:
        raise BackupError(str(error)) from error


class Postgresql:
    """A PostgreSQL database, by its client programs."""

    suffix = ".dump"

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.user = given["user"]
        self.superuser = given["superuser"]
        wanted = {
            "PGHOST": given["host"],
            "PGPORT": str(given["port"]),
            "PGDATABASE": given["database"],
            "PGUSER": self.superuser or self.user,
            "PGPASSWORD": given["password"],
            "PGSSLMODE": given["sslmode"],
            "PGSSLROOTCERT": given["ca"],
            "PGSSLCERT": given["cert"],
            "PGSSLKEY": given["key"],
            "PGCONNECT_TIMEOUT": "15",
        }
        self.environment = {**os.environ, **{name: value for name, value in wanted.items() if value}}

    def _command(self, *words: str) -> list[str]:
        if shutil.which(words[0]) is None:
            raise BackupError(f"{words[0]} is not on this host: install postgresql-client, of the server's version")
        # Nothing of root's environment but libpq's variables is needed, and `runuser` keeps them.
        return ["runuser", "--user", self.superuser, "--", *words] if self.superuser else list(words)

    def exists(self) -> bool:
        """Return whether a server has ever made its tables here. Raises BackupError."""
        question = "SELECT count(to_regclass('alembic_version'))"
        command = self._command("psql", "--no-psqlrc", "--tuples-only", "--no-align", f"--command={question}")
        return self._run(command, stdout=subprocess.PIPE).strip() == b"1"

    def dump(self, target: Path) -> None:
        """Dump the database as it is at one moment. Raises BackupError."""
        with target.open("wb") as output:
            self._run(self._command("pg_dump", "--format=custom", "--no-owner", "--no-privileges"), stdout=output)

    def prove(self, backup: Path) -> None:
        """See that a backup can be read and is Prefect's. Raises BackupError."""
        with backup.open("rb") as content:
            listed = self._run(self._command("pg_restore", "--list"), stdin=content, stdout=subprocess.PIPE)
        if b"alembic_version" not in listed:
            raise BackupError(f"{backup} is no backup of a PostgreSQL database of Prefect")

    def restore(self, backup: Path) -> None:
        """Replace what is in the database by what is in a backup, all of it or nothing. Raises BackupError."""
        script = self._command("pg_restore", "--no-owner", "--no-privileges", "--no-comments", "--file=-")
        with backup.open("rb") as content:
            self._execute(lambda psql: self._run(script, stdin=content, stdout=psql))

    def empty(self) -> None:
        """Leave an empty schema. Raises BackupError."""
        self._execute(lambda psql: None)

    def _execute(self, more: Callable[[IO[bytes]], object]) -> None:
        """Empty the schema and run the SQL that `more` writes, in one transaction. Raises BackupError."""
        command = self._command("psql", "--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1")
        owner = self.user.replace('"', '""')
        with tempfile.TemporaryFile() as said:
            psql = subprocess.Popen(
                command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            assert psql.stdin
            try:
                psql.stdin.write(f'SET ROLE "{owner}";\n{EMPTY}'.encode())
                psql.stdin.flush()
                more(psql.stdin)
                psql.stdin.close()
            except BackupError:
                # The end of its input would make it commit; a lost connection takes everything back.
                psql.kill()
                raise
            except BrokenPipeError:
                # It has ended, and says why.
                pass
            finally:
                psql.wait()
            if psql.returncode:
                said.seek(0)
                reason = said.read().decode(errors="replace").strip()
                raise BackupError(f"psql: exit code {psql.returncode}, and nothing has changed: {reason}")

    def _run(self, command: list[str], **streams: Any) -> bytes:
        # A directory that the superuser may enter.
        done = subprocess.run(command, env=self.environment, cwd="/", stderr=subprocess.PIPE, check=False, **streams)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise BackupError(f"{' '.join(command)}: exit code {done.returncode}: {said}")
        return done.stdout or b""


def backups(directory: Path, suffix: str) -> list[Path]:
    """Return the backups of a directory, the oldest first: their names end in when they were made."""
    return sorted(directory.glob(f"*-????????T??????Z{suffix}"), key=lambda path: path.stem.rpartition("-")[2])


def make(database: Sqlite | Postgresql, *, directory: Path, name: str, keep: int, dry: bool) -> dict[str, Any]:
    """Make a backup, and remove those that are too old. Raises BackupError."""
    path = unused(directory, name=name, suffix=database.suffix)
    there = backups(directory, database.suffix)
    old = there[: max(0, len(there) + 1 - keep)] if keep else []
    result = {"path": str(path), "removed": [str(each) for each in old]}
    if dry:
        return result
    if not database.exists():
        raise BackupError("there is no database yet: has the server ever run?")
    with as_backup_errors(), beside(directory, make=True) as (above, last):
        above.make(last, mode=0o700)
    with partial(path) as fresh:
        database.dump(fresh)
        database.prove(fresh)
        with reach(directory) as kept, kept.open(fresh.name) as descriptor:
            os.fsync(descriptor)
            fresh.replace(path)
            kept.sync()
    for each in old:
        each.unlink()
    return result


def check(directory: Path) -> None:
    """Refuse a directory of backups in which another account can put something else. Raises BackupError."""
    existing = next(step for step in (directory, *directory.parents) if step.exists())
    with as_backup_errors(), reach(followed(existing)) as found:
        if not found.is_safe:
            raise BackupError(
                f"prefect_server_backup_dir: another account can write {found.path}, or a directory above it, and "
                "replace the backups there; name a directory that only root can write, below /var/backups for one"
            )


def move(former: Path, directory: Path, *, suffix: str, dry: bool) -> list[str]:
    """Move the backups that root made where earlier versions kept them, and return their names. Raises BackupError."""
    found: list[str] = []
    with as_backup_errors(), contextlib.suppress(FileNotFoundError), reach(former) as old:
        # Where the directory is not root's, the account has put it in the place of the one that was.
        if old.own_state().st_uid != os.geteuid():
            return []
        for name in old.names():
            state = old.state(name)
            is_ours = state is not None and stat.S_ISREG(state.st_mode) and state.st_nlink == 1
            if is_ours and state is not None and state.st_uid == os.geteuid() and name.endswith(suffix):
                found.append(name)
        if found and not dry:
            with beside(directory, make=True) as (above, last):
                above.make(last, mode=0o700)
            for name in found:
                with reach(directory) as kept, old.open(name) as reading:
                    with kept.create(name, owner=os.geteuid(), group=os.getegid(), mode=0o600) as writing:
                        while part := os.read(reading, 2**20):
                            os.write(writing, part)
                    os.unlink(name, dir_fd=old.descriptor)
    if found and not dry:
        # What is not a backup keeps it.
        with contextlib.suppress(OSError), beside(former) as (above, last):
            os.rmdir(last, dir_fd=above.descriptor)
    return found


def unused(directory: Path, *, name: str, suffix: str) -> Path:
    """Return the path of a new backup. Two within a second would have the same."""
    while True:
        path = directory / f"{name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}{suffix}"
        if not path.exists():
            return path
        time.sleep(0.2)


@contextlib.contextmanager
def partial(path: Path) -> Iterator[Path]:
    """Give the name of a file, for its owner alone, that is not there afterwards unless it got another name."""
    fresh = path.with_name(f".{path.name}")
    fresh.touch(mode=0o600)
    try:
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def chosen(database: Sqlite | Postgresql, *, directory: Path, name: str) -> Path:
    """Return the backup to restore, which has been seen to be good. Raises BackupError."""
    there = backups(directory, database.suffix)
    path = there[-1] if name == "latest" and there else directory / name
    if not path.is_file():
        known = ", ".join(each.name for each in there) or "none"
        raise BackupError(f"{path} is not there; the backups in {directory}: {known}")
    database.prove(path)
    return path


def main() -> None:
    text, file = {"type": "str"}, {"type": "path"}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "restored", "emptied"], "default": "present"},
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "restore": text,
            "former": file,
            "keep": {"type": "int", "default": 0},
            "sqlite": file,
            "owner": text,
            "host": text,
            "port": {"type": "int", "default": 5432},
            "database": {"type": "str", "default": "prefect"},
            "user": {"type": "str", "default": "prefect"},
            "password": {"type": "str", "no_log": True},
            "sslmode": {"type": "str", "default": "prefer"},
            "ca": file,
            "cert": file,
            "key": {"type": "path", "no_log": False},
            "superuser": text,
        },
        required_if=[("state", "restored", ["restore"])],
        supports_check_mode=True,
    )
    given = module.params
    database = Sqlite(Path(given["sqlite"]), given["owner"]) if given["sqlite"] else Postgresql(given)
    directory, dry = Path(given["directory"]), module.check_mode
    result: dict[str, Any] = {"changed": True, "path": None, "removed": []}
    try:
        check(directory)
        if given["former"]:
            try:
                result["moved"] = move(Path(given["former"]), directory, suffix=database.suffix, dry=dry)
            except BackupError as error:
                module.warn(f"Backups of an earlier version are not looked for: {error}")
        path = chosen(database, directory=directory, name=given["restore"]) if given["state"] == "restored" else None
        if given["state"] == "present" or database.exists():
            # Nothing is removed that may be wanted yet.
            keep = given["keep"] if given["state"] == "present" else 0
            result |= make(database, directory=directory, name=given["name"], keep=keep, dry=dry)
        if path:
            result["restored"] = str(path)
        if path and not dry:
            database.restore(path)
        elif given["state"] == "emptied" and not dry:
            database.empty()
    except BackupError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
