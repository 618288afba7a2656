"""Files that the controller keeps: each is whole or does not exist, also after a kill or a power cut."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

UNFINISHED = ".new"
"""What the name of a file ends in that is not whole yet."""


def sync(directory: Path) -> None:
    """Have the names that are in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Some network file systems have no such thing.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, *, mode: int = 0o600, replace: bool = True) -> bool:
    """Write a file, in the place of one that exists only with `replace`; return whether it was written.

    Several writers at once do not disturb each other: the last one wins, without `replace` the first. Raises OSError.
    """
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{prefix}*{UNFINISHED}"):
        with contextlib.suppress(FileNotFoundError):
            # A killed run left it. What another one is writing is younger.
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
