#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Mirror a directory of the controller on the host. The action plugin of the same name sends the files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_tree
short_description: Mirror a directory of the controller on the host
description:
  - Sends files that differ in one archive, and removes files that it sent before and that the source no longer has.
  - A file that it has not sent does not change. Where the source has a file of the same name, the other one is kept
    beside it, with the suffix C(.selfhosted-prefect.bak), and restored when the source no longer has such a file.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
options:
  src:
    description: Directory on the controller.
    type: path
    required: true
  dest:
    description: Directory on the host. It is created if it does not exist.
    type: path
    required: true
  state_dir:
    description:
      - Directory in which the host records what was sent to O(dest). Only root can write there. The record of an
        earlier version in O(dest) is moved.
    type: path
    required: true
  owner:
    description: Owner of the files. Defaults to the user who connects.
    type: str
  group:
    description: Group of the files. Defaults to that of the user who connects.
    type: str
  exclude:
    description: Names of files and directories to leave out, as shell patterns.
    type: list
    elements: str
    default: [.git, __pycache__, '*.pyc', .venv, .env]
  links_outside:
    description:
      - Whether links in O(src) may lead out of it, or to something that O(exclude) leaves out. The files that they lead
        to are sent. Set it to false for a repository, whose authors would choose which files of the controller the
        hosts get.
    type: bool
    default: true
  only_if_empty:
    description: Whether to do nothing if O(dest) already contains files.
    type: bool
    default: false
extends_documentation_fragment:
  - selfhosted.prefect.ledger
attributes:
  check_mode:
    description: Reports what would be sent and removed.
    support: full
"""

EXAMPLES = r"""
- name: Send the flows
  selfhosted.prefect.host_tree:
    src: flows
    dest: /var/lib/prefect/flows
    state_dir: /opt/prefect/state
    owner: prefect
    group: prefect
"""

RETURN = r"""
sent:
  description: Files that were sent, relative to O(dest).
  returned: success
  type: list
  elements: str
removed:
  description: Files that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import grp
import hashlib
import json
import os
import pwd
import stat
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import KEPT, LEDGER, Ledger, LedgerError
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import (
    Directory,
    beside,
    followed,
    reach,
)

OLD_MEMORY = ".selfhosted-prefect.json"
"""File in the destination in which earlier versions listed what was sent. The destination's owner can write it."""

LARGEST = 4 * 2**30
"""Bytes of the largest file that is compared; a larger one always counts as different."""


def is_inside(name: Any) -> bool:
    """Return whether a name is a path below the destination."""
    if not isinstance(name, str) or "\0" in name:
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not {"..", "/", "//"} & {*parts}


@dataclass(frozen=True)
class Memory:
    """What was sent to a directory before, and whether that run completed: it may have been killed."""

    files: tuple[str, ...] = ()
    complete: bool = True
    exists: bool = False
    is_old: bool = False
    """Whether it is the record of an earlier version and has yet to be moved."""

    @classmethod
    def of(cls, file: Path, dest: Path) -> Memory:
        for path, is_old in ((file, False), (dest / OLD_MEMORY, True)):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads(safe_files.read(path))
                names = tuple(name for name in found["files"] if is_inside(name))
                return cls(names, bool(found["complete"]), exists=True, is_old=is_old)
        return cls(is_old=safe_files.state(followed(dest)) is not None and has(dest, OLD_MEMORY))

    def write(self, file: Path, dest: Path) -> None:
        content = {"dest": str(dest), "complete": self.complete, "files": sorted(self.files)}
        safe_files.write(file, json.dumps(content).encode(), owner=os.geteuid(), group=os.getegid(), mode=0o640)


def memory_file(state_dir: str, dest: Path) -> Path:
    """Return the file that lists what was sent to a directory."""
    return Path(state_dir, f"tree-{hashlib.sha256(str(dest).encode()).hexdigest()[:16]}.json")


def has(dest: Path, name: str) -> bool:
    """Return whether a name below the destination exists and is not a directory."""
    found = state_of(dest, name)
    return found is not None and not stat.S_ISDIR(found.st_mode)


def state_of(dest: Path, name: str) -> os.stat_result | None:
    """Return the state of a name below the destination; None if it does not exist or cannot be reached."""
    with contextlib.suppress(OSError), opened(dest, name) as (directory, last):
        return directory.state(last)
    return None


@contextlib.contextmanager
def opened(dest: Path, name: str) -> Iterator[tuple[Directory, str]]:
    """Open the directory of a file below the destination, and yield it with the file's own name."""
    with reach(followed(dest)) as directory, directory.within(name) as place:
        yield place


def digest(dest: Path, name: str) -> str:
    """Return the SHA-256 of a file, with an x if it is executable; an empty string if it does not exist."""
    total = hashlib.sha256()
    with contextlib.suppress(OSError), opened(dest, name) as (directory, last), directory.open(last) as descriptor:
        found = os.fstat(descriptor)
        if found.st_size > LARGEST:
            return ""
        while part := os.read(descriptor, 2**20):
            total.update(part)
        return total.hexdigest() + ("x" if found.st_mode & 0o100 else "")
    return ""


def replace(directory: Directory, name: str, content: bytes, *, owner: int, group: int, mode: int) -> None:
    """Write a file atomically. After a power loss its content may differ, and the next run sends it again."""
    directory.write(name, content, owner=owner, group=group, mode=mode, sync=False)


def entries(ledger: Ledger, dest: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """Return what the ledger has to know before files are sent that were not sent before.

    Files of another owner in their place are restored in the end. In another owner's directory, nothing else shows
    which files were sent. After a removal without a purge, what was sent before is still in place.
    """
    data = ledger.get("data", dest)
    is_adopted = data is not None and data["origin"] == "adopted"
    accounts = ledgers.member_ids(data) if data is not None and not is_adopted else set()
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        path = dest / name
        if any(ledger.get("content", step) for step in (path, *path.parents)):
            continue
        state = state_of(dest, name)
        if state is not None and state.st_uid in accounts:
            continue
        if state is not None and not stat.S_ISDIR(state.st_mode):
            found[name] = {"kind": "file", "name": str(path), "origin": "adopted"}
        elif is_adopted:
            steps = [step for step in reversed(path.parents) if dest in step.parents]
            first = next((step for step in steps if safe_files.state(step) is None), path)
            found[str(first)] = {"kind": "content", "name": str(first), "origin": "created"}
    return [*found.values()]


def keep_aside(directory: Directory, name: str, *, is_new: bool) -> None:
    """Move a file of another owner aside, unless that was done before; a move keeps its owner and mode.

    `is_new` says that this run has found the file, so what has the name of the copy is none.
    """
    if directory.state(name) is not None and (is_new or directory.state(name + KEPT) is None):
        os.rename(name, name + KEPT, src_dir_fd=directory.descriptor, dst_dir_fd=directory.descriptor)
        directory.sync()


def forget(ledger: Ledger, dest: Path) -> None:
    """Remove the entries of what was sent to another owner's directory and no longer exists."""
    for entry in [*ledger.entries.values()]:
        path = Path(entry["name"])
        if entry["kind"] == "content" and dest in path.parents and safe_files.state(path) is None:
            ledger.forget("content", path)


def unpack(
    archive: str,
    dest: Path,
    *,
    wanted: dict[str, str],
    aside: Mapping[str, bool],
    owner: int,
    group: int,
    warn: Callable[[str], None],
) -> None:
    """Write the wanted files of an archive, each atomically.

    Those of another owner are kept aside: `aside` says of each whether this run has found it.
    """
    with tarfile.open(archive) as tar, reach(followed(dest)) as top:
        for member in tar.getmembers():
            source = tar.extractfile(member)
            if source is None or member.name not in wanted:
                continue
            mode = 0o750 if wanted[member.name].endswith("x") else 0o640
            *above, name = PurePosixPath(member.name).parts
            with contextlib.ExitStack() as steps:
                here = top
                for step in above:
                    if here.state(step) is None:
                        here.make(step, owner=owner, group=group, mode=0o750)
                    here = steps.enter_context(here.enter(step))
                if member.name in aside:
                    keep_aside(here, name, is_new=aside[member.name])
                if odd := here.oddity(name):
                    warn(odd)
                replace(here, name, source.read(), owner=owner, group=group, mode=mode)


def remove(dest: Path, name: str) -> None:
    """Remove a file and the directories below the destination that are then empty."""
    with opened(dest, name) as (directory, last):
        os.unlink(last, dir_fd=directory.descriptor)
    with contextlib.suppress(OSError):
        for step in list(PurePosixPath(name).parents)[:-1]:
            with opened(dest, str(step)) as (directory, last):
                os.rmdir(last, dir_fd=directory.descriptor)


def names_in(dest: Path) -> list[str]:
    """Return the names in the destination; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), reach(followed(dest)) as directory:
        return directory.names()
    return []


def is_directory(dest: Path) -> bool:
    """Return whether the destination is a directory."""
    found = safe_files.state(followed(dest))
    return found is not None and stat.S_ISDIR(found.st_mode)


def make(dest: Path, *, owner: int, group: int) -> None:
    """Create the destination and set its owner."""
    with beside(followed(dest), make=True) as (above, name):
        above.make(name, owner=owner, group=group, mode=0o750 if above.state(name) is None else None)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "only_if_empty": {"type": "bool", "default": False},
            "wanted": {"type": "dict", "required": True},
            "archive": {"type": "path"},
            "ledger": LEDGER,
        },
        supports_check_mode=True,
    )
    params = module.params
    dest, wanted = Path(params["dest"]), params["wanted"]
    file = memory_file(params["state_dir"], dest)
    try:
        before = Memory.of(file, dest)
        if params["only_if_empty"] and before.complete and is_directory(dest) and (before.exists or names_in(dest)):
            module.exit_json(changed=False, sent=[], removed=[])
        send = sorted(name for name, wanted_digest in wanted.items() if digest(dest, name) != wanted_digest)
        doomed = sorted(name for name in before.files if name not in wanted and has(dest, name))
        changed = bool(send or doomed) or not is_directory(dest) or not before.complete or before.is_old
        if module.check_mode or not changed or (send and not params["archive"]):
            module.exit_json(changed=changed, sent=send, removed=doomed)

        os.umask(0o022)
        owner = pwd.getpwnam(params["owner"]).pw_uid if params["owner"] else -1
        group = grp.getgrnam(params["group"]).gr_gid if params["group"] else -1
        make(dest, owner=owner, group=group)
        with ledgers.opened(params["ledger"], dry=False) as ledger:
            if ledger is not None:
                ledger.record(entries(ledger, dest, wanted.keys() - {*before.files}))
            Memory((*{*before.files, *wanted},), complete=False).write(file, dest)
            if before.is_old:
                with contextlib.suppress(FileNotFoundError), reach(followed(dest)) as directory:
                    directory.remove(OLD_MEMORY)
            # Before anything is written, because a file may have become a directory.
            for name in doomed:
                if ledger is not None and ledger.get("file", dest / name) is not None:
                    ledgers.put_back(ledger, dest / name)
                else:
                    remove(dest, name)
            aside = {
                name: name not in before.files
                for name in send
                if ledger is not None and ledger.get("file", dest / name) is not None
            }
            if params["archive"]:
                unpack(params["archive"], dest, wanted=wanted, aside=aside, owner=owner, group=group, warn=module.warn)
            if ledger is not None:
                forget(ledger, dest)
                ledger.write()
            Memory(tuple(wanted)).write(file, dest)
    except LedgerError as error:
        module.fail_json(msg=str(error))
    except (OSError, KeyError) as error:
        module.fail_json(msg=f"{dest} cannot be written: {error}")
    if kept := [name for name, is_new in aside.items() if is_new]:
        module.warn(
            f"{dest} had files of the same names that were not sent there. They are kept as NAME{KEPT} until Prefect "
            f"is removed: {', '.join(kept[:10])}{' ...' if len(kept) > 10 else ''}"
        )
    module.exit_json(changed=True, sent=send, removed=doomed)


if __name__ == "__main__":
    main()
