"""What Prefect stands on is asked as its clients ask, and what is wrong with it is said."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.postgres import DatabaseError
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost import checks
from ansible_collections.selfhosted.prefect.plugins.module_utils.onhost.checks import (
    certificate_checks,
    not_after,
    postgres_check,
    proxy_checks,
    redis_check,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

OK = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"
BAD = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
MAINTENANCE = "HTTP/1.1 503 Service Unavailable\r\nPrefect-Maintenance: true\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answer one connection, and give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with contextlib.suppress(OSError), connection:
                talk(connection)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def certificate(directory: Path, *, until: datetime) -> x509.Certificate:
    """Make cert.pem and key.pem for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(secret)
    return made


@contextlib.contextmanager
def secure(directory: Path, *, days: int = 90, answer: str = OK) -> Iterator[str]:
    """Serve one answer over TLS, and give the address of the API."""
    certificate(directory, until=datetime.now(timezone.utc) + timedelta(days=days, hours=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")

    def talk(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            if b"GET /prefect/api/health " in connection.recv(4000):
                connection.sendall(answer.encode())
                connection.recv(1)

    with listening(talk) as port:
        yield f"https://localhost:{port}/prefect/api"


@pytest.mark.parametrize(("days", "healthy"), [(90, True), (13, False), (-2, False)])
def test_a_certificate_that_ends_soon(tmp_path: Path, days: int, healthy: bool) -> None:
    with secure(tmp_path, days=days) as url:
        (found,) = certificate_checks(url, ca=str(tmp_path / "cert.pem"))
    assert (found.name, found.healthy) == ("certificate", healthy)
    assert (f"localhost: expires in {days} days" if days > 0 else "certificate has expired") in found.detail


def test_a_certificate_of_an_untrusted_authority(tmp_path: Path) -> None:
    with secure(tmp_path) as url:
        (found,) = certificate_checks(url, ca=None)
    assert not found.healthy and "self-signed" in found.detail


def test_a_closed_port_has_no_certificate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert list(certificate_checks(f"https://localhost:{port}/api", ca=None)) == []


@pytest.mark.parametrize("until", [datetime(2049, 12, 31, 23, 59, 59), datetime(2050, 1, 1), datetime(9999, 12, 31)])
def test_until_when_a_certificate_is_good(tmp_path: Path, until: datetime) -> None:
    der = certificate(tmp_path, until=until).public_bytes(Encoding.DER)
    assert not_after(der) == until.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("answer", "days", "healthy", "says"),
    [
        (OK, 90, [True, True], "https://localhost:"),
        (OK, 5, [False, True], "https://localhost:"),
        (BAD, 90, [True, False], "answers 502 Bad Gateway: does any server?"),
        (MAINTENANCE, 90, [True, False], "is switched to maintenance"),
        ("nonsense\r\n", 90, [True, False], "nonsense"),
    ],
    ids=["well", "certificate", "no server", "maintenance", "nonsense"],
)
def test_a_proxy(tmp_path: Path, answer: str, days: int, healthy: list[bool], says: str) -> None:
    with secure(tmp_path, days=days, answer=answer) as url:
        found = list(proxy_checks(address="127.0.0.1", url=url))
    assert [check.name for check in found] == ["proxy certificate", "proxy"]
    assert [check.healthy for check in found] == healthy
    assert says in found[1].detail


def test_a_proxy_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (found,) = proxy_checks(address="127.0.0.1", url=f"https://prefect.example.com:{port}/api")
    assert not found.healthy and "refused" in found.detail


@pytest.mark.parametrize(
    ("credential", "answers", "healthy", "says"),
    [
        ("", ["+PONG"], True, "127.0.0.1:"),
        (":p%40ss@", ["+OK", "+PONG"], True, "127.0.0.1:"),
        ("ada:p%40ss@", ["+OK", "+PONG"], True, "127.0.0.1:"),
        (":p%40ss@", ["-WRONGPASS invalid username-password pair"], False, "refuses AUTH: -WRONGPASS"),
        ("", ["-NOAUTH Authentication required."], False, "refuses PING: -NOAUTH"),
        ("", ["-LOADING Redis is loading the dataset in memory"], False, "refuses PING: -LOADING"),
        ("", [], False, "refuses PING: it closed the connection"),
    ],
)
def test_a_redis(credential: str, answers: list[str], healthy: bool, says: str) -> None:
    received = []

    def talk(connection: socket.socket) -> None:
        for answer in answers:
            received.append(connection.recv(1000))
            connection.sendall(f"{answer}\r\n".encode())
        if not answers:
            connection.recv(1000)

    with listening(talk) as port:
        found = redis_check(f"redis://{credential}127.0.0.1:{port}/0")
    assert found.healthy is healthy
    assert says in found.detail and "p@ss" not in found.detail
    if credential == "ada:p%40ss@":
        assert received == [b"*3\r\n$4\r\nAUTH\r\n$3\r\nada\r\n$4\r\np@ss\r\n", b"*1\r\n$4\r\nPING\r\n"]


class Session:
    """A session with a PostgreSQL of which so many of 100 connections are in use."""

    def __init__(self, used: int) -> None:
        self.used = used

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self, sql: str) -> list[list[str]]:
        return [["17.2 (Debian 17.2-1)", "100", str(self.used)]]


@pytest.mark.parametrize(
    ("outcome", "healthy", "says"),
    [
        (Session(12), True, "17.2 on 127.0.0.1:5432, 12 of 100 connections used"),
        (Session(95), False, "95 of 100 connections used"),
        (DatabaseError("the database system is starting up", code="57P03"), False, "is starting up"),
        (ConnectionRefusedError(111, "Connection refused"), False, "127.0.0.1:5432: [Errno 111] Connection refused"),
    ],
    ids=["well", "full", "starting", "away"],
)
def test_a_postgresql(monkeypatch: pytest.MonkeyPatch, outcome: Any, healthy: bool, says: str) -> None:
    def connect(given: dict[str, Any], *, timeout: float) -> Any:
        assert given["password"] == "secret" and given["tls"] is False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(checks, "connect", connect)
    given = {"host": "127.0.0.1", "port": 5432, "name": "prefect", "user": "prefect", "password": "secret"}
    found = postgres_check(given)
    assert found.healthy is healthy and says in found.detail
