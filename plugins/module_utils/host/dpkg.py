"""apt and dpkg, the package manager of Debian and its kin."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from pathlib import Path

from . import safe_files
from .package_manager import (
    Purge,
    is_changed,
    leads_to,
    require_none_displaced,
    run,
)

APT = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
SCRIPTS = Path("/var/lib/dpkg/info")

LEFT_BEHIND = ("/var/www", "/var/www/html", "/var/www/html/index.nginx-debian.html")
"""What Nginx creates and its purge leaves."""

DEFAULT_LOCALE = Path("/etc/default/locale")
"""A symbolic link of systemd on newer Debian, which a purge of the package locales removes."""

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


def query(*words: str) -> str:
    """Return what dpkg-query prints, which may know only some of the packages."""
    return subprocess.run(["dpkg-query", *words], capture_output=True, text=True, check=False).stdout


def present(names: Collection[str]) -> set[str]:
    """Return which of the packages are installed."""
    if not names:
        return set()
    lines = query("--show", "--showformat", "${Package} ${db:Status-Status}\n", *names).splitlines()
    return {line.split()[0] for line in lines if line.endswith(" installed")}


def coming_with(names: Collection[str]) -> set[str]:
    """Return the packages that the installation of some would install.

    Raises DisplacedError if it would remove others.
    """
    plan = run(*APT, "--simulate", "install", *sorted(names))
    require_none_displaced(names, set(re.findall(r"^(?:Remv|Purg) (\S+)", plan, re.MULTILINE)))
    # "Inst name [old] (new ...)" is an upgrade.
    return set(re.findall(r"^Inst (\S+) \(", plan, re.MULTILINE))


def going_with(names: Collection[str]) -> set[str]:
    """Return the packages that the purge of some would remove, with those that depend on them."""
    return set(re.findall(r"^(?:Purg|Remv) (\S+)", run(*APT, "--simulate", "purge", *sorted(names)), re.MULTILINE))


def needed_by(names: Collection[str]) -> set[str]:
    """Return some installed packages and all their dependencies."""
    if not names:
        return set()
    relations = ("--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances")
    tree = run("apt-cache", "depends", "--recurse", "--installed", *relations, *sorted(names))
    return {line.split(":")[0] for line in tree.splitlines() if line and not line.startswith((" ", "|", "<"))}


def disabled(streams: Collection[str]) -> list[str]:
    """Return nothing: Debian has no module streams."""
    return []


def enable(streams: Collection[str]) -> None:
    """Do nothing."""


def reset(streams: Collection[str]) -> None:
    """Do nothing."""


def refresh() -> None:
    """Fetch the package lists."""
    run(*APT, "update")


def install(names: Collection[str]) -> None:
    """Install packages, without removing others."""
    run(*APT, "install", "--no-remove", *sorted(names))


def remove(names: Collection[str]) -> None:
    """Remove packages, and leave their configuration and data."""
    run(*APT, "remove", *sorted(names))


def purge(names: Collection[str], *, fresh: Collection[str]) -> None:
    """Purge packages. Their scripts know what they created, so `fresh` is not needed."""
    locale = str(DEFAULT_LOCALE.readlink()) if DEFAULT_LOCALE.is_symlink() else ""
    run(*APT, "purge", *sorted(names))
    if locale and not DEFAULT_LOCALE.is_symlink():
        DEFAULT_LOCALE.symlink_to(locale)


def leftovers(names: Collection[str]) -> Collection[str]:
    """Return the paths that the installation of packages creates and their purge leaves."""
    return LEFT_BEHIND if "nginx" in names else ()


def configuration(packages: Collection[str]) -> dict[str, str]:
    """Return the configuration files of packages with the MD5 digests that they were installed with."""
    shown = query("--show", "--showformat", "${Conffiles}\n", *sorted(packages)) if packages else ""
    return dict(re.findall(r"^ (/.+) ([0-9a-f]{32})(?: .*)?$", shown, re.MULTILINE))


def listed(packages: Collection[str]) -> list[str]:
    """Return the paths that packages consist of."""
    return query("--listfiles", *sorted(packages)).splitlines() if packages else []


def removal_script(package: str) -> str:
    """Return the script that runs when a package is removed."""
    script = SCRIPTS / f"{package}.postrm"
    return safe_files.read(script).decode(errors="replace") if script.exists() else ""


def is_packaged_link(path: str, package: str) -> bool:
    """Return whether a link is the one that a package created, to its own unchanged file."""
    purge = next((purge for purge in PURGES if re.fullmatch(purge.packages, package)), None)
    if purge is None or not leads_to(Path(path), purge.links.get(path)):
        return False
    target = purge.links[path]
    owner = re.match(r"([\w.+-]+)", query("--search", target))
    digest = configuration([owner[1]]).get(target) if owner else None
    return digest is not None and not is_changed(target, digest)
