"""Files that the controller keeps: each is complete or does not exist, even after a kill or a power failure."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

UNFINISHED = ".new"
"""Suffix of a file that is not complete yet."""


def sync(directory: Path) -> None:
    """Flush the entries of a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems cannot fsync a directory.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = True) -> bool:
    """Write a file atomically; overwrite an existing one only with `replace`. Return whether it was written.

    Concurrent writers are safe: the last one wins, or the first without `replace`. Raises OSError.
    """
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{prefix}*{UNFINISHED}"):
        with contextlib.suppress(FileNotFoundError):
            # Left by a killed run. A file that another process is writing is younger.
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=UNFINISHED)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            fresh.replace(path)
        else:
            try:
                os.link(fresh, path)
            except FileExistsError:
                return False
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)
    return True
