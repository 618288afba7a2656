"""Whether what Prefect stands on is healthy: its database, its Redis, its proxy, and the certificates of that."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .postgres import DatabaseError, connect

TIMEOUT = 5.0
"""Seconds of silence after which something is away. Prometheus waits 10 s for everything."""

RENEWAL = timedelta(days=14)
"""How long a certificate has to be good for at least."""

FULL = 0.9
"""The share of a database's connections from which on it is about to refuse some."""

SCARCE = 500_000_000
"""Bytes that a file system has to have left, or a twentieth of a small one."""

OFF = timedelta(seconds=30)
"""How far a clock may be from the server's. By more, heartbeats and schedules are misjudged."""

USAGE = "SELECT current_setting('server_version'), current_setting('max_connections'), count(*) FROM pg_stat_activity"


@dataclass(frozen=True)
class Check:
    """Something that is healthy or not. `shared` says that every host of the platform would say the same of it.

    `expires` is when it ends being so by itself (ISO 8601), where that is known.
    """

    name: str
    healthy: bool
    detail: str
    shared: bool = False
    expires: str | None = None


def disk_checks(paths: Mapping[str, str], *, scarce: int = SCARCE) -> Iterator[Check]:
    """Judge how much is left on each file system that one of `paths` is on, by what the paths are for.

    Of one that does not exist yet, or that this account may not enter, the directory above it is looked at.
    """
    found: dict[int, tuple[Path, list[str]]] = {}
    for purpose, path in paths.items():
        for step in (Path(path), *Path(path).parents):
            with contextlib.suppress(OSError):
                found.setdefault(step.stat().st_dev, (step, []))[1].append(purpose)
                break
    for top, purposes in found.values():
        usage = os.statvfs(top)
        size, free = usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize
        if not size:
            continue
        detail = f"{free / 1e9:.1f} of {size / 1e9:.1f} GB are free for {', '.join(purposes)}"
        if usage.f_files and not usage.f_favail:
            yield Check(f"disk {top}", False, f"no inode is left for {', '.join(purposes)}: remove files")
        elif free < min(scarce, size / 20):
            yield Check(f"disk {top}", False, f"{detail}: free some space, or enlarge the file system")
        else:
            yield Check(f"disk {top}", True, detail)


def clock_check(ahead: timedelta, url: str) -> Check:
    """Judge this host's clock by the server's, which is `ahead` of it."""
    if abs(ahead) <= OFF:
        return Check("clock", True, f"within {OFF.total_seconds():.0f} s of the server's")
    way = "behind" if ahead > timedelta(0) else "ahead of"
    return Check(
        "clock",
        False,
        f"this host's clock is {abs(ahead).total_seconds():.0f} s {way} that of {url}: let a time service such as "
        "chrony or systemd-timesyncd set both",
    )


def postgres_check(given: Mapping[str, Any]) -> Check:
    """Log in to the PostgreSQL of this host, and see how many connections it has left."""
    name, address = "postgresql", f"{given['host']}:{given['port']}"
    plain = {"tls": False, "ca": "", "cert": "", "key": "", "check_hostname": False}
    try:
        with connect({**given, **plain}, timeout=TIMEOUT) as session:
            ((version, most, used),) = session.query(USAGE)
    except (DatabaseError, OSError) as error:
        return Check(name, False, f"{address}: {error}")
    healthy = int(used or 0) < FULL * int(most or 0)
    return Check(name, healthy, f"{str(version).split()[0]} on {address}, {used} of {most} connections used")


def redis_check(url: str) -> Check:
    """Log in to a Redis and have it answer."""
    name, parts = "redis", urlsplit(url)
    host, port = parts.hostname or "", parts.port or 6379
    credential = [unquote(each) for each in (parts.username, parts.password) if each]
    login = [["AUTH", *credential]] if parts.password else []
    try:
        with socket.create_connection((host, port), TIMEOUT) as plain, _secured(plain, url) as connection:
            for command in [*login, ["PING"]]:
                connection.sendall(_resp(command))
                if not (answer := connection.recv(1000)).startswith(b"+"):
                    said = answer.decode(errors="replace").strip() or "it closed the connection"
                    return Check(name, False, f"{host}:{port} refuses {command[0]}: {said}")
    except OSError as error:
        return Check(name, False, f"{host}:{port}: {error}")
    return Check(name, True, f"{host}:{port}")


def _secured(plain: socket.socket, url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return plain
    ca = parse_qs(parts.query).get("ssl_ca_certs", [None])[0]
    return ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname=parts.hostname)


def _resp(words: list[str]) -> bytes:
    """Return a command in the protocol of Redis."""
    return b"".join(
        [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(each), each) for each in map(str.encode, words))]
    )


def proxy_checks(*, address: str, url: str) -> Iterator[Check]:
    """Ask the API, whose public address is `url`, by the proxy of this host, and look at its certificate.

    Who signed it is not asked: that is for those to know who use the API.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            yield expiry_check("proxy certificate", host, secure)
            connection = http.client.HTTPConnection(parts.netloc)
            connection.sock = secure
            connection.request("GET", f"{parts.path}/health")
            answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        yield Check("proxy", False, f"{address}:{port}: {error}")
        return
    if answer.headers.get("Prefect-Maintenance"):
        yield Check("proxy", False, f"{url} is switched to maintenance")
    elif answer.status != 200:
        yield Check("proxy", False, f"{url} answers {answer.status} {answer.reason}: does any server?")
    else:
        yield Check("proxy", True, url)


def certificate_checks(url: str, *, ca: str | None) -> Iterator[Check]:
    """Judge the certificate of the API as its clients do."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with (
            socket.create_connection((host, parts.port or 443), TIMEOUT) as plain,
            ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname=host) as secure,
        ):
            yield expiry_check("certificate", host, secure)
    except ssl.SSLError as error:
        yield Check("certificate", False, f"{host}: {error}")
    except OSError:
        # Nobody is there: that is said of the API.
        return


def expiry_check(name: str, host: str, connection: ssl.SSLSocket) -> Check:
    """Judge how long the certificate at the other end of a connection is good for."""
    until = not_after(connection.getpeercert(binary_form=True) or b"")
    left = until - datetime.now(timezone.utc)
    detail = f"{host}: expires in {left / timedelta(days=1):.0f} days, on {until:%Y-%m-%d}"
    return Check(name, left > RENEWAL, detail, expires=until.isoformat())


def not_after(certificate: bytes) -> datetime:
    """Return until when a certificate (DER) is good, which Python says only of one that it trusts."""

    def children(start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield tag, start and end of the content of each element."""
        while start < end:
            tag, length = certificate[start], certificate[start + 1]
            start += 2
            if length & 0x80:
                size = length & 0x7F
                length = int.from_bytes(certificate[start : start + size], "big")
                start += size
            yield tag, start, start + length
            start += length

    (_, start, end), *_ = children(0, len(certificate))
    (_, start, end), *_ = children(start, end)
    # The version is optional; serial number, algorithm and issuer come before the validity.
    _, _, _, (_, start, end), *_ = (each for each in children(start, end) if each[0] != 0xA0)
    _, (tag, start, end) = children(start, end)
    text = certificate[start:end].decode()
    # UTCTime has two digits of the year, until 2049.
    full = f"20{text}" if tag == 0x17 and int(text[:2]) < 50 else f"19{text}" if tag == 0x17 else text
    return datetime.strptime(full, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
