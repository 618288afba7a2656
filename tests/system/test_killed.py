"""A run that is killed, wherever that happens, is finished by the next one, and nothing of it stays behind."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_host import Host, Run, Variables

RELEASES = "/opt/prefect/releases"

# Sleeps the first time only, so that the same input can be killed and then finish.
SLOW = """
    import pathlib, time
    marker = pathlib.Path("/var/lib/prefect/worker/{name}")
    if not marker.exists():
        marker.touch()
        time.sleep(600)
"""


def slow(name: str) -> Variables:
    """Give the variables of a deployment script that leaves a marker and sleeps, the first time."""
    scripts = [
        {"name": "examples", "path": "deploy.py"},
        {"name": name, "content": textwrap.dedent(SLOW.format(name=name))},
    ]
    return {"prefect_flows_deployment_scripts": scripts, "prefect_flows_smoke": "hello-flow/example"}


def has_begun(host: Host, name: str) -> bool:
    """Tell whether a slow script is asleep."""
    return bool(host.sh(f"ls /var/lib/prefect/worker/{name} 2>/dev/null", check=False))


def level_of_server(host: Host) -> str:
    """Give the log level that the running server was started with."""
    environment = host.sh(f"tr '\\0' '\\n' < /proc/{host.server_pid()}/environ")
    return "".join(re.findall(r"^PREFECT_LOGGING_LEVEL=(.*)$", environment, re.MULTILINE))


def level(name: str) -> Variables:
    """Give the variables that set the log level of all services."""
    return {"prefect_settings": {"PREFECT_LOGGING_LEVEL": name}}


def while_installing(host: Host, run: Run) -> None:
    """Wait until a release is half there, and see that it is not taken for a whole one."""
    run.wait_for_task("Install and prove Prefect")
    run.wait_until(lambda: bool(host.sh(f"ls -d {RELEASES}/*/bin", check=False)), what="a release is half there")
    host.cut(run)
    assert not host.sh(f"ls {RELEASES}/*/.proven /opt/prefect/current", check=False), "killed too late"


def before_the_restart(host: Host, run: Run) -> None:
    """Wait until the settings are written, and the server still runs with the old ones."""
    pid = host.server_pid()
    run.wait_for_task("Ensure the services are")
    host.cut(run)
    assert "INFO" in host.sh("grep LOGGING_LEVEL /etc/prefect/server.env"), "killed before the settings were written"
    assert host.server_pid() == pid, "killed too late"


def while_the_server_starts(host: Host, run: Run) -> None:
    """Wait until there is a new server, which does not answer yet."""
    pid = host.server_pid()
    run.wait_for_task("Ensure the services are")
    run.wait_until(lambda: host.server_pid() not in (0, pid), what="the server has been restarted")
    host.cut(run)
    assert not host.sh("ls /opt/prefect/state/prefect-server.healthy", check=False), "killed too late"


def during_a_script(host: Host, run: Run) -> None:
    """Wait until a deployment script runs."""
    run.wait_until(lambda: has_begun(host, "killed"), what="the script runs")
    host.cut(run)
    assert not host.sh("ls /opt/prefect/state/script-killed.done", check=False), "killed too late"


@dataclass(frozen=True)
class Point:
    """Where a run is killed: `reach` waits for the place and kills; what the run is about; and what proves its end."""

    reach: Callable[[Host, Run], None]
    variables: Variables
    proven: Callable[[Host], bool]

    def __str__(self) -> str:
        return self.reach.__name__.replace("_", " ")


POINTS = [
    Point(while_installing, {}, lambda host: bool(host.sh("ls /opt/prefect/current/.proven"))),
    Point(before_the_restart, level("INFO"), lambda host: level_of_server(host) == "INFO"),
    Point(while_the_server_starts, level("WARNING"), lambda host: level_of_server(host) == "WARNING"),
    Point(during_a_script, slow("killed"), lambda host: bool(host.sh("ls /opt/prefect/state/script-killed.done"))),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_next_run_finishes_what_a_killed_one_began(host: Host, point: Point) -> None:
    point.reach(host, host.start("site.yml", point.variables))

    good = host.play(variables=point.variables)
    assert good.rc == 0, good.output
    assert good.changed > 0, f"nothing was left to be done, so the kill came too late:\n{good.output}"
    assert point.proven(host), f"the run is green and its work is not done:\n{good.output}"
    assert host.last_run() == "COMPLETED"

    again = host.play(variables=point.variables)
    assert (again.rc, again.changed) == (0, 0), again.output


def test_control_c_during_a_preset_leaves_no_process(host: Host, tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    playbook.write_text("[{hosts: all, gather_facts: false, tasks: [{preset: prefect}]}]")
    run = host.start(playbook, slow("interrupted"))
    run.wait_until(lambda: has_begun(host, "interrupted"), what="the script runs")
    run.interrupt()
    ended = run.wait(timeout=300)
    assert ended.rc != 0, ended.output
    deadline = time.monotonic() + 60
    while (left := run.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"still there 60 s after the end: {left}"
    host.cut(run)

    good = host.start(playbook, slow("interrupted")).wait()
    assert good.rc == 0, good.output
    assert host.last_run() == "COMPLETED"
