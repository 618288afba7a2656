"""What a cluster gets, whether this collection installed it or another owner did."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.prefect.plugins.filter.backends import hba_lines, postgres_tuning, redis_word
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import Ledger
from ansible_collections.selfhosted.prefect.plugins.modules import host_postgres_cluster as postgres_cluster
from ansible_collections.selfhosted.prefect.plugins.modules.host_postgres_cluster import (
    Cluster,
    ClusterError,
    choose,
    is_owned,
    quoted,
    wanted_settings,
    with_block,
)
from fake_api import outcome

HBA = "# TYPE DATABASE USER ADDRESS METHOD\nlocal all postgres peer\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "pg_hba.conf").write_text(HBA)
    (tmp_path / "postgresql.conf").write_text("port = 5432\t# (change requires restart)\nssl = on\n")
    return Cluster(version="15", name="main", port=5432, config=tmp_path, socket="/run", running=True, settings={})


def wanted(cluster: Cluster, *, owned: bool, **params: Any) -> dict[str, Any]:
    given = {
        "port": 5432,
        "settings": {},
        "tuning": {"shared_buffers": "1GB"},
        "listen": ["10.0.0.5"],
        "max_connections": 200,
        "certificate": "/etc/prefect-postgres/server.crt",
        "key": "/etc/prefect-postgres/server.key",
    }
    drop_in = cluster.config / "conf.d" / "prefect.conf"
    return wanted_settings(cluster, {**given, **params}, owned=owned, drop_in=drop_in)


def append(cluster: Cluster, text: str) -> None:
    with (cluster.config / "postgresql.conf").open("a") as file:
        file.write(text)


def test_a_cluster_of_our_own_is_tuned(cluster: Cluster) -> None:
    found = wanted(cluster, owned=True, settings={"work_mem": "8MB"})
    assert found["shared_buffers"] == "1GB"
    assert found["work_mem"] == "8MB"
    assert found["listen_addresses"] == "localhost,10.0.0.5"
    assert found["ssl_cert_file"] == "/etc/prefect-postgres/server.crt"
    assert "port" not in found
    assert wanted(cluster, owned=True, port=5433)["port"] == 5433


def test_a_cluster_of_others_is_only_added_to(cluster: Cluster) -> None:
    append(
        cluster, "listen_addresses = 'localhost, 192.168.0.1'\nmax_connections = 500\nssl_cert_file = '/foreign.crt'\n"
    )
    assert wanted(cluster, owned=False) == {"listen_addresses": "localhost,192.168.0.1,10.0.0.5"}


def test_a_cluster_of_others_that_is_open_stays_so(cluster: Cluster) -> None:
    append(cluster, "listen_addresses = '*'\n")
    found = wanted(cluster, owned=False)
    assert "listen_addresses" not in found
    assert found["max_connections"] == 200
    assert found["ssl"] is True


def test_the_file_of_this_instance_does_not_count_as_settings_of_others(cluster: Cluster) -> None:
    (cluster.config / "conf.d" / "prefect.conf").write_text("listen_addresses = '*'\nmax_connections = 900\n")
    assert wanted(cluster, owned=False)["listen_addresses"] == "localhost,10.0.0.5"
    assert wanted(cluster, owned=False)["max_connections"] == 200


def test_the_block_stands_first_and_goes_again() -> None:
    text = with_block(HBA, "prefect", ["host a b c d"])
    assert text.startswith("# BEGIN prefect (selfhosted.prefect)\nhost a b c d\n# END")
    assert with_block(text, "prefect", ["host a b c d"]) == text
    both = with_block(text, "prefect-blue", ["host e f g h"])
    assert with_block(with_block(both, "prefect", []), "prefect-blue", []) == HBA


def test_values_are_quoted() -> None:
    assert [quoted(value) for value in (True, 5, "1GB", "a'b", "")] == ["on", "5", "1GB", "'a''b'", "''"]


def test_choosing_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    params = {"port": 5433, "record": str(record)}
    with pytest.raises(ClusterError, match=r"prefect_database_port: no PostgreSQL .* 5433 .*15/main on 5432"):
        choose([cluster], params)
    record.write_text(json.dumps({"came": ["postgresql", "postgresql-15"]}))
    assert is_owned(cluster, record)
    assert choose([cluster], params) is cluster
    assert choose([cluster], params | {"port": 5432}) is cluster


def test_a_host_without_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_cluster, "clusters", list)
    assert not outcome(postgres_cluster.main, name="prefect", state="absent")["changed"]
    assert outcome(postgres_cluster.main, name="prefect", _ansible_check_mode=True)["changed"]


def test_check_mode_shows_what_would_be_written(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [cluster])
    result = outcome(postgres_cluster.main, name="prefect", hba=["host a b c d"], _ansible_check_mode=True)
    assert result["changed"]
    assert [Path(diff["before_header"]).name for diff in result["diff"]] == ["prefect.conf", "pg_hba.conf"]
    assert cluster.hba.read_text() == HBA


def test_the_diff_shows_nothing_of_others(cluster: Cluster, foreign: dict[str, Any]) -> None:
    """Others may have a password in both files."""
    cluster.hba.write_text('host all all 10.0.0.0/8 ldap ldapbindpasswd="s5cret"\n')
    (cluster.config / "conf.d/prefect.conf").write_text("primary_conninfo = 'password=s5cret'\n")
    foreign["ledger"]["adopt"] = ["files"]
    for options in ({"hba": ["host a b c d"]}, {"state": "absent"}):
        result = outcome(postgres_cluster.main, **foreign, **options)
        assert "host a b c d" in json.dumps(result["diff"]) and "s5cret" not in json.dumps(result["diff"])
    assert "s5cret" in cluster.hba.read_text()


def test_files_that_postgresql_refuses_are_taken_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [cluster])
    monkeypatch.setattr(Cluster, "problems", lambda self: "line 3: unrecognized")
    result = outcome(postgres_cluster.main, name="prefect", hba=["host a"], settings={"no_such": 1})
    assert "prefect_postgres_settings: PostgreSQL refuses what would be written:\nline 3" in result["msg"]
    assert cluster.hba.read_text() == HBA
    assert list((cluster.config / "conf.d").iterdir()) == []


def test_who_may_come_in() -> None:
    assert hba_lines(["10.0.0.11", "fd00::1", "10.1.0.0/16"], database="prefect", user="all") == [
        'host "prefect","prefect_proof" "all" 127.0.0.1/32 scram-sha-256',
        'host "prefect","prefect_proof" "all" ::1/128 scram-sha-256',
        'hostssl "prefect" "all" 10.0.0.11/32 scram-sha-256',
        'hostssl "prefect" "all" fd00::1/128 scram-sha-256',
        'hostssl "prefect" "all" 10.1.0.0/16 scram-sha-256',
        'host all "all" all reject',
        'host "prefect","prefect_proof" all all reject',
    ]


@pytest.mark.parametrize(("memory", "buffers"), [(512, "102MB"), (4096, "819MB"), (262144, "16384MB")])
def test_tuning_follows_the_memory(memory: int, buffers: str) -> None:
    assert postgres_tuning(memory, 80)["shared_buffers"] == buffers


def test_redis_reads_the_very_password() -> None:
    assert redis_word("p@:/%s #'\"\\é\n") == '"p@:/%s #\'\\"\\\\\\xc3\\xa9\\x0a"'


@pytest.fixture
def stopped(cluster: Cluster, tmp_path: Path) -> dict[str, Any]:
    """Give options for the removal of a cluster that came with us, was configured by us, and does not run."""
    (cluster.config / "conf.d/prefect.conf").write_text(f"{postgres_cluster.HEADER}work_mem = 8MB\n")
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"came": ["postgresql-15"]}))
    return {"name": "prefect", "state": "absent", "purge": True, "database": "prefect", "role": "prefect"} | {
        "record": str(record)
    }


def test_a_cluster_that_cannot_be_looked_into_is_not_dropped(
    cluster: Cluster, stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [replace(cluster, running=False)])
    result = outcome(postgres_cluster.main, **stopped)
    assert result["in_use"], "its package must stay"
    assert result["unknown"], "and be known to have come with Prefect when the purge is repeated"
    assert result["cluster"] == "15/main"
    assert not (cluster.config / "conf.d/prefect.conf").exists()
    assert cluster.hba.exists()


def test_a_second_cluster_keeps_the_package(
    cluster: Cluster, stopped: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/pg_hba.conf").write_text(HBA)
    second = replace(cluster, name="second", port=5433, running=False, config=tmp_path / "second")
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [second])
    result = outcome(postgres_cluster.main, **stopped)
    assert (result["in_use"], result["unknown"]) == (True, False)


@pytest.mark.parametrize(("text", "configured"), [(None, False), ("# mine\n", False), (postgres_cluster.HEADER, True)])
def test_a_role_of_others_counts_as_created_only_where_an_earlier_version_configured_the_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, text: str | None, configured: bool
) -> None:
    """Prefect was installed on the host, but perhaps with SQLite."""
    monkeypatch.setattr(postgres_cluster, "exists", lambda *_: True)
    if text is not None:
        (cluster.config / "conf.d/prefect.conf").write_text(text)
    ledger = Ledger(tmp_path / "prefect.json", recognized=True)
    entry = postgres_cluster.entry_of(ledger, cluster, {"name": "prefect", "role": "prefect"}, "role")
    assert entry == ({"kind": "role", "name": "15/main prefect", "origin": "created"} if configured else None)


@pytest.fixture
def foreign(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give options for a running cluster of others, whose conf.d has a person's file of the instance's name."""
    (cluster.config / "conf.d/prefect.conf").write_text("work_mem = 64MB\n")
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [cluster])
    monkeypatch.setattr(postgres_cluster, "exists", lambda *_: False)
    monkeypatch.setattr(Cluster, "problems", lambda self: "")
    monkeypatch.setattr(Cluster, "sql", lambda self, statement: answer(statement))
    ledger = {"name": str(tmp_path / "state/prefect.json"), "part": "postgres"}
    return {"name": "prefect", "database": "prefect", "role": "prefect", "ledger": ledger}


def answer(statement: str) -> str:
    if "pg_settings" in statement:
        return "0"
    if "epoch" in statement:
        return "99999999999"
    return "t" if "true" in statement or "load_time" in statement else ""


@pytest.mark.parametrize("state", ["probed", "present"])
def test_a_settings_file_of_others_is_refused(cluster: Cluster, foreign: dict[str, Any], state: str) -> None:
    file = cluster.config / "conf.d/prefect.conf"
    said = outcome(postgres_cluster.main, **foreign, state=state)
    assert (
        f"prefect_instance: {file} is a file of root, mode 0644, and this collection did not create it" in said["msg"]
    )
    assert file.read_text() == "work_mem = 64MB\n"
    assert cluster.hba.read_text() == HBA


def test_absent_leaves_a_settings_file_of_others(cluster: Cluster, foreign: dict[str, Any]) -> None:
    assert not outcome(postgres_cluster.main, **foreign, state="absent")["changed"]
    assert (cluster.config / "conf.d/prefect.conf").read_text() == "work_mem = 64MB\n"


def test_an_adopted_settings_file_is_put_back(cluster: Cluster, foreign: dict[str, Any]) -> None:
    file = cluster.config / "conf.d/prefect.conf"
    file.chmod(0o640)
    foreign["ledger"]["adopt"] = ["files"]
    assert outcome(postgres_cluster.main, **foreign)["changed"]
    assert file.read_text().startswith(postgres_cluster.HEADER)
    assert outcome(postgres_cluster.main, **foreign, state="absent")["changed"]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("work_mem = 64MB\n", 0o640)
    assert [path.name for path in file.parent.iterdir()] == ["prefect.conf"]


def test_an_own_settings_file_comes_and_goes(cluster: Cluster, foreign: dict[str, Any]) -> None:
    file = cluster.config / "conf.d/prefect.conf"
    file.unlink()
    assert outcome(postgres_cluster.main, **foreign, state="probed")["changed"] is False
    assert outcome(postgres_cluster.main, **foreign)["changed"]
    assert not outcome(postgres_cluster.main, **foreign)["changed"]
    assert outcome(postgres_cluster.main, **foreign, state="absent")["changed"]
    assert not file.exists()


@pytest.mark.parametrize("state", ["probed", "present"])
@pytest.mark.parametrize("whose", ["others", "came", "used"])
def test_only_an_own_stopped_cluster_is_started(
    cluster: Cluster, foreign: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, whose: str
) -> None:
    started: list[str] = []
    monkeypatch.setattr(postgres_cluster, "systemctl", lambda action, unit: started.append(f"{action} {unit}"))
    (cluster.config / "conf.d/prefect.conf").unlink()
    if whose == "used":
        outcome(postgres_cluster.main, **foreign)
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [replace(cluster, running=False)])
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"came": ["postgresql-15"] if whose == "came" else []}))
    said = outcome(postgres_cluster.main, **foreign, state=state, record=str(record))
    refused = "prefect_database_port: PostgreSQL 15/main on port 5432 does not run, and this collection did not install"
    assert (refused in said.get("msg", "")) == (whose == "others")
    assert bool(started) == (whose != "others" and state == "present")


BOTH = [("database", "prefect"), ("role", "prefect")]


@pytest.mark.parametrize(
    ("question", "rows", "dropped", "found"),
    [
        ("pg_database", "prefect", BOTH, []),
        ("pg_database", "prefect", [], ["prefect"]),
        ("pg_database", "shop\nprefect", BOTH[:1], ["shop"]),
        ("pg_roles", "prefect", BOTH[1:], []),
        ("pg_roles", "prefect", BOTH[:1], ["prefect"]),
        ("pg_roles", "shop", BOTH, ["shop"]),
        ("pg_class", "public.notes", BOTH, ["public.notes in the database postgres"]),
    ],
)
def test_what_others_have_in_a_cluster(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    rows: str,
    dropped: list[tuple[str, str]],
    found: list[str],
) -> None:
    monkeypatch.setattr(Cluster, "sql", lambda self, statement: rows if f"from {question}" in statement else "")
    assert postgres_cluster.strangers(cluster, dropped=dropped) == found


@pytest.fixture
def renamed(
    cluster: Cluster, foreign: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[str]]:
    """Give options and the executed statements for a cluster whose database and role had other names before."""
    (cluster.config / "conf.d/prefect.conf").unlink()
    said: list[str] = []

    def sql(self: Cluster, statement: str) -> str:
        if statement.startswith("drop"):
            said.append(statement)
        return answer(statement)

    def dump(_: Cluster, database: str, directory: str) -> str:
        said.append(f"dump {database} to {directory}")
        return f"{database}.dump"

    monkeypatch.setattr(Cluster, "sql", sql)
    monkeypatch.setattr(postgres_cluster, "dump", dump)
    monkeypatch.setattr(postgres_cluster, "owner_of", lambda _, name: {"before_proof": "former"}.get(name, "another"))
    outcome(postgres_cluster.main, **foreign | {"database": "before", "role": "former"})
    outcome(postgres_cluster.main, **foreign)
    monkeypatch.setattr(postgres_cluster, "exists", lambda *_: True)
    return foreign | {"state": "absent"}, said


def entries(options: dict[str, Any]) -> set[str]:
    """Return the entries of the ledger."""
    path = Path(options["ledger"]["name"])
    return set(json.loads(path.read_text())["entries"]) if path.exists() else set()


def test_absent_names_a_database_of_a_former_name(
    renamed: tuple[dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, said = renamed
    warned: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda self, warning: warned.append(warning))
    outcome(postgres_cluster.main, **options)
    (warning,) = warned
    assert "15/main still has the database before and the role former, which this collection created" in warning
    assert said == []
    assert {"database 15/main before", "role 15/main former", "database 15/main prefect"} <= entries(options)


@pytest.mark.parametrize("port", [5432, 5433])
def test_a_purge_drops_a_database_of_a_former_name_after_a_dump(
    renamed: tuple[dict[str, Any], list[str]], port: int
) -> None:
    """It does so where an earlier removal left only the ledger, and the port is another cluster's now."""
    options, said = renamed
    outcome(postgres_cluster.main, **options)
    result = outcome(postgres_cluster.main, **options, purge=True, backup_dir="/b", port=port)
    assert said == [
        "dump prefect to /b",
        'drop database "prefect" with (force)',
        "dump before to /b",
        'drop database "before_proof" with (force)',
        'drop database "before" with (force)',
        'drop role "prefect"',
        'drop role "former"',
    ]
    assert (result["dumps"], result["changed"]) == (["prefect.dump", "before.dump"], True)
    assert entries(options) == set()


def test_a_purge_keeps_a_database_of_a_former_name_that_is_another_instances(
    renamed: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    options, said = renamed
    other = {"name": str(tmp_path / "state/prefect-blue.json"), "part": "postgres", "adopt": ["database"]}
    blue = options | {"name": "prefect-blue", "database": "before", "role": "former", "ledger": other}
    outcome(postgres_cluster.main, **blue | {"state": "present"})
    outcome(postgres_cluster.main, **options, purge=True)
    assert said == ['drop database "prefect" with (force)', 'drop role "prefect"']
    assert entries(options) == set()


@pytest.mark.parametrize("question", ["pg_roles", "pg_class"])
def test_a_cluster_with_something_of_others_is_not_dropped(
    cluster: Cluster, stopped: dict[str, Any], monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setattr(postgres_cluster, "clusters", lambda: [cluster])
    monkeypatch.setattr(postgres_cluster, "exists", lambda *_: False)
    monkeypatch.setattr(Cluster, "problems", lambda self: "")
    monkeypatch.setattr(
        Cluster, "sql", lambda self, statement: "notes" if f"from {question} " in statement else answer(statement)
    )
    result = outcome(postgres_cluster.main, **stopped)
    assert (result["in_use"], result["cluster"]) == (True, "15/main")


@pytest.fixture
def redhat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give options for a host of the RHEL family, whose package creates no cluster, and what systemctl was told."""
    data, told = tmp_path / "pgsql/data", list[str]()
    program = tmp_path / "postgresql-setup"
    program.write_text(
        f"#!/bin/sh -e\nmkdir {data}; echo 16 > {data}/PG_VERSION && printf 'max_connections = 100\\n' > "
        f'{data}/postgresql.conf\necho "$PGSETUP_INITDB_OPTIONS" > {data}/pg_hba.conf\n'
    )
    program.chmod(0o755)
    data.parent.mkdir()
    about = {"family": "redhat", "unit": "postgresql.service", "setup": [str(program)], "data": str(data)}
    about |= {"socket": "/run/postgresql", "server": "/usr/bin/postgres"}
    rocky = distributions.Distribution("Rocky Linux 9.4", distributions.REDHAT, 9)
    monkeypatch.setattr(distributions, "current", lambda: rocky)
    monkeypatch.setattr(distributions, "facts", lambda what: about)
    monkeypatch.setattr(postgres_cluster, "systemctl", lambda action, unit: told.append(f"{action} {unit}"))
    monkeypatch.setattr(postgres_cluster, "exists", lambda *_: False)
    monkeypatch.setattr(Cluster, "problems", lambda self: "")
    monkeypatch.setattr(Cluster, "sql", lambda self, statement: answer(statement))
    (tmp_path / "record.json").write_text(json.dumps({"came": ["postgresql-server"], "fresh": [str(data.parent)]}))
    ledger = {"name": str(tmp_path / "state/prefect.json"), "part": "postgres"}
    given = {"name": "prefect", "database": "prefect", "role": "prefect", "ledger": ledger, "hba": ["host a b c d"]}
    return {"data": data, "told": told, "given": given | {"record": str(tmp_path / "record.json")}}


def test_a_cluster_of_the_rhel_family_is_created_configured_and_read(redhat: dict[str, Any]) -> None:
    data, given = redhat["data"], redhat["given"]
    dry = outcome(postgres_cluster.main, **given, _ansible_check_mode=True)
    assert (dry["changed"], redhat["told"], data.exists()) == (True, [], False)
    first = outcome(postgres_cluster.main, **given, tuning={"shared_buffers": "1GB"}, max_connections=200)
    assert "msg" not in first, first["msg"]
    assert (first["cluster"], first["owned"], first["socket"]) == ("16/data", True, "/run/postgresql")
    assert redhat["told"][:2] == ["enable postgresql.service", "start postgresql.service"]
    assert (data / "pg_hba.conf").read_text().endswith("--encoding=UTF8\n")
    assert "max_connections = 200\nshared_buffers = 1GB\n" in (data / "prefect.conf").read_text()
    # The last setting counts.
    lines = (data / "postgresql.conf").read_text().splitlines()
    assert lines[0] == "max_connections = 100" and lines[-2] == "include_if_exists 'prefect.conf'"
    cluster = postgres_cluster.clusters()[0]
    assert postgres_cluster.others_settings(cluster, Path("/none"))["max_connections"] == "200"
    assert postgres_cluster.others_settings(cluster, data / "prefect.conf")["max_connections"] == "100"
    assert cluster.server == ["/usr/bin/postgres", "-D", str(data)]


@pytest.mark.parametrize("text", ["port = 5433\n", "port = 5433"])
def test_a_cluster_of_others_on_the_rhel_family_gets_its_files_back(redhat: dict[str, Any], text: str) -> None:
    data, given = redhat["data"], redhat["given"] | {"port": 5433, "record": "/nowhere"}
    data.mkdir()
    for name, content in {"PG_VERSION": "16\n", "postgresql.conf": text, "pg_hba.conf": HBA}.items():
        (data / name).write_text(content)
    running = subprocess.CompletedProcess[str]([], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *_, **__: running)
        outcome(postgres_cluster.main, **given)
        assert "include_if_exists 'prefect.conf'" in (data / "postgresql.conf").read_text()
        assert not outcome(postgres_cluster.main, **given)["changed"]
        outcome(postgres_cluster.main, **given, state="absent")
    assert (data / "postgresql.conf").read_text() == text.rstrip("\n") + "\n"
    assert ((data / "pg_hba.conf").read_text(), (data / "prefect.conf").exists()) == (HBA, False)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_only_a_cluster_that_this_collection_created_is_dropped(redhat: dict[str, Any], is_fresh: bool) -> None:
    data, given = redhat["data"], redhat["given"]
    outcome(postgres_cluster.main, **given)
    if not is_fresh:
        # The package came, and the data of an earlier one existed.
        Path(given["record"]).write_text(json.dumps({"came": ["postgresql-server"], "fresh": []}))
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        outcome(postgres_cluster.main, **given, state="absent", purge=True)
    assert data.exists() != is_fresh
    assert (["systemctl", "disable", "--quiet", "--now", "postgresql.service"] in called) == is_fresh


def test_a_setup_that_fails_is_shown(redhat: dict[str, Any]) -> None:
    redhat["data"].mkdir()
    said = outcome(postgres_cluster.main, **redhat["given"])
    assert "postgresql-setup: mkdir: cannot create directory" in said["msg"]
