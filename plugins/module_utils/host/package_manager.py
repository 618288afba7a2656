"""What the package manager of a host has to answer, and what packages leave behind or must not take along.

`dpkg` is the one of Debian and its kin, `rpm` that of the RHEL family: modules that are used as a `PackageManager`.
"""

from __future__ import annotations

import fnmatch
import grp
import hashlib
import json
import os
import pwd
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from . import safe_files


class PackageError(Exception):
    """The package manager failed; the message ends with its output."""


class DisplacedError(PackageError):
    """An installation would remove other packages; the message names them."""


@dataclass(frozen=True)
class Purge:
    """What the purge of some packages removes besides their configuration files."""

    packages: str
    """Regular expression of the names of the packages."""
    paths: tuple[str, ...]
    accounts: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    """Patterns of the files that the packages and their programs create there."""
    links: dict[str, str] = field(default_factory=dict)
    """Links that the packages create there, and their targets."""
    placeholders: dict[str, bytes] = field(default_factory=dict)
    """Files that the packages create there for a person to fill, and what such a filled one contains."""


class PackageManager(Protocol):
    """A package manager. Packages are named without a version or an architecture."""

    @property
    def PURGES(self) -> Sequence[Purge]:
        """Return what is known of the packages that this collection installs, and of those that come with them."""

    def present(self, names: Collection[str]) -> set[str]:
        """Return which of the packages are installed."""

    def coming_with(self, names: Collection[str]) -> set[str]:
        """Return the packages that the installation of some would install.

        Raises DisplacedError if it would remove others.
        """

    def going_with(self, names: Collection[str]) -> set[str]:
        """Return the packages that the removal of some would remove, with those that depend on them."""

    def needed_by(self, names: Collection[str]) -> set[str]:
        """Return some installed packages and all their dependencies."""

    def disabled(self, streams: Collection[str]) -> list[str]:
        """Return which of some module streams, such as V(postgresql:16), are of modules that have no stream enabled."""

    def enable(self, streams: Collection[str]) -> None:
        """Let packages come from module streams."""

    def reset(self, streams: Collection[str]) -> None:
        """Let the packages of their modules come from the default again."""

    def refresh(self) -> None:
        """Read again what can be installed."""

    def install(self, names: Collection[str]) -> None:
        """Install packages."""

    def remove(self, names: Collection[str]) -> None:
        """Remove packages, and leave their configuration and data."""

    def purge(self, names: Collection[str], *, fresh: Collection[str]) -> None:
        """Remove packages with their configuration and data, which is all `fresh`: it did not exist before them."""

    def leftovers(self, names: Collection[str]) -> Collection[str]:
        """Return the paths that the installation of packages creates and their purge leaves."""

    def configuration(self, packages: Collection[str]) -> dict[str, str]:
        """Return the configuration files of packages with the digests that they were installed with."""

    def listed(self, packages: Collection[str]) -> list[str]:
        """Return the paths that packages consist of."""

    def removal_script(self, package: str) -> str:
        """Return the script that runs when a package is removed."""


def run(*command: str, accept: str = "") -> str:
    """Run a command of a package manager and return its output; it may fail if that contains `accept`."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode and not (accept and accept in result.stdout + result.stderr):
        said = "\n".join((result.stderr.strip() or result.stdout.strip()).splitlines()[-15:])
        raise PackageError(f"{' '.join(command)}: exit code {result.returncode}\n{said}")
    return result.stdout


def require_none_displaced(names: Collection[str], lost: Collection[str]) -> None:
    """Raise DisplacedError if the installation of some packages would remove others."""
    if lost:
        raise DisplacedError(
            f"the installation of {', '.join(sorted(names))} would remove {', '.join(sorted(lost))}; install or remove "
            "them yourself, or use another host"
        )


def purge_of(manager: PackageManager, package: str) -> Purge | None:
    """Return what is known of the purge of a package."""
    return next((purge for purge in manager.PURGES if re.fullmatch(purge.packages, package)), None)


def claims(manager: PackageManager, packages: Iterable[str]) -> set[str]:
    """Return the paths and the accounts that a purge of packages would remove."""
    purges = [purge for purge in (purge_of(manager, package) for package in packages) if purge]
    return {name for purge in purges for name in (*purge.paths, *purge.accounts)}


def existing(names: Iterable[str]) -> set[str]:
    """Return which of some paths and accounts exist."""
    accounts = {user.pw_name for user in pwd.getpwall()} | {group.gr_name for group in grp.getgrall()}
    return {name for name in names if (os.path.lexists(name) if name.startswith("/") else name in accounts)}


def is_changed(path: str, digest: str) -> bool:
    """Return whether a configuration file is no longer what its package installed. A removed one is not lost again."""
    if not os.path.lexists(path):
        return False
    algorithm = {32: "md5", 64: "sha256", 128: "sha512"}[len(digest)]
    try:
        return hashlib.new(algorithm, safe_files.read(path), usedforsecurity=False).hexdigest() != digest
    except OSError:
        return True


def files_below(top: Path) -> list[Path]:
    """Return a file, or all files below a directory; links are not followed."""
    if top.is_symlink() or not top.is_dir():
        return [top] if os.path.lexists(top) else []
    found: list[Path] = []
    for place, directories, files, _ in os.fwalk(top):
        below = [Path(place, name) for name in (*directories, *files)]
        found += [path for path in below if path.is_symlink() or not path.is_dir()]
    return sorted(found)


def recorded(ledgers: Path) -> tuple[set[str], tuple[str, ...]]:
    """Return the paths that the instances on this host recorded, and the beginnings of those below directories."""
    books = [json.loads(safe_files.read(book)) for book in ledgers.glob("*.json")]
    # The record of packages has none.
    entries = [entry for book in books for entry in book.get("entries", {}).values()]
    below = tuple(f"{entry['name']}/" for entry in entries if entry["kind"] in ("tree", "data"))
    return {entry["name"] for entry in entries}, below


def deleted_recursively(script: str) -> set[str]:
    """Return the directories of configuration and data that the removal script of a package deletes."""
    lines = re.findall(r"\brm\s+-\w*[rR].*", script)
    places = r"(?<=[\s\"'])/(?:etc|var(?!/cache|/run)|srv|opt|home)/[\w./+-]+"
    return {path.rstrip("/") for line in lines for path in re.findall(places, line)}


def existed_before(manager: PackageManager, packages: Collection[str], *, fresh: Collection[str]) -> dict[str, str]:
    """Return the packages whose purge could take what existed before them, and why.

    `fresh` are the paths and accounts that did not exist before the packages were installed.
    """
    found: dict[str, str] = {}
    for package in sorted(packages):
        purge = purge_of(manager, package)
        if purge and (before := sorted(existing({*purge.paths, *purge.accounts} - set(fresh)))):
            found[package] = f"{', '.join(before)} may have existed before the package"
    return found


def used_since(
    manager: PackageManager, packages: Collection[str], *, relatives: Collection[str], ledgers: Path
) -> dict[str, str]:
    """Return the packages that someone else has configured or given files since they were installed, and why.

    `relatives` are all packages that are removed together.
    """
    found: dict[str, str] = {}
    own, below = recorded(ledgers)
    # Packages share directories: /etc/postgresql-common holds configuration of postgresql-common-dev.
    conffiles = manager.configuration(relatives)
    changed = {path for path, digest in conffiles.items() if is_changed(path, digest)}
    known = {*own, *conffiles, *manager.listed(relatives)}
    for package in sorted(packages):
        purge = purge_of(manager, package)
        family = [name for name in relatives if purge and re.fullmatch(purge.packages, name)] or [package]
        tops = tuple(f"{top}/" for top in purge.paths) if purge else ()
        if lost := changed & {*manager.configuration(family), *(path for path in conffiles if path.startswith(tops))}:
            found[package] = f"{', '.join(sorted(lost))} was changed"
            continue
        writes, links = (purge.writes, purge.links) if purge else ((), {})
        paths = set(purge.paths) if purge else deleted_recursively(manager.removal_script(package))
        foreign = [
            str(path)
            for top in sorted(paths)
            for path in files_below(Path(top))
            if str(path) not in known
            and not str(path).startswith(below)
            and not any(fnmatch.fnmatchcase(str(path), pattern) for pattern in writes)
            and not leads_to(path, links.get(str(path)))
            and not (purge and is_unfilled(path, purge.placeholders.get(str(path))))
        ]
        if foreign:
            found[package] = f"{', '.join(foreign[:10])} did not come with the package"
    return found


def leads_to(path: Path, target: str | None) -> bool:
    """Return whether a path is a link with this target."""
    return target is not None and path.is_symlink() and str(path.readlink()) == target


def is_unfilled(path: Path, text: bytes | None) -> bool:
    """Return whether a file is still the placeholder of its package."""
    return text is not None and not path.is_symlink() and text not in safe_files.read(path)
