"""Connections to databases and Redis, from URLs or from their parts."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.connections import (
    InvalidConnection,
    database,
    host_and_port,
    redis,
)

NASTY = "p@:/%s #'\"?x=1@y\\$"
TLS = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS"
PARTS = {"host": "db1", "port": 5433, "name": "prefect", "user": "u", "password": NASTY}


@pytest.mark.parametrize("given", [{}, {"url": "", "host": ""}, {"host": None, "port": 5432, "name": "prefect"}])
def test_without_a_host_it_is_sqlite(given: dict[str, Any]) -> None:
    assert database(given) == {"kind": "sqlite", "settings": {}}


def test_a_sqlite_of_ones_own() -> None:
    url = "sqlite+aiosqlite:////data/prefect.db"
    assert database({"url": url, "host": "db1"}) == {
        "kind": "sqlite",
        "settings": {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url},
    }


@pytest.mark.parametrize(
    "given",
    [
        PARTS,
        {"url": f"postgresql://u:{NASTY}@db1:5433/prefect"},
        {"url": f"postgresql+asyncpg://u:{quote(NASTY, safe='')}@db1:5433/prefect"},
        {"url": f"postgres://u:{quote(NASTY, safe='')}@db1:5433/prefect", "host": "other", "password": "generated"},
    ],
)
def test_a_password_of_any_kind_arrives_as_it_is(given: dict[str, Any]) -> None:
    found = database(given)
    assert found["settings"] == {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": "db1",
        "PREFECT_SERVER_DATABASE_NAME": "prefect",
        "PREFECT_SERVER_DATABASE_PASSWORD": NASTY,
        "PREFECT_SERVER_DATABASE_PORT": 5433,
        "PREFECT_SERVER_DATABASE_USER": "u",
    }
    assert (found["kind"], found["host"], found["port"], found["password"]) == ("postgresql", "db1", 5433, NASTY)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:p@h", {"host": "h", "port": 5432, "name": "u"}),
        ("postgresql://u:p@[fe80::1]:5433/d", {"host": "fe80::1", "port": 5433}),
        ("postgresql://u@h/d", {"user": "u", "password": ""}),
        ("postgresql://a%40b:p%25@h/d%20e", {"user": "a@b", "password": "p%", "name": "d e"}),
        ("postgresql://u:100%@h/d", {"password": "100%"}),
        ("postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/ca.pem", {"tls": True, "ca": "/ca.pem", "query": {}}),
        ("postgresql://u:p@h/d?sslmode=verify-ca", {"tls": True, "check_hostname": False}),
        ("postgresql://u:p@h/d?sslmode=require", {"tls": False, "query": {"ssl": "require"}}),
    ],
)
def test_parts_of_a_url(url: str, wanted: dict[str, Any]) -> None:
    found = database({"url": url})
    assert {name: found[name] for name in wanted} == wanted


def test_parameters_need_a_url_again() -> None:
    url = database({"url": f"postgres://u:{NASTY}@h/d?sslmode=require&target_session_attrs=any"})["settings"]
    assert url == {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://u:{quote(NASTY, safe='')}@h:5432/d?target_session_attrs=any&ssl=require"
        )
    }


@pytest.mark.parametrize(
    ("given", "port", "password"),
    [
        ({"url": "postgresql+asyncpg://u@/d%20e?host=/run/postgresql"}, 5432, ""),
        ({"url": "postgresql://u@/d%20e?host=%2Frun%2Fpostgresql&port=5433"}, 5433, ""),
        ({"url": "postgresql://u@%2Frun%2Fpostgresql/d%20e"}, 5432, ""),
        ({"url": f"postgres://u:{NASTY}@%2frun%2fpostgresql:5433/d%20e"}, 5433, NASTY),
        ({"host": "/run/postgresql", "port": 5433, "name": "d e", "user": "u", "password": NASTY}, 5433, NASTY),
    ],
)
def test_a_socket_of_the_host(given: dict[str, Any], port: int, password: str) -> None:
    found = database(given)
    assert (found["host"], found["port"], found["name"], found["user"]) == ("/run/postgresql", port, "d e", "u")
    assert (found["password"], found["query"]) == (password, {})
    credential = f"u:{quote(password, safe='')}" if password else "u"
    assert found["settings"] == {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://{credential}@/d%20e?host=/run/postgresql&port={port}"
        )
    }


def test_a_socket_with_more_parameters() -> None:
    found = database({"url": "postgresql://u@/d?host=/run/postgresql&application_name=x&target_session_attrs=any"})
    assert found["settings"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"].endswith(
        "@/d?host=/run/postgresql&port=5432&target_session_attrs=any"
    )


def test_a_socket_has_no_tls() -> None:
    with pytest.raises(InvalidConnection, match="prefect_database_tls: the PostgreSQL is reached by a socket in /run"):
        database({"url": "postgresql://u@/d?host=/run/postgresql&sslmode=verify-full"})


def test_parameters_that_are_settings() -> None:
    settings = database({"url": "postgresql://u:p@h/d?application_name=prefect&statement_cache_size=0"})["settings"]
    connect = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS"
    assert settings[f"{connect}_APPLICATION_NAME"] == "prefect"
    assert settings[f"{connect}_STATEMENT_CACHE_SIZE"] == "0"
    assert settings["PREFECT_SERVER_DATABASE_HOST"] == "h"


def test_a_database_that_proves_who_it_is() -> None:
    found = database({**PARTS, "tls": True, "ca": "/ca", "cert": "/cert", "key": "/key"})["settings"]
    assert {name: value for name, value in found.items() if name.startswith(TLS)} == {
        f"{TLS}_CA_FILE": "/ca",
        f"{TLS}_CERT_FILE": "/cert",
        f"{TLS}_CHECK_HOSTNAME": True,
        f"{TLS}_ENABLED": True,
        f"{TLS}_KEY_FILE": "/key",
    }


@pytest.mark.parametrize(
    "url",
    ["mysql://u:s3cret@h/d", "u:s3cret@h", "postgresql://u:s3cret@", "postgresql://:s3cret@h/d", "postgresql://h1/d",
     "postgresql://u:s3cret@h:http/d", "postgresql://u:s3cret@h1,h2/d",
     "postgresql://u:s3cret@h/d?options=-c%20a=b", "postgresql://u:s3cret@/d", "postgresql://u:s3cret@/d?host=h2",
     "postgresql://u:s3cret@/d?host=/run/postgresql&port=five", "postgresql//u:s3cret@h/d"],
)  # fmt: skip
def test_no_url_of_a_postgresql(url: str) -> None:
    with pytest.raises(InvalidConnection, match="prefect_database_url: ") as raised:
        database({"url": url})
    assert "s3cret" not in str(raised.value)
    assert not set("()[]|*\\") & set(str(raised.value))


def test_hosts_and_ports() -> None:
    assert host_and_port("[::1]:1", variable="v", default=2) == ("::1", 1)
    assert host_and_port("h", variable="v", default=2) == ("h", 2)


def test_there_is_no_redis() -> None:
    assert redis({"url": "", "host": ""}) == {"present": False, "settings": {}}


@pytest.mark.parametrize(
    ("given", "url", "docket"),
    [
        ({"host": "h"}, "redis://h:6379/0", "redis://h:6379/1"),
        ({"host": "h", "port": 1, "database": 4}, "redis://h:1/4", "redis://h:1/5"),
        ({"host": "::1", "tls": True, "ca": "/c.pem"}, "rediss://[::1]:6379/0?ssl_ca_certs=/c.pem", None),
        ({"url": "redis://u:p@h"}, "redis://u:p@h/0", "redis://u:p@h/1"),
        ({"url": "rediss://:p@h:1/3", "host": "other"}, "rediss://:p@h:1/3", "rediss://:p@h:1/4"),
        (
            {"url": "redis+sentinel://:p@s1:26379,[::1]:26379/mymaster"},
            "redis+sentinel://:p@s1:26379,[::1]:26379/mymaster/0",
            "redis+sentinel://:p@s1:26379,[::1]:26379/mymaster/1",
        ),
        (
            {"url": "rediss+sentinel://s1/m2/4?sentinel_password=x"},
            "rediss+sentinel://s1/m2/4?sentinel_password=x",
            "rediss+sentinel://s1/m2/5?sentinel_password=x",
        ),
    ],
)
def test_addresses_of_a_redis(given: dict[str, Any], url: str, docket: str | None) -> None:
    found = redis(given)
    assert found["url"] == url
    assert docket is None or found["docket_url"] == docket
    assert found["settings"]["PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"] == url
    assert found["settings"]["PREFECT_SERVER_DOCKET_URL"] == found["docket_url"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"host": "h", "password": "p"},
         {"HOST": "h", "PORT": 6379, "DB": 0, "USERNAME": "", "PASSWORD": "p", "SSL": False}),
        ({"url": "rediss://u:p%40@[::1]:1/3"},
         {"HOST": "::1", "PORT": 1, "DB": 3, "USERNAME": "u", "PASSWORD": "p@", "SSL": True}),
        # What parts cannot say, or Prefect takes for granted.
        ({"host": "h"}, {"URL": "redis://h:6379/0"}),
        ({"url": "redis://:p@h?protocol=3"}, {"URL": "redis://:p@h/0?protocol=3"}),
        ({"url": "redis+sentinel://:p@s1,s2/m"}, {"URL": "redis+sentinel://:p@s1,s2/m/0"}),
    ],
)  # fmt: skip
def test_messages_go_to_a_redis_in_parts(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    prefix = "PREFECT_REDIS_MESSAGING_"
    settings = redis(given)["settings"].items()
    assert {name.removeprefix(prefix): value for name, value in settings if name.startswith(prefix)} == wanted


def test_where_a_redis_is() -> None:
    assert redis({"url": "rediss://u:p@h/3?ssl_ca_certs=/c.pem"})["server"] == {
        "host": "h",
        "port": 6379,
        "user": "u",
        "password": "p",
        "tls": True,
        "verify": True,
        "ca": "/c.pem",
        "databases": [3, 4],
    }
    assert redis({"url": "rediss://h?ssl_cert_reqs=none"})["server"]["verify"] is False
    assert redis({"url": "redis+sentinel://s1,s2/m"})["server"] is None


@pytest.mark.parametrize(
    "given",
    [
        {"host": "h", "password": NASTY},
        {"url": f"redis://:{NASTY}@h:6379"},
        {"url": f"redis://:{quote(NASTY, safe='')}@h"},
    ],
)
def test_a_redis_password_of_any_kind(given: dict[str, Any]) -> None:
    found = redis(given)
    assert found["password"] == NASTY
    assert urlsplit(found["url"]).password == quote(NASTY, safe="")


def test_no_url_of_a_redis() -> None:
    with pytest.raises(InvalidConnection, match="prefect_redis_url: ") as raised:
        redis({"url": "redis+cluster://:s3cret@h"})
    assert "s3cret" not in str(raised.value)
    assert not set("()[]|*\\") & set(str(raised.value))
