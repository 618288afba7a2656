"""A playbook ends where a play fails that the next one depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
OPERATIONS = sorted(path for path in PLAYBOOKS.glob("*.yml") if path.stem not in {"site", "present", "absent"})


def plays(playbook: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the plays of a playbook and of those that it imports, each with the file that holds it."""
    for play in yaml.load(playbook.read_text(encoding="utf-8"), yaml.CSafeLoader):
        imported = play.get("ansible.builtin.import_playbook", "")
        # site.yml imports one of two, which the operations below are not about.
        if imported and not imported.startswith("{{"):
            yield from plays(playbook.parent / imported)
        else:
            yield playbook, play


@pytest.mark.parametrize("playbook", OPERATIONS, ids=lambda path: path.stem)
def test_a_play_that_others_follow_ends_the_run(playbook: Path) -> None:
    """Ansible goes on with the other hosts otherwise. The plays of site.yml check what they depend on themselves."""
    *before, _ = [play for file, play in plays(playbook) if file.stem != "site"] + [{"name": "site"}]
    steps = before if any(file.stem == "site" for file, _ in plays(playbook)) else before[:-1]
    assert [play["name"] for play in steps if play.get("any_errors_fatal") is not True] == []


@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_check_of_lost_hosts_follows_a_play_that_ends_the_run(playbook: Path) -> None:
    """If Ansible cannot reach a host, it goes on with other plays and batches of `serial`, despite any_errors_fatal."""
    steps = [(file.stem, play) for file, play in plays(playbook) if file.stem != "inventory"]
    ending = [
        (play["name"], following)
        for (file, play), (following, _) in pairwise(steps)
        if file != "reached" and play.get("any_errors_fatal") and not play.get("ignore_unreachable")
    ]
    assert [name for name, following in ending if following != "reached"] == []


@pytest.mark.parametrize("name", ["reset", "restore"])
def test_a_play_that_replaces_a_database_ends_the_run(name: str) -> None:
    assert [play["any_errors_fatal"] for file, play in plays(PLAYBOOKS / f"{name}.yml") if file.stem == name] == [True]


def test_a_server_that_cannot_be_removed_keeps_its_database() -> None:
    by_name = {play["name"]: play for _, play in plays(PLAYBOOKS / "absent.yml")}
    names = list(by_name)
    assert by_name["Servers"]["any_errors_fatal"] is True
    assert names.index("Servers") < names.index("Databases")


@pytest.mark.parametrize("name", ["reset", "restore", "rotate", "upgrade"])
def test_what_all_servers_share_changes_only_when_all_take_part(name: str) -> None:
    """The first tasks that run, before anything else is done on any server."""
    _, first = next((file, play) for file, play in plays(PLAYBOOKS / f"{name}.yml") if file.stem != "inventory")
    role = first["tasks"][0]["ansible.builtin.include_role"]
    assert role == {"name": "selfhosted.prefect.prefect", "tasks_from": "whole"}


def test_an_upgrade_checks_and_builds_on_every_host_before_it_stops_a_server() -> None:
    names = [play["name"] for file, play in plays(PLAYBOOKS / "upgrade.yml")]
    steps = ["Check every host and build the release", "Back up the database", "Servers"]
    steps += ["Ensure that all servers run one release", "End the upgrade of the servers", "Workers"]
    assert [name for name in names if name in steps] == steps
    (check,) = [play for _, play in plays(PLAYBOOKS / "upgrade.yml") if play["name"] == steps[0]]
    assert {"prefect_server", "prefect_worker", "prefect_flows"} <= {*check["hosts"].split(":")}


GROUP = re.compile(r"postgres|redis|server|proxy|worker|flows|celery|definitions|resources")


@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS.glob("*.yml")), ids=lambda path: path.stem)
def test_an_inventory_without_hosts_for_a_playbook_fails(playbook: Path) -> None:
    """Every playbook asks first, and one for a single group asks for that group."""
    first, *others = yaml.load(playbook.read_text(encoding="utf-8"), yaml.CSafeLoader)
    if playbook.stem == "site":
        # It runs one of two others.
        assert not others and re.findall(r"\w+\.yml", first["ansible.builtin.import_playbook"]) == [
            "absent.yml",
            "present.yml",
        ]
        return
    if playbook.stem in {"inventory", "reached", "shortname"}:
        assert first["hosts"] == {"reached": "all", "inventory": "localhost:all"}.get(playbook.stem, "localhost")
        return
    assert first["ansible.builtin.import_playbook"] == "inventory.yml"
    needed = {*first.get("vars", {}).get("__prefect_needed", [])}
    patterns = {play["hosts"] for play in others if "hosts" in play}
    groups = {group for pattern in patterns for group in GROUP.findall(pattern)}
    one_task = len(patterns) == 1 and playbook.stem not in {"secrets", "status", "upgrade", "rotate"}
    assert needed == groups if one_task else needed <= groups
