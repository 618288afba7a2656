"""What the check of a Redis says, of one that is played to it over a real socket."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.modules import redis
from fake_api import outcome
from fake_listener import Listener

PASSWORD = "p@:/%s #'\"ü"


class FakeRedis:
    """It wants a password, has `databases`, and answers `always` to everything if that is given."""

    def __init__(self, *, databases: int = 16, always: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        self.databases, self.always, self.tls = databases, always, tls

    def __enter__(self) -> FakeRedis:
        self._listener = Listener(self._session).__enter__()
        self.port: int = self._listener.port
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.__exit__(*error)

    def _session(self, client: socket.socket) -> None:
        self._talk(self.tls.wrap_socket(client, server_side=True) if self.tls else client)

    def _talk(self, client: socket.socket) -> None:
        known = False
        with client, client.makefile("rb") as stream:
            while line := stream.readline():
                words = []
                for _ in range(int(line[1:])):
                    length = int(stream.readline()[1:])
                    words.append(stream.read(length + 2)[:-2].decode())
                known = known or words == ["AUTH", PASSWORD]
                client.sendall(self.always or self._answer(words, known=known))

    def _answer(self, words: list[str], *, known: bool) -> bytes:
        if not known:
            wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
            return wrong if words[0] == "AUTH" else b"-NOAUTH Authentication required.\r\n"
        if words[0] == "SELECT" and int(words[1]) >= self.databases:
            return b"-ERR DB index is out of range\r\n"
        return b"+OK\r\n"


def check(server: FakeRedis, **options: Any) -> dict[str, Any]:
    given = {"host": "127.0.0.1", "port": server.port, "password": PASSWORD, "databases": [0, 1]}
    result: dict[str, Any] = outcome(redis.main, **{**given, **options})
    return result


@contextmanager
def encrypted(directory: Path, *names: str) -> Iterator[tuple[FakeRedis, str]]:
    """Provide a Redis that speaks TLS under these names, and the file of the authority that signed for it."""
    directory.mkdir(exist_ok=True)
    pair = certificate_for(directory / "server", list(names))
    (directory / "authority.crt").write_text(pair["ca"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    with FakeRedis(tls=context) as server:
        yield server, str(directory / "authority.crt")


def test_a_good_redis() -> None:
    with FakeRedis() as server:
        found = check(server)
    assert not found.get("failed"), found["msg"]
    assert (found["changed"], found["encrypted"]) == (False, False)


def test_one_that_reads_its_data_is_there() -> None:
    with FakeRedis(always=b"-LOADING Redis is loading the dataset in memory\r\n") as server:
        assert not check(server).get("failed")


@pytest.mark.parametrize(
    ("server", "options", "says"),
    [
        (FakeRedis(), {"password": "other"}, "prefect_redis_password: 127.0.0.1"),
        (FakeRedis(), {"password": ""}, "prefect_redis_password: 127.0.0.1"),
        (FakeRedis(), {"password": "other", "variable": "prefect_redis_url"}, "prefect_redis_url: 127.0.0.1"),
        (FakeRedis(databases=1), {}, "prefect_redis_host: 127.0.0.1:PORT has not the databases 0 and 1"),
        (FakeRedis(always=b"HTTP/1.1 400 Bad Request\r\n"), {}, "what answers there is no Redis"),
        (FakeRedis(), {"tls": True}, "prefect_redis_tls: 127.0.0.1:PORT does not speak TLS with us"),
    ],
)
def test_one_that_cannot_serve(server: FakeRedis, options: dict[str, Any], says: str) -> None:
    with server:
        found = check(server, **options)
        assert found["failed"]
        assert says.replace("PORT", str(server.port)) in found["msg"]
    assert PASSWORD not in found["msg"]
    assert "\n" not in found["msg"]


def test_tls_that_proves_itself(tmp_path: Path) -> None:
    with encrypted(tmp_path, "127.0.0.1") as (server, ca):
        for given in (ca, Path(ca).read_text()):
            assert check(server, tls=True, ca=given)["encrypted"]


def test_tls_with_another_name_or_of_an_unknown_authority(tmp_path: Path) -> None:
    with encrypted(tmp_path, "redis1") as (server, ca):
        refused = check(server, tls=True, ca=ca)["msg"]
        assert refused.startswith(f"prefect_redis_ca: the certificate of 127.0.0.1:{server.port} is refused")
        assert "is refused" in check(server, tls=True)["msg"]
        assert check(server, tls=True, verify=False)["encrypted"]


def test_one_without_tls_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found: dict[str, Any] = outcome(redis.main, host="127.0.0.1", port=port, tls=True)
    assert found["msg"] == f"prefect_redis_tls: 127.0.0.1:{port} does not speak TLS with us: it does not answer"


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found: dict[str, Any] = outcome(redis.main, host="127.0.0.1", port=port, variable="here")
    assert (
        found["msg"] == f"here: nothing listens at 127.0.0.1:{port}; start Redis there, or correct the host or the port"
    )


def test_a_name_that_nobody_knows() -> None:
    found: dict[str, Any] = outcome(redis.main, host="nowhere.invalid")
    assert "prefect_redis_host: this host cannot resolve nowhere.invalid" in found["msg"]
