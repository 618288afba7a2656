"""What the module says where no Redis is. Against a real one: tests/api/test_redis.py."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import host_redis as redis
from fake_api import outcome
from fake_listener import Listener


def look(port: int, **options: Any) -> str:
    result: dict[str, Any] = outcome(redis.main, host="127.0.0.1", port=port, **options)
    assert result["failed"]
    assert "\n" not in result["msg"]
    return str(result["msg"])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers there is no Redis"),
        (b"", "it closed the connection; is it a Redis, or does it want TLS?"),
    ],
)
def test_something_else_answers(answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as client:
                client.recv(100)
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert says in look(listener.getsockname()[1])


class FakeRedis:
    """A Redis of a few lines: what it answers by command, and the commands that it was given."""

    def __init__(self, **answers: str) -> None:
        self.answers = {"PING": "+PONG", "SELECT": "+OK", "SET": "+OK", "DEL": ":1", **answers}
        self.commands: list[list[str]] = []

    def __enter__(self) -> FakeRedis:
        self._listener = Listener(self._session).__enter__()
        self.port: int = self._listener.port
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.__exit__(*error)

    def _session(self, client: socket.socket) -> None:
        with client.makefile("rb") as lines:
            while count := lines.readline():
                words = []
                for _ in range(int(count[1:])):
                    lines.readline()
                    words.append(lines.readline().decode().strip())
                self.commands.append(words)
                answer = self.answers.get(self.commands[-1][0], "-ERR unknown command").encode()
                # In two parts, as a long answer comes.
                client.sendall(answer[:9])
                client.sendall(answer[9:] + b"\r\n")


def info(**facts: str) -> str:
    text = "# Memory\r\n" + "".join(f"{name}:{value}\r\n" for name, value in facts.items())
    return f"${len(text)}\r\n{text}"


GOOD = {"role": "master", "maxmemory": "100", "maxmemory_policy": "noeviction"}


def test_it_is_written_to_and_left_as_it_was() -> None:
    with FakeRedis(INFO=info(**GOOD)) as server:
        found = outcome(redis.main, host="127.0.0.1", port=server.port, databases=[0, 1])
        assert not found.get("failed"), found["msg"]
        written = [words[1] for words in server.commands if words[0] == "SET"]
        assert len(set(written)) == 2
        assert written == [words[1] for words in server.commands if words[0] == "DEL"]
        assert all(words[3:] == ["PX", "10000"] for words in server.commands if words[0] == "SET")
        server.commands.clear()
        assert not outcome(redis.main, check_mode=True, host="127.0.0.1", port=server.port).get("failed")
        assert not {"SET", "DEL"} & {words[0] for words in server.commands}


@pytest.mark.parametrize(
    ("answers", "check_mode", "says"),
    [
        ({"INFO": info(**GOOD | {"maxmemory_policy": "allkeys-lru"})}, True, "set its maxmemory-policy to noeviction"),
        ({"INFO": info(**GOOD | {"maxmemory_policy": "volatile-ttl"})}, False, "(EVICTS its maxmemory-policy is volat"),
        (
            {"INFO": info(role="slave", slave_read_only="1")},
            True,
            "is a replica, which can only be read; name the prim",
        ),
        ({"SET": "-READONLY You can't write against a read only replica."}, False, "is a replica"),
        ({"SET": "-OOM command not allowed when used memory > 'maxmemory'."}, False, "raise its maxmemory"),
        ({"SET": "-MISCONF Redis is configured to save RDB snapshots"}, False, "cannot save its data"),
        ({"SET": "-NOREPLICAS Not enough good replicas to write."}, False, "min-replicas-to-write"),
        ({"SET": "-NOPERM User x has no permissions to run the 'set' command"}, False, "does not let this user write"),
    ],
)
def test_one_that_cannot_serve(answers: dict[str, str], check_mode: bool, says: str) -> None:
    with FakeRedis(**answers) as server:
        found: dict[str, Any] = outcome(redis.main, check_mode=check_mode, host="127.0.0.1", port=server.port)
    assert found["failed"]
    assert found["msg"].startswith(f"prefect_redis_host: 127.0.0.1:{server.port} ")
    assert says in found["msg"]
    assert "\n" not in found["msg"]


@pytest.mark.parametrize(
    "answers",
    [
        {"INFO": "-NOPERM User x has no permissions to run the 'info' command"},
        {"INFO": info(role="slave", slave_read_only="0", maxmemory_policy="noeviction")},
        {"SET": "-NOPERM No permissions to access a key"},
        {"SET": "-NOPERM this user has no permissions to access one of the keys used as arguments"},
        dict.fromkeys(("PING", "INFO", "SELECT", "SET", "DEL"), "-LOADING Redis is loading the dataset in memory"),
    ],
)
def test_one_that_serves(answers: dict[str, str]) -> None:
    with FakeRedis(**answers) as server:
        found = outcome(redis.main, host="127.0.0.1", port=server.port)
    assert not found.get("failed"), found["msg"]


def test_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert (
            look(port, tls=True)
            == f"prefect_redis_tls: 127.0.0.1:{port} does not speak TLS with us: it does not answer"
        )
        assert look(port).startswith(f"prefect_redis_host: 127.0.0.1:{port} does not answer; is a firewall between")


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    says = f"here: nothing listens at 127.0.0.1:{port}; start Redis there, or correct the host or the port"
    assert look(port, variable="here") == says


def test_a_name_that_cannot_be_resolved() -> None:
    found: dict[str, Any] = outcome(redis.main, host="nowhere.invalid")
    assert "prefect_redis_host: this host cannot resolve nowhere.invalid" in found["msg"]
