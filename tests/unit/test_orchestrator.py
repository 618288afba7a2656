"""The configuration file of an application, with an orchestrator, is a source of definitions as it stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect_definitions import sources
from prefect_definitions.application import Application
from prefect_definitions.checks import uncallable
from prefect_definitions.execution import Limit, call
from prefect_definitions.orchestrator import with_colon
from prefect_definitions.records import DefinitionError
from prefect_definitions.resources import resources, unset
from prefect_definitions.schema import Definitions, published, rows_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/helpdesk/flows"

SHOP = """
class Process:
    def __init__(self, queue, day=None): self.queue, self.day = queue, day
    def run(self): return self.queue, self.day

def count(**arguments): return arguments

NAMES = {"Tickets": Process, "shelf.Tickets": Process, "shop:count": Process, "text": "no callable", "bare": object}

def make(name): return NAMES.get(name)
def broken(name): raise LookupError("no container")
def leaving(name): raise SystemExit(3)

class Container:
    def resolve(self, name): return NAMES[name]

container = Container()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "orchestrated_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def runner(pipe: Any = None, **more: Any) -> dict[str, Any]:
    return {"pipe_id": "tickets", "pipe": pipe or {"use": "orchestrated_shop:Process", "queue": "q"}, **more}


def config(*runners: Any, **more: Any) -> dict[str, Any]:
    return {"orchestrator": {"runners": list(runners)}, **more}


def read(data: Any, factory: str = "") -> Definitions:
    return Definitions.of(sources.merged({"config.yml": data}, factory=factory))


def problem(data: Any, factory: str = "") -> str:
    with pytest.raises(DefinitionError) as caught:
        read(data, factory)
    (found,) = caught.value.problems
    return found


def test_a_runner_becomes_a_deployment_with_its_arguments() -> None:
    given = runner({"use": "shop.pipes:Process", "queue": "q", "id": 7, "use_cache": True}, interval_seconds=300)
    definitions = read(
        config(given, {"pipe_id": "by hand", "pipe": {"use": "a.b:c"}, "interval_seconds": 0, "retries": 2})
    )
    first, second = definitions.tasks
    assert (first.name, first.use, first.task_args) == ("tickets", "shop.pipes:Process", [])
    assert first.task_kwargs == {"queue": "q", "id": 7, "use_cache": True}
    assert second.retry_config.max_retries == 2
    made = resources(definitions, directory=Path("/srv"), work_pool="p")["prefect_deployments"]
    assert [(each["name"], each["schedules"]) for each in made] == [
        ("tickets", [{"interval": 300, "timezone": "UTC"}]),
        ("by hand", []),
    ]


def test_the_rest_of_the_file_is_the_applications() -> None:
    data = config(runner(), mail={"server": "x"}, plugins=["a"], prefect_flows=[{"name": "etl"}])
    assert [row.values["name"] for row in rows_of(data)["prefect_flows"]] == ["etl"]
    assert "there is no prefect_runer; did you mean prefect_runners?" in problem(config(prefect_runer=[]))
    assert "there is no orchestrater; did you mean orchestrator?" in problem({"orchestrater": {"runners": []}})


def test_it_is_written_for_the_host_as_a_runner_is() -> None:
    rows = sources.merged({"config.yml": config(runner({"use": "a.b.C", "queue": "q"}))})
    assert sources.data_of(rows) == {"prefect_runners": [{"id": "tickets", "use": "a.b:C", "with": {"queue": "q"}}]}
    named = sources.data_of(sources.merged({"config.yml": config(runner({"use": "Tickets"}))}, factory="a.b.make"))
    assert named == {"prefect_runners": [{"id": "tickets", "use": "Tickets", "with": {}, "factory": "a.b:make"}]}
    # The host reads these without knowing of a factory.
    assert Definitions.of(rows_of(named)).tasks[0].factory == "a.b:make"


@pytest.mark.parametrize(
    ("path", "found"), [("a.b.C", "a.b:C"), ("a.C", "a:C"), ("a.b:C.d", "a.b:C.d"), ("C", "C"), ("a-b.C", "a-b.C")]
)
def test_an_import_path_may_be_in_dots(path: str, found: str) -> None:
    assert with_colon(path) == found


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": ({"orchestrator": []}, "orchestrator has to be a mapping with a list of runners"),
    "no runners": ({"orchestrator": {"runner": []}}, "orchestrator has to be a mapping with a list of runners"),
    "beside runners": (
        {"orchestrator": {"runners": [], "runnerz": 1}},
        "orchestrator: there is no runnerz; did you mean runners?; remove it",
    ),
    "no runner": (config("tickets"), "orchestrator.runners[0] is 'tickets', but has to be a mapping with pipe_id"),
    "unknown key": (
        config(runner(intervall_seconds=5)),
        "orchestrator.runners[0] (tickets): there is no intervall_seconds; did you mean interval_seconds?; an argument",
    ),
    "an argument outside": (config(runner(queue="q")), "(tickets): there is no queue; an argument belongs into pipe"),
    "a command": (config(runner(command="rm")), "(tickets): there is no command"),
    "no pipe_id": (
        config({"pipe": {"use": "a:b"}}),
        "orchestrator.runners[0] (without a pipe_id): pipe_id is missing",
    ),
    "a number as pipe_id": (config(runner(pipe_id=5)), "runners[0] (5): pipe_id is 5, but has to be a text"),
    "a pipe_id that is no name": (config(runner(pipe_id="a/b")), "runners[0] (a/b): pipe_id is 'a/b', but Prefect"),
    "duplicate": (
        config(runner(), runner()),
        "orchestrator.runners[1] (tickets): pipe_id is 'tickets', which is that of config.yml: orchestrator.runners[0] "
        "(tickets), too; rename one of them",
    ),
    "a runner of that name": (
        config(runner(), prefect_runners=[{"id": "tickets", "command": "true"}]),
        "which is that of config.yml: prefect_runners[0] (tickets), too",
    ),
    "no pipe": (config({"pipe_id": "a"}), "runners[0] (a): pipe is missing, but has to be a mapping with use"),
    "a text as pipe": (config(runner("x:y")), "(tickets): pipe is 'x:y', but has to be a mapping with use"),
    "no use": (config(runner({"queue": "q"})), "(tickets): pipe.use is missing; name what does the work"),
    "an empty use": (config(runner({"use": " "})), "(tickets): pipe.use is missing"),
    "a use that is none": (config(runner({"use": ["a:b"]})), "(tickets): pipe.use is ['a:b'], but has to be a text"),
    "a name without a factory": (
        config(runner({"use": "Tickets"})),
        "(tickets): pipe.use is 'Tickets', but has to be package.module:callable, or a name, with "
        "prefect_definitions_factory to resolve it",
    ),
    "a negative interval": (
        config(runner(interval_seconds=-1)),
        "(tickets): interval_seconds is -1, but has to be more",
    ),
    "a text as interval": (config(runner(interval_seconds="5m")), "interval_seconds is '5m', but has to be a number"),
    "true as interval": (config(runner(interval_seconds=True)), "interval_seconds is True, but has to be a number"),
    "no number as interval": (config(runner(interval_seconds=float("nan"))), "interval_seconds is nan, but has to be"),
    "a key that is no text": (
        config(runner({"use": "a:b", True: 1})),
        "(tickets): pipe has the key True, but keys have to be texts; put it in quotes",
    ),
    "a result": (config(runner({"use": "a:b", "x": {"result_of": "y"}})), "result_of names 'y'"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_is_said_with_file_and_key(how: str) -> None:
    data, said = WRONG[how]
    with pytest.raises(DefinitionError) as caught:
        read(data)
    assert all(problem.startswith("config.yml: ") for problem in caught.value.problems)
    assert said in caught.value.problems[0]


def test_all_is_said_at_once() -> None:
    bad = [runner(pipe_id=f"p{number}", interval_seconds=-1) for number in range(3)]
    with pytest.raises(DefinitionError) as caught:
        read(config(*bad))
    assert len(caught.value.problems) == 3


FACTORIES: list[tuple[str, str, str]] = [
    ("orchestrated_shop:make", "Tickets", ""),
    ("orchestrated_shop.make", "Tickets", ""),
    ("orchestrated_shop:container.resolve", "Tickets", ""),
    # Names with dots and colons that no package has.
    ("orchestrated_shop:make", "shelf.Tickets", ""),
    ("orchestrated_shop:make", "shop:count", ""),
    # Import paths, of which the factory knows nothing.
    ("orchestrated_shop:make", "orchestrated_shop:Process", ""),
    ("orchestrated_shop:make", "orchestrated_shop.Process", ""),
    ("", "orchestrated_shop.Process", ""),
    ("orchestrated_shop:make", "Ticket", "orchestrated_shop:make returned None for 'Ticket'; correct the name"),
    ("orchestrated_shop:make", "text", "what orchestrated_shop:make returned for 'text' cannot be called"),
    ("orchestrated_shop:make", "bare", "is a class without run() and process()"),
    ("orchestrated_shop:broken", "Tickets", "cannot resolve 'Tickets': LookupError: no container"),
    ("orchestrated_shop:leaving", "Tickets", "cannot resolve 'Tickets': SystemExit: 3"),
    ("orchestrated_shop:mak", "Tickets", "orchestrated_shop:mak cannot be imported: orchestrated_shop has no mak"),
    ("orchestrated_shop:NAMES", "Tickets", "orchestrated_shop:NAMES cannot be called"),
    ("orchestrated_shop:make", "orchestrated_shop:Proces", "orchestrated_shop has no Proces"),
    ("", "nowhere.to:go", "No module named 'nowhere'"),
    ("", "orchestrated_shop:NAMES", "orchestrated_shop:NAMES cannot be called"),
    ("", "json.JSONEncoder", "json:JSONEncoder is a class without run() and process()"),
]


@pytest.mark.parametrize(("factory", "use", "said"), FACTORIES)
def test_use_is_imported_or_resolved(place: Path, factory: str, use: str, said: str) -> None:
    definitions = read(config(runner({"use": use, "queue": "q", "day": "d"})), factory)
    problems = uncallable(definitions)
    if said:
        assert len(problems) == 1 and said in problems[0]
        assert problems[0].startswith("config.yml: orchestrator.runners[0] (tickets): pipe.use: ")
        return
    assert problems == []
    (task,) = definitions.tasks
    assert call(task.use, [], task.task_kwargs, limit=Limit(), factory=task.factory) == ("q", "d")


def test_arguments_are_those_that_it_takes(place: Path) -> None:
    (found,) = uncallable(read(config(runner({"use": "Tickets", "que": "q"})), "orchestrated_shop:make"))
    assert (
        "config.yml: orchestrator.runners[0] (tickets): pipe.use: Tickets" in found and "cannot be called so" in found
    )


def test_a_factory_that_is_no_path_is_refused() -> None:
    found = problem(config(runner({"use": "Tickets"})), "make")
    assert "prefect_definitions_factory is 'make', but has to be package.module:callable" in found


def test_other_definitions_may_have_a_factory_too(place: Path) -> None:
    data = {
        "prefect_runners": [{"id": "a", "use": "Tickets", "factory": "orchestrated_shop:make", "with": {"queue": 1}}]
    }
    assert uncallable(Definitions.of(rows_of(data))) == []
    with pytest.raises(DefinitionError, match="factory needs a use"):
        Definitions.of(rows_of({"prefect_runners": [{"id": "a", "command": "x", "factory": "a:b"}]}))


def test_unset_names_are_said_with_their_place() -> None:
    (found,) = unset(read(config(runner({"use": "a:b", "key": "${API_KEY}"}))), {})
    assert found.startswith("config.yml: orchestrator.runners[0] (tickets): ${API_KEY} is not set")


def test_dates_stay_the_texts_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(
        "orchestrator: {runners: [{pipe_id: a, pipe: {use: 'a:b', day: 2026-01-02, at: 2026-01-02T03:04:05Z}}]}"
    )
    (row,) = sources.read(str(tmp_path / "config.yml"))["prefect_runners"]
    assert row.values["with"] == {"day": "2026-01-02", "at": "2026-01-02T03:04:05Z"}
    json.dumps(row.values)


def test_files_below_a_directory_are_named_by_their_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yml").write_text(yaml.safe_dump(config(runner())))
    with pytest.raises(DefinitionError, match=r"^b/config\.yml: .* that of a/config\.yml: "):
        Definitions.of(sources.read(str(tmp_path)))


def test_the_schema_knows_runners_of_an_application() -> None:
    (runner_schema,) = [published()["properties"]["orchestrator"]["properties"]["runners"]["items"]]
    assert {"pipe_id", "pipe", "interval_seconds", "retries"} <= set(runner_schema["properties"])
    assert not {"id", "use", "with", "command", "factory"} & set(runner_schema["properties"])


def test_the_example_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy, since Python writes bytecode beside what it imports.
    monkeypatch.syspath_prepend(shutil.copytree(EXAMPLE, tmp_path / "flows"))
    inventory = yaml.safe_load((EXAMPLE.parent / "hosts.yml").read_text())["all"]["vars"]
    rows = sources.read(str(EXAMPLE / "config.yml"), factory=inventory["prefect_definitions_factory"])
    definitions = Definitions.of(rows)
    assert uncallable(definitions) == []
    found = {
        task.name: call(task.use, [], task.task_kwargs, limit=Limit(), factory=task.factory)
        for task in definitions.tasks
    }
    assert found == {
        "ticket_processor": "my-queue has no high or normal ticket",
        "escalation": "no ticket is older than 24 hours",
    }


def factory_here(name: str) -> Callable[..., Any] | None:
    return {"Tickets": lambda queue: queue}.get(name)


def test_an_application_takes_a_factory_by_its_path_or_itself(place: Path) -> None:
    given = config(runner({"use": "Tickets", "queue": "q"}))
    import orchestrated_shop

    for factory in ("orchestrated_shop:make", "orchestrated_shop.make", orchestrated_shop.make):
        (task,) = Application(given, factory=factory).definitions.tasks
        assert task.factory == "orchestrated_shop:make"


def test_a_factory_of_this_process_alone_runs_here_and_does_not_start() -> None:
    def inside(name: str) -> Callable[..., Any] | None:
        return factory_here(name)

    application = Application(config(runner({"use": "Tickets", "queue": "q"})), factory=inside)
    (task,) = application.definitions.tasks
    assert call(task.use, [], task.task_kwargs, limit=Limit(), factory=task.factory) == "q"
    with pytest.raises(DefinitionError, match=r"cannot import .*inside; define it in a module"):
        application.start()
    assert not application.running


def test_an_application_does_not_start_what_cannot_run(place: Path) -> None:
    application = Application(config(runner({"use": "Ticket"})), factory="orchestrated_shop:make")
    with pytest.raises(DefinitionError, match=r"^orchestrator\.runners\[0\] \(tickets\): pipe\.use: .* returned None"):
        application.start()
    assert not application.running
