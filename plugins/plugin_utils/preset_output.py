"""The output of a preset's steps: lines under the preset task, and a record for its result."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Timer
from typing import Any

import yaml
from ansible import constants
from ansible.executor.task_result import CallbackTaskResult
from ansible.inventory.host import Host
from ansible.parsing.yaml.dumper import AnsibleDumper
from ansible.playbook.task import Task
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible.plugins.loader import callback_loader
from ansible.utils.color import stringc
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.ansible_internals import (
    StepCallback,
    role_of,
    send_event,
)

SLOW_SECONDS = 3.0
DEBUG = ("debug", "ansible.builtin.debug", "ansible.legacy.debug")
FAILED = ("failed", "unreachable")
COLORS = {
    "ok": constants.COLOR_OK,
    "changed": constants.COLOR_CHANGED,
    "skipped": constants.COLOR_SKIP,
    "failed": constants.COLOR_ERROR,
    "unreachable": constants.COLOR_UNREACHABLE,
}


@dataclass(kw_only=True)
class Step:
    """One finished step.

    Args:
        name: the task's name, after its role's name if it has a role.
        status: ok, changed, skipped, failed or unreachable.
        changed: also true for a step that changed something and then failed.
        message: its `msg`, or the output of a failed command.
        ignored: the step failed and its errors are ignored.
    """

    name: str
    status: str
    changed: bool
    message: str
    ignored: bool = False

    @property
    def text(self) -> str:
        """Name and message in one text."""
        return f"{self.name}: {self.message or self.status}"

    def summary(self) -> dict[str, Any]:
        """The step for the preset task's result."""
        flags = {
            "changed": self.changed,
            "failed": self.status in FAILED,
            "skipped": self.status == "skipped",
        }
        return {"name": self.name, **flags} | ({"msg": self.message} if self.message else {})


class StepOutput(StepCallback):
    """The only callback of a nested run; the caller's callbacks see one task, the preset.

    Args:
        preset: the name at the start of each line.
        task: the preset task, whose banner is printed before the first line.
        host: its host.
        hide: removes the secrets from a text.
    """

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = _load_name = "selfhosted.prefect.preset"

    def __init__(self, *, preset: str, task: Task, host: Host, hide: Callable[[str], str]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._preset = preset
        self._task = task
        self._host = host
        self._hide = hide
        self._timer: Timer | None = None
        self._attempts = 0
        stdout = callback_loader.get(constants.DEFAULT_STDOUT_CALLBACK, class_only=True)
        self._for_people = isinstance(stdout, type) and issubclass(stdout, DefaultCallback)

    @property
    def failure(self) -> Step | None:
        """The last step that failed and was not ignored; irrelevant if a rescue handled it."""
        return next((s for s in reversed(self.steps) if s.status in FAILED and not s.ignored), None)

    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        """Print that the step is running, but only if it takes long."""
        self._stop_timer()
        self._attempts = 0
        line = self._line(host.get_name(), self._name(task), "running ...")
        self._timer = Timer(SLOW_SECONDS, self._show, (line, constants.COLOR_HIGHLIGHT))
        self._timer.daemon = True
        self._timer.start()

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        self._stop_timer()
        if not isinstance(result.task, TaskInclude):
            self._finish(result, "changed" if result.is_changed() else "ok")

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        self._stop_timer()
        self._finish(result, "skipped")

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        self._stop_timer()
        self._finish(result, "failed", ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._stop_timer()
        self._finish(result, "unreachable", ignored=bool(result.task.ignore_unreachable))

    def v2_runner_item_on_ok(self, result: CallbackTaskResult) -> None:
        if not isinstance(result.task, TaskInclude):
            self._report(result, "changed" if result.is_changed() else "ok")

    def v2_runner_item_on_skipped(self, result: CallbackTaskResult) -> None:
        self._report(result, "skipped")

    def v2_runner_item_on_failed(self, result: CallbackTaskResult) -> None:
        self._report(result, "failed")

    def v2_runner_retry(self, result: CallbackTaskResult) -> None:
        # Counted here: `attempts` in the result is the failed attempt up to core 2.20, and the next one from 2.21 on.
        self._attempts += 1
        left = result.result["retries"] - self._attempts
        line = self._line(self.host_label(result), self._name(result.task), f"not yet, {left} tries left")
        self._show(line, constants.COLOR_DEBUG)

    def v2_on_file_diff(self, result: CallbackTaskResult) -> None:
        results = result.result.get("results", [result.result]) if result.task.loop else [result.result]
        for one in results:
            if one.get("changed") and (diff := self.diff_text(one.get("diff") or [])):
                self._show(diff.rstrip("\n"))

    def _finish(self, result: CallbackTaskResult, status: str, *, ignored: bool = False) -> None:
        """Record the step, and print it unless its items have been printed."""
        self.steps.append(
            Step(
                name=self._name(result.task),
                status=status,
                changed=result.is_changed(),
                message=self._hide(words(result, status)),
                ignored=ignored,
            )
        )
        if not (result.task.loop and result.result.get("results")):
            self._report(result, status, ignored=ignored)

    def _report(self, result: CallbackTaskResult, status: str, *, ignored: bool = False) -> None:
        self._attempts = 0
        outcome = result.result
        self.show_warnings(outcome)
        verbose = self._display.verbosity > 0
        # Half of the steps are for other hosts than this one.
        if status == "skipped" and not verbose:
            return
        name = self._name(result.task)
        if "ansible_loop_var" in outcome:
            name += f" ({self.item_label(outcome)})"
        talks = result.task.action in DEBUG
        if status == "ok" and not talks and not self.get_option("display_ok_hosts"):
            return
        line = self._line(self.host_label(result), name, status + (" (ignored)" if ignored else ""))
        if talks or status in FAILED:
            line += "\n" + textwrap.indent(words(result, status), " " * 6)
        if status in FAILED:
            line += f"\n      at {result.task.get_path()}"
            if self._display.verbosity > 2:
                self.show_exception(outcome)
        if verbose and not talks:
            line += textwrap.indent(self.result_text(outcome), " " * 4)
        self._show(line, constants.COLOR_SKIP if ignored else COLORS[status])

    def _line(self, host: str, name: str, status: str) -> str:
        return f"  {self._preset} | {host} | {name}: {status}"

    def _name(self, task: Task) -> str:
        name = str(task.name or task.action).strip()
        role = role_of(task)
        return f"{role.get_name(include_role_fqcn=False)} : {name}" if role else name

    def _show(self, text: str, color: str | None = None) -> None:
        """Print through the process that owns the terminal.

        A line is sent as a diff of the preset task, the only event for which `default` first prints the task's banner
        and then the text unchanged. With `no_log`, which censors the diff, it is displayed directly. A stdout callback
        that is not derived from `default` may be writing JSON, so steps are printed only with -vv.
        """
        text = self._hide(text)
        if not self._for_people:
            self._display.vv(text)
        elif self._task.no_log:
            self._display.display(text, color=color)
        else:
            line = {"changed": True, "diff": {"prepared": stringc(text, color)}}
            send_event("v2_on_file_diff", self._host, self._task, line)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def words(result: CallbackTaskResult, status: str) -> str:
    """The text of a step: why it failed, or its message if it succeeded."""
    said = {key: value for key, value in result.result.items() if not key.startswith(("_ansible", "ansible_loop"))}
    if status in FAILED:
        return explain(said)
    if result.task.action in DEBUG and not said.keys() & {"msg", "censored"}:
        return readable({key: value for key, value in said.items() if key not in ("changed", "item")})
    return "" if "results" in said else readable(said.get("msg") or said.get("censored") or "")


def explain(result: Mapping[str, Any]) -> str:
    """Why a step failed: its message, and the last 20 lines of a failed command's output."""
    items = result.get("results")
    if isinstance(items, list):
        failed = [item for item in items if isinstance(item, dict) and (item.get("failed") or item.get("unreachable"))]
        if failed:
            return "\n".join(dict.fromkeys(explain(item) for item in failed))
    said = readable(next((result[key] for key in ("msg", "reason", "censored") if result.get(key)), ""))
    written = str(result.get("stderr") or result.get("stdout") or result.get("module_stderr") or "").strip()
    return "\n".join([said, *written.splitlines()[-20:]]).strip()


def readable(value: Any) -> str:
    """A value as readable text: text unchanged, a list of texts as lines, anything else as YAML."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if isinstance(value, dict | list):
        return str(yaml.dump(value, Dumper=AnsibleDumper, allow_unicode=True, sort_keys=False)).rstrip("\n")
    return str(value)
