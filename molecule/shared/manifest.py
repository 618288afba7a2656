#!/usr/bin/env python3
"""What is on a host, to compare before and after.

    manifest.py                  print this host's manifest as JSON (also `ssh HOST python3 - < manifest.py`)
    manifest.py BEFORE AFTER     print what differs between two of them, one thing on a line; `-` is standard input

A manifest maps what there is to what is to be known of it: `file /etc/hosts` to its type, owner and mode, and so on for
users, groups, units, packages, listening ports, and processes whose files are gone. Needs root, and nothing but Python.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VOLATILE = re.compile(
    "|".join(
        (
            # The kernel's, and what the next boot forgets.
            "/(dev|proc|run|sys|tmp|var/tmp)",
            # Caches: may be emptied at any time.
            "/var/cache",
            # Ansible's and its modules' own.
            r".*/\.ansible",
            # What the package manager remembers of its own work, whatever came and went.
            r"/var/lib/(apt|dpkg|ucf)(/.*)?|/var/log/(apt(/.*)?|alternatives\.log|dpkg\.log)",
            # What databases do with their own files.
            r"/var/lib/postgresql/[^/]+/[^/]+/.*|/var/lib/redis/.*",
            # The journal, and the record of who logged in, which our own coming and going writes.
            "/var/log/(journal|btmp|lastlog|wtmp|wtmp.db)",
            # Where systemd keeps clocks, random seeds and timers' last runs; not who may linger.
            "/var/lib/systemd/(?!linger).*",
            # The previous version of passwd, group and the like, and the lock that guards them.
            r"/etc/(sub)?[a-z]+-|/etc/\.pwd\.lock",
        )
    )
)


DIGESTED = ("/etc/", "/home/", "/opt/", "/root/", "/srv/", "/usr/local/", "/var/spool/cron/", "/var/www/")
"""Where people keep files of their own: a digest of what they hold is in the manifest."""


def files() -> Iterator[tuple[str, str]]:
    """Yield each file with its type, owner and mode, and in directories of people with a digest of its content."""
    for directory, names, others in os.walk("/"):
        names[:] = [name for name in names if not VOLATILE.fullmatch(str(Path(directory, name)))]
        for path in (Path(directory, name) for name in names + others):
            with contextlib.suppress(FileNotFoundError):
                if VOLATILE.fullmatch(str(path)):
                    continue
                status = path.lstat()
                facts = [stat.filemode(status.st_mode), owner(status)]
                if path.is_symlink():
                    facts.append(f"-> {path.readlink()}")
                elif path.is_file() and str(path).startswith(DIGESTED):
                    facts.append(hashlib.sha256(path.read_bytes()).hexdigest()[:12])
                yield f"file {path}", " ".join(facts)


def owner(status: os.stat_result) -> str:
    """Return `user:group`, with numbers for those that have no name."""
    user, group = str(status.st_uid), str(status.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(status.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return f"{user}:{group}"


def accounts() -> Iterator[tuple[str, str]]:
    """Yield users and groups with their numbers, homes, shells and members."""
    for user in pwd.getpwall():
        yield f"user {user.pw_name}", f"{user.pw_uid}:{user.pw_gid} {user.pw_dir} {user.pw_shell}"
    for group in grp.getgrall():
        yield f"group {group.gr_name}", f"{group.gr_gid} {','.join(group.gr_mem)}"


def listing(kind: str, *command: str) -> Iterator[tuple[str, str]]:
    """Yield each line of a command's output by its first word."""
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        name, _, rest = line.strip().partition(" ")
        yield f"{kind} {name}", " ".join(rest.split())


def ports() -> Iterator[tuple[str, str]]:
    """Yield the addresses that something listens on."""
    for _, line in listing("", "ss", "--no-header", "--listening", "--numeric", "--tcp", "--udp"):
        yield f"port {line.split()[3]}", "open"


def postgres() -> Iterator[tuple[str, str]]:
    """Yield roles with their passwords, and databases with a digest of a dump, of each PostgreSQL that runs."""
    if not shutil.which("pg_lsclusters"):
        return
    listed = subprocess.run(["pg_lsclusters", "--no-header"], capture_output=True, text=True, check=True)
    for version, name, port, status, *_ in (line.split() for line in listed.stdout.splitlines()):
        yield f"cluster {version}/{name}", f"{port} {status}"
        if status != "online":
            continue

        def ask(*command: str, port: str = port) -> str:
            given = ["runuser", "--user", "postgres", "--", command[0], f"--port={port}", *command[1:]]
            return subprocess.run(given, cwd="/", capture_output=True, text=True, check=True).stdout

        query = ("psql", "--no-psqlrc", "--no-align", "--tuples-only", "--command")
        for line in ask(*query, "select rolname, rolpassword, rolcanlogin from pg_authid").splitlines():
            yield f"role {version}/{name} {line.partition('|')[0]}", line
        for line in ask(
            *query, "select datname, datdba::regrole from pg_database where not datistemplate"
        ).splitlines():
            database = line.partition("|")[0]
            # Newer versions of pg_dump write a random word.
            text = re.sub(r"^\\(un)?restrict .*$", "", ask("pg_dump", database), flags=re.MULTILINE)
            yield f"database {version}/{name} {database}", f"{line} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def orphans() -> Iterator[tuple[str, str]]:
    """Yield the processes that outlived their program or their directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str((process / link).readlink()).endswith(" (deleted)") for link in ("cwd", "exe")):
                yield f"orphan {process.name}", (process / "cmdline").read_text().replace("\0", " ").strip()


def manifest() -> dict[str, str]:
    """Return this host's manifest."""
    systemctl = ("systemctl", "--plain", "--no-legend", "--no-pager")
    parts = (
        files(),
        accounts(),
        # Transient ones are logins.
        (unit for unit in listing("unit", *systemctl, "list-unit-files") if not unit[1].startswith("transient")),
        listing("failed", *systemctl, "--failed"),
        listing("package", "dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Status}\n"),
        ports(),
        postgres(),
        orphans(),
    )
    return dict(sorted(entry for part in parts for entry in part))


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what went (-) and what came (+) between two manifests; what changed did both."""
    return [
        f"{sign} {key}: {there[key]}"
        for key in sorted(before.keys() | after.keys())
        for sign, there in (("-", before), ("+", after))
        if key in there and before.get(key) != after.get(key)
    ]


def main() -> None:
    if len(sys.argv) == 1:
        print(json.dumps(manifest(), indent=0))
        return
    before, after = (json.loads(sys.stdin.read() if name == "-" else Path(name).read_text()) for name in sys.argv[1:])
    print(*differences(before, after), sep="\n")


if __name__ == "__main__":
    main()
