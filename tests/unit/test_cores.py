"""The cores and Pythons that `make matrix` tests: what is declared of them, what is chosen, and what its table says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cores
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = "{}.{}".format(*sys.version_info)


def row() -> cores.Row:
    return cores.Row(core=cores.CORES[-1], python=HERE, interpreter=sys.executable)


def test_the_collection_declares_what_is_tested() -> None:
    versions = [core.version for core in cores.CORES]
    major, _, minor = versions[-1].partition(".")
    declared = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["requires_ansible"]
    assert declared == f">={versions[0]}.0,<{major}.{int(minor) + 1}"
    page = (ROOT / "docs" / "supported.md").read_text()
    assert re.findall(r"^\| ansible-core ([\d.]+) \| (?:works|untested) \|", page, re.MULTILINE) == versions


@pytest.mark.parametrize("core", cores.CORES, ids=lambda core: core.version)
def test_a_lock_pins_its_core_and_the_ansible_that_contains_it(core: cores.Core) -> None:
    lock = core.lock.read_text()
    assert re.findall(r"^ansible(-core)?==(\d+(?:\.\d+)?)", lock, re.MULTILINE)[1] == ("-core", core.version)
    assert re.search(rf"^ansible=={core.ansible}\.", lock, re.MULTILINE)
    pins = re.findall(r"^[a-z].*\n(.*)", lock, re.MULTILINE)
    assert pins and all(line.strip().startswith("--hash=sha256:") for line in pins)


def test_no_lock_is_left_over() -> None:
    assert sorted(cores.LOCKS.iterdir()) == sorted(core.lock for core in cores.CORES)


def test_everything_is_chosen_unless_something_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "interpreter", lambda version: f"/{version}" if version == "3.12" else None)
    assert [each.name for each in cores.chosen([])] == [f"{c.version}/{p}" for c in cores.CORES for p in c.pythons]
    some = cores.chosen(["2.20", "2.22/3.13"])
    assert [(each.name, each.interpreter) for each in some] == [
        ("2.20/3.12", "/3.12"),
        ("2.20/3.13", None),
        ("2.20/3.14", None),
        ("2.22/3.13", None),
    ]
    with pytest.raises(ValueError, match=r"no such core: 2\.2\. These exist: 2\.19/3\.11 "):
        cores.chosen(["2.2", "2.20"])


def test_a_host_is_for_the_newest_python_of_a_core() -> None:
    rows = [
        cores.Row(core=core, python=python, interpreter=None if python == "3.14" else "/python")
        for core in cores.CORES[:2]
        for python in core.pythons
    ]
    assert cores.with_cycle(rows) == {"2.19/3.13", "2.20/3.13"}


def test_an_interpreter_is_of_the_version_and_the_newest_that_pyenv_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def python(name: str, version: str) -> Path:
        path = tmp_path / "versions" / name / "bin" / "python3"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
        return path

    shim = tmp_path / "shims" / "python3.97"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    python("3.97.9", "3.97")
    newest = python("3.97.10", "3.97")
    python("3.97.11", "3.98")
    assert cores.interpreter("3.97") == str(newest)
    assert cores.interpreter("3.9") is None


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("===== 40 passed, 1 skipped, 3 warnings in 2.00s =====", 0, "40 passed, 1 skipped"),
        ("2 failed, 38 passed, 1 error in 2.00s", 1, "2 failed, 38 passed, 1 error"),
        ("40 passed in 2.00s", 3, "40 passed, exit code 3"),
        ("no tests ran in 0.01s", 5, "exit code 5"),
        ("ImportError", -9, "exit code -9"),
    ],
)
def test_a_result_is_what_pytest_says_and_never_better(line: str, code: int, said: str) -> None:
    assert cores.totals(["tests/unit/test_x.py ..", line, ""], code) == said


def test_what_fails_is_named_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("def test_wrong():\n    assert 1 == 2\ndef test_good(): pass\n")
    one = row()
    python = tmp_path / ".cache" / "matrix" / one.directory.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(cores, "CACHE", tmp_path / ".cache" / "matrix")
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    monkeypatch.setattr(cores, "TESTS", {"unit": ("tests",)})
    monkeypatch.setattr(cores, "install", lambda row: None)
    monkeypatch.setattr(cores, "chosen", lambda only: [one])
    assert cores.run([], hosts=False) == 1
    said = capsys.readouterr().out
    assert "FAILED tests/test_one.py::test_wrong - assert 1 == 2" in said
    assert f"| {one.core.version} | {HERE} | 1 failed, 1 passed | - |" in said


def test_what_is_missing_is_said_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "interpreter", lambda version: None)
    assert cores.run(["2.22/3.15"], hosts=False) == 1
    said = capsys.readouterr()
    assert "2.22/3.15: SKIPPED: this machine has no Python 3.15" in said.out
    assert "| 2.22 | 3.15 | SKIPPED: no Python 3.15 here | - | - |" in said.out
    assert "Nothing ran" in said.err


def test_an_environment_is_made_of_its_lock_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    env = tmp_path / "env.sh"
    env.write_text(
        f'#!/bin/sh\necho "$PYTHON $*" >> {calls}\nmkdir -p "$1/bin"\n'
        f'printf \'#!/bin/sh\\nexec {sys.executable} "$@"\' > "$1/bin/python"\nchmod 755 "$1/bin/python"\n'
    )
    env.chmod(0o755)
    lock = tmp_path / "requirements" / "cores" / f"{cores.CORES[-1].version}.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("a")
    for name, value in {"ROOT": tmp_path, "ENV": env, "LOCKS": lock.parent, "CACHE": tmp_path / "matrix"}.items():
        monkeypatch.setattr(cores, name, value)
    one = row()
    cores.install(one)
    cores.install(one)
    assert re.fullmatch(r"\d+\.\d+\S* \d+\.\d+\.\d+", one.installed)
    lock.write_text("b")
    cores.install(one)
    call = f"{sys.executable} matrix/{one.directory.name} requirements/cores/{lock.name}"
    assert calls.read_text().splitlines() == [call, call]
