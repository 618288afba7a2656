"""The words of a definition, and what has to be true of them, wherever they come from.

`Definitions.of(rows)` is the only way in: from an inventory, a file or a database, the same words are understood in
the same way, and everything that is wrong is said at once, as a `DefinitionError`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal

from .execution import words
from .orchestrator import KEY, PATH, beside_pipe, runner_rows, with_colon
from .records import DefinitionError, Row, columns, json_schema, near, parse
from .values import References, references

Rows = Mapping[str, Iterable[Row]]

LONGEST_NAME = 255
"""Characters of a name. PostgreSQL refuses longer ones where there is an index of them."""

BANNED = "/%&<>"
"""What Prefect refuses in the name of a flow, a deployment, a work pool or a queue."""

RESERVED = ("self", "cls", "return_state", "wait_for")
"""What Prefect itself passes to a flow, so that no parameter can have the name."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    max_retries: Annotated[int, "How often a failed task is tried again."] = 0
    retry_delay_seconds: Annotated[float | list[float], "Seconds before it is, or a list of them."] = 0.0


@dataclass(frozen=True, kw_only=True)
class WorkPool:
    name: Annotated[str, "Name of the work pool."]
    description: Annotated[str, "What it is for."] = ""
    pool_type: Annotated[str, "Type of its workers."] = "process"
    config: Annotated[dict[str, Any], "May hold a base_job_template."] = field(default_factory=dict)
    concurrency_limit: Annotated[int | None, "How many flow runs it has at a time."] = None
    is_active: Annotated[bool | None, "Whether it takes runs."] = None


@dataclass(frozen=True, kw_only=True)
class Flow:
    name: Annotated[str, "Name of the flow, as the UI shows it."]
    description: Annotated[str, "What it is for."] = ""
    flow_type: Annotated[str, "What kind of flow it is, which becomes a tag."] = ""
    tags: Annotated[list[str], "Tags of the flow."] = field(default_factory=list)
    is_active: Annotated[bool | None, "Whether its deployments may run."] = None


@dataclass(frozen=True, kw_only=True)
class Task:
    name: Annotated[str, "Name of the task, unique in its flow."]
    flow_name: Annotated[str, "The flow that it is a part of."]
    description: Annotated[str, "What it does."] = ""
    celery_task_name: Annotated[str, "Task of a Celery application that does it."] = ""
    use: Annotated[str, "Python that does it: package.module:callable, or a name that the factory resolves."] = ""
    factory: Annotated[str, "Python that returns what a name in use stands for: package.module:callable."] = ""
    command: Annotated[str | list[Any], "Command that does it, as words or as a text of words."] = ""
    task_args: Annotated[list[Any], "Arguments in order."] = field(default_factory=list)
    task_kwargs: Annotated[dict[str, Any], "Arguments by name."] = field(default_factory=dict)
    depends_on: Annotated[list[str], "Tasks of the flow that have to be completed first."] = field(default_factory=list)
    retry_config: Annotated[Retry, "How often it is tried again."] = field(default_factory=Retry)
    timeout_seconds: Annotated[float | None, "Seconds that one try may take."] = None
    celery_queue: Annotated[str, "Celery queue; Celery's own default if empty."] = ""
    tags: Annotated[list[str], "Tags of the task's runs."] = field(default_factory=list)
    is_active: Annotated[bool, "Whether it is a part of the flow."] = True

    @cached_property
    def references(self) -> References:
        """What its arguments refer to: results, parameters and names of the environment."""
        return references([self.command, self.task_args, self.task_kwargs])


@dataclass(frozen=True, kw_only=True)
class Cron:
    cron_string: Annotated[str, "Cron expression."]
    timezone: Annotated[str, "Time zone."] = "UTC"


@dataclass(frozen=True, kw_only=True)
class Interval:
    interval_seconds: Annotated[float, "Seconds from one run to the next; 0 is by hand."]
    anchor_date: Annotated[str, "A time at which a run is due, in ISO 8601."] = ""
    timezone: Annotated[str, "Time zone."] = "UTC"


@dataclass(frozen=True, kw_only=True)
class RRule:
    rrule: Annotated[str, "Recurrence rule of iCalendar."]
    timezone: Annotated[str, "Time zone."] = "UTC"


SCHEDULES: dict[str, type[Cron | Interval | RRule]] = {"cron": Cron, "interval": Interval, "rrule": RRule}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    name: Annotated[str, "Name of the deployment, unique for its flow."]
    flow_name: Annotated[str, "The flow that it runs."]
    description: Annotated[str, "What it is for."] = ""
    work_pool_name: Annotated[str, "Work pool whose workers run it; the role's default if empty."] = ""
    work_queue_name: Annotated[str, "Queue of the pool."] = ""
    schedule_type: Annotated[Literal["cron", "interval", "rrule", "none", ""], "Kind of schedule."] = ""
    schedule_config: Annotated[dict[str, Any], "The schedule: what depends on its kind."] = field(default_factory=dict)
    parameters: Annotated[dict[str, Any], "Parameters of its runs."] = field(default_factory=dict)
    tags: Annotated[list[str], "Tags of its runs."] = field(default_factory=list)
    is_active: Annotated[bool | None, "Whether it runs."] = None

    @property
    def schedule(self) -> Cron | Interval | RRule | None:
        """When it runs, or None for by hand or for what is wrong."""
        if self.schedule_type in ("", "none") or not self.schedule_config:
            return None
        found = parse(SCHEDULES[self.schedule_type], Row("", self.schedule_config), [])
        return None if isinstance(found, Interval) and found.interval_seconds == 0 else found


@dataclass(frozen=True, kw_only=True)
class Runner:
    id: Annotated[str, "Name of the runner, its flow, its task and its deployment."]
    use: Annotated[str, "Python that does the work: package.module:callable, or a name that the factory resolves."] = ""
    factory: Annotated[str, "Python that returns what a name in use stands for: package.module:callable."] = ""
    command: Annotated[str | list[Any], "Command that does it, as words or as a text of words."] = ""
    celery_task_name: Annotated[str, "Task of a Celery application that does it."] = ""
    with_: Annotated[dict[str, Any], "Arguments by name."] = field(default_factory=dict)
    interval_seconds: Annotated[float, "Seconds from one run to the next; 0 is by hand."] = 0.0
    retries: Annotated[int, "How often it is tried again."] = 0
    retry_delay_seconds: Annotated[float | list[float], "Seconds before it is, or a list of them."] = 0.0
    timeout_seconds: Annotated[float | None, "Seconds that one try may take."] = None
    description: Annotated[str, "What it does."] = ""
    work_pool_name: Annotated[str, "Work pool whose workers run it; the role's default if empty."] = ""
    tags: Annotated[list[str], "Tags of its runs."] = field(default_factory=list)
    is_active: Annotated[bool | None, "Whether it runs."] = None

    def expand(self) -> tuple[Flow, Task, Deployment]:
        """Return what a runner is short for."""
        flow = Flow(name=self.id, description=self.description, tags=self.tags, is_active=self.is_active)
        task = Task(
            name=self.id,
            flow_name=self.id,
            description=self.description,
            use=self.use,
            factory=self.factory,
            command=self.command,
            celery_task_name=self.celery_task_name,
            task_kwargs=self.with_,
            retry_config=Retry(max_retries=self.retries, retry_delay_seconds=self.retry_delay_seconds),
            timeout_seconds=self.timeout_seconds,
        )
        deployment = Deployment(
            name=self.id,
            flow_name=self.id,
            description=self.description,
            work_pool_name=self.work_pool_name,
            schedule_type="interval" if self.interval_seconds else "none",
            schedule_config={"interval_seconds": self.interval_seconds} if self.interval_seconds else {},
            tags=self.tags,
            is_active=self.is_active,
        )
        return flow, task, deployment


KINDS: dict[str, type] = {
    "prefect_work_pools": WorkPool,
    "prefect_flows": Flow,
    "prefect_tasks": Task,
    "prefect_deployments": Deployment,
    "prefect_runners": Runner,
}


def published() -> dict[str, Any]:
    """Return the JSON schema of a file of definitions."""
    lists: dict[str, Any] = {name: {"type": "array", "items": json_schema(kind)} for name, kind in KINDS.items()}
    columns_of_runners = lists["prefect_runners"]["items"]["properties"]
    pipe = {
        "description": columns_of_runners["with"]["description"],
        "type": "object",
        "properties": {"use": columns_of_runners["use"]},
        "required": ["use"],
    }
    own = {"pipe_id": columns_of_runners["id"], "pipe": pipe}
    own |= {name: columns_of_runners[name] for name in beside_pipe(columns_of_runners)}
    runner = {"type": "object", "additionalProperties": False, "properties": own, "required": ["pipe_id", "pipe"]}
    lists[KEY] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"runners": {"type": "array", "items": runner}},
        "required": ["runners"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Flows as data",
        "type": "object",
        "additionalProperties": False,
        "properties": lists,
    }


def attribute(name: str) -> str:
    """Return the name that a flow has in the module of an entrypoint, where only identifiers and no dots are taken.

    Python asks every module for names with two underscores in front, so that no flow can have one there.
    """
    simple = re.sub(r"\W", "_", name)
    if simple.startswith("__"):
        return f"flow_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return simple


def name_problems(where: str, key: str, name: str, *, banned: str = "") -> Iterator[str]:
    """Yield what keeps a text from being a name: in Prefect, in an address, or in a database."""
    if not name.strip(" '\""):
        yield f"{where}: {key} is empty"
    if len(name) > LONGEST_NAME:
        yield f"{where}: {key} has {len(name)} characters, but can have {LONGEST_NAME}"
    # Control characters, and halves of characters, which are no text in UTF-8.
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        yield f"{where}: {key} is {name!r}, but cannot have line breaks and other control characters"
    if used := [letter for letter in banned if letter in name]:
        yield f"{where}: {key} is {name!r}, but Prefect allows no {' '.join(used)} in it"


def parameter_problems(where: str, key: str, names: Iterable[str]) -> Iterator[str]:
    """Yield what keeps texts from being names of parameters. They need not be identifiers."""
    for name in names:
        yield from name_problems(where, f"{key} {name!r}", name)
        if name.startswith("_"):
            yield f"{where}: {key} {name!r} begins with an underscore, which Prefect does not allow; rename it"
        if name in RESERVED:
            yield f"{where}: {key} {name!r} has a name that Prefect keeps for itself; rename it"


def rows_of(data: Any, *, where: str = "", factory: str = "") -> dict[str, list[Row]]:
    """Return the rows of a mapping of lists, with where they are; `factory` resolves what `use` names in them.

    In the configuration of an application, which has an `orchestrator`, other keys are the application's.
    Raises DefinitionError where the mapping is none.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(data, Mapping):
        raise DefinitionError([f"{prefix}{data!r} is no mapping of {', '.join(KINDS)}"])
    problems: list[str] = []
    rows: dict[str, list[Row]] = {}
    for kind, values in data.items():
        if kind == KEY:
            continue
        if kind not in KINDS:
            if KEY not in data or str(kind).startswith("prefect_"):
                problems.append(f"{prefix}there is no {kind}{near(str(kind), [*KINDS, KEY])}")
        elif not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
            problems.append(f"{prefix}{kind} has to be a list of mappings")
        else:
            rows[kind] = [
                Row(f"{prefix}{kind}[{number}] ({value.get('name') or value.get('id') or 'without a name'})", value)
                for number, value in enumerate(values)
            ]
    if KEY in data:
        found = runner_rows(data[KEY], prefix, factory=factory, words=columns(Runner), problems=problems)
        rows.setdefault("prefect_runners", []).extend(found)
    if problems:
        raise DefinitionError(problems)
    return with_factory(rows, factory)


def with_factory(rows: Mapping[str, Iterable[Row]], factory: str) -> dict[str, list[Row]]:
    """Return rows in which `factory` resolves what `use` names, if they do not name another one."""

    def resolved(kind: str, row: Row) -> Row:
        if not factory or kind not in ("prefect_runners", "prefect_tasks"):
            return row
        if not row.values.get("use") or row.values.get("factory"):
            return row
        return replace(row, values={**row.values, "factory": with_colon(factory)})

    return {kind: [resolved(kind, row) for row in found] for kind, found in rows.items()}


@dataclass(frozen=True)
class Definitions:
    """Everything that a source holds, complete and checked; runners as the flow, task and deployment that they are."""

    work_pools: tuple[WorkPool, ...] = ()
    flows: tuple[Flow, ...] = ()
    tasks: tuple[Task, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    runners: Mapping[str, Row] = field(default_factory=dict)
    """The runners among them, by their ids, as their source has them."""

    @classmethod
    def of(cls, rows: Rows) -> Definitions:
        """Return the definitions that rows hold. Raises DefinitionError with everything that is wrong with them."""
        problems: list[str] = []
        found: dict[str, list[tuple[str, Any]]] = {
            kind: [
                (row.where, record)
                for row in rows.get(kind, [])
                if (record := parse(record_type, row, problems)) is not None
            ]
            for kind, record_type in KINDS.items()
            if record_type is not Runner
        }
        runners: dict[str, Row] = {}
        for row in rows.get("prefect_runners", []):
            if (runner := parse(Runner, row, problems)) is None:
                continue
            if runner.id in runners:
                others = f"which is that of {runners[runner.id].where}, too; rename one of them"
                problems.append(f"{row.said('id')} is {runner.id!r}, {others}")
                continue
            runners[runner.id], where = row, row.where
            problems += runner_problems(row, runner)
            for kind, part in zip(
                ("prefect_flows", "prefect_tasks", "prefect_deployments"), runner.expand(), strict=True
            ):
                found[kind].append((where, part))
        problems += duplicates(found)
        definitions = cls(
            work_pools=tuple(record for _, record in found["prefect_work_pools"]),
            flows=tuple(record for _, record in found["prefect_flows"]),
            tasks=tuple(record for _, record in found["prefect_tasks"]),
            deployments=tuple(record for _, record in found["prefect_deployments"]),
            runners=runners,
        )
        for where, pool in found["prefect_work_pools"]:
            problems += name_problems(where, "name", pool.name, banned=BANNED)
        for where, flow in found["prefect_flows"]:
            key = runners[flow.name].spelled.get("id", "id") if flow.name in runners else "name"
            problems += name_problems(where, key, flow.name, banned=BANNED)
        # What could not be read is not unknown.
        named = frozenset(
            {str(row.values.get("name")) for row in rows.get("prefect_flows", [])} | set(definitions.runners)
        )
        for where, deployment in found["prefect_deployments"]:
            if deployment.flow_name not in definitions.runners:
                problems += deployment_problems(where, deployment)
            problems += unknown(where, "flow_name", deployment.flow_name, named)
        names: dict[str, set[str]] = {}
        for row in rows.get("prefect_tasks", []):
            names.setdefault(str(row.values.get("flow_name")), set()).add(str(row.values.get("name")))
        tasks_named = {flow: frozenset(siblings) for flow, siblings in names.items()}
        for where, task in found["prefect_tasks"]:
            if task.name not in definitions.runners:
                problems += unknown(where, "flow_name", task.flow_name, named)
                problems += task_problems(where, task, tasks_named[task.flow_name])
        for flow in definitions.flows:
            if flow.name not in definitions.runners and flow.name not in tasks_named:
                problems.append(f"prefect_flows ({flow.name}): has no task; add one to prefect_tasks")
            problems += graph_problems(flow, definitions.tasks_of(flow.name, active=False))
        if problems:
            raise DefinitionError(dict.fromkeys(problems))
        return definitions

    def tasks_of(self, flow: str, *, active: bool = True) -> tuple[Task, ...]:
        """Return the tasks of a flow in an order in which each comes after all that it depends on.

        A task that is not active is left out, and what depends on it then depends on what that one does.
        """
        tasks = self._tasks.get(flow, {})
        return ordered(without_inactive(tasks) if active else tasks)

    def said(self, task: Task, column: str = "") -> str:
        """Return where a task is defined, as a sentence about it, or about one of its columns, begins."""
        if row := self.runners.get(task.flow_name):
            return row.said(column) if column else row.where
        return f"prefect_tasks ({task.name} of {task.flow_name})"

    def flow(self, name: str) -> Flow:
        """Return a flow by its name. Raises KeyError where there is none."""
        return self._flows[name]

    def deployments_of(self, flow: str) -> tuple[Deployment, ...]:
        """Return the deployments of a flow."""
        return tuple(self._deployments.get(flow, ()))

    @cached_property
    def _flows(self) -> dict[str, Flow]:
        return {flow.name: flow for flow in self.flows}

    @cached_property
    def _tasks(self) -> dict[str, dict[str, Task]]:
        found: dict[str, dict[str, Task]] = {}
        for task in self.tasks:
            found.setdefault(task.flow_name, {})[task.name] = task
        return found

    @cached_property
    def _deployments(self) -> dict[str, list[Deployment]]:
        found: dict[str, list[Deployment]] = {}
        for deployment in self.deployments:
            found.setdefault(deployment.flow_name, []).append(deployment)
        return found


def unknown(where: str, key: str, name: str, known: frozenset[str]) -> Iterator[str]:
    """Yield a sentence where a name is not known."""
    if name not in known:
        yield f"{where}: {key} names {name!r}, which is not defined{near(name, known)}"


def duplicates(found: Mapping[str, list[tuple[str, Any]]]) -> Iterator[str]:
    """Yield a sentence for each name that two records of a kind have."""
    for kind, records in found.items():
        names = Counter(
            f"{record.name!r} of flow {record.flow_name!r}" if hasattr(record, "flow_name")
            else repr(getattr(record, "name", None) or getattr(record, "id", None))
            for _, record in records
        )  # fmt: skip
        for name, count in names.items():
            if count > 1:
                yield f"{kind}: {count} have the name {name}"
    attributes: dict[str, set[str]] = {}
    for _, flow in found["prefect_flows"]:
        attributes.setdefault(attribute(flow.name), set()).add(flow.name)
    for alike in attributes.values():
        if len(alike) > 1:
            yield f"prefect_flows: {' and '.join(sorted(alike))} differ in punctuation only; rename one of them"


def runner_problems(row: Row, runner: Runner) -> Iterator[str]:
    """Yield what is wrong with a runner."""
    where = row.where
    _, task, _ = runner.expand()
    if runner.interval_seconds < 0:
        yield f"{where}: interval_seconds is {runner.interval_seconds:g}, but has to be more than 0, or 0 for by hand"
    siblings = frozenset({runner.id})
    for problem in task_problems(where, task, siblings):
        said = problem.replace("task_kwargs", "with").replace(f"{where}: name ", f"{where}: id ")
        for word in row.spelled:
            said = said.replace(f"{where}: {word} ", f"{row.said(word)} ")
        yield said
    if task.references.results:
        yield f"{where}: a runner is a single task, and there is no result_of another"
    if runner.work_pool_name:
        yield from name_problems(where, "work_pool_name", runner.work_pool_name, banned=BANNED)


def task_problems(where: str, task: Task, siblings: frozenset[str]) -> Iterator[str]:
    """Yield what is wrong with a task, seen on its own."""
    yield from name_problems(where, "name", task.name)
    yield from parameter_problems(where, "parameter", task.references.parameters)
    ways = [way for way in ("celery_task_name", "use", "command") if getattr(task, way)]
    if len(ways) != 1:
        said = f"has {' and '.join(ways)}" if ways else "says not what to do"
        yield f"{where}: {said}; it needs one of celery_task_name, use and command"
    if task.use and not task.factory and not PATH.fullmatch(task.use):
        named = "or a name, with prefect_definitions_factory to resolve it"
        yield f"{where}: use is {task.use!r}, but has to be package.module:callable, {named}"
    if task.factory and not PATH.fullmatch(task.factory):
        yield f"{where}: prefect_definitions_factory is {task.factory!r}, but has to be package.module:callable"
    if task.factory and not task.use:
        yield f"{where}: factory needs a use, whose name it resolves"
    if task.command:
        yield from (f"{where}: command {problem}" for problem in command_problems(task))
    if task.command and task.task_kwargs:
        yield f"{where}: a command takes task_args, not task_kwargs"
    if task.celery_queue and not task.celery_task_name:
        yield f"{where}: celery_queue needs a celery_task_name"
    if task.timeout_seconds is not None and task.timeout_seconds <= 0:
        yield f"{where}: timeout_seconds is {task.timeout_seconds:g}, but has to be more than 0"
    delays = task.retry_config.retry_delay_seconds
    if task.retry_config.max_retries < 0 or any(
        delay < 0 for delay in (delays if isinstance(delays, list) else [delays])
    ):
        yield f"{where}: neither the number of retries nor their delay can be less than 0"
    for name, count in Counter(task.depends_on).items():
        if name == task.name:
            yield f"{where}: depends on itself"
        elif name not in siblings:
            yield from unknown(where, "depends_on", name, siblings)
        elif count > 1:
            yield f"{where}: depends_on names {name!r} {count} times"
    for name in task.references.results:
        if name == task.name:
            yield f"{where}: result_of names the task itself"
        elif name not in siblings:
            yield from unknown(where, "result_of", name, siblings)
    yield from (f"{where}: {problem}" for problem in task.references.problems)


def command_problems(task: Task) -> Iterator[str]:
    """Yield what keeps a command from being run, as a sentence about it goes on."""
    try:
        command = words(task.command)
    except ValueError as error:
        said = f"is {task.command!r}, which cannot be split into words"
        yield f"{said}: {error}; close the quote, or write a list of words"
        return
    if not command or (isinstance(command[0], str) and not command[0].strip()):
        yield f"is {task.command!r}, which names no program"
    if any(isinstance(word, str) and "\0" in word for word in [*command, *task.task_args]):
        yield "has a word with a null character, which no program takes"
    # What is filled in is a word, or a part of one.
    torn = [problem for problem in references(command).problems if problem not in task.references.problems]
    yield from (f"is torn at a space: {problem}; put the word in quotes" for problem in torn)


def graph_problems(flow: Flow, tasks: tuple[Task, ...]) -> Iterator[str]:
    """Yield what is wrong with the tasks of a flow together."""
    by_name = {task.name: task for task in tasks}
    if cycle := find_cycle(by_name):
        yield f"prefect_flows ({flow.name}): its tasks wait for each other: {' -> '.join(cycle)}"
    for task in tasks:
        for name in task.references.results:
            if task.is_active and name in by_name and not by_name[name].is_active:
                yield f"prefect_tasks ({task.name}): result_of names {name!r}, which is not active"


def needs(task: Task) -> list[str]:
    """Return the tasks that have to be completed before one starts: those named, and those whose results it takes."""
    return list(dict.fromkeys([*task.depends_on, *task.references.results]))


def find_cycle(tasks: Mapping[str, Task]) -> list[str]:
    """Return tasks that wait for each other, the first one again at the end; none, if there are none."""
    done: set[str] = set()
    for start in tasks:
        path: dict[str, None] = {}
        waiting = [iter([start])]
        while waiting:
            name = next(waiting[-1], None)
            if name is None:
                waiting.pop()
                if path:
                    done.add(path.popitem()[0])
            elif name in path and name != next(reversed(path)):
                cycle = list(path)
                return [*cycle[cycle.index(name) :], name]
            elif name in tasks and name not in done and name not in path:
                path[name] = None
                waiting.append(iter(needs(tasks[name])))
    return []


def ordered(tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    """Return tasks with each after all that it depends on, otherwise in the order given."""
    place = {name: number for number, name in enumerate(tasks)}
    before = {name: {need for need in needs(task) if need in tasks and need != name} for name, task in tasks.items()}
    after: dict[str, list[str]] = {}
    for name, found in before.items():
        for need in found:
            after.setdefault(need, []).append(name)
    missing = {name: len(found) for name, found in before.items()}
    placed: list[str] = []
    ready = [name for name, count in missing.items() if not count]
    while ready:
        placed += ready
        freed = []
        for name in ready:
            for later in after.get(name, ()):
                missing[later] -= 1
                if not missing[later]:
                    freed.append(later)
        ready = sorted(freed, key=place.__getitem__)
    # What is in a cycle is never ready; graph_problems names it.
    placed += [name for name, count in missing.items() if count]
    return tuple(tasks[name] for name in placed)


def without_inactive(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the active tasks, each depending on the nearest active ones."""
    nearest: dict[str, list[str]] = {}

    def active(names: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}
        for name in names:
            found |= dict.fromkeys([name] if tasks[name].is_active else nearest.get(name, ()))
        return list(found)

    # In this order, what an inactive task stands for is known before it is asked for.
    for task in ordered(tasks):
        if not task.is_active:
            nearest[task.name] = active(needs(task))
    return {name: replace(task, depends_on=active(task.depends_on)) for name, task in tasks.items() if task.is_active}


def deployment_problems(where: str, deployment: Deployment) -> Iterator[str]:
    """Yield what is wrong with a deployment, seen on its own."""
    yield from name_problems(where, "name", deployment.name, banned=BANNED)
    for key in ("work_pool_name", "work_queue_name"):
        if getattr(deployment, key):
            yield from name_problems(where, key, getattr(deployment, key), banned=BANNED)
    yield from parameter_problems(where, "parameter", deployment.parameters)
    kind, config = deployment.schedule_type, deployment.schedule_config
    if kind in ("", "none"):
        if config:
            yield f"{where}: schedule_config needs a schedule_type: {', '.join(SCHEDULES)}"
    elif not config:
        yield f"{where}: schedule_type {kind} needs a schedule_config with {next(iter(columns(SCHEDULES[kind])))}"
    else:
        problems: list[str] = []
        schedule = parse(SCHEDULES[kind], Row(f"{where}: schedule_config", config), problems)
        yield from problems
        if schedule is not None:
            yield from (f"{where}: schedule_config: {problem}" for problem in schedule_problems(schedule))
    yield from (f"{where}: parameters: {problem}" for problem in references(deployment.parameters).problems)


def schedule_problems(schedule: Cron | Interval | RRule) -> Iterator[str]:
    """Yield what is wrong with a schedule."""
    try:
        zoneinfo.ZoneInfo(schedule.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        yield f"{schedule.timezone!r} is no time zone{near(schedule.timezone, zoneinfo.available_timezones())}"
    if isinstance(schedule, Cron):
        fields = schedule.cron_string.split()
        if not schedule.cron_string.startswith("@") and len(fields) not in (5, 6):
            yield f"cron_string is {schedule.cron_string!r}, but has to have 5 fields"
        elif not all(re.fullmatch(r"[\w*/,#?-]+", item) for item in fields if not item.startswith("@")):
            yield f"cron_string is {schedule.cron_string!r}, which is no cron expression"
    elif isinstance(schedule, RRule):
        if not re.search(r"\bFREQ=(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY|MINUTELY|SECONDLY)\b", schedule.rrule):
            yield f"rrule is {schedule.rrule!r}, but has to say how often: FREQ="
    else:
        if schedule.interval_seconds < 0:
            yield f"interval_seconds is {schedule.interval_seconds:g}, but has to be more than 0, or 0 for by hand"
        if schedule.anchor_date:
            try:
                datetime.fromisoformat(schedule.anchor_date.replace("Z", "+00:00"))
            except ValueError:
                yield f"anchor_date is {schedule.anchor_date!r}, but has to be a time in ISO 8601"
