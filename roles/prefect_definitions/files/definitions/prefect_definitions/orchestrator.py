"""The runners in an application's own configuration: `orchestrator: {runners: [{pipe_id, pipe, interval_seconds}]}`.

Every key of `pipe` but `use` is an argument of what `use` names. Such a runner becomes a row of `prefect_runners`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .records import Row, near

KEY = "orchestrator"

SPELLED = {"id": "pipe_id", "use": "pipe.use", "with": "pipe"}
"""What the words of a runner are called in such a file."""

PATH = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
"""`package.module:Name`"""

DOTTED = re.compile(r"\w+(\.\w+)+")
"""`package.module.Name`"""


def with_colon(path: str) -> str:
    """Return an import path in dots with the colon before its last name; any other text unchanged."""
    return ":".join(path.rsplit(".", 1)) if DOTTED.fullmatch(path) else path


def beside_pipe(words: Collection[str]) -> list[str]:
    """Return the columns of `prefect_runners` that a runner may have beside `pipe`, which alone says what to do."""
    return sorted(set(words) - {"id", "use", "with", "command", "celery_task_name", "factory"})


def runner_rows(
    orchestrator: Any, prefix: str, *, factory: str, words: Collection[str], problems: list[str]
) -> Iterator[Row]:
    """Yield the runners that the value of `orchestrator` holds as rows, and add what is wrong to `problems`.

    Args:
        prefix: where the value stands, such as `config.yml: `.
        factory: import path of what resolves names, or an empty text.
        words: the columns of `prefect_runners`.
    """
    where = f"{prefix}{KEY}"
    if not isinstance(orchestrator, Mapping) or not isinstance(orchestrator.get("runners"), list):
        problems.append(f"{where} has to be a mapping with a list of runners")
        return
    problems += [
        f"{where}: there is no {key}{near(str(key), ['runners'])}; remove it"
        for key in orchestrator
        if key != "runners"
    ]
    others = beside_pipe(words)
    for number, runner in enumerate(orchestrator["runners"]):
        place = f"{where}.runners[{number}]"
        if not isinstance(runner, Mapping):
            problems.append(f"{place} is {runner!r}, but has to be a mapping with pipe_id and pipe")
            continue
        identifier, pipe = runner.get("pipe_id"), runner.get("pipe")
        place += f" ({'without a pipe_id' if identifier is None else identifier})"
        problems += [
            f"{place}: there is no {key}{near(str(key), ['pipe_id', 'pipe', *others])}; "
            "an argument belongs into pipe, anything else has to be removed"
            for key in runner
            if key not in {"pipe_id", "pipe", *others}
        ]
        if not isinstance(pipe, Mapping):
            said = "is missing" if pipe is None else f"is {pipe!r}"
            problems.append(f"{place}: pipe {said}, but has to be a mapping with use: package.module:Name")
            continue
        use = pipe.get("use")
        if use is None or (isinstance(use, str) and not use.strip()):
            problems.append(f"{place}: pipe.use is missing; name what does the work, as package.module:Name")
            continue
        values = {key: runner[key] for key in others if key in runner}
        values |= {"id": identifier, "use": with_colon(use) if isinstance(use, str) and not factory else use}
        values["with"] = {key: value for key, value in pipe.items() if key != "use"}
        yield Row(place, values, spelled=SPELLED)
