"""Flows as data on real hosts: the example with Celery, from every source, edited, disturbed, and removed.

One host has all of the example, a second one further workers: of Prefect, and of a Celery application of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated import generated
from real_host import IMAGE, NAME, ROOT, Ended, Host, Variables

EXAMPLE = ROOT / "docs" / "examples" / "stocks"
SECOND = "second13"
GROUPS = {f"prefect_{group}": [NAME] for group in ("server", "redis")} | {
    f"prefect_{group}": [NAME, SECOND] for group in ("worker", "flows", "celery", "definitions")
}
DATABASE = "sqlite:////var/lib/prefect/worker/flows.db"
END = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

SHOP = """
import pathlib, socket, time
from celery import Celery

app = Celery("shop")

def where(seconds): time.sleep(seconds); print("this is", socket.gethostname())

@app.task(name="shop.note")
def note(name, seconds):
    file = pathlib.Path("/var/lib/prefect/worker", name)
    again = file.exists()
    with file.open("a") as out: out.write("begun ")
    time.sleep(0 if again else seconds)
    with file.open("a") as out: out.write("done ")
"""


def note(flow: str, seconds: int, **more: Any) -> dict[str, Any]:
    """Return a task of the second host's Celery worker, in a flow of its own, that takes so long the first time."""
    words = {"celery_task_name": "shop.note", "task_args": [flow, seconds], "celery_queue": "second"}
    return {"flow_name": flow, "name": "note", **words, **more}


DISTURBED = [
    {"flow_name": "where", "name": "where", "use": "shop:where", "task_args": [8]},
    note("late", 30, timeout_seconds=5),
    note("killed", 60, timeout_seconds=180, retry_config={"max_retries": 2, "retry_delay_seconds": 1}),
    note("restarted", 10, timeout_seconds=180),
]


def variables() -> Variables:
    """Return the variables of the example's inventory."""
    text = (EXAMPLE / "hosts.yml").read_text().replace("{{ inventory_dir }}", str(EXAMPLE))
    return dict(yaml.safe_load(text)["all"]["vars"])


def definitions() -> dict[str, list[dict[str, Any]]]:
    return dict(yaml.safe_load((EXAMPLE / "definitions.yml").read_text()))


@pytest.fixture(scope="module")
def second() -> Iterator[str]:
    """A bare host beside the first."""
    tool = ROOT / "tests/hosts/host"
    try:
        subprocess.run([tool, "up", SECOND, IMAGE], check=True)
        yield SECOND
    finally:
        subprocess.run([tool, "down", SECOND], check=True)


class Stocks:
    """Two hosts with all of the example, and what a person does with them."""

    def __init__(self, host: Host, flows: Path) -> None:
        self.host, self.flows = host, flows

    def play(self, playbook: str, *arguments: str, **more: Any) -> Ended:
        first = variables() | {"prefect_flows_source": str(self.flows), "prefect_worker_limit": 2}
        first |= {"prefect_server_host": "0.0.0.0", **more}
        second = first | {"prefect_celery_app": "shop", "prefect_celery_queues": ["second"]}
        run = self.host.start(playbook, first, groups=GROUPS, others={SECOND: second}, arguments=arguments)
        return run.wait()

    def apply(self, data: object, directory: Path, *arguments: str) -> Ended:
        """Apply other definitions than the example's."""
        file = directory / "definitions.json"
        file.write_text(json.dumps(data))
        return self.play("playbooks/definitions.yml", *arguments, prefect_definitions_source=str(file))

    def begin(self, flow: str, deployment: str = "example") -> str:
        """Start a run and return its id."""
        found = self.host.api(f"/deployments/name/{flow}/{deployment}")
        return str(self.host.api(f"/deployments/{found['id']}/create_flow_run", {})["id"])

    def ended(self, run: str) -> str:
        """Return the name of the state that a run has come to."""
        until(lambda: self.state(run)["type"] in END, lambda: self.log(run))
        return str(self.state(run)["name"])

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.host.api(f"/flow_runs/{run}")["state"])

    def log(self, run: str) -> str:
        lines = self.host.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in lines)

    def says(self, run: str, text: str) -> None:
        """Wait until the log has a text. The server may hear of it after the run's end."""
        until(lambda: text in self.log(run), lambda: self.log(run))

    def tasks(self, run: str, number: int) -> dict[str, tuple[datetime, datetime]]:
        """Return when each of a run's tasks has begun and ended. The server may hear of them after the run's end."""
        wanted = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}

        def completed() -> list[dict[str, Any]]:
            return list(self.host.api("/task_runs/filter", wanted))

        until(lambda: len(completed()) >= number, lambda: f"{completed()}")
        rows, moment = completed(), datetime.fromisoformat
        assert len(rows) == number, rows
        # Prefect adds a number to the name.
        return {row["name"].rpartition("-")[0]: (moment(row["start_time"]), moment(row["end_time"])) for row in rows}

    def sql(self, *statements: str) -> None:
        """Change the database of definitions as its owner does."""
        script = (
            "import json, sqlite3, sys; c = sqlite3.connect('/var/lib/prefect/worker/flows.db');"
            "[c.execute(line) for line in json.load(sys.stdin)]; c.commit()"
        )
        self.host.sh(f'python3 -c "{script}"', stdin=json.dumps(statements))

    def followed(self) -> list[str]:
        """Return what following the database has changed so far."""
        said = self.host.sh("journalctl -u prefect-definitions-follow --output cat --no-pager")
        return [line for line in said.splitlines() if line[:2] in SIGNS]


SIGNS = {"+ ", "~ ", "- ", "± "}


def until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Poll a condition until it holds; fail with what `otherwise` tells after a long while."""
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(1)


def plan(ended: Ended) -> list[str]:
    """Return the lines of the plan that a run shows."""
    assert ended.rc == 0, ended.output
    # What follows the plan names hosts in the order in which they have ended.
    lines = (line.partition(" TASK [")[0] for line in ended.words.replace("'", "").split(" - "))
    return [line for line in lines if line[:2] in SIGNS]


@pytest.fixture(scope="module")
def stocks(host: Host, second: str, tmp_path_factory: pytest.TempPathFactory) -> Stocks:
    flows = Path(shutil.copytree(EXAMPLE / "flows", tmp_path_factory.mktemp("stocks") / "flows"))
    (flows / "shop.py").write_text(SHOP)
    made = Stocks(host, flows)
    ended = made.play("site.yml")
    assert ended.rc == 0, ended.output
    return made


def test_the_example_runs_to_its_end(stocks: Stocks) -> None:
    """The definition that people have already becomes a finished run, by a Celery worker."""
    deployment = stocks.host.api("/deployments/name/stock_data_pipeline/stock_data_pipeline_daily")
    assert deployment["schedules"][0]["schedule"]["timezone"] == "Asia/Kolkata"
    run = stocks.begin("stock_data_pipeline", "stock_data_pipeline_daily")
    assert stocks.ended(run) == "Completed", stocks.log(run)
    rows = stocks.host.sh("python3 -c \"import sqlite3; print(*sqlite3.connect('/var/lib/prefect/worker/stocks.db')"
                          ".execute('SELECT count(*) FROM prices').fetchone())\"")  # fmt: skip
    assert rows == "22"


def test_celery_comes_from_the_lock(stocks: Stocks) -> None:
    locked = dict(
        line.split(" ")[0].split("==")
        for line in (ROOT / "roles/prefect/files/locks/celery/3.9.1.txt").read_text().splitlines()
        if "==" in line and ";" not in line
    )
    script = f"from importlib.metadata import version; print(*[version(name) for name in {list(locked)}])"
    for name in (NAME, SECOND):
        installed = stocks.host.sh("/opt/prefect/current/bin/python -", stdin=script, name=name)
        assert installed.split() == list(locked.values())


def test_again_changes_nothing(stocks: Stocks) -> None:
    again = stocks.play("playbooks/definitions.yml")
    assert (again.rc, again.changed) == (0, 0), again.output


def test_one_edit_is_one_change_and_one_removal_one(stocks: Stocks, tmp_path: Path) -> None:
    data = definitions()
    data["prefect_deployments"].append({"name": "by_hand", "flow_name": "stock_data_pipeline"})
    assert "+ deployment stock_data_pipeline/by_hand" in stocks.apply(data, tmp_path).words
    data["prefect_deployments"][0]["schedule_config"]["cron_string"] = "0 6 * * *"
    dry = stocks.apply(data, tmp_path, "--check")
    assert [line[:45] for line in plan(dry)] == ["~ deployment stock_data_pipeline/stock_data_p"], dry.output
    assert plan(stocks.apply(data, tmp_path)) == plan(dry)
    del data["prefect_deployments"][1]
    removed = stocks.apply(data, tmp_path)
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
        ("prefect_deployments", 0, {"work_pool_name": "no-pool"}, "there is no work pool no-pool"),
    ],
)
def test_bad_definitions_change_nothing(
    stocks: Stocks, tmp_path: Path, kind: str, number: int, change: dict[str, Any], said: str
) -> None:
    def registered() -> list[tuple[str, str, list[str]]]:
        found = stocks.host.api("/deployments/filter", {})
        return [(item["name"], item["work_pool_name"], [each["id"] for each in item["schedules"]]) for item in found]

    before = registered()
    data = definitions()
    data[kind][number].update(change)
    refused = stocks.apply(data, tmp_path)
    assert refused.rc != 0
    assert said in refused.words
    assert registered() == before


def test_every_source_is_the_same(stocks: Stocks) -> None:
    assert stocks.play("playbooks/definitions.yml").rc == 0
    loaded = stocks.play("playbooks/definitions_load.yml", prefect_definitions_load_into=DATABASE)
    assert loaded.rc == 0, loaded.output
    assert "+ prefect_tasks calculate_indicators_task" in loaded.words
    again = stocks.play("playbooks/definitions_load.yml", prefect_definitions_load_into=DATABASE)
    assert (again.rc, again.changed) == (0, 0), again.output
    assert plan(stocks.play("playbooks/definitions.yml", prefect_definitions_source="", **definitions())) == []
    # The second host has no such file: it is given a copy, as it would have the same address of a server.
    stocks.host.sh("cat > /var/lib/prefect/worker/flows.db", stdin="", name=SECOND)
    copy = stocks.host.sh("base64 /var/lib/prefect/worker/flows.db")
    stocks.host.sh("base64 -d > /var/lib/prefect/worker/flows.db", stdin=copy, name=SECOND)
    # The rows say is_active, which the file leaves open: nothing else differs.
    assert plan(stocks.play("playbooks/definitions.yml", prefect_definitions_source=DATABASE)) == []


def test_a_database_is_applied_as_it_changes(stocks: Stocks) -> None:
    """Without Ansible on the host: a row that is edited is one change, and one that is deleted one removal."""
    follow = {"prefect_definitions_source": DATABASE, "prefect_definitions_follow_seconds": 2}
    started = stocks.play("playbooks/definitions.yml", **follow)
    assert started.rc == 0, started.output
    assert "No module named" in stocks.host.sh("/opt/prefect/current/bin/python -c 'import ansible' 2>&1 || true")
    path = "/deployments/name/stock_data_pipeline/stock_data_pipeline_daily"

    def said() -> str:
        return str(stocks.host.sh("journalctl -n 50 --no-pager -u prefect-definitions-follow"))

    stocks.sql(
        "INSERT INTO prefect_deployments (flow_id, name, is_active)"
        " SELECT id, 'by_hand', 1 FROM prefect_flows WHERE name = 'stock_data_pipeline'"
    )
    until(lambda: len(stocks.followed()) > 0, said)
    stocks.sql(
        'UPDATE prefect_deployments SET schedule_config = \'{"cron_string": "0 7 * * *"}\''
        " WHERE name = 'stock_data_pipeline_daily'"
    )
    until(lambda: stocks.host.api(path)["schedules"][0]["schedule"]["cron"] == "0 7 * * *", said)
    until(lambda: len(stocks.followed()) > 1, said)
    stocks.sql("DELETE FROM prefect_deployments WHERE name = 'by_hand'")
    until(lambda: len(stocks.followed()) > 2, said)
    # Whatever else it does would be said by now.
    stocks.sql("UPDATE prefect_deployments SET schedule_config = '{}'")
    until(lambda: "needs a schedule_config with cron_string" in said(), said)
    assert [line.split(" (")[0] for line in stocks.followed()] == [
        "+ deployment stock_data_pipeline/by_hand",
        "~ deployment stock_data_pipeline/stock_data_pipeline_daily",
        "- deployment stock_data_pipeline/by_hand",
    ]


def test_two_hosts_and_what_happens_to_celery(stocks: Stocks, tmp_path: Path) -> None:
    names = [task["flow_name"] for task in DISTURBED]
    data = {
        "prefect_flows": [{"name": name} for name in names],
        "prefect_tasks": DISTURBED,
        "prefect_deployments": [{"name": "example", "flow_name": name} for name in names],
    }
    assert len(plan(stocks.apply(data, tmp_path))) >= 2 * len(names)

    def noted(flow: str) -> str:
        return str(stocks.host.sh(f"cat /var/lib/prefect/worker/{flow} 2> /dev/null || true", name=SECOND))

    # A worker takes two runs at a time, so that four need both.
    runs = [stocks.begin("where") for _ in range(4)]
    assert [stocks.ended(run) for run in runs] == ["Completed"] * 4
    for run in runs:
        stocks.says(run, "this is ")
    assert {word for run in runs for word in (NAME, SECOND) if f"this is {word}" in stocks.log(run)} == {NAME, SECOND}

    late, killed = stocks.begin("late"), stocks.begin("killed")
    assert stocks.ended(late) == "Failed"
    stocks.says(late, "Revoked")
    stocks.says(killed, "is with Celery worker")
    stocks.host.sh("systemctl kill --signal KILL --kill-whom all prefect-celery@default", name=SECOND)
    assert stocks.ended(killed) == "Completed", stocks.log(killed)
    stocks.says(killed, "is lost")

    restarted = stocks.begin("restarted")
    until(lambda: noted("restarted") == "begun", lambda: stocks.log(restarted))
    stocks.host.sh("systemctl stop prefect-redis; sleep 6; systemctl start prefect-redis")
    assert stocks.ended(restarted) == "Completed", stocks.log(restarted)
    stocks.says(restarted, "is away")
    assert [noted(flow) for flow in ("late", "killed", "restarted")] == ["begun", "begun begun done", "begun done"]


def test_200_flows(stocks: Stocks, tmp_path: Path) -> None:
    """Applied, applied again, and some of each shape run: every task once, after those that it depends on."""
    data = generated(200)
    applied = plan(stocks.apply(data, tmp_path))
    assert len([line for line in applied if line.startswith("+ deployment")]) == 200
    again = stocks.apply(data, tmp_path)
    assert (plan(again), again.changed) == ([], 0)
    tasks: dict[str, dict[str, list[str]]] = {}
    for task in data["prefect_tasks"]:
        tasks.setdefault(task["flow_name"], {})[task["name"]] = task["depends_on"]
    largest = [
        max((f"flow_{number}" for number in range(shape, 200, 4)), key=lambda flow: len(tasks[flow]))
        for shape in range(4)
    ]
    runs = {flow: stocks.begin(flow, "generated") for flow in largest}
    at_once = []
    for flow, run in runs.items():
        assert stocks.ended(run) == "Completed", stocks.log(run)
        spans = stocks.tasks(run, len(tasks[flow]))
        assert spans.keys() == tasks[flow].keys()
        for name, before in tasks[flow].items():
            assert all(spans[other][1] <= spans[name][0] for other in before), (flow, name, before, spans)
        at_once.append(
            max(sum(began <= moment < ended for began, ended in spans.values()) for moment, _ in spans.values())
        )
    diamond, fan, chain, _ = at_once
    assert chain == 1 < min(diamond, fan), at_once


def test_it_goes_without_a_trace(stocks: Stocks) -> None:
    gone = stocks.play("playbooks/absent.yml", prefect_purge=True)
    assert gone.rc == 0, gone.output
    for name in (NAME, SECOND):
        left = stocks.host.sh(
            "systemctl list-units --all --plain --no-legend 'prefect*';"
            " ls -d /var/lib/prefect /opt/prefect 2>&1 || true",
            name=name,
        )
        assert "celery" not in left
        assert "definitions" not in left
