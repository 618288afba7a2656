"""The controller's uv, found by its lookup."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.selfhosted.prefect.plugins.action.preflight import ActionModule
from ansible_collections.selfhosted.prefect.plugins.lookup import uv as lookup


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "uv"
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return found


def raises(*_: Any) -> str:
    raise FileNotFoundError


@pytest.mark.parametrize("module", [None, SimpleNamespace(find_uv_bin=raises)])
def test_uv_beside_ansible_comes_first(
    on_the_path: Path, monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "uv", SimpleNamespace(find_uv_bin=lambda: "/beside/uv"))
    assert lookup.find_uv() == "/beside/uv"
    monkeypatch.setitem(sys.modules, "uv", module)
    assert lookup.find_uv() == str(on_the_path)


def test_the_path_that_a_role_gets(on_the_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert lookup.uv_for(platform.machine()) == str(on_the_path)


def test_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnsibleError, match="prefect_uv: the controller has no uv; install it"):
        lookup.uv_for(platform.machine())


@pytest.mark.parametrize(("system", "machine"), [("Linux", "aarch64"), ("Darwin", "x86_64")])
def test_uv_for_another_machine(on_the_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(AnsibleError, match=f"the controller's uv is for {system} on {machine}; name a uv for x86_64"):
        lookup.uv_for("x86_64")


@pytest.mark.parametrize(
    ("present", "given", "says"),
    [
        (False, "", "prefect_uv: the controller has no uv; install it"),
        (False, "/nowhere/uv", "prefect_uv: /nowhere/uv does not exist on the controller"),
        (False, "/dev", "prefect_uv: /dev is no file on the controller"),
        (False, "/bin/sh", ""),
        (True, "", ""),
        (True, "/nowhere/uv", ""),
    ],
)
def test_a_host_that_needs_a_release_needs_a_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool, given: str, says: str
) -> None:
    """It is known when the host has been read, before anything is changed there."""
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def find(directory: str, name: str) -> str:
        if not Path(name).exists():
            raise AnsibleError(f"Could not find or access {name}")
        return name

    action = object.__new__(ActionModule)
    action._find_needle = find
    found = action.missing({"release_present": present, "architecture": platform.machine()}, given)
    assert [line.startswith(says) for line in found] == ([True] if says else [])
