"""Prometheus takes the alert rules; a platform that is well raises none of them, and each fault its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "roles/prefect_server/files/alerts.yml"
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]

QUEUE = 'prefect_work_queue_waiting_flow_runs{work_pool="default",work_queue="default"}'
BEAT = 'prefect_worker_heartbeat_timestamp_seconds{work_pool="default",worker="one"}'
ENDED = 'prefect_flow_runs_ended_last_hour{{state="{}"}}'
WELL = {
    "prefect_ready": "1x180",
    'prefect_service_running{service="prefect-server"}': "1x180",
    'prefect_check_healthy{check="background services"}': "1x180",
    'prefect_check_healthy{check="events"}': "1x180",
    'prefect_check_healthy{check="backup"}': "1x180",
    'prefect_work_pool_ready{work_pool="default"}': "1x180",
    BEAT: "0+60x180",
    'prefect_worker_heartbeat_timestamp_seconds{work_pool="default",worker="removed"}': "-9999x180",
    "prefect_oldest_due_flow_run_seconds": "0 20 299 0 20x180",
    QUEUE: "0 90 5 " * 60,
    ENDED.format("completed"): "20x180",
    ENDED.format("failed"): "10x180",
    ENDED.format("crashed"): "0x180",
    "prefect_certificate_expiry_timestamp_seconds": "7776000x180",
}
"""What the exporter says minute by minute, for three hours, in the words of promtool."""

FAULTS = {
    "PrefectUnwatched": {"prefect_ready": "1x9 _x180"},
    "PrefectNotReady": {"prefect_ready": "1x9 0x180"},
    "PrefectServiceDown": {'prefect_service_running{service="prefect-server"}': "1x9 0x180"},
    "PrefectBackgroundServicesStopped": {'prefect_check_healthy{check="background services"}': "1x9 0x180"},
    "PrefectEventsLost": {'prefect_check_healthy{check="events"}': "1x9 0x180"},
    "PrefectWorkPoolNotReady": {'prefect_work_pool_ready{work_pool="default"}': "1x9 0x180"},
    "PrefectWorkerGone": {BEAT: "0+60x100 6000x80"},
    "PrefectFlowRunsLate": {"prefect_oldest_due_flow_run_seconds": "0x9 0+60x180"},
    "PrefectWorkQueueBacklog": {QUEUE: "0x9 1 5 " + "3 " * 180},
    "PrefectFlowRunsFail": {ENDED.format("failed"): "10x9 90x180"},
    "PrefectFlowRunsCrash": {ENDED.format("crashed"): "0x9 1x180"},
    "PrefectBackupOld": {'prefect_check_healthy{check="backup"}': "1x9 0x180"},
    "PrefectBackupNotProven": {'prefect_check_healthy{check="backup proof"}': "1x9 0x180"},
    "PrefectCertificateExpires": {"prefect_certificate_expiry_timestamp_seconds": "1000000x180"},
}


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The machine's promtool, or that of Debian's package, which is not installed for it. It has its own since 13."""
    if found := shutil.which("promtool"):
        return found
    directory = tmp_path_factory.mktemp("prometheus")
    script = "{ apt-get download --quiet promtool || apt-get download --quiet prometheus; } && dpkg -x *.deb ."
    done = subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no promtool, and no Debian package of it: {done.stderr.strip()}")
    return str(directory / "usr/bin/promtool")


def raised(promtool: str, directory: Path, series: dict[str, str]) -> set[str]:
    """Return the alerts that are raised after two hours, by asking promtool to expect none."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "2h", "alertname": name, "exp_alerts": []} for name in ALERTS],
    }
    file = directory / "test.yml"
    file.write_text(json.dumps({"rule_files": [os.path.relpath(RULES, directory)], "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    found = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return found


def test_prometheus_takes_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_all_is_well(promtool: str, tmp_path: Path) -> None:
    assert raised(promtool, tmp_path, WELL) == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_a_fault_raises_its_alert(promtool: str, tmp_path: Path, alert: str) -> None:
    assert raised(promtool, tmp_path, WELL | FAULTS[alert]) == {alert}
