"""From SQLite to PostgreSQL on one host: refused while anything is wrong, and nothing lost when it is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from real_host import NAME, Ended, Host, Variables

MOVE = "playbooks/sqlite_to_postgres.yml"
SERVERS = {name: [NAME] for name in ("prefect_server", "prefect_worker", "prefect_flows")}
WITH_POSTGRES = SERVERS | {"prefect_postgres": [NAME]}
SMALL: Variables = {"prefect_postgres_memory_share": 5}


def count(host: Host) -> dict[str, int]:
    """Count what an instance holds, by kind."""
    kinds = ("flows", "deployments", "task_runs", "block_types", "block_schemas", "variables", "artifacts")
    return {kind: len(host.api(f"/{kind}/filter", {"limit": 200})) for kind in kinds} | {
        "flow_runs": host.api("/flow_runs/count", {})
    }


def refused(ended: Ended, *says: str) -> None:
    assert ended.rc not in (0, 250), f"exit code {ended.rc}, and it should have failed:\n{ended.output}"
    missing = [text for text in says if text not in ended.words]
    assert not missing, f"{missing} is not in:\n{ended.output}"


@pytest.fixture(scope="module")
def sqlite(older: Host) -> Iterator[Host]:
    """The host with an instance on SQLite that has run something; afterwards, without any."""
    sqlite = older
    sqlite.api("/variables/", {"name": "odd", "value": {"a": [1.5, None, "ü\n\\N\t"]}, "tags": ["x"]})
    yield sqlite
    ended = sqlite.play(
        "playbooks/absent.yml", {"prefect_purge": True, "prefect_purge_backup": True}, groups=WITH_POSTGRES
    )
    assert ended.rc == 0, ended.output
    assert "The database was dumped to /var/backups/prefect/purged-prefect-" in ended.words
    assert sqlite.sh("head --bytes 5 /var/backups/prefect/purged-prefect-*.dump; rm -r /var/backups/prefect") == "PGDMP"
    assert sqlite.sh("ls -d /etc/postgresql /var/lib/postgresql /var/lib/selfhosted-prefect 2>/dev/null || true") == ""


def test_a_move_to_nowhere_leaves_the_server_alone(sqlite: Host) -> None:
    before = sqlite.server_pid()
    refused(sqlite.play(MOVE), "prefect_database_host: name the PostgreSQL to move to")
    nowhere = {"prefect_database_url": "postgresql://prefect:p%40ss@127.0.0.1:9/prefect"}
    refused(sqlite.play(MOVE, nowhere), "prefect_database_url: nothing listens at 127.0.0.1:9")
    assert sqlite.server_pid() == before


def test_data_is_not_left_behind(sqlite: Host) -> None:
    before = sqlite.server_pid()
    ended = sqlite.play("site.yml", SMALL, groups=WITH_POSTGRES)
    refused(ended, "this instance has its data in /var/lib/prefect/prefect.db", "playbook sqlite_to_postgres")
    assert sqlite.server_pid() == before


def test_a_move_that_was_cut_is_finished_by_the_next(sqlite: Host) -> None:
    before = count(sqlite)
    run = sqlite.start(MOVE, SMALL, groups=WITH_POSTGRES)
    run.wait_for_task("Copy the database and compare all rows")
    sqlite.cut(run)
    ended = sqlite.play(MOVE, SMALL, groups=WITH_POSTGRES)
    assert ended.rc == 0, ended.output
    assert count(sqlite) == before
    (odd,) = sqlite.api("/variables/filter", {"limit": 200})
    assert odd["value"] == {"a": [1.5, None, "ü\n\\N\t"]}
    assert sqlite.sh("ls /var/lib/prefect").count("prefect.db") == 1
    assert "prefect.db.moved-" in sqlite.sh("ls /var/lib/prefect")
    assert "postgresql" in sqlite.sh("prefect-info")


def test_it_goes_on_there(sqlite: Host) -> None:
    assert sqlite.sh("prefect deployment run hello-flow/example --watch").count("Completed")
    ended = sqlite.play("site.yml", SMALL, groups=WITH_POSTGRES)
    assert (ended.rc, ended.changed) == (0, 0), ended.output
    again = sqlite.play(MOVE, SMALL, groups=WITH_POSTGRES)
    assert (again.rc, again.changed) == (0, 0), again.output


SCRATCH = "runuser --user postgres -- psql --no-align --tuples-only --command 'SELECT datname FROM pg_database'"
LEFT = f"cd / && {SCRATCH} | grep _proof; ls -d /var/lib/.selfhosted-prefect*-proof; pgrep --full prefect-prefect-proof"


def test_a_proof_that_was_cut_leaves_nothing_after_the_next(sqlite: Host) -> None:
    """The scratch server is in a unit of its own, which goes on when the run is killed."""
    proven = SMALL | {"prefect_server_backup_verify": True}
    run = sqlite.start("playbooks/backup.yml", proven, groups=WITH_POSTGRES)
    run.wait_until(
        lambda: sqlite.sh("systemctl is-active prefect-proof", check=False) == "active", what="the scratch server runs"
    )
    sqlite.cut(run)
    assert sqlite.sh(LEFT, check=False).split()[:2] == ["prefect_proof", "/var/lib/.selfhosted-prefect-prefect-proof"]
    ended = sqlite.play("playbooks/backup.yml", proven, groups=WITH_POSTGRES)
    assert ended.rc == 0 and "It is proven: a scratch server showed what was backed up." in ended.words, ended.output
    assert sqlite.sh(LEFT, check=False) == ""
    assert sqlite.sh("systemctl is-active prefect-proof", check=False) == "inactive"
    assert "and is not proven" not in sqlite.sh("prefect-info")


LOOK = """
readlink /opt/prefect/current
sha256sum /etc/prefect/server.env /etc/systemd/system/prefect-server.service
cd / && runuser --user postgres -- psql --no-align --tuples-only prefect --command 'SELECT * FROM alembic_version'
"""


@pytest.mark.skipif(os.environ.get("PREFECT_TEST_ALL") != "1", reason="it takes minutes: ALL=1 runs it")
def test_an_upgrade_that_fails_undoes_its_migration_and_loses_no_row(sqlite: Host) -> None:
    before, rows = sqlite.sh(LOOK), count(sqlite)
    sqlite.write("/srv/refuse", "#!/bin/sh\nexit 1\n")
    newer = SMALL | {"prefect_version": "3.9.1", "prefect_server_unit_options": {"ExecStartPost": "/srv/refuse"}}
    try:
        ended = sqlite.play("playbooks/upgrade.yml", newer, groups=WITH_POSTGRES)
    finally:
        sqlite.sh("rm /srv/refuse")
    revision = before.splitlines()[-1]
    refused(
        ended,
        "the upgrade to Prefect 3.9.1 failed, and was rolled back: Prefect 3.8.8 runs again with its settings, "
        f"and the database has schema revision {revision} again, with all rows",
        "Job for prefect-server.service failed",
    )
    assert ended.rc == 2
    assert re.search(rf"Downgrade the schema with the newer release\].*\nchanged: \[{NAME}\]", ended.output)
    assert sqlite.sh(LOOK) == before
    # The newer server may have registered its own block types.
    assert {kind: number for kind, number in count(sqlite).items() if "block" not in kind} == {
        kind: number for kind, number in rows.items() if "block" not in kind
    }
    assert sqlite.sh("ls /opt/prefect/state/upgrade.json", check=False) == ""
    assert sqlite.sh("prefect deployment run hello-flow/example --watch").count("Completed")
    ended = sqlite.play("site.yml", SMALL, groups=WITH_POSTGRES)
    assert (ended.rc, ended.changed) == (0, 0), ended.output


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param(
            {"prefect_database_url": "postgresql://prefect:p@:/%s #'\"@127.0.0.1/prefect"},
            "prefect_database_password: 127.0.0.1:5432 refuses the password of prefect",
            id="wrong password",
        ),
        pytest.param(
            {"prefect_database_pool_size": 500},
            "prefect_database_host: Prefect opens up to 500 connections (processes times pool size)",
            id="too few connections",
        ),
        pytest.param(
            {"prefect_database_ca": "/etc/ssl/certs/ca-certificates.crt"},
            "prefect_database_ca: the certificate of 127.0.0.1:5432 is refused",
            id="certificate of an unknown authority",
        ),
    ],
)
def test_a_bad_database_is_refused_before_anything_changes(sqlite: Host, variables: Variables, says: str) -> None:
    pid = sqlite.server_pid()
    refused(sqlite.play("site.yml", SMALL | variables, groups=WITH_POSTGRES, arguments=("--tags", "server")), says)
    assert sqlite.server_pid() == pid


def test_no_secret_is_where_it_does_not_belong(sqlite: Host) -> None:
    password = sqlite.sh("grep -h DATABASE_PASSWORD /etc/prefect/server.env").split('"')[1]
    ended = sqlite.play("site.yml", SMALL, groups=WITH_POSTGRES, arguments=("-vvv", "--diff"))
    assert password not in ended.output
    # Not on a command line: this looks at those, too.
    search = "cat > /run/secret; {} | grep -F -f /run/secret | head; rm /run/secret"
    for place in ("journalctl --output=cat", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"):
        assert sqlite.sh(search.format(place), stdin=password) == "", place
    files = (
        "cat > /run/secret; grep -rlF -f /run/secret /etc /var/lib/prefect /var/log /opt/prefect/state; rm /run/secret"
    )
    assert sqlite.sh(files, stdin=password) == "/etc/prefect/server.env"


def test_a_cluster_that_does_not_run_is_not_dropped(sqlite: Host) -> None:
    sqlite.sh("cd / && runuser --user postgres -- createdb shop && systemctl stop prefect-server 'postgresql@*'")
    ended = sqlite.play("playbooks/absent.yml", {"prefect_purge": True}, groups=WITH_POSTGRES)
    assert ended.rc == 0, ended.output
    assert "does not run: what it holds is not known, and nothing of it was dropped" in ended.words
    databases = "runuser --user postgres -- psql --no-align --tuples-only --command 'select datname from pg_database'"
    found = sqlite.sh(f"cd / && systemctl start postgresql && {databases} && runuser --user postgres -- dropdb shop")
    assert {"prefect", "shop"} <= set(found.split())
