"""What the module says where no Redis is. Against a real one: tests/api/test_redis.py."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import redis
from fake_api import outcome


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


def test_a_name_that_nobody_knows() -> None:
    found: dict[str, Any] = outcome(redis.main, host="nowhere.invalid")
    assert "prefect_redis_host: this host cannot resolve nowhere.invalid" in found["msg"]
