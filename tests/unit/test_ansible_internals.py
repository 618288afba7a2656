"""What the preset task uses of ansible-core's inside: in one file, and all of it in the core that runs this test."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.executor import task_queue_manager
from ansible.utils.display import Display
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import ansible_internals as internals

ROOT = Path(__file__).resolve().parents[2]
PRESET = [
    *(ROOT / "plugins" / "plugin_utils" / f"preset_{name}.py" for name in ("output", "run")),
    ROOT / "plugins" / "action" / "preset.py",
]
# The plugin interface and its neighbours: public, and older than the oldest core that is supported.
PUBLIC = {
    "ansible",
    "ansible.errors",
    "ansible.executor.task_result",
    "ansible.inventory.host",
    "ansible.parsing.dataloader",
    "ansible.parsing.yaml.dumper",
    "ansible.playbook.play_context",
    "ansible.plugins.action",
    "ansible.plugins.callback.default",
    "ansible.plugins.loader",
    "ansible.utils.color",
}
ACTION = {"_loader", "_play_context", "_requires_connection", "_task", "_templar"}


@pytest.fixture(autouse=True)
def _without_cache() -> None:
    internals.missing.cache_clear()
    internals.event_sender.cache_clear()


def test_this_core_has_all_that_is_used() -> None:
    assert internals.missing() == ()
    internals.require_core()


def test_the_range_is_that_of_the_collection() -> None:
    low, high = internals.SUPPORTED.split(" to ")
    major, minor = map(int, high.split("."))
    declared = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["requires_ansible"]
    assert declared == f">={low}.0,<{major}.{minor + 1}"


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("ansible.executor.task_queue_manager", "FinalQueue"),
        ("ansible.executor.task_queue_manager", "AnsibleEndPlay"),
        ("ansible.playbook.helpers", "load_list_of_blocks"),
    ],
)
def test_a_core_that_lacks_a_name_is_refused(monkeypatch: pytest.MonkeyPatch, where: str, name: str) -> None:
    monkeypatch.delattr(f"{where}.{name}")
    with pytest.raises(AnsibleError, match=rf"lacks {where}\.{name}\. .*supports ansible-core 2\.19 to 2\.22"):
        internals.require_core()


def test_a_core_that_lacks_an_attribute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Manager:
        def __init__(self) -> None:
            self.callbacks: list[str] = []

    monkeypatch.setattr(task_queue_manager, "TaskQueueManager", Manager)
    assert "ansible.executor.task_queue_manager.TaskQueueManager._callback_plugins" in internals.missing()


def test_a_core_whose_queue_takes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_queue_manager.FinalQueue, "send_callback", lambda self, event: None)
    (gone,) = internals.missing()
    assert "signature of ansible.executor.task_queue_manager.FinalQueue.send_callback" in gone


@pytest.mark.parametrize("path", PRESET, ids=lambda path: path.stem)
def test_nothing_else_reaches_into_the_core(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        f"{node.module}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ansible"
        for alias in node.names
    }
    assert {name for name in imported if name.partition(":")[0] not in PUBLIC} <= set(internals.NEEDED)

    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = {node.name for one in classes for node in one.body if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for one in classes
        for node in ast.walk(one)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private - own - {"_display"} <= (ACTION if path.parent.name == "action" else set())


def test_an_event_is_sent_as_this_core_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[object, ...]] = []
    queue = SimpleNamespace(send_callback=lambda *arguments: sent.append(arguments))
    monkeypatch.setattr(Display(), "_final_q", queue)
    task = SimpleNamespace(name="Call", check_mode=False)
    internals.send_event("v2_on_file_diff", SimpleNamespace(name="one"), task, {"changed": True})
    ((event, *_),) = sent
    assert event == "v2_on_file_diff"
