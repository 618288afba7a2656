#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Divide the data of an instance between the server's account and the flows' account."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_accounts
short_description: Divide the data of an instance between its accounts
description:
  - Changes the owner of everything below the data directory to the account that uses it, the server's or the flows'.
    Earlier versions used one account for both.
  - Files of other accounts do not change. The module follows no links, and skips a file with another hard link
    elsewhere, with a warning.
  - With two accounts, the directory itself belongs to root. The server's account creates its files there, and neither
    account can replace a directory of the other.
  - Files of flows in the directory itself move to O(worker_home), because flows can no longer create files beside
    them, and a link to them stays. Hidden files, such as C(.ssh), move without a link, because programs look for them
    in the account's home directory.
  - The owner of the directory, or of O(worker_home), changes last, so that the next run completes one that was
    killed. Stop all services that run flows first.
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.ledger
options:
  home:
    description: The data directory.
    type: path
    required: true
  user:
    description: Account of the server.
    type: str
    required: true
  worker_user:
    description: Account of the flows, which may be the server's.
    type: str
    required: true
  worker_home:
    description: Home directory of the flows' account below O(home), if it is not the server's account.
    type: path
    required: true
  server_files:
    description: Files below O(home) that the server needs in addition to Prefect's own.
    type: list
    elements: path
    default: []
  flows_dirs:
    description: Directories of flows outside O(home). Files of the server's account there change to the flows' account.
    type: list
    elements: path
    default: []
  operators:
    description: Group of the operators.
    type: str
    required: true
  members:
    description:
      - Accounts to move from the server's group to O(operators). In earlier versions, operators were members of the
        group of the only account.
      - They move only if O(ledger) lists the server's group as created by this collection, and it records them.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Always reports a change.
    support: full
  diff_mode:
    description: Owners have no diff.
    support: none
"""

EXAMPLES = r"""
- name: Divide the data between the accounts
  selfhosted.prefect.host_accounts:
    home: /var/lib/prefect
    user: prefect
    worker_user: prefect-worker
    worker_home: /var/lib/prefect/worker
    operators: prefect-operators
"""

RETURN = r"""
moved:
  description: Names that moved to O(worker_home).
  returned: success
  type: list
  elements: str
left:
  description: Files that kept their owner because they have another hard link elsewhere.
  returned: success
  type: list
  elements: str
"""

import contextlib
import grp
import os
import pwd
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import LEDGER, Ledger, LedgerError
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import opened as opened_ledger
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import (
    Directory,
    beside,
    followed,
    is_lost,
    listed,
)

SERVER_FILES = {
    ".pgpass",
    ".postgresql",
    "backups",
    "blocks_registered",
    "memo_store.toml",
    "prefect-ui",
    "profiles.toml",
    "server.pid",
    "tmp",
    "ui",
}
"""Files in PREFECT_HOME of a server and its PostgreSQL driver, except the database."""

SHARED_MODE = 0o1771
"""Mode of the directory where the server's account creates files, and which the flows' account traverses."""

DEPTH = 200
"""Maximum depth of nested directories: each level takes a file descriptor."""

ANYONE = 0o007


class FileError(Exception):
    """The owner of a file cannot be changed; the message names the file."""


@dataclass(frozen=True)
class Account:
    """User and group id of an account."""

    uid: int
    gid: int

    @classmethod
    def of(cls, name: str) -> Account:
        found = pwd.getpwnam(name)
        return cls(found.pw_uid, found.pw_gid)


@dataclass
class Division:
    """Which files change their owner, and which were skipped."""

    covers: Callable[[int], bool]
    """Whether files of this user ID change their owner."""
    links: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of hard links to each file found below the directories, by device and inode."""
    left: list[str] = field(default_factory=list)

    def count(self, parent: int, name: str, *, depth: int = 0) -> None:
        """Count the hard links of each file below a name."""
        found = look(parent, name)
        if not stat.S_ISDIR(found.st_mode):
            self.links[found.st_dev, found.st_ino] += 1
        elif depth < DEPTH:
            with directory(parent, name) as inside:
                for child in listed(inside):
                    self.count(inside, child, depth=depth + 1)

    def give(self, parent: int, name: str, to: Account, *, path: str, depth: int = 0) -> None:
        """Change the owner of a name and everything below it. A directory changes before its content."""
        found = look(parent, name)
        is_directory = stat.S_ISDIR(found.st_mode)
        linked = not is_directory and found.st_nlink > 1 and self.links[found.st_dev, found.st_ino] != found.st_nlink
        if self.covers(found.st_uid) and (found.st_uid, found.st_gid) != (to.uid, to.gid):
            if (linked and found.st_uid != to.uid) or depth > DEPTH:
                self.left.append(path)
                return
            Directory(parent, Path(path).parent, is_safe=False).give(name, found, owner=to.uid, group=to.gid)
        if is_directory and depth < DEPTH:
            with directory(parent, name) as inside:
                for child in listed(inside):
                    self.give(inside, child, to, path=f"{path}/{child}", depth=depth + 1)


@contextlib.contextmanager
def directory(parent: int, name: str) -> Iterator[int]:
    """Open a directory without following a link."""
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a directory by its path, following only root's links; create it if it does not exist."""
    with beside(followed(path), make=True) as (parent, name):
        if parent.state(name) is None:
            os.mkdir(name, 0o700, dir_fd=parent.descriptor)
        with directory(parent.descriptor, name) as descriptor:
            yield descriptor


def look(parent: int, name: str) -> os.stat_result:
    """Return the status of a name in a directory, without following a link."""
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def exists(parent: int, name: str) -> bool:
    """Return whether a directory has an entry of this name."""
    with contextlib.suppress(FileNotFoundError):
        return bool(look(parent, name))
    return False


def close_to_others(parent: int, name: str, *, covers: Callable[[int], bool]) -> None:
    """Remove every permission of other accounts from a file or directory; a hard link to another owner's file stays."""
    found = look(parent, name)
    closes = stat.S_ISREG(found.st_mode) and (found.st_nlink == 1 or covers(found.st_uid))
    if found.st_mode & ANYONE and (closes or stat.S_ISDIR(found.st_mode)):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        try:
            # The name may refer to another file by now.
            if os.path.samestat(os.fstat(descriptor), found):
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~ANYONE)
        finally:
            os.close(descriptor)


def move(name: str, source: int, target: int) -> bool:
    """Move a name to another directory, unless it exists there; return whether it moved."""
    if exists(target, name):
        return False
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    return True


def move_and_link(name: str, source: int, target: int, *, link: str) -> bool:
    """Move a file to another directory and leave a link, so that the old path always works; return whether it moved."""
    if not exists(target, name):
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    if not os.path.samestat(look(source, name), look(target, name)):
        return False
    fresh = f".{name}.moved"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=source)
    os.symlink(link, fresh, dir_fd=source)
    os.rename(fresh, name, src_dir_fd=source, dst_dir_fd=source)
    return True


def move_in(names: list[str], source: int, target: int, *, link: str, of: Account) -> list[str]:
    """Move the files and all hidden names of an account to another directory, called `link`; return what moved."""
    moved = []
    for name in names:
        found = look(source, name)
        if found.st_uid != of.uid:
            continue
        if name.startswith("."):
            moved += [name] * move(name, source, target)
        elif stat.S_ISREG(found.st_mode):
            moved += [name] * move_and_link(name, source, target, link=f"{link}/{name}")
    return moved


def is_servers(name: str, *, besides: set[str]) -> bool:
    """Return whether a name in the data directory is the server's."""
    return name.startswith(("prefect.db", ".prefect.db")) or name in SERVER_FILES | besides


def divide(home: Path, worker_home: Path, *, server: Account, worker: Account, besides: set[str]) -> dict[str, Any]:
    """Divide a directory between two accounts, or give all of it to one; return what moved and what was skipped.

    `besides` are further names of the server. Raises FileError if one of its files has another hard link elsewhere.
    """
    shared, below = server != worker, worker_home.name
    moved: list[str] = []
    with opened(home) as top:
        former = {look(top, below).st_uid} - {0} if exists(top, below) else set()
        known = {server.uid, worker.uid} | former
        # After state absent, the directory is root's, and its content belongs to numbers that no account has.
        was_left = os.fstat(top).st_uid == 0 or is_lost(os.fstat(top).st_uid)
        division = Division(covers=lambda uid: uid in known or (was_left and is_lost(uid)))
        if shared and os.fstat(top).st_uid != 0:
            os.fchown(top, 0, server.gid)
            os.fchmod(top, SHARED_MODE & ~ANYONE)
        if shared and not exists(top, below):
            os.mkdir(below, 0o700, dir_fd=top)
        names = [name for name in listed(top) if name != below]
        servers = {name for name in names if is_servers(name, besides=besides)}
        for name in listed(top):
            if not shared or name not in servers:
                division.count(top, name)
        for name in names:
            division.give(top, name, server if name in servers else worker, path=f"{home}/{name}")
            if shared and (name in servers or division.covers(look(top, name).st_uid)):
                close_to_others(top, name, covers=division.covers)
        if shared and (blocked := [path for path in division.left if Path(path).relative_to(home).parts[0] in servers]):
            raise FileError(
                f"{blocked[0]} has a further hard link elsewhere; remove that, or replace the file by a copy"
            )
        if exists(top, below):
            with directory(top, below) as inside:
                if shared:
                    moved = move_in([name for name in names if name not in servers], top, inside, link=below, of=worker)
                for name in listed(inside):
                    division.give(inside, name, worker, path=f"{worker_home}/{name}")
                if not shared:
                    moved = [name for name in listed(inside) if name.startswith(".") and move(name, inside, top)]
                # Changed last: its owner shows a later run whose the rest was.
                os.fchown(inside, worker.uid, worker.gid)
        os.fchown(top, 0 if shared else server.uid, server.gid)
        os.fchmod(top, SHARED_MODE if shared else 0o750)
    return {"moved": moved, "left": division.left}


def give_outside(path: Path, *, server: Account, worker: Account) -> list[str]:
    """Give the files of the server's account in a directory of flows to the flows; return what was skipped."""
    division = Division(covers=lambda uid: uid == server.uid)
    if path.is_dir():
        with opened(path) as top:
            division.count(top, ".")
            division.give(top, ".", worker, path=str(path))
    return division.left


def movable(ledger: Ledger | None, group: str, members: list[str]) -> list[str]:
    """Return the members of a group to make operators, and record them; none if the group is another owner's.

    Operators can read the password of the API, and the members of another owner's group need that group.
    """
    entry = ledger.get("group", group) if ledger is not None else None
    if ledger is None or entry is None or entry["origin"] != "created" or not members:
        return []
    entry["moved"] = sorted({*entry.get("moved", []), *members})
    ledger.write()
    return sorted(members)


def main() -> None:
    text = {"type": "str", "required": True}
    paths = {"type": "list", "elements": "path", "default": []}
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "user": text,
            "worker_user": text,
            "worker_home": {"type": "path", "required": True},
            "server_files": paths,
            "flows_dirs": paths,
            "operators": text,
            "members": {"type": "list", "elements": "str", "default": []},
            "ledger": LEDGER,
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=True, moved=[], left=[])
    os.umask(0o022)
    home = Path(params["home"])
    try:
        server, worker = Account.of(params["user"]), Account.of(params["worker_user"])
        group = grp.getgrgid(server.gid).gr_name
        others = [name for name in params["members"] if name not in (params["user"], params["worker_user"])]
        with opened_ledger(params["ledger"], dry=False) as ledger:
            moved = movable(ledger, group, others)
        for member in moved:
            module.run_command(["gpasswd", "--add", member, params["operators"]], check_rc=True)
            module.run_command(["gpasswd", "--delete", member, group], check_rc=True)
        inside = [path for path in map(Path, params["server_files"]) if path.is_relative_to(home) and path != home]
        besides = {path.relative_to(home).parts[0] for path in inside}
        answer = divide(home, Path(params["worker_home"]), server=server, worker=worker, besides=besides)
        for path in map(Path, params["flows_dirs"]):
            if server != worker and not path.is_relative_to(home):
                answer["left"] += give_outside(path, server=server, worker=worker)
    except (OSError, KeyError, FileError, LedgerError) as error:
        module.fail_json(msg=f"prefect_home: {home} cannot be divided between its accounts: {error}")
    for path in answer["left"]:
        module.warn(f"{path} keeps its owner: it has a further hard link elsewhere. Replace it by a copy")
    module.exit_json(changed=True, **answer)


if __name__ == "__main__":
    main()
