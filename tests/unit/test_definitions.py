"""Definitions are read in one way, wherever they come from, and everything that is wrong is said at once."""

from __future__ import annotations

import json
import os
import runpy
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated import generated
from prefect_definitions import directory, sources
from prefect_definitions.records import DefinitionError
from prefect_definitions.resources import resources, unset
from prefect_definitions.schema import Definitions, attribute, find_cycle, needs, ordered, rows_of, without_inactive
from prefect_definitions.values import fill, own_parameters, references, signature

Data = dict[str, list[dict[str, Any]]]


def flow(name: str = "etl", **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


def task(name: str = "load", **more: Any) -> dict[str, Any]:
    way = {} if {"use", "command", "celery_task_name"} & set(more) else {"use": "shop.tasks:load"}
    return {"name": name, "flow_name": "etl", **way, **more}


def deployment(**more: Any) -> dict[str, Any]:
    return {"name": "daily", "flow_name": "etl", **more}


def read(data: Data) -> Definitions:
    return Definitions.of(rows_of(data))


def problems(data: Data) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        read(data)
    return caught.value.problems


def with_tasks(*tasks: dict[str, Any]) -> Data:
    return {"prefect_flows": [flow()], "prefect_tasks": list(tasks)}


def with_schedule(**words: Any) -> Data:
    return with_tasks(task()) | {"prefect_deployments": [deployment(**words)]}


ISSUE: Data = {
    "prefect_work_pools": [{"name": "default-process-pool", "pool_type": "process", "concurrency_limit": 10}],
    "prefect_flows": [
        {
            "name": "stock_data_pipeline",
            "description": "Stocks",
            "flow_type": "data_pipeline",
            "tags": ["stocks", "data"],
            "is_active": True,
        }
    ],
    "prefect_tasks": [
        {
            "name": "download_stock_data_task",
            "flow_name": "stock_data_pipeline",
            "celery_task_name": "data.download_historical",
            "task_args": [],
            "task_kwargs": {"ticker": "AAPL", "period": "1mo"},
            "timeout_seconds": 300,
            "retry_config": {"max_retries": 3, "retry_delay_seconds": 30},
        },
        {
            "name": "calculate_indicators_task",
            "flow_name": "stock_data_pipeline",
            "celery_task_name": "indicators.calculate_rsi",
            "depends_on": ["download_stock_data_task"],
        },
    ],
    "prefect_deployments": [
        {
            "name": "stock_data_pipeline_daily",
            "flow_name": "stock_data_pipeline",
            "work_pool_name": "default-process-pool",
            "work_queue_name": "default",
            "schedule_type": "cron",
            "schedule_config": {"cron_string": "30 15 * * 1-5", "timezone": "Asia/Kolkata"},
        }
    ],
    "prefect_runners": [
        {
            "id": "ticket_processor",
            "use": "tickets.pipes:ProcessTickets",
            "with": {"queue": "my-queue"},
            "interval_seconds": 300,
            "retries": 2,
            "retry_delay_seconds": 30,
        },
        {"id": "by_hand", "command": "true", "interval_seconds": 0},
    ],
}


def test_existing_definitions_become_resources() -> None:
    made = resources(read(ISSUE), directory=Path("/srv/definitions"), work_pool="default")
    assert made["prefect_work_pools"] == [{"name": "default-process-pool", "type": "process", "concurrency_limit": 10}]
    assert made["prefect_flows"][0] == {"name": "stock_data_pipeline", "tags": ["stocks", "data", "data_pipeline"]}
    daily, tickets, by_hand = made["prefect_deployments"]
    assert daily == {
        "flow": "stock_data_pipeline",
        "name": "stock_data_pipeline_daily",
        "description": "Stocks",
        "tags": [],
        "entrypoint": "definitions.py:stock_data_pipeline",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "/srv/definitions"}}],
        "work_pool": "default-process-pool",
        "work_queue": "default",
        "parameters": {},
        "parameter_openapi_schema": {"title": "Parameters", "type": "object", "properties": {}, "required": []},
        "schedules": [{"cron": "30 15 * * 1-5", "timezone": "Asia/Kolkata"}],
    }
    assert tickets["schedules"] == [{"interval": 300, "timezone": "UTC"}]
    assert tickets["work_pool"] == "default"
    assert by_hand["schedules"] == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param({"prefect_flow": []}, "there is no prefect_flow; did you mean prefect_flows?", id="key"),
        pytest.param({"prefect_flows": {}}, "prefect_flows has to be a list of mappings", id="list"),
        pytest.param(
            with_tasks(task(retires=1)), "prefect_tasks[0] (load): there is no retires", id="misspelt, near nothing"
        ),
        pytest.param(
            with_tasks(task(task_kwarg={})), "there is no task_kwarg; did you mean task_kwargs?", id="misspelt"
        ),
        pytest.param(with_tasks(task(retry_config={"retries": 1})), "retry_config: there is no retries", id="inside"),
        pytest.param(with_tasks({"name": "load"}), "flow_name is missing", id="missing"),
        pytest.param(with_tasks(task(timeout_seconds="soon")), "'soon', but has to be a number", id="number"),
        pytest.param(with_tasks(task(tags="a")), "tags is 'a', but has to be a list", id="tags"),
        pytest.param(with_tasks(task(depends_on=[1])), "depends_on[0] is 1, but has to be a text", id="text"),
        pytest.param(with_tasks(task(timeout_seconds=0)), "timeout_seconds is 0, but has to be more than 0", id="0"),
        pytest.param(with_tasks(task(retry_config={"max_retries": -1})), "can be less than 0", id="retries"),
        pytest.param(with_tasks(task(use="a:b", command="c")), "has use and command; it needs one", id="two ways"),
        pytest.param(with_tasks({"name": "load", "flow_name": "etl"}), "says not what to do", id="no way"),
        pytest.param(with_tasks(task(use="shop.tasks.load")), "has to be package.module:callable", id="use"),
        pytest.param(with_tasks(task(command="a", task_kwargs={"b": 1})), "a command takes task_args", id="kwargs"),
        pytest.param(with_tasks(task(), task()), "prefect_tasks: 2 have the name 'load' of flow 'etl'", id="tasks"),
        pytest.param({"prefect_flows": [flow(), flow()]}, "prefect_flows: 2 have the name 'etl'", id="flows"),
        pytest.param(
            {"prefect_work_pools": [{"name": "p"}, {"name": "p"}]},
            "prefect_work_pools: 2 have the name 'p'",
            id="pools",
        ),
        pytest.param(
            with_tasks(task()) | {"prefect_deployments": [deployment(), deployment()]},
            "prefect_deployments: 2 have the name 'daily' of flow 'etl'",
            id="deployments",
        ),
        pytest.param(
            with_tasks(task()) | {"prefect_runners": [{"id": "etl", "use": "a:b"}]},
            "prefect_flows: 2 have the name 'etl'",
            id="runner and flow",
        ),
        pytest.param(
            {"prefect_flows": [flow("a b"), flow("a-b")]}, "a b and a-b differ in punctuation only", id="alike"
        ),
        pytest.param({"prefect_flows": [flow()]}, "prefect_flows (etl): has no task", id="empty flow"),
        pytest.param(
            {"prefect_flows": [flow()], "prefect_tasks": [task(), task("x", flow_name="elt")]},
            "prefect_tasks[1] (x): flow_name names 'elt', which is not defined; did you mean etl?",
            id="unknown flow of a task",
        ),
        pytest.param(
            with_tasks(task()) | {"prefect_deployments": [deployment(flow_name="etll")]},
            "flow_name names 'etll', which is not defined; did you mean etl?",
            id="unknown flow of a deployment",
        ),
        pytest.param(
            with_tasks(task(), task("b", depends_on=["laod"])),
            "depends_on names 'laod', which is not defined; did you mean load?",
            id="unknown task",
        ),
        pytest.param(with_tasks(task(depends_on=["load"])), "prefect_tasks[0] (load): depends on itself", id="itself"),
        pytest.param(
            with_tasks(task("a"), task("b", depends_on=["a", "a"])), "depends_on names 'a' 2 times", id="twice"
        ),
        pytest.param(
            with_tasks(task("a", depends_on=["c"]), task("b", depends_on=["a"]), task("c", depends_on=["b"])),
            "prefect_flows (etl): its tasks wait for each other: a -> c -> b -> a",
            id="cycle",
        ),
        pytest.param(
            with_tasks(task("a", task_args=[{"result_of": "b"}]), task("b", depends_on=["a"])),
            "its tasks wait for each other: a -> b -> a",
            id="cycle of results",
        ),
        pytest.param(with_tasks(task(task_args=[{"result_of": "x"}])), "result_of names 'x', which is", id="result"),
        pytest.param(with_tasks(task(task_args=[{"result_of": "load"}])), "result_of names the task itself", id="own"),
        pytest.param(
            with_tasks(task("a", is_active=False), task("b", task_args=[{"result_of": "a"}])),
            "prefect_tasks (b): result_of names 'a', which is not active",
            id="inactive result",
        ),
        pytest.param(
            with_tasks(task(command="echo it's")),
            'command is "echo it\'s", which cannot be split into words',
            id="quote",
        ),
        pytest.param(with_tasks(task(command="   ")), "command is '   ', which names no program", id="no word"),
        pytest.param(with_tasks(task(command=["", "x"])), "which names no program", id="no program"),
        pytest.param(with_tasks(task(command="echo a\0b")), "a null character", id="null"),
        pytest.param(with_tasks(task(command="echo ${X:a b}")), "torn at a space: '${X:a' has to be", id="torn"),
        pytest.param(
            {"prefect_runners": [{"id": "a", "command": "echo it's"}]}, "(a): command is", id="command of a runner"
        ),
        pytest.param(with_tasks(task(task_args=["${a b}"])), "'${a b}' has to be ${NAME} or", id="bad name"),
        pytest.param(
            with_schedule(schedule_type="cron"),
            "schedule_type cron needs a schedule_config with cron_string",
            id="bare",
        ),
        pytest.param(
            with_schedule(schedule_type="interval", schedule_config={"cron_string": "* * * * *"}),
            "schedule_config: interval_seconds is missing",
            id="config of another",
        ),
        pytest.param(
            with_schedule(schedule_config={"cron_string": "* * * * *"}), "needs a schedule_type: cron", id="no type"
        ),
        pytest.param(with_schedule(schedule_type="corn", schedule_config={"x": 1}), "did you mean cron?", id="type"),
        pytest.param(
            with_schedule(
                schedule_type="cron", schedule_config={"cron_string": "0 6 * * *", "timezone": "Asia/Kolkatta"}
            ),
            "'Asia/Kolkatta' is no time zone; did you mean Asia/Kolkata?",
            id="time zone",
        ),
        pytest.param(
            with_schedule(schedule_type="cron", schedule_config={"cron_string": "6 o'clock"}),
            "have 5 fields",
            id="cron",
        ),
        pytest.param(
            with_schedule(schedule_type="cron", schedule_config={"cron_string": "0 6 * * $"}), "no cron", id="cron sign"
        ),
        pytest.param(
            with_schedule(schedule_type="rrule", schedule_config={"rrule": "daily"}), "say how often: FREQ=", id="rrule"
        ),
        pytest.param(
            with_schedule(schedule_type="interval", schedule_config={"interval_seconds": -1}), "more than 0", id="ever"
        ),
        pytest.param(
            with_schedule(schedule_type="interval", schedule_config={"interval_seconds": 60, "anchor_date": "noon"}),
            "a time in ISO 8601",
            id="anchor",
        ),
        pytest.param(
            {"prefect_runners": [{"id": "a", "use": "a:b", "interval_seconds": -5}]}, "more than 0", id="back"
        ),
        pytest.param(
            {"prefect_runners": [{"id": "a"}]}, "prefect_runners[0] (a): says not what to do", id="idle runner"
        ),
        pytest.param(
            {"prefect_runners": [{"id": "a", "command": "x", "with": {"b": 1}}]}, "not with", id="runner with"
        ),
    ],
)
def test_bad_definitions_are_named(data: Data, said: str) -> None:
    found = problems(data)
    assert len([problem for problem in found if said in problem]) == 1, found


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(
        {
            "prefect_flows": [flow(), flow("empty")],
            "prefect_tasks": [task("a", depends_on=["a", "z"]), task("b", flow_name="x"), {"name": "c"}],
            "prefect_deployments": [deployment(schedule_type="cron"), deployment(name="other", colour="red")],
        }
    )
    assert len(found) == 7, found


def test_order_is_that_of_the_needs() -> None:
    data = with_tasks(
        task("d", depends_on=["b", "c"]),
        task("c", task_args=[{"result_of": "a"}]),
        task("b", depends_on=["a"]),
        task("a"),
    )
    assert [item.name for item in read(data).tasks_of("etl")] == ["a", "c", "b", "d"]


def test_an_inactive_task_is_stepped_over() -> None:
    data = with_tasks(task("a"), task("b", depends_on=["a"], is_active=0), task("c", depends_on=["b"]))
    assert [(item.name, item.depends_on) for item in read(data).tasks_of("etl")] == [("a", []), ("c", ["a"])]


@pytest.mark.parametrize(("inactive", "flows", "states"), [("paused", 2, [True, False]), ("absent", 1, [False])])
def test_what_is_inactive_is_paused_or_removed(inactive: Any, flows: int, states: list[bool]) -> None:
    data = {
        "prefect_flows": [flow(is_active=False), flow("b")],
        "prefect_tasks": [task(), task(flow_name="b")],
        "prefect_deployments": [deployment(is_active=True), deployment(flow_name="b", is_active=True)],
    }
    made = resources(read(data), directory=Path("/srv"), work_pool="p", inactive=inactive)
    assert len(made["prefect_flows"]) == flows
    assert [item["paused"] for item in made["prefect_deployments"]] == states


def test_values_are_filled_in_where_they_are_used() -> None:
    value = [
        {"a": "${WHO}-${X:y:z}", "b": {"result_of": "t"}},
        {"parameter": "p"},
        "$${WHO}",
        5,
        {"result_of": "t", "c": 1},
    ]
    filled = fill(value, environment={"WHO": "me"}, results={"t": [1]}, parameters={"p": "${WHO}"})
    assert filled == [{"a": "me-y:z", "b": [1]}, "${WHO}", "${WHO}", 5, {"result_of": "t", "c": 1}]
    found = references(value)
    assert (found.results, found.parameters, found.names, found.problems) == (("t",), ("p",), ("WHO",), ())


@pytest.mark.parametrize("given", ["${BROKER}", "${UNSET}", ["${BROKER}"], {"a": {"b": "${BROKER}"}}, "$${BROKER}"])
def test_what_comes_in_does_not_reach_the_environment(given: Any) -> None:
    environment = {"BROKER": "redis://:pw@host"}
    described = {"q": ["${BROKER}", given], "p": ["${BROKER}/0"]}
    parameters = own_parameters({"p": given}, described, environment=environment)
    filled = fill({"a": [{"parameter": "p"}]}, environment=environment, results={}, parameters=parameters)
    assert filled == {"a": [given]}
    filled = fill([{"result_of": "t"}], environment=environment, results={"t": given}, parameters={})
    assert filled == [given]


def test_a_parameter_that_a_definition_has_is_filled_in() -> None:
    described = {"p": ["${WHO}/0", {"a": ["${WHO}", "${X:y}", "$${WHO}"]}]}
    for given, filled in zip(described["p"], ["me/0", {"a": ["me", "y", "${WHO}"]}], strict=True):
        assert own_parameters({"p": given}, described, environment={"WHO": "me"}) == {"p": filled}


def test_an_unset_name_is_named() -> None:
    with pytest.raises(DefinitionError, match="WHO is not set on this host"):
        fill("${WHO}", environment={}, results={}, parameters={})
    data = with_tasks(
        task(task_kwargs={"key": "${API_KEY}", "other": "${OTHER:}"}), task("off", is_active=False, task_args=["${NO}"])
    )
    (problem,) = unset(read(data), {})
    assert "prefect_tasks (load of etl): ${API_KEY} is not set on this host and has no default" in problem
    assert unset(read(data), {"API_KEY": "x"}) == []


def test_nothing_that_a_host_fills_in_is_registered() -> None:
    data = with_tasks(task(task_kwargs={"key": "${API_KEY:hidden}"})) | {
        "prefect_deployments": [deployment(parameters={"day": "${DAY:today}"})]
    }
    text = json.dumps(resources(read(data), directory=Path("/srv"), work_pool="p"))
    assert "hidden" not in text
    assert "${DAY:today}" in text


def test_files_of_a_directory_are_one_source(tmp_path: Path) -> None:
    (tmp_path / "flows.yml").write_text("prefect_flows: [{name: etl}]\n")
    (tmp_path / "tasks.json").write_text(json.dumps({"prefect_tasks": [task()]}))
    rows = sources.read(str(tmp_path))
    assert sources.data_of(rows) == with_tasks(task())
    assert rows["prefect_tasks"][0].where == "tasks.json: prefect_tasks[0] (load)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prefect_flows: [", "flows.yml: while parsing"),
        ("- a", "flows.yml: ['a'] is no mapping of prefect_work_pools, prefect_flows"),
        ("prefect_flow: []", "flows.yml: there is no prefect_flow; did you mean prefect_flows?"),
        ("", "flows.yml is empty; remove it, or write prefect_flows: []"),
        ("# Not written yet\n", "flows.yml is empty"),
        ("{}", "flows.yml is empty"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "flows.yml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        sources.read(str(tmp_path / "flows.yml"))
    assert said in str(caught.value)
    with pytest.raises(DefinitionError, match="there is no"):
        sources.read(str(tmp_path / "missing.yml"))


def test_a_source_without_definitions_says_so(tmp_path: Path) -> None:
    """A share that is not mounted is an empty directory, and a file that is being written is empty for a moment."""
    with pytest.raises(DefinitionError, match="has no file of definitions"):
        sources.read(str(tmp_path))
    (tmp_path / "flows.yml").write_text(yaml.safe_dump(ISSUE))
    (tmp_path / "more.json").write_text("{}")
    with pytest.raises(DefinitionError, match=r"more\.json is empty"):
        sources.read(str(tmp_path))
    (tmp_path / "more.json").write_text('{"prefect_flows": []}')
    assert len(sources.read(str(tmp_path))["prefect_flows"]) == len(ISSUE["prefect_flows"])
    (tmp_path / "flows.yml").unlink()
    assert not any(sources.read(str(tmp_path)).values())


def test_a_directory_holds_definitions(tmp_path: Path) -> None:
    assert directory.write(tmp_path, ISSUE, paths=["/srv/flows"])
    assert not directory.write(tmp_path, ISSUE, paths=["/srv/flows"])
    assert directory.definitions_in(tmp_path) == read(ISSUE)
    one = directory.definitions_in(tmp_path, flow="ticket_processor")
    assert [item.name for item in one.flows] == ["ticket_processor"]
    assert [item.use for item in one.tasks] == ["tickets.pipes:ProcessTickets"]


def test_the_environment_of_a_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('# a comment\nA="a \\"quoted\\" \\$ word"\nexport B=bare words\nC=\n')
    assert directory.environment_of(tmp_path) == {"A": 'a "quoted" $ word', "B": "bare words", "C": ""}


SHIPPED = Path(__file__).resolve().parents[2] / "roles/prefect_definitions/files/definitions"


def test_the_module_of_the_flows_has_no_name_that_a_flow_may_have(tmp_path: Path) -> None:
    module = runpy.run_path(str(SHIPPED / directory.MODULE))
    assert [name for name in module if not name.startswith("__")] == []
    with pytest.raises(AttributeError):
        module["__getattr__"]("__path__")
    names = ["annotations", "Path", "sys", "TYPE_CHECKING", "__x", "__getattr__", "__path__", "class", "print", "2nd"]
    names += ["Etl", "etl", "\u00e9", "e\u0301", "\ufb01", "fi", "--a", "__a", "\U0001f680\U0001f680", "x" * 255]
    data = {
        "prefect_flows": [flow(name) for name in names],
        "prefect_tasks": [task(flow_name=name) for name in names],
    }
    directory.write(tmp_path, data, paths=[])
    assert len({attribute(name) for name in names}) == len(names)
    for name in names:
        assert not attribute(name).startswith("__")
        assert [found.name for found in directory.definitions_in(tmp_path, flow=attribute(name)).flows] == [name]


BAD_NAMES = {
    "a/b": "no / in it",
    "50%<>&": "no % & < > in it",
    "": "is empty",
    " ": "is empty",
    "a\nb": "cannot have line breaks",
    "a\0": "cannot have line breaks",
    "\ud800": "cannot have line breaks",
    "x" * 256: "has 256 characters, but can have 255",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["flow", "deployment", "pool", "queue", "runner", "pool of a deployment"])
def test_names_that_prefect_does_not_take_are_refused(kind: str, name: str) -> None:
    deployed = with_tasks(task())
    data: Data = {
        "flow": {"prefect_flows": [flow(name)], "prefect_tasks": [task(flow_name=name)]},
        "deployment": {**deployed, "prefect_deployments": [deployment(name=name)]},
        "pool": {"prefect_work_pools": [{"name": name}]},
        "queue": {**deployed, "prefect_deployments": [deployment(work_queue_name=name or " ")]},
        "runner": {"prefect_runners": [{"id": name, "command": "true"}]},
        "pool of a deployment": {**deployed, "prefect_deployments": [deployment(work_pool_name=name or " ")]},
    }[kind]
    found = problems(data)
    assert len(found) == 1 and BAD_NAMES[name] in found[0], found


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if not set("/%") & set(name)])
def test_names_of_tasks_and_parameters_are_texts(name: str) -> None:
    assert any(BAD_NAMES[name] in problem for problem in problems(with_tasks(task(name))))
    assert any(BAD_NAMES[name] in problem for problem in problems(with_tasks(task(task_args=[{"parameter": name}]))))


@pytest.mark.parametrize("name", ["_day", "__x", "self", "cls", "return_state", "wait_for"])
def test_parameters_that_prefect_has_for_itself_are_refused(name: str) -> None:
    (found,) = problems(with_tasks(task(task_args=[{"parameter": name}])))
    assert f"parameter {name!r}" in found and "rename it" in found
    (found,) = problems(with_schedule(parameters={name: 1}))
    assert f"parameter {name!r}" in found


def test_keys_are_texts() -> None:
    (found,) = problems(with_schedule(parameters={2: 1}))
    assert "parameters has the key 2, but keys have to be texts; put it in quotes" in found
    assert "task_kwargs has the key True" in problems(with_tasks(task(task_kwargs={True: 1})))[0]


def test_a_parameter_need_not_be_an_identifier() -> None:
    names = ["start-date", "class", "2nd", "a b", "given", "name", "\U0001f680", "None"]
    read(with_schedule(parameters=dict.fromkeys(names, 1)))
    bound = signature(names, {"2nd": 2}).bind(**{"start-date": 1, "class": 3})
    bound.apply_defaults()
    assert bound.arguments == dict.fromkeys(names) | {"start-date": 1, "class": 3, "2nd": 2}


def test_only_what_differs_is_built_again() -> None:
    before = {
        "prefect_flows": [flow("a"), flow("b"), flow("c")],
        "prefect_tasks": [task(flow_name=name) for name in "abc"],
    }
    after = {
        "prefect_flows": [flow("a"), flow("b"), flow("c"), flow("d")],
        "prefect_tasks": [task(flow_name=name) for name in "abcd"],
        "prefect_deployments": [deployment(flow_name="b")],
    }
    after["prefect_tasks"][2]["timeout_seconds"] = 5
    assert directory.differing(read(after), {**before, directory.PATHS: []}) == ["b", "c", "d"]
    assert directory.differing(read(before), {"prefect_flows": [flow("/")]}) == ["a", "b", "c"]
    assert directory.differing(read(before), {}) == ["a", "b", "c"]


def test_inactive_diamonds_are_stepped_over_once() -> None:
    """Forty layers of two tasks that each depend on both of the layer before: 2^40 paths."""
    layers = [[f"l{layer}_{side}" for side in "ab"] for layer in range(40)]
    tasks = [task("first")] + [
        task(name, depends_on=layers[layer - 1] if layer else ["first"], is_active=False)
        for layer, names in enumerate(layers)
        for name in names
    ]
    made = read(with_tasks(*tasks, task("last", depends_on=layers[-1]))).tasks_of("etl")
    assert [(item.name, item.depends_on) for item in made] == [("first", []), ("last", ["first"])]


@pytest.mark.parametrize("value", [300, 300.0, Decimal(300), Decimal("300.00"), Decimal("3E+2")])
def test_numbers_of_a_database_are_numbers(value: Any) -> None:
    data = with_tasks(task(timeout_seconds=value, retry_config={"max_retries": value, "retry_delay_seconds": value}))
    (made,) = read(data | {"prefect_work_pools": [{"name": "p", "concurrency_limit": value}]}).tasks
    assert json.dumps([made.timeout_seconds, made.retry_config.max_retries]) == "[300.0, 300]"
    assert sources.plain(value) == 300 and isinstance(sources.plain(value), int)


def test_numbers_that_are_none_are_refused() -> None:
    for value in (float("nan"), float("inf"), Decimal("NaN"), True):
        assert "has to be a number" in problems(with_tasks(task(timeout_seconds=value)))[0]
    assert "has to be a whole number" in problems(with_tasks(task(retry_config={"max_retries": Decimal("1.5")})))[0]
    assert read(with_tasks(task(timeout_seconds=Decimal("0.5")))).tasks[0].timeout_seconds == 0.5


class Counted(dict[str, Any]):
    """Counts how often it is asked for a value."""

    asked = 0

    def __getitem__(self, key: str) -> Any:
        self.asked += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("work", [ordered, without_inactive, find_cycle])
def test_each_task_is_looked_at_a_few_times(work: Any) -> None:
    size = 2_000
    made = {
        item.name: item
        for item in read(with_tasks(*(task(f"t{n}", depends_on=[f"t{n - 1}"] if n else []) for n in range(size)))).tasks
    }
    counted = Counted(reversed(made.items()))
    work(counted)
    assert counted.asked <= 5 * size


def test_what_an_inactive_task_takes_comes_before_what_depends_on_it() -> None:
    data = with_tasks(
        task("a"), task("b", task_args=[{"result_of": "a"}], is_active=False), task("c", depends_on=["b"])
    )
    assert [(item.name, item.depends_on) for item in read(data).tasks_of("etl")] == [("a", []), ("c", ["a"])]


def test_a_renamed_task_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not among 5,000 names for each of the 5,000 tasks that depend on it."""
    looks: list[str] = []

    def close(name: str, *_: Any, **__: Any) -> list[str]:
        looks.append(name)
        return []

    monkeypatch.setattr("difflib.get_close_matches", close)
    found = problems(with_tasks(*(task(f"t{number}", depends_on=["gone"]) for number in range(5_000))))
    assert len(found) == 5_000
    assert looks == ["gone"]


def test_200_generated_flows_are_put_in_order() -> None:
    definitions = read(generated(200))
    assert len(definitions.flows) == 200
    by_flow: dict[str, list[Any]] = {}
    for item in definitions.tasks:
        by_flow.setdefault(item.flow_name, []).append(item)
    for number in range(0, 200, 9):
        tasks = definitions.tasks_of(f"flow_{number}")
        assert len(tasks) == len(by_flow[f"flow_{number}"])
        seen: set[str] = set()
        for item in tasks:
            assert seen.issuperset(needs(item))
            seen.add(item.name)


def test_other_accounts_do_not_read_the_definitions(tmp_path: Path) -> None:
    """Their arguments may be secret. What an earlier version left readable is tightened."""
    old = os.umask(0)
    try:
        assert directory.write(tmp_path, with_tasks(task()), paths=[])
        file = tmp_path / directory.FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert not directory.write(tmp_path, with_tasks(task()), paths=[])
        file.chmod(0o644)
        assert directory.write(tmp_path, with_tasks(task()), paths=[], dry=True)
        assert directory.write(tmp_path, with_tasks(task()), paths=[])
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    finally:
        os.umask(old)
