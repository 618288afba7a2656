"""The SQLite database of a server, in a directory that the server's account can write.

SQLite opens files in that directory by path, so it runs as that account. Files that root holds elsewhere, such as a
backup, are opened before the privileges are dropped.
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
"""Suffixes of the files that SQLite keeps beside a database."""

ROLLBACK_JOURNAL = b"\1\1"
"""Bytes 18 and 19 of a database that is a single file; the value 2 requires a write-ahead log beside it."""

PATIENCE = 60
"""Seconds to wait for other processes that lock the database."""

LONGEST = 4 * 3600.0
"""Maximum seconds for a copy. An account that interferes at the last moment cannot block root for longer."""


def exists(file: Path) -> bool:
    """Return whether the database exists. Raises UnsafePathError if its name is not a regular file."""
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
    """Return the user and group of a database, or those of its directory if it does not exist.

    Raises UnsafePathError if the database or a log is not a regular file: SQLite would block on a pipe. Raises OSError.
    """
    is_present = exists(file)
    with beside(followed(file)) as (directory, name):
        for suffix in LOGS:
            if directory.state(f"{name}{suffix}") is not None:
                with directory.open(f"{name}{suffix}"):
                    pass
        above = directory.own_state()
        found = (directory.state(name) or above) if is_present else above
        # Even a database of root's in an account's directory is opened as that account.
        owner = found if found.st_uid else above
        return owner.st_uid, owner.st_gid


def address(file: Path, mode: str) -> str:
    """Return the URI with which SQLite opens a file."""
    return f"{file.absolute().as_uri()}?{mode}"


def copy(
    file: Path,
    target: Path,
    *,
    question: Callable[[sqlite3.Connection], T] | None = None,
    timeout: float = LONGEST,
) -> T | None:
    """Copy a consistent state of a database, even during writes, into a new file of root's.

    Return the result of `question`, in JSON's types, which is run on the database in the state that is copied. Raises
    AccountError and OSError.
    """

    def first() -> sqlite3.Connection:
        into = sqlite3.connect(target)
        # The account cannot create a journal beside it.
        into.execute("PRAGMA journal_mode = OFF")
        return into

    def work(into: sqlite3.Connection) -> T | None:
        with (
            contextlib.closing(into),
            contextlib.closing(sqlite3.connect(address(file, "mode=ro"), uri=True, timeout=PATIENCE)) as source,
        ):
            source.execute("BEGIN")
            # From here on, this transaction sees one state, which the copy has, too. It waits for PATIENCE at most; the
            # copy itself would wait on.
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            answer = question(source) if question else None
            source.backup(into)
            return answer

    uid, gid = account(file)
    answer: T | None = as_account(uid, gid, work, first=first, timeout=timeout)
    with beside(target) as (directory, name):
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
        try:
            os.pwrite(descriptor, ROLLBACK_JOURNAL, 18)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return answer


def ask(backup: Path, question: Callable[[sqlite3.Connection], T], *, like: Path, timeout: float = LONGEST) -> T:
    """Run `question` on a copy, as the account of the database `like`; return its result, in JSON's types.

    Root must not parse what that account wrote. Raises AccountError and OSError.
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
    """Write the log of a database into it, and remove the log, which the next database would mistake for its own.

    The log of a damaged database is lost. Raises AccountError if the database is in use, and OSError.
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
    """Replace a database by a copy in one step; if there is none yet, `owner` gets the new one.

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
        # The last moment before the copy replaces the database.
        settle(file)


def remove(file: Path) -> None:
    """Remove a database, and its log, which the next one would mistake for its own. Raises AccountError and OSError."""
    settle(file)
    with beside(followed(file)) as (directory, name):
        directory.remove(name)
        directory.sync()


def move(file: Path, aside: Path) -> None:
    """Rename a database and the files that SQLite keeps beside it. Raises OSError."""
    uid, gid = account(file)
    with beside(aside.parent, make=True) as (above, last):
        if above.state(last) is None:
            above.make(last, owner=uid, group=gid, mode=0o750)
    with beside(followed(file)) as (old, name), beside(aside) as (new, other):
        for suffix in (*LOGS, ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{name}{suffix}", f"{other}{suffix}", src_dir_fd=old.descriptor, dst_dir_fd=new.descriptor)
