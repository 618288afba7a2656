"""Runs a worker whose flow runs the kernel kills first when memory is short; it may drain, and start them warm.

Prefect has no setting for this. The processes of flow runs inherit the OOM score adjustment of their worker, so the
kernel may kill the worker, and with it all of its flow runs. A process may raise the adjustment of another one of its
account; this program therefore runs the worker in its own process and raises it for each flow run that the worker
starts. If Prefect starts a flow run in another way, its adjustment stays that of the worker.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import runpy
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..api.client import Failure
from . import drain, wake, warm, zygotes
from .rescue import memory_kills
from .status import client_of

GROUPS = Path("/sys/fs/cgroup")
PROCESSES = Path("/proc")

MORE = 200
"""What is added to a worker's OOM score adjustment for its flow runs: a fifth of the memory there is counts as used."""

HIGHEST = 1000

KILLED = {-9, 137}
"""Exit statuses of a process, and of a shell that waited for it, after SIGKILL."""

REAPING = 10.0
"""Seconds in which the worker reads the exit status of a flow run that has ended."""

MESSAGE = (
    "The kernel killed this flow run for memory. prefect_worker_memory_max limits the memory of a worker and its flow "
    "runs; without a limit, the memory of the host was used up."
)

_reported = threading.Lock()
_known = {"kills": 0}


_started: weakref.WeakSet[Process] = weakref.WeakSet()
_adding = threading.Lock()


class Process(subprocess.Popen[Any]):
    """A process that is killed before its parent if it runs a flow run, and whose flow run's log says so.

    With zygotes, one of them forks it if it can.
    """

    zygotes: zygotes.Zygotes | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with _adding:
            _started.add(self)
        run = (kwargs.get("env") or {}).get("PREFECT__FLOW_RUN_ID")
        if run:
            raise_adjustment(self.pid)
            # Before the worker can read the exit status, and another process get the number.
            with contextlib.suppress(OSError, AttributeError):
                descriptor = os.pidfd_open(self.pid)
                kills = memory_kills(GROUPS, PROCESSES)
                threading.Thread(target=watch, args=(self, descriptor, str(run), kills), daemon=True).start()

    def _execute_child(self, *args: Any) -> None:
        given = dict(zip(PARAMETERS, args, strict=True))
        if not isinstance(given["args"], str | bytes | os.PathLike):
            # It may be one that can be read only once.
            given["args"] = list(given["args"])
        if self.zygotes:
            ends = {0: given["p2cread"], 1: given["c2pwrite"], 2: given["errwrite"]}
            ends = {number: end for number, end in ends.items() if end != -1}
            pid = self.zygotes.start(given["args"], given["env"], given, ends)
            if pid:
                self.pid, self._child_created = pid, True
                self._close_pipe_fds(*(given[name] for name in PIPES))  # type: ignore[attr-defined]
                return
        super()._execute_child(*given.values())  # type: ignore[misc]


PARAMETERS = list(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]  # type: ignore[attr-defined]
"""What Popen.__init__ gives its method that starts a process, in each version of Python in its order."""

PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def replace_spawn() -> None:
    """Let multiprocessing start its processes as `Process` does: so does Prefect for a flow that serves itself."""
    util: Any = importlib.import_module("multiprocessing.util")
    usual = util.spawnv_passfds

    def spawnv_passfds(path: Any, command: Sequence[str | bytes], descriptors: Sequence[int]) -> int:
        kept = Process.zygotes
        pid: int = (kept.spawn(command, descriptors) if kept else None) or usual(path, command, descriptors)
        if kept:
            kept.note(pid)
        if os.fsdecode(command[-1]) == "--multiprocessing-fork":
            raise_adjustment(pid)
        return pid

    util.spawnv_passfds = spawnv_passfds


def forget_zygotes() -> None:
    """Start processes as without zygotes, in a process that has been forked."""
    Process.zygotes = None


def waited_for() -> set[int]:
    """Return the numbers of the processes whose exit status this process reads."""
    with _adding:
        started = list(_started)
    return {process.pid for process in started if process.returncode is None}


def adjustment() -> int:
    """Return the OOM score adjustment of this process. Raises OSError."""
    return int(Path(PROCESSES, "self", "oom_score_adj").read_text(encoding="ascii"))


def raise_adjustment(pid: int, worker: int | None = None) -> None:
    """Let the kernel kill a process, and what it will start, before the worker. Ignores a process that has ended.

    `worker` is the adjustment of the worker, by default of this process.
    """
    with contextlib.suppress(OSError, ValueError):
        own = adjustment() if worker is None else worker
        Path(PROCESSES, str(pid), "oom_score_adj").write_text(str(min(own + MORE, HIGHEST)), encoding="ascii")


def watch(process: subprocess.Popen[Any], descriptor: int, run: str, before: int) -> None:
    """Wait until a process has ended; if the kernel killed it for memory, write so into the log of its flow run.

    Args:
        descriptor: of the process, which this function closes.
        before: how many processes of the unit the kernel had killed when this one was started.
    """
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        end.poll()
    finally:
        os.close(descriptor)
    # The worker waits for the process, so this function must not.
    deadline = time.monotonic() + REAPING
    while process.returncode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.returncode not in KILLED:
        return
    with _reported:
        kills = memory_kills(GROUPS, PROCESSES)
        if kills <= max(before, _known["kills"]):
            return
        _known["kills"] = max(before, _known["kills"]) + 1
    try:
        report(run)
    except Failure as error:
        print(f"flow run {run}: {MESSAGE} Its log does not say so: {error}", file=sys.stderr, flush=True)


def report(run: str) -> None:
    """Write into the log of a flow run that it was killed for memory. Raises Failure."""
    now = datetime.now(timezone.utc).isoformat()
    line = {"name": "prefect.worker", "level": 40, "message": MESSAGE, "timestamp": now, "flow_run_id": run}
    with client_of(os.environ) as api:
        api.post("/logs/", [line])


def main(arguments: Sequence[str]) -> None:
    """Run the program of a worker in this process. `arguments` are the path of this program, and its arguments."""
    options = parsed(arguments[1:])
    if options.zygote is not None:
        own = adjustment()
        task = zygotes.begun(options.zygote, options.preload)
        # The worker may already have raised that of this process.
        raise_adjustment(os.getpid(), own)
        warm.run(task)
        return
    drain.turn_to_release()
    if options.warm:
        warm.make_room()
        own = adjustment()
        # A script decides by what it sets first how Prefect is imported in its own process.
        zygote = zygotes.begin_apart(arguments) if options.served else zygotes.begin(options.preload)
        if isinstance(zygote, warm.Task):
            raise_adjustment(os.getpid(), own)
            warm.run(zygote)
            return
        if zygote:
            idle = 60 * options.idle_minutes
            Process.zygotes = zygotes.Zygotes(
                arguments, zygote, waited_for, environments=options.environments, idle=idle, is_script=options.served
            )
            # What a script forks itself has threads and locks of its own.
            os.register_at_fork(after_in_child=forget_zygotes)
            threading.Thread(target=Process.zygotes.watch, daemon=True).start()
    if options.drain or options.wake:
        from prefect.workers.base import BaseWorker

        if options.drain:
            drain.install(BaseWorker, options.drain)
        if options.wake:
            wake.install(BaseWorker, options.wake)
    subprocess.Popen = Process  # type: ignore[misc]
    if options.served:
        replace_spawn()
    sys.argv = options.program
    # Python puts the directory of its program first.
    if sys.path and sys.path[0] == str(Path(arguments[0]).parent):
        sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch-worker", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--drain", type=int, default=0, metavar="SECONDS", help="let the worker drain")
    parser.add_argument("--wake", metavar="POOL", help="look at once for each flow run that is scheduled in this pool")
    parser.add_argument("--warm", action="store_true", help="fork flow runs from a process that has imported Prefect")
    parser.add_argument("--preload", action="append", default=[], metavar="MODULE", help="import it there, too")
    parser.add_argument("--environments", type=Path, metavar="DIRECTORY", help="keep such a process for each one used")
    parser.add_argument("--idle-minutes", type=float, default=15, metavar="N", help="how long after its last flow run")
    parser.add_argument("--served", action="store_true", help="the program is a script that serves flows")
    parser.add_argument("--zygote", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    parser.add_argument("program", nargs=argparse.REMAINDER, help="path of the program, and its arguments")
    return parser.parse_args(arguments)
