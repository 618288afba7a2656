"""Files and directories on this host, each written as a whole or not at all."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import safe_files
from .safe_files import (
    Directory,
    UnsafePathError,
    beside,
    followed,
    is_lost,
    reach,
    state,
    write,
)

__all__ = ["FILES", "SECRETS", "FileError", "ensure_all", "write"]

FILES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "sha256": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "mode": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "kept", "unused", "absent"], "default": "present"},
        "recurse": {"type": "bool", "default": False},
        "recurse_root": {"type": "bool", "default": False},
        "secret": {"type": "bool", "default": False},
    },
    "required_if": [("state", "present", ["mode"]), ("state", "kept", ["mode"])],
    "mutually_exclusive": [("content", "sha256")],
}
"""Module option: the files to create or remove, in this order. A digest stands for content that the host may have."""

SECRETS: dict[str, Any] = {"type": "list", "elements": "str", "no_log": True, "default": []}
"""Module option: the contents of the secret files, in the order of the files.

They are a separate option because Ansible logs the options of every module, and does not recognize, and so does not
hide, a suboption of several lines in that log.
"""


NOT_SHOWN = "(the previous content is not shown, because not every account may read it)\n"


class FileError(Exception):
    """A file or directory cannot be written as requested; the message names it."""


def ids(file: dict[str, Any], *, dry: bool) -> tuple[int, int]:
    """Return the user and group id for a file; -1 and -1 in check mode if one of them does not exist yet.

    Raises KeyError if there is no such user or group.
    """
    try:
        owner = pwd.getpwnam(file["owner"]).pw_uid if file["owner"] else os.geteuid()
        group = grp.getgrnam(file["group"]).gr_gid if file["group"] else os.getegid()
    except KeyError:
        if dry:
            return -1, -1
        raise
    return owner, group


def ensure_directory(file: dict[str, Any], *, dry: bool, warn: Callable[[str], None]) -> bool:
    """Create or correct a directory, see `safe_files`; return whether it changed.

    A link is followed if only root can have created it. Raises UnsafePathError.
    """
    path, mode = followed(file["path"]), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    if owner == -1:
        return True
    try:
        with beside(path, make=not dry) as (directory, name):
            found = directory.state(name)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise directory.refused(name, found, wanted="directory")
            takes_roots = file["recurse_root"] and found is not None and found.st_uid == 0
            changed = directory.make(name, owner=owner, group=group, mode=mode, dry=dry)
            if file["recurse"] and found is not None:
                with directory.enter(name) as top:
                    changed |= give_back(top, owner=owner, group=group, takes_roots=takes_roots, dry=dry, warn=warn)
            return changed
    except FileNotFoundError:
        if not dry:
            raise
        return True


def give_back(
    top: Directory, *, owner: int, group: int, takes_roots: bool, dry: bool, warn: Callable[[str], None]
) -> bool:
    """Give what a former account left below a directory to the current account; return whether anything changed.

    An entry counts as left if no account has its owner's id, or, with `takes_roots`, if root owns it. Everything else
    stays, and so does a file with several hard links, which may belong to another account.
    """
    if os.geteuid() != 0:
        return False
    numbers: dict[int, bool] = {}
    changed, others = False, 0
    for path, directory, found in top.below():
        uid = found.st_uid
        is_left = numbers.setdefault(uid, uid == owner or is_lost(uid) or (takes_roots and uid == 0))
        if not is_left:
            others += 1
        elif (uid, found.st_gid) == (owner, group) or (uid == owner and not is_lost_group(found.st_gid)):
            continue
        elif found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            warn(f"{top.path / path} has {found.st_nlink} names and keeps its owner; give it to the service yourself")
        else:
            changed = True
            if not dry:
                directory.give(Path(path).name, found, owner=owner, group=group)
    if others:
        warn(f"{top.path} holds {others} files and directories of other accounts, which are left as they are")
    return changed


def is_lost_group(gid: int) -> bool:
    """Return whether no group has this id any more."""
    try:
        grp.getgrgid(gid)
    except KeyError:
        return True
    return False


def ensure_file(file: dict[str, Any], content: bytes, *, dry: bool, warn: Callable[[str], None]) -> tuple[bool, str]:
    """Write a file, replacing a link in its place; return whether it changed, and its previous content for the diff.

    A file that not every account may read is not one that this collection wrote without `secret`. Its content may be
    another owner's secret.
    """
    path, mode = Path(file["path"]), int(file["mode"], 8)
    owner, group = ids(file, dry=dry)
    before, shown = b"", ""
    try:
        with beside(path) as (directory, name):
            odd = directory.oddity(name)
            found = directory.state(name)
            if odd is not None:
                warn(odd)
            elif found is not None:
                # A file too large to come from this collection is replaced.
                with contextlib.suppress(UnsafePathError):
                    before = directory.read(name)
                shown = before.decode(errors="replace") if is_public(directory, found) else NOT_SHOWN
                is_as_wanted = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, group, mode)
                if before == content and is_as_wanted:
                    return False, shown
    except FileNotFoundError:
        pass
    if not dry:
        write(path, content, owner=owner, group=group, mode=mode)
    return True, shown


def is_public(directory: Directory, found: os.stat_result) -> bool:
    """Return whether every account may read a file in a directory; without root, the directories are the user's."""
    steps = [directory.path, *directory.path.parents] if os.geteuid() == 0 else []
    return bool(found.st_mode & stat.S_IROTH) and all(step.stat().st_mode & stat.S_IXOTH for step in steps)


def remove(path: Path, *, dry: bool) -> bool:
    """Remove a file, or a directory with its content; return whether it existed."""
    return state(path) is not None if dry else safe_files.remove(path)


def is_empty(path: Path) -> bool:
    """Return whether a path is an empty directory."""
    found = state(path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return False
    with reach(path) as directory:
        return not directory.names()


def ensure(
    file: dict[str, Any], *, secret: str | None, dry: bool, warn: Callable[[str], None]
) -> tuple[bool, dict[str, str]]:
    """Write or remove one file or directory; return whether it changed, and its diff."""
    path, content = file["path"], file["content"] if secret is None else secret
    diff = {"before_header": path, "after_header": path}
    if file["state"] == "absent":
        return remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "unused":
        return is_empty(Path(path)) and remove(Path(path), dry=dry), diff | {"prepared": f"remove {path}\n"}
    if file["state"] == "kept" and state(followed(path)) is None:
        return False, diff
    if content is None:
        return ensure_directory(file, dry=dry, warn=warn), diff | {"prepared": f"directory {path}\n"}
    changed, before = ensure_file(file, content.encode(), dry=dry, warn=warn)
    if secret is not None:
        return changed, diff | {"prepared": f"{path} (secret)\n"}
    return changed, diff | {"before": before, "after": content}


def known(files: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the files with the content that a digest stands for, and the paths of those whose content is another."""
    found, lacking = [], []
    for file in files:
        if file["sha256"] is not None and file["state"] == "present":
            content = b""
            with contextlib.suppress(OSError):
                content = safe_files.read(Path(file["path"]))
            if hashlib.sha256(content).hexdigest() == file["sha256"]:
                file = {**file, "content": content.decode()}
            else:
                lacking.append(file["path"])
        found.append(file)
    return found, lacking


def ensure_all(
    files: list[dict[str, Any]], secrets: list[str], *, dry: bool, warn: Callable[[str], None] = lambda said: None
) -> tuple[list[str], list[dict[str, str]]]:
    """Write or remove all files and directories; return the paths that changed, and their diffs.

    `warn` is called with what was found in place of a file, and with what is left unchanged. Raises FileError.
    """
    os.umask(0o022)
    written, diff = [], []
    hidden = iter(secrets)
    for file in files:
        try:
            changed, shown = ensure(file, secret=next(hidden) if file["secret"] else None, dry=dry, warn=warn)
        except (OSError, KeyError) as error:
            raise FileError(f"{file['path']} cannot be written: {error}") from error
        if changed:
            written.append(file["path"])
            diff.append(shown)
    return written, diff
