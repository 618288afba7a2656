"""Run a preset's steps as a play of one host, in the process that executes the preset task."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.executor.process.worker import WorkerProcess
from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.inventory.host import Host
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.block import Block
from ansible.playbook.helpers import load_list_of_blocks
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.playbook.task_include import TaskInclude
from ansible.utils.context_objects import CLIArgs
from ansible.vars.manager import VariableManager
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import ansible_internals as internals
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_file import Preset
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.preset_output import StepOutput

Handlers = Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]

COLLECTION = "selfhosted.prefect"
RUNNING: list[Path] = []

# Keywords that steps inherit from the preset task, whose values are final by now. Not inherited: keywords that control
# whether and how often the task itself runs or may fail (when, loop, run_once, ignore_errors, tags, throttle, ...).
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a preset's steps ended.

    Args:
        failed: a step failed, or the host could not be reached.
        unreachable: the host could not be reached.
        facts: the facts that the caller does not have yet, so that they need not be gathered again.
    """

    failed: bool
    unreachable: bool
    facts: dict[str, Any]


def run_steps(
    preset: Preset,
    *,
    task: Task,
    host: Host,
    variables: Mapping[str, Any],
    loader: DataLoader,
    play_context: PlayContext,
    output: StepOutput,
    hide: Callable[[str], str],
) -> Outcome:
    """Run the preset's steps on `host` as if they were in the place of `task`.

    Args:
        task: the preset task, post-validated.
        variables: the steps see these besides the variables of `task`, with the precedence of an include's `vars`.
        play_context: the caller's, for the passwords entered on the command line.
        output: receives every event.
        hide: removes the secrets from a text; applied to everything that is printed.

    Raises:
        AnsibleActionFail: the preset calls itself, directly or through another one.
        AnsibleError: the steps cannot be loaded.
    """
    # These are command-line options, but `check_mode` and `diff` on the preset task apply, too.
    options = {"ansible_check_mode": task.check_mode, "ansible_diff_mode": task.diff}
    manager = internals.own_variables(task.get_variable_manager(), options)
    inventory = internals.inventory_of(manager)
    inventory.restrict_to_hosts([host])
    known = internals.facts_of(manager, host)
    with entered(preset.path), own_options(), internals.hidden_from_display(hide), own_signals() as handlers:
        play = steps_play(preset, task=task, variables=variables, manager=manager, loader=loader)
        queue = TaskQueueManager(
            inventory=inventory,
            variable_manager=manager,
            loader=loader,
            passwords={"conn_pass": play_context.password, "become_pass": play_context.become_pass},
            forks=1,
        )
        pass_signals_on(queue.get_workers, handlers)
        code = internals.run(queue, play, output)
    return Outcome(
        failed=code != TaskQueueManager.RUN_OK,
        unreachable=bool(code & TaskQueueManager.RUN_UNREACHABLE_HOSTS),
        facts={name: value for name, value in internals.facts_of(manager, host).items() if name not in known},
    )


def steps_play(
    preset: Preset,
    *,
    task: Task,
    variables: Mapping[str, Any],
    manager: VariableManager,
    loader: DataLoader,
) -> Play:
    """The caller's play with the preset's steps as its only tasks.

    The hosts pattern, variables and roles are the caller's, so that magic and role variables have the same meaning as
    in the preset task; the restriction of the inventory limits the play to one host.
    """
    outer = task.get_play()
    role = internals.role_of(task)
    play = internals.like_play(outer, manager)
    play.gather_facts = False
    play.strategy = "ansible.builtin.linear"
    play.roles = [internals.without_tasks(one) for one in [*outer.roles, *([role] if role else [])]]

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


@contextmanager
def entered(path: Path) -> Generator[None]:
    """Reject a preset that calls itself.

    Raises:
        AnsibleActionFail: a parent process already runs `path`.
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
    """The command line for the steps.

    The preset task was selected, and with it all its steps: --tags only adds those tagged `never`. --skip-tags works as
    usual. --step and --start-at-task apply to the preset task as a whole.
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
    """Restore the signal handlers that the nested run replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handlers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def pass_signals_on(workers: Callable[[], list[WorkerProcess | None]], handlers: Handlers) -> None:
    """On a signal, end the nested run's workers and then this process, immediately, as any Ansible worker ends.

    The nested task queue would instead unwind and wait for output that a killed worker has left half-written.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for worker in workers():
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
