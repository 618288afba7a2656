"""What Jinja needs to reach a database, a Redis and other hosts, from what an inventory says of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ansible.errors import AnsibleFilterError

POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?")
REDIS = re.compile(r"rediss?(?:\+sentinel)?")
TAIL = re.compile(r"(?P<hosts>[^@/?#]*)(?:/(?P<path>[^@?#]*))?(?:\?(?P<query>[^#]*))?")
"""What follows a URL's credentials."""

SSL_MODES = {
    "verify-full": {"tls": True, "check_hostname": True},
    "verify-ca": {"tls": True, "check_hostname": False},
}
"""libpq's modes that prove who the server is. The others of its words go to asyncpg as they are."""

CONNECT_ARGS = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS"

PARAMETERS = {
    "application_name": f"{CONNECT_ARGS}_APPLICATION_NAME",
    "connect_timeout": "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT",
    "prepared_statement_cache_size": f"{CONNECT_ARGS}_PREPARED_STATEMENT_CACHE_SIZE",
    "search_path": f"{CONNECT_ARGS}_SEARCH_PATH",
    "statement_cache_size": f"{CONNECT_ARGS}_STATEMENT_CACHE_SIZE",
}
"""Parameters of a PostgreSQL's URL that asyncpg would not take from there, and the settings that do the same."""

FORMS = {
    "prefect_database_url": "postgresql://user:password@host:5432/database, "
    "postgresql://user@/database?host=/run/postgresql for a socket of the host, or sqlite+aiosqlite:////directory/file",
    "prefect_redis_url": "redis://user:password@host:6379/0, rediss://... for TLS, or redis+sentinel://:password@host:"
    "26379/master",
}
"""What the URL of a variable looks like, for messages."""

DRIVER_PARAMETERS = frozenset({"ssl", "target_session_attrs", "default_transaction_isolation"})
"""Those that it does."""


def loopback(address: str) -> bool:
    """Return whether only its own host reaches an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def address(host: str, hostvars: Mapping[str, Any]) -> str:
    """Return where other hosts of the inventory reach a host: its prefect_address, ansible_host or name."""
    known = hostvars.get(host, {})
    return str(known.get("prefect_address") or known.get("ansible_host") or host)


def backend_host(hosts: list[str], host: str, hostvars: Mapping[str, Any]) -> str:
    """Return where `host` reaches the database or Redis that the first of `hosts` runs; empty without any."""
    if not hosts:
        return ""
    return "127.0.0.1" if hosts[0] == host else address(hosts[0], hostvars)


def is_backend(
    hosts: list[str], host: str, hostvars: Mapping[str, Any], url: str, chosen: str, without: str = ""
) -> bool:
    """Return whether the database or Redis at `url` or on `chosen` is the one that the first of `hosts` runs.

    Where that host has a value for the variable `without`, it is not.
    """
    if not hosts or url or chosen != backend_host(hosts, host, hostvars):
        return False
    return not (without and hostvars[hosts[0]].get(without))


def values_of(hosts: list[str], hostvars: Mapping[str, Any], variable: str, default: Any) -> list[Any]:
    """Return what the inventory says of a variable for each host of it, and the default where it says nothing."""
    return [hostvars[host].get(variable, default) for host in hosts if host in hostvars]


def exposed(servers: list[str], hostvars: Mapping[str, Any]) -> bool:
    """Return whether one of the servers listens on more than its own host's loopback."""
    listening = values_of(servers, hostvars, "prefect_server_host", "")
    return any(not loopback(str(listens_on)) for listens_on in listening if listens_on)


def split_url(url: str, *, variable: str, schemes: re.Pattern[str]) -> dict[str, Any]:
    """Return the scheme, user, password, hosts, path and query of a URL, the credentials as they really are.

    A password may stand in it percent-encoded or as it is, whatever it holds: the last `@` that a host follows ends
    the credentials, the first `:` of them the user, and what no encoder would have left there was not encoded.
    The host is empty where the query has one, which PostgreSQL's URLs may have for a directory with a socket.
    Raises AnsibleFilterError, without the URL, where it is none of the schemes or names no host.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not schemes.fullmatch(scheme):
        raise AnsibleFilterError(f"{variable}: it is no URL that can be used here; write {FORMS[variable]}")
    credentials, tail = "", TAIL.fullmatch(rest)
    for at in (match.start() for match in re.finditer("@", rest)):
        if found := TAIL.fullmatch(rest, at + 1):
            credentials, tail = rest[:at], found
    query = dict(parse_qsl((tail and tail["query"]) or "", keep_blank_values=True))
    if tail is None or not (tail["hosts"] or query.get("host")):
        raise AnsibleFilterError(
            f"{variable}: it names no host, or one that cannot be told from the password; write {FORMS[variable]}"
        )
    user, _, password = credentials.partition(":")
    return {
        "scheme": scheme,
        "user": decoded(user),
        "password": decoded(password),
        "hosts": tail["hosts"],
        "path": unquote(tail["path"] or ""),
        "query": query,
    }


def decoded(text: str) -> str:
    """Return a part of a URL without its percent-encoding, if it has one."""
    encoded = re.fullmatch(r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*", text, re.ASCII)
    return unquote(text) if encoded else text


def host_and_port(hosts: str, *, variable: str, default: int) -> tuple[str, int]:
    """Return host and port of `host`, `host:port` or `[address]:port`. Raises AnsibleFilterError for anything else."""
    found = re.fullmatch(r"(?:\[(?P<six>[\da-fA-F:.%]+)\]|(?P<name>[^:,\[\]]+))(?::(?P<port>\d+))?", hosts)
    if found is None:
        raise AnsibleFilterError(f"{variable}: {hosts!r} is no host with a port")
    return found["six"] or found["name"], int(found["port"] or default)


def database(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the database that a url or a host, port, name, user and password, and tls, ca, cert, key stand for.

    `kind` is sqlite or postgresql; `settings` is what makes Prefect use it. A PostgreSQL has host, port, name, user,
    password, tls (whether the server has to prove itself), ca, cert, key and check_hostname besides, and `query`,
    the further parameters of its URL. Raises AnsibleFilterError for a URL of another kind.
    """
    url = str(given.get("url") or "")
    if url.startswith("sqlite"):
        return {"kind": "sqlite", "settings": {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}}
    if not url and not given.get("host"):
        return {"kind": "sqlite", "settings": {}}
    found = {name: given.get(name) or "" for name in ("host", "name", "user", "password", "ca", "cert", "key")}
    found |= {"port": int(given.get("port") or 5432), "tls": bool(given.get("tls")), "check_hostname": True}
    query: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if url:
        parts = split_url(url, variable="prefect_database_url", schemes=POSTGRESQL)
        query = parts["query"]
        found["host"], found["port"] = database_place(parts["hosts"], query)
        # What a URL leaves out is not guessed: the generated password belongs to the database of the inventory.
        found |= {"user": parts["user"], "password": parts["password"], "name": parts["path"] or parts["user"]}
        if (mode := query.pop("sslmode", "")) in SSL_MODES:
            found |= SSL_MODES[mode]
        elif mode:
            query["ssl"] = mode
        settings = {PARAMETERS[name]: query.pop(name) for name in PARAMETERS if name in query}
        if unknown := query.keys() - DRIVER_PARAMETERS - {"sslrootcert", "sslcert", "sslkey"}:
            raise AnsibleFilterError(
                f"prefect_database_url: asyncpg knows no parameter {', '.join(sorted(unknown))}; leave it out"
            )
        for option, file in (("sslrootcert", "ca"), ("sslcert", "cert"), ("sslkey", "key")):
            found[file] = query.pop(option, "") or found[file]
        if not found["user"]:
            raise AnsibleFilterError("prefect_database_url: it names no user")
    if found["host"].startswith("/") and found["tls"]:
        raise AnsibleFilterError(
            f"prefect_database_tls: the PostgreSQL is reached by a socket in {found['host']}, which has no TLS; leave "
            "prefect_database_tls and sslmode out"
        )
    return {"kind": "postgresql", "query": query, **found, "settings": settings | database_settings(found, query)}


def database_place(hosts: str, query: dict[str, str]) -> tuple[str, int]:
    """Return host and port of a PostgreSQL's URL; a host that begins with a slash is a directory with its socket.

    Both may stand in the query, from where they are taken. Raises AnsibleFilterError for any other host there.
    """
    variable = "prefect_database_url"
    if not hosts:
        hosts = query.pop("host")
        if not hosts.startswith("/"):
            raise AnsibleFilterError(f"{variable}: {hosts} stands behind the database; write {FORMS[variable]}")
        port = query.pop("port", "") or "5432"
    elif hosts.lower().startswith("%2f"):
        hosts, _, port = hosts.partition(":")
        port = port or query.pop("port", "") or "5432"
    else:
        return host_and_port(hosts, variable=variable, default=5432)
    if not port.isdecimal():
        raise AnsibleFilterError(f"{variable}: {port!r} is no port")
    return unquote(hosts), int(port)


def database_settings(found: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a PostgreSQL: in parts, which need no quoting, unless its URL holds parameters.

    SQLAlchemy takes the directory of a socket from the query alone.
    """
    settings: dict[str, Any] = {}
    by_socket = found["host"].startswith("/")
    if query or by_socket:
        host = f"[{found['host']}]" if ":" in found["host"] else found["host"]
        credentials = f"{quote(found['user'], safe='')}:{quote(found['password'], safe='')}"
        place = f"{host}:{found['port']}"
        if by_socket:
            place, query = "", {"host": found["host"], "port": str(found["port"]), **query}
            credentials = credentials.removesuffix(":")
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = (
            f"postgresql+asyncpg://{credentials}@{place}/{quote(found['name'], safe='')}?{urlencode(query, safe='/')}"
        )
    else:
        settings["PREFECT_SERVER_DATABASE_DRIVER"] = "postgresql+asyncpg"
        for name in ("host", "port", "name", "user", "password"):
            settings[f"PREFECT_SERVER_DATABASE_{name.upper()}"] = found[name]
    if found["tls"]:
        prefix = f"{CONNECT_ARGS}_TLS"
        settings |= {f"{prefix}_ENABLED": True, f"{prefix}_CHECK_HOSTNAME": found["check_hostname"]}
        settings |= {f"{prefix}_{name.upper()}_FILE": found[name] for name in ("ca", "cert", "key") if found[name]}
    return settings


def redis(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Redis that a url or a host, port and password, and tls, ca and database stand for.

    `present` says whether there is one. `url` is for messages, leases and clean-ups; of the next databases,
    `docket_url` is for the queue of background work and `celery_url` for Celery. `settings` makes Prefect use them.
    `server` is where it is, for who looks at it: host, port, user, password, tls, verify, ca and the numbers of the
    databases that Prefect itself uses; None behind Sentinels, who know where.
    Raises AnsibleFilterError for a URL of another kind.
    """
    url, database_number = str(given.get("url") or ""), int(given.get("database") or 0)
    if not url and not given.get("host"):
        return {"present": False, "settings": {}}
    if url:
        parts = split_url(url, variable="prefect_redis_url", schemes=REDIS)
    else:
        host = f"[{given['host']}]" if ":" in str(given["host"]) else given["host"]
        parts = {
            "scheme": "rediss" if given.get("tls") else "redis",
            "user": "",
            "password": given.get("password") or "",
            "hosts": f"{host}:{given.get('port') or 6379}",
            "path": str(database_number),
            "query": {"ssl_ca_certs": given["ca"]} if given.get("tls") and given.get("ca") else {},
        }
    # A Sentinel's path starts with the name of the master.
    master, number = re.fullmatch(r"(.*?/?)(\d*)", parts["path"]).groups()  # type: ignore[union-attr]
    if parts["scheme"].endswith("+sentinel") and not number:
        master = f"{master.rstrip('/')}/"
    credentials = f"{quote(parts['user'], safe='')}:{quote(parts['password'], safe='')}@" if parts["password"] else ""
    query = f"?{urlencode(parts['query'], safe='/')}" if parts["query"] else ""

    def url_of(database_number: int) -> str:
        return f"{parts['scheme']}://{credentials}{parts['hosts']}/{master}{database_number}{query}"

    first = int(number or 0)
    return {
        "present": True,
        **{name: parts[name] for name in ("scheme", "user", "password", "hosts")},
        "url": url_of(first),
        "docket_url": url_of(first + 1),
        "celery_url": url_of(first + 2),
        "server": None if parts["scheme"].endswith("+sentinel") else redis_server(parts, databases=[first, first + 1]),
        "settings": {
            **messaging_settings(parts, url=url_of(first), database=first),
            "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": url_of(first),
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_DOCKET_URL": url_of(first + 1),
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        },
    }


def messaging_settings(parts: Mapping[str, Any], *, url: str, database: int) -> dict[str, Any]:
    """Return the settings of the Redis for messages: in parts where its URL says no more than they can.

    redis-py tries again for some seconds where it is given parts, and not once where it is given a URL: with that, each
    request that changes something would fail while Redis restarts.
    """
    prefix = "PREFECT_REDIS_MESSAGING"
    if parts["query"] or parts["scheme"].endswith("+sentinel") or not parts["password"]:
        return {f"{prefix}_URL": url}
    host, port = host_and_port(parts["hosts"], variable="prefect_redis_url", default=6379)
    return {
        f"{prefix}_HOST": host,
        f"{prefix}_PORT": port,
        f"{prefix}_DB": database,
        f"{prefix}_USERNAME": parts["user"],
        f"{prefix}_PASSWORD": parts["password"],
        f"{prefix}_SSL": parts["scheme"] == "rediss",
    }


def redis_server(parts: Mapping[str, Any], *, databases: list[int]) -> dict[str, Any]:
    """Return where the Redis of a URL is. Raises AnsibleFilterError where its host is none."""
    host, port = host_and_port(parts["hosts"], variable="prefect_redis_url", default=6379)
    return {
        "host": host,
        "port": port,
        **{name: parts[name] for name in ("user", "password")},
        "tls": parts["scheme"].startswith("rediss"),
        "verify": parts["query"].get("ssl_cert_reqs") != "none",
        "ca": parts["query"].get("ssl_ca_certs", ""),
        "databases": databases,
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "address": address,
            "backend_host": backend_host,
            "database": database,
            "exposed": exposed,
            "is_backend": is_backend,
            "redis": redis,
            "values_of": values_of,
        }
