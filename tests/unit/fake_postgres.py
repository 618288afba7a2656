"""A PostgreSQL of a few lines, on a thread of its own: it lets one user in by SCRAM, over TLS if it is given any."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
from dataclasses import dataclass, field

from fake_listener import Listener

ITERATIONS = 4096


@dataclass
class FakePostgres:
    """What it answers: `rows` to statements that hold the key, or `failure` (SQLSTATE, message) before anything."""

    password: str = "secret"
    rows: dict[str, list[str | None]] = field(default_factory=dict)
    failure: tuple[str, str] | None = None
    tls: ssl.SSLContext | None = None
    socket_directory: str = ""
    """Where it has a socket, in place of a port."""
    encrypted: list[bool] = field(default_factory=list)
    callers: list[int] = field(default_factory=list)
    """Numbers of the accounts that opened that socket."""

    def __enter__(self) -> FakePostgres:
        path = f"{self.socket_directory}/.s.PGSQL.5433" if self.socket_directory else ""
        self._listener = Listener(self._session, path=path).__enter__()
        self.port: int = self._listener.port
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.__exit__(*error)

    def _session(self, client: socket.socket) -> None:
        encrypted = False
        if self.socket_directory:
            credential = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.callers.append(struct.unpack("3i", credential)[1])
        (length, code) = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
        if code == 80877103:
            assert not self.socket_directory, "a socket has no TLS"
            client.sendall(b"S" if self.tls else b"N")
            if self.tls:
                client, encrypted = self.tls.wrap_socket(client, server_side=True), True
            (length, _) = struct.unpack("!II", client.recv(8))
        client.recv(length - 8)
        self.encrypted.append(encrypted)
        if self.failure:
            code_text, message = self.failure
            fields = f"SFATAL\0C{code_text}\0M{message}\0\0".encode()
            self._send(client, b"E", fields)
            return
        self._scram(client)
        self._send(client, b"R", struct.pack("!I", 0))
        self._send(client, b"S", b"server_version\x0015.6\0")
        self._send(client, b"Z", b"I")
        while (kind := client.recv(1)) == b"Q":
            (length,) = struct.unpack("!I", client.recv(4))
            statement = client.recv(length - 4).decode()
            row = next((row for key, row in self.rows.items() if key in statement), None)
            if row is not None:
                values = [
                    struct.pack("!i", -1) if value is None else struct.pack("!i", len(value.encode())) + value.encode()
                    for value in row
                ]
                self._send(client, b"D", struct.pack("!H", len(row)) + b"".join(values))
            self._send(client, b"Z", b"I")
        assert kind in (b"X", b"")

    def _scram(self, client: socket.socket) -> None:
        self._send(client, b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
        bare = self._payload(client).split(b"n,,", 1)[1]
        salt, nonce = os.urandom(12), bare.split(b"r=")[1] + b"more"
        first = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt), ITERATIONS)
        self._send(client, b"R", struct.pack("!I", 11) + first)
        last, proof = self._payload(client).split(b",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signed = b",".join((bare, first, last))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        if base64.b64decode(proof) != bytes(one ^ other for one, other in zip(client_key, signature, strict=True)):
            self._send(client, b"E", b"SFATAL\0C28P01\0Mpassword authentication failed\0\0")
            raise ValueError("wrong password")
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        self._send(client, b"R", struct.pack("!I", 12) + b"v=" + base64.b64encode(server))

    @staticmethod
    def _payload(client: socket.socket) -> bytes:
        (_, length) = struct.unpack("!cI", client.recv(5))
        return client.recv(length - 4)

    @staticmethod
    def _send(client: socket.socket, kind: bytes, payload: bytes) -> None:
        client.sendall(kind + struct.pack("!I", len(payload) + 4) + payload)
