"""Run a preset's steps for real: a play of one host inside the process that executes the preset task."""

from __future__ import annotations

import copy
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.executor.process.worker import WorkerProcess
from ansible.executor.task_queue_manager import AnsibleEndPlay, TaskQueueManager
from ansible.inventory.host import Host
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.block import Block
from ansible.playbook.helpers import load_list_of_blocks
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.role import Role
from ansible.playbook.task import Task
from ansible.playbook.task_include import TaskInclude
from ansible.utils.context_objects import CLIArgs
from ansible.vars.manager import VariableManager
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_file import Preset
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_output import StepOutput

Handlers = Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]

COLLECTION = "selfhosted.prefect"
RUNNING: list[Path] = []

# What a step takes over from the preset task, whose own values are final by now. Not among them: what says whether and
# how often the task itself runs or may fail (when, loop, run_once, ignore_errors, tags, throttle, ...).
INHERITED = (
    "connection",
    "port",
    "remote_user",
    "become",
    "become_method",
    "become_user",
    "become_flags",
    "become_exe",
    "check_mode",
    "diff",
    "environment",
    "no_log",
    "module_defaults",
    "delegate_to",
    "delegate_facts",
)


def run_steps(
    preset: Preset,
    *,
    task: Task,
    host: Host,
    variables: Mapping[str, Any],
    loader: DataLoader,
    play_context: PlayContext,
    output: StepOutput,
) -> tuple[int, dict[str, Any]]:
    """Run the preset's steps on `host` as if they stood where `task` stands.

    Args:
        task: the preset task, post-validated.
        variables: what the steps see beside everything that `task` itself sees; as strong as an include's `vars`.
        play_context: the caller's, for the passwords asked on the command line.
        output: gets every event.

    Returns:
        The code of `TaskQueueManager.run` (0, or bits of RUN_FAILED_HOSTS and RUN_UNREACHABLE_HOSTS), and the facts
        that the caller did not have, so that nothing has to gather them again.

    Raises:
        AnsibleActionFail: the preset is running already, further out.
        AnsibleError: the steps cannot be loaded.
    """
    manager = own_variables(task._variable_manager, task)
    manager._inventory.restrict_to_hosts([host])
    known = facts_of(manager, host)
    with entered(preset.path), own_options(), own_signals() as handlers:
        play = steps_play(preset, task=task, variables=variables, manager=manager, loader=loader)
        queue = TaskQueueManager(
            inventory=manager._inventory,
            variable_manager=manager,
            loader=loader,
            passwords={"conn_pass": play_context.password, "become_pass": play_context.become_pass},
            forks=1,
        )
        queue._callback_plugins.append(output)
        pass_signals_on(queue._workers, handlers)
        try:
            code = int(queue.run(play))
        except AnsibleEndPlay as end:
            code = int(end.result)
        finally:
            queue.cleanup()
    return code, {name: value for name, value in facts_of(manager, host).items() if name not in known}


def steps_play(
    preset: Preset,
    *,
    task: Task,
    variables: Mapping[str, Any],
    manager: VariableManager,
    loader: DataLoader,
) -> Play:
    """The caller's play with the preset's steps as its only tasks.

    Hosts pattern, variables and roles are the caller's, so that magic and role variables mean what they mean in the
    preset task; the restriction of the inventory makes it a play of one host.
    """
    outer = task.get_play()
    play = Play()
    for name in ("name", "hosts", "order", "vars", "vars_files", "force_handlers"):
        setattr(play, name, getattr(outer, name))
    for name in ("_loader", "_ds", "_action_groups", "_group_actions"):
        setattr(play, name, getattr(outer, name, None))
    play._variable_manager = manager
    play._removed_hosts = list(outer._removed_hosts)
    play.gather_facts = False
    play.strategy = "ansible.builtin.linear"
    play.roles = [variables_of(role) for role in [*outer.roles, *([task._role] if task._role else [])]]

    caller = Block(play=play)
    for name in INHERITED:
        setattr(caller, name, getattr(task, name))
    caller.collections = list(dict.fromkeys([*(task.collections or []), COLLECTION, "ansible.legacy"]))
    caller.vars = task.get_vars()
    caller.debugger = "never"

    include = TaskInclude(block=caller)
    include.action = "ansible.builtin.include_tasks"
    include.args = {"_raw_params": str(preset.path)}
    include.vars = dict(variables)
    play.tasks = load_list_of_blocks(
        preset.steps, play=play, parent_block=include, variable_manager=manager, loader=loader
    )
    return play


def variables_of(role: Role) -> Role:
    """`role` with its variables public and none of its tasks run again."""
    twin = copy.copy(role)
    twin.from_include = twin.public = True
    return twin


def facts_of(manager: VariableManager, host: Host) -> dict[str, Any]:
    """A copy of the host's facts, empty where none were gathered."""
    try:
        return dict(manager._fact_cache.get(host.name))
    except KeyError:
        return {}


def own_variables(manager: VariableManager, task: Task) -> VariableManager:
    """A variable manager that sees all that the caller's does, and keeps what steps register or set to itself."""
    own = copy.copy(manager)
    for name in ("_nonpersistent_fact_cache", "_vars_cache"):
        setattr(own, name, defaultdict(dict, {host: dict(values) for host, values in getattr(manager, name).items()}))
    # Of the command line by default; `check_mode` and `diff` on the preset task count as much.
    own._options_vars = manager._options_vars | {"ansible_check_mode": task.check_mode, "ansible_diff_mode": task.diff}
    return own


@contextmanager
def entered(path: Path) -> Generator[None]:
    """Refuse a preset inside itself.

    Raises:
        AnsibleActionFail: `path` is being run already, by a process that this one descends from.
    """
    if path in RUNNING:
        raise AnsibleActionFail(f"A preset cannot run itself: {' -> '.join(map(str, [*RUNNING, path]))}.")
    RUNNING.append(path)
    try:
        yield
    finally:
        RUNNING.remove(path)


@contextmanager
def own_options() -> Generator[None]:
    """The command line as the steps are to see it.

    The preset task was chosen, so all its steps are: --tags only adds those tagged `never`. --skip-tags is as ever.
    --step and --start-at-task have had their say on the task as a whole.
    """
    outer = context.CLIARGS
    own = {"tags": ["all", *outer.get("tags", [])], "step": False, "start_at_task": None}
    context.CLIARGS = CLIArgs({**outer, **own})
    try:
        yield
    finally:
        context.CLIARGS = outer


@contextmanager
def own_signals() -> Generator[Handlers]:
    """Give the handlers back, when it is over, that the nested run replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handlers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def pass_signals_on(workers: Sequence[WorkerProcess | None], handlers: Handlers) -> None:
    """End the nested run's workers at a signal, and then what it runs in: at once, as any worker of Ansible ends.

    A task queue of its own would unwind, and wait for what a worker that is gone has left half-written.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if worker is not None and worker.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)

    for number in handlers:
        signal.signal(number, end)
