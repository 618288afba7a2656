"""What the controller keeps is written by one function: whole, for good, and by several at once."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.lookup.inventory_owner import owner
from ansible_collections.selfhosted.prefect.plugins.lookup.secret import hide_from_git, secret
from ansible_collections.selfhosted.prefect.plugins.plugin_utils import kept_files, kept_secrets
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.kept_files import write

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ON_CONTROLLER = sorted(
    path for name in ("action", "filter", "lookup", "plugin_utils") for path in (PLUGINS / name).glob("*.py")
)

WRITES = {"write_text", "write_bytes", "mkstemp", "O_CREAT", "O_WRONLY", "O_RDWR", "NamedTemporaryFile"}
ALLOWED = {
    "kept_files.py": "the mechanism",
    "environment_resolver.py": "a directory of its own, for the length of a task",
    "host_checkout.py": "a directory of its own, for the length of a task",
    "host_tree.py": "a file of its own, for the length of a task",
}


@pytest.mark.parametrize("path", ON_CONTROLLER, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_nothing_else_writes(path: Path) -> None:
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert bool(names & WRITES) == (path.name in ALLOWED), names & WRITES


WRITERS: dict[str, Callable[[Path], object]] = {
    "secret": lambda directory: secret(directory, "api"),
    "certificate": lambda directory: certificate_for(directory / "db1", ["db1"]),
    "owner": lambda directory: owner(directory / "owner", directory, dry=False),
    "gitignore": hide_from_git,
    "fetched": lambda directory: kept_secrets.store(directory, "prefect", {"api": "x"}, dry=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_written_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    """The content is on the disk before it gets its name, and the name before anything that depends on it."""
    done: list[str] = []
    fsync, replace, link = os.fsync, Path.replace, os.link

    def synced(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    def linked(source: Path, target: Path) -> None:
        done.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "link", linked)
    WRITERS[writer](tmp_path)
    assert done and done[-1] == "directory"
    named = [place for place, step in enumerate(done) if step == "name"]
    assert [done[place + 1] for place in named] == ["directory"] * len(named)
    # The key of a certificate waits under another name, on the disk already.
    assert [done[place - 1] for place in named].count("file") == done.count("file") > 0


def test_several_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write(path, b"%d" % number * 10_000), range(64)))
        assert len(set(path.read_bytes())) == 1 or path.read_bytes()[:2] * 10_000 == path.read_bytes()
        first = list(pool.map(lambda number: write(tmp_path / "two", b"%d" % number, replace=False), range(64)))
    assert first.count(True) == 1
    assert {found.name for found in tmp_path.iterdir()} == {"one", "two"}


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{name}{kept_files.UNFINISHED}" for name in ("one.old", "one.new", "two.old"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    write(tmp_path / "one", b"")
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
