"""The distribution of this host, what its packages are called, and which parts of Prefect cannot be installed on it.

The facts about the RHEL family are from the documentation of RHEL 9 and 10 and of their packages; no host of it has run
them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

DEBIAN, REDHAT = "debian", "redhat"
PROGRAMS = {DEBIAN: ("apt-get", "dpkg-query"), REDHAT: ("dnf", "rpm")}
"""The package manager of each family, without which nothing can be installed."""

KIN_OF_RHEL = {"almalinux", "centos", "ol", "rhel", "rocky"}
VERSIONS_OF_RHEL = (9, 10)


@dataclass(frozen=True)
class Distribution:
    """A distribution: the name to show, its family, which is empty if it is unknown, and its major version."""

    name: str
    family: str
    major: int


@dataclass(frozen=True)
class Component:
    """Something that a role installs from packages of the distribution."""

    title: str
    otherwise: str
    """What to do on a host that cannot have it."""
    debian: Mapping[str, Any]
    redhat: Mapping[int, Mapping[str, Any]]
    """By the major version."""


POSTGRESQL_OF_REDHAT = {
    # Prefect's migrations create pg_trgm, which is in postgresql-contrib.
    "packages": ["postgresql-server", "postgresql-contrib"],
    "accounts": ["postgres"],
    "program_dir": "/var/lib/pgsql",
    "unit": "postgresql.service",
    "setup": ["/usr/bin/postgresql-setup", "--initdb"],
    "data": "/var/lib/pgsql/data",
    "server": "/usr/bin/postgres",
    "socket": "/run/postgresql",
    "port_type": "postgresql_port_t",
}

REDIS_OF_REDHAT = {
    "packages": ["redis"],
    "accounts": ["redis"],
    "mask": ["redis.service"],
    "account": "redis",
    "program": "/usr/bin/redis-server",
    "port_type": "redis_port_t",
    "data_type": "redis_var_lib_t",
}

NGINX_OF_REDHAT = {
    "packages": ["nginx"],
    "accounts": ["nginx"],
    # Its default site is in nginx.conf itself, and stays.
    "default_site": [],
    # From EPEL. Debian's certbot.timer needs not be enabled.
    "renewal": "certbot-renew.timer",
    "port_type": "http_port_t",
    # Otherwise Nginx may not connect to the servers.
    "booleans": ["httpd_can_network_connect"],
}

NOTHING: Mapping[str, Any] = {"packages": [], "accounts": [], "mask": [], "streams": [], "booleans": []}
"""What a component has of what it does not name."""

COMPONENTS = {
    "postgresql": Component(
        title="PostgreSQL",
        otherwise="set prefect_database_url to one that runs elsewhere",
        debian={
            "packages": ["postgresql"],
            "accounts": ["postgres", "ssl-cert"],
            "program_dir": "/usr/lib/postgresql",
        },
        # Without a module stream, RHEL 9 installs PostgreSQL 13, which Prefect does not support.
        redhat={9: POSTGRESQL_OF_REDHAT | {"streams": ["postgresql:16"]}, 10: POSTGRESQL_OF_REDHAT},
    ),
    "psycopg2": Component(
        title="the PostgreSQL client of Ansible",
        otherwise="set prefect_database_url to a database that runs elsewhere",
        debian={"packages": ["python3-psycopg2"]},
        redhat={9: {"packages": ["{psycopg2}"]}, 10: {"packages": ["{psycopg2}"]}},
    ),
    "redis": Component(
        title="Redis",
        otherwise="set prefect_redis_url to one that runs elsewhere",
        debian={
            "packages": ["redis-server"],
            # An existing Redis keeps running. The service of a newly installed package is not needed.
            "mask": ["redis-server.service"],
            "account": "redis",
            "program": "/usr/bin/redis-server",
        },
        redhat={
            9: REDIS_OF_REDHAT,
            # RHEL 10 has Valkey in its place. Its policy labels both alike.
            10: REDIS_OF_REDHAT
            | {
                "packages": ["valkey"],
                "accounts": ["valkey"],
                "mask": ["valkey.service"],
                "account": "valkey",
                "program": "/usr/bin/valkey-server",
            },
        },
    ),
    "nginx": Component(
        title="Nginx",
        otherwise=(
            "let a host with Debian or Ubuntu be the proxy, or use a reverse proxy of your own with "
            "prefect_server_host, prefect_api_url and prefect_server_ui_api_url"
        ),
        debian={
            "packages": ["nginx"],
            "default_site": ["/etc/nginx/sites-enabled/default"],
            "renewal": "",
        },
        redhat={9: NGINX_OF_REDHAT, 10: NGINX_OF_REDHAT},
    ),
    "certbot": Component(
        title="certbot",
        otherwise="set prefect_proxy_acme to false, or prefect_proxy_certificate to a certificate of your own",
        debian={"packages": ["certbot"]},
        redhat={9: {"packages": ["certbot"]}, 10: {"packages": ["certbot"]}},
    ),
    "firewall": Component(
        title="a firewall",
        otherwise="set it to none, and limit the ports by other means",
        debian={"packages": ["nftables"]},
        redhat={9: {"packages": ["nftables"]}, 10: {"packages": ["nftables"]}},
    ),
}


def read() -> dict[str, str]:
    """Return what os-release says of this host, an empty mapping if it has none."""
    text = next((Path(path).read_text(errors="replace") for path in RELEASE_FILES if Path(path).is_file()), "")
    pairs = (line.partition("=") for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return {name: " ".join(shlex.split(value)) for name, _, value in pairs}


def missing_programs(*names: str) -> list[str]:
    """Return which of some programs this host does not have."""
    return [name for name in names if shutil.which(name, path=SYSTEM_PATH) is None]


def current() -> Distribution:
    """Return the distribution of this host.

    Whatever has apt and dpkg and is no kin of RHEL counts as Debian.
    """
    said = read()
    name = said.get("PRETTY_NAME") or said.get("NAME") or "an unknown system"
    number = re.match(r"\d+", said.get("VERSION_ID", ""))
    kin = {said.get("ID", ""), *said.get("ID_LIKE", "").split()}
    family = REDHAT if kin & KIN_OF_RHEL else "" if missing_programs(*PROGRAMS[DEBIAN]) else DEBIAN
    return Distribution(name=name, family=family, major=int(number[0]) if number else 0)


def refused(components: Mapping[str, str], *, experimental: bool) -> list[str]:
    """Return an error for each component that cannot be installed on this host, by the role or variable that asks."""
    found = []
    here = current()
    for who, what in components.items():
        component = COMPONENTS[what]
        where = f"{who}: {os.uname().nodename} runs {here.name}"
        instead = component.otherwise
        if not here.family:
            found.append(
                f"{where} and has no apt-get and dpkg, with which {component.title} is installed on Debian and Ubuntu; "
                f"{instead}"
            )
        elif here.family == DEBIAN:
            continue
        elif here.major not in component.redhat:
            known = " and ".join(str(version) for version in component.redhat)
            found.append(f"{where}; of the RHEL family only versions {known} are known; {instead}")
        elif lacking := missing_programs(*PROGRAMS[REDHAT]):
            found.append(
                f"{where} and has no {' and '.join(lacking)}, with which {component.title} is installed; {instead}"
            )
        elif not experimental:
            found.append(
                f"{where}; for the RHEL family, {component.title} was written from documentation and never run on a "
                f"real host, so it is not installed; {instead}; or set prefect_experimental_platforms to true to try "
                "it on a host that you can lose"
            )
    return found


def facts(what: str) -> dict[str, Any]:
    """Return what is known of a component on this host; of Debian if its distribution is unknown."""
    here = current()
    component = COMPONENTS[what]
    if here.family != REDHAT or here.major not in component.redhat:
        return {"family": DEBIAN, **NOTHING, **component.debian}
    found = {"family": REDHAT, **NOTHING, **component.redhat[here.major]}
    own = [psycopg2_of_redhat(here.major) if name == "{psycopg2}" else name for name in found["packages"]]
    if what == "firewall" and firewalld_runs():
        own = []
    # semanage, to tell SELinux about ports and directories.
    return found | {
        "packages": own + (["policycoreutils-python-utils"] if found.get("port_type") and confined() else [])
    }


def confined() -> bool:
    """Return whether SELinux is enabled on this host, even if it only warns."""
    return Path("/sys/fs/selinux/enforce").exists()


def firewalld_runs() -> bool:
    """Return whether firewalld manages the firewall of this host."""
    command = ["systemctl", "is-active", "--quiet", "firewalld.service"]
    return not missing_programs("firewall-cmd", "systemctl") and not subprocess.run(command, check=False).returncode


def psycopg2_of_redhat(major: int, python: tuple[int, ...] = sys.version_info[:2]) -> str:
    """Return the package of psycopg2 for the Python that runs Ansible's modules: the system's, or one beside it."""
    own = {9: (3, 9), 10: (3, 12)}[major]
    return "python3-psycopg2" if python[:2] == own else f"python{python[0]}.{python[1]}-psycopg2"
