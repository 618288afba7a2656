"""dnf and rpm, the package manager of the RHEL family.

Both are called as programs: their bindings belong to the system's Python, which on RHEL 9 is too old for Ansible's
modules. dnf names what it would do in sentences that its translations do not change in the locale C.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection

from . import safe_files
from .package_manager import (
    Purge,
    require_none_displaced,
    run,
)

DNF = ["dnf", "--setopt=install_weak_deps=False"]
INSTALLED_ONLY = ["--disablerepo=*"]
"""For what concerns installed packages alone: neither a network nor a cache is needed."""

ROOT = ""
"""Directory in which packages are installed, for tests; empty for the root directory."""

NO_DIGEST = re.compile("0+")
"""What rpm shows of a directory, and of a file whose content it does not know."""

PURGES = (
    Purge(packages=r"redis", paths=("/etc/redis", "/var/lib/redis", "/var/log/redis"), accounts=("redis",)),
    Purge(packages=r"valkey", paths=("/etc/valkey", "/var/lib/valkey", "/var/log/valkey"), accounts=("valkey",)),
    Purge(
        packages=r"nginx(-core|-filesystem|-mod-.*)?",
        paths=("/etc/nginx", "/var/lib/nginx", "/var/log/nginx"),
        accounts=("nginx",),
        writes=("/var/log/nginx/access.log*", "/var/log/nginx/error.log*"),
    ),
    Purge(packages="nftables", paths=("/etc/nftables", "/etc/sysconfig/nftables.conf")),
    Purge(
        packages=r"postgresql(-server|-contrib|-private-libs)?",
        paths=("/var/lib/pgsql",),
        accounts=("postgres",),
        writes=("/var/lib/pgsql/initdb_postgresql.log", "/var/lib/pgsql/.bash_history", "/var/lib/pgsql/.psql_history"),
    ),
    Purge(
        packages="certbot",
        paths=("/etc/letsencrypt", "/var/lib/letsencrypt", "/var/log/letsencrypt"),
        writes=(
            *(f"/etc/letsencrypt/{name}/*" for name in ("accounts", "csr", "keys")),
            *(
                f"/etc/letsencrypt/{name}"
                for name in ("live/README", "ssl-dhparams.pem", "options-ssl-*", ".updated-*", ".certbot.lock")
            ),
            "/var/log/letsencrypt/letsencrypt.log*",
            "/var/log/letsencrypt/.certbot.lock",
        ),
    ),
    Purge(packages="logrotate", paths=("/var/lib/logrotate",), writes=("/var/lib/logrotate/logrotate.status*",)),
)
"""The packages that this collection installs, and those that come with them."""


def dnf(*words: str, accept: str = "") -> str:
    """Run dnf and return its output."""
    return run(*DNF, *([f"--installroot={ROOT}"] if ROOT else []), *words, accept=accept)


def query(*words: str) -> str:
    """Return what rpm prints about packages, of which it may know only some."""
    command = ["rpm", *([f"--root={ROOT}"] if ROOT else []), "--query", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def planned(*words: str) -> dict[str, set[str]]:
    """Return the names of the packages that dnf would change, by what it would do to them."""
    # It asks for consent, gets none, and fails with this; without anything to do, it succeeds.
    said = dnf("--verbose", "--assumeno", *words, accept="Operation aborted.")
    plan: dict[str, set[str]] = {}
    for name, what in re.findall(r"^---> Package (\S+)\.\S+ \S+ will be (?:an |a )?(\w+)$", said, re.MULTILINE):
        plan.setdefault(what, set()).add(name)
    return plan


def present(names: Collection[str]) -> set[str]:
    """Return which of the packages are installed."""
    # It says in words which of them are not.
    return {*query("--queryformat", "%{NAME}\n", *names).splitlines()} & {*names} if names else set()


def coming_with(names: Collection[str]) -> set[str]:
    """Return the packages that the installation of some would install.

    Raises DisplacedError if it would remove others.
    """
    plan = planned("install", *sorted(names))
    require_none_displaced(names, {*plan.get("erased", ()), *plan.get("obsoleted", ())})
    return plan.get("installed", set())


def going_with(names: Collection[str]) -> set[str]:
    """Return the packages that the removal of some would remove, with those that depend on them."""
    return planned(*INSTALLED_ONLY, "--noautoremove", "remove", *sorted(names)).get("erased", set())


def needed_by(names: Collection[str]) -> set[str]:
    """Return some installed packages and all their dependencies."""
    if not names:
        return set()
    words = ("--installed", "--requires", "--resolve", "--recursive", "--queryformat=%{name}")
    return {*names, *dnf(*INSTALLED_ONLY, "--quiet", "repoquery", *words, *sorted(names)).split()}


def disabled(streams: Collection[str]) -> list[str]:
    """Return which of some module streams are of modules that have no stream enabled."""
    none = "No matching Modules to list"
    return [
        stream
        for stream in streams
        if not dnf("--quiet", "module", "list", "--enabled", stream.partition(":")[0], accept=none)
    ]


def enable(streams: Collection[str]) -> None:
    """Let packages come from module streams."""
    if streams:
        dnf("--quiet", "--assumeyes", "module", "enable", *sorted(streams))


def reset(streams: Collection[str]) -> None:
    """Let the packages of their modules come from the default again."""
    for name in sorted(stream.partition(":")[0] for stream in streams):
        dnf("--quiet", "--assumeyes", "module", "reset", name)
        # Only says that the module has no stream.
        safe_files.remove(f"{ROOT}/etc/dnf/modules.d/{name}.module")


def refresh() -> None:
    """Fetch the metadata of the repositories."""
    dnf("--quiet", "--refresh", "makecache")


def install(names: Collection[str]) -> None:
    """Install packages. Without --allowerasing, dnf removes none that conflict with them."""
    dnf("--quiet", "--assumeyes", "install", *sorted(names))


def remove(names: Collection[str]) -> None:
    """Remove packages. Their changed configuration stays, with another name, and so do their data and accounts."""
    dnf(*INSTALLED_ONLY, "--quiet", "--assumeyes", "--noautoremove", "remove", *sorted(names))


def purge(names: Collection[str], *, fresh: Collection[str]) -> None:
    """Remove packages, and of their directories those that did not exist before, with all that is in them."""
    remove(names)
    paths = {
        path for purge in PURGES for path in purge.paths if any(re.fullmatch(purge.packages, name) for name in names)
    }
    for path in sorted(paths & {*fresh}):
        safe_files.remove(path)


def leftovers(names: Collection[str]) -> Collection[str]:
    """Return nothing: what these packages leave is below their directories."""
    return ()


def configuration(packages: Collection[str]) -> dict[str, str]:
    """Return the configuration files of packages with the SHA-256 digests that they were installed with."""
    shown = query("--configfiles", "--dump", *sorted(packages)) if packages else ""
    # Path, size, time and digest; a path may contain spaces.
    found = dict(re.findall(r"^(/.+) \d+ \d+ ([0-9a-f]{32,128}) 0\d+ \S+ \S+ 1 ", shown, re.MULTILINE))
    return {f"{ROOT}{path}": digest for path, digest in found.items() if not NO_DIGEST.fullmatch(digest)}


def listed(packages: Collection[str]) -> list[str]:
    """Return the paths that packages consist of."""
    lines = query("--list", *sorted(packages)).splitlines() if packages else []
    return [f"{ROOT}{line}" for line in lines if line.startswith("/")]


def removal_script(package: str) -> str:
    """Return the scripts that run when a package is removed."""
    return query("--queryformat", "%{PREUN}\n%{POSTUN}\n", package)
