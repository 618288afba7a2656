"""Variables that nothing reads and settings that contradict one, refused on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.action.validate import (
    OUTDATED,
    OWNED,
    ROLES,
    known_variables,
    mistyped_variables,
    refused_credential,
    refused_domain,
    refused_environment,
    refused_proxy,
    refused_secrets,
    refused_server,
    refused_settings,
    refused_silence,
    refused_topology,
    refused_unit_options,
    refused_version,
    unknown_variables,
    unlocked,
)

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    "prefect": {"prefect_version", "prefect_settings"},
    "prefect_server": {"prefect_server_port", "prefect_server_state"},
    "prefect_worker": {"prefect_worker_limit"},
}
NO_SUCH = "there is no such variable"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("prefect_version", None),
        ("prefect_server_port", None),
        ("prefect_server_prot", f"{NO_SUCH}; did you mean prefect_server_port?"),
        ("prefect_server_Port", f"{NO_SUCH}; did you mean prefect_server_port?"),
        ("prefect_server_whatever_has_nothing_of_it_in_common", NO_SUCH),
        ("prefect_worker_limits", f"{NO_SUCH}; did you mean prefect_worker_limit?"),
        ("prefect_verison", f"{NO_SUCH}; did you mean prefect_version?"),
        ("prefect_serverport", f"{NO_SUCH}; did you mean prefect_server_port?"),
        ("prefect_my_own_thing", None),
        ("prefect_release_notes", None),
        ("prefect_servers", None),
    ],
)
def test_names(name: str, problem: str | None) -> None:
    assert unknown_variables([name], KNOWN) == ([f"{name}: {problem}"] if problem else [])


def test_all_names_at_once_and_each_once() -> None:
    names = ["prefect_verison", "prefect_server_prot", "prefect_version", "prefect_verison"]
    assert [line.split(":")[0] for line in unknown_variables(names, KNOWN)] == [
        "prefect_server_prot",
        "prefect_verison",
    ]


def test_the_roles_variables_are_known() -> None:
    known = known_variables(ROLES)
    assert {"prefect", "prefect_server", "prefect_worker", "prefect_flows", "prefect_common"} <= known.keys()
    assert "prefect_server_port" in known["prefect_server"]
    assert unknown_variables(sorted(set().union(*known.values())), known) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("PREFECT_LOGGING_LEVEL", None),
        ("PREFECT_SERVER_API_PORT", "v: set prefect_server_port, not PREFECT_SERVER_API_PORT"),
        ("PREFECT_STORAGE_TYPE", "v: PREFECT_STORAGE_TYPE: set prefect_database_host"),
        ("LOGGING_LEVEL", "v: LOGGING_LEVEL is no setting of Prefect; their names start with PREFECT_, in capitals"),
        ("prefect_logging_level", "v: prefect_logging_level is no setting"),
        ("PREFECT_logging_level", "v: PREFECT_logging_level is no setting"),
        (1, "v: 1 is no setting"),
    ],
)
def test_settings(name: Any, problem: str | None) -> None:
    found = refused_settings("v", {name: "x"})
    assert len(found) == (1 if problem else 0)
    assert "".join(found).startswith(problem or "")


def test_who_owns_a_setting_exists() -> None:
    known = set().union(*known_variables(ROLES).values())
    missing = {variable for variable in OWNED.values() if variable not in known}
    assert missing == set()
    assert not OWNED.keys() & OUTDATED.keys()
    for advice in OUTDATED.values():
        assert not advice.startswith("set ") or advice.removeprefix("set ") in known


@pytest.mark.parametrize("version", ["", "3.8.8", "3.9.1", "3.5.0", "3.10.0rc1", "3.9.2.dev1"])
def test_versions(version: str) -> None:
    assert refused_version(version, ["3.8.8"]) == []


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("latest", "latest is no exact version; name one with three numbers, such as 3.5.0, 3.8.8, 3.10.1, so that"),
        ("3", "3 is no exact version"),
        ("3.9", "3.9 is no exact version"),
        (">=3.8", ">=3.8 is no exact version"),
        ("3.8.8-0123", "3.8.8-0123 is no exact version"),
        ("v3.8.8", "v3.8.8 is no exact version"),
        ("2.20.3", "2.20.3 is not supported; name a version of Prefect 3"),
    ],
)
def test_versions_that_cannot_be_installed(version: str, says: str) -> None:
    (said,) = refused_version(version, ["3.8.8", "3.10.1", "3.5.0"])
    assert said.startswith(f"prefect_version: {says}")


@pytest.mark.parametrize(("version", "warned"), [("3.9.1", False), ("3.5.0", False), ("3.7.2", True), ("", False)])
def test_an_unlocked_version_is_said(version: str, warned: bool) -> None:
    said = unlocked(version, ["3.10.1", "3.9.1", "3.5.0"])
    assert len(said) == warned
    assert "".join(said).startswith(f"prefect_version: {version} has no lock in this collection" if warned else "")
    assert ("name one of 3.5.0, 3.9.1, 3.10.1, or a lock of your own in prefect_lock" in "".join(said)) is warned


@pytest.mark.parametrize(
    ("auth", "refused"),
    [
        ("", False),
        ("admin:s3cret", False),
        ("a:b:c", False),
        ("s3cret", True),
        (":s3cret", True),
        ("s3cret:", True),
        ("admin:s3cretß", True),
        ("jürgen:s3cret", True),
        ("admin:~!@#$%^&*()[]{}'s3cret", False),
    ],
)
def test_credential(auth: str, refused: bool) -> None:
    found = refused_credential(auth)
    assert bool(found) is refused
    assert "s3cret" not in "".join(found)


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("server.example.org", False),
    ],
)
def test_a_server_elsewhere(address: str, refused: bool) -> None:
    found = refused_server({"name": "one", "listens_on": address})
    assert bool(found) is refused
    assert not refused or found[0].startswith(
        f"prefect_server_host: this host needs the server on one, which listens on {address} alone"
    )


def test_no_server_elsewhere() -> None:
    assert refused_server({}) == []


@pytest.mark.parametrize(
    ("secret", "refused"),
    [("prefect-rocks", True), ("PgPass", True), ("postgres", True), ("changeme", True), ("", False), ("kA9s0d", False)],
)
def test_secrets_that_everybody_knows(secret: str, refused: bool) -> None:
    found = refused_secrets({"prefect_database_password": secret})
    assert bool(found) is refused
    assert not refused or found[0].startswith("prefect_database_password: that password is known to everybody")


@pytest.mark.parametrize(
    ("topology", "problems"),
    [
        ({}, []),
        ({"servers": ["one"], "database": "sqlite"}, []),
        ({"servers": ["one", "two"], "processes": 4, "database": "postgresql", "redis": True}, []),
        (
            {"servers": ["one", "two"], "database": "sqlite", "redis": True},
            ["prefect_database_host: 2 servers (one, two) cannot share SQLite"],
        ),
        (
            {"servers": ["one"], "processes": 2, "database": "sqlite"},
            ["prefect_database_host: 2 API processes cannot share SQLite", "prefect_redis_host: 2 API processes need"],
        ),
        (
            {"servers": ["one", "two"], "database": "postgresql"},
            ["prefect_redis_host: 2 servers (one, two) need a Redis"],
        ),
        ({"servers": ["one"], "backup_host": "one"}, []),
        (
            {"servers": ["one"], "backup_host": "db"},
            ["prefect_server_backup_schedule: the database is on db, which has no server"],
        ),
    ],
)
def test_hosts_that_contradict_each_other(topology: dict[str, Any], problems: list[str]) -> None:
    found = refused_topology(topology)
    assert len(found) == len(problems)
    for said, wanted in zip(found, problems, strict=True):
        assert said.startswith(wanted)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("prefect_worker_count", "two", "prefect_worker_count"),
        ("prefect_worker_count", "2", None),
        ("prefect_flows_deploy", "sometimes", "value of prefect_flows_deploy must be one of"),
        ("prefect_server_port", 4200, None),
        ("prefect_packages", ["prefect-docker"], None),
        ("prefect_packages", "prefect-docker", """-e '{"prefect_packages": ["..."]}'"""),
        ("prefect_settings", "DEBUG", "prefect_settings: it is a dict, and text was given"),
        ("prefect_worker_instances", [{"count": 1}], "missing required arguments: pool"),
        ("prefect_of_another_project", object(), None),
    ],
)
def test_values_of_another_type_are_refused_before_their_role_begins(
    name: str, value: object, problem: str | None
) -> None:
    said = mistyped_variables({name: value}, known_variables(ROLES))
    assert [(problem or "nothing") in line for line in said] == ([True] if problem else [])


def test_text_in_place_of_a_dictionary_is_not_repeated() -> None:
    given: dict[str, Any] = {"prefect_settings": "PREFECT_API_KEY=s3cret", "prefect_packages": "s3cret"}
    said = mistyped_variables(given, known_variables(ROLES))
    assert len(said) == 2
    assert "s3cret" not in "".join(said)


@pytest.mark.parametrize("domain", ["prefect.example.com", "proxy1", "10.0.0.1", "fd00::1", "my_host-1"])
def test_domains(domain: str) -> None:
    assert refused_domain(domain) == []


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        (
            "prefect.example.com:8443",
            "has a port in it; set prefect_proxy_domain to prefect.example.com and prefect_proxy_https_port to 8443",
        ),
        ("https://prefect.example.com", "is a URL or has a path"),
        ("prefect.example.com/prefect", "prefect_proxy_base_path"),
        ("pre fect", "is no name of a host"),
        ("-prefect", "is no name of a host"),
        ("prefect..com", "is no name of a host"),
        ("prefect;", "is no name of a host"),
    ],
)
def test_domains_that_are_something_else(domain: str, problem: str) -> None:
    (said,) = refused_domain(domain)
    assert said.startswith("prefect_proxy_domain: ")
    assert problem in said


PROXY = {
    "present": True,
    "domain": "prefect.example.com",
    "hosts": ["front"],
    "servers": ["api1"],
    "unreachable": [],
    "certificate": "",
    "certificate_key": "",
    "acme": False,
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"present": False, "servers": []}, None),
        ({"servers": []}, "prefect_proxy: the group has hosts (front) and the group prefect_server has none"),
        ({"unreachable": ["api1"]}, "prefect_server_host: the server on api1 was told to listen on its loopback"),
        ({"certificate": "a.pem"}, "prefect_proxy_certificate: it comes with prefect_proxy_certificate_key"),
        ({"certificate_key": "a.key"}, "prefect_proxy_certificate: it comes with prefect_proxy_certificate_key"),
        (
            {"certificate": "a.pem", "certificate_key": "a.key", "acme": True},
            "prefect_proxy_acme: there is a certificate",
        ),
        ({"acme": True, "domain": "10.0.0.1"}, "prefect_proxy_acme: 10.0.0.1 is an address"),
        ({"listen": ["10.0.0.1", "[fd00::1]"]}, None),
        ({"listen": ["front"]}, "prefect_proxy_listen: front is not an address"),
    ],
)
def test_proxies(change: dict[str, Any], problem: str | None) -> None:
    said = refused_proxy(PROXY | change)
    assert [line[: len(problem or "")] for line in said] == ([problem] if problem else [])


@pytest.mark.parametrize("variable", ["prefect_settings", "prefect_worker_settings"])
def test_what_is_no_setting_has_another_variable(variable: str) -> None:
    (problem,) = refused_settings(variable, {"HTTP_PROXY": "http://user:secret@proxy"})
    assert problem.startswith(f"{variable}: HTTP_PROXY is no setting of Prefect")
    assert problem.endswith("set it in prefect_worker_environment")
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("HTTP_PROXY", ""),
        ("no_proxy", ""),
        ("_x1", ""),
        ("PREFECT_LOGGING_LEVEL", "is a setting of Prefect; set it in prefect_worker_settings"),
        ("MY KEY", "is no name of an environment variable"),
        ("A=B", "is no name of an environment variable"),
        ("A\n", "is no name of an environment variable"),
        ("1A", "is no name of an environment variable"),
        ("", "is no name of an environment variable"),
    ],
)
def test_environment(name: str, problem: str) -> None:
    found = refused_environment("v", [name])
    assert bool(found) is bool(problem)
    assert all(problem in each for each in found)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"Environment": "API_TOKEN=canary"}, "Environment holds API_TOKEN"),
        ({"Environment": "'LEVEL=1' \"DB_PASSWORD=canary\""}, "Environment holds DB_PASSWORD"),
        ({"ExecStartPre": "/bin/curl https://any:canary@example.com"}, "ExecStartPre holds a URL with a credential"),
        ({"Environment": "TOKEN_FILE=/run/token LEVEL=1 SECRET=%d/secret"}, ""),
        ({"EnvironmentFile": "/etc/secret.env", "LoadCredential": "token:/etc/token", "MemoryMax": "1G"}, ""),
        ({"SystemCallFilter": "", "ReadWritePaths": "/srv/data", "TimeoutStopSec": 5}, ""),
    ],
)
def test_a_unit_holds_no_credential(options: dict[str, Any], found: str) -> None:
    said = refused_unit_options("prefect_worker_unit_options", options)
    assert len(said) == bool(found) and "canary" not in "".join(said)
    assert all(found in each and "set it in prefect_worker_environment" in each for each in said)


@pytest.mark.parametrize(
    ("seconds", "refused"), [(0, False), (1, True), ("89", True), (90, False), (540, False), (None, False)]
)
def test_silence(seconds: Any, refused: bool) -> None:
    found = refused_silence(seconds)
    assert bool(found) is refused
    assert all("at least 90, or 0 for none" in each for each in found)
