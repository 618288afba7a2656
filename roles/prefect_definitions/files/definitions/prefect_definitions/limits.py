"""How many tasks run at once: of a flow run, and on a host.

`PREFECT_DEFINITIONS_TASKS_PER_FLOW` and `PREFECT_DEFINITIONS_TASKS_PER_HOST` say so. Prefect's own limits, of tags and
of work pools, hold beside them: a task that waits for one of those has no place on the host yet.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .execution import Limit
from .records import DefinitionError

PER_FLOW, PER_HOST = "PREFECT_DEFINITIONS_TASKS_PER_FLOW", "PREFECT_DEFINITIONS_TASKS_PER_HOST"
DEFAULTS = {PER_FLOW: 20, PER_HOST: 100}

WAIT = 0.5
"""Seconds between two looks for a place on the host."""

_looking = threading.Lock()


def most(name: str, environment: Mapping[str, str]) -> int:
    """Return a limit, or 0 for none. Raises DefinitionError where it is no number."""
    text = environment.get(name, "").strip() or str(DEFAULTS[name])
    if not text.isdecimal():
        raise DefinitionError([f"{name} is {text!r}, but has to be a whole number, or 0 for no limit"])
    return int(text)


def in_turn(
    upstream: Mapping[str, Sequence[str]], submit: Callable[[str, Callable[[], None]], None], *, limit: int
) -> None:
    """Submit each task once all that it needs has ended, in the order given, at most `limit` at a time; 0 is no limit.

    `submit` starts the task of a name, and calls what it is given when that has ended, from whatever thread.
    """
    missing = {name: len(set(needs)) for name, needs in upstream.items()}
    after: dict[str, list[str]] = {}
    for name, needs in upstream.items():
        for need in set(needs):
            after.setdefault(need, []).append(name)
    ready = deque(name for name, count in missing.items() if not count)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    running = 0
    while ready or running:
        while ready and (not limit or running < limit):
            name = ready.popleft()
            running += 1
            submit(name, lambda name=name: ended.put(name))  # type: ignore[misc]
        name = ended.get()
        running -= 1
        for later in after.get(name, ()):
            missing[later] -= 1
            if not missing[later]:
                ready.append(later)


@contextmanager
def place_on_host(directory: Path, places: int, *, wait: Limit) -> Iterator[None]:
    """Hold one of the `places` of a host, which are files in a directory; 0 is no limit.

    The kernel gives a place back with the process that holds it, however that ends. Raises Stopped.
    """
    if not places:
        yield
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = None
    while held is None:
        # One thread of a process looks for all of them.
        if _looking.acquire(timeout=WAIT):
            try:
                held = first_free(directory, places)
                if held is None:
                    wait.check()
                    wait.stop.wait(WAIT)
            finally:
                _looking.release()
        else:
            wait.check()
    try:
        yield
    finally:
        # Closing it does not do, where a function has forked a process that is still there.
        fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def first_free(directory: Path, places: int) -> int | None:
    """Return a file descriptor that holds the first place that is free, or None where none is."""
    for number in range(places):
        held = locked(directory / str(number))
        if held is not None:
            return held
    return None


def locked(file: Path) -> int | None:
    """Return a file descriptor that has a file locked, or None where another has."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def places_directory(environment: Mapping[str, str]) -> Path:
    """Return where the places of this host are: all workers of an instance have one home, which is their user's."""
    return Path(environment.get("PREFECT_HOME") or Path.home() / ".prefect") / "definitions-places"


def bad_limits(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each limit that is no number."""
    problems: list[str] = []
    for name in DEFAULTS:
        try:
            most(name, environment)
        except DefinitionError as error:
            problems += error.problems
    return problems
