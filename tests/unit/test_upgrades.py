"""What is refused before an upgrade, what is recorded when it begins, and how the record undoes it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.filter.upgrades import (
    FilterModule,
    age,
    backup_for,
    plan_at,
    upgrade_plan,
    way_back,
)
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import upgrades
from ansible_collections.selfhosted.prefect.plugins.modules import host_upgrade as upgrade
from fake_api import outcome

OLD, NEW = "3.8.8-1adb934fde07", "3.9.1-0123456789ab"
NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
SECRET = "PREFECT_API_AUTH_STRING=admin:s3cret\n"


def facts(*, runs: str = "", wanted: str, **record: str) -> dict[str, Any]:
    """Return the variables of a host as the preflight leaves them."""
    return {"__prefect_host": {"version": runs.rpartition("-")[0], "wanted": wanted, "upgrade": record}}


def backup(name: str, version: str, **more: Any) -> dict[str, Any]:
    fields = {"name": name, "version": version, "made": "2026-11-28 09:00:00 UTC", "safety": False, "problem": ""}
    return fields | more


def errors(name: str, hosts: dict[str, dict[str, Any]], **more: Any) -> list[str]:
    options = {"backups": None, "restore": ""} | more
    found = plan_at(NOW, name, hosts, ["one"], **options)["errors"]
    assert isinstance(found, list)
    return found


def test_a_newer_version_is_no_error() -> None:
    hosts = {"one": facts(runs=OLD, wanted=NEW), "two": facts(runs=OLD, wanted=NEW)}
    assert upgrade_plan("one", hosts, ["one"]) == {"action": "upgrade", "errors": []}
    assert upgrade_plan("two", hosts, ["one"]) == {"action": "upgrade", "errors": []}
    assert FilterModule().filters() == {"upgrade_plan": upgrade_plan, "way_back": way_back}


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(facts(runs=OLD, wanted=OLD), id="in this run"),
        pytest.param({"prefect_version": "3.8.8"}, id="left out by --limit"),
    ],
)
def test_a_worker_newer_than_its_server_is_refused(server: dict[str, Any]) -> None:
    said = (
        "prefect_version: two is to run Prefect 3.9.1, which is newer than 3.8.8 on its server one; a worker must not "
        "be newer than its server: upgrade one as well, or set 3.8.8 for two"
    )
    assert errors("two", {"one": server, "two": facts(runs=OLD, wanted=NEW)}) == [said]


def test_a_worker_older_than_its_server_or_without_a_known_one_is_no_error() -> None:
    assert errors("two", {"one": facts(runs=OLD, wanted=NEW), "two": facts(runs=OLD, wanted=OLD)}) == []
    assert errors("two", {"one": {}, "two": facts(runs=OLD, wanted=NEW)}) == []
    assert errors("two", {"two": facts(runs=OLD, wanted=NEW)}) == []


def test_versions_are_compared_as_numbers() -> None:
    assert errors("two", {"one": facts(wanted="3.10.0-a"), "two": facts(wanted="3.9.1-a")}) == []


def test_servers_with_one_database_need_one_version() -> None:
    hosts = {"one": facts(runs=OLD, wanted=OLD), "two": facts(runs=OLD, wanted=NEW)}
    found = upgrade_plan("two", hosts, ["one", "two"])["errors"]
    assert found == [
        "prefect_version: two is to run Prefect 3.9.1 and one 3.8.8, with one database; set one version for all servers"
    ]


def test_going_back_says_what_it_costs_until_that_is_accepted() -> None:
    hosts = {"one": facts(runs=NEW, wanted=OLD)}
    backups = [backup("good", "3.8.8"), backup("newer", "3.9.1")]
    (said,) = errors("one", hosts, backups=backups)
    assert said == (
        "prefect_version: one runs Prefect 3.9.1, and 3.8.8 is older; this restores the backup good, made 3 hours ago "
        "(2026-11-28 09:00:00 UTC), and loses what Prefect recorded since then. To accept that, set "
        "prefect_server_restore to good"
    )
    assert upgrade_plan("one", hosts, ["one"], backups=backups, restore="good") == {"action": "go back", "errors": []}


def test_another_server_does_not_ask_for_the_backups() -> None:
    assert upgrade_plan("one", {"one": facts(runs=NEW, wanted=OLD)}, ["one"]) == {"action": "go back", "errors": []}


def test_without_a_backup_there_is_no_way_back() -> None:
    (said,) = errors("one", {"one": facts(runs=NEW, wanted=OLD)}, backups=[backup("newer", "3.9.1")])
    assert "there is no backup here that Prefect 3.8.8 can use" in said


def test_the_newest_good_backup_that_a_version_can_use() -> None:
    listed = [
        backup("older", "3.5.0", made="2026-11-01 09:00:00 UTC"),
        backup("made by a wrong clock", "3.8.8", made="2036-11-02 09:00:00 UTC"),
        backup("best", "3.8.8", made="2026-11-02 09:00:00 UTC"),
        backup("of a restore", "3.8.8", made="2026-11-03 09:00:00 UTC", safety=True),
        backup("damaged", "3.8.8", made="2026-11-04 09:00:00 UTC", problem="it is empty"),
        backup("newer version", "3.10.0", made="2026-11-05 09:00:00 UTC"),
        backup("unknown version", "", made="2026-11-06 09:00:00 UTC"),
    ]
    found = backup_for("3.9.1", listed)
    assert found is not None and found["name"] == "best"


@pytest.mark.parametrize(
    ("made", "text"),
    [("11:59:00", "1 minutes ago"), ("10:01:00", "119 minutes ago"), ("10:00:00", "2 hours ago")],
)
def test_age(made: str, text: str) -> None:
    assert age(f"2026-11-28 {made} UTC", NOW) == text
    assert age("2026-11-25 12:00:00 UTC", NOW) == "3 days ago"
    assert "in the future" in age("2036-11-25 12:00:00 UTC", NOW)


INTERRUPTED = {"release": OLD, "to": NEW, "revision": "a3b9c7d2e5f1", "backup": "/var/backups/before", "cost": ""}


@pytest.mark.parametrize(
    ("runs", "wanted", "action"),
    [
        pytest.param(OLD, NEW, "upgrade", id="complete before the switch"),
        pytest.param(NEW, NEW, "upgrade", id="complete after the switch"),
        pytest.param(OLD, OLD, "undo", id="undo before the switch"),
    ],
)
def test_an_interrupted_upgrade_is_completed_or_undone(runs: str, wanted: str, action: str) -> None:
    hosts = {"one": facts(runs=runs, wanted=wanted, **INTERRUPTED)}
    assert upgrade_plan("one", hosts, ["one"], backups=None) == {"action": action, "errors": []}


def test_undoing_after_the_switch_says_what_it_costs() -> None:
    hosts = {"one": facts(runs=NEW, wanted=OLD, **INTERRUPTED)}
    (said,) = errors("one", hosts, backups=[])
    assert "To accept that, set prefect_server_restore to before" in said
    assert upgrade_plan("one", hosts, ["one"], backups=[], restore="before") == {"action": "undo", "errors": []}


def test_undoing_after_the_switch_says_how_old_the_backup_is_and_accepts_no_other() -> None:
    backup = "/var/backups/safety/prefect_one_prefect_3.8.8_a3b9c7d2e5f1_20261126T120000Z.sqlite"
    hosts = {"one": facts(runs=NEW, wanted=OLD, **INTERRUPTED | {"backup": backup})}
    for restore in ("", "latest", "another.sqlite"):
        (said,) = errors("one", hosts, backups=[], restore=restore)
        assert f"the backup {Path(backup).name} (2 days ago), and then loses" in said
    assert errors("one", hosts, backups=[], restore=backup) == []


def test_a_backup_that_lacks_rows_is_restored_only_if_the_user_names_it() -> None:
    lacking = INTERRUPTED | {"cost": "the difference of 4900 rows"}
    said = way_back(lacking, "")
    assert "going back to the backup before loses the difference of 4900 rows" in said
    assert "set prefect_version to 3.8.8 and prefect_server_restore to before" in said
    assert "Set prefect_version to 3.9.1 to complete the upgrade" in said
    assert way_back(lacking, "latest") == way_back(lacking, "other") == said
    assert way_back(lacking, "before") == way_back(INTERRUPTED, "") == way_back({}, "") == ""


def test_an_interrupted_upgrade_is_not_followed_by_another() -> None:
    (said,) = errors("one", {"one": facts(runs=OLD, wanted="3.9.2-a", **INTERRUPTED)})
    assert "with that version to complete it, or with 3.8.8 to undo it, and not with 3.9.2" in said


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    """The directory of an instance with two releases, settings and a unit."""
    for release in (OLD, NEW):
        (tmp_path / "releases" / release / "bin").mkdir(parents=True)
    (tmp_path / "current").symlink_to(Path("releases", OLD))
    (tmp_path / "server.env").write_text(SECRET)
    (tmp_path / "server.env").chmod(0o640)
    (tmp_path / "unit").write_text("old\n")
    return tmp_path


def run(opt: Path, state: str, **more: Any) -> dict[str, Any]:
    files = [str(opt / name) for name in ("server.env", "unit", "missing")]
    options = {"state_dir": str(opt / "state"), "link": str(opt / "current"), "to": NEW, "files": files}
    result: dict[str, Any] = outcome(upgrade.main, state=state, **options | more)
    result.pop("invocation", None)
    return result


def begin(opt: Path) -> None:
    """Record the host, and change all of it as an upgrade does."""
    run(opt, "recorded", revision="a3b9c7d2e5f1", backup="/var/backups/before")
    (opt / "current").unlink()
    (opt / "current").symlink_to(Path("releases", NEW))
    (opt / "server.env").write_text("new\n")
    (opt / "server.env").chmod(0o600)
    (opt / "missing").write_text("written by the newer release\n")


def test_the_record_shows_no_secret_and_no_other_account_reads_it(opt: Path) -> None:
    made = run(opt, "recorded", revision="a3b9c7d2e5f1", backup="/var/backups/before")
    assert made == {"changed": True, "record": INTERRUPTED}
    assert (opt / "state" / upgrades.NAME).stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in json.dumps(made)


def test_check_mode_records_nothing(opt: Path) -> None:
    assert run(opt, "recorded", check_mode=True)["changed"]
    assert not (opt / "state").exists()


def test_the_record_of_an_interrupted_upgrade_stays(opt: Path) -> None:
    begin(opt)
    again = run(opt, "recorded", revision="half a migration", backup="of half a migration")
    assert again == {"changed": False, "record": INTERRUPTED}
    # Another release is another upgrade.
    other = run(opt, "recorded", to=f"{NEW}-other")
    assert (other["record"]["release"], other["record"]["to"]) == (NEW, f"{NEW}-other")


def test_a_newer_backup_or_the_cost_of_the_older_one_is_added_to_the_record(opt: Path) -> None:
    assert run(opt, "renewed", backup="/var/backups/newer") == {"changed": False, "record": {}}
    begin(opt)
    costly = INTERRUPTED | {"cost": "the difference of 3 rows"}
    assert run(opt, "renewed", revision="later", cost=costly["cost"]) == {"changed": True, "record": costly}
    assert run(opt, "renewed", cost=costly["cost"]) == {"changed": False, "record": costly}
    newer = INTERRUPTED | {"backup": "/var/backups/newer"}
    assert run(opt, "renewed", revision="a3b9c7d2e5f1", backup="/var/backups/newer")["record"] == newer
    # The settings and the release are still those from before the upgrade.
    assert run(opt, "undone")["restored"] == [str(opt / "server.env"), str(opt / "current")]


def test_undo_restores_the_release_and_the_files_and_can_be_repeated(opt: Path) -> None:
    begin(opt)
    undone = run(opt, "undone")
    assert undone["restored"] == [str(opt / "server.env"), str(opt / "current")]
    assert (opt / "current").readlink() == Path("releases", OLD)
    assert (opt / "server.env").read_text() == SECRET
    assert (opt / "server.env").stat().st_mode & 0o777 == 0o640
    assert run(opt, "undone") == {"changed": False, "record": INTERRUPTED, "restored": []}


def test_finished_removes_the_record_once(opt: Path) -> None:
    begin(opt)
    assert run(opt, "finished") == {"changed": True, "record": {}}
    assert run(opt, "finished") == {"changed": False, "record": {}}
    assert run(opt, "undone") == {"changed": False, "record": {}, "restored": []}


def test_a_release_that_was_removed_cannot_be_restored(opt: Path) -> None:
    begin(opt)
    (opt / "releases" / OLD / "bin").rmdir()
    assert f"{OLD} does not exist any longer" in run(opt, "undone")["msg"]
    assert (opt / "server.env").read_text() == "new\n"


def test_a_damaged_record_is_named(opt: Path) -> None:
    (opt / "state").mkdir()
    (opt / "state" / upgrades.NAME).write_text("{")
    assert "upgrade.json is damaged" in run(opt, "undone")["msg"]
