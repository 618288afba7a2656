"""A real PostgreSQL in the directories and with the one unit that the RHEL family gives it, from Debian's programs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import distributions
from ansible_collections.selfhosted.prefect.plugins.modules import host_postgres_cluster as postgres_cluster
from fake_api import outcome

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not PROGRAMS, reason="PostgreSQL of the RHEL family is not tested: needs root and postgresql"
)


class Unit:
    """The unit postgresql.service, for a systemctl that knows it alone."""

    def __init__(self, data: Path) -> None:
        self.data, self.told = data, list[str]()

    def ctl(self, *words: str) -> int:
        """Run pg_ctl as the account postgres and return its exit code."""
        command = [f"{PROGRAMS[-1]}/pg_ctl", f"--pgdata={self.data}", f"--log={self.data.parent}/log", *words]
        account = pwd.getpwnam("postgres")
        output = subprocess.DEVNULL
        return subprocess.run(
            command,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            stdout=output,
            stderr=output,
            check=False,
        ).returncode

    def systemctl(self, action: str, unit: str) -> None:
        self.told.append(f"{action} {unit}")
        if action in ("start", "restart"):
            assert self.ctl(action, "--wait") == 0, (self.data.parent / "log").read_text()


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Give options of the module, for a host that has the packages and no cluster."""
    top = Path("/run") / f"prefect-test-{os.getpid()}"
    data = top / "pgsql/data"
    data.parent.mkdir(parents=True)
    shutil.chown(data.parent, "postgres", "postgres")
    unit, run = Unit(data), subprocess.run

    def intercepted(command: list[str], **options: Any) -> Any:
        """Be systemctl, and runuser as postgresql-setup."""
        if command[:2] == ["systemctl", "is-active"]:
            return subprocess.CompletedProcess(command, unit.ctl("status"))
        if command[:2] == ["systemctl", "disable"]:
            unit.ctl("stop", "--wait", "--mode=fast")
            return subprocess.CompletedProcess(command, 0)
        return run(command, **options)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    setup = ["runuser", "-u", "postgres", "--", f"{PROGRAMS[-1]}/initdb", f"--pgdata={data}", "--encoding=UTF8"]
    about = {"family": "redhat", "unit": "postgresql.service", "setup": setup, "data": str(data)}
    about |= {"socket": str(data.parent), "server": f"{PROGRAMS[-1]}/postgres"}
    rocky = distributions.Distribution("Rocky Linux 9.4", distributions.REDHAT, 9)
    monkeypatch.setattr(distributions, "current", lambda: rocky)
    monkeypatch.setattr(distributions, "facts", lambda what: about)
    monkeypatch.setattr(postgres_cluster, "systemctl", unit.systemctl)
    monkeypatch.setattr(subprocess, "run", intercepted)
    record = top / "packages.json"
    record.write_text(f'{{"came": ["postgresql-server"], "fresh": ["{data.parent}"]}}')
    ledger = {"name": str(top / "state/prefect.json"), "part": "postgres"}
    own = {"unix_socket_directories": str(data.parent), "port": port}
    given = {"name": "prefect", "database": "prefect", "role": "prefect", "ledger": ledger, "record": str(record)}
    # The port and the socket of the machine's own PostgreSQL may be in use, so the new one begins with others.
    monkeypatch.setattr(postgres_cluster, "create_cluster", create(postgres_cluster.create_cluster, data, own))
    try:
        yield given | {"port": port, "hba": ["host all prefect 10.0.0.11/32 scram-sha-256"], "unit": unit}
    finally:
        unit.ctl("stop", "--mode=immediate")
        shutil.rmtree(top)


def create(original: Any, data: Path, settings: dict[str, Any]) -> Any:
    """Return what creates the cluster, and lets it begin with other settings."""

    def work(about: dict[str, Any]) -> None:
        original(about)
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {postgres_cluster.quoted(value)}\n" for name, value in settings.items())

    return work


def test_a_cluster_is_created_configured_and_dropped(host: dict[str, Any]) -> None:
    unit = host.pop("unit")
    host["timeout"] = 15
    first = outcome(postgres_cluster.main, **host, max_connections=33)
    assert "msg" not in first, first.get("msg")
    assert (first["changed"], first["owned"], first["restarted"]) == (True, True, True)
    cluster = postgres_cluster.clusters()[0]
    assert cluster.running and cluster.sql("show max_connections") == "33"
    assert cluster.sql("select count(*) from pg_hba_file_rules where address = '10.0.0.11'") == "1"
    assert not outcome(postgres_cluster.main, **host, max_connections=33)["changed"]
    assert outcome(postgres_cluster.main, **host, max_connections=34)["restarted"]
    wrong = outcome(postgres_cluster.main, **host, max_connections=34, settings={"no_such_setting": 1})
    assert "prefect_postgres_settings: PostgreSQL refuses what would be written" in wrong["msg"]
    assert not outcome(postgres_cluster.main, **host, max_connections=34)["changed"]
    # Otherwise it would move to the port that it has by default, which the machine's own PostgreSQL may use.
    others = host | {"record": "/nowhere"}
    assert outcome(postgres_cluster.main, **others, state="absent")["changed"]
    assert (
        not (unit.data / "prefect.conf").exists()
        and "include_if_exists 'prefect" not in (unit.data / "postgresql.conf").read_text()
    )
    gone = outcome(postgres_cluster.main, **host, state="absent", purge=True)
    assert (gone["in_use"], unit.data.exists()) == (False, False)
