"""Packages that this collection installed are removed; those that existed before, or that others need, stay."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions, dpkg, package_manager
from ansible_collections.selfhosted.prefect.plugins.modules import host_packages as packages
from fake_api import outcome

DEPENDS = {
    "redis-server": ["redis-tools"],
    "redis-tools": ["liblzf1"],
    "foreign": ["liblzf1"],
    "postgresql": ["libpq5"],
}
CONFLICTS = {"nginx": "apache"}


CHOSEN = packages.chosen


class Host:
    """A package manager that knows `DEPENDS`; `fails` is the next action that it refuses."""

    def __init__(self, *there: str) -> None:
        self.there, self.fails, self.calls = set(there), "", list[str]()
        self.purged = set[str]()

    def closure(self, names: set[str], edges: dict[str, list[str]] | None = None) -> set[str]:
        found, edges = set(names), DEPENDS if edges is None else edges
        while more := {other for name in found for other in edges.get(name, [])} - found:
            found |= more
        return found

    def run(self, *command: str) -> str:
        tool, action = (
            command[0],
            next(word for word in command[1:] if word in ("install", "purge", "remove", "update", "depends")),
        )
        names = set(command[command.index(action) + 1 :])
        names = {name for name in names if not name.startswith("-")}
        if tool == "apt-cache":
            return "".join(f"{name}\n  Depends: x\n" for name in self.closure(names) & self.there)
        simulated = "--simulate" in command
        if not simulated:
            self.calls.append(" ".join([action, *sorted(names)]))
        if action == self.fails and not simulated:
            raise package_manager.PackageError("killed")
        if action == "install":
            if lost := names & set(CONFLICTS):
                return "".join(f"Remv {CONFLICTS[name]} [1.0]\nInst {name} (1.0 Debian [amd64])\n" for name in lost)
            coming = self.closure(names) - self.there
            if not simulated:
                self.there |= coming
            return (
                "".join(f"Inst {name} (1.0 Debian [amd64])\n" for name in coming) + "Inst libc6 [2.36] (2.37 Debian)\n"
            )
        if action == "purge" and not simulated:
            self.purged |= names
        users = {name: [user for user, needs in DEPENDS.items() if name in needs] for name in self.there}
        going = self.closure(names, users) & self.there
        if not simulated:
            self.there -= going
        return "".join(f"Purg {name} [1.0]\n" for name in going)


@pytest.fixture
def manage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    host = Host("bash")
    monkeypatch.setattr(dpkg, "PURGES", [])
    monkeypatch.setattr(dpkg, "query", lambda *_: "")
    monkeypatch.setattr(packages, "chosen", lambda: dpkg)
    monkeypatch.setattr(dpkg, "run", host.run)
    monkeypatch.setattr(dpkg, "present", lambda names: set(names) & host.there)
    monkeypatch.setattr(packages, "MASKS", tmp_path)
    monkeypatch.setattr(packages, "UNITS", tmp_path / "units")
    monkeypatch.setattr(dpkg, "DEFAULT_LOCALE", tmp_path / "locale")
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
    with pytest.raises(package_manager.PackageError, match="exit code 3\nno such thing"):
        package_manager.run("sh", "-c", "echo no such thing >&2; exit 3")


@pytest.fixture
def redis(manage: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory of a Redis package's files: a configuration file, and data in `lib`."""
    etc = tmp_path / "redis"
    paths = (f"{etc}", f"{tmp_path}/data")
    purge = package_manager.Purge(packages="redis-.*", paths=paths, accounts=("redis-of-the-test",))
    monkeypatch.setattr(dpkg, "PURGES", [purge])
    digest = hashlib.md5(b"port 6379\n", usedforsecurity=False).hexdigest()

    def query(word: str, *names: str) -> str:
        return f" {etc}/redis.conf {digest}\n" if word == "--show" and "redis-tools" in names else ""

    monkeypatch.setattr(dpkg, "query", query)
    return etc


def unpack(etc: Path) -> None:
    etc.mkdir(exist_ok=True)
    (etc / "redis.conf").write_text("port 6379\n")


def test_a_package_whose_purge_takes_only_its_own_is_purged(manage: Callable[..., Any], redis: Path) -> None:
    assert str(redis) in manage("one", "redis-server")["fresh"]
    unpack(redis)
    gone = manage("one", state="absent")
    assert gone["left"] == {}
    assert gone["host"].purged == {"liblzf1", "redis-server", "redis-tools"}


@pytest.mark.parametrize("before", ["redis", "data"])
def test_directories_that_existed_before_a_package_survive_it(
    manage: Callable[..., Any], redis: Path, before: str
) -> None:
    (redis.parent / before).mkdir()
    manage("one", "redis-server")
    unpack(redis)
    gone = manage("one", state="absent")
    assert gone["removed"] == ["liblzf1", "redis-server", "redis-tools"]
    assert gone["host"].purged == {"liblzf1"}
    assert gone["host"].there == {"bash"}
    assert gone["left"].keys() == {"redis-server", "redis-tools"}
    assert gone["left"]["redis-tools"] == f"{redis.parent / before} may have existed before the package"


def test_an_account_that_existed_before_a_package_survives_it(
    manage: Callable[..., Any], redis: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpkg, "PURGES", [replace(dpkg.PURGES[0], accounts=("root",))])
    manage("one", "redis-server")
    assert manage("one", state="absent")["left"]["redis-tools"] == "root may have existed before the package"


@pytest.mark.parametrize("name", ["site.key", "sub/site.key"])
def test_a_file_of_others_survives_the_package(manage: Callable[..., Any], redis: Path, name: str) -> None:
    manage("one", "redis-server")
    unpack(redis)
    (redis / name).parent.mkdir(exist_ok=True)
    (redis / name).touch()
    assert manage("one", state="absent")["kept"]["redis-tools"] == f"{redis / name} did not come with the package"


def test_a_link_is_another_owners_file_and_is_not_followed(manage: Callable[..., Any], redis: Path) -> None:
    manage("one", "redis-server")
    unpack(redis)
    (redis / "link").symlink_to("/etc")
    assert manage("one", state="absent")["kept"]["redis-tools"] == f"{redis / 'link'} did not come with the package"


def test_a_file_of_a_ledger_does_not_keep_the_package(manage: Callable[..., Any], redis: Path) -> None:
    manage("one", "redis-server")
    unpack(redis)
    (redis / "recorded").touch()
    entry = {"kind": "file", "name": str(redis / "recorded")}
    (redis.parent / "lib/prefect.json").write_text(json.dumps({"entries": {"file x": entry}}))
    assert manage("one", state="absent")["kept"] == {}


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_package_that_others_have_configured_stays_with_what_it_needs(
    manage: Callable[..., Any], redis: Path, check_mode: bool
) -> None:
    """Someone who changes /etc/nftables.conf, or gets certificates with certbot, relies on the package."""
    host = manage("one", "redis-server", accounts=["redis-of-the-test"])["host"]
    manage("two", "postgresql")
    unpack(redis)
    (redis / "redis.conf").write_text("port 6380\n")
    gone = manage("one", state="absent", _ansible_check_mode=check_mode)
    assert (gone["changed"], gone["removed"], gone["left"]) == (True, [], {})
    assert gone["kept"] == {
        "liblzf1": "needed by redis-server, redis-tools",
        "redis-server": f"{redis / 'redis.conf'} was changed",
        "redis-tools": f"{redis / 'redis.conf'} was changed",
    }
    assert {"liblzf1", "redis-server", "redis-tools"} <= host.there
    if not check_mode:
        assert json.loads((redis.parent / "lib/record.json").read_text())["came"] == ["libpq5", "postgresql"]
        assert manage("two", state="absent")["removed"] == ["libpq5", "postgresql"]


def test_an_installation_that_would_remove_packages_is_refused(manage: Callable[..., Any]) -> None:
    said = manage("one", "nginx")
    assert "the installation of nginx would remove apache" in said["msg"]
    assert said["host"].calls == []
    assert list(said["directory"].iterdir()) == []


@pytest.mark.parametrize(("content", "kept"), [("d\n", set()), ("e\n", {"liblzf1", "redis-server", "redis-tools"})])
def test_a_configuration_file_of_another_package_that_goes_as_well(
    manage: Callable[..., Any], redis: Path, monkeypatch: pytest.MonkeyPatch, content: str, kept: set[str]
) -> None:
    """postgresql-common-dev has one in the directory of postgresql-common."""
    digest = hashlib.md5(b"d\n", usedforsecurity=False).hexdigest()

    def query(word: str, *rest: str) -> str:
        return f" {redis}/shared {digest}\n" if word == "--show" and "liblzf1" in rest else ""

    monkeypatch.setattr(dpkg, "query", query)
    manage("one", "redis-server")
    redis.mkdir()
    (redis / "shared").write_text(content)
    assert manage("one", state="absent")["kept"].keys() == kept


def test_a_record_of_an_earlier_version_does_not_know_what_existed(manage: Callable[..., Any], redis: Path) -> None:
    manage("one", "redis-server")
    unpack(redis)
    path = redis.parent / "lib/record.json"
    record = json.loads(path.read_text())
    del record["fresh"], record["installing"]
    path.write_text(json.dumps(record))
    assert manage("one", state="absent")["left"].keys() == {"redis-server", "redis-tools"}


def test_a_killed_installation_still_knows_what_was_new(manage: Callable[..., Any], redis: Path) -> None:
    host = manage("none", state="absent")["host"]
    host.fails = "install"
    manage("one", "redis-server")
    unpack(redis)
    host.fails = ""
    assert str(redis) in manage("one", "redis-server")["fresh"]


def test_what_others_installed_in_the_meantime_is_not_new(manage: Callable[..., Any], redis: Path) -> None:
    host = manage("one", "redis-server")["host"]
    host.there -= {"redis-server", "redis-tools"}
    unpack(redis)
    assert str(redis) not in manage("one", "redis-server")["fresh"]


@pytest.mark.parametrize(("content", "kept"), [("To enable it, add some certificates.\n", False), ("-----BEGIN", True)])
def test_a_placeholder_that_a_person_filled_survives_the_package(
    manage: Callable[..., Any], redis: Path, monkeypatch: pytest.MonkeyPatch, content: str, kept: bool
) -> None:
    placeholders = {str(redis / "root.crt"): b"-----BEGIN"}
    monkeypatch.setattr(dpkg, "PURGES", [replace(dpkg.PURGES[0], placeholders=placeholders)])
    manage("one", "redis-server")
    unpack(redis)
    (redis / "root.crt").write_text(content)
    assert bool(manage("one", state="absent")["kept"]) == kept


def test_another_packages_directory_that_its_removal_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpkg, "SCRIPTS", tmp_path)
    (tmp_path / "odd.postrm").write_text(
        'rmdir /etc/kept\n  rm -rf /var/cache/odd /var/lib/odd /etc/odd/ "$X"\n rm -f /etc/single\n'
    )
    assert package_manager.deleted_recursively(dpkg.removal_script("odd")) == {"/var/lib/odd", "/etc/odd"}


def test_a_unit_of_others_is_neither_masked_nor_stopped(manage: Callable[..., Any]) -> None:
    directory = manage("none", state="absent")["directory"]
    (directory / "redis-server.service").write_text("[Service]\n")
    said = manage("one", "redis-server", mask=["redis-server.service"])
    assert "redis-server.service exists, and this collection did not create it" in said["msg"]
    assert said["host"].calls == []


@pytest.mark.parametrize("state", ["own", "changed", "elsewhere", "file"])
def test_only_the_packages_own_default_site_is_unwanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    link, target = tmp_path / "enabled", tmp_path / "available"
    target.write_text("changed" if state == "changed" else "default")
    if state == "file":
        link.write_text("default")
    else:
        link.symlink_to("/etc/passwd" if state == "elsewhere" else target)
    monkeypatch.setattr(dpkg, "PURGES", [package_manager.Purge("nginx", (), links={str(link): str(target)})])
    digest = hashlib.md5(b"default", usedforsecurity=False).hexdigest()
    answers = {"--search": f"nginx-common: {target}\n", "--show": f" {target} {digest}\n"}
    monkeypatch.setattr(dpkg, "query", lambda word, *_: answers[word])
    assert dpkg.is_packaged_link(str(link), "nginx") == (state == "own")


def test_a_component_has_the_packages_of_the_distribution(manage: Callable[..., Any]) -> None:
    first = manage("one", components=["redis"])
    assert first["installed"] == ["liblzf1", "redis-server", "redis-tools"]
    assert (first["directory"] / "redis-server.service").is_symlink()


def test_a_host_without_a_known_package_manager_is_an_error(
    manage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packages, "current", lambda: distributions.Distribution("Alpine Linux v3.20", "", 3))
        patch.setattr(packages, "chosen", CHOSEN)
        said = manage("one", "redis-server")
    assert "runs Alpine Linux v3.20, which has no package manager that is known" in said["msg"]
    assert said["host"].calls == []
