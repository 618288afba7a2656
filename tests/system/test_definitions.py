"""Flows as data on a real host: the example with Celery, from its file and from a database, edited and taken away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_host import NAME, ROOT, Ended, Host, Variables

EXAMPLE = ROOT / "docs" / "examples" / "stocks"
GROUPS = ("prefect_server", "prefect_redis", "prefect_worker", "prefect_flows", "prefect_celery", "prefect_definitions")
DATABASE = "sqlite:////var/lib/prefect/flows.db"


def variables() -> Variables:
    """Return the variables of the example's inventory."""
    text = (EXAMPLE / "hosts.yml").read_text().replace("{{ inventory_dir }}", str(EXAMPLE))
    return dict(yaml.safe_load(text)["all"]["vars"])


def definitions() -> dict[str, list[dict[str, Any]]]:
    return dict(yaml.safe_load((EXAMPLE / "definitions.yml").read_text()))


@pytest.fixture(scope="module")
def stocks(host: Host) -> Host:
    """A host with all of the example."""
    ended = play(host, "site.yml")
    assert ended.rc == 0, ended.output
    return host


def play(host: Host, playbook: str, *arguments: str, **more: Any) -> Ended:
    groups = {group: [NAME] for group in GROUPS}
    return host.start(playbook, variables() | more, groups=groups, arguments=arguments).wait(timeout=900)


def apply(host: Host, data: object, tmp_path: Path, *arguments: str) -> Ended:
    """Apply other definitions than the example's."""
    file = tmp_path / "definitions.yml"
    file.write_text(yaml.safe_dump(data))
    return play(host, "playbooks/definitions.yml", *arguments, prefect_definitions_source=str(file))


def plan(ended: Ended) -> list[str]:
    """Return the lines of the plan that a run shows."""
    return [line for line in ended.words.replace("'", "").split(" - ") if line[:2] in ("+ ", "~ ", "- ")]


def test_the_example_runs_to_its_end(stocks: Host) -> None:
    """The definition that people have already becomes a finished run, by a Celery worker."""
    deployment = stocks.api("/deployments/name/stock_data_pipeline/stock_data_pipeline_daily")
    assert deployment["schedules"][0]["schedule"]["timezone"] == "Asia/Kolkata"
    run = stocks.api(f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
    deadline = time.monotonic() + 180
    while (state := stocks.api(f"/flow_runs/{run}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert state["type"] == "COMPLETED", state["message"]
    rows = stocks.sh("python3 -c \"import sqlite3; print(*sqlite3.connect('/var/lib/prefect/stocks.db')"
                     ".execute('SELECT count(*) FROM prices').fetchone())\"")  # fmt: skip
    assert rows == "22"


def test_again_changes_nothing(stocks: Host) -> None:
    again = play(stocks, "playbooks/definitions.yml")
    assert (again.rc, again.changed) == (0, 0), again.output


def test_one_edit_is_one_change_and_one_removal_one(stocks: Host, tmp_path: Path) -> None:
    data = definitions()
    data["prefect_deployments"].append({"name": "by_hand", "flow_name": "stock_data_pipeline"})
    assert "+ deployment stock_data_pipeline/by_hand" in apply(stocks, data, tmp_path).words
    data["prefect_deployments"][0]["schedule_config"]["cron_string"] = "0 6 * * *"
    dry = apply(stocks, data, tmp_path, "--check")
    assert [line[:45] for line in plan(dry)] == ["~ deployment stock_data_pipeline/stock_data_p"], dry.output
    assert plan(apply(stocks, data, tmp_path)) == plan(dry)
    del data["prefect_deployments"][1]
    removed = apply(stocks, data, tmp_path)
    assert "- deployment stock_data_pipeline/by_hand" in removed.words
    assert "~ deployment" not in removed.words


@pytest.mark.parametrize(
    ("kind", "number", "change", "said"),
    [
        (
            "prefect_tasks",
            0,
            {"celery_task_name": "data.download_historicl"},
            "is served by none of the Celery workers",
        ),
        ("prefect_tasks", 1, {"depends_on": ["calculate_indicators_task"]}, "depends on itself"),
        ("prefect_tasks", 1, {"task_kwargs": {"key": "${NOT_SET}"}}, "${NOT_SET} is not set on this host"),
        ("prefect_deployments", 0, {"work_pool_name": "none"}, "none"),
        ("prefect_deployments", 0, {"work_queue_name": "no-queue"}, "no-queue"),
    ],
)
def test_bad_definitions_change_nothing(
    stocks: Host, tmp_path: Path, kind: str, number: int, change: dict[str, Any], said: str
) -> None:
    def registered() -> list[tuple[str, str, list[str]]]:
        found = stocks.api("/deployments/filter", {})
        return [(item["name"], item["work_pool_name"], [each["id"] for each in item["schedules"]]) for item in found]

    before = registered()
    data = definitions()
    data[kind][number].update(change)
    refused = apply(stocks, data, tmp_path)
    assert refused.rc != 0
    assert said in refused.words
    assert registered() == before


def test_a_database_is_a_source_like_any(stocks: Host) -> None:
    assert play(stocks, "playbooks/definitions.yml").rc == 0
    loaded = play(stocks, "playbooks/definitions_load.yml", prefect_definitions_load_into=DATABASE)
    assert loaded.rc == 0, loaded.output
    assert "+ prefect_tasks calculate_indicators_task" in loaded.words
    again = play(stocks, "playbooks/definitions_load.yml", prefect_definitions_load_into=DATABASE)
    assert (again.rc, again.changed) == (0, 0), again.output
    # The rows say is_active, which the file leaves open: nothing else differs.
    applied = play(stocks, "playbooks/definitions.yml", prefect_definitions_source=DATABASE)
    assert applied.rc == 0, applied.output
    assert plan(applied) == []


def test_a_database_is_applied_as_it_changes(stocks: Host) -> None:
    follow = {"prefect_definitions_source": DATABASE, "prefect_definitions_follow_seconds": 2}
    packages = [*variables()["prefect_packages"], "ansible-core>=2.19,<2.20"]
    started = play(stocks, "site.yml", prefect_packages=packages, **follow)
    assert started.rc == 0, started.output
    row = 'UPDATE prefect_deployments SET schedule_config = \'{"cron_string": "0 7 * * *"}\''
    stocks.sh("python3 -c 'import sqlite3, sys; c = sqlite3.connect(\"/var/lib/prefect/flows.db\");"
              " c.execute(sys.stdin.read()); c.commit()'", stdin=row)  # fmt: skip
    deadline = time.monotonic() + 90
    path = "/deployments/name/stock_data_pipeline/stock_data_pipeline_daily"
    while stocks.api(path)["schedules"][0]["schedule"]["cron"] != "0 7 * * *":
        assert time.monotonic() < deadline, stocks.sh("journalctl -n 50 --no-pager -u prefect-definitions-follow")
        time.sleep(1)


def test_it_goes_without_a_trace(stocks: Host) -> None:
    gone = play(stocks, "playbooks/absent.yml", prefect_purge=True)
    assert gone.rc == 0, gone.output
    left = stocks.sh(
        "systemctl list-units --all --plain --no-legend 'prefect*'; ls -d /var/lib/prefect /opt/prefect 2>&1 || true"
    )
    assert "celery" not in left
    assert "definitions" not in left
