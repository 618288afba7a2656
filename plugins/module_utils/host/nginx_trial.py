"""A copy of the Nginx configuration beside the live one, in which Nginx tests a change before it is applied."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from . import safe_files

MAIN = "nginx.conf"
"""The file that includes all others."""

PREFIX = "selfhosted-prefect-nginx-"
"""Prefix of the names of the copies."""

PID = re.compile(rb"(?m)^(\s*)pid\s[^;]*;")
"""The directive for Nginx's PID file, which a test would create."""


def runtime() -> Path:
    """Return the parent directory of the copies: one in memory if possible, because they contain keys."""
    return Path("/run") if os.geteuid() == 0 and Path("/run").is_dir() else Path(tempfile.gettempdir())


def sweep() -> None:
    """Remove the copies of killed runs. A test takes less than an hour."""
    for left in runtime().glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            found = left.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > 3600:
                safe_files.remove(left)


@contextlib.contextmanager
def trial(live: Path, changes: Mapping[Path, bytes | None]) -> Iterator[Path]:
    """Yield a copy of the configuration in `live`, with new content for some files, or without them (None).

    Only this process's user can enter it. Unchanged files are links to the live ones; absolute paths below `live`, in
    include directives and in changed files, refer to the copy.
    """
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=runtime()) as scratch:
        copy = Path(scratch, "nginx")
        moved = (f"{live}/".encode(), f"{copy}/".encode())
        mirror(live, copy, changes.keys(), moved=moved)
        for path, content in changes.items():
            if content is not None and live in path.parents:
                target = copy / path.relative_to(live)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.replace(*moved))
        main = copy / MAIN
        with contextlib.suppress(OSError):
            text, pid = main.read_bytes(), f"pid {scratch}/nginx.pid;".encode()
            main.unlink()
            # Without such a directive, add it to the first line, so that line numbers stay those of the live file.
            main.write_bytes(PID.sub(lambda found: found[1] + pid, text) if PID.search(text) else pid + b" " + text)
        yield copy


def mirror(live: Path, copy: Path, changed: Collection[Path], *, moved: tuple[bytes, bytes]) -> None:
    """Fill a new directory with links to the files of another, and with copies of files that include by absolute path.

    Files in `changed` are left out.
    """
    copy.mkdir(mode=0o700)
    old, new = moved
    for path in sorted(live.iterdir()):
        target = copy / path.name
        if path.is_dir():
            if path.is_symlink() and not any(path in each.parents for each in changed):
                target.symlink_to(path)
            else:
                mirror(path, target, changed, moved=moved)
            continue
        if path in changed:
            continue
        content = b""
        with contextlib.suppress(OSError):
            content = safe_files.read(path)
        including = re.sub(rb"(\binclude\s+[\"']?)" + re.escape(old), lambda found: found[1] + new, content)
        if including == content:
            target.symlink_to(path)
        else:
            target.write_bytes(including)
