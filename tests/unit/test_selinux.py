"""SELinux is told what a component uses, and only what it was told is taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.package_manager import PackageError
from ansible_collections.selfhosted.prefect.plugins.modules import host_selinux as selinux
from fake_api import outcome

Ensure = Callable[..., Any]


class Policy:
    """The programs of SELinux, on a policy of their own."""

    def __init__(self) -> None:
        self.booleans = {"httpd_can_network_connect": "off"}
        self.ports = {"http_port_t": "80, 443, 8008-8010", "redis_port_t": "6379", "unreserved_port_t": "1024-32767"}
        self.own, self.directories, self.restored = list[tuple[str, str]](), dict[str, str](), list[str]()
        self.changes, self.fails = 0, ""

    def run(self, *command: str, accept: str = "") -> str:
        """Act on a command, as its manual page describes it."""
        program, *words = command
        if program == "getsebool":
            return f"{words[0]} --> {self.booleans[words[0]]}\n"
        if "--list" in words and words[0] == "port":
            lines = [f"{kind:30} tcp      {ranges}" for kind, ranges in [*self.ports.items(), *self.own]]
            return "\n".join([*lines, "redis_port_t                   udp      5432"]) + "\n"
        if "--list" in words:
            return "".join(
                f"{path:50} all files          system_u:object_r:{kind}:s0 \n"
                for path, kind in self.directories.items()
            )
        self.changes += 1
        if self.fails and self.fails in command:
            raise PackageError("killed")
        if program == "setsebool":
            self.booleans[words[-2]] = words[-1]
        elif program == "restorecon":
            self.restored.append(words[-1])
        elif words[0] == "port":
            entry = (words[words.index("--type") + 1], words[-1])
            self.own.append(entry) if "--add" in words else self.own.remove(entry)
        elif "--add" in words:
            self.directories[words[-1]] = words[words.index("--type") + 1]
        else:
            del self.directories[words[-1]]
        return ""


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    policy = Policy()
    rocky = distributions.Distribution("Rocky Linux 9.4", distributions.REDHAT, 9)
    monkeypatch.setattr(distributions, "current", lambda: rocky)
    monkeypatch.setattr(selinux, "confined", lambda: True)
    monkeypatch.setattr(selinux, "missing_programs", lambda *_: [])
    monkeypatch.setattr(selinux, "run", policy.run)
    return policy


@pytest.fixture
def ensure(policy: Policy, tmp_path: Path) -> Ensure:
    def call(owner: str = "one", **options: Any) -> Any:
        return outcome(selinux.main, owner=owner, record=str(tmp_path / "lib/selinux.json"), **options)

    return call


REDIS = {"component": "redis", "ports": [6380], "directories": ["/var/lib/prefect-redis"]}
NGINX = {"component": "nginx", "ports": [443, 4443]}


def test_dry_for_real_again_and_back(ensure: Ensure, policy: Policy, tmp_path: Path) -> None:
    changes = ["port 6380 redis_port_t", "directory /var/lib/prefect-redis redis_var_lib_t"]
    assert ensure(**REDIS, _ansible_check_mode=True)["changes"] == changes
    assert (policy.changes, list(tmp_path.iterdir())) == (0, [])
    assert ensure(**REDIS)["changes"] == changes
    assert policy.own == [("redis_port_t", "6380")]
    assert policy.directories == {"/var/lib/prefect-redis(/.*)?": "redis_var_lib_t"}
    assert policy.restored == ["/var/lib/prefect-redis"]
    done = policy.changes
    assert not ensure(**REDIS)["changed"] and policy.changes == done
    assert ensure(state="absent", _ansible_check_mode=True)["changes"] == changes
    assert policy.changes == done
    assert ensure(state="absent")["changes"] == changes
    assert (policy.own, policy.directories, list(tmp_path.iterdir())) == ([], {}, [])
    assert not ensure(state="absent")["changed"]


def test_what_applied_before_stays(ensure: Ensure, policy: Policy) -> None:
    policy.booleans["httpd_can_network_connect"] = "on"
    assert ensure(**NGINX)["changes"] == ["port 4443 http_port_t"]
    ensure(state="absent")
    assert policy.booleans["httpd_can_network_connect"] == "on"


def test_what_two_owners_need_goes_with_the_last_one(ensure: Ensure, policy: Policy) -> None:
    ensure("one", **NGINX)
    assert ensure("two", **NGINX)["changes"] == []
    assert ensure("one", state="absent")["changes"] == []
    assert policy.booleans["httpd_can_network_connect"] == "on"
    ensure("two", state="absent")
    assert policy.booleans["httpd_can_network_connect"] == "off"


def test_another_port_takes_the_place_of_the_former(ensure: Ensure, policy: Policy) -> None:
    ensure(**REDIS)
    assert ensure(**REDIS | {"ports": [6381]})["changes"] == ["port 6380 redis_port_t", "port 6381 redis_port_t"]
    assert policy.own == [("redis_port_t", "6381")]


def test_a_port_of_another_service_is_rejected(ensure: Ensure, policy: Policy) -> None:
    said = ensure(**REDIS | {"ports": [8009]})
    assert "port 8009: SELinux knows it as http_port_t" in said["msg"] and "choose another port" in said["msg"]
    assert policy.changes == 0


def test_what_someone_else_took_back_is_no_error(ensure: Ensure, policy: Policy) -> None:
    ensure(**REDIS)
    policy.own.clear()
    policy.directories.clear()
    assert ensure(state="absent")["changed"]


def test_what_was_lost_is_set_again(ensure: Ensure, policy: Policy) -> None:
    ensure(**REDIS)
    policy.own.clear()
    assert ensure(**REDIS)["changes"] == ["port 6380 redis_port_t"]
    assert policy.own == [("redis_port_t", "6380")]


def test_a_run_that_was_killed_is_taken_back(ensure: Ensure, policy: Policy) -> None:
    policy.fails = "fcontext"
    assert "killed" in ensure(**REDIS)["msg"]
    policy.fails = ""
    ensure(state="absent")
    assert (policy.own, policy.directories) == ([], {})


def test_a_host_without_selinux(ensure: Ensure, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "confined", lambda: False)
    assert not ensure(**REDIS)["changed"] and policy.changes == 0


def test_check_mode_before_the_packages_are_installed(
    ensure: Ensure, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selinux, "missing_programs", lambda *names: [*names])
    monkeypatch.setattr(selinux, "run", None)
    said = ensure(**NGINX, _ansible_check_mode=True)
    assert said["changes"] == ["boolean httpd_can_network_connect on", "port 443 http_port_t", "port 4443 http_port_t"]


def test_the_record_names_what_was_set(ensure: Ensure, tmp_path: Path) -> None:
    ensure(**NGINX)
    record = json.loads((tmp_path / "lib/selinux.json").read_text())
    assert record == {"one": [["boolean", "httpd_can_network_connect", "on"], ["port", "4443", "http_port_t"]]}
