"""Starts the processes of flow runs by a fork of a process that has already imported Prefect.

Python and the import of Prefect take most of the time between Submitted and Running. A zygote is a child of the worker
that has imported what a flow run needs, runs no thread, and forks when the worker asks for a process. The new process
becomes a child of the worker, as if the worker had started it: the worker is the subreaper of what it starts, so the
kernel hands it the process when the zygote's helper that forked it ends. Process number, signals, exit status and
process group are therefore the flow run's own.

What cannot be forked is started as without a zygote: another program than Prefect's, and everything when the zygote
does not answer. The worker and the zygote share a socket pair, which no other process can open. The worker's end is in
zygotes.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ENGINE = "prefect.engine"
SUPERVISOR = "prefect.runner._workspace_supervisor"
"""Since Prefect 3.8, the program that runs a deployment's pull steps and then becomes the engine."""

SPAWNED = "multiprocessing.spawn"
"""What `flow.serve()` runs: a process of Python's multiprocessing, which is given the flow by a pipe."""

IMPORTED = (
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.flows",
    "prefect.deployments.steps",
    "prefect.client.orchestration",
    "prefect.events.clients",
    "prefect._internal.metrics",
    "prefect.runner._workspace_resolver",
    SUPERVISOR,
)
"""What flow runs import. A version of Prefect need not have all of them."""

RUN_AS_MAIN = ("prefect.runner._workspace_resolver", SUPERVISOR)
"""Modules that are run as programs: only what they import may stay imported."""

READ_AT_START = (
    *("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_"),
    # The default of Prefect's api.ssl_cert_file, and what ssl, fsspec and the other libraries keep.
    *("SSL", "HOME", "FSSPEC_", "WEBSOCKETS_", "OTEL_", "PROMETHEUS_", "prometheus_", "PYDANTIC_"),
    *("COOLNAME_", "GRIFFE_", "PENDULUM_"),
    # The console to which Prefect logs.
    *("NO_COLOR", "FORCE_COLOR", "TTY_", "COLUMNS", "LINES", "TERM", "COLORTERM"),
)
"""Prefixes of variables that are read only when a process starts, or when it imports Prefect.

Prefect's own are not among them: `adopt` has it read them again.
"""

MARK = "PREFECT__FLOW_RUN_ID"
"""The variable by which others recognize the process of a flow run in /proc, see rescue.running()."""

NO_RUN = " " * 36

READY = b"ready for orders of kind 1"
"""What a zygote says first. The files of a worker may have been replaced since it started; then this differs."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Task:
    """A program of Prefect's to run: a module and its arguments, with an environment, in a directory.

    The arguments of a process of multiprocessing are the descriptors of its resource tracker and of its pipe.
    """

    module: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str | None = None
    new_session: bool = False

    @property
    def options(self) -> list[str]:
        """What Python is started with to run it."""
        if self.module != SPAWNED:
            return ["-m", self.module, *self.arguments]
        tracker, pipe = self.arguments
        program = f"from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd={tracker}, pipe_handle={pipe})"
        return ["-c", program, "--multiprocessing-fork"]


def task_of(
    words: Sequence[str],
    environment: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    python: str | None = None,
    held: Mapping[str, str] | None = None,
) -> Task | None:
    """Return what a command line runs, or None if a fork of a zygote cannot do the same.

    Args:
        words: the command line of a process that is to be started.
        environment: of the process.
        options: other arguments of subprocess.Popen, as its `_execute_child` has them.
        python: the zygote's; None is that of this process.
        held: the zygote's environment; None is that of this process.
    """
    if list(words[:2]) != [python or sys.executable, "-m"] or len(words) < 3 or words[2] not in (ENGINE, SUPERVISOR):
        return None
    if not may_fork(environment, held):
        return None
    usual: dict[str, Any] = {
        "executable": None,
        "preexec_fn": None,
        "pass_fds": (),
        "shell": False,
        "restore_signals": True,
    }
    usual |= {"close_fds": True, "gid": None, "gids": None, "uid": None, "umask": -1, "process_group": -1}
    if any(name in options and options[name] not in (value, [value]) for name, value in usual.items()):
        return None
    directory = None if options.get("cwd") is None else Path(os.fsdecode(options["cwd"])).absolute()
    if directory is not None and not directory.is_dir():
        return None
    return Task(
        words[2],
        list(words[3:]),
        dict(environment),
        None if directory is None else str(directory),
        bool(options.get("start_new_session")),
    )


def may_fork(environment: Mapping[str, str], held: Mapping[str, str] | None = None) -> bool:
    """Return whether a process has what Python reads only at its start in common with `environment`.

    `held` is the environment of the process, by default of this one.
    """

    def read_at_start(variables: Mapping[str, str]) -> dict[str, str]:
        names = (name for name in variables if name.startswith(READ_AT_START) and name != "PYTHONPATH")
        return {name: variables[name] for name in names}

    return read_at_start(environment) == read_at_start(os.environ if held is None else held)


def make_room() -> None:
    """Replace this process by the same one with room in its environment for the id of a flow run.

    Others see a process's first environment in /proc. Raises OSError.
    """
    if MARK not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {MARK: NO_RUN})
    del os.environ[MARK]


def import_prefect() -> None:
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def close_inherited(channel: socket.socket) -> None:
    """Close what the worker has inherited, but for the three descriptors that every process has.

    A new process would not have it either; what Python opens itself is no part of that.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            descriptor = int(entry.name)
            if descriptor > 2 and descriptor != channel.fileno() and os.get_inheritable(descriptor):
                os.close(descriptor)


def work(channel: socket.socket, modules: Sequence[str], *, says_so: bool = False) -> Task:
    """Be a zygote, which has imported Prefect. Returns in each new process what that is to run."""
    # The worker's signals are for the worker; its end is seen at the socket.
    ignore_signals()
    close_inherited(channel)
    load(modules)
    if says_so:
        with contextlib.suppress(OSError):
            channel.send(READY)
    task = serve(channel)
    if task is None:
        os._exit(0)
    channel.close()
    return task


def load(modules: Sequence[str]) -> None:
    """Import `modules` as far as that starts no thread, and make what is imported ready for forks."""
    for name in modules:
        if problem := trial(name):
            print(f"prefect_worker_preload: {name} is left out: {problem}", file=sys.stderr, flush=True)
        else:
            importlib.import_module(name)
    for name in RUN_AS_MAIN:
        package, _, last = name.rpartition(".")
        if sys.modules.pop(name, None) is not None:
            delattr(sys.modules[package], last)
    # What is here now stays: no process of a flow run looks at it again, and its pages remain shared.
    gc.collect()
    gc.freeze()


def trial(name: str) -> str:
    """Return why a module cannot be imported before a fork, or an empty string. Tries it in a process of its own."""
    result, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        problem = ""
        try:
            importlib.import_module(name)
            if threading.active_count() > 1:
                problem = "it starts threads"
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            os.write(report, problem.encode()[:4000] or b"\0")
        os._exit(0)
    os.close(report)
    with os.fdopen(result, "rb") as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said.decode(errors="replace").strip("\0") if said else "its import ended the process"


def serve(channel: socket.socket) -> Task | None:
    """Fork for each order of the worker. Returns the task in the new process, and None when the worker has ended."""
    while True:
        _, passed, _, _ = socket.recv_fds(channel, 1, 8)
        if not passed:
            return None
        order, reply, *given = passed
        pid = fork_away()
        if pid is None:
            os.close(reply)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            with os.fdopen(order, "rb") as stream:
                stream.seek(0)
                wanted = json.load(stream)
            # What comes after those that have a number of their own stays open, and is what the task is about.
            for target in wanted["targets"]:
                descriptor = given.pop(0)
                os.dup2(descriptor, target)
                os.close(descriptor)
            task = Task(**wanted["task"])
            return replace(task, arguments=[*map(str, given[:2])]) if given else task
        with contextlib.suppress(OSError):
            os.write(reply, str(pid).encode())
        for descriptor in passed:
            os.close(descriptor)


def fork_away() -> int | None:
    """Fork a process whose parent is this one's parent. Returns None in it, and its number here; 0 if there is none."""
    result, report = os.pipe()
    try:
        helper = os.fork()
    except OSError as error:
        print(f"Cannot fork: {error}", file=sys.stderr, flush=True)
        os.close(result)
        os.close(report)
        return 0
    if helper == 0:
        pid = -1
        with contextlib.suppress(OSError):
            pid = os.fork()
        if pid:
            os.write(report, str(max(pid, 0)).encode())
            os._exit(0)
        os.close(result)
        os.close(report)
        return None
    os.close(report)
    with os.fdopen(result, "rb") as stream:
        said = stream.read()
    # When the helper has ended, its child has its new parent.
    os.waitpid(helper, 0)
    return int(said or 0)


def run(task: Task) -> None:
    """Run a task in this process, as `python -m` does."""
    if task.module == SPAWNED:
        adopt(task)
        tracker, pipe = map(int, task.arguments)
        importlib.import_module(SPAWNED).spawn_main(tracker_fd=tracker, pipe_handle=pipe)
        return
    # The engine is imported before, by what it imports itself.
    warnings.filterwarnings("ignore", message=".* found in sys.modules after import", category=RuntimeWarning)
    runpy.run_module(follow(task).module, run_name="__main__", alter_sys=True)


def follow(task: Task) -> Task:
    """Become the process of a task, and return what it runs in the end.

    The program that prepares a workspace runs in a child: it starts threads, and a process that becomes the engine by
    a fork must have none. It says what to run in place of its own exec.
    """
    if task.new_session:
        os.setsid()
    if task.module == SUPERVISOR:
        result, report = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(result)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            os.execvpe = hand_over(report)
            adopt(task)
            return task
        appear(task)
        os.close(report)
        with os.fdopen(result, "rb") as stream:
            said = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not said:
            end_as(status)
        command, environment, directory = json.loads(said)
        following = None
        if command[:2] == [sys.executable, "-m"] and command[2:3] == [ENGINE] and may_fork(environment):
            following = Task(ENGINE, command[3:], environment, directory)
        if following is None:
            os.chdir(directory)
            os.execvpe(command[0], command, environment)
        task = following
    adopt(task)
    return task


def hand_over(report: int) -> Any:
    """Return a function in place of os.execvpe that lets the parent of this process do what it is told."""

    def execvpe(file: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(report, "w", encoding="utf-8") as stream:
            json.dump([[file, *command[1:]], dict(environment), str(Path.cwd())], stream)
        os._exit(0)

    return execvpe


def end_as(status: int) -> None:
    """End this process as another one has: with its exit status, or by its signal."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def adopt(task: Task) -> None:
    """Give this process the environment, directory, module path and settings of a task.

    If a version of Prefect does not allow that, this process becomes a new one that runs the task.
    """
    if task.directory is not None:
        os.chdir(task.directory)
    own, inherited = path_of(os.environ), dict(os.environ)
    os.environ.clear()
    os.environ.update(task.environment)
    time.tzset()
    appear(task)
    sys.path[:] = [str(Path.cwd()), *path_of(task.environment), *(entry for entry in sys.path[1:] if entry not in own)]
    sys.orig_argv = [sys.executable, *task.options]
    sys.argv = [task.module, *task.arguments] if task.module != SPAWNED else ["-c", task.options[-1]]
    try:
        context: Any = importlib.import_module("prefect.context")
        before = context.GLOBAL_SETTINGS_CONTEXT
        # As refresh_global_settings_context(), which Prefect has since 3.6.
        context.GLOBAL_SETTINGS_CONTEXT = now = context.root_settings_context()
        if not logs_alike(before, now, inherited=inherited, environment=task.environment):
            set_up_logging(before)
        if numpy := sys.modules.get("numpy.random"):
            numpy.seed()
    except Exception as error:
        print(f"This flow run starts in a new process: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os.execve(sys.executable, sys.orig_argv, task.environment)


def logs_alike(before: Any, now: Any, *, inherited: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Return whether the logging that Prefect set up when it was imported is that of a task as well.

    To set it up again takes longer than the rest of `adopt`. A file of the user's may depend on any setting.
    """
    path = now.settings.logging.config_path
    if path is not None and Path(path).exists():
        return False

    def all_of(context: Any, variables: Mapping[str, str]) -> list[Any]:
        settings = context.settings
        given = {name: value for name, value in variables.items() if name.startswith("PREFECT_LOGGING_")}
        return [settings.logging, settings.internal, settings.debug_mode, settings.server.logging_level, given]

    return all_of(before, inherited) == all_of(now, environment)


def set_up_logging(before: Any) -> None:
    """Set up Prefect's logging as in a new process, whatever it was before."""
    extra = logging.getLogger("prefect.extra").handlers
    for name in before.settings.logging.extra_loggers or ():
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if handler not in extra]
    importlib.import_module("prefect.logging.configuration").setup_logging(incremental=False)


def path_of(environment: Mapping[str, str]) -> list[str]:
    return [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


def appear(task: Task) -> None:
    """Let `ps` and /proc show what this process runs, and for which flow run. Does nothing where it cannot."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        # proc_pid_stat(5): fields 48 to 51, and field 3 is the first after the name.
        first, last, env_first, env_last = (int(fields[number - 3]) for number in (48, 49, 50, 51))
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            title = " ".join([sys.executable, *task.options]).encode()
            memory.seek(first)
            memory.write(title[: last - first - 1].ljust(last - first, b"\0"))
            memory.seek(env_first)
            found = memory.read(env_last - env_first).find(f"{MARK}=".encode())
            if found >= 0:
                memory.seek(env_first + found + len(MARK) + 1)
                memory.write(task.environment.get(MARK, NO_RUN).encode()[: len(NO_RUN)].ljust(len(NO_RUN)))
