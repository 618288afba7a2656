"""Everything that the preset task uses of ansible-core beyond its plugin interface; a moved name is detected here.

Names are looked up; versions are never compared. This module imports only the plugin interface itself, so that it loads
on any ansible-core and can report what is missing.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as core_version
from ansible.utils.display import Display

if TYPE_CHECKING:
    from ansible.executor.task_queue_manager import TaskQueueManager
    from ansible.inventory.host import Host
    from ansible.inventory.manager import InventoryManager
    from ansible.playbook.play import Play
    from ansible.playbook.role import Role
    from ansible.playbook.task import Task
    from ansible.vars.manager import VariableManager

SUPPORTED = "2.19 to 2.22"

# Class or function by module, and the names that it must have, as attributes or set by its `__init__`.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "ansible.executor.process.worker:WorkerProcess": (),
    "ansible.executor.task_queue_manager:AnsibleEndPlay": (),
    "ansible.executor.task_queue_manager:FinalQueue": ("send_callback", "send_display"),
    "ansible.executor.task_queue_manager:TaskQueueManager": ("_callback_plugins", "cleanup", "get_workers", "run"),
    "ansible.playbook.block:Block": (),
    "ansible.playbook.helpers:load_list_of_blocks": (),
    "ansible.playbook.play:Play": (
        "_action_groups",
        "_group_actions",
        "_loader",
        "_removed_hosts",
        "_variable_manager",
    ),
    "ansible.playbook.role:Role": ("from_include", "public"),
    "ansible.playbook.task:Task": ("_role",),
    "ansible.playbook.task_include:TaskInclude": (),
    "ansible.plugins.callback:CallbackBase": (
        "_dump_results",
        "_get_diff",
        "_get_item_label",
        "_handle_exception",
        "_handle_warnings",
        "_init_callback_methods",
        "_plugin_options",
        "host_label",
    ),
    "ansible.utils.context_objects:CLIArgs": (),
    "ansible.utils.display:Display": ("_final_q",),
    "ansible.vars.manager:VariableManager": (
        "_fact_cache",
        "_inventory",
        "_nonpersistent_fact_cache",
        "_options_vars",
        "_vars_cache",
    ),
}


def require_core() -> None:
    """Reject an unsupported ansible-core.

    Raises:
        AnsibleError: names the missing internals and the supported versions.
    """
    if gone := missing():
        raise AnsibleError(
            f"The preset task works inside ansible-core, and {core_version} lacks {', '.join(gone)}."
            f" This release of selfhosted.prefect supports ansible-core {SUPPORTED}: install one of these, or a newer"
            " selfhosted.prefect. The playbooks and roles of the collection do not need the preset task."
        )


@cache
def missing() -> tuple[str, ...]:
    """The names of NEEDED that this ansible-core lacks, as `module.Class.name`."""
    gone = []
    for where, names in NEEDED.items():
        module, _, thing = where.partition(":")
        try:
            found = getattr(import_module(module), thing)
        except (ImportError, AttributeError):
            gone.append(f"{module}.{thing}")
            continue
        gone += [f"{module}.{thing}.{name}" for name in names if not has(found, name)]
    if not gone and event_sender() is None:
        gone.append("a known signature of ansible.executor.task_queue_manager.FinalQueue.send_callback")
    return tuple(gone)


def has(thing: type, name: str) -> bool:
    """Whether a class has an attribute, or its `__init__` or that of a base class sets it."""
    makers = [base.__dict__.get("__init__") for base in inspect.getmro(thing)]
    return hasattr(thing, name) or any(
        inspect.isfunction(maker) and name in maker.__code__.co_names for maker in makers
    )


# Events that a worker sends while a task runs


@cache
def event_sender() -> Callable[[str, Host, Task, dict[str, Any]], None] | None:
    """The function that sends an event of a task to the parent process's callbacks, by the queue's signature."""
    queue = import_module("ansible.executor.task_queue_manager").FinalQueue
    taken = tuple(inspect.signature(queue.send_callback).parameters)[1:]
    senders = {("method_name", "task_result"): send_raw, ("method_name", "host", "task", "utr"): send_unified}
    return senders.get(taken)


def send_raw(event: str, host: Host, task: Task, result: dict[str, Any]) -> None:
    """Send an event in the form of ansible-core 2.19 and 2.20."""
    raw = import_module("ansible.executor.task_result")._RawTaskResult
    shown = {"name": task.name, "check_mode": task.check_mode}
    Display()._final_q.send_callback(event, raw(host=host, task=task, return_data=result, task_fields=shown))


def send_unified(event: str, host: Host, task: Task, result: dict[str, Any]) -> None:
    """Send an event in the form of ansible-core 2.21 and newer."""
    unified = import_module("ansible._internal._task").UnifiedTaskResult
    Display()._final_q.send_callback(event, host, task, unified.from_action_result_dict(result))


def send_event(event: str, host: Host, task: Task, result: dict[str, Any]) -> None:
    """Send `event` of `task` with this result to the callbacks of the parent process."""
    if sender := event_sender():
        sender(event, host, task, result)


class HidingQueue:
    """A worker's queue to the parent process, with secrets hidden.

    Args:
        queue: the queue itself.
        hide: removes the secrets from a text.
    """

    def __init__(self, queue: Any, hide: Callable[[str], str]) -> None:
        self._queue = queue
        self._hide = hide

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def send_display(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Print with a method of Display, hiding the secrets in its arguments."""
        self._queue.send_display(
            method, *self._clean(args), **{key: self._clean(value) for key, value in kwargs.items()}
        )

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, tuple | list):
            return type(value)(self._clean(one) for one in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{one.name: self._clean(getattr(value, one.name)) for one in fields(value)})
        return value


@contextmanager
def hidden_from_display(hide: Callable[[str], str]) -> Generator[None]:
    """Hide the secrets in everything that this process prints, including -vvv output, warnings and tracebacks."""
    display = Display()
    outer = display._final_q
    display._final_q = HidingQueue(outer, hide) if outer else outer
    try:
        yield
    finally:
        display._final_q = outer


# The context of a task


def inventory_of(manager: VariableManager) -> InventoryManager:
    """The inventory of a variable manager."""
    return manager._inventory


def role_of(task: Task) -> Role | None:
    """The role of a task, if any."""
    return task._role


def facts_of(manager: VariableManager, host: Host) -> dict[str, Any]:
    """A copy of the host's facts, empty if none were gathered."""
    try:
        return dict(manager._fact_cache.get(host.name))
    except KeyError:
        return {}


def own_variables(manager: VariableManager, options: Mapping[str, Any]) -> VariableManager:
    """A variable manager that sees everything `manager` sees, and keeps variables that steps register or set to itself.

    Args:
        options: variables for command-line options that differ from the caller's.
    """
    own = copy.copy(manager)
    for name in ("_nonpersistent_fact_cache", "_vars_cache"):
        setattr(own, name, defaultdict(dict, {host: dict(values) for host, values in getattr(manager, name).items()}))
    own._options_vars = manager._options_vars | options
    return own


def like_play(outer: Play, manager: VariableManager) -> Play:
    """A play with the name, hosts and variables of `outer`, without tasks, roles or keywords that tasks inherit."""
    play = type(outer)()
    for name in ("name", "hosts", "order", "vars", "vars_files", "force_handlers"):
        setattr(play, name, getattr(outer, name))
    for name in ("_loader", "_ds", "_action_groups", "_group_actions"):
        setattr(play, name, getattr(outer, name, None))
    play._variable_manager = manager
    play._removed_hosts = list(outer._removed_hosts)
    return play


def without_tasks(role: Role) -> Role:
    """A copy of `role` with public variables, whose tasks do not run again."""
    twin = copy.copy(role)
    twin.from_include = twin.public = True
    return twin


def run(queue: TaskQueueManager, play: Play, output: CallbackBase) -> int:
    """Run a play with `output` as the only callback, and return the result bits of `TaskQueueManager.run`."""
    queue._callback_plugins.append(output)
    end_play = import_module("ansible.executor.task_queue_manager").AnsibleEndPlay
    try:
        return int(queue.run(play))
    except end_play as end:
        return int(end.result)
    finally:
        queue.cleanup()


# The base class of callbacks


class StepCallback(CallbackBase):
    """A callback with the options of `default`, created without the plugin loader."""

    def __init__(self) -> None:
        super().__init__()
        self._plugin_options = constants.config.get_plugin_options("callback", "default") | {"result_format": "yaml"}
        self._init_callback_methods()

    def show_warnings(self, outcome: dict[str, Any]) -> None:
        """Print the warnings and deprecations of the current result, and remove them from `outcome`."""
        self._handle_warnings(outcome)

    def show_exception(self, outcome: dict[str, Any]) -> None:
        """Print the traceback of the current result, and remove it from `outcome`."""
        self._handle_exception(outcome)

    def diff_text(self, diff: Any) -> str:
        """A result's `diff` as text."""
        return str(self._get_diff(diff))

    def result_text(self, outcome: Mapping[str, Any]) -> str:
        """A whole result as text."""
        return str(self._dump_results(outcome))

    def item_label(self, outcome: Mapping[str, Any]) -> Any:
        """The loop's label for the item of this result."""
        return self._get_item_label(outcome)
