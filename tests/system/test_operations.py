"""The verbs of an operator, on one installed host: look at it, restart it, back it up, restore it, empty it, serve.

The order of the tests is that of the file: each leaves a host that is well, and the last one a host without Prefect.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_host import NAME, ROOT, Ended, Host, Variables

SERVICES = ("prefect-server", "prefect-exporter", "prefect-worker@default")
FLOWS = ("approval-flow", "data-pipeline", "database-sync", "hello-flow", "scheduled-flow")
EXAMPLES = [f"{flow}/example" for flow in FLOWS]
METRICS = "http://127.0.0.1:9420/metrics"
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"

INSIDE = ROOT / "docs/examples/inside/group_vars/all.yml"
STOCK = ROOT / "docs/examples/own_flow/flows/stock.py"
TICKETS = ROOT / "docs/examples/tickets/hosts.yml"

SERVE = """
    from prefect import flow


    @flow
    def stock(items: int = 2) -> int:
        return items


    if __name__ == "__main__":
        stock.serve("served")
"""

# What a hostile flow tries, and what every flow does: a result, a file in its working directory and at home, git.
ATTACK = """
    import os
    import pathlib
    import subprocess
    import tempfile

    from prefect import flow, task

    HOME = pathlib.Path("/var/lib/prefect")


    def attempts(pid, victim):
        yield "read server.env", pathlib.Path("/etc/prefect/server.env").read_text
        yield "read prefect.db", (HOME / "prefect.db").read_bytes
        yield "read backups", lambda: os.listdir("/var/backups/prefect-server")
        yield "read the environment of the server", pathlib.Path(f"/proc/{pid}/environ").read_bytes
        yield "signal the server", lambda: os.kill(pid, 0)
        yield "signal the exporter", lambda: os.kill(victim, 0)
        yield "create a file beside the database", (HOME / "planted").touch
        yield "write into a directory of the server", (HOME / "prefect-ui" / "planted").touch
        yield "replace a directory of the server", lambda: (HOME / "prefect-ui").rename(HOME / "prefect-ui.gone")
        yield "replace its own directory", lambda: (HOME / "flows").rename(HOME / "flows.gone")


    @task(persist_result=True)
    def work():
        pathlib.Path("left-here").touch()
        (pathlib.Path.home() / "left-at-home").touch()
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["python3", "-c", "pass"], cwd=directory, check=True)
        return "done"


    @flow(persist_result=True)
    def attack(pid: int, victim: int):
        work()
        could = []
        for name, attempt in attempts(pid, victim):
            try:
                attempt()
            except OSError:
                continue
            could.append(name)
        assert not could, f"flow code could {could}"
"""

DEPLOY_ATTACK = """
    from pathlib import Path

    from prefect import flow

    source = flow.from_source(str(Path.cwd()), entrypoint="attack.py:attack")
    source.deploy("attack", work_pool_name="default", print_next_steps=False)
"""

# How an installation was left by a version that knew one account only.
AS_BEFORE = """
    groupdel prefect-operators
    chown root:prefect /etc/prefect /etc/prefect/*.env
    chmod 750 /etc/prefect
    rm -r /var/lib/prefect/worker
    id prefect-worker && userdel prefect-worker
    useradd --groups prefect grace
    cd /var/lib/prefect
    runuser --user prefect -- sh -c 'umask 022; mkdir data .aws; touch data/a .aws/credentials note'
"""

# Ends when the test says so.
PATIENT = """
    import pathlib
    import time

    from prefect import flow


    @flow
    def patient():
        while not pathlib.Path("/var/lib/prefect/flows/enough").exists():
            time.sleep(0.2)
"""

# Ends when one with the other version runs as well.
MEET = """
    import pathlib
    import time
    from importlib.metadata import version

    from prefect import flow


    @flow(timeout_seconds=120)
    def meet(own: str, other: str):
        assert version("iniconfig") == own
        place = pathlib.Path("/var/lib/prefect/storage")
        (place / own).touch()
        while not (place / other).exists():
            time.sleep(0.2)
"""

HOOK = """
    from http.server import BaseHTTPRequestHandler, HTTPServer


    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            with open("/run/told", "ab") as told:
                told.write(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()


    HTTPServer(("127.0.0.1", 4999), Hook).serve_forever()
"""

PLAIN: Variables = {"prefect_server_exporter": True, "prefect_worker_drain": 600}
VARIABLES: Variables = {**PLAIN, "prefect_server_metrics": True, "prefect_log_files": True}


@pytest.fixture(scope="module")
def running(sqlite: Host) -> Host:
    """The host with everything that can be looked at."""
    ended = sqlite.play(variables=VARIABLES)
    assert ended.rc == 0, ended.output
    return sqlite


def get(host: Host, url: str) -> str:
    return str(host.sh(f'python3 -c "{FETCH}" {url}'))


def info(host: Host) -> dict[str, object]:
    """Give what prefect-info says, whatever it finds wrong."""
    found: dict[str, object] = json.loads(host.sh("prefect-info --json", check=False))
    return found


def until(reached: Callable[[], bool], *, timeout: float = 600) -> None:
    """Wait for something that comes by itself."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, f"not reached in {timeout:g} s"
        time.sleep(0.5)


def runs(host: Host) -> set[str]:
    """Give the runs of one flow that the database knows. Those of a schedule come and go."""
    found = host.api("/flow_runs/filter", {"flows": {"name": {"any_": ["hello-flow"]}}})
    return {run["id"] for run in found}


def pids(host: Host) -> list[str]:
    units = " ".join(SERVICES)
    return str(host.sh(f"systemctl show --property=MainPID --value {units}")).split()


def test_status_is_green_for_people_and_for_programs(running: Host, tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    ended = running.play("playbooks/status.yml", {**VARIABLES, "prefect_status_file": str(file)})
    assert ended.rc == 0, ended.output
    for what in (*SERVICES, "api", "(all) database", "(all) work pool default", "(all) events"):
        assert re.search(rf"{re.escape(what)} +ok", ended.words), f"{what} is not well in:\n{ended.output}"
    report = json.loads(file.read_text())
    assert report["healthy"] and report["hosts"][NAME]["ready"] and report["hosts"][NAME]["problems"] == []


def test_status_says_what_is_wrong(running: Host, tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    running.sh("systemctl stop prefect-worker@default")
    try:
        ended = running.play("playbooks/status.yml", {**VARIABLES, "prefect_status_file": str(file)})
        running.sh("sleep 11")
        metrics = get(running, METRICS)
    finally:
        running.sh("systemctl start prefect-worker@default")
    assert ended.rc == 2, ended.output
    assert re.search("prefect-worker@(default: dead|: does not run on this host)", ended.words), ended.output
    assert json.loads(file.read_text())["healthy"] is False
    assert re.search('prefect_check_healthy{check="prefect-worker@(default)?"} 0', metrics)
    until(lambda: not info(running)["problems"])


def test_the_exporter_serves_on_the_loopback_what_the_alerts_want(running: Host) -> None:
    page = get(running, METRICS)
    for line in ("prefect_ready 1", 'prefect_work_pool_ready{work_pool="default"} 1', "prefect_late_flow_runs 0"):
        assert f"\n{line}\n" in page
    assert running.sh("ss -Hltn sport = :9420 | awk '{ print $4 }'") == "127.0.0.1:9420"
    score = running.sh("systemd-analyze security --no-pager prefect-exporter | tail -1")
    assert float(re.findall(r"exposure level.*: ([\d.]+)", score)[0]) < 3


def test_the_server_serves_its_own_metrics(running: Host) -> None:
    assert "process_resident_memory_bytes" in get(running, "http://127.0.0.1:4200/api/metrics")


def test_the_server_takes_its_time_zones_from_its_release(running: Host) -> None:
    """From the system's Prefect before 3.9 would read hundreds of files again for each schedule."""
    script = "import zoneinfo; print(zoneinfo.TZPATH, zoneinfo.ZoneInfo('Europe/Berlin'))"
    said = running.sh(
        "pid=$(systemctl show --property=MainPID --value prefect-server); "
        "tr '\\0' '\\n' < /proc/$pid/environ | grep ^PYTHONTZPATH= > /run/zones; "
        f'env -i $(cat /run/zones) /opt/prefect/current/bin/python -c "{script}"'
    )
    assert said == "() Europe/Berlin"


def attack(host: Host) -> str:
    """Run the hostile flow, and give the message of its last state."""
    host.write("/var/lib/prefect/flows/attack.py", textwrap.dedent(ATTACK))
    scripts = [{"name": "examples", "path": "deploy.py"}, {"name": "attack", "content": textwrap.dedent(DEPLOY_ATTACK)}]
    variables = {**VARIABLES, "prefect_flows_deployment_scripts": scripts}
    ended = host.play(variables=variables, arguments=("--tags", "flows"))
    assert ended.rc == 0, ended.output
    victim = host.sh("systemctl show --property=MainPID --value prefect-exporter")
    host.sh(
        "install --directory --mode=700 /var/backups/prefect-server;"
        f" prefect deployment run attack/attack --param pid={host.server_pid()} --param victim={victim} --watch",
        check=False,
    )
    (run,) = host.api(
        "/flow_runs/filter", {"flows": {"name": {"any_": ["attack"]}}, "sort": "START_TIME_DESC", "limit": 1}
    )
    host.sh("prefect --no-prompt deployment delete attack/attack; rm /var/lib/prefect/flows/attack.py")
    return f"{run['state_type']} {run['state']['message'] or ''}"


def users(host: Host) -> dict[str, str]:
    """Give the account of each running service, by the owner of its process."""
    return {
        unit: host.sh(f"ps -o user:32= -p $(systemctl show --property=MainPID --value {unit})") for unit in SERVICES
    }


def test_flow_code_reaches_nothing_of_the_server(running: Host) -> None:
    server, flows = "prefect", "prefect-worker"
    assert users(running) == dict(zip(SERVICES, (server, server, flows), strict=True))
    assert attack(running).startswith("COMPLETED")
    assert running.sh("ls /var/lib/prefect/storage") and running.sh("ls /var/lib/prefect/worker/left-at-home")


def test_an_operator_reads_the_settings_of_the_client_and_nothing_else(running: Host) -> None:
    running.sh("useradd --create-home --groups prefect-operators ada")
    try:
        assert "hello-flow" in running.sh("sudo --login --user=ada prefect deployment ls")
        assert json.loads(running.sh("sudo --login --user=ada prefect-info --json"))["problems"] == []
        readable = running.sh(
            "find /etc/prefect /var/lib/prefect /var/log/prefect -not -type l > /run/all;"
            'sudo --user=ada sh -c \'while read path; do test ! -r "$path" || echo "$path"; done\' < /run/all'
        )
        assert readable.split() == ["/etc/prefect/client.env"]
        running.sh("gpasswd --delete ada prefect-operators")
        refused = running.sh("sudo --login --user=ada prefect deployment ls 2>&1 || true")
        assert "usermod -aG prefect-operators ada" in refused
    finally:
        running.sh("userdel --remove ada 2>/dev/null")


def test_one_account_becomes_two_and_nothing_is_lost(running: Host) -> None:
    one = {**VARIABLES, "prefect_worker_user": "prefect"}
    ended = running.play(variables=one)
    assert ended.rc == 0, ended.output
    assert set(users(running).values()) == {"prefect"}
    running.sh("prefect deployment run hello-flow/example --watch")
    running.sh(textwrap.dedent(AS_BEFORE))
    known = runs(running)

    ended = running.play(variables=VARIABLES)
    assert ended.rc == 0, ended.output
    assert users(running)["prefect-worker@default"] == "prefect-worker"
    # The scripts run again, as another account, and a run proves them.
    assert runs(running) > known and info(running)["deployments"] == EXAMPLES
    paths = "prefect.db prefect-ui flows flows/deploy.py storage data data/a worker/.aws/credentials worker/note"
    owners = running.sh(f"cd /var/lib/prefect && stat --format %U {paths}").split()
    assert owners == ["prefect"] * 2 + ["prefect-worker"] * 7
    assert (
        running.sh("cd /var/lib/prefect && readlink note && id --name --groups grace")
        == "worker/note\ngrace prefect-operators"
    )
    again = running.play(variables=VARIABLES)
    assert (again.rc, again.changed) == (0, 0), again.output
    assert attack(running).startswith("COMPLETED")
    running.sh("userdel grace; rm -r /var/lib/prefect/note /var/lib/prefect/data /var/lib/prefect/worker/.aws")


def test_log_files_are_rotated(running: Host) -> None:
    running.sh("{ apt-get update && apt-get install --yes logrotate; } >/dev/null 2>&1")
    said = running.sh("logrotate --debug /etc/logrotate.d/prefect 2>&1")
    assert "error" not in said and "considering log /var/log/prefect/prefect-server.log" in said
    before = running.server_pid()
    running.sh("logrotate --force --state /run/logrotate-test /etc/logrotate.d/prefect")
    assert "prefect-worker@default.log.1" in running.sh("ls /var/log/prefect")
    running.sh("systemctl restart prefect-worker@default")
    until(lambda: bool(running.sh("cat /var/log/prefect/prefect-worker@default.log")))
    assert running.server_pid() == before
    until(lambda: not info(running)["problems"])


def test_a_failure_is_told(running: Host) -> None:
    running.write("/run/hook.py", textwrap.dedent(HOOK))
    running.sh("systemd-run --quiet --unit=hook python3 /run/hook.py")
    try:
        ended = running.play(
            "docs/examples/failure_notification.yml", VARIABLES, arguments=("-e", "notify_url=http://127.0.0.1:4999/")
        )
        assert ended.rc == 0, ended.output
        flow = running.api("/flows/", {"name": "doomed"})

        def told() -> bool:
            # The server acts on a failure only once the automation has reached the service that looks at events.
            run = running.api("/flow_runs/", {"flow_id": flow["id"], "name": "this-one"})
            running.api(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "FAILED"}, "force": True})
            time.sleep(2)
            return "doomed this-one Failed" in running.sh("cat /run/told", check=False)

        until(told)
    finally:
        running.sh("systemctl stop hook")


def test_everything_inside_is_applied_and_runs_on_the_hosts_own_server(running: Host) -> None:
    """What the README begins with. Plans, drift, exports, pauses and repeated runs are tried in tests/api."""
    variables: Variables = {**VARIABLES, "prefect_resources_owner": "example"}
    described = ("-e", f"@{INSIDE}", "-e", "team_webhook=http://127.0.0.1:4999/")
    running.write("/var/lib/prefect/flows/stock.py", STOCK.read_text())

    def play(name: str, *arguments: str, rc: int = 0) -> Ended:
        ended = running.play(f"playbooks/{name}.yml", variables, arguments=(*described, *arguments))
        assert ended.rc == rc, ended.output
        return ended

    assert "+ deployment stock/daily" in play("apply").words
    assert play("site", "--tags", "resources").changed == 0
    assert "11 in stock" in play("run", "-e", "prefect_resources_run=stock/daily").words
    wrong = '{"prefect_resources_run": "stock/daily", "prefect_resources_run_parameters": {"items": 3}}'
    failed = play("run", "-e", wrong, rc=2).words
    assert "items: Input should be a valid list" in failed and "state_type: FAILED" in failed

    play("apply", "-e", "prefect_resources_state=absent")
    assert info(running)["deployments"] == EXAMPLES
    running.sh("rm /var/lib/prefect/flows/stock.py; prefect work-pool clear-concurrency-limit default")


def test_restart_restarts_every_service_and_waits(running: Host) -> None:
    """A worker drains: it finishes its flow run, and leaves a new one to its successor.

    What a worker had taken as it ended, and had no time to put its name on, begins again.
    """
    running.write("/var/lib/prefect/flows/patient.py", textwrap.dedent(PATIENT))
    described = {"flow_id": running.api("/flows/", {"name": "patient"})["id"], "work_pool_name": "default"}
    described |= {"name": "patient", "path": "/var/lib/prefect/flows", "entrypoint": "patient.py:patient"}
    patient = running.api("/deployments/", described)["id"]
    long = running.api(f"/deployments/{patient}/create_flow_run", {})["id"]
    until(lambda: bool(running.api(f"/flow_runs/{long}")["state_type"] == "RUNNING"))
    deployment = running.api("/deployments/name/hello-flow/example")["id"]
    taken = running.api(f"/deployments/{deployment}/create_flow_run", {"state": {"type": "PENDING", "name": "Pending"}})
    before = pids(running)
    drained = running.sh("grep --count Draining /var/log/prefect/prefect-worker@default.log || true")
    restart = running.start("playbooks/restart.yml", PLAIN)
    restart.wait_until(
        lambda: running.sh("grep --count Draining /var/log/prefect/prefect-worker@default.log || true") != drained,
        what="the worker drains",
    )
    later = running.api(f"/deployments/{deployment}/create_flow_run", {})["id"]
    time.sleep(10)
    states = [running.api(f"/flow_runs/{run}")["state_type"] for run in (long, later)]
    assert states == ["RUNNING", "SCHEDULED"]
    running.sh("touch /var/lib/prefect/flows/enough")
    ended = restart.wait()
    assert ended.rc == 0, ended.output
    run = running.api(f"/flow_runs/{long}")
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 1)
    running.api(f"/deployments/{patient}", method="DELETE")
    running.sh("rm /var/lib/prefect/flows/patient.py /var/lib/prefect/flows/enough")
    until(lambda: bool(running.api(f"/flow_runs/{later}")["state_type"] == "COMPLETED"))
    assert "0" not in before and not set(before) & set(pids(running))
    assert info(running)["problems"] == []
    until(lambda: bool(running.api(f"/flow_runs/{taken['id']}")["state_type"] == "COMPLETED"))


UNUSABLE = """
import sqlite3
with sqlite3.connect("/var/backups/prefect-server/unusable.sqlite") as database:
    database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    database.execute("INSERT INTO alembic_version VALUES ('no such revision')")
"""


LEFT = (
    "ls -d /var/lib/.selfhosted-prefect* 2>/dev/null; systemctl list-units --all --plain --no-legend 'prefect-proof*'"
)
"""What is left of a proof."""


def test_backup_restore_and_reset(running: Host, tmp_path: Path) -> None:
    assert info(running)["deployments"] == EXAMPLES
    known, before = runs(running), running.server_pid()
    proven = {**PLAIN, "prefect_server_backup_verify": True}
    ended = running.play("playbooks/backup.yml", {**proven, "prefect_server_backup_fetch_dir": str(tmp_path)})
    assert ended.rc == 0 and "It is proven: a scratch server showed what was backed up." in ended.words, ended.output
    assert running.sh(LEFT) == ""
    (fetched,) = tmp_path.glob("prefect_*_3.9.1_*.sqlite")
    assert running.sh("stat --format '%U %a' /var/backups/prefect-server/*") == "root 600\nroot 600"
    assert running.server_pid() == before

    # The host makes one itself, at its time or when asked to, and says so when it is not copied away.
    copied = ["/bin/sh", "-c", 'cp "$1" "$PREFECT_BACKUP.json" /srv/away', "copy"]
    scheduled = {**proven, "prefect_server_backup_schedule": "daily", "prefect_server_backup_command": copied}
    ended = running.play(variables=scheduled, arguments=("--tags", "server"))
    assert ended.rc == 0, ended.output
    again = running.play(variables=scheduled, arguments=("--tags", "server"))
    assert (again.rc, again.changed) == (0, 0), again.output
    assert running.sh("systemctl is-active prefect-backup.timer") == "active"
    assert running.server_pid() == before and info(running)["problems"] == []
    running.sh("! systemctl start prefect-backup")
    assert "prefect-backup: failed" in str(info(running)["problems"])
    assert "prefect_server_backup_command: /bin/sh ended with exit code 1" in running.sh("journalctl -u prefect-backup")
    running.sh("mkdir /srv/away && systemctl start prefect-backup")
    assert "and is proven" in running.sh("journalctl -u prefect-backup") and running.sh(LEFT) == ""
    assert info(running)["problems"] == [] and "'proven': '2" in str(info(running).get("backup"))
    assert len(running.sh("ls /srv/away").split()) == 2
    ended = running.play(variables=PLAIN, arguments=("--tags", "server"))
    assert ended.rc == 0, ended.output
    assert "prefect-backup" not in running.sh("ls /etc/systemd/system; systemctl list-units --all")
    running.sh(f"rm -r /srv/away; cd /var/backups/prefect-server; ls | grep -v -F {fetched.name} | xargs rm -r")

    refused = running.play("playbooks/reset.yml", {**PLAIN, "prefect_server_reset": "another"})
    assert refused.rc == 2 and "set it to prefect" in refused.words
    assert running.server_pid() == before

    emptied = running.play("playbooks/reset.yml", {**PLAIN, "prefect_server_reset": "prefect"})
    assert emptied.rc == 0, emptied.output
    assert info(running)["deployments"] == EXAMPLES
    assert len(runs(running)) == 1 and not runs(running) & known
    # With the memo of the old database, the new one would have none.
    assert len(running.api("/block_types/filter", {})) > 50

    # Nothing stops for a backup that does not exist, or is damaged.
    running.sh("echo text > /var/backups/prefect-server/text.sqlite")
    before = running.server_pid()
    for wrong, says in (("lost.sqlite", "does not exist"), ("text.sqlite", "is no good backup of a SQLite database")):
        refused = running.play("playbooks/restore.yml", {**PLAIN, "prefect_server_restore": wrong})
        assert refused.rc == 2 and says in refused.words
        assert running.server_pid() == before and running.sh("systemctl is-enabled prefect-server") == "enabled"

    # Of a database that no server can use, the old one comes back.
    filled = runs(running)
    running.sh(f"python3 -c {shlex.quote(UNUSABLE)}")
    failed = running.play(
        "playbooks/restore.yml",
        {**PLAIN, "prefect_server_restore": "unusable.sqlite", "prefect_server_timeout": 30},
    )
    assert failed.rc == 2 and "the server runs with the database that it had before" in failed.words
    assert runs(running) == filled and running.sh("systemctl is-enabled prefect-server") == "enabled"

    restored = running.play("playbooks/restore.yml", {**PLAIN, "prefect_server_restore": str(fetched)})
    assert restored.rc == 0, restored.output
    assert runs(running) == known
    assert running.sh("stat --format '%U %a' /var/lib/prefect/prefect.db") == "prefect 640"
    running.sh("prefect deployment run hello-flow/example --watch")
    listed = running.play("playbooks/backups.yml", PLAIN)
    assert listed.rc == 0 and listed.changed == 0, listed.output
    assert f"{fetched.name}: " in listed.words
    assert re.search(r"Prefect 3\.9\.1, proven [\d-]+ [\d:]+ UTC, latest", listed.words), listed.words
    assert len(running.sh("ls /var/backups/prefect-server/safety/*.sqlite").split()) == 3


def test_a_serve_process_is_kept_alive(running: Host) -> None:
    running.write("/var/lib/prefect/flows/serve.py", textwrap.dedent(SERVE))
    served = {**PLAIN, "prefect_flows_serve": [{"name": "stock", "path": "serve.py"}]}
    ended = running.play(variables=served, arguments=("--tags", "flows"))
    assert ended.rc == 0, ended.output
    until(lambda: "stock/served" in str(info(running)["deployments"]))
    running.sh("prefect deployment run stock/served --watch")

    def pid() -> int:
        return int(running.sh("systemctl show --property=MainPID --value prefect-serve@stock"))

    before = pid()
    running.sh(f"kill -KILL {before}")
    until(lambda: pid() not in (0, before))
    running.sh("prefect deployment run stock/served --watch")

    ended = running.play(variables=PLAIN, arguments=("--tags", "flows"))
    assert ended.rc == 0, ended.output
    assert "prefect-serve@stock" not in str(info(running)["services"])
    running.sh("rm /var/lib/prefect/flows/serve.py; prefect deployment delete stock/served")


def test_two_environments_run_at_once_on_one_worker(running: Host) -> None:
    versions = {"old": "2.0.0", "new": "2.1.0"}
    running.write("/var/lib/prefect/flows/meet.py", textwrap.dedent(MEET))
    deployment = {
        "flow": "meet",
        "work_pool": "default",
        "path": "/var/lib/prefect/flows",
        "entrypoint": "meet.py:meet",
    }
    pairs = zip(versions.items(), reversed(versions.values()), strict=True)
    variables: Variables = {
        **PLAIN,
        "prefect_environments": [
            {"name": name, "requirements": [f"iniconfig=={version}"]} for name, version in versions.items()
        ],
        "prefect_deployments": [
            {**deployment, "name": name, "environment": name, "parameters": {"own": own, "other": other}}
            for (name, own), other in pairs
        ],
    }

    def play(playbook: str = "site.yml", **more: object) -> Ended:
        ended = running.play(playbook, {**variables, **more})
        assert ended.rc == 0, ended.output
        return ended

    play()
    found = [running.api(f"/deployments/name/meet/{name}")["id"] for name in versions]
    started = [running.api(f"/deployments/{deployment}/create_flow_run", {})["id"] for deployment in found]

    def states() -> list[str]:
        return [running.api(f"/flow_runs/{run}")["state_type"] for run in started]

    until(lambda: not {*states()} & {"SCHEDULED", "PENDING", "RUNNING"})
    assert states() == ["COMPLETED", "COMPLETED"], running.sh("journalctl --unit 'prefect-worker@*' --lines 50")
    assert running.sh("find /opt/prefect/environments ! -user root -o -perm /022 ! -type l ! -name .lock") == ""
    about = info(running)["environments"]
    assert isinstance(about, list) and [each["name"] for each in about] == ["new", "old"]
    assert play().changed == 0

    refused = running.play(variables={**variables, "prefect_environments": variables["prefect_environments"][:1]})
    assert refused.rc == 2 and not re.search("changed=[1-9]", refused.words)
    assert "prefect_deployments: meet/new names the environment new" in refused.words

    left = variables["prefect_environments"][:1]
    play(prefect_environments=left, prefect_deployments=[], prefect_resources_prune=True)
    assert running.sh("ls /opt/prefect/environments") == "old"
    running.sh("rm /var/lib/prefect/flows/meet.py")


def test_a_list_of_runners_by_its_own_inventory(running: Host, tmp_path: Path) -> None:
    """The two commands that the README has for it. Beside its inventory, only how the host is reached."""
    name = "one.example.com"
    reached = json.dumps({"ansible_host": NAME, "prefect_secrets_dir": str(tmp_path)})

    def play(playbook: str, *arguments: str) -> Ended:
        ended = running.play(
            playbook,
            groups={"reached": [NAME]},
            arguments=("-i", str(TICKETS), "--limit", name, "-e", reached, *arguments),
        )
        assert ended.rc == 0, ended.output
        return ended

    assert "ticket_processor/ticket_processor" in play("site.yml").words
    schedules = running.api("/deployments/name/ticket_processor/ticket_processor")["schedules"]
    assert [each["schedule"]["interval"] for each in schedules] == [300]
    run = "prefect_resources_run=ticket_processor/ticket_processor"
    assert "looking into my-queue" in play("playbooks/run.yml", "-e", run).words
    # What is left of an environment.
    running.sh("mkdir --parents /opt/prefect/environments/etl/releases/1")
    play("playbooks/absent.yml", "-e", '{"prefect_purge": true}')
    assert running.sh("ls -d /opt/prefect /etc/prefect /var/lib/prefect 2>/dev/null || true") == ""
