"""An upgrade of a host that has begun: what the host was like before, in a file that is removed when the upgrade ends.

The file `upgrade.json` in the instance's state directory has the release in use before the upgrade and the one that it
installs, the revision of the database's schema, the backup made for the upgrade, and the settings and units of the
services. While it exists, the upgrade is unfinished. The settings contain secrets, so only its owner can read it.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import safe_files

NAME = "upgrade.json"
SHOWN = ("release", "to", "revision", "backup", "cost")
"""The fields without secrets. `cost` is what going back to the backup loses, if a run found the upgrade interrupted."""


class UpgradeError(Exception):
    """An upgrade cannot be recorded or undone; the message says why and what to do."""


@dataclass(frozen=True)
class Kept:
    """A file before the upgrade: its content in base64, its mode, and the numbers of its owner and group."""

    path: str
    content: str
    mode: int
    owner: int
    group: int


def read(state: Path) -> dict[str, Any]:
    """Return the record of an unfinished upgrade, or an empty mapping. Raises OSError and UpgradeError."""
    try:
        found = json.loads(safe_files.read(state / NAME))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UpgradeError(f"{state / NAME} is damaged ({error}): remove it, and check which release runs") from error
    return dict(found)


def unfinished(state: Path) -> dict[str, str]:
    """Return the record of an unfinished upgrade without secrets, or an empty mapping. Raises as `read`."""
    found = read(state)
    # Earlier versions wrote no cost.
    return {name: found.get(name, "") for name in SHOWN} if found else {}


def keep(path: Path) -> Kept | None:
    """Return a file as it is, or None if it does not exist. Raises OSError."""
    found = safe_files.state(path)
    if found is None:
        return None
    content = base64.b64encode(safe_files.read(path)).decode()
    return Kept(
        path=str(path), content=content, mode=stat.S_IMODE(found.st_mode), owner=found.st_uid, group=found.st_gid
    )


def record(state: Path, *, link: Path, to: str, revision: str, backup: str, files: Iterable[str]) -> bool:
    """Record what a host is like before its upgrade; return whether that was done.

    The record of an interrupted upgrade to the same release stays, because it is the older one; see `renew` for its
    backup. Raises OSError and UpgradeError.
    """
    if read(state).get("to") == to:
        return False
    content = {
        "release": link.readlink().name,
        "to": to,
        "revision": revision,
        "backup": backup,
        "cost": "",
        "files": [asdict(kept) for file in files if (kept := keep(Path(file)))],
    }
    save(state, content)
    return True


def renew(state: Path, *, revision: str, backup: str, cost: str) -> bool:
    """Record a newer backup that the older release can use or, without one, what going back to the recorded one loses.

    Returns whether that changed the record. Raises OSError and UpgradeError.
    """
    found = read(state)
    if not found:
        return False
    content = found | {"cost": cost} | ({"revision": revision, "backup": backup} if backup else {})
    if content == found:
        return False
    save(state, content)
    return True


def save(state: Path, content: dict[str, Any]) -> None:
    """Write the record. Raises OSError."""
    own = {"owner": os.geteuid(), "group": os.getegid()}
    safe_files.write(state / NAME, json.dumps(content).encode(), mode=0o600, **own)


def undo(state: Path, *, link: Path) -> list[str]:
    """Restore the recorded release and files; return the paths that changed.

    Files that did not exist before stay. The record stays, too, so that an interrupted run can be repeated. Raises
    OSError, and UpgradeError if the old release does not exist.
    """
    found = read(state)
    if not found:
        return []
    release = link.with_name("releases") / found["release"]
    if not (release / "bin").is_dir():
        raise UpgradeError(f"{release} does not exist any longer: set prefect_version to its version and run site.yml")
    changed = []
    for kept in (Kept(**each) for each in found["files"]):
        path = Path(kept.path)
        if keep(path) == kept:
            continue
        content = base64.b64decode(kept.content)
        safe_files.write(path, content, owner=kept.owner, group=kept.group, mode=kept.mode)
        changed.append(kept.path)
    if link.readlink().name != release.name:
        fresh = link.with_name(f".{link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases", release.name))
        fresh.replace(link)
        changed.append(str(link))
    return changed
