"""Directories and files on this host, each made as a whole or not at all."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Any

FILES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "kept", "unused", "absent"], "default": "present"},
        "recurse": {"type": "bool", "default": False},
        "secret": {"type": "bool", "default": False},
    },
    "required_if": [("state", "present", ["mode"]), ("state", "kept", ["mode"])],
}
"""Module option: the files that are wanted, in the order in which they are made."""

SECRETS: dict[str, Any] = {"type": "list", "elements": "str", "no_log": True, "default": []}
"""Module option: what the secret files hold, in their order.

It does not stand in the files, because Ansible logs every module's options and does not find a suboption of several
lines there again, to hide it.
"""


class FileError(Exception):
    """A file or directory that cannot be made as it is wanted; the message names it."""


def ids(file: dict[str, Any], *, dry: bool) -> tuple[int, int]:
    """Return the user and group id that a file is to have; in check mode -1 for those that are still to be made.

    Raises KeyError where there is no such user or group.
    """
    try:
        owner = pwd.getpwnam(file["owner"]).pw_uid if file["owner"] else os.geteuid()
        group = grp.getgrnam(file["group"]).gr_gid if file["group"] else os.getegid()
    except KeyError:
        if dry:
            return -1, -1
        raise
    return owner, group


def belongs(path: Path, *, owner: int, group: int) -> bool:
    """Return whether a path, or the link that it is, has the wanted owner and group."""
    found = path.lstat()
    return (found.st_uid, found.st_gid) == (owner, group)


def allows(path: Path, mode: int) -> bool:
    """Return whether a path, or the link that it is, has exactly the wanted permissions."""
    return stat.S_IMODE(path.lstat().st_mode) == mode


def write(path: Path, content: bytes, *, owner: int, group: int, mode: int) -> None:
    """Replace a file; nobody ever sees half of it, or sees it with the wrong permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.ansible-new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
    os.chown(fresh, owner, group)
    fresh.chmod(mode)
    fresh.replace(path)


def ensure_directory(file: dict[str, Any], *, dry: bool) -> bool:
    """Make a directory as it is wanted, where it is a link the directory behind it; return whether it changed."""
    path, mode = Path(file["path"]).resolve(), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is there and is no directory")
    below = list(path.rglob("*")) if file["recurse"] else []
    strangers = [step for step in below if not belongs(step, owner=owner, group=group)]
    if path.is_dir() and belongs(path, owner=owner, group=group) and allows(path, mode) and not strangers:
        return False
    if not dry:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, owner, group)
        path.chmod(mode)
        for step in strangers:
            os.chown(step, owner, group, follow_symlinks=False)
    return True


def ensure_file(file: dict[str, Any], content: bytes, *, dry: bool) -> tuple[bool, bytes]:
    """Make a file, in place of a link if there is one; return whether it changed, and what it held before."""
    path, mode = Path(file["path"]), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    before = b""
    with contextlib.suppress(FileNotFoundError):
        before = path.read_bytes()
        if before == content and belongs(path, owner=owner, group=group) and allows(path, mode):
            return False, before
    if not dry:
        write(path, content, owner=owner, group=group, mode=mode)
    return True, before


def remove(path: Path, *, dry: bool) -> bool:
    """Remove a file, or a directory with what is in it; return whether it was there."""
    if not os.path.lexists(path):
        return False
    if not dry and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not dry:
        path.unlink()
    return True


def ensure(file: dict[str, Any], *, secret: str | None, dry: bool) -> tuple[bool, dict[str, str]]:
    """Make one file or directory as it is wanted, or remove it; return whether it changed, and its diff."""
    path, content = file["path"], file["content"] if secret is None else secret
    diff = {"before_header": path, "after_header": path}
    if file["state"] == "absent":
        return remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "unused":
        empty = Path(path).is_dir() and not any(Path(path).iterdir())
        return empty and remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "kept" and not Path(path).exists():
        return False, diff
    if content is None:
        return ensure_directory(file, dry=dry), diff | {"prepared": f"directory {path}\n"}
    changed, before = ensure_file(file, content.encode(), dry=dry)
    if secret is not None:
        return changed, diff | {"prepared": f"{path} (secret)\n"}
    return changed, diff | {"before": before.decode(errors="replace"), "after": content}


def ensure_all(files: list[dict[str, Any]], secrets: list[str], *, dry: bool) -> tuple[list[str], list[dict[str, str]]]:
    """Make all files and directories as they are wanted; return the paths that changed, and their diffs.

    Raises FileError.
    """
    os.umask(0o022)
    written, diff = [], []
    hidden = iter(secrets)
    for file in files:
        try:
            changed, shown = ensure(file, secret=next(hidden) if file["secret"] else None, dry=dry)
        except (OSError, KeyError) as error:
            raise FileError(f"{file['path']} cannot be written: {error}") from error
        if changed:
            written.append(file["path"])
            diff.append(shown)
    return written, diff
