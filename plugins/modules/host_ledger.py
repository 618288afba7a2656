#!/usr/bin/python
# Copyright: The selfhosted.prefect maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Record what an instance is about to create on a host, and remove only what it created."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_ledger
short_description: Record what an instance creates on a host, and remove exactly that
description:
  - With V(present), writes entries to the instance's ledger before anything is created. If something of that name
    exists and is not in the ledger, it fails without a change. O(ledger.adopt) lists what may be taken over.
  - With V(absent), removes what the ledger lists for one part of the instance. A directory is removed if it is empty;
    otherwise RV(left) and a warning list what keeps it. What existed before gets its previous owner and mode.
  - A host that was installed by a version without a ledger is recognized by its releases and by the record of
    M(selfhosted.prefect.host_packages).
version_added: 1.0.0
author: The selfhosted.prefect maintainers (@selfhosted)
extends_documentation_fragment: selfhosted.prefect.ledger
options:
  ledger:
    required: true
  entries:
    description: What is about to be created.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description:
          - V(tree) is a directory to which only this collection writes, V(data) one to which O(entries[].owners) write.
        type: str
        choices: [file, directory, tree, data, user, group]
        required: true
      name:
        description: Absolute path or name of the account.
        type: str
        required: true
      variable:
        description: Variable that chose the name, for the error message.
        type: str
        default: prefect_instance
      owners:
        description: Accounts whose files in a V(data) directory belong to the instance.
        type: list
        elements: str
        default: []
      content:
        description: Names that will be created in a V(data) directory. They identify it if others own the directory.
        type: list
        elements: str
        default: []
      disposable:
        description: Whether a V(data) directory is removed without a purge.
        type: bool
        default: false
  probes:
    description: Files that later tasks may create, and that must not belong to others. They are not recorded.
    type: list
    elements: path
    default: []
  state:
    description: Whether the entries are recorded, or all entries of the part are removed.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description: Whether V(absent) removes data.
    type: bool
    default: false
  backup_dir:
    description: Directory to which SQLite databases in V(data) directories are copied before a purge; empty for none.
    type: str
    default: ''
attributes:
  check_mode:
    description: Reports what would be recorded or removed.
    support: full
"""

EXAMPLES = r"""
- name: Record what this instance creates
  selfhosted.prefect.host_ledger:
    ledger: {name: prefect}
    entries:
      - {kind: user, name: prefect, variable: prefect_user}
      - {kind: data, name: /var/lib/prefect, variable: prefect_home, owners: [prefect]}

- name: Remove what this instance created
  selfhosted.prefect.host_ledger:
    ledger: {name: prefect}
    state: absent
"""

RETURN = r"""
recognized:
  description: Whether this host was installed by a version without a ledger.
  returned: success
  type: bool
adopted:
  description: What existed and was taken over, as kind and name, except directories that were empty.
  returned: success
  type: list
  elements: str
removed:
  description: What was removed.
  returned: when O(state=absent)
  type: list
  elements: str
copies:
  description: Copies of databases that were made before the databases were removed.
  returned: when O(state=absent)
  type: list
  elements: str
remaining:
  description: A file of each other part of the platform that is still on this host, by the name of the part.
  returned: when O(state=absent)
  type: dict
left:
  description: Files of others that keep a directory of the instance from being removed.
  returned: when O(state=absent)
  type: list
  elements: str
"""

import contextlib
import grp
import itertools
import os
import pwd
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files, sqlite_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.files import FileError, is_empty
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import (
    ADOPTABLE,
    LEDGER,
    Ledger,
    LedgerError,
    adoption,
    comments,
    described,
    exists,
    exists_now,
    expect,
    keeps_owner,
    member_ids,
    opened,
    own,
    primary_users,
    recognizable,
    remove_part,
    shadowed,
)

ACCOUNTS = ("user", "group")

MAGIC = b"SQLite format 3\0"
"""The first bytes of an SQLite database."""

MOST_COPIES = 100
"""Databases that are copied before a purge."""


def made_here(ledger: Ledger, kind: str, name: str) -> bool:
    """Return whether this collection created an account, or the accounts of a group."""
    if ledger.shared(name):
        return True
    if kind == "user":
        return pwd.getpwnam(name).pw_gecos in comments(ledger.path)
    primary = primary_users(name)
    return all(user.pw_gecos in comments(ledger.path) for user in primary) if primary else ledger.recognized


def unused(kind: str, name: str) -> bool:
    """Return whether a group has no account, so that using it grants nothing to other accounts."""
    return kind == "group" and not grp.getgrnam(name).gr_mem and not primary_users(name)


def expect_account(ledger: Ledger, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry of an account that is about to be created. Raises LedgerError for another owner's account."""
    kind, name = entry["kind"], entry["name"]
    if ledger.get(kind, name):
        return None
    fresh = {"kind": kind, "name": name, "origin": "created"}
    if not exists(kind, name) or made_here(ledger, kind, name):
        return fresh
    # An account of an earlier version stays in use and is never removed: it may have belonged to others before.
    if "user" not in ledger.adopt and not ledger.recognized and not unused(kind, name):
        found = f"the group {name} exists"
        if kind == "user":
            account = pwd.getpwnam(name)
            found = f"the user {name} exists (uid {account.pw_uid}, home {account.pw_dir}, shell {account.pw_shell})"
        raise LedgerError(
            f"{entry['variable']}: {found}, and this collection did not create it; name another user, or add user to "
            "prefect_adopt to run Prefect as this one, which stays when Prefect is removed"
        )
    return fresh | {"origin": "adopted"}


def may(account: str, path: Path, *, bits: int) -> bool:
    """Return whether an account has some permissions on a path, as the bits of `others`.

    An account that does not exist has the permissions of `others`.
    """
    found = path.stat()
    groups: set[int] = set()
    uid = -1
    if exists("user", account):
        user = pwd.getpwnam(account)
        uid, groups = user.pw_uid, set(os.getgrouplist(account, user.pw_gid))
    shift = 6 if uid == found.st_uid else 3 if found.st_gid in groups else 0
    return (found.st_mode >> shift) & bits == bits


def unusable(ledger: Ledger, entry: dict[str, Any], *, account: str) -> str:
    """Return why another owner's directory cannot be used without changing it; empty if it can."""
    path = Path(entry["name"])
    if ledger.knows(path) or ledger.recognized or not path.is_dir() or is_empty(path):
        return ""
    if entry["kind"] not in ("data", "directory") or adoption(ledger, entry["kind"], path, "")["origin"] == "created":
        return ""
    verb, bits = ("write", 0o7) if entry["kind"] == "data" else ("enter", 0o1)
    if may(account, path, bits=bits):
        return ""
    return (
        f"{entry['variable']}: {path} is {described(path)}, where the account {account} cannot {verb}; allow it, or "
        "name another directory"
    )


def refuse(ledger: Ledger, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of accounts. Raises LedgerError with all conflicts, before anything changes."""
    found, refused = [], []
    accounts = [entry["name"] for entry in entries if entry["kind"] == "user"]
    trial = Ledger(ledger.path, dry=True, part=ledger.part, adopt=ledger.adopt, recognized=ledger.recognized)
    trial.entries = dict(ledger.entries)
    seen = set()
    for entry in entries:
        # The server and the flows may use the same account.
        if (entry["kind"], entry["name"]) in seen:
            continue
        seen.add((entry["kind"], entry["name"]))
        try:
            if entry["kind"] in ACCOUNTS:
                fresh = expect_account(trial, entry)
                found += [fresh] if fresh else []
                trial.record([fresh] if fresh else [])
                continue
            owners = entry["owners"] or accounts
            if os.path.lexists(entry["name"]) or shadowed(Path(entry["name"])):
                expect(trial, [(entry["kind"], entry["name"], entry["variable"])])
            if owners and (reason := unusable(ledger, entry, account=owners[0])):
                refused.append(reason)
        except LedgerError as error:
            refused.append(str(error))
    if refused:
        raise LedgerError("\n".join(dict.fromkeys(refused)))
    return found


def record(ledger: Ledger, entries: list[dict[str, Any]], probes: list[str]) -> None:
    """Write entries to the ledger. Raises LedgerError for what belongs to others, and then changes nothing."""
    ledger.doubt()
    probed = [{"kind": "file", "name": path, "variable": "prefect_instance", "owners": []} for path in probes]
    accounts = refuse(ledger, entries + probed)
    paths = [entry for entry in entries if entry["kind"] not in ACCOUNTS]
    wanted = [(entry["kind"], entry["name"], entry["variable"]) for entry in paths]
    content = {entry["name"]: entry["content"] for entry in paths}
    expect(ledger, wanted, content=content, accounts=accounts)
    for entry in paths:
        known = ledger.get(entry["kind"], entry["name"])
        if known is not None and entry["kind"] == "data":
            known |= {name: entry[name] for name in ("content", "disposable")}
            # Other accounts may have written there before.
            known["owners"] = list(dict.fromkeys([*entry["owners"], *known.get("owners", [])]))
    ledger.write()


@contextlib.contextmanager
def reachable(home: Path, file: Path, owners: Collection[int]) -> Iterator[None]:
    """Give a database's account, as which it is read, access to a data directory that an earlier removal left to root.

    Raises LedgerError if that account was removed and another one has its number now.
    """
    uid, gid = sqlite_files.account(file)
    before = home.stat()
    if uid == 0 or (before.st_uid, stat.S_IMODE(before.st_mode)) != (0, 0o700):
        yield
        return
    if not safe_files.is_lost(uid) and uid not in owners:
        raise LedgerError(
            f"prefect_purge_backup: {file} belongs to {safe_files.account_name(uid)}, which has the number of an "
            "account that was removed, so it cannot be copied safely; copy it yourself and set prefect_purge_backup to "
            "false"
        )
    own(home, uid=uid, gid=gid, mode=0o700)
    try:
        yield
    finally:
        own(home, uid=0, gid=before.st_gid, mode=0o700)


def databases(ledger: Ledger, entry: dict[str, Any]) -> list[Path]:
    """Return the SQLite databases that a purge removes from a data directory, recognized by how they begin.

    Raises LedgerError if there are too many, which flows may have created.
    """
    home, owners = Path(entry["name"]), member_ids(entry)
    found = [home / "prefect.db"] if sqlite_files.exists(home / "prefect.db") else []
    if not home.is_dir() or home.is_symlink():
        return found
    with safe_files.reach(home) as top:
        for name, here, path, state in top.bottom_up():
            if path is None or not stat.S_ISREG(state.st_mode) or home / path in found:
                continue
            first = path.partition("/")[0]
            is_named = first in entry.get("content", []) and entry["origin"] == "created"
            goes = state.st_uid in owners and (entry["origin"] == "created" or ledger.get("content", home / first))
            if (is_named or goes) and is_database(here, name):
                found.append(home / path)
    if len(found) > MOST_COPIES:
        raise LedgerError(
            f"prefect_purge_backup: {home} has more than {MOST_COPIES} SQLite databases, such as {found[-1]}; copy "
            "those that you need, remove the others, or set prefect_purge_backup to false"
        )
    return found


def is_database(directory: safe_files.Directory, name: str) -> bool:
    """Return whether a file begins like an SQLite database."""
    with contextlib.suppress(OSError), directory.open(name) as descriptor:
        return os.read(descriptor, len(MAGIC)) == MAGIC
    return False


def back_up(ledger: Ledger, directory: Path) -> list[str]:
    """Copy the SQLite databases that a purge is about to remove. Their server has stopped. Return the copies."""
    homes = [entry for entry in ledger.entries.values() if entry["part"] == ledger.part and entry["kind"] == "data"]
    copies: dict[Path, Path] = {}
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for entry in homes:
        home = Path(entry["name"])
        for file in databases(ledger, entry):
            inside = str(file.relative_to(home)).replace("/", "-")
            name = f"purged-{moment}{'' if inside == 'prefect.db' else f'-{inside[-150:]}'}"
            names = (f"{name}{number or ''}.db" for number in itertools.count())
            copy = next(directory / free for free in names if directory / free not in copies.values())
            with safe_files.beside(directory, make=True) as (above, last):
                above.make(last, owner=os.geteuid(), group=os.getegid(), mode=0o700)
            with reachable(home, file, member_ids(entry)):
                copy_database(file, copy)
            copies.setdefault(file, copy)
    return [str(copy) for copy in copies.values()]


def copy_database(file: Path, copy: Path) -> None:
    """Copy a database; byte by byte if SQLite cannot read it, because it may be damaged or only begin like one."""
    try:
        sqlite_files.copy(file, copy)
    except safe_files.AccountError as error:
        if error.kind != "DatabaseError":
            raise
        with (
            safe_files.beside(file) as (directory, name),
            directory.open(name) as source,
            safe_files.beside(copy) as (kept, last),
            kept.create(last, owner=os.geteuid(), group=os.getegid(), mode=0o600) as target,
        ):
            while part := os.read(source, 2**20):
                os.write(target, part)


def remaining(ledger: Ledger) -> dict[str, str]:
    """Return which other parts still have programs or settings on this host, with a path of each.

    Their roles run before this part is removed, unless their groups have lost the host.
    """
    found: dict[str, str] = {}
    for entry in ledger.entries.values() if ledger.part == LEDGER["options"]["part"]["default"] else ():
        if entry["kind"] in ("file", "tree") and entry["origin"] == "created" and exists_now(entry):
            found.setdefault(entry["part"], entry["name"])
    return {part: name for part, name in found.items() if part != ledger.part}


def summary(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the entries without what changes when a promise is kept."""
    return {
        key: {name: value for name, value in entry.items() if name != "promised"}
        for key, entry in ledger.entries.items()
    }


def main() -> None:
    strings: dict[str, Any] = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "ledger": LEDGER | {"required": True},
            "entries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "kind": {
                        "type": "str",
                        "choices": ["file", "directory", "tree", "data", "user", "group"],
                        "required": True,
                    },
                    "name": {"type": "str", "required": True},
                    "variable": {"type": "str", "default": "prefect_instance"},
                    "owners": strings,
                    "content": strings,
                    "disposable": {"type": "bool", "default": False},
                },
            },
            "probes": {"type": "list", "elements": "path", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "backup_dir": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    result: dict[str, Any] = {}
    os.umask(0o022)
    try:
        with opened(params["ledger"], dry=module.check_mode) as ledger:
            if ledger is None:
                raise LedgerError("ledger: name the ledger")
            before = summary(ledger)
            if params["state"] == "present":
                record(ledger, params["entries"], params["probes"])
                result["changed"] = summary(ledger) != before
            else:
                ledger.doubt()
                if ledger.recognized and not any(entry["part"] == ledger.part for entry in ledger.entries.values()):
                    # What cannot be recognized as the instance's stays.
                    ledger.adopt = ADOPTABLE
                    record(ledger, [entry for entry in params["entries"] if exists_now(entry)], [])
                    probed = [("file", path, "") for path in params["probes"] if os.path.lexists(path)]
                    expect(ledger, [probe for probe in probed if recognizable(ledger, "file", Path(probe[1]))])
                copies = []
                if params["purge"] and params["backup_dir"] and not module.check_mode:
                    copies = back_up(ledger, Path(params["backup_dir"]))
                done = remove_part(ledger, ledger.part, purge=params["purge"])
                result = {"changed": bool(done.removed), "removed": done.removed, "left": done.left, "copies": copies}
                result["remaining"] = remaining(ledger)
                for part, path in result["remaining"].items():
                    module.warn(
                        f"This host still has what the role of {part} created, such as {path}: its group no longer "
                        f"contains the host; add it again, and run the removal again"
                    )
                if done.left:
                    module.warn("Left in place, because this collection did not create it: " + ", ".join(done.left))
            result["recognized"] = ledger.recognized
            result["adopted"] = [key for key, entry in ledger.entries.items() if keeps_owner(entry)]
    except (LedgerError, FileError, safe_files.AccountError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
