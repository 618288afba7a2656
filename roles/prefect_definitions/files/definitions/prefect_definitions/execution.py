"""What a task does: call Python, run a command, or have a Celery worker do it. Each ends in time, and when told to."""

from __future__ import annotations

import asyncio
import codecs
import contextvars
import ctypes
import importlib
import importlib.util
import inspect
import os
import re
import selectors
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import Logger
from pathlib import Path
from typing import Any

from .orchestrator import PATH, with_colon

GUARD = Path(__file__).with_name("guard.py")
POLL = 0.1
"""Seconds in which a task notices that it is to stop."""

CLEANUP = 2.0
"""Seconds that a function has to tidy up after it was interrupted."""

LINE = 100_000
OUTPUT = 1_000_000
"""Characters of one line in a log, and of a command's output that become its result."""


class Stopped(BaseException):
    """The run is being cancelled; raised inside a function that is interrupted, past its `except Exception`."""


class CommandFailed(RuntimeError):
    """A command, or a function that called sys.exit, ended with an exit code other than 0."""


@dataclass
class Limit:
    """How long a task may go on: until its timeout, or until its flow run is cancelled."""

    seconds: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise Stopped or TimeoutError where it may not."""
        if self.stop.is_set():
            raise Stopped("the flow run is being cancelled")
        if self.seconds is not None and time.monotonic() - self.started > self.seconds:
            raise TimeoutError(f"it was not done after {self.seconds:g} s")


FACTORIES: dict[str, Callable[[str], Any]] = {}
"""Factories that no other process can import, by the names that definitions have for them."""


def resolved(use: str, factory: str = "") -> Any:
    """Return what `use` names: the import path of something, or a name that `factory` resolves.

    With a factory, `use` is an import path if this Python has a package of the name that it begins with.
    Raises ImportError where it cannot be imported or resolved, for whatever reason, and TypeError where it cannot be
    called.
    """
    if not factory:
        return workable(use, imported(use))
    path = with_colon(use)
    if PATH.fullmatch(path) and has_package(path):
        return workable(use, imported(path))
    make = FACTORIES.get(factory) or imported(factory)
    if not callable(make):
        raise TypeError(f"{factory} cannot be called")
    try:
        target = make(use)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        raise ImportError(f"{factory} cannot resolve {use!r}: {type(error).__name__}: {error}") from error
    if target is None:
        raise ImportError(f"{factory} returned None for {use!r}; correct the name, or the factory")
    return workable(f"what {factory} returned for {use!r}", target)


def has_package(path: str) -> bool:
    """Return whether this Python has the package or module that an import path begins with."""
    try:
        return importlib.util.find_spec(re.split(r"[.:]", path, maxsplit=1)[0]) is not None
    except ValueError:
        # A module without a specification, such as __main__.
        return True


def workable(name: str, target: Any) -> Any:
    """Return `target`. Raises TypeError where it cannot be called or is a class without anything to run."""
    if isinstance(target, type) and not (hasattr(target, "run") or hasattr(target, "process")):
        raise TypeError(f"{name} is a class without run() and process()")
    if not callable(target):
        raise TypeError(f"{name} cannot be called")
    return target


def imported(use: str) -> Any:
    """Return what `package.module:name` names. Raises ImportError where it cannot be imported, for whatever reason."""
    module, _, path = use.partition(":")
    try:
        target = importlib.import_module(module)
        for part in path.split("."):
            if not hasattr(target, part):
                raise ImportError(f"{use} cannot be imported: {module} has no {path}")
            target = getattr(target, part)
    except SystemExit as error:
        raise ImportError(
            f"{use} cannot be imported: {module} calls sys.exit({error.code!r}) when it is imported; "
            'put that below `if __name__ == "__main__":`'
        ) from error
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        if isinstance(error, ImportError) and str(error).startswith(f"{use} "):
            raise
        raise ImportError(f"{use} cannot be imported: {type(error).__name__}: {error}") from error
    return target


def call(use: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, limit: Limit, factory: str = "") -> Any:
    """Return what a function, a coroutine or a class's `run()` or `process()` returns.

    It runs in a thread of its own, so that it can be interrupted: Python code at its next step, a coroutine where it
    awaits. What waits inside a C library is left behind.
    """
    target = resolved(use, factory)
    outcome: dict[str, Any] = {}
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    done = threading.Event()

    async def awaited(value: Any) -> Any:
        current = asyncio.current_task()
        assert current is not None
        loops.append((asyncio.get_running_loop(), current))
        return await value

    def work() -> None:
        try:
            if isinstance(target, type):
                instance = target(*args, **kwargs)
                value = (instance.run if hasattr(instance, "run") else instance.process)()
            else:
                value = target(*args, **kwargs)
            outcome["result"] = asyncio.run(awaited(value)) if inspect.isawaitable(value) else value
        except SystemExit as error:
            # As of a program: no code and 0 are success.
            if error.code:
                outcome["error"] = CommandFailed(f"{use} called sys.exit({error.code!r})")
            else:
                outcome["result"] = None
        except BaseException as error:
            outcome["error"] = error
        finally:
            done.set()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name=use, daemon=True)
    thread.start()
    try:
        while not done.wait(POLL):
            limit.check()
    except BaseException:
        if loops:
            loop, task = loops[0]
            loop.call_soon_threadsafe(task.cancel)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
        done.wait(CLEANUP)
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def words(command: str | Sequence[Any]) -> list[Any]:
    """Return a command as words. A text is split as a shell would, which then does nothing else."""
    return shlex.split(command) if isinstance(command, str) else list(command)


def run(command: Sequence[Any], *, limit: Limit, logger: Logger) -> str:
    """Run a command without a shell, log its output line by line, and return its standard output.

    Raises CommandFailed with its exit code. Nothing that it has started outlives it.
    """
    guard = [sys.executable, "-I", "-S", str(GUARD), *map(str, command)]
    process = subprocess.Popen(
        guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin and process.stdout and process.stderr
    output: list[str] = []
    pending: dict[Any, str] = {process.stdout: "", process.stderr: ""}
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in pending}

    def take(stream: Any, data: bytes) -> None:
        text = decoders[stream].decode(data, final=not data)
        if stream is process.stdout:
            output.append(text)
            while len(output) > 1 and sum(map(len, output)) - len(output[0]) > OUTPUT:
                del output[0]
        *lines, rest = (pending[stream] + text).split("\n")
        if len(rest) > LINE or (not data and rest):
            lines, rest = [*lines, rest], ""
        pending[stream] = rest
        for line in lines:
            logger.info(line.rstrip("\r")[:LINE])

    with process, selectors.DefaultSelector() as selector:
        try:
            for stream in pending:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(POLL):
                    data = os.read(key.fd, 65536)
                    take(key.fileobj, data)
                    if not data:
                        selector.unregister(key.fileobj)
                limit.check()
        finally:
            # This is what the guard waits for.
            process.stdin.close()
            process.wait()
    if process.returncode:
        raise CommandFailed(f"{command[0]} ended with exit code {process.returncode}")
    return "".join(output)[-OUTPUT:].strip()


def check_call(use: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, factory: str = "") -> None:
    """See that something can be imported or resolved and takes such arguments. Raises ImportError or TypeError."""
    target: Callable[..., Any] = resolved(use, factory)
    try:
        signature = inspect.signature(target)
    except ValueError:
        # What is written in C does not always say what it takes.
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{use}{signature} cannot be called so: {error}") from error
