"""Keeps the processes from which a worker forks its flow runs: one of the release, and one of each environment in use.

The first one is a fork of the worker, before it has a thread. All others are new processes of the worker's program, for
the worker has threads by then: in place of one that has ended, and of an environment of packages when the first flow
run uses it. A flow run does not wait for one that is not ready; it starts as without.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import warm

PROGRAM = "bin/prefect-environment"
"""What runs a flow run in an environment, beside the directory of all environments, as a worker's command line has it.

Where it is a fork, this module does the same as templates/opt/prefect/bin/prefect-environment.j2.
"""

NAME = re.compile(r"[A-Za-z0-9_-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SPAWNS = re.compile(r"from multiprocessing\.spawn import spawn_main; spawn_main\(tracker_fd=(\d+), pipe_handle=(\d+)\)")
"""The program of a process of multiprocessing."""

PATIENCE = 10.0
"""Seconds in which a zygote answers; it needs about 20 ms."""

STARTING = 120.0
"""Seconds in which a zygote becomes ready; it needs about two."""

DELAYS = (0.0, 10.0, 60.0, 300.0, 900.0)
"""Seconds before each attempt to replace a zygote that has ended; after the last one, there is none."""

SETTLED = 600.0
"""Seconds after which the end of a zygote counts as the first one again."""

REAPING = 5.0
"""Seconds between two looks for zygotes to end or replace, and for processes that flow runs have left behind."""

PR_SET_CHILD_SUBREAPER = 36


class Zygote:
    """The worker's end of a zygote, which runs in an environment of variables."""

    def __init__(self, pid: int, channel: socket.socket, *, held: Mapping[str, str], is_ready: bool) -> None:
        self.pid, self.channel, self.held, self.is_ready = pid, channel, held, is_ready
        self.begun = time.monotonic()

    def is_alive(self) -> bool:
        """Return whether it can answer, now or when it is ready."""
        try:
            said = self.channel.recv(32, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return self.is_ready or time.monotonic() < self.begun + STARTING
        except OSError:
            return False
        self.is_ready = said == warm.READY
        return self.is_ready

    def start(self, task: warm.Task, descriptors: Mapping[int, int], more: Sequence[int] = ()) -> int | None:
        """Return the number of a new process that runs a task, or 0 if it cannot be forked. None: there is no answer.

        `descriptors` are the new process's, by the number that each is to have there, and it has `more` of any number.
        """
        with contextlib.ExitStack() as opened:
            order = opened.enter_context(os.fdopen(os.memfd_create("flow-run"), "w+b"))
            order.write(json.dumps({"task": asdict(task), "targets": list(descriptors)}).encode())
            order.flush()
            answer, reply = os.pipe()
            opened.callback(os.close, answer)
            try:
                passed = array.array("i", [order.fileno(), reply, *descriptors.values(), *more])
                self.channel.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
            except OSError:
                return None
            finally:
                os.close(reply)
            ready = select.poll()
            ready.register(answer, select.POLLIN)
            found = os.read(answer, 32) if ready.poll(PATIENCE * 1000) else b""
            return int(found) if found else None

    def kill(self) -> None:
        self.channel.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class Place:
    """A Python of which flow runs are forked, with its zygote if it has one.

    `begin` returns a new zygote, or raises OSError.
    """

    def __init__(self, python: str, begin: Callable[[], Zygote], *, name: str = "", zygote: Zygote | None = None):
        self.python, self.begin, self.zygote = python, begin, zygote
        self.of = f" of the environment {name}" if name else ""
        self.failures, self.next, self.used = 0, 0.0, time.monotonic()

    def tend(self) -> None:
        """Begin a zygote if there is none and it is time."""
        if self.zygote:
            was_ready = self.zygote.is_ready
            if not self.zygote.is_alive():
                self.lose()
            elif self.failures and self.zygote.is_ready and not was_ready:
                print(f"The warm process{self.of} is ready again.", flush=True)
        if self.zygote or time.monotonic() < self.next:
            return
        try:
            self.zygote = self.begin()
        except OSError as error:
            print(f"Cannot start the warm process{self.of}: {error}", file=sys.stderr, flush=True)
            self.count()

    def fork(self, task: warm.Task, descriptors: Mapping[int, int], more: Sequence[int] = ()) -> int | None:
        """Return the number of a new process that runs a task, or None if there is no zygote that can be asked now."""
        self.used = time.monotonic()
        self.tend()
        if not self.zygote or not self.zygote.is_ready:
            return None
        pid = self.zygote.start(task, descriptors, more)
        if pid is None:
            self.lose()
        return pid or None

    def lose(self) -> None:
        """Do without a zygote that has ended or does not answer."""
        assert self.zygote
        if time.monotonic() > self.zygote.begun + SETTLED:
            self.failures = 0
        self.zygote.kill()
        self.zygote = None
        self.count()

    def count(self) -> None:
        self.failures += 1
        ended = f"The warm process{self.of} has ended"
        if self.failures > len(DELAYS):
            self.next = float("inf")
            print(f"{ended} {self.failures} times. Flow runs start in new ones until the worker restarts.", flush=True)
        else:
            self.next = time.monotonic() + DELAYS[self.failures - 1]
            print(f"{ended}. Flow runs start in new ones until another one is ready.", flush=True)

    def retire(self) -> None:
        """Let the zygote end. The flow runs that it has forked go on."""
        if self.zygote:
            self.zygote.channel.close()
            self.zygote = None


class Zygotes:
    """All zygotes of a worker.

    Args:
        program: the worker's command line, without its Python.
        first: the zygote of the release.
        waited_for: returns the processes whose exit status the worker reads itself.
        environments: the directory of the environments; None if their flow runs are not forked.
        idle: seconds after the last flow run in which the zygote of an environment remains.
        is_script: whether this process runs a script of a user's, which may have children of its own.
    """

    def __init__(
        self,
        program: Sequence[str],
        first: Zygote,
        waited_for: Callable[[], set[int]],
        *,
        environments: Path | None = None,
        idle: float = 0,
        is_script: bool = False,
    ) -> None:
        self.program, self.waited_for, self.environments, self.idle = program, waited_for, environments, idle
        self.release = Place(sys.executable, lambda: spawn(sys.executable, program, {}), zygote=first)
        self.places: dict[str, Place] = {}
        self.lock = threading.Lock()
        self.is_script, self.sessions, self.spawned = is_script, set[int](), set[int]()
        self.ended: set[int] = set()

    def start(
        self,
        command: Sequence[Any],
        environment: Mapping[str, str] | None,
        options: Mapping[str, Any],
        descriptors: Mapping[int, int],
    ) -> int | None:
        """Return the number of a new process that runs a command, or None if the command is to be started as usual.

        `options` are other arguments of subprocess.Popen, as its `_execute_child` has them.
        """
        with self.lock:
            words = [] if isinstance(command, str | bytes | os.PathLike) else [os.fsdecode(word) for word in command]
            given = dict(os.environ if environment is None else environment)
            place = self.release
            if name := self.environment_of(words, given):
                python = self.python_of(name)
                if python is None:
                    return None
                added = {"PATH": f"{Path(python).parent}:{given['PATH']}", "UV_PYTHON": python}
                words, given = [python, "-m", warm.ENGINE], given | added | working_directory(given, options)
                place = self.places.get(name) or self.place(name, python)
                if place.python != python:
                    place.retire()
                    place = self.place(name, python)
            held = place.zygote.held if place.zygote else os.environ
            task = warm.task_of(words, given, options, python=place.python, held=held)
            if task is None:
                return None
            if name:
                self.places[name] = place
            pid = place.fork(task, descriptors)
            if pid:
                self.sessions.add(pid)
            return pid

    def note(self, pid: int) -> None:
        """Leave the exit status of a process to what has started it."""
        with self.lock:
            self.spawned.add(pid)

    def spawn(self, command: Sequence[str | bytes], descriptors: Sequence[int]) -> int | None:
        """Return the number of a new process of multiprocessing, or None if it is to be started as usual."""
        # Between them are the options of this Python, which the zygote has as well.
        words = [os.fsdecode(word) for word in command]
        found = SPAWNS.fullmatch(words[-2]) if len(words) > 3 else None
        if not found or [words[0], words[-3], words[-1]] != [sys.executable, "-c", "--multiprocessing-fork"]:
            return None
        tracker, pipe = map(int, found.groups())
        # One more is open as long as the process runs. Others would have to keep their numbers.
        more = [tracker, pipe, *(set(descriptors) - {tracker, pipe})]
        with self.lock:
            zygote = self.release.zygote
            if len(more) != 3 or not warm.may_fork(os.environ, zygote.held if zygote else None):
                return None
            try:
                directory, standard = str(Path.cwd()), {number: number for number in (0, 1, 2) if os.fstat(number)}
            except OSError:
                return None
            return self.release.fork(warm.Task(warm.SPAWNED, [], dict(os.environ), directory), standard, more)

    def environment_of(self, words: Sequence[str], given: Mapping[str, str]) -> str:
        """Return the environment whose engine a command line runs, or an empty string."""
        if not self.environments or not self.idle or len(words) != 2 or not NAME.fullmatch(words[1]):
            return ""
        own = self.environments.parent / PROGRAM
        if words[0].rpartition("/")[2] != own.name or not given.get("PATH"):
            return ""
        # The shell that starts it elsewhere removes such a variable.
        if not all(VARIABLE.fullmatch(name) for name in given):
            return ""
        found = shutil.which(words[0], path=given["PATH"])
        return words[1] if found and os.path.realpath(found) == os.path.realpath(own) else ""

    def python_of(self, name: str) -> str | None:
        """Return the Python of an environment as it is now, or None if this host has no such environment."""
        python = f"{os.path.realpath(f'{self.environments}/{name}/current')}/bin/python"
        return python if os.access(python, os.X_OK) else None

    def place(self, name: str, python: str) -> Place:
        def begin() -> Zygote:
            search = f"{Path(python).parent}:{os.environ.get('PATH', os.defpath)}"
            return spawn(python, self.program, {"PATH": search, "UV_PYTHON": python})

        return Place(python, begin, name=name)

    def tend(self) -> None:
        """Replace the zygotes that have ended, and end those that are no longer used."""
        with self.lock:
            self.release.tend()
            for name, place in list(self.places.items()):
                if time.monotonic() > place.used + self.idle or self.python_of(name) != place.python:
                    place.retire()
                    del self.places[name]
                else:
                    place.tend()

    def own(self) -> set[int]:
        """Return the numbers of all zygotes."""
        with self.lock:
            return {place.zygote.pid for place in (self.release, *self.places.values()) if place.zygote}

    def watch(self) -> None:
        """Look after the zygotes, and read the exit statuses of processes that flow runs have left behind."""
        while True:
            time.sleep(REAPING)
            for look in (self.tend, self.reap):
                try:
                    look()
                except Exception as error:
                    print(f"Cannot look after the warm processes: {error}", file=sys.stderr, flush=True)

    def reap(self) -> None:
        """Read the exit statuses of processes that nothing waits for and that had ended before."""
        found = children()
        waited, own = self.waited_for(), self.own()
        with self.lock:
            self.spawned &= found
            left = found - waited - own - self.spawned
            if self.is_script:
                # A flow run has a session of its own, and so has what it leaves behind.
                sessions = {pid: session(pid) for pid in left}
                self.sessions &= found | {*sessions.values()}
                left = {pid for pid in left if sessions[pid] in self.sessions}
            # One that has just been started is not yet among those that are waited for.
            before, self.ended = self.ended, {pid for pid in left if has_ended(pid)}
            for pid in before & self.ended:
                with contextlib.suppress(OSError):
                    os.waitpid(pid, os.WNOHANG)


def session(pid: int) -> int:
    """Return the session of a process, or 0 if there is no such process any more."""
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return 0


def has_ended(pid: int) -> bool:
    """Return whether a child of this process has ended. Its exit status can be read after that as well."""
    with contextlib.suppress(OSError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def working_directory(given: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the PWD of a process that a shell starts: it corrects one that is set."""
    directory = options.get("cwd")
    return {"PWD": os.path.realpath(os.fsdecode(directory))} if "PWD" in given and directory is not None else {}


def children() -> set[int]:
    """Return the numbers of this process's children."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, ValueError):
            found.update(int(pid) for pid in (task / "children").read_text(encoding="ascii").split())
    return found


def becomes_subreaper() -> bool:
    """Let processes that a flow run leaves behind come to this process; see Zygotes.watch()."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        print(f"Flow runs start in new processes: {os.strerror(ctypes.get_errno())}", file=sys.stderr, flush=True)
        return False
    return True


def begin_apart(program: Sequence[str]) -> Zygote | None:
    """Return a zygote that is a new process, or None if there is none. This process does not import Prefect."""
    try:
        return spawn(sys.executable, program, {}) if becomes_subreaper() else None
    except OSError as error:
        print(f"Flow runs start in new processes: {error}", file=sys.stderr, flush=True)
        return None


def begin(modules: Sequence[str]) -> Zygote | warm.Task | None:
    """Import Prefect, and fork a zygote, which imports `modules`. Call it before this process has a thread.

    Returns the zygote, or None if there is none. In a process of a flow run it returns what this process is to run.
    """
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not becomes_subreaper():
        return None
    warm.import_prefect()
    pid = os.fork()
    if pid:
        child.close()
        return Zygote(pid, parent, held=dict(os.environ), is_ready=True)
    parent.close()
    return warm.work(child, modules)


def spawn(python: str, program: Sequence[str], variables: Mapping[str, str]) -> Zygote:
    """Start a zygote that is a new process of the worker's program, by a Python, with more variables.

    Not by subprocess.Popen, which is the worker's own here and waits for what it has started. Raises OSError.
    """
    held = {**os.environ, **variables}
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.closing(child), contextlib.closing(child.dup()) as spare:
        pid = os.posix_spawn(
            python,
            [python, program[0], "--zygote", str(child.fileno()), *program[1:]],
            {**held, warm.MARK: warm.NO_RUN},
            file_actions=[(os.POSIX_SPAWN_DUP2, spare.fileno(), child.fileno())],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    return Zygote(pid, parent, held=held, is_ready=False)


def begun(descriptor: int, modules: Sequence[str]) -> warm.Task:
    """Be a zygote that `spawn` has started. Returns in a process of a flow run what that is to run."""
    # The worker's signals are for the worker; its end is seen at the socket.
    warm.ignore_signals()
    os.environ.pop(warm.MARK, None)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    warm.import_prefect()
    # The first zygote has said what cannot be imported, and an environment need not have it.
    found = [name for name in modules if importlib.util.find_spec(name.partition(".")[0])]
    return warm.work(channel, found, says_so=True)
