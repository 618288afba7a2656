"""Health checks of what Prefect depends on: database, Redis, proxy, their certificates, disks and the clock."""

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

from ..host.postgres import DatabaseError, connect

TIMEOUT = 5.0
"""Seconds without an answer after which a service counts as down. Prometheus waits 10 s for everything."""

RENEWAL = timedelta(days=14)
"""Minimum remaining validity of a certificate."""

FULL = 0.9
"""Share of a database's connections above which it counts as nearly exhausted."""

SCARCE = 500_000_000
"""Bytes that must be free on a file system; on a small one a twentieth of its size."""

OFF = timedelta(seconds=30)
"""How far a clock may differ from the server's. Beyond that, heartbeats and schedules are misjudged."""

USAGE = "SELECT current_setting('server_version'), current_setting('max_connections'), count(*) FROM pg_stat_activity"


@dataclass(frozen=True)
class Check:
    """The result of a health check. `shared` means that every host of the platform would report the same.

    `expires` is the time (ISO 8601) at which it stops being healthy by itself, if that is known.
    """

    name: str
    healthy: bool
    detail: str
    shared: bool = False
    expires: str | None = None


def disk_checks(paths: Mapping[str, str], *, scarce: int = SCARCE) -> Iterator[Check]:
    """Check the free space of each file system that contains one of `paths`, which are keyed by purpose.

    For a path that does not exist yet, or that this account may not enter, the directory above it is checked.
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
    """Compare this host's clock with the server's, which is `ahead` of it."""
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
    """Log in to PostgreSQL on this host, and check how many connections are left."""
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
    """Log in to Redis and send PING."""
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
    """Return a command in the Redis protocol."""
    return b"".join(
        [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(each), each) for each in map(str.encode, words))]
    )


def proxy_checks(*, address: str, url: str) -> Iterator[Check]:
    """Query the API, whose public address is `url`, through the proxy on this host, and check its certificate.

    The certificate's issuer is not verified: the API's clients do that.
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
    """Check the API's certificate as its clients do."""
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
        # No server answers: the check of the API reports that.
        return


def expiry_check(name: str, host: str, connection: ssl.SSLSocket) -> Check:
    """Check how long the certificate at the other end of a connection is valid."""
    until = not_after(connection.getpeercert(binary_form=True) or b"")
    left = until - datetime.now(timezone.utc)
    detail = f"{host}: expires in {left / timedelta(days=1):.0f} days, on {until:%Y-%m-%d}"
    return Check(name, left > RENEWAL, detail, expires=until.isoformat())


def not_after(certificate: bytes) -> datetime:
    """Return when a certificate (DER) expires; Python itself reports that only for a trusted one."""

    def children(start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the tag, and the start and end of the content, of each element."""
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
    # UTCTime has a two-digit year, until 2049.
    full = f"20{text}" if tag == 0x17 and int(text[:2]) < 50 else f"19{text}" if tag == 0x17 else text
    return datetime.strptime(full, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
