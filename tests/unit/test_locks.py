"""The locks that hosts install from: each has an entry, is what was proven, and stands in the table of the docs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import locks
import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.interpreter import TOO_NEW, numbers, pythons_for

ROOT = Path(__file__).resolve().parents[2]
RELEASES = [lock.name for lock in locks.RELEASES]
VARIABLES = yaml.safe_load((ROOT / "roles/prefect/vars/main.yml").read_text())


def test_each_file_has_an_entry_and_each_entry_a_file() -> None:
    files = {str(path.relative_to(locks.DIRECTORY)) for path in locks.DIRECTORY.rglob("*.txt")}
    assert files == {f"{lock.name}.txt" for lock in locks.LOCKS}
    assert {lock.name for lock in locks.LOCKS if lock.beside} == {f"celery/{name}" for name in RELEASES}


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda lock: lock.name)
def test_a_lock_is_the_one_that_was_proven(lock: locks.Lock) -> None:
    recorded = locks.recorded()[lock.name]
    assert recorded["sha256"] == lock.digest, f"prove it: make locks ONLY={lock.name}"
    proven = [".".join(proof["python"].split(".")[:2]) for proof in recorded["proofs"]]
    assert proven and proven == [version for version in lock.pythons if version in proven]
    for proof in recorded["proofs"]:
        assert date.fromisoformat(proof["date"]) and re.fullmatch(r"\S[^/|]+, \w+", proof["system"])
    assert "://" not in lock.path.read_text(), "a download address: only one index would serve it"


def test_the_record_and_the_page_have_a_row_for_each_lock_and_no_other() -> None:
    assert [*locks.recorded()] == [lock.name for lock in locks.LOCKS]
    rows = re.findall(r"^\| (.+?) \| 3\.\d+ to ", (ROOT / "docs/versions.md").read_text(), re.MULTILINE)
    names = [row.replace("`", "").replace("Celery with Prefect ", "celery/").replace("Prefect ", "") for row in rows]
    assert names == [lock.name for lock in locks.LOCKS]


def test_each_minor_version_from_3_5_on_has_a_lock_and_the_newest_is_the_default() -> None:
    assert sorted(RELEASES, key=numbers, reverse=True) == RELEASES
    minors = dict.fromkeys(numbers(name)[:2] for name in RELEASES)
    assert [*minors] == [(3, minor) for minor in range(numbers(RELEASES[0])[1], 4, -1)]
    for path, before in locks.DEFAULTS.items():
        assert f"{before}{RELEASES[0]}\n" in path.read_text()


@pytest.mark.parametrize("lock", locks.RELEASES, ids=lambda lock: lock.name)
def test_a_lock_is_for_the_pythons_that_roles_accept(lock: locks.Lock) -> None:
    oldest, too_new = pythons_for(lock.name)
    assert numbers(lock.oldest_python) == oldest
    assert numbers(lock.pythons[-1]) == (too_new[0], too_new[1] - 1) == (TOO_NEW[0], TOO_NEW[1] - 1)


def test_a_proof_imports_what_a_release_is_probed_with() -> None:
    probe = VARIABLES["__prefect_probe"].partition("if '+sentinel")[0]
    modules = set(re.findall(r"'((?:prefect|kombu|celery)\.[\w.]+)'", probe))
    # `celery.bin.worker` is what the proof starts.
    assert modules - {*locks.MODULES, *locks.CELERY_MODULES} == {"celery.bin.worker"}
    assert len(modules) == 7


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two locks, of which one is beside the other."""
    monkeypatch.setattr(locks, "DIRECTORY", tmp_path)
    monkeypatch.setattr(locks, "PROVEN", tmp_path / "proven.json")
    monkeypatch.setattr(
        locks, "LOCKS", (locks.Lock(name="b", requirements=[]), locks.Lock(name="a", requirements=[], beside="b"))
    )
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    return tmp_path


def pythons(name: str) -> list[str]:
    return [proof["python"] for proof in locks.recorded()[name]["proofs"]]


def test_proofs_of_the_same_contents_are_kept_in_order(scratch: Path) -> None:
    lock = locks.LOCKS[1]
    for python in ("3.12.1", "3.10.13", "3.12.9"):
        locks.record(lock, python)
    locks.record(locks.LOCKS[0], "3.11.7")
    assert pythons("a") == ["3.10.13", "3.12.9"]
    assert [*json.loads((scratch / "proven.json").read_text())] == ["b", "a"]


@pytest.mark.parametrize("changed", ["a", "b"])
def test_a_proof_of_other_contents_is_dropped(scratch: Path, changed: str) -> None:
    """What a lock is beside is installed with it, so a change there ends its proof as well."""
    locks.record(locks.LOCKS[1], "3.10.13")
    (scratch / f"{changed}.txt").write_text("c")
    locks.record(locks.LOCKS[1], "3.11.7")
    assert pythons("a") == ["3.11.7"]


LOG = """\
12:00:00 | INFO    | ready
Traceback (most recent call last):
  File "a.py", line 1, in b
    c()

sqlite3.OperationalError: database is locked

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "a.py", line 2, in d
    ...<4 lines>...
{error}
12:00:01 | WARNING | database is locked
"""


@pytest.mark.parametrize("error", ["ValueError: no", "sqlalchemy.exc.OperationalError: database is locked"])
def test_a_busy_sqlite_is_no_failure_of_a_lock(error: str) -> None:
    assert locks.failures(LOG.format(error=error)) == [error] * ("ValueError" in error)


@pytest.mark.parametrize(("newest", "added"), [("3.99.0", True), (RELEASES[0], False), ("3.5.0", False)])
def test_the_newest_prefect_gets_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: str, added: bool
) -> None:
    source = tmp_path / "locks.py"
    source.write_text(Path(locks.__file__).read_text())
    default = tmp_path / "main.yml"
    default.write_text(f"prefect_version: {RELEASES[0]}\nother: {RELEASES[0]}\n")
    answer = SimpleNamespace(stdout=f"prefect=={newest}\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: answer)
    monkeypatch.setattr(locks, "__file__", str(source))
    monkeypatch.setattr(locks, "DEFAULTS", {default: "prefect_version: "})
    assert locks.add() == (newest if added else "")
    spec = importlib.util.spec_from_file_location("added", source)
    assert spec and spec.loader
    changed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "added", changed)
    spec.loader.exec_module(changed)
    assert [lock.name for lock in changed.RELEASES] == [newest] * added + RELEASES
    assert not added or f"prefect=={newest}" in changed.RELEASES[0].requirements
    assert not added or changed.RELEASES[0].overrides == changed.RELEASES[1].overrides
    assert default.read_text() == f"prefect_version: {newest if added else RELEASES[0]}\nother: {RELEASES[0]}\n"


@pytest.mark.parametrize(
    ("version", "lock", "shipped"),
    [("3.9.1", "", True), ("3.99.0", "", False), ("3.9.1", "/own.txt", False)],
)
def test_a_role_hands_on_what_was_proven(version: str, lock: str, shipped: bool) -> None:
    text = (locks.DIRECTORY / "proven.json").read_text()
    variables: dict[str, Any] = {
        "prefect_version": version,
        "__prefect_lock": lock or "/shipped.txt",
        "__prefect_shipped_lock": "/shipped.txt",
        "__prefect_proofs": json.loads(text),
        **{name: trust_as_template(VARIABLES[name]) for name in ("__prefect_shipped_versions", "__prefect_proven")},
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(trust_as_template("{{ __prefect_shipped_versions }}")) == RELEASES
    proven = templar.template(trust_as_template("{{ __prefect_proven }}"))
    assert proven == (pythons("3.9.1") if shipped else [])


def test_the_weekly_proposal_proves_on_each_python_and_runs_what_exists() -> None:
    text = (ROOT / ".github/workflows/locks.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["propose"]["steps"]
    assert set(steps[1]["with"]["python-version"].split()) == {*locks.PYTHONS}
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", each) for each in used)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps))) == {"env", "locks"}
    assert {"env", "locks"} <= targets
