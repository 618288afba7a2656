"""A PostgreSQL client without dependencies: enough of the protocol to log in and to run simple queries and COPY.

https://www.postgresql.org/docs/current/protocol.html
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import pwd
import re
import socket
import ssl
import stringprep
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .ports import unreachable

SSL_REQUEST = 80877103
PROTOCOL = 196608
COPY_CHUNK = 1 << 16

UNESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
ESCAPES = str.maketrans({"\\": r"\\"} | {text: f"\\{letter}" for letter, text in UNESCAPES.items()})
"""The escapes of COPY's text format."""


REASONS = {
    "28P01": "prefect_database_password: {where} refuses the password of {user}",
    "28000": "prefect_database_user: {where} does not let {user} in from this host ({said})",
    "3D000": "prefect_database_name: {where} has no database {name}",
    "42501": "prefect_database_user: {user} may not connect to {name} on {where} ({said})",
    "53300": "prefect_database_host: {where} has no connection left ({said}); raise its max_connections",
}
"""Messages for server errors, by SQLSTATE."""


LOGIN: dict[str, Any] = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5432},
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "default": "", "no_log": True},
    "tls": {"type": "bool", "default": False},
    "ca": {"type": "str", "default": ""},
    "cert": {"type": "str", "default": ""},
    # A path, not a secret.
    "key": {"type": "str", "default": "", "no_log": False},
    "check_hostname": {"type": "bool", "default": True},
    "account": {"type": "str", "default": ""},
}
"""Argument spec of the options that `connect` and `explain` take. The fragment `postgres` documents them."""


class DatabaseError(Exception):
    """An error with its SQLSTATE, which is empty if it did not come from the server."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def saslprep(text: str) -> str:
    """Return a password prepared by RFC 4013, or unchanged if the RFC forbids it, as PostgreSQL does."""
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    return text if any(table(character) for character in prepared for table in forbidden) else prepared


def tls_context(*, ca: str, cert: str, key: str, check_hostname: bool, verify: bool) -> ssl.SSLContext:
    """Return the TLS context. Raises DatabaseError if a file is missing, or certificate and key do not match."""
    context = ssl.create_default_context()
    context.check_hostname = check_hostname and verify
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    try:
        if ca:
            # Start without the host's authorities: otherwise those would be trusted, too.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = check_hostname and verify
            context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
            if ca.startswith("-----BEGIN"):
                context.load_verify_locations(cadata=ca)
            else:
                context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise DatabaseError(f"prefect_database_ca: {ca.splitlines()[0]} cannot be used: {error}") from error
    try:
        if cert:
            context.load_cert_chain(cert, key or None)
    except ssl.SSLError as error:
        raise DatabaseError(
            f"prefect_database_cert, prefect_database_key: {cert} and {key or cert} do not go together: {error}"
        ) from error
    except OSError as error:
        raise DatabaseError(f"prefect_database_cert: {cert} or its key {key} cannot be read: {error}") from error
    return context


def copy_text(value: str | None) -> str:
    """Return a value in COPY's text format."""
    if value is None:
        return r"\N"
    return value.translate(ESCAPES)


def copied(field: str) -> str | None:
    """Parse a value in COPY's text format."""
    if field == r"\N":
        return None
    return re.sub(r"\\(.)", lambda found: UNESCAPES.get(found[1], found[1]), field) if "\\" in field else field


def opened(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to a host, or to the socket in a directory of this host. Raises OSError."""
    if not host.startswith("/"):
        # A host may have several addresses of which only a later one answers.
        return socket.create_connection((host, port), timeout)
    local = socket.socket(socket.AF_UNIX)
    try:
        local.settimeout(timeout)
        local.connect(f"{host}/.s.PGSQL.{port}")
    except BaseException:
        local.close()
        raise
    return local


@contextlib.contextmanager
def acting_as(account: str) -> Iterator[None]:
    """Switch to another account while a connection is opened, if this runs as root and the account exists.

    PostgreSQL may identify the user by the account at the other end of its socket (peer authentication).
    """
    user = None
    if account and os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(account).pw_uid
    if user is None:
        yield
        return
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


class Connection:
    """A logged-in PostgreSQL session. Raises DatabaseError, or OSError for network errors."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        user: str,
        password: str,
        database: str,
        tls: ssl.SSLContext | None = None,
        tls_required: bool = False,
        timeout: float = 10,
    ) -> None:
        self.parameters: dict[str, str] = {}
        self.encrypted = False
        self._user, self._password = user, password
        self._socket: socket.socket = opened(host, port, timeout)
        try:
            if tls is not None:
                self._start_tls(tls, host=host, required=tls_required)
            self._log_in(database)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._send(b"X", b"")
        self._socket.close()

    def _receive(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            part = self._socket.recv(length - len(received))
            if not part:
                raise DatabaseError("the other side closed the connection; is it a PostgreSQL?")
            received += part
        return received

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!I", len(payload) + 4) + payload)

    def _start_tls(self, context: ssl.SSLContext, *, host: str, required: bool) -> None:
        self._send(b"", struct.pack("!I", SSL_REQUEST))
        answer = self._receive(1)
        if answer == b"S":
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
            self.encrypted = True
        elif answer != b"N":
            raise DatabaseError("what answers there is no PostgreSQL")
        elif required:
            raise DatabaseError("the server does not speak TLS, which prefect_database_tls asks for")

    def _message(self) -> tuple[bytes, bytes]:
        kind = self._receive(1)
        (length,) = struct.unpack("!I", self._receive(4))
        if not 4 <= length <= 1 << 26:
            raise DatabaseError("what answers there is no PostgreSQL")
        payload = self._receive(length - 4)
        if kind == b"E":
            fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
            raise DatabaseError(fields.get(b"M", "unknown error"), code=fields.get(b"C", ""))
        return kind, payload

    def _log_in(self, database: str) -> None:
        words = {"user": self._user, "database": database, "client_encoding": "UTF8", "application_name": "preflight"}
        pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in words.items())
        self._send(b"", struct.pack("!I", PROTOCOL) + pairs + b"\0")
        while True:
            kind, payload = self._message()
            if kind == b"R":
                self._authenticate(payload)
            elif kind == b"S":
                name, value = payload.split(b"\0")[:2]
                self.parameters[name.decode()] = value.decode()
            elif kind == b"Z":
                return

    def _authenticate(self, payload: bytes) -> None:
        (method,) = struct.unpack("!I", payload[:4])
        if method == 0:
            return
        if method == 3:
            self._send(b"p", self._password.encode() + b"\0")
        elif method == 5:
            inner = hashlib.md5((self._password + self._user).encode(), usedforsecurity=False).hexdigest()
            outer = hashlib.md5(inner.encode() + payload[4:8], usedforsecurity=False).hexdigest()
            self._send(b"p", b"md5" + outer.encode() + b"\0")
        elif method == 10:
            self._scram(payload[4:].split(b"\0"))
        else:
            raise DatabaseError(f"the server wants a way to log in that is not known here (method {method})")

    def _scram(self, mechanisms: list[bytes]) -> None:
        """Log in by SCRAM-SHA-256 (RFC 5802, RFC 7677), where the server also proves that it knows the password."""
        if b"SCRAM-SHA-256" not in mechanisms:
            raise DatabaseError("the server wants a way to log in that is not known here")
        nonce = base64.b64encode(os.urandom(18))
        bare = b"n=,r=" + nonce
        self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(bare) + 3) + b"n,," + bare)
        _, payload = self._message()
        first = payload[4:]
        answer = dict(part.split(b"=", 1) for part in first.split(b","))
        if not answer[b"r"].startswith(nonce):
            raise DatabaseError("the server failed to log us in: it changed our nonce")
        password = saslprep(self._password).encode()
        salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(answer[b"s"]), int(answer[b"i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        last = b"c=biws,r=" + answer[b"r"]
        signed = b",".join((bare, first, last))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self._send(b"p", last + b",p=" + base64.b64encode(proof))
        _, payload = self._message()
        expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        if payload[4:] != b"v=" + base64.b64encode(expected):
            raise DatabaseError("the server does not know the password that it let us in with")

    def query(self, sql: str) -> list[list[str | None]]:
        """Run a statement and return its rows, with each value as text."""
        self._send(b"Q", sql.encode() + b"\0")
        rows: list[list[str | None]] = []
        failure: DatabaseError | None = None
        while True:
            try:
                kind, payload = self._message()
            except DatabaseError as error:
                if not error.code:
                    raise
                failure = error
                continue
            if kind == b"D":
                rows.append(self._row(payload))
            elif kind == b"Z":
                if failure:
                    raise failure
                return rows

    def patient(self) -> None:
        """Remove the timeout: the statements that follow may take long."""
        self._socket.settimeout(None)

    def copy_in(self, sql: str, rows: Iterable[Sequence[str | None]]) -> None:
        """Run COPY FROM STDIN with rows of text, which the server converts to its types. Raises what `rows` raises."""
        self._send(b"Q", sql.encode() + b"\0")
        self._message()
        chunk = bytearray()
        try:
            for row in rows:
                chunk += "\t".join(map(copy_text, row)).encode() + b"\n"
                if len(chunk) > COPY_CHUNK:
                    self._send(b"d", bytes(chunk))
                    chunk.clear()
        except BaseException:
            self._send(b"f", b"given up\0")
            with contextlib.suppress(DatabaseError):
                self._finish()
            raise
        self._send(b"d", bytes(chunk))
        self._send(b"c", b"")
        self._finish()

    def copy_out(self, sql: str) -> Iterator[list[str | None]]:
        """Run COPY TO STDOUT and yield its rows as they arrive."""
        self._send(b"Q", sql.encode() + b"\0")
        while True:
            kind, payload = self._message()
            if kind == b"d":
                yield [copied(field) for field in payload.decode().removesuffix("\n").split("\t")]
            elif kind == b"Z":
                return

    def _finish(self) -> None:
        """Read to the end of a statement. Raises the error that it ended with."""
        failure: DatabaseError | None = None
        while True:
            try:
                kind, _ = self._message()
            except DatabaseError as error:
                if not error.code:
                    raise
                failure = error
                continue
            if kind == b"Z":
                if failure:
                    raise failure
                return

    @staticmethod
    def _row(payload: bytes) -> list[str | None]:
        (count,) = struct.unpack("!H", payload[:2])
        row: list[str | None] = []
        offset = 2
        for _ in range(count):
            (length,) = struct.unpack("!i", payload[offset : offset + 4])
            offset += 4
            row.append(None if length < 0 else payload[offset : offset + length].decode())
            offset += max(length, 0)
        return row


def connect(given: dict[str, Any], *, timeout: float) -> Connection:
    """Connect to a database, given as host, port, name, user, password, tls, ca, cert, key, check_hostname, account.

    Without `tls`, TLS is used if the server supports it, without verification, as in libpq and asyncpg. A host that
    begins with a slash is a directory with a socket, which is opened as the `account`, without TLS.
    """
    by_socket = given["host"].startswith("/")
    context = None
    if not by_socket:
        context = tls_context(
            ca=given["ca"] if given["tls"] else "",
            cert=given["cert"],
            key=given["key"],
            check_hostname=given["check_hostname"],
            verify=given["tls"],
        )
    with acting_as(given.get("account", "") if by_socket else ""):
        return Connection(
            host=given["host"],
            port=given["port"],
            user=given["user"],
            password=given["password"],
            database=given["name"],
            tls=context,
            tls_required=given["tls"],
            timeout=timeout,
        )


def explain(error: Exception, params: dict[str, Any]) -> str:
    """Return one message that names the problem, the variable and the solution."""
    where, variable = f"{params['host']}:{params['port']}", params["variable"]
    if isinstance(error, DatabaseError):
        if error.code in REASONS:
            return REASONS[error.code].format(where=where, said=error, **params)
        return str(error) if str(error).startswith("prefect_") else f"{variable}: {where}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        # "certificate has expired", "Hostname mismatch, ...", "unable to get local issuer certificate"
        return (
            f"prefect_database_ca: the certificate of {where} is refused: {error.verify_message.rstrip('.')}; name the "
            "authority that signed it, or the host as the certificate does"
        )
    if isinstance(error, ssl.SSLError):
        return f"prefect_database_tls: {where} does not speak TLS with us: {error.reason or error}"
    silent = "is a firewall between this host and it?"
    return unreachable(
        error, variable=variable, host=params["host"], port=params["port"], service="PostgreSQL", silent=silent
    )
