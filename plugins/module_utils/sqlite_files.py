"""The SQLite database of a server, in a directory that the server's account can write.

SQLite opens by path what it finds there, so it does so as that account. What root holds elsewhere, such as a backup, is
opened before the privileges are dropped.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .safe_files import (
    as_account,
    beside,
    followed,
)

T = TypeVar("T")

LOGS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""

ROLLBACK_JOURNAL = b"\1\1"
"""Bytes 18 and 19 of a database that is one file alone; with 2 it wants a write-ahead log beside it."""

PATIENCE = 60
"""Seconds to wait for others who hold the database."""

LONGEST = 4 * 3600.0
"""Seconds that a copy may take. What an account puts in the way the moment before cannot stop root for longer."""


def exists(file: Path) -> bool:
    """Return whether there is a database. Raises UnsafePathError where something else has its name."""
    try:
        with beside(followed(file)) as (directory, name):
            found = directory.state(name)
            if found is None:
                return False
            with directory.open(name):
                return True
    except FileNotFoundError:
        return False


def account(file: Path) -> tuple[int, int]:
    """Return the user and group of a database, where there is none yet those of its directory.

    Raises UnsafePathError for what is no file, also in the place of a log: SQLite would wait at a pipe. Raises OSError.
    """
    is_there = exists(file)
    with beside(followed(file)) as (directory, name):
        for suffix in LOGS:
            if directory.state(f"{name}{suffix}") is not None:
                with directory.open(f"{name}{suffix}"):
                    pass
        above = directory.own_state()
        found = (directory.state(name) or above) if is_there else above
        # One of root's, in a directory of an account, is opened as that account all the same.
        owner = found if found.st_uid else above
        return owner.st_uid, owner.st_gid


def address(file: Path, mode: str) -> str:
    """Return the address by which SQLite opens a file."""
    return f"{file.absolute().as_uri()}?{mode}"


def copy(file: Path, target: Path, *, timeout: float = LONGEST) -> None:
    """Copy a database as it is at one moment, also while it is written to, into a new file of root's.

    Raises AccountError and OSError.
    """

    def first() -> sqlite3.Connection:
        into = sqlite3.connect(target)
        # The account can make nothing beside it.
        into.execute("PRAGMA journal_mode = OFF")
        return into

    def work(into: sqlite3.Connection) -> None:
        with (
            contextlib.closing(into),
            contextlib.closing(sqlite3.connect(address(file, "mode=ro"), uri=True, timeout=PATIENCE)) as source,
        ):
            # Waits for PATIENCE at most, where the copy would go on waiting.
            source.execute("PRAGMA schema_version").fetchone()
            source.backup(into)

    uid, gid = account(file)
    as_account(uid, gid, work, first=first, timeout=timeout)
    with beside(target) as (directory, name):
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
        try:
            os.pwrite(descriptor, ROLLBACK_JOURNAL, 18)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def ask(backup: Path, question: Callable[[sqlite3.Connection], T], *, like: Path, timeout: float = LONGEST) -> T:
    """Return what a question to a copy gives, in JSON's types, asked as the account of the database `like`.

    What that account wrote is not root's to parse. Raises AccountError and OSError.
    """

    def first() -> sqlite3.Connection:
        return sqlite3.connect(address(backup, "immutable=1"), uri=True)

    def work(opened: sqlite3.Connection) -> T:
        with contextlib.closing(opened):
            return question(opened)

    uid, gid = account(like)
    answer: T = as_account(uid, gid, work, first=first, timeout=timeout)
    return answer


def settle(file: Path) -> None:
    """Bring what the log of a database holds into it, and remove the log, which the next would take for its own.

    Of a database that is damaged nothing more can be saved. Raises AccountError where it is in use, and OSError.
    """

    def work(_: Any) -> None:
        with contextlib.closing(sqlite3.connect(address(file, "mode=rw"), uri=True, timeout=PATIENCE)) as last:
            try:
                (busy, *_rest) = last.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.DatabaseError as error:
                busy = isinstance(error, sqlite3.OperationalError)
            if busy:
                raise sqlite3.OperationalError(f"{file} is in use; stop the server")

    uid, gid = account(file)
    if exists(file):
        as_account(uid, gid, work, timeout=LONGEST)
    with beside(followed(file)) as (directory, name):
        for suffix in LOGS:
            found = directory.state(f"{name}{suffix}")
            if found is not None and not stat.S_ISDIR(found.st_mode):
                os.unlink(f"{name}{suffix}", dir_fd=directory.descriptor)


def replace(file: Path, backup: Path, *, owner: tuple[int, int] | None = None, mode: int = 0o640) -> None:
    """Put a copy in the place of a database, which is whole until then; `owner` gets it where there is none yet.

    Raises AccountError and OSError.
    """
    uid, gid = account(file)
    if owner and not exists(file):
        uid, gid = owner
    with (
        beside(backup) as (kept, source),
        kept.open(source) as reading,
        beside(followed(file), make=True) as (directory, name),
        directory.create(name, owner=uid, group=gid, mode=mode) as writing,
    ):
        while part := os.read(reading, 2**20):
            os.write(writing, part)
        # The last moment before it takes the place of the other.
        settle(file)


def remove(file: Path) -> None:
    """Leave no database, and no log that the next one would take for its own. Raises AccountError and OSError."""
    settle(file)
    with beside(followed(file)) as (directory, name):
        directory.remove(name)
        directory.sync()


def move(file: Path, aside: Path) -> None:
    """Give a database, with what SQLite keeps beside it, another name. Raises OSError."""
    uid, gid = account(file)
    with beside(aside.parent, make=True) as (above, last):
        if above.state(last) is None:
            above.make(last, owner=uid, group=gid, mode=0o750)
    with beside(followed(file)) as (old, name), beside(aside) as (new, other):
        for suffix in (*LOGS, ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{name}{suffix}", f"{other}{suffix}", src_dir_fd=old.descriptor, dst_dir_fd=new.descriptor)
