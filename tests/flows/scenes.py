"""Flows that end in every way that a flow can, and write to the file `notes` what they see, for test_warm.py."""

from __future__ import annotations

import asyncio
import json
import locale
import logging
import multiprocessing
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import get_settings_context
from prefect.runtime import deployment, flow_run


def write(notes: str, **seen: Any) -> None:
    path = Path(notes)
    path.with_suffix(".new").write_text(json.dumps(seen, sort_keys=True))
    path.with_suffix(".new").replace(path)
    with path.with_suffix(".random").open("a") as seeds:
        seeds.write(f"{random.random()} {uuid.uuid4()}\n")


def when_crashed(flow: Any, flow_run: Any, state: Any) -> None:
    write(flow_run.parameters["notes"], hook=f"crashed as {state.type.value}")


def when_cancelled(flow: Any, flow_run: Any, state: Any) -> None:
    write(flow_run.parameters["notes"], hook=f"cancelled as {state.type.value}")


@flow
def returns(notes: str) -> int:
    write(notes, returned=1)
    return 1


@flow(log_prints=True)
def describes_itself(notes: str) -> None:
    """Say what a flow can know about its process that must not depend on how the process was started."""
    print(f"loaded early: {'early' in sys.modules}")
    own = {"PREFECT__FLOW_RUN_ID", "PREFECT__DEPLOYMENT_ID", "PREFECT__DEPLOYMENT_NAME", "PREFECT__CONTROL_PORT"}
    own |= {"PREFECT__CONTROL_TOKEN", "PREFECT__WORKER_ID", "PREFECT__WORKER_NAME", "PREFECT__STORAGE_BASE_PATH"}
    main = sys.modules["__main__"]
    write(
        notes,
        arguments=sys.argv,
        directory=str(Path.cwd()),
        environment={name: without_temporary(value) for name, value in os.environ.items() if name not in own},
        from_c=subprocess.run(["sh", "-c", "echo $SHOP"], capture_output=True, text=True, check=True).stdout,
        executable=sys.executable,
        locale=[locale.setlocale(locale.LC_CTYPE), locale.getpreferredencoding(), sys.getfilesystemencoding()],
        is_leader=os.getsid(0) == os.getpid(),
        flags=repr(sys.flags),
        main=[main.__name__, main.__spec__.name if main.__spec__ else None],
        # Older versions have a temporary directory there.
        path=[without_temporary(entry) for entry in sys.path],
        run=[bool(flow_run.id), bool(deployment.name)],
        settings=str(get_settings_context().settings.api.url),
        signals=[str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD)],
        masked=[str(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        standard_input=stat.S_IFMT(os.fstat(0).st_mode),
        streams=[stream.line_buffering for stream in (sys.stdout, sys.stderr)],
        threads=sorted(thread.name for thread in threading.enumerate() if thread is threading.main_thread()),
        time=time.strftime("%Z", time.localtime(0)),
        umask=os.umask(0o022),
        logging=loggers(),
        open=sorted(open_files()),
    )


def without_temporary(text: str) -> str:
    """The worker makes a directory for each flow run; a shell also says in PWD that it is in it."""
    return re.sub(r"/tmp\w+prefect$", "/temporary", text)


@flow
def logs_in_its_own_way(notes: str) -> None:
    write(notes, logging=loggers())


def loggers() -> dict[str, Any]:
    """What is set for loggers of Prefect's, of a library of the user's, and for all."""
    found = {}
    for name in ("root", "prefect", "prefect.flow_runs", "prefect.extra", "shop"):
        logger = logging.getLogger(name if name != "root" else None)
        formats = [getattr(handler.formatter, "_fmt", None) for handler in logger.handlers]
        dates = [getattr(handler.formatter, "datefmt", None) for handler in logger.handlers]
        found[name] = [logger.level, [type(handler).__name__ for handler in logger.handlers], formats, dates]
    return found


def open_files() -> list[str]:
    """What this process has open that is no socket, pipe or the like of Prefect's."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("/") and not target.startswith("/proc/"):
            found.append(target)
    return found


@flow(on_crashed=[when_crashed])
def raises(notes: str) -> None:
    raise ValueError("no")


@flow(on_crashed=[when_crashed])
def exits(notes: str) -> None:
    sys.exit(3)


@flow(on_crashed=[when_crashed])
def exits_at_once(notes: str) -> None:
    os._exit(5)


@flow(on_crashed=[when_crashed])
def is_killed(notes: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@flow(on_crashed=[when_crashed])
def ends_by_sigterm(notes: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@flow(on_cancellation=[when_cancelled])
def sleeps(notes: str) -> None:
    write(notes, pid=os.getpid())
    for _ in range(600):
        time.sleep(0.5)


@flow(on_cancellation=[when_cancelled])
def ignores_sigterm(notes: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write(notes, pid=os.getpid())
    for _ in range(600):
        time.sleep(0.5)


@task
def number(index: int) -> int:
    return index


@flow
def below(index: int) -> int:
    return int(number(index))


@flow
def has_subflows_and_tasks(notes: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        threads = list(pool.map(abs, range(4)))
    write(notes, subflow=below(4), tasks=[future.result() for future in number.map([1, 2, 3])], threads=threads)


@flow
def runs_on_dask(notes: str) -> None:
    from prefect_dask import DaskTaskRunner

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1, "processes": True}))
    def on_dask() -> list[int]:
        return [future.result() for future in number.map([1, 2, 3])]

    write(notes, tasks=on_dask())


def square(index: int) -> int:
    return index * index


@flow
def starts_processes(notes: str) -> None:
    found = {}
    for method in ("fork", "forkserver", "spawn"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            found[method] = list(pool.map(square, range(3)))
    distinct = len({random.random(), random.random(), uuid.uuid4(), uuid.uuid4()})
    write(notes, distinct=distinct, **found)


@flow
def leaves_a_process(notes: str) -> None:
    subprocess.Popen(["sleep", "1"], start_new_session=True)
    write(notes, left=True)


@flow
async def is_async(notes: str) -> None:
    await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(3)))
    write(notes, loop=type(asyncio.get_running_loop()).__name__)


@flow
def yields(notes: str) -> Iterator[int]:
    yield 1
    write(notes, yielded=1)
    yield 2
