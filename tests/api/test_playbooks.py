"""The inside of Prefect from an inventory: the playbooks, on a real server, with the example that the pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import AUTH, RELEASES, PrefectServer

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "docs/examples/inside"
SECONDS = 300

Play = Callable[..., tuple[int, str]]

# What differs between releases is below the playbooks, and tried there.
pytestmark = pytest.mark.parametrize("server", RELEASES[-1:], ids=str, indirect=True)


@contextmanager
def webhook() -> Iterator[tuple[str, list[str]]]:
    """Provide the address of a webhook, and what it has been told."""
    told: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", told
        finally:
            server.shutdown()


@pytest.fixture
def play(server: PrefectServer, tmp_path: Path) -> Iterator[Play]:
    """Runs a playbook on the example, with our server in the place of its own, and returns exit code and output."""
    reached = {"prefect_api_url": server.url, "prefect_api_auth": AUTH, "prefect_api_csrf": True}
    reached["prefect_resources_owner"] = "playbooks"
    (tmp_path / "zz.yml").write_text(yaml.safe_dump({"all": {"hosts": {"dev": reached, "prod": reached}}}))

    def run(playbook: str, *arguments: str, host: str = "dev") -> tuple[int, str]:
        command: list[object] = [
            Path(sys.executable).with_name("ansible-playbook"),
            ROOT / "playbooks" / f"{playbook}.yml",
        ]
        command += ["-i", INVENTORY / "hosts.yml", "-i", tmp_path / "zz.yml", "--limit", host, *arguments]
        ended = subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path / "home")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return ended.returncode, ended.stdout

    yield run
    assert run("apply", "-e", "prefect_resources_state=absent")[0] == 0


def plan_of(output: str) -> list[str]:
    """Return the lines of the plan that a playbook shows."""
    return re.findall(r"^ +([+~±=-] .+)$", output, re.MULTILINE)


def changed(output: str) -> bool:
    return "changed=0" not in output


def test_plan_apply_drift_and_back(server: PrefectServer, play: Play, tmp_path: Path) -> None:
    with server.api() as api, webhook() as (url, told):
        hook = ("-e", f"team_webhook={url}")
        rc, planned = play("plan", *hook)
        assert rc == 0, planned
        assert "+ deployment stock/daily" in "\n".join(plan_of(planned))
        assert api.find("/deployments/name/stock/daily") is None

        rc, applied = play("apply", *hook)
        assert (rc, plan_of(applied)) == (0, plan_of(planned)), applied
        rc, again = play("apply", *hook)
        assert (rc, changed(again)) == (0, False), again

        daily = api.get("/deployments/name/stock/daily")
        schedule = daily["schedules"][0]
        by_hand = {"schedule": {"cron": "30 6 * * *", "timezone": "Europe/Berlin"}}
        api.call("PATCH", f"/deployments/{daily['id']}/schedules/{schedule['id']}", by_hand)
        expected = [
            "~ deployment stock/daily (schedules: cron 30 6 * * * Europe/Berlin -> cron 0 6 * * * Europe/Berlin)"
        ]
        rc, drift = play("plan", *hook)
        assert (rc, plan_of(drift)) == (0, expected), drift
        rc, back = play("apply", *hook)
        assert (rc, plan_of(back)) == (0, expected), back
        assert api.get("/deployments/name/stock/daily")["schedules"][0]["schedule"]["cron"] == "0 6 * * *"
        rc, again = play("apply", *hook)
        assert (rc, changed(again)) == (0, False), again

        flow = api.post("/flows/", {"name": "stock"})
        run = api.post("/flow_runs/", {"flow_id": flow["id"], "name": "this-one"})
        api.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "FAILED"}, "force": True})
        deadline = time.monotonic() + SECONDS
        while not any("stock this-one Failed" in text for text in told):
            assert time.monotonic() < deadline, "no notification of the failure arrived"
            time.sleep(0.5)

        export = ("export", "-e", f"prefect_resources_export_file={tmp_path}/exported.yml")
        rc, exported = play(*export)
        assert (rc, url in (tmp_path / "exported.yml").read_text()) == (0, False), exported
        rc, exported = play(*export, "-e", "prefect_resources_export_secrets=clear")
        assert (rc, url in (tmp_path / "exported.yml").read_text()) == (0, True), exported
        rc, same = play("apply", "-e", f"@{tmp_path}/exported.yml", "-e", "prefect_resources_prune=false")
        assert (rc, changed(same)) == (0, False), same


def test_levels_pauses_and_runs(server: PrefectServer, play: Play) -> None:
    with server.api() as api:
        rc, applied = play("apply", host="prod")
        assert rc == 0, applied
        assert api.get("/work_pools/default")["concurrency_limit"] == 50
        assert api.get("/deployments/name/stock/daily")["schedules"][0]["schedule"]["cron"] == "0 5 * * *"
        assert api.find("/deployments/name/stock/urgent") is None

        for name, path, field in (
            ("stock/daily", "/deployments/name/stock/daily", "paused"),
            ("default", "/work_pools/default", "is_paused"),
        ):
            assert play("pause", "-e", f"prefect_resources_pause={name}", host="prod")[0] == 0
            assert api.get(path)[field] is True
            rc, kept = play("apply", host="prod")
            assert (rc, changed(kept)) == (0, False), kept
            assert play("resume", "-e", f"prefect_resources_resume={name}", host="prod")[0] == 0
            assert api.get(path)[field] is False
        rc, refused = play("pause", "-e", "prefect_resources_pause=stock/dayly", host="prod")
        assert (rc, "There is no stock/dayly, but" in refused) == (2, True), refused

        daily = api.get("/deployments/name/stock/daily")
        waiting = api.post(f"/deployments/{daily['id']}/create_flow_run", {})
        until_when = {"pause_timeout": "2099-01-01T00:00:00Z"}
        for state in ({"type": "RUNNING"}, {"type": "PAUSED", "name": "Paused", "state_details": until_when}):
            api.post(f"/flow_runs/{waiting['id']}/set_state", {"state": state, "force": True})
        rc, resumed = play("resume", "-e", f"prefect_resources_resume={waiting['id']}", host="prod")
        assert (rc, api.get(f"/flow_runs/{waiting['id']}")["state_type"]) == (0, "RUNNING"), resumed

        # No worker is online to run it.
        asked = ("-e", "prefect_resources_run=stock/daily", "-e", "prefect_resources_run_timeout=2")
        rc, waited = play("run", *asked, host="prod")
        assert (rc, "no worker is online in the work pool default" in " ".join(waited.split())) == (2, True), waited
