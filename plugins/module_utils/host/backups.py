"""The backups in a directory: their names, their manifests, and how one is written so that it is complete or absent.

A backup is named `instance_server_database_version_revision_time`, each part percent-encoded. Beside it is a manifest
of the same name with `.json`: these parts, the size, the SHA-256 digest, the number of rows of each table, and a number
that is higher than those before it in the directory, whatever the clock said; of a backup that is to be proven (see
`proofs`), also the digests of tables, and how the proof ended. Backups of what a restore or a reset replaces are in the
directory `safety`. Earlier versions of this collection named a backup `instance-version-time` and wrote no manifest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

SAFETY = "safety"
SCRATCH = "_proof"
"""What follows the name of a PostgreSQL database in that of the copy by which a backup is proven."""

MANIFEST = ".json"
PARTIAL = ".partial"
STAMP = r"\d{8}T\d{6}Z"
MOMENT = "%Y%m%dT%H%M%SZ"
CHUNK = 1 << 20

AHEAD = timedelta(minutes=5)
"""What a clock may be set back without a backup counting as dated in the future."""

EARLIER = re.compile(rf"(?P<instance>.+)-(?P<version>[^-]+)-(?P<made>{STAMP})")


class BackupError(Exception):
    """A backup cannot be made or restored; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a backup comes from. An empty text means unknown. `server` is the host's name in the inventory.

    Names may be the same elsewhere, such as `localhost`; `identity` is not. It is in the manifest only.
    """

    identity: str = ""
    instance: str = ""
    server: str = ""
    database: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The verified content of a backup: the revision of the schema, and the number of rows of each table.

    `digests` are those of the tables that the backup was made from, if they were computed.
    """

    revision: str
    rows: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup as described by its manifest, or else by its name. Without a number, it is older than those with one.

    `proven` is when it was proven, and `unproven` why the proof failed; both are empty without a proof.
    """

    path: Path
    number: int = 0
    origin: Origin = field(default_factory=Origin)
    revision: str = ""
    made: str = ""
    size: int = 0
    sha256: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    proven: str = ""
    unproven: str = ""

    @property
    def manifest(self) -> Path:
        return self.path.with_name(self.path.name + MANIFEST)

    @property
    def is_ahead(self) -> bool:
        """Return whether it is dated in the future, so that its clock was wrong, or is wrong now."""
        return instant(self.made) > instant(moment()) + AHEAD

    def problem(self) -> str:
        """Return what is wrong with the file, by its size and digest; an empty text if no problem is known."""
        found = self.path.stat().st_size
        if not found:
            return "it is empty"
        if self.sha256 and found != self.size:
            return f"it has {found} bytes, and had {self.size} when it was made"
        if self.sha256 and digest(self.path) != self.sha256:
            return "its SHA-256 digest is not the one that it had when it was made: it was changed or damaged"
        return ""


def digest(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    found = hashlib.sha256()
    with path.open("rb") as content:
        while part := content.read(CHUNK):
            found.update(part)
    return found.hexdigest()


def file_name(origin: Origin, *, revision: str, made: str, suffix: str) -> str:
    """Return the file name of a backup, unique per origin."""
    parts = (origin.instance, origin.server, origin.database, origin.version, revision, made)
    return "_".join(quote(part, safe=" ").replace("_", "%5F") for part in parts).replace(" ", "%20") + suffix


def read(path: Path) -> Backup:
    """Return what is known about a backup. Raises OSError, and BackupError if its manifest cannot be read."""
    known = Backup(path=path)
    if known.manifest.exists():
        try:
            found = json.loads(known.manifest.read_text(encoding="utf-8"))
            return Backup(path=path, origin=Origin(**found.pop("origin")), **found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackupError(f"{path}: its manifest {known.manifest} is damaged ({error}); name another") from error
    parts = [unquote(part) for part in path.stem.split("_")]
    if len(parts) == 6 and re.fullmatch(STAMP, parts[-1]):
        origin = Origin(instance=parts[0], server=parts[1], database=parts[2], version=parts[3])
        return Backup(path=path, origin=origin, revision=parts[4], made=parts[5])
    if earlier := EARLIER.fullmatch(path.stem):
        return Backup(
            path=path, origin=Origin(instance=earlier["instance"], version=earlier["version"]), made=earlier["made"]
        )
    return known


def own(directory: Path, *, origin: Origin, suffix: str) -> list[Backup]:
    """Return the backups in a directory of an origin's database, of any version, oldest first.

    A SQLite file belongs to one server; the servers of an instance share a PostgreSQL database, whose origin has no
    server here. A backup without an identity was made by an earlier version, and counts by its names.
    """
    found = []
    for path in directory.glob(f"*{suffix}"):
        if path.name.startswith("."):
            continue
        try:
            backup = read(path)
        except BackupError:
            continue
        same = all(
            not known or not wanted or known == wanted
            for known, wanted in (
                (backup.origin.identity, origin.identity),
                (backup.origin.server, origin.server),
                (backup.origin.database, origin.database),
            )
        )
        if backup.made and backup.origin.instance == origin.instance and same:
            found.append(backup)
    return sorted(found, key=lambda backup: (backup.number, backup.made, backup.path.name))


def next_number(directory: Path) -> int:
    """Return a number above those of all backups in a directory, which must be held."""
    highest = 0
    for manifest in directory.glob(f"*{MANIFEST}"):
        with contextlib.suppress(BackupError, OSError):
            highest = max(highest, read(manifest.with_name(manifest.name.removesuffix(MANIFEST))).number)
    return highest + 1


def moment() -> str:
    """Return the current time in the format of file names."""
    return datetime.now(timezone.utc).strftime(MOMENT)


def instant(made: str) -> datetime:
    """Return a time of a file name."""
    return datetime.strptime(made, MOMENT).replace(tzinfo=timezone.utc)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Prevent others from writing backups into a directory, and remove what a killed run left incomplete."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in directory.glob(f".*{PARTIAL}"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def write(directory: Path, *, origin: Origin, suffix: str, make: Callable[[Path], Contents]) -> Backup:
    """Let `make` write a backup and return its content; the backup gets its name once it is on disk.

    Raises what `make` raises, and OSError.
    """
    with held(directory):
        made = moment()
        # Two backups within a second would get the same name, and one in SAFETY is also named without its directory.
        top = directory.parent if directory.name == SAFETY else directory
        while [*top.glob(f"*{made}{suffix}"), *top.glob(f"{SAFETY}/*{made}{suffix}")]:
            time.sleep(0.1)
            made = moment()
        fresh = directory / f".{made}{suffix}{PARTIAL}"
        note = directory / f".{made}{MANIFEST}{PARTIAL}"
        try:
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            contents = make(fresh)
            sync(fresh)
            path = directory / file_name(origin, revision=contents.revision, made=made, suffix=suffix)
            backup = Backup(
                path=path,
                number=next_number(directory),
                origin=origin,
                revision=contents.revision,
                made=made,
                size=fresh.stat().st_size,
                sha256=digest(fresh),
                rows=contents.rows,
                digests=contents.digests,
            )
            note_down(backup, note)
            # A manifest without a backup is ignored; a backup without its manifest would count as unchecked.
            note.replace(backup.manifest)
            fresh.replace(path)
            sync(directory)
        finally:
            fresh.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
    return backup


def note_down(backup: Backup, file: Path) -> None:
    """Write the content of a backup's manifest to a new file, and flush it to disk. Raises OSError."""
    described = {name: value for name, value in asdict(backup).items() if name != "path"}
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as written:
        json.dump(described, written, indent=1, sort_keys=True)
        written.flush()
        os.fsync(written.fileno())


def mark(backup: Backup, *, unproven: str = "") -> Backup:
    """Record in a backup's manifest that it was proven now or, with a reason, that its proof failed. Raises OSError."""
    directory = backup.path.parent
    with held(directory):
        if not backup.path.exists():
            raise BackupError(f"{backup.path} was removed while it was proven")
        marked = replace(backup, proven="" if unproven else moment(), unproven=unproven)
        note = directory / f".{backup.made}{MANIFEST}{PARTIAL}"
        note_down(marked, note)
        note.replace(backup.manifest)
        sync(directory)
    return marked


def remove(backup: Backup) -> None:
    """Remove a backup and its manifest."""
    backup.path.unlink(missing_ok=True)
    backup.manifest.unlink(missing_ok=True)


def released(version: str) -> tuple[int, ...]:
    """Return a version's numbers, for comparison."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def shown(stamp: str) -> str:
    """Return a time of a file name for an operator."""
    return f"{datetime.strptime(stamp, MOMENT):%Y-%m-%d %H:%M:%S} UTC"


def describe(backup: Backup, *, latest: bool, safety: bool) -> dict[str, Any]:
    """Return what an operator needs to know about a backup. Reads all of it, to verify its digest."""
    problem = backup.problem()
    return {
        "name": backup.path.name,
        "made": shown(backup.made),
        "size": backup.path.stat().st_size,
        "version": backup.origin.version,
        "revision": backup.revision,
        "checked": bool(backup.sha256) and not problem,
        "proven": shown(backup.proven) if backup.proven and not problem else "",
        "unproven": backup.unproven,
        "problem": problem,
        "latest": latest,
        "ahead": backup.is_ahead,
        "safety": safety,
    }


def table(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return described backups as lines for an operator."""
    lines = []
    for each in described:
        state = "checked" if each["checked"] else each["problem"] or "has no manifest, so only a restore checks it"
        if each["checked"] and each["proven"]:
            state = f"proven {each['proven']}"
        elif each["checked"] and each["unproven"]:
            state = f"NOT PROVEN ({' '.join(each['unproven'].split())})"
        marks = ["latest"] if each["latest"] else ["made by a restore or reset"] if each["safety"] else []
        marks += ["dated in the future"] if each["ahead"] else []
        size = f"{each['size'] / (1 << 20):.1f} MiB"
        lines.append(f"{each['name']}: {', '.join([each['made'], size, 'Prefect ' + each['version'], state, *marks])}")
    return lines or ["no backups"]
