"""Reading the parameters of flows from their code, with something in the place of Prefect's own functions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import host_flow_parameters as flow_parameters
from fake_api import outcome

CALLABLES = """
import ast, pathlib

class Schema:
    def __init__(self, names): self.names = names
    def model_dump(self, **_): return {"type": "object", "properties": {name: {} for name in self.names}}

def parameter_schema(flow):
    return Schema(flow)

def parameter_schema_from_entrypoint(entrypoint):
    path, _, name = entrypoint.rpartition(":")
    for node in ast.parse(pathlib.Path(path).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Schema([each.arg for each in node.args.args])
    raise ValueError(f"Function {name} not found")
"""
FLOWS = """
import runpy

def load_flow_from_entrypoint(entrypoint):
    path, _, name = entrypoint.rpartition(":")
    return runpy.run_path(path)[name]
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Provide a directory with flows, a release whose Prefect is the one above, and a place for the memory."""
    library = tmp_path / "library" / "prefect"
    (library / "utilities").mkdir(parents=True)
    for name, text in (
        ("__init__", ""),
        ("flows", FLOWS),
        ("utilities/__init__", ""),
        ("utilities/callables", CALLABLES),
    ):
        (library / f"{name}.py").write_text(text)
    python = tmp_path / "release" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\necho run >>{tmp_path}/runs\nPYTHONPATH={library.parent} exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    for name in ("flows", "state"):
        (tmp_path / name).mkdir()
    return tmp_path


def act(scene: Path, entrypoints: dict[str, str], **options: Any) -> dict[str, Any]:
    places = {key: {"directory": ".", "entrypoint": entrypoint} for key, entrypoint in entrypoints.items()}
    result: dict[str, Any] = outcome(
        flow_parameters.main,
        entrypoints=places,
        directory=str(scene / "flows"),
        release=str(scene / "release"),
        home=str(scene),
        state_dir=str(scene / "state"),
        **options,
    )
    return result


def runs(scene: Path) -> int:
    return len((scene / "runs").read_text().split()) if (scene / "runs").exists() else 0


def test_read_again_only_when_the_code_has_changed(scene: Path) -> None:
    (scene / "flows" / "f.py").write_text("print('noise')\ndef f(day): pass\n")
    wanted = {"f/d": "f.py:f", "f/elsewhere": "other.py:f"}
    dry = act(scene, wanted, check_mode=True)
    assert [list(dry["schemas"]), list(dry["schemas"]["f/d"]["properties"])] == [["f/d"], ["day"]]
    assert not list((scene / "state").iterdir())
    assert act(scene, wanted)["schemas"] == act(scene, wanted)["schemas"] == dry["schemas"]
    assert runs(scene) == 2
    (scene / "flows" / "f.py").write_text("def f(day, hour): pass\n")
    assert list(act(scene, wanted)["schemas"]["f/d"]["properties"]) == ["day", "hour"]
    assert runs(scene) == 3


def test_a_flow_that_is_no_plain_function_is_imported(scene: Path) -> None:
    (scene / "flows" / "f.py").write_text("print('noise')\nmade = ['a', 'b']\n")
    assert list(act(scene, {"f/d": "f.py:made"})["schemas"]["f/d"]["properties"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def f(:\n",
            "f/d: the parameters of f.py:f in {flows} cannot be read: line 1: invalid syntax; correct the code",
        ),
        ("raise SystemExit(3)\n", "f/d: the parameters of f.py:f in {flows} cannot be read: SystemExit: 3"),
        ("import os\nos._exit(3)\n", "the parameters of f/d cannot be read: it ended with exit code 3"),
        ("import time\ntime.sleep(600)\n", "the parameters of f/d were not read after 2 s: their code waits"),
    ],
)
def test_code_that_cannot_be_read(scene: Path, text: str, words: str) -> None:
    (scene / "flows" / "f.py").write_text(text)
    result = act(scene, {"f/d": "f.py:f"}, timeout=2 if "sleep" in text else 300)
    assert words.format(flows=scene / "flows") in result["msg"]
    assert not list((scene / "state").iterdir())


def test_nothing_is_read_where_there_is_no_release(scene: Path) -> None:
    (scene / "release" / "bin" / "python").unlink()
    assert act(scene, {"f/d": "f.py:f"})["schemas"] == {}


def test_what_is_no_answer_is_none() -> None:
    assert flow_parameters.parsed('{"f/d": {"schema": 1}}') is None
    assert flow_parameters.parsed("[]") is None
