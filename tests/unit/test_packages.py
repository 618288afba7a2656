"""Packages that this collection installed are removed; those that existed before, or that others need, stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import packages
from fake_api import outcome

DEPENDS = {
    "redis-server": ["redis-tools"],
    "redis-tools": ["liblzf1"],
    "foreign": ["liblzf1"],
    "postgresql": ["libpq5"],
}


class Host:
    """A package manager that knows `DEPENDS`; `fails` is the next action that it refuses."""

    def __init__(self, *there: str) -> None:
        self.there, self.fails, self.calls = set(there), "", list[str]()

    def closure(self, names: set[str], edges: dict[str, list[str]] | None = None) -> set[str]:
        found, edges = set(names), DEPENDS if edges is None else edges
        while more := {other for name in found for other in edges.get(name, [])} - found:
            found |= more
        return found

    def run(self, *command: str) -> str:
        tool, action = (
            command[0],
            next(word for word in command[1:] if word in ("install", "purge", "update", "depends")),
        )
        names = set(command[command.index(action) + 1 :])
        names = {name for name in names if not name.startswith("-")}
        if tool == "apt-cache":
            return "".join(f"{name}\n  Depends: x\n" for name in self.closure(names) & self.there)
        simulated = "--simulate" in command
        if not simulated:
            self.calls.append(" ".join([action, *sorted(names)]))
        if action == self.fails and not simulated:
            raise packages.PackageError("killed")
        if action == "install":
            coming = self.closure(names) - self.there
            if not simulated:
                self.there |= coming
            return (
                "".join(f"Inst {name} (1.0 Debian [amd64])\n" for name in coming) + "Inst libc6 [2.36] (2.37 Debian)\n"
            )
        users = {name: [user for user, needs in DEPENDS.items() if name in needs] for name in self.there}
        going = self.closure(names, users) & self.there
        if not simulated:
            self.there -= going
        return "".join(f"Purg {name} [1.0]\n" for name in going)


@pytest.fixture
def manage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    host = Host("bash")
    monkeypatch.setattr(packages, "run", host.run)
    monkeypatch.setattr(packages, "present", lambda names: set(names) & host.there)
    monkeypatch.setattr(packages, "MASKS", tmp_path)
    monkeypatch.setattr(packages, "UNITS", tmp_path / "units")
    monkeypatch.setattr(packages, "DEFAULT_LOCALE", tmp_path / "locale")
    monkeypatch.setattr(packages, "remove_accounts", lambda names: host.calls.append(f"accounts {sorted(names)}"))

    def call(owner: str = "one", *names: str, **options: Any) -> Any:
        result = outcome(
            packages.main, owner=owner, names=list(names), record=str(tmp_path / "lib/record.json"), **options
        )
        result["host"], result["directory"] = host, tmp_path
        return result

    return call


def test_what_came_goes(manage: Callable[..., Any]) -> None:
    first = manage("one", "redis-server", accounts=["redis", "root"], mask=["redis-server.service"])
    assert (first["changed"], first["installed"]) == (True, ["liblzf1", "redis-server", "redis-tools"])
    assert str((first["directory"] / "redis-server.service").readlink()) == "/dev/null"
    again = manage("one", "redis-server", accounts=["redis"], mask=["redis-server.service"])
    assert not again["changed"]
    gone = manage("one", state="absent")
    assert gone["removed"] == ["liblzf1", "redis-server", "redis-tools"]
    assert gone["host"].there == {"bash"}
    assert gone["host"].calls[-1] in ("accounts ['redis']", "accounts []")
    assert list(gone["directory"].iterdir()) == []
    assert not manage("one", state="absent")["changed"]


def test_what_was_there_stays(manage: Callable[..., Any]) -> None:
    host = manage("none", state="absent")["host"]
    host.there |= {"redis-server", "redis-tools", "liblzf1"}
    assert manage("one", "redis-server", mask=["redis-server.service"])["installed"] == []
    assert manage("one", state="absent")["removed"] == []
    assert "redis-server" in host.there


def test_it_goes_with_the_last_owner(manage: Callable[..., Any]) -> None:
    manage("one", "redis-server")
    manage("other", "redis-server")
    manage("third", "postgresql")
    assert manage("one", state="absent")["removed"] == []
    assert manage("other", state="absent")["removed"] == ["liblzf1", "redis-server", "redis-tools"]
    assert manage("third", state="absent")["removed"] == ["libpq5", "postgresql"]


def test_a_package_that_another_one_needs_stays(manage: Callable[..., Any]) -> None:
    host = manage("one", "redis-server")["host"]
    host.there.add("foreign")
    assert manage("one", state="absent")["removed"] == ["redis-server", "redis-tools"]
    assert host.there == {"bash", "foreign", "liblzf1"}


def test_a_service_that_was_unmasked_stays(manage: Callable[..., Any]) -> None:
    first = manage("one", "redis-server", mask=["redis-server.service"])
    (first["directory"] / "redis-server.service").unlink()
    assert manage("one", state="absent")["removed"] == []


def test_what_is_to_be_kept_is_forgotten(manage: Callable[..., Any]) -> None:
    manage("one", "postgresql")
    kept = manage("one", state="absent", keep=True)
    assert (kept["changed"], kept["removed"]) == (True, [])
    manage("one", "postgresql")
    assert manage("one", state="absent")["removed"] == []


def test_a_run_that_was_killed_is_finished(manage: Callable[..., Any]) -> None:
    host = manage("none", state="absent")["host"]
    host.fails = "install"
    assert manage("one", "redis-server")["failed"]
    # The package manager came as far as this.
    host.there |= {"liblzf1"}
    host.fails = ""
    manage("one", "redis-server")
    assert manage("one", state="absent")["removed"] == ["liblzf1", "redis-server", "redis-tools"]


def test_check_mode(manage: Callable[..., Any]) -> None:
    first = manage("one", "redis-server", _ansible_check_mode=True)
    assert (first["changed"], first["installed"], first["host"].calls) == (True, ["redis-server"], [])
    assert list(first["directory"].iterdir()) == []
    manage("one", "redis-server")
    assert manage("one", state="absent", _ansible_check_mode=True)["removed"]
    assert manage("one", state="absent")["removed"]


def test_the_record_says_who_and_what(manage: Callable[..., Any]) -> None:
    directory = manage("one", "redis-server")["directory"]
    record = json.loads((directory / "lib/record.json").read_text())
    assert (record["owners"], record["came"]) == (
        {"one": ["redis-server"]},
        ["liblzf1", "redis-server", "redis-tools"],
    )


def test_commands_that_fail_say_why() -> None:
    with pytest.raises(packages.PackageError, match="exit code 3\nno such thing"):
        packages.run("sh", "-c", "echo no such thing >&2; exit 3")
