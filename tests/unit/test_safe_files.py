"""What an account plants below a directory that it can write leads root nowhere: nothing outside changes or is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.action.host_tree import contents, pack
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import safe_files, sqlite_files
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.files import FileError, ensure_all
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import (
    AccountError,
    UnsafePathError,
    as_account,
    beside,
    reach,
)
from ansible_collections.selfhosted.prefect.plugins.modules import host_deployment_scripts as deployment_scripts
from ansible_collections.selfhosted.prefect.plugins.modules import host_services as services
from ansible_collections.selfhosted.prefect.plugins.modules import host_tree as tree
from fake_api import outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to be careful of")

SERVICE = 1
"""The account that flows run as: daemon, which every host has."""


@dataclass(frozen=True)
class Scene:
    """A home that the account can write, and what is outside, which it cannot."""

    home: Path
    outside: Path

    def victims(self) -> dict[str, tuple[Any, ...]]:
        """Return all that is known of what is outside."""
        return {
            # But for the number of names.
            str(path): (*os.lstat(path)[:3], *os.lstat(path)[4:6], path.read_bytes() if path.is_file() else b"")
            for path in [self.outside, *sorted(self.outside.rglob("*"))]
        }

    def give(self) -> None:
        """Let what is in the home belong to the account."""
        for path in [self.home, *self.home.rglob("*")]:
            state = path.lstat()
            if state.st_nlink == 1 or stat.S_ISDIR(state.st_mode):
                os.chown(path, SERVICE, SERVICE, follow_symlinks=False)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that every account can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Both directories; what hangs is ended."""
    found = Scene(tmp_path / "home", tmp_path / "outside")
    for path in (found.home / "flows", found.outside / "directory"):
        path.mkdir(parents=True)
    for path in (found.outside / "file", found.outside / "directory" / "file.py"):
        path.write_text("precious")
        path.chmod(0o600)
    found.give()
    signal.alarm(60)
    yield found
    signal.alarm(0)


Plant = Callable[[Scene, Path], object]


def link_to_file(scene: Scene, path: Path) -> None:
    path.symlink_to(scene.outside / "file")


def link_to_directory(scene: Scene, path: Path) -> None:
    path.symlink_to(scene.outside / "directory")


def link_to_nothing(scene: Scene, path: Path) -> None:
    path.symlink_to(scene.outside / "new")


def hard_link(scene: Scene, path: Path) -> None:
    os.link(scene.outside / "file", path)


def pipe(scene: Scene, path: Path) -> None:
    os.mkfifo(path)


def a_socket(scene: Scene, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # Its address has room for 107 bytes.
        here = Path.cwd()
        os.chdir(path.parent)
        listener.bind(path.name)
        os.chdir(here)


def device(scene: Scene, path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def directory(scene: Scene, path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("of the account")


PLANTS = [link_to_file, link_to_directory, link_to_nothing, hard_link, pipe, a_socket, device, directory]
LINKS = [link_to_file, link_to_directory, link_to_nothing]
planted = pytest.mark.parametrize("plant", PLANTS)


def wanted(path: Path, **more: Any) -> dict[str, Any]:
    """Return a file or directory as the module's options describe it."""
    described = {"path": str(path), "content": None, "owner": "daemon", "group": "daemon", "mode": "0750"}
    return described | {"state": "present", "recurse": False, "recurse_root": False, "secret": False} | more


def ensure(*files: dict[str, Any]) -> tuple[str, list[str]]:
    """Return how it failed, and what it warned of."""
    said: list[str] = []
    try:
        ensure_all(list(files), [], dry=False, warn=said.append)
    except FileError as error:
        return str(error), said
    return "", said


@planted
def test_a_file_takes_the_place_of_what_was_planted(scene: Scene, plant: Plant) -> None:
    path, before = scene.home / "settings.env", scene.victims()
    plant(scene, path)
    failed, said = ensure(wanted(path, content="new"))
    if plant is not directory:
        assert (path.read_text(), path.lstat().st_uid, path.lstat().st_nlink) == ("new", SERVICE, 1)
    assert scene.victims() == before
    assert str(path) in failed + "".join(said)


@planted
def test_what_was_planted_is_no_directory(scene: Scene, plant: Plant) -> None:
    path = scene.home / "tmp"
    plant(scene, path)
    before = scene.victims()
    scene.give()
    failed, _ = ensure(wanted(path), wanted(path / "below", content="new"))
    assert scene.victims() == before
    assert (str(path) in failed) is (plant is not directory)


@planted
def test_removed_is_what_was_planted_alone(scene: Scene, plant: Plant) -> None:
    path, before = scene.home / "memo", scene.victims()
    plant(scene, path)
    if plant is directory:
        (path / "link").symlink_to(scene.outside / "directory")
    assert ensure(wanted(path, state="absent"))[0] == ""
    assert not os.path.lexists(path)
    assert scene.victims() == before


@pytest.mark.parametrize("state", ["present", "absent", "unused", "kept"])
@pytest.mark.parametrize("content", [None, "new"])
def test_no_link_above_is_followed(scene: Scene, state: str, content: str | None) -> None:
    link_to_directory(scene, scene.home / "a")
    before = scene.victims()
    failed, _ = ensure(wanted(scene.home / "a" / "file.py", content=content, state=state))
    assert scene.victims() == before
    assert f"{scene.home / 'a'} is a symbolic link to {scene.outside / 'directory'}" in failed
    assert "remove it" in failed


def test_a_directory_of_another_owner_is_not_given_away(scene: Scene) -> None:
    """It may have been moved to where root makes one."""
    moved = scene.home / "tmp"
    moved.mkdir(mode=0o700)
    (moved / "backup").write_text("root's")
    failed, _ = ensure(wanted(moved))
    assert f"{moved} belongs to root and has to belong to daemon" in failed
    assert moved.stat().st_uid == 0
    (moved / "backup").unlink()
    assert ensure(wanted(moved)) == ("", [])
    assert moved.stat().st_uid == SERVICE


def test_links_are_followed_where_only_root_can_make_them(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "srv").symlink_to("outside/directory")
    (tmp_path / "second").symlink_to(tmp_path / "srv")
    assert ensure(wanted(tmp_path / "second" / "a" / "b", content="new"), wanted(tmp_path / "second")) == ("", [])
    assert (scene.outside / "directory" / "a" / "b").read_text() == "new"
    assert (scene.outside / "directory").stat().st_uid == SERVICE
    assert (tmp_path / "second").is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_what_everyone_or_a_group_can_write_is_as_unsafe(scene: Scene, tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, 0, SERVICE)
    shared.chmod(mode)
    (shared / "a").symlink_to(scene.outside / "directory")
    os.chown(shared / "a", SERVICE, SERVICE, follow_symlinks=False)
    before = scene.victims()
    assert "is a symbolic link" in ensure(wanted(shared / "a" / "file", content="x"))[0]
    assert scene.victims() == before


def test_what_another_account_can_write_is_found_above_a_path(scene: Scene, tmp_path: Path) -> None:
    assert safe_files.exposed(scene.outside / "directory" / "new" / "deep") is None
    assert safe_files.exposed(scene.home / "new" / "deep") == str(scene.home)
    (tmp_path / "link").symlink_to(scene.home)
    assert safe_files.exposed(tmp_path / "link" / "new") == str(scene.home)


def test_a_tree_without_end_is_removed_and_not_walked(scene: Scene) -> None:
    top = scene.home / "deep"
    top.mkdir()
    with reach(top) as here:
        descriptor = os.dup(here.descriptor)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", safe_files.STEP, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    with reach(top) as here, pytest.raises(UnsafePathError, match="64 directories deep"):
        list(here.below())
    assert safe_files.remove(top) is True
    assert not top.exists()


@planted
def test_reading(scene: Scene, plant: Plant) -> None:
    path = scene.home / "flow.py"
    plant(scene, path)
    with pytest.raises(UnsafePathError, match=str(path)):
        safe_files.read(path)


def test_no_more_is_read_than_fits(scene: Scene) -> None:
    path = scene.home / "flow.py"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(UnsafePathError, match="larger than 64 MiB"):
        safe_files.read(path)


def test_a_child_has_the_rights_of_the_account_alone(scene: Scene) -> None:
    def look(opened: int) -> dict[str, Any]:
        try:
            (scene.outside / "file").read_text()
        except PermissionError as error:
            refused = str(error)
        ids = [os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ)]
        return {"ids": ids, "refused": refused, "opened": os.read(opened, 100).decode()}

    def first() -> int:
        return os.open(scene.outside / "file", os.O_RDONLY)

    found = as_account(SERVICE, SERVICE, look, first=first)
    assert found["ids"] == [[SERVICE] * 3, [SERVICE] * 3, [], {}]
    assert found["opened"] == "precious"
    assert "file" in found["refused"]


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda _: 1 / 0, "division by zero"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "as daemon was killed"),
        (lambda _: signal.pause(), "no answer after 1 s as daemon"),
        (lambda _: object(), "not JSON serializable"),
    ],
)
def test_what_fails_in_the_child_fails_here(work: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(AccountError, match=says):
        as_account(SERVICE, SERVICE, work, timeout=1)


def test_the_lock_is_out_of_reach_of_others() -> None:
    with safe_files.locked("something"), beside("/run/selfhosted-prefect") as (above, name):
        found = above.state(name)
        assert found is not None and (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o700)


def send(scene: Scene, dest: Path, tmp_path: Path) -> dict[str, Any]:
    """Send a flow and one in a directory, as the action plugin does."""
    source = tmp_path / "source"
    (source / "shop").mkdir(parents=True, exist_ok=True)
    for name in ("flow.py", "shop/flow.py"):
        (source / name).write_text("flow")
    names = contents(source, exclude=[])
    pack(tmp_path / "tree.tar.gz", source, list(names))
    call = {"dest": str(dest), "state_dir": str(tmp_path / "state"), "wanted": names, "owner": "daemon"}
    result: dict[str, Any] = outcome(tree.main, archive=str(tmp_path / "tree.tar.gz"), **call)
    return result


@planted
@pytest.mark.parametrize("where", ["flow.py", "shop", "shop/flow.py", "."])
def test_flows_are_sent_to_no_other_place(
    scene: Scene, tmp_path: Path, plant: Plant, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scene.home / "flows" / where
    if where == ".":
        path.rmdir()
    path.parent.mkdir(exist_ok=True)
    plant(scene, path)
    before = scene.victims()
    scene.give()
    result = send(scene, scene.home / "flows", tmp_path)
    assert scene.victims() == before
    if plant is directory and where in (".", "shop"):
        assert result["changed"] is True
    else:
        assert str(path) in result.get("msg", "") + capsys.readouterr().err
    assert not list(scene.home.rglob("*.new"))


def test_the_name_of_earlier_versions_is_no_way_in(scene: Scene, tmp_path: Path) -> None:
    for name in (".flow.py.ansible-new", "..selfhosted-prefect.json.ansible-new"):
        link_to_file(scene, scene.home / "flows" / name)
    before = scene.victims()
    assert send(scene, scene.home / "flows", tmp_path)["changed"] is True
    assert scene.victims() == before


@planted
@pytest.mark.parametrize("where", ["x.py", "package/x.py", "deep.py"])
def test_what_services_and_scripts_are_made_of_is_read_without_leaving_it(
    scene: Scene, plant: Plant, where: str
) -> None:
    flows = scene.home / "flows"
    (flows / "package").mkdir()
    plant(scene, flows / where)
    scene.give()
    first = services.digest([str(flows)]), deployment_scripts.code_digest(flows)
    for path in (scene.outside / "file", scene.outside / "directory" / "file.py"):
        path.write_text("other")
    # Nothing that is outside is in it.
    assert (services.digest([str(flows)]), deployment_scripts.code_digest(flows)) == first
    (flows / "package" / "new.py").write_text("new")
    assert services.digest([str(flows)]) != first[0]
    assert deployment_scripts.code_digest(flows) != first[1]


@planted
def test_a_script_that_is_no_file_is_named(scene: Scene, plant: Plant) -> None:
    plant(scene, scene.home / "flows" / "deploy.py")
    script: dict[str, Any] = {"name": "deploy", "content": None, "path": "deploy.py", "project": None, "args": []}
    with pytest.raises(OSError, match=str(scene.home / "flows" / "deploy.py")):
        deployment_scripts.source(script, scene.home / "flows")


def database(path: Path, *flows: str) -> None:
    """Make a database with a log beside it, as a server that was killed leaves it, and give it to the account."""

    script = "PRAGMA journal_mode = WAL; CREATE TABLE flow (name TEXT);"
    script += "".join(f"INSERT INTO flow VALUES ('{flow}');" for flow in flows)
    program = f"import os, sqlite3; sqlite3.connect({str(path)!r}).executescript({script!r}); os._exit(0)"
    subprocess.run(["/usr/bin/python3", "-c", program], user=SERVICE, group=SERVICE, extra_groups=[], check=True)


def flows_in(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return [name for (name,) in opened.execute("SELECT name FROM flow")]


def test_a_database_is_copied_and_put_back_as_its_account(scene: Scene) -> None:
    file, copy, kept = scene.home / "prefect.db", scene.outside / "copy", scene.outside / "kept"
    database(file, "first")
    assert (scene.home / "prefect.db-wal").stat().st_size > 0
    sqlite_files.copy(file, copy)
    assert flows_in(copy) == ["first"]
    assert [path.name for path in scene.outside.iterdir() if path.name.startswith("copy")] == ["copy"]

    file.unlink()
    database(file, "second")
    sqlite_files.copy(file, kept)
    sqlite_files.replace(file, copy)
    state = file.stat()
    assert (flows_in(file), state.st_uid, state.st_gid, state.st_mode & 0o777) == (["first"], SERVICE, SERVICE, 0o640)
    assert sorted(path.name for path in scene.home.iterdir()) == ["flows", "prefect.db"]

    def question(opened: sqlite3.Connection) -> list[Any]:
        return [os.getuid(), opened.execute("SELECT name FROM flow").fetchone()[0]]

    assert sqlite_files.ask(kept, question, like=file) == [SERVICE, "second"]

    sqlite_files.move(file, scene.home / "aside" / "prefect.db")
    assert flows_in(scene.home / "aside" / "prefect.db") == ["first"]
    assert not sqlite_files.exists(file)


def test_a_database_is_whole_until_the_other_takes_its_place(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is only in the log: a restore that is killed loses none of it."""
    file, copy = scene.home / "prefect.db", tmp_path / "copy"
    database(file, "first")
    sqlite_files.copy(file, copy)
    with contextlib.closing(sqlite3.connect(copy)) as other:
        other.execute("UPDATE flow SET name = 'other'")
        other.commit()

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        sqlite_files.replace(file, copy)
    assert flows_in(file) == ["first"]
    assert sorted(path.name for path in scene.home.iterdir()) == ["flows", "prefect.db"]


@planted
@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_what_is_no_database_is_neither_copied_nor_replaced(scene: Scene, plant: Plant, suffix: str) -> None:
    file, copy = scene.home / "prefect.db", scene.outside / "copy"
    sqlite3.connect(copy).close()
    if suffix:
        database(file, "first")
        (scene.home / "prefect.db-wal").unlink()
    plant(scene, scene.home / f"prefect.db{suffix}")
    before = scene.victims()
    done: list[str] = []
    with contextlib.suppress(OSError, AccountError):
        sqlite_files.copy(file, scene.home.parent / "new")
        done.append("copy")
    with contextlib.suppress(OSError, AccountError):
        sqlite_files.replace(file, copy)
        done.append("replace")
    with contextlib.suppress(OSError, AccountError):
        sqlite_files.remove(file)
        done.append("remove")
    assert not done
    assert scene.victims() == before


def hashed(directory: Path, **options: Any) -> str:
    total = hashlib.sha256()
    safe_files.hash_code(total, directory, suffixes={".py"}, **options)
    return total.hexdigest()


def test_code_is_hashed_as_by_earlier_versions(tmp_path: Path) -> None:
    """Another digest would restart every service."""
    texts = {"b.py": b"b" * 3_000_000, "a/c.py": b"c", "a.py": b""}
    for name, content in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "l.py").symlink_to("nowhere")
    (tmp_path / "data.csv").write_text("data")
    os.mkfifo(tmp_path / "p.py")
    texts |= {"l.py": b"nowhere", "p.py": b""}
    listed = sorted(texts.items(), key=lambda found: Path(found[0]))
    wanted = b"".join(f"{tmp_path}/{name}\0{len(content)}\0".encode() + content for name, content in listed)
    assert hashed(tmp_path, above=tmp_path) == hashlib.sha256(wanted).hexdigest()


def test_root_reads_no_endless_code_into_memory(tmp_path: Path) -> None:
    """Sparse files cost those who create them nothing."""
    (tmp_path / "real.py").write_text("x")
    tracemalloc.start()
    with (tmp_path / "big.py").open("wb") as file:
        file.truncate(60 * 2**20)
    hashed(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    for number in range(1000):
        with (tmp_path / f"x{number}.py").open("wb") as file:
            file.truncate(60 * 2**20)
    started = time.monotonic()
    with pytest.raises(safe_files.UnsafePathError, match=f"{tmp_path} has more than 512 MiB of code, such as x"):
        hashed(tmp_path)
    assert time.monotonic() - started < 5


def test_root_looks_at_no_endless_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_files, "MOST_ENTRIES", 10)
    for number in range(11):
        (tmp_path / f"{number}.csv").touch()
    with pytest.raises(safe_files.UnsafePathError, match=f"{tmp_path} has more than 10 files and directories, such as"):
        hashed(tmp_path)
