#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Divide the data of an instance between the account of its server and the account of its flows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: accounts
short_description: Divide the data of an instance between its accounts
description:
  - Gives everything below the directory of the data to the account that it is for, the server's or that of the flows.
    An installation of an earlier version had one account for both.
  - What another account of the host owns stays as it is. No link is followed, and a file that has a further hard link
    elsewhere is left alone, with a warning.
  - With two accounts the directory itself belongs to root. The server's account creates its files there, and neither
    account can replace a directory of the other.
  - Files of flows that lie in the directory itself move to O(worker_home), because flows can create nothing beside
    them any more. A link to them stays. Hidden ones, such as C(.ssh), move without a link, with the home directory
    that they are looked for in.
  - The directory, or O(worker_home), gets its owner last, so that a run that was killed is finished by the next one.
    None of the services that run flows may be running.
version_added: 0.1.0
author: The selfhosted.prefect maintainers
options:
  home:
    description: Directory of the data.
    type: path
    required: true
  user:
    description: Account of the server.
    type: str
    required: true
  worker_user:
    description: Account of the flows, which may be that of the server.
    type: str
    required: true
  worker_home:
    description: Home directory, below O(home), of the account of the flows, where that is another than the server's.
    type: path
    required: true
  server_files:
    description: Files below O(home) that the server needs, besides those that Prefect has.
    type: list
    elements: path
    default: []
  flows_dirs:
    description: Directories of flows outside of O(home), where the flows get what the server's account owns.
    type: list
    elements: path
    default: []
  operators:
    description: Group of the operators.
    type: str
    required: true
  members:
    description:
      - Accounts to move from the server's group to O(operators). Operators were once members of the group of the only
        account.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says that something would change.
    support: full
  diff_mode:
    description: Owners have no diff.
    support: none
"""

EXAMPLES = r"""
- name: Divide the data between the accounts
  selfhosted.prefect.accounts:
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
  description: Files that kept their owner, because they have a further hard link elsewhere.
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
from ansible_collections.selfhosted.prefect.plugins.module_utils.safe_files import beside, followed, is_lost, listed

SERVER_FILES = {
    ".pgpass",
    ".postgresql",
    "backups",
    "blocks_registered",
    "memo_store.toml",
    "profiles.toml",
    "server.pid",
    "tmp",
    "ui",
}
"""What a server keeps in its PREFECT_HOME, and what its driver of PostgreSQL looks for there; besides the database."""

SHARED_MODE = 0o1771
"""Of the directory that the server's account creates files in, and that the flows' account passes through."""

DEPTH = 200
"""Directories below each other that are gone through: each takes a file descriptor."""

ANYONE = 0o007


class FileError(Exception):
    """A file that cannot be given to its account; the message names it."""


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
    """What belongs to whom below the directories, and what was left alone."""

    ours: Callable[[int], bool]
    """Whether what has this owner is to get another one."""
    links: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many hard links each file has that was counted, by device and inode."""
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
        """Give a name and what is below it to an account. A directory comes before what it holds."""
        found = look(parent, name)
        is_directory = stat.S_ISDIR(found.st_mode)
        linked = not is_directory and found.st_nlink > 1 and self.links[found.st_dev, found.st_ino] != found.st_nlink
        if self.ours(found.st_uid) and (found.st_uid, found.st_gid) != (to.uid, to.gid):
            if (linked and found.st_uid != to.uid) or depth > DEPTH:
                self.left.append(path)
                return
            os.chown(name, to.uid, to.gid, dir_fd=parent, follow_symlinks=False)
        if is_directory and depth < DEPTH:
            with directory(parent, name) as inside:
                for child in listed(inside):
                    self.give(inside, child, to, path=f"{path}/{child}", depth=depth + 1)


@contextlib.contextmanager
def directory(parent: int, name: str) -> Iterator[int]:
    """Open a directory, not where a link leads."""
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a directory by its path, which only links of root's lead on; one that is missing is made."""
    with beside(followed(path), make=True) as (parent, name):
        if parent.state(name) is None:
            os.mkdir(name, 0o700, dir_fd=parent.descriptor)
        with directory(parent.descriptor, name) as descriptor:
            yield descriptor


def look(parent: int, name: str) -> os.stat_result:
    """Return what a name in a directory is, itself where it is a link."""
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def exists(parent: int, name: str) -> bool:
    """Return whether a directory has an entry of this name."""
    with contextlib.suppress(FileNotFoundError):
        return bool(look(parent, name))
    return False


def close_to_others(parent: int, name: str) -> None:
    """Take every permission of other accounts from a file or directory."""
    found = look(parent, name)
    if found.st_mode & ANYONE and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        try:
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
    """Move a file to another directory and leave a link, which leads to it at every moment; return whether it moved."""
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
    """Move the files of an account, and all that is hidden, to another directory, called `link`; return what moved."""
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
    """Return whether a name in the directory of the data is the server's."""
    return name.startswith(("prefect.db", ".prefect.db")) or name in SERVER_FILES | besides


def divide(home: Path, worker_home: Path, *, server: Account, worker: Account, besides: set[str]) -> dict[str, Any]:
    """Divide a directory between two accounts, or give all of it to one; return what moved and what was left.

    `besides` are further names of the server's. Raises FileError for one of its files that has a further hard link.
    """
    shared, below = server != worker, worker_home.name
    moved: list[str] = []
    with opened(home) as top:
        former = {look(top, below).st_uid} - {0} if exists(top, below) else set()
        known = {server.uid, worker.uid} | former
        # What absent leaves is root's, and what is in it belongs to numbers that no account has any more.
        was_left = os.fstat(top).st_uid == 0 or is_lost(os.fstat(top).st_uid)
        division = Division(ours=lambda uid: uid in known or (was_left and is_lost(uid)))
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
            if shared and (name in servers or division.ours(look(top, name).st_uid)):
                close_to_others(top, name)
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
                # Its owner says whose the rest was.
                os.fchown(inside, worker.uid, worker.gid)
        os.fchown(top, 0 if shared else server.uid, server.gid)
        os.fchmod(top, SHARED_MODE if shared else 0o750)
    return {"moved": moved, "left": division.left}


def give_outside(path: Path, *, server: Account, worker: Account) -> list[str]:
    """Give what the server's account owns in a directory of flows to the flows; return what was left."""
    division = Division(ours=lambda uid: uid == server.uid)
    if path.is_dir():
        with opened(path) as top:
            division.count(top, ".")
            division.give(top, ".", worker, path=str(path))
    return division.left


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
        for member in set(params["members"]) - {params["user"], params["worker_user"]}:
            module.run_command(["gpasswd", "--add", member, params["operators"]], check_rc=True)
            module.run_command(["gpasswd", "--delete", member, group], check_rc=True)
        inside = [path for path in map(Path, params["server_files"]) if path.is_relative_to(home) and path != home]
        besides = {path.relative_to(home).parts[0] for path in inside}
        answer = divide(home, Path(params["worker_home"]), server=server, worker=worker, besides=besides)
        for path in map(Path, params["flows_dirs"]):
            if server != worker and not path.is_relative_to(home):
                answer["left"] += give_outside(path, server=server, worker=worker)
    except (OSError, KeyError, FileError) as error:
        module.fail_json(msg=f"prefect_home: {home} cannot be divided between its accounts: {error}")
    for path in answer["left"]:
        module.warn(f"{path} keeps its owner: it has a further hard link elsewhere. Replace it by a copy")
    module.exit_json(changed=True, **answer)


if __name__ == "__main__":
    main()
