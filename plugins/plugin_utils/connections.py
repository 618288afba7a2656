"""Connections to databases and Redis, from the URLs or parts in the variables of a host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?")
REDIS = re.compile(r"rediss?(?:\+sentinel)?")
TAIL = re.compile(r"(?P<hosts>[^@/?#]*)(?:/(?P<path>[^@?#]*))?(?:\?(?P<query>[^#]*))?")
"""The part of a URL after its credentials."""

SSL_MODES = {
    "verify-full": {"tls": True, "check_hostname": True},
    "verify-ca": {"tls": True, "check_hostname": False},
}
"""libpq's modes that verify the server. Its other modes are passed to asyncpg unchanged."""

CONNECT_ARGS = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS"

PARAMETERS = {
    "application_name": f"{CONNECT_ARGS}_APPLICATION_NAME",
    "connect_timeout": "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT",
    "prepared_statement_cache_size": f"{CONNECT_ARGS}_PREPARED_STATEMENT_CACHE_SIZE",
    "search_path": f"{CONNECT_ARGS}_SEARCH_PATH",
    "statement_cache_size": f"{CONNECT_ARGS}_STATEMENT_CACHE_SIZE",
}
"""Parameters of a PostgreSQL URL that asyncpg does not accept in a URL, and the equivalent settings."""

FORMS = {
    "prefect_database_url": "postgresql://user:password@host:5432/database, "
    "postgresql://user@/database?host=/run/postgresql for a socket of the host, or sqlite+aiosqlite:////directory/file",
    "prefect_redis_url": "redis://user:password@host:6379/0, rediss://... for TLS, or redis+sentinel://:password@host:"
    "26379/master",
}
"""The form of each variable's URL, for messages."""

DRIVER_PARAMETERS = frozenset({"ssl", "target_session_attrs", "default_transaction_isolation"})
"""Parameters that asyncpg accepts in a URL."""


class InvalidConnection(ValueError):
    """A variable cannot be used; the message names it and the fix, and contains no secret."""


def bracketed(host: str) -> str:
    """Return a host as written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def loopback(address: str) -> bool:
    """Return whether an address can be reached from its own host only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def split_url(url: str, *, variable: str, schemes: re.Pattern[str]) -> dict[str, Any]:
    """Return the scheme, user, password, hosts, path and query of a URL, with the credentials decoded.

    The password may be percent-encoded or plain, with any characters: the credentials end at the last `@` before a
    host, the user ends at their first `:`, and credentials with characters that an encoder would replace are plain.
    The host is empty if the query has one, as a PostgreSQL URL may for the directory of a socket.
    Raises InvalidConnection, without the URL, if the scheme does not match or the host is missing.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not schemes.fullmatch(scheme):
        raise InvalidConnection(f"{variable}: it is no URL that can be used here; write {FORMS[variable]}")
    credentials, tail = "", TAIL.fullmatch(rest)
    for at in (match.start() for match in re.finditer("@", rest)):
        if found := TAIL.fullmatch(rest, at + 1):
            credentials, tail = rest[:at], found
    query = dict(parse_qsl((tail and tail["query"]) or "", keep_blank_values=True))
    if tail is None or not (tail["hosts"] or query.get("host")):
        raise InvalidConnection(
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
    """Return a part of a URL with any percent-encoding decoded."""
    encoded = re.fullmatch(r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*", text, re.ASCII)
    return unquote(text) if encoded else text


def host_and_port(hosts: str, *, variable: str, default: int) -> tuple[str, int]:
    """Return host and port of `host`, `host:port` or `[address]:port`. Raises InvalidConnection for other forms."""
    found = re.fullmatch(r"(?:\[(?P<six>[\da-fA-F:.%]+)\]|(?P<name>[^:,\[\]]+))(?::(?P<port>\d+))?", hosts)
    if found is None:
        raise InvalidConnection(f"{variable}: {hosts!r} is no host with a port")
    return found["six"] or found["name"], int(found["port"] or default)


def database(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the database described by a url, or by host, port, name, user and password, and by tls, ca, cert, key.

    `kind` is sqlite or postgresql; `settings` are the Prefect settings for it. A PostgreSQL database also has host,
    port, name, user, password, tls (whether the server is verified), ca, cert, key, check_hostname, and `query`, the
    other parameters of its URL. Raises InvalidConnection for a URL of another kind.
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
        # Parts that a URL omits have no defaults: the generated password belongs to the database of the inventory.
        found |= {"user": parts["user"], "password": parts["password"], "name": parts["path"] or parts["user"]}
        if (mode := query.pop("sslmode", "")) in SSL_MODES:
            found |= SSL_MODES[mode]
        elif mode:
            query["ssl"] = mode
        settings = {PARAMETERS[name]: query.pop(name) for name in PARAMETERS if name in query}
        if unknown := query.keys() - DRIVER_PARAMETERS - {"sslrootcert", "sslcert", "sslkey"}:
            raise InvalidConnection(
                f"prefect_database_url: asyncpg knows no parameter {', '.join(sorted(unknown))}; leave it out"
            )
        for option, file in (("sslrootcert", "ca"), ("sslcert", "cert"), ("sslkey", "key")):
            found[file] = query.pop(option, "") or found[file]
        if not found["user"]:
            raise InvalidConnection("prefect_database_url: it names no user")
    if found["host"].startswith("/") and found["tls"]:
        raise InvalidConnection(
            f"prefect_database_tls: the PostgreSQL is reached by a socket in {found['host']}, which has no TLS; leave "
            "prefect_database_tls and sslmode out"
        )
    return {"kind": "postgresql", "query": query, **found, "settings": settings | database_settings(found, query)}


def database_place(hosts: str, query: dict[str, str]) -> tuple[str, int]:
    """Return the host and port of a PostgreSQL URL; a host that starts with a slash is the directory of a socket.

    For a socket, both may be in the query and are removed from it. Raises InvalidConnection for another host there.
    """
    variable = "prefect_database_url"
    if not hosts:
        hosts = query.pop("host")
        if not hosts.startswith("/"):
            raise InvalidConnection(f"{variable}: {hosts} stands behind the database; write {FORMS[variable]}")
        port = query.pop("port", "") or "5432"
    elif hosts.lower().startswith("%2f"):
        hosts, _, port = hosts.partition(":")
        port = port or query.pop("port", "") or "5432"
    else:
        return host_and_port(hosts, variable=variable, default=5432)
    if not port.isdecimal():
        raise InvalidConnection(f"{variable}: {port!r} is no port")
    return unquote(hosts), int(port)


def database_settings(found: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings for PostgreSQL: as parts, which need no quoting, unless the URL has parameters.

    SQLAlchemy reads the directory of a socket only from the query.
    """
    settings: dict[str, Any] = {}
    by_socket = found["host"].startswith("/")
    if query or by_socket:
        credentials = f"{quote(found['user'], safe='')}:{quote(found['password'], safe='')}"
        place = f"{bracketed(found['host'])}:{found['port']}"
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
    """Return the Redis described by a url, or by host, port and password, and by tls, ca and database.

    `present` is false if none is described. `url` is for messages, leases and cleanups; in the next two databases,
    `docket_url` is for the background work queue and `celery_url` for Celery. `settings` are the Prefect settings.
    `server` is the server to connect to for checks: host, port, user, password, tls, verify, ca and the numbers of the
    databases that Prefect uses; None with Sentinel, which locates the server.
    Raises InvalidConnection for a URL of another kind.
    """
    url, database_number = str(given.get("url") or ""), int(given.get("database") or 0)
    if not url and not given.get("host"):
        return {"present": False, "settings": {}}
    if url:
        parts = split_url(url, variable="prefect_redis_url", schemes=REDIS)
    else:
        parts = {
            "scheme": "rediss" if given.get("tls") else "redis",
            "user": "",
            "password": given.get("password") or "",
            "hosts": f"{bracketed(str(given['host']))}:{given.get('port') or 6379}",
            "path": str(database_number),
            "query": {"ssl_ca_certs": given["ca"]} if given.get("tls") and given.get("ca") else {},
        }
    # The path of a Sentinel URL starts with the name of the master.
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
    """Return the settings of the Redis for messages: as parts, if they can express its URL.

    redis-py retries for some seconds if it is configured with parts, but never if it is configured with a URL; then
    every request that changes something would fail while Redis restarts.
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
    """Return the connection parameters of a Redis URL. Raises InvalidConnection for a malformed host."""
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
