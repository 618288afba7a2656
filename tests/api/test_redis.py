"""A real Redis, of this machine's redis-tools: the module `redis` looks at it, and a server finds it by Sentinels."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.api.module import Api, ApiError
from ansible_collections.selfhosted.prefect.plugins.modules import host_redis as redis
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import connections
from conftest import PYTHONS
from fake_api import outcome
from local_servers import REDIS, SECONDS, Redis, prefect_server

PASSWORD = "p@:/%s #'\"ü"

pytestmark = pytest.mark.skipif(REDIS is None, reason="needs redis-tools")


def check(server: Redis, **options: Any) -> dict[str, Any]:
    given = {"host": "127.0.0.1", "port": server.port, "password": PASSWORD, "databases": [0, 1]}
    result: dict[str, Any] = outcome(redis.main, **{**given, **options})
    assert PASSWORD not in result.get("msg", "")
    assert "\n" not in result.get("msg", "")
    return result


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis"), "--requirepass", PASSWORD) as running:
        yield running


def encrypted(directory: Path, *names: str) -> tuple[Redis, str]:
    """Return a Redis that speaks TLS under these names and nothing else, and the file of the authority that signed."""
    pair = certificate_for(directory / "server", list(names))
    (directory / "authority.crt").write_text(pair["ca"])
    tls = {"--tls-cert-file": "server.crt", "--tls-key-file": "server.key", "--tls-ca-cert-file": "authority.crt"}
    files = [word for option, name in tls.items() for word in (option, str(directory / name))]
    port = Redis(directory).port
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", PASSWORD, *files]
    return Redis(directory, *options, port=port), str(directory / "authority.crt")


def test_a_good_one(server: Redis) -> None:
    found = check(server)
    assert not found.get("failed"), found["msg"]
    assert (found["changed"], found["encrypted"]) == (False, False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"password": "other"}, "prefect_redis_password: 127.0.0.1:PORT refuses the password"),
        ({"password": ""}, "prefect_redis_password: 127.0.0.1:PORT refuses the password"),
        ({"user": "stranger"}, "prefect_redis_password: 127.0.0.1:PORT refuses the password"),
        ({"password": "other", "variable": "prefect_redis_url"}, "prefect_redis_url: 127.0.0.1:PORT refuses"),
        ({"databases": [0, 99]}, "prefect_redis_host: 127.0.0.1:PORT has not the databases 0 and 99"),
        ({"tls": True}, "prefect_redis_tls: 127.0.0.1:PORT does not speak TLS with us"),
    ],
    ids=str,
)
def test_one_that_cannot_serve(
    server: Redis, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(redis, "TIMEOUT", 2)
    found = check(server, **options)
    assert found["failed"]
    assert found["msg"].startswith(says.replace("PORT", str(server.port)))


def session(server: Redis) -> socket.socket:
    connection = redis.connect({"host": "127.0.0.1", "port": server.port, "tls": False})
    redis.ask(connection, "AUTH", PASSWORD)
    return connection


def test_a_redis_that_loads_its_data_counts_as_running(tmp_path: Path) -> None:
    with Redis(tmp_path, "--requirepass", PASSWORD) as server, session(server) as connection:
        for number in range(100):
            redis.ask(connection, "SET", f"key{number}", os.urandom(4096).hex())
        redis.ask(connection, "SAVE")
    # A twentieth of a second for each key: it goes on to read while we look.
    slowly = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"]
    with Redis(tmp_path, "--requirepass", PASSWORD, *slowly) as server, session(server) as connection:
        assert redis.ask(connection, "PING").startswith("-LOADING")
        assert not check(server).get("failed")


def test_tls_that_proves_itself(tmp_path: Path) -> None:
    server, ca = encrypted(tmp_path, "127.0.0.1")
    with server:
        for given in (ca, Path(ca).read_text()):
            assert check(server, tls=True, ca=given)["encrypted"]
        assert "does it want TLS?" in check(server)["msg"]


def test_tls_with_another_name_or_of_an_unknown_authority(tmp_path: Path) -> None:
    server, ca = encrypted(tmp_path, "redis1")
    with server:
        refused = check(server, tls=True, ca=ca)["msg"]
        assert refused.startswith(f"prefect_redis_ca: the certificate of 127.0.0.1:{server.port} is refused")
        assert "is refused" in check(server, tls=True)["msg"]
        assert check(server, tls=True, verify=False)["encrypted"]


def until(server: Redis, *words: str, answers: str) -> None:
    """Say something to a Redis until the first line of its answer is this."""
    command = ["redis-cli", "-p", str(server.port), *words]
    environment = os.environ | {"REDISCLI_AUTH": PASSWORD}
    deadline = time.monotonic() + SECONDS
    while True:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        if said.split("\n")[0] == answers:
            return
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def event_arrives(url: str) -> bool:
    """Send events to a server until it keeps one: it passes them through Redis. While Redis is away it says 500."""
    resource = {"prefect.resource.id": "tests"}
    sent: list[str] = []
    deadline = time.monotonic() + SECONDS
    with Api(url) as api:
        while time.monotonic() < deadline:
            with contextlib.suppress(ApiError, urllib.error.HTTPError):
                now = datetime.now(timezone.utc).isoformat()
                sent.append(str(uuid4()))
                event = {"id": sent[-1], "event": "tests.sentinel", "occurred": now, "resource": resource}
                # Without the client of the modules, which send no events and refuse what answers nothing.
                request = urllib.request.Request(
                    f"{url}/events", json.dumps([event]).encode(), {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=60):
                    pass
                if api.post("/events/filter", {"filter": {"id": {"id": sent}}})["events"]:
                    return True
            time.sleep(0.2)
    return False


@pytest.mark.skipif(not PYTHONS, reason="PREFECT_TEST_PYTHONS is not set")
def test_a_server_follows_sentinels_to_the_next_primary(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("home", "one", "two", "sentinel")]
    for place in places:
        place.mkdir()
    passwords = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
    one = Redis(places[1], *passwords)
    two = Redis(places[2], *passwords, "--replicaof", "127.0.0.1", str(one.port))
    quoted = PASSWORD.replace('"', '\\"')
    (places[3] / "sentinel.conf").write_text(
        f"sentinel monitor prefect 127.0.0.1 {one.port} 1\n"
        f'sentinel auth-pass prefect "{quoted}"\n'
        "sentinel down-after-milliseconds prefect 1000\n"
    )
    sentinel = Redis(places[3], str(places[3] / "sentinel.conf"), "--sentinel")
    url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/prefect"
    found = connections.redis({"url": url})
    with one, two, sentinel, prefect_server(PYTHONS[-1], places[0], settings=found["settings"]) as api:
        assert event_arrives(api)
        until(sentinel, "SENTINEL", "REPLICAS", "prefect", answers="name")
        one.stop()
        until(two, "ROLE", answers="master")
        assert event_arrives(api)
