"""What dpkg knows of installed packages: their files, their configuration files, and what their purge removes."""

from __future__ import annotations

import fnmatch
import grp
import hashlib
import json
import os
import pwd
import re
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import safe_files

SCRIPTS = Path("/var/lib/dpkg/info")


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


PURGES = (
    Purge(
        packages=r"redis(-server|-tools|-sentinel)?",
        paths=("/etc/redis", "/var/lib/redis", "/var/log/redis"),
        accounts=("redis",),
    ),
    Purge(
        packages=r"nginx(-common|-core|-light|-full|-extras)?|libnginx-mod-.*",
        paths=("/etc/nginx", "/var/lib/nginx", "/var/log/nginx"),
        writes=("/var/log/nginx/access.log*", "/var/log/nginx/error.log*"),
        links={"/etc/nginx/sites-enabled/default": "/etc/nginx/sites-available/default"},
    ),
    Purge(packages="nftables", paths=("/etc/nftables.conf",)),
    Purge(
        packages=r"postgresql(-client)?(-common|-\d+)?",
        paths=("/etc/postgresql", "/etc/postgresql-common", "/var/lib/postgresql", "/var/log/postgresql"),
        accounts=("postgres",),
        writes=("/etc/postgresql-common/createcluster.conf", "/var/log/postgresql/*.log*"),
        placeholders={"/etc/postgresql-common/root.crt": b"-----BEGIN"},
    ),
    Purge(
        packages="ssl-cert",
        paths=("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"),
        accounts=("ssl-cert",),
        writes=("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"),
    ),
    Purge(
        packages="certbot",
        paths=("/etc/letsencrypt", "/var/log/letsencrypt"),
        writes=(
            *(f"/etc/letsencrypt/{name}/*" for name in ("accounts", "csr", "keys")),
            *(
                f"/etc/letsencrypt/{name}"
                for name in ("live/README", "ssl-dhparams.pem", "options-ssl-*", ".updated-*")
            ),
            "/var/log/letsencrypt/letsencrypt.log*",
            "/var/log/letsencrypt/.certbot.lock",
            "/etc/letsencrypt/.certbot.lock",
        ),
    ),
    Purge(packages="logrotate", paths=("/var/lib/logrotate",), writes=("/var/lib/logrotate/status*",)),
)
"""The packages that this collection installs, and those that come with them."""


def purge_of(package: str) -> Purge | None:
    """Return what is known of the purge of a package."""
    return next((purge for purge in PURGES if re.fullmatch(purge.packages, package)), None)


def claims(packages: Iterable[str]) -> set[str]:
    """Return the paths and the accounts that a purge of packages would remove."""
    purges = [purge for purge in map(purge_of, packages) if purge]
    return {name for purge in purges for name in (*purge.paths, *purge.accounts)}


def existing(names: Iterable[str]) -> set[str]:
    """Return which of some paths and accounts exist."""
    accounts = {user.pw_name for user in pwd.getpwall()} | {group.gr_name for group in grp.getgrall()}
    return {name for name in names if (os.path.lexists(name) if name.startswith("/") else name in accounts)}


def query(*words: str) -> str:
    """Return what dpkg-query prints, which may know only some of the packages."""
    return subprocess.run(["dpkg-query", *words], capture_output=True, text=True, check=False).stdout


def configuration(packages: Collection[str]) -> dict[str, str]:
    """Return the configuration files of packages with the MD5 digests that they were installed with."""
    shown = query("--show", "--showformat", "${Conffiles}\n", *sorted(packages)) if packages else ""
    return dict(re.findall(r"^ (/.+) ([0-9a-f]{32})(?: .*)?$", shown, re.MULTILINE))


def is_changed(path: str, digest: str) -> bool:
    """Return whether a configuration file is no longer what its package installed. A removed one is not lost again."""
    if not os.path.lexists(path):
        return False
    try:
        return hashlib.md5(safe_files.read(path), usedforsecurity=False).hexdigest() != digest
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


def deleted_recursively(package: str) -> set[str]:
    """Return the directories of configuration and data that the removal script of a package deletes."""
    script = SCRIPTS / f"{package}.postrm"
    if not script.exists():
        return set()
    lines = re.findall(r"\brm\s+-\w*[rR].*", safe_files.read(script).decode(errors="replace"))
    places = r"(?<=[\s\"'])/(?:etc|var(?!/cache|/run)|srv|opt|home)/[\w./+-]+"
    return {path.rstrip("/") for line in lines for path in re.findall(places, line)}


def existed_before(packages: Collection[str], *, fresh: Collection[str]) -> dict[str, str]:
    """Return the packages whose purge could take what existed before them, and why.

    `fresh` are the paths and accounts that did not exist before the packages were installed.
    """
    found: dict[str, str] = {}
    for package in sorted(packages):
        purge = purge_of(package)
        if purge and (before := sorted(existing({*purge.paths, *purge.accounts} - set(fresh)))):
            found[package] = f"{', '.join(before)} may have existed before the package"
    return found


def used_since(packages: Collection[str], *, relatives: Collection[str], ledgers: Path) -> dict[str, str]:
    """Return the packages that someone else has configured or given files since they were installed, and why.

    `relatives` are all packages that are removed together.
    """
    found: dict[str, str] = {}
    own, below = recorded(ledgers)
    # Packages share directories: /etc/postgresql-common holds configuration of postgresql-common-dev.
    conffiles = configuration(relatives)
    changed = {path for path, digest in conffiles.items() if is_changed(path, digest)}
    known = {*own, *conffiles, *(query("--listfiles", *sorted(relatives)).splitlines() if relatives else ())}
    for package in sorted(packages):
        purge = purge_of(package)
        family = [name for name in relatives if purge and re.fullmatch(purge.packages, name)] or [package]
        tops = tuple(f"{top}/" for top in purge.paths) if purge else ()
        if lost := changed & {*configuration(family), *(path for path in conffiles if path.startswith(tops))}:
            found[package] = f"{', '.join(sorted(lost))} was changed"
            continue
        writes, links = (purge.writes, purge.links) if purge else ((), {})
        paths = set(purge.paths) if purge else deleted_recursively(package)
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


def is_packaged_link(path: str, package: str) -> bool:
    """Return whether a link is the one that a package created, to its own unchanged file."""
    purge = purge_of(package)
    if purge is None or not leads_to(Path(path), purge.links.get(path)):
        return False
    target = purge.links[path]
    owner = re.match(r"([\w.+-]+)", query("--search", target))
    digest = configuration([owner[1]]).get(target) if owner else None
    return digest is not None and not is_changed(target, digest)
