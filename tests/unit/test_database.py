"""What the check of a database says, of a PostgreSQL that is played to it over a real socket."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.postgres import saslprep
from ansible_collections.selfhosted.prefect.plugins.modules import host_database as database
from fake_api import outcome
from fake_postgres import FakePostgres

GOOD: dict[str, str | None] = {
    "version": "15.6 (Debian 15.6-0+deb12u1)",
    "allowed": "97",
    "others": "3",
    "standby": "f",
    "trigram": "t",
    "available": "t",
    "database": "t",
    "schema": "t",
    "encoding": "UTF8",
    "migrated": "f",
    "role limit": "-1",
    "database limit": "-1",
}


def check(server: FakePostgres, **options: Any) -> dict[str, Any]:
    given = {"host": "127.0.0.1", "port": server.port, "name": "prefect", "user": "prefect", "password": "secret"}
    result: dict[str, Any] = outcome(database.main, **{**given, **options})
    return result


def rows(**different: str) -> dict[str, list[str | None]]:
    return {"server_version": list({**GOOD, **different}.values()), "version_num": ["abc123"]}


def files(directory: Path, *names: str) -> tuple[ssl.SSLContext, str]:
    """Return the TLS of a server with these names, and the file of the authority that signed it."""
    directory.mkdir(exist_ok=True)
    pair = certificate_for(directory / "server", list(names))
    (directory / "authority.crt").write_text(pair["ca"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    return context, str(directory / "authority.crt")


@pytest.mark.parametrize("password", ["secret", "p@:/%s #'\"", "pässwörd", "\u00a0Ⅸ\u00ad"])
def test_a_good_database(password: str) -> None:
    with FakePostgres(password=saslprep(password), rows=rows(migrated="t")) as server:
        found = check(server, password=password, connections=94)
    assert not found.get("failed"), found["msg"]
    assert (found["version"], found["max_connections"], found["free_connections"]) == ("15.6", 97, 94)
    assert (found["schema"], found["encrypted"], found["changed"]) == ("abc123", False, False)


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    """A directory that every account may enter."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("account", ["", "daemon"])
def test_a_socket_is_opened_as_the_account_of_the_service(sockets: Path, account: str) -> None:
    with FakePostgres(rows=rows(), socket_directory=str(sockets)) as server:
        (sockets / ".s.PGSQL.5433").chmod(0o777)
        found = check(server, host=str(sockets), account=account)
    assert not found.get("failed"), found["msg"]
    assert found["encrypted"] is False
    as_another = account and os.geteuid() == 0
    assert server.callers == [pwd.getpwnam(account).pw_uid if as_another else os.geteuid()]
    assert os.geteuid() == os.getuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="another account may only open a socket as itself")
@pytest.mark.parametrize(
    ("account", "says"), [("not-created", ""), ("daemon", "prefect_database_user: "), ("", "not let")]
)
def test_an_account_that_is_still_to_be_created_is_no_problem(sockets: Path, account: str, says: str) -> None:
    refused = ("28000", 'Peer authentication failed for user "prefect"')
    with FakePostgres(failure=refused, socket_directory=str(sockets)) as server:
        (sockets / ".s.PGSQL.5433").chmod(0o777)
        found = check(server, host=str(sockets), account=account)
    assert bool(found.get("failed")) is bool(says)
    assert says in str(found.get("msg"))
    assert bool(says) or "which does not exist on this host yet; it was not looked at" in found["warnings"][0]


def test_a_socket_that_is_not_there(sockets: Path) -> None:
    found: dict[str, Any] = outcome(database.main, host=str(sockets), port=5433, name="x", user="x")
    assert f"nothing listens at {sockets}:5433; start PostgreSQL there" in found["msg"]


def test_saslprep() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("\u2168") == "IX"
    assert saslprep("a\u00a0b") == "a b"
    assert saslprep("bell\u0007") == "bell\u0007"


@pytest.mark.parametrize(
    ("different", "options", "said"),
    [
        ({"version": "14.8"}, {}, "is PostgreSQL 14.8, and Prefect needs 14.9 or newer"),
        ({"version": "13.14"}, {}, "is PostgreSQL 13.14"),
        ({"standby": "t"}, {}, "is a standby"),
        ({"encoding": "SQL_ASCII"}, {}, "prefect_database_name: prefect on 127.0.0.1"),
        ({"trigram": "f", "available": "f"}, {}, "has no extension pg_trgm"),
        ({"schema": "f"}, {}, "prefect_database_user: prefect may not create"),
        ({"trigram": "f", "database": "f"}, {}, "prefect_database_user: prefect on 127.0.0.1"),
        ({"trigram": "f", "database": "f"}, {}, "run create extension pg_trgm there as an administrator"),
        ({}, {"connections": 95}, "opens up to 95 connections"),
        ({"role limit": "10"}, {"connections": 11}, "of the 10 that"),
    ],
)
def test_a_database_that_cannot_serve(different: dict[str, str], options: dict[str, Any], said: str) -> None:
    with FakePostgres(rows=rows(**different)) as server:
        found = check(server, **options)
    assert found["failed"]
    assert said in found["msg"]
    assert "\n" not in found["msg"]


@pytest.mark.parametrize("different", [{"database": "f"}, {"trigram": "f"}])
def test_a_user_with_what_the_migration_needs(different: dict[str, str]) -> None:
    """CREATE on the database is for the extension: where an administrator has created that, the schema's is enough."""
    with FakePostgres(rows=rows(**different)) as server:
        found = check(server)
    assert not found.get("failed"), found["msg"]


def test_data_that_would_be_left_behind(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").touch()
    with FakePostgres(rows={"work_pool": ["f"], **rows(migrated="t")}) as server:
        assert "playbook sqlite_to_postgres" in check(server, sqlite=str(tmp_path / "prefect.db"))["msg"]
        assert not check(server, sqlite=str(tmp_path / "other.db")).get("failed")
    with FakePostgres(rows={"work_pool": ["t"], **rows(migrated="t")}) as server:
        assert not check(server, sqlite=str(tmp_path / "prefect.db")).get("failed")


def test_several_problems_at_once() -> None:
    with FakePostgres(rows=rows(version="12.1", standby="t")) as server:
        assert len(check(server)["msg"].splitlines()) == 2


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (("28P01", "password authentication failed"), "prefect_database_password: "),
        (("28000", "no pg_hba.conf entry"), "prefect_database_user: "),
        (("3D000", "no such database"), "prefect_database_name: "),
        (("53300", "too many clients already"), "has no connection left"),
    ],
)
def test_a_server_that_refuses(failure: tuple[str, str], said: str) -> None:
    with FakePostgres(failure=failure) as server:
        found = check(server)
    assert found["failed"]
    assert said in found["msg"]
    assert "secret" not in found["msg"]


def test_a_wrong_password() -> None:
    with FakePostgres(password="another") as server:
        assert "prefect_database_password: 127.0.0.1" in check(server)["msg"]


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found: dict[str, Any] = outcome(database.main, host="127.0.0.1", port=port, name="x", user="x", variable="here")
    assert found["msg"] == (
        f"here: nothing listens at 127.0.0.1:{port}; start PostgreSQL there, or correct the host or the port"
    )


def test_a_name_that_cannot_be_resolved() -> None:
    found: dict[str, Any] = outcome(database.main, host="nowhere.invalid", name="x", user="x")
    assert "prefect_database_host: this host cannot resolve nowhere.invalid" in found["msg"]


def test_tls_that_proves_itself(tmp_path: Path) -> None:
    context, ca = files(tmp_path, "db1", "127.0.0.1")
    with FakePostgres(tls=context, rows=rows()) as server:
        assert check(server, tls=True, ca=ca)["encrypted"]


def test_tls_without_verification(tmp_path: Path) -> None:
    context, _ = files(tmp_path, "db1")
    with FakePostgres(tls=context, rows=rows()) as server:
        assert check(server)["encrypted"]


def test_tls_with_another_name(tmp_path: Path) -> None:
    context, ca = files(tmp_path, "db1")
    with FakePostgres(tls=context, rows=rows()) as server:
        assert "prefect_database_ca: the certificate of 127.0.0.1" in check(server, tls=True, ca=ca)["msg"]
        assert not check(server, tls=True, ca=ca, check_hostname=False).get("failed")


def test_tls_of_an_unknown_authority(tmp_path: Path) -> None:
    context, _ = files(tmp_path / "one", "127.0.0.1")
    _, other = files(tmp_path / "other", "127.0.0.1")
    with FakePostgres(tls=context, rows=rows()) as server:
        assert "is refused" in check(server, tls=True, ca=other)["msg"]


def test_no_tls_where_it_is_asked_for() -> None:
    with FakePostgres(rows=rows()) as server:
        assert "does not speak TLS, which prefect_database_tls asks for" in check(server, tls=True)["msg"]


def test_certificate_and_key_that_do_not_match(tmp_path: Path) -> None:
    files(tmp_path / "one", "a")
    files(tmp_path / "other", "a")
    pair = {"cert": str(tmp_path / "one/server.crt"), "key": str(tmp_path / "other/server.key")}
    with FakePostgres(rows=rows()) as server:
        assert "prefect_database_cert, prefect_database_key: " in check(server, **pair)["msg"]
        assert "prefect_database_ca: /nowhere" in check(server, tls=True, ca="/nowhere")["msg"]
