"""For applications: a scheduler that they start and stop, whose runs Prefect plans, tries again and shows.

    application = Application("config.yml")
    application.start()                                # beside whatever else the application does
    result = await application.run_once("ticket_processor")
    application.stop()

or `Application("config.yml").run()`, as the last line of a process that does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from . import sources
from .checks import uncallable
from .directory import FILE, MODULE, definitions_in, enter, write
from .execution import FACTORIES, imported
from .orchestrator import PATH
from .records import DefinitionError
from .schema import Definitions, rows_of

if TYPE_CHECKING:
    from prefect.runner import Runner
    from prefect.schedules import Schedule

PACKAGE = Path(__file__).parent
STOP_SECONDS = 30.0
"""Seconds that runs have to end, once they are told to."""


class Application:
    """Serves the flows of definitions from a process of its own, so that nothing of Prefect runs in the caller's.

    `definitions` is a list of runners, a mapping as in a file of definitions or in a configuration with an
    `orchestrator`, or the name of a file, a directory or a database. `PREFECT_API_URL` says which server plans the
    runs.

    `factory` is called with each `use` that is no import path and returns the callable or class that it names. It is an
    import path, `package.module:callable`, or the callable itself; `start` needs one that another process can import.

    Raises DefinitionError for definitions that are wrong.
    """

    def __init__(
        self,
        definitions: Iterable[Mapping[str, Any]] | Mapping[str, Any] | str | os.PathLike[str],
        *,
        factory: Callable[[str], Any] | str | None = None,
    ) -> None:
        # What only this process has cannot be imported from the definitions of another one.
        self._only_here = "" if factory is None or isinstance(factory, str) else only_here(factory)
        named = factory if isinstance(factory, str) else self._only_here or path_of(factory)
        if isinstance(definitions, str | os.PathLike):
            rows = sources.read(os.fspath(definitions), factory=named)
        elif isinstance(definitions, Mapping):
            rows = rows_of(definitions, factory=named)
        else:
            rows = rows_of({"prefect_runners": list(definitions)}, factory=named)
        self.definitions = Definitions.of(rows)
        self._data = sources.data_of(rows)
        self._directory: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Application:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether flows are being served."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Serve the flows until `stop`; return once their deployments are registered.

        Raises DefinitionError where a `use` cannot be imported, resolved or called with its arguments; nothing is
        registered then. Raises RuntimeError where anything else fails; the reason is in the process's output, which is
        the caller's.
        """
        if self.running:
            return
        problems = uncallable(self.definitions)
        if self._only_here:
            found = path_of(FACTORIES[self._only_here])
            problems.append(f"factory: the process that runs the flows cannot import {found}; define it in a module")
        if problems:
            raise DefinitionError(problems)
        self._stopping.clear()
        # The child reports on its standard output that it is ready, and logs to the inherited standard error.
        command = [sys.executable, "-m", PACKAGE.name, "serve", str(self._place())]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        }
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ready"):
                threading.Thread(target=self._process.stdout.read, daemon=True).start()
                return
        code = self._process.wait()
        self.stop()
        raise RuntimeError(f"the flows could not be served: exit code {code}")

    def stop(self) -> None:
        """Stop serving: schedules are paused until the next start, and runs that are going on are ended."""
        self._stopping.set()
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def run(self) -> None:
        """Serve the flows until SIGTERM, SIGINT or a `stop` from another thread, and restart the process if it ends."""
        signals = (signal.SIGTERM, signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._stop_on) for number in signals} if main else {}
        try:
            self.start()
            while not self._stopping.wait(1.0):
                if not self.running:
                    self.start()
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    async def run_once(self, name: str, /, **parameters: Any) -> Any:
        """Run a flow here and now, and return its result. Raises KeyError for an unknown one, and what made it fail."""
        from .flows import flow_of

        flow = flow_of(self.definitions, name)
        return await asyncio.to_thread(flow, **parameters)

    def _place(self) -> Path:
        """Return a directory in which the runs of another process find these flows."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="prefect-definitions-"))
            shutil.copytree(PACKAGE, self._directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(PACKAGE.parent / MODULE, self._directory)
            paths = [path or str(Path.cwd()) for path in sys.path if Path(path or ".").is_dir()]
            write(self._directory, self._data, paths=paths)
        return self._directory

    def _stop_on(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()


def path_of(factory: Callable[[str], Any] | None) -> str:
    """Return the import path of a callable, as it names itself, or an empty text for None."""
    if factory is None:
        return ""
    return f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__name__)}"


def only_here(factory: Callable[[str], Any]) -> str:
    """Return a name by which this process alone finds a callable, or an empty text if others can import it."""
    path = path_of(factory)
    if PATH.fullmatch(path) and not path.startswith("__main__:"):
        with contextlib.suppress(ImportError):
            if imported(path) == factory:
                return ""
    name = f"{type(factory).__module__}:factory_{id(factory)}"
    FACTORIES[name] = factory
    return name


def serve(directory: Path) -> None:
    """Serve the flows of a directory until SIGTERM, SIGINT, or the end of standard input where that is a pipe.

    Also ends when the definitions change: the supervising process then starts one that serves the new ones.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

    from .resources import resources

    enter(directory, [])
    definitions = definitions_in(directory)
    made = resources(definitions, directory=directory, work_pool="")["prefect_deployments"]
    runner = Runner(name="definitions", pause_on_shutdown=True, limit=None)
    with get_client(sync_client=True) as client:
        for deployment in made:
            served = RunnerDeployment.from_entrypoint(
                f"{directory / deployment['entrypoint']}",
                name=deployment["name"],
                description=deployment["description"],
                tags=deployment["tags"],
                parameters=deployment["parameters"],
                paused=deployment.get("paused"),
                schedules=[schedule_of(schedule) for schedule in deployment["schedules"]],
            )
            # Prefect itself does not change the directory of an existing deployment.
            here = DeploymentUpdate(path=str(Path.cwd()))
            client.update_deployment(runner.add_deployment(served), here)
    asyncio.run(until_stopped(runner, directory / FILE, said=f"ready: {len(made)} flows are served"))


async def until_stopped(runner: Runner, file: Path, *, said: str) -> None:
    """Run a runner until it is told to stop, and cancel then what it runs: Prefect's own handler leaves that going."""
    serving, served = asyncio.ensure_future(runner.start()), file.stat().st_mtime_ns
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: stopping.append(asyncio.ensure_future(runner.astop())))
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_stop_with_the_other_end, daemon=True).start()
    print(said, flush=True)
    while not serving.done():
        await asyncio.wait([serving], timeout=2)
        if not stopping and file.exists() and file.stat().st_mtime_ns != served:
            stopping.append(asyncio.ensure_future(runner.astop()))
    await serving


def schedule_of(given: Mapping[str, Any]) -> Schedule:
    """Return a schedule, as a resource says it, in Prefect's terms."""
    from prefect.schedules import Cron, Interval, RRule

    zone = {"timezone": given["timezone"], "slug": "definition"}
    if "cron" in given:
        return Cron(given["cron"], **zone)
    if "rrule" in given:
        return RRule(given["rrule"], **zone)
    anchor = datetime.fromisoformat(given["anchor_date"].replace("Z", "+00:00")) if "anchor_date" in given else None
    return Interval(given["interval"], anchor_date=anchor, **zone)


def _stop_with_the_other_end() -> None:
    """Stop as on SIGTERM once the parent process has closed standard input or has ended."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
