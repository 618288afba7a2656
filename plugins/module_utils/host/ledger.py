"""The ledger: what an instance creates on this host, recorded before each creation and kept until removal.

Each instance has one JSON file, in a directory that only root (or, without root, the user) can enter. An entry is
identified by its kind and name, and records which part of the platform created it (`part`), whether it already existed
(`origin`: ``created`` or ``adopted``), and for existing entries the former owner, group and mode (`was`). An entry is
`promised` until what it records exists: what another owner creates under that name after a failed run is not removed.

| kind | name | what `absent` does |
|---|---|---|
| ``file`` | path of a file or link | removes it; adopted: restores the copy that was kept beside it |
| ``tree`` | path of a directory that only this collection writes | removes it with its content |
| ``data`` | path of a directory that an account writes | with purge: removes what belongs to the account |
| ``content`` | path in a data directory of another owner | with purge: the same |
| ``directory`` | path | removes it when it is empty; adopted: restores owner, group and mode |
| ``user``, ``group`` | name of an account | removes it; adopted: nothing |
| ``service`` | unit of another owner | stops and disables it, as it was before |
| ``lineage`` | certbot's file of a certificate | deletes the certificate |
| ``role``, ``database`` | cluster and name in PostgreSQL | with purge: drops it; adopted: nothing |
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import grp
import json
import os
import pwd
import re
import stat
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import safe_files
from .files import ensure_all, is_empty

FORMAT = 1
"""Version of the file format. A newer one is rejected rather than guessed at."""

ADOPTABLE = ("user", "directories", "units", "files", "database")
"""Values of `prefect_adopt`: what the collection may take over from another owner."""

KEPT = ".selfhosted-prefect.bak"
"""Suffix of the backup of another owner's file. systemd, Nginx, cron and logrotate ignore files with this suffix."""

TRACES = (b"Ansible managed", b"/current/bin/", b"/etc/nginx/prefect/")
"""Text that identifies files of this collection: the first unless the user changed it, the others in units and sites.
"""

UNITS = {
    "system": [Path(top, "systemd/system") for top in ("/usr/local/lib", "/usr/lib", "/lib", "/run")],
    "user": [Path(top, "systemd/user") for top in ("/etc", "/usr/local/lib", "/usr/lib", "/lib")],
}
"""Directories of units that one of the same name in /etc/systemd/system, or of the user, hides."""

LEDGER: dict[str, Any] = {
    "type": "dict",
    "options": {
        "name": {"type": "str", "required": True},
        "part": {"type": "str", "default": "prefect"},
        "adopt": {"type": "list", "elements": "str", "choices": list(ADOPTABLE), "default": []},
        "opt": {"type": "path"},
    },
}
"""Module option: the ledger in which a module records what it creates."""

COMMENT = ("Prefect (", "Prefect flows (")
"""How the comments of the accounts that this collection creates begin; the name of the instance and `)` follow."""

NOGROUP = 65534
"""Number of the group that owns no files."""

HIDDEN = ".selfhosted-prefect-"
"""How the names of directories begin that exist only while something runs, such as a restore."""

PROMISED = ("file", "directory", "tree", "data", "user", "group")
"""Kinds of entries that are marked as `promised` until what they record exists."""

BACKUPS = Path("/var/backups")
"""Directory that only root can write, in which an instance has directories named after it."""

LEFT = {"prefect.db", "storage", "memo_store.toml", "flows", "appendonlydir", "dump.rdb"}
"""Names that show, if no account owns them any more, that a data directory of root's was left by an earlier version."""

COMMON = {"backups", "storage", "tmp", "ui", "worker"}
"""Names in a home that another owner may use as well: in an adopted home they are recorded when they are created."""

OF_ROOT = {"backups"}
"""Names in a home below which root's files, too, are this collection's: those of earlier versions."""


class LedgerError(Exception):
    """Something belongs to another owner, or a ledger cannot be read; the message says what to do."""


def home_of_ledgers() -> Path:
    """Return the directory of the ledgers: the host's for root, otherwise the user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/selfhosted-prefect")
    return Path(pwd.getpwuid(os.geteuid()).pw_dir, ".local/state/selfhosted-prefect")


def path_of(name: str) -> Path:
    """Return the ledger file of an instance, given the instance's name or an absolute path."""
    return Path(name) if name.startswith("/") else home_of_ledgers() / f"{name}.json"


def missing_above(path: Path) -> list[Path]:
    """Return the directories above a path that do not exist, topmost first."""
    return [step for step in reversed(path.parents) if not os.path.lexists(step)]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the ledgers' directory, which is created, and removed if it is empty in the end."""
    while True:
        above = missing_above(directory)
        for step in above:
            step.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The previous holder may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == directory.stat().st_ino:
                break
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for step in (directory, *reversed(above)):
                step.rmdir()
        os.close(descriptor)


def comments(path: Path) -> set[str]:
    """Return the comments of the accounts that this collection creates for the instance of a ledger."""
    instances = {path.stem, path.stem.removeprefix("prefect-")}
    return {f"{comment}{instance})" for comment in COMMENT for instance in instances}


def installed_before(path: Path, opt: str | None) -> bool:
    """Return whether a version of this collection without a ledger installed an instance on this host.

    If a run of that version was killed, it left no release, but accounts or the status command's code. What the ledger
    of another instance records is that instance's.
    """
    name, programs = path.stem, Path(opt or f"/opt/{path.stem}")
    recorded = Ledger(path).others
    for below, pattern in (("releases", "*/.proven"), ("lib", "prefect_info/*.py")):
        if str(programs / below) not in recorded and any(programs.glob(f"{below}/{pattern}")):
            return True
    if os.geteuid() == 0 and any(account.pw_gecos in comments(path) for account in pwd.getpwall()):
        return True
    owners = {f"{name}{part}" for part in ("-proxy", "-postgres", "-redis", "-server-firewall", "-postgres-firewall")}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(path.with_name("packages.json").read_text())
        return bool(owners & set(record["owners"]) - set(record.get("ledgers", [])))
    return False


def facts(path: Path) -> dict[str, Any]:
    """Return the owner, group and mode of a path itself; links are not followed."""
    found = path.lstat()
    return {"uid": found.st_uid, "gid": found.st_gid, "mode": oct(stat.S_IMODE(found.st_mode))}


def owner_name(uid: int) -> str:
    """Return the name of a user id, or the id if no account has it."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def described(path: Path) -> str:
    """Return what a path is, for a message: its type, owner and mode."""
    found = path.lstat()
    kind = "link" if stat.S_ISLNK(found.st_mode) else "directory" if stat.S_ISDIR(found.st_mode) else "file"
    return f"a {kind} of {owner_name(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}"


@dataclass
class Ledger:
    """The entries of one instance, in the order in which they were recorded."""

    path: Path
    part: str = "prefect"
    adopt: Collection[str] = ()
    dry: bool = False
    recognized: bool = False
    """Whether an earlier version, which kept no ledger, installed this host."""
    parents: list[str] = field(default_factory=list)
    """Directories that were created for the ledger itself."""
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_disk: str = ""
    """The content of the file."""

    @classmethod
    def read(cls, path: Path, *, opt: str | None = None, **given: Any) -> Ledger:
        """Read the ledger from a file; it is empty if there is no file. Raises LedgerError.

        `opt` is the directory of the releases: a release there shows that an earlier version installed the host.
        """
        try:
            known = cls.load(path)
        except FileNotFoundError:
            return cls(path, recognized=installed_before(path, opt), **given)
        ledger = cls(path, **known, **given)
        # Another part, such as Redis, may have created the ledger on a host where an earlier version installed this
        # part.
        if ledger.part == cls.part and not any(entry["part"] == cls.part for entry in ledger.entries.values()):
            ledger.recognized = ledger.recognized or installed_before(path, opt)
        return ledger

    @staticmethod
    def load(path: Path) -> dict[str, Any]:
        """Return what is in the file of a ledger, as fields. Raises FileNotFoundError and LedgerError."""
        try:
            text = path.read_text()
            found = json.loads(text)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise LedgerError(
                f"{path} cannot be read: {error}; it records what was created on this host, restore it from a backup"
            ) from error
        if found["format"] != FORMAT:
            raise LedgerError(
                f"{path} has the format {found['format']} of another version of this collection, which reads format "
                f"{FORMAT}; use the version that wrote it, or a newer one"
            )
        return {"on_disk": text} | {name: found[name] for name in ("recognized", "parents", "entries")}

    def get(self, kind: str, name: Path | str) -> dict[str, Any] | None:
        return self.entries.get(f"{kind} {name}")

    def knows(self, path: Path | str) -> dict[str, Any] | None:
        """Return the entry of a path, whatever its kind."""
        found = (self.get(kind, path) for kind in ("file", "directory", "tree", "data"))
        return next((entry for entry in found if entry is not None), None)

    def holds(self, path: Path | str) -> bool:
        """Return whether a path is below a directory that this instance created."""
        above = (self.knows(step) for step in Path(path).parents)
        return any(entry is not None and entry["origin"] == "created" for entry in above)

    def record(self, wanted: Iterable[dict[str, Any]]) -> None:
        """Add the entries that are not known yet, and write all of them at once."""
        fresh = {f"{entry['kind']} {entry['name']}": {"part": self.part} | entry for entry in wanted}
        fresh = {key: entry for key, entry in fresh.items() if key not in self.entries}
        for entry in fresh.values():
            if entry["kind"] in PROMISED and entry["origin"] == "created" and not exists_now(entry):
                entry["promised"] = True
        if fresh:
            self.entries |= fresh
            self.write()

    def confirm(self) -> None:
        """Note what has been created by now."""
        for entry in self.entries.values():
            if entry["part"] == self.part and entry.get("promised") and exists_now(entry):
                del entry["promised"]

    def doubt(self) -> None:
        """Confirm the promises of an earlier run that it has kept, and forget those that another owner may have kept.

        A run that was killed right after a creation has not confirmed it: what holds nothing that the ledger lacks is
        this collection's.
        """
        for key, entry in list(self.entries.items()):
            if entry["part"] != self.part or not entry.get("promised") or not exists_now(entry):
                continue
            if is_own(self, entry):
                del entry["promised"]
            else:
                del self.entries[key]

    def forget(self, kind: str, name: Path | str) -> None:
        self.entries.pop(f"{kind} {name}", None)

    def write(self) -> None:
        """Write the file if it differs, or remove it if there are no entries."""
        if self.dry:
            return
        if not self.entries:
            safe_files.remove(self.path)
            self.on_disk = ""
            return
        content = {"format": FORMAT, "recognized": self.recognized, "parents": self.parents, "entries": self.entries}
        text = json.dumps(content, indent=1) + "\n"
        if text != self.on_disk:
            # This survives a power failure. The caller holds the lock.
            safe_files.write(self.path, text.encode(), owner=os.geteuid(), group=os.getegid(), mode=0o600)
            self.on_disk = text

    def shared(self, path: Path | str) -> bool:
        """Return whether another instance on this host created a path too, such as the directory of all its sites."""
        return str(path) in self.others

    @functools.cached_property
    def others_entries(self) -> list[dict[str, Any]]:
        """The entries of other instances on this host."""
        books = [Ledger.load(other) for other in self.path.parent.glob("*.json") if is_other(other, self.path)]
        return [entry for book in books for entry in book["entries"].values()]

    @functools.cached_property
    def others(self) -> frozenset[str]:
        """The paths that other instances on this host created."""
        return frozenset(entry["name"] for entry in self.others_entries if entry["origin"] == "created")

    def in_adopt(self, kind: str, path: Path) -> bool:
        word = "units" if path.suffix == ".service" else {"directory": "directories", "data": "directories"}.get(kind)
        return (word or "files") in self.adopt


def keeps_owner(entry: dict[str, Any] | None) -> bool:
    """Return whether an entry belongs to another owner who needs it unchanged; no one needs an empty directory."""
    return entry is not None and entry.get("origin") == "adopted" and not entry.get("empty")


def exists_now(entry: Mapping[str, Any]) -> bool:
    """Return whether the account or the path of an entry exists."""
    kind, name = entry["kind"], entry["name"]
    return exists(kind, name) if kind in ("user", "group") else os.path.lexists(name)


def is_own(ledger: Ledger, entry: Mapping[str, Any]) -> bool:
    """Return whether this collection created what a promise names, as far as that can be seen."""
    kind, path = entry["kind"], Path(entry["name"])
    if kind == "user":
        return pwd.getpwnam(entry["name"]).pw_gecos in comments(ledger.path)
    if kind == "group":
        # A member may be a name that no account has.
        users = [*primary_users(entry["name"]), *(user_of(name) for name in grp.getgrnam(entry["name"]).gr_mem)]
        return all(user is not None and user.pw_gecos in comments(ledger.path) for user in users)
    if path.name.startswith(HIDDEN):
        return True
    if kind == "tree" or path.is_symlink() or not path.is_dir():
        return ledger.holds(path) or is_traced(path)
    known = [below for below in inside(path) if ledger.knows(below) or (path.parent == BACKUPS and is_backup(below))]
    return known == inside(path)


def user_of(name: str) -> pwd.struct_passwd | None:
    """Return an account; None if it does not exist."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def primary_users(group: str) -> list[pwd.struct_passwd]:
    """Return the accounts whose primary group is this one."""
    return [user for user in pwd.getpwall() if user.pw_gid == grp.getgrnam(group).gr_gid]


def is_other(found: Path, own: Path) -> bool:
    """Return whether a file is the ledger of another instance."""
    return found.name not in (own.name, "packages.json")


@contextlib.contextmanager
def opened(given: dict[str, Any] | None, *, dry: bool) -> Iterator[Ledger | None]:
    """Yield the ledger that a module's option names, locked unless in check mode; None if the option is not set."""
    if given is None:
        yield None
        return
    path = path_of(given["name"])
    more = {"part": given["part"], "adopt": given["adopt"], "opt": given["opt"], "dry": dry}
    if dry:
        yield Ledger.read(path, **more)
        return
    above = [] if path.parent.exists() else [str(step) for step in [*missing_above(path.parent), path.parent]]
    with locked(path.parent):
        ledger = Ledger.read(path, **more)
        ledger.parents = ledger.parents or above
        try:
            yield ledger
        finally:
            ledger.confirm()
            ledger.write()
        # The directories above the ledgers' directory are removed with the last ledger.
        if not ledger.entries and not any(path.parent.iterdir()):
            with contextlib.suppress(OSError):
                for step in sorted(ledger.parents, key=len, reverse=True):
                    Path(step).rmdir()


def adoption(ledger: Ledger, kind: str, path: Path, variable: str) -> dict[str, Any]:
    """Return the entry for an existing path that the ledger lacks. Raises LedgerError if adopting it is not allowed."""
    entry = {"kind": kind, "name": str(path), "was": facts(path)}
    # A file in a directory of this instance may be an administrator's, unless an earlier version kept no ledger.
    belongs = ((kind != "file" or ledger.recognized) and ledger.holds(path)) or ledger.get("content", path) is not None
    if belongs or ledger.shared(path) or recognizable(ledger, kind, path):
        return entry | {"origin": "created"}
    if kind == "data" and left_before(path):
        return entry | {"origin": "created", "uids": sorted({below.lstat().st_uid for below in left_before(path)})}
    if is_empty(path):
        return entry | {"origin": "adopted", "empty": True}
    if kind == "tree":
        raise LedgerError(
            f"{variable}: {path} is {described(path)} that this collection did not create, and it needs this name for "
            "itself; name another directory"
        )
    # What an earlier version used stays in use, and is not removed: it may have belonged to another owner before.
    if not ledger.in_adopt(kind, path) and (kind == "file" or not ledger.recognized):
        word = "units" if path.suffix == ".service" else "files" if kind == "file" else "directories"
        raise LedgerError(
            f"{variable}: {path} is {described(path)}, and this collection did not create it; choose another name, or "
            f"add {word} to prefect_adopt to use it: what it is now is restored when Prefect is removed"
        )
    return entry | {"origin": "adopted"}


def left_before(path: Path) -> list[Path]:
    """Return the evidence that an earlier version, removed without a purge, left a data directory to root."""
    if os.geteuid() or facts(path) != {"uid": 0, "gid": 0, "mode": "0o700"}:
        return []
    if path.parent == BACKUPS:
        return inside(path) if all(is_backup(below) for below in inside(path)) else []
    return [below for below in inside(path) if below.name in LEFT and safe_files.is_lost(below.lstat().st_uid)]


def is_backup(path: Path) -> bool:
    """Return whether a path in a directory of backups has the name of a backup, or of what belongs to one."""
    return path.name == "safety" or bool(re.search(r"[-_.]\d{8}T\d{6}Z\.", path.name))


def recognizable(ledger: Ledger, kind: str, path: Path) -> bool:
    """Return whether an earlier version, which kept no ledger, created a path on this host."""
    if not ledger.recognized or any(keeps_owner(ledger.knows(step)) for step in path.parents):
        return False
    if kind == "data":
        # A home that existed before belongs to an account that this collection did not create.
        return path.name.startswith(ledger.path.stem) or account_comment(path.stat().st_uid).startswith(COMMENT)
    return kind != "file" or path.is_symlink() or is_traced(path)


def is_traced(path: Path) -> bool:
    """Return whether a file has text that this collection writes."""
    with contextlib.suppress(OSError):
        content = safe_files.read(path)
        return any(trace in content for trace in TRACES)
    return False


def account_comment(uid: int) -> str:
    """Return the comment of an account, or an empty string if there is none."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_gecos
    return ""


def keep_aside(ledger: Ledger, entry: dict[str, Any]) -> None:
    """Back up another owner's file beside it before it is overwritten."""
    if ledger.dry:
        return
    was = entry["was"]
    with safe_files.beside(entry["name"]) as (directory, name):
        found = directory.state(name)
        if found is None or directory.state(name + KEPT) is not None:
            return
        if stat.S_ISLNK(found.st_mode):
            target = os.readlink(name, dir_fd=directory.descriptor)
            os.symlink(target, name + KEPT, dir_fd=directory.descriptor)
            os.chown(name + KEPT, was["uid"], was["gid"], dir_fd=directory.descriptor, follow_symlinks=False)
            directory.sync()
            return
        mode = int(was["mode"], 8)
        directory.write(name + KEPT, directory.read(name), owner=was["uid"], group=was["gid"], mode=mode)


def unit_state(path: Path) -> dict[str, Any]:
    """Return whether a unit is enabled and whether it is active."""
    scope = "--system" if str(path).startswith("/etc/") else "--user"

    def says(question: str) -> bool:
        return not subprocess.run(["systemctl", scope, "--quiet", question, path.name], check=False).returncode

    return {"enabled": says("is-enabled"), "active": says("is-active")}


def shadowed(path: Path) -> Path | None:
    """Return the unit of a package or of an administrator that a unit at this path would hide, if there is one."""
    if path.parent.name not in UNITS or path.suffix not in (".service", ".timer"):
        return None
    found = (directory / path.name for directory in UNITS[path.parent.name] if directory != path.parent)
    return next((other for other in found if os.path.lexists(other)), None)


def expect_unhidden(ledger: Ledger, path: Path, variable: str) -> dict[str, Any]:
    """Return the state of the unit that a unit at this path will hide. Raises LedgerError if that is not allowed."""
    other = shadowed(path)
    if other is None:
        return {}
    if "units" not in ledger.adopt:
        raise LedgerError(
            f"{variable}: {path} would hide {other}, {described(other)}, which this collection did not create; choose "
            "another name, or add units to prefect_adopt: it is used again when Prefect is removed"
        )
    return unit_state(path)


def is_in_adopted_home(ledger: Ledger, path: Path) -> bool:
    """Return whether a path has a common name in another owner's home."""
    home = ledger.get("data", path.parent)
    return home is not None and home["origin"] == "adopted" and path.name in COMMON


def expected(
    ledger: Ledger, kind: str, path: Path, variable: str, content: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the entries for a path that is about to be created, including the missing directories above it.

    `content` names what will be created in a data directory, in case the directory belongs to another owner.
    """
    if ledger.knows(path) or ledger.get("content", path):
        return []
    if os.path.lexists(path):
        entry = adoption(ledger, kind, path, variable)
        if kind == "data" and entry["origin"] == "adopted":
            # Directories may be another owner's even where an earlier version was installed.
            created = [
                below
                for below in (path / name for name in content)
                if below.name not in COMMON and (ledger.recognized or not os.path.lexists(below)) and not below.is_dir()
            ]
            return [entry, *({"kind": "content", "name": str(below), "origin": "created"} for below in created)]
        if kind == "directory" and entry["origin"] == "adopted" and is_in_adopted_home(ledger, path):
            # Its owner, an account of the services, writes there.
            return [entry | {"kind": "data"}]
        if kind == "directory" and ledger.recognized:
            files = [below for below in inside(path) if not below.is_dir() and not ledger.knows(below)]
            created = [below for below in files if recognizable(ledger, "file", below) and not below.is_symlink()]
            return [entry, *({"kind": "file", "name": str(below), "origin": "created"} for below in created)]
        if kind == "file" and entry["origin"] == "adopted" and path.suffix == ".service":
            entry |= unit_state(path)
        return [entry]
    above = [
        {"kind": "directory", "name": str(step), "origin": "created"}
        for step in reversed(path.parents)
        if not ledger.knows(step) and (not os.path.lexists(step) or ledger.shared(step))
    ]
    hidden = expect_unhidden(ledger, path, variable) if kind == "file" else {}
    if kind == "directory" and is_in_adopted_home(ledger, path):
        # A purge removes what the accounts write there as well.
        kind = "content"
    return [*above, {"kind": kind, "name": str(path), "origin": "created", **hidden}]


def expect(
    ledger: Ledger,
    wanted: Iterable[tuple[str, str, str]],
    *,
    content: Mapping[str, Collection[str]] | None = None,
    accounts: Iterable[dict[str, Any]] = (),
) -> None:
    """Record paths (kind, path, variable) and accounts that are about to be created: all or nothing.

    Raises LedgerError with everything that is rejected. `content` maps data directories to the names that will be
    created in them.
    """
    found: list[dict[str, Any]] = []
    refused = []
    # A path below a directory of an earlier entry is judged by that entry.
    trial = replace(ledger, dry=True, entries=dict(ledger.entries))
    for kind, path, variable in wanted:
        try:
            fresh = expected(trial, kind, Path(path), variable, (content or {}).get(path, ()))
        except LedgerError as error:
            refused.append(str(error))
            continue
        trial.record(fresh)
        found += fresh
    if refused:
        raise LedgerError("\n".join(refused))
    for entry in found:
        if entry["kind"] == "file" and entry["origin"] == "adopted":
            keep_aside(ledger, entry)
    ledger.record([*accounts, *found])


def ensure_files(
    ledger: Ledger | None,
    files: list[dict[str, Any]],
    secrets: list[str],
    *,
    dry: bool,
    warn: Callable[[str], None] = lambda said: None,
) -> tuple[list[str], list[dict[str, str]]]:
    """Write files as `ensure_all` does; record what is created in the ledger, and remove only what it records.

    Raises FileError and LedgerError.
    """
    if ledger is None:
        return ensure_all(files, secrets, dry=dry, warn=warn)
    present = [file for file in files if file["state"] == "present"]
    expect(
        ledger,
        [
            ("file" if file["content"] is not None or file["secret"] else "directory", file["path"], "prefect_adopt")
            for file in present
        ],
    )
    written: list[str] = []
    diff: list[dict[str, str]] = []
    hidden = iter(secrets)
    for file in files:
        secret = [next(hidden)] if file["secret"] else []
        path, entry = Path(file["path"]), ledger.knows(file["path"])
        if file["state"] in ("absent", "unused"):
            done, shown = remove_file(ledger, file, dry=dry)
        elif entry and entry["kind"] in ("directory", "data") and keeps_owner(entry):
            done, shown = secure(path, entry, dry=dry), []
        else:
            done, shown = ensure_all([file], secret, dry=dry, warn=warn)
        written += done
        diff += shown
    ledger.write()
    return written, diff


def remove_file(ledger: Ledger, file: dict[str, Any], *, dry: bool) -> tuple[list[str], list[dict[str, str]]]:
    """Remove a file or directory that the ledger records, and restore what it replaced.

    That it is in a directory of this instance proves nothing: flows write there too. Without an entry, or a name in the
    entry of the data directory, a file stays, and only an empty directory goes.
    """
    path, entry = Path(file["path"]), ledger.knows(file["path"])
    if entry is not None and entry["kind"] == "file":
        changed = put_back(ledger, path)
        return ([str(path)], [{"prepared": f"remove {path}\n"}]) if changed else ([], [])
    if path.is_dir() and not path.is_symlink():
        is_tree = entry is not None and entry["kind"] == "tree" and entry["origin"] == "created"
        known = entry is not None or ledger.holds(path) or recognizable(ledger, "directory", path)
        goes = is_tree or (known and is_empty(path))
    else:
        goes = is_content(ledger, path) or (os.path.lexists(path) and recognizable(ledger, "file", path))
    result = ensure_all([file | {"secret": False}], [], dry=dry) if goes else ([], [])
    # The last of the instances that share a directory removes it.
    if entry is not None and (not os.path.lexists(path) or ledger.shared(path)):
        ledger.forget(entry["kind"], path)
    return result


def is_content(ledger: Ledger, path: Path) -> bool:
    """Return whether a file is one of those that Prefect creates in a data directory."""
    above = ledger.get("data", path.parent)
    named = above is not None and above["origin"] == "created" and path.name in above.get("content", [])
    return named or ledger.get("content", path) is not None


def secure(path: Path, entry: dict[str, Any], *, dry: bool) -> list[str]:
    """Make a directory of another owner that holds root's files writable by root only; data keeps its owner."""
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode) & ~0o022
    if entry["kind"] == "data" or (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), mode):
        return []
    if not dry:
        own(path, uid=os.geteuid(), gid=-1, mode=mode)
    return [str(path)]


def resume(path: Path, entry: dict[str, Any]) -> None:
    """Enable and start another owner's unit that is in use again, if it was enabled and active before."""
    if not {"enabled", "active"} & {name for name, value in entry.items() if value is True}:
        return
    scope = "--system" if str(path).startswith("/etc/") else "--user"
    subprocess.run(["systemctl", scope, "daemon-reload"], check=False)
    for state, action in (("enabled", "enable"), ("active", "start")):
        if entry.get(state):
            subprocess.run(["systemctl", scope, "--quiet", action, path.name], capture_output=True, check=False)


def put_back(ledger: Ledger, path: Path) -> bool:
    """Remove a recorded file, or restore what it replaced, and forget the entry; return whether anything changed."""
    entry = ledger.get("file", path)
    if entry is None:
        return False
    kept = path.with_name(path.name + KEPT)
    if entry["origin"] == "created" and ledger.shared(path):
        ledger.forget("file", path)
        return False
    changed = os.path.lexists(path) if entry["origin"] == "created" else os.path.lexists(kept)
    if not ledger.dry:
        if changed and entry["origin"] == "created":
            safe_files.remove(path)
        elif changed:
            with safe_files.beside(path) as (directory, name):
                here = directory.descriptor
                os.replace(kept.name, name, src_dir_fd=here, dst_dir_fd=here)
                directory.sync()
        # Also if an earlier run was killed before this.
        resume(path, entry)
    ledger.forget("file", path)
    return changed


def own(path: Path, *, uid: int, gid: int, mode: int) -> None:
    """Set a directory's owner, group and mode; raises OSError if a link is in its place."""
    with safe_files.beside(path) as (directory, name):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        descriptor = os.open(name, flags, dir_fd=directory.descriptor)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def settle(ledger: Ledger, path: Path) -> bool:
    """Remove a recorded directory if it is empty, or restore an adopted one; return whether anything changed."""
    entry = ledger.get("directory", path) or ledger.get("data", path)
    if entry is None or not path.is_dir():
        return False
    if entry["origin"] == "adopted":
        was = entry["was"]
        differs = bool(facts(path) != was)
        if differs and not ledger.dry:
            own(path, uid=was["uid"], gid=was["gid"], mode=int(was["mode"], 8))
        return differs
    return is_empty(path) if ledger.dry else remove_empty(path)


def remove_empty(path: Path) -> bool:
    """Remove a directory if it is empty; return whether it was."""
    with contextlib.suppress(OSError), safe_files.beside(path) as (directory, name):
        os.rmdir(name, dir_fd=directory.descriptor)
        return True
    return False


def inside(path: Path) -> list[Path]:
    """Return the paths in a directory, sorted; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), safe_files.reach(path) as directory:
        return [path / name for name in directory.names()]
    return []


def sweep(ledger: Ledger, directory: Path, *, owners: Collection[int]) -> bool:
    """Remove what some user ids own below a directory, never following links; return whether anything was removed."""
    changed = False
    with safe_files.reach(directory) as top:
        for name, here, path, found in top.bottom_up():
            entry = ledger.knows(directory / path) if path is not None else None
            if found.st_uid not in owners or (entry is not None and entry["kind"] != "directory"):
                continue
            changed = True
            if not ledger.dry:
                # A directory that holds another owner's files stays.
                with contextlib.suppress(OSError):
                    (os.rmdir if stat.S_ISDIR(found.st_mode) else os.unlink)(name, dir_fd=here.descriptor)
    return changed


def foreign(directory: Path, *, spare: Collection[Path] = ()) -> list[str]:
    """Return what prevents the removal of a directory: the topmost paths in it, at most ten."""
    return [str(path) for path in inside(directory) if path not in spare][:10]


def member_ids(entry: dict[str, Any]) -> set[int]:
    """Return the user ids of the accounts that write in a data directory, and of former accounts that did."""
    found = {uid for uid in entry.get("uids", []) if safe_files.is_lost(uid)}
    for name in entry.get("owners", []):
        with contextlib.suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return found


def remember_ids(ledger: Ledger, users: Collection[str]) -> None:
    """Record the user ids of accounts that are about to be removed, so that the data they wrote is still recognized."""
    for entry in ledger.entries.values():
        if entry["kind"] == "data" and set(users) & set(entry.get("owners", [])):
            entry["uids"] = sorted({*entry.get("uids", []), *member_ids(entry)})
    ledger.write()


def remove_account(kind: str, name: str, *, keeps_group: bool = False) -> str:
    """Remove a user or a group that exists; return why it was not removed, or an empty string.

    `keeps_group` says that a group with the name of the user belongs to another owner.
    """
    try:
        pwd.getpwnam(name) if kind == "user" else grp.getgrnam(name)
    except KeyError:
        return ""
    command = ["userdel", "--force", name] if kind == "user" else ["groupdel", name]
    if kind == "user" and keeps_group:
        # userdel would remove the group of that name, even if it is the primary group of another user. A home that does
        # not exist keeps usermod from giving files away.
        other = ["usermod", "--gid", grp.getgrgid(NOGROUP).gr_name, "--home", "/nonexistent", name]
        done = subprocess.run(other, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"user {name}: {done.stderr.strip()}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # userdel also removes the user's own group, and warns if a process of the user is still running.
    if kind == "group" and done.returncode == 6:
        return ""
    return f"{kind} {name}: {done.stderr.strip()}" if done.returncode else ""


def is_foreign_group(ledger: Ledger, name: str) -> bool:
    """Return whether a group exists that another owner, or another instance, needs."""
    entry = ledger.get("group", name)
    others = [other for other in ledger.others_entries if (other["kind"], other["name"]) == ("group", name)]
    return exists("group", name) and (entry is None or entry["origin"] == "adopted" or bool(others))


def take_back(entry: dict[str, Any]) -> None:
    """Make accounts members of a group again, from which they were moved, if the group stays."""
    for member in entry.get("moved", []):
        if exists(entry["kind"], entry["name"]) and exists("user", member):
            subprocess.run(["gpasswd", "--add", member, entry["name"]], capture_output=True, check=False)


def exists(kind: str, name: str) -> bool:
    """Return whether an account exists."""
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name) if kind == "user" else grp.getgrnam(name)
        return True
    return False


@dataclass
class Removal:
    """What the removal of a part removed, and what it left because it belongs to another owner."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def remove_part(ledger: Ledger, part: str, *, purge: bool) -> Removal:
    """Remove what the ledger records for a part, and nothing else; data only with `purge`."""
    result = Removal()
    mine = {key: dict(entry) for key, entry in ledger.entries.items() if entry["part"] == part}

    def names(*kinds: str) -> list[str]:
        # Deepest paths first.
        found = [entry["name"] for entry in mine.values() if entry["kind"] in kinds]
        return sorted(found, key=lambda name: name.count("/"), reverse=True)

    for name in names("file"):
        try:
            changed = put_back(ledger, Path(name))
        except OSError as error:
            # Where accounts write, they can put a directory in the place of a file.
            result.left.append(f"{name} ({error.strerror}; what was there before is {name}{KEPT})")
            continue
        if changed:
            result.removed.append(name)
    for name in names("tree"):
        entry = mine[f"tree {name}"]
        path = Path(name)
        if path.is_dir() and not path.is_symlink() and not ledger.shared(path):
            if not ledger.dry:
                safe_files.remove(path)
                if entry["origin"] == "adopted":
                    was = entry["was"]
                    with safe_files.beside(path) as (directory, last):
                        directory.make(last, owner=was["uid"], group=was["gid"], mode=int(was["mode"], 8))
            result.removed.append(name)
        ledger.forget("tree", name)
    for name in names("content"):
        above = next((found for step in Path(name).parents if (found := ledger.get("data", step))), {})
        goes = purge or above.get("disposable", False)
        remove_content(ledger, Path(name), purge=goes, owners=member_ids(above), result=result)
    stays: set[Path] = set()
    for name in names("data"):
        if not remove_data(ledger, mine[f"data {name}"], purge=purge, result=result):
            stays.add(Path(name))
    for name in names("directory"):
        path = Path(name)
        if stays.intersection(path.parents):
            # It belongs to the data.
            continue
        if settle(ledger, path):
            result.removed.append(name)
        elif path.is_dir() and mine[f"directory {name}"]["origin"] == "created" and not ledger.shared(path):
            result.left += foreign(path, spare=stays)
            stays.add(path)
            continue
        ledger.forget("directory", name)
    remember_ids(ledger, names("user"))
    for kind in ("user", "group"):
        for name in names(kind):
            created = mine[f"{kind} {name}"]["origin"] == "created" and not ledger.shared(name)
            if created and exists(kind, name):
                said = "" if ledger.dry else remove_account(kind, name, keeps_group=is_foreign_group(ledger, name))
                if said:
                    result.left.append(said)
                    continue
                result.removed.append(f"{kind} {name}")
            elif not ledger.dry:
                take_back(mine[f"{kind} {name}"])
            ledger.forget(kind, name)
    ledger.write()
    return result


def remove_data(ledger: Ledger, entry: dict[str, Any], *, purge: bool, result: Removal) -> bool:
    """Remove a data directory and what belongs to its accounts; return whether the entry is settled.

    Data that stays is given to root, because another account may get the id of the removed one.
    """
    path = Path(entry["name"])
    owners = member_ids(entry)
    if not path.is_dir() or path.is_symlink() or ledger.shared(path):
        ledger.forget("data", path)
        return True
    if not purge and not entry.get("disposable"):
        if entry["origin"] == "created" and not is_empty(path):
            wanted: dict[str, Any] = (
                {"uid": 0, "gid": 0, "mode": "0o700"} if os.geteuid() == 0 else facts(path) | {"mode": "0o700"}
            )
            if facts(path) != wanted:
                # A package's account is removed with the package.
                noted = ledger.entries[f"data {path}"]
                noted["uids"] = sorted({*noted.get("uids", []), *owners})
                result.removed.append(f"access to {path}")
                if not ledger.dry:
                    ledger.write()
                    own(path, uid=wanted["uid"], gid=wanted["gid"], mode=0o700)
            return False
        if entry["origin"] == "adopted":
            settle(ledger, path)
            return False
    if entry["origin"] == "created":
        named = remove_named(ledger, path, entry.get("content", []))
        if (path.parent != BACKUPS and sweep(ledger, path, owners=owners)) or named:
            result.removed.append(f"data in {path}")
    below = [Path(other["name"]) for other in ledger.entries.values() if other["kind"] == "directory"]
    for directory in sorted((other for other in below if path in other.parents), reverse=True):
        settle(ledger, directory)
    if settle(ledger, path):
        result.removed.append(str(path))
    elif entry["origin"] == "created" and not ledger.dry:
        result.left += foreign(path)
        return False
    ledger.forget("data", path)
    return True


def remove_named(ledger: Ledger, directory: Path, names: Collection[str]) -> bool:
    """Remove what this collection's root wrote in a data directory; return whether anything was removed.

    A name proves nothing of what a directory holds: there, only the files of the accounts go.
    """
    if directory.parent == BACKUPS:
        doomed = [below for below in inside(directory) if is_backup(below)]
    else:
        doomed = [below for name in names if not is_directory(below := directory / name) and os.path.lexists(below)]
        doomed += links_to_worker(directory)
    for below in doomed if not ledger.dry else []:
        safe_files.remove(below)
    kept = [directory / name for name in OF_ROOT.intersection(names) if is_directory(directory / name)]
    return any([bool(doomed), *(sweep(ledger, below, owners={os.geteuid()}) for below in kept)])


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory itself, and not a link to one."""
    found = safe_files.state(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def links_to_worker(home: Path) -> list[Path]:
    """Return root's links to what `accounts` moved to the home of the flows' account."""
    with safe_files.reach(home) as directory:
        states = {name: directory.state(name) for name in directory.names()}
        links = [name for name, found in states.items() if found and stat.S_ISLNK(found.st_mode) and not found.st_uid]
        return [home / name for name in links if os.readlink(name, dir_fd=directory.descriptor).startswith("worker/")]


def remove_content(ledger: Ledger, path: Path, *, purge: bool, owners: Collection[int], result: Removal) -> None:
    """Remove what Prefect created in another owner's home."""
    if os.path.lexists(path) and path.lstat().st_uid in owners:
        if not purge:
            return
        if path.is_dir() and not path.is_symlink():
            sweep(ledger, path, owners=owners)
            if not ledger.dry:
                remove_empty(path)
        elif not ledger.dry:
            safe_files.remove(path)
        result.removed.append(str(path))
    ledger.forget("content", path)
