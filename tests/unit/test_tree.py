"""A directory that is sent: by its module with the archive that the action plugin makes, and through Ansible."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.selfhosted.prefect.plugins.action.host_tree import contents, pack
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import ledger as ledgers
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import Directory
from ansible_collections.selfhosted.prefect.plugins.modules import host_ledger as ledger
from ansible_collections.selfhosted.prefect.plugins.modules import host_tree as tree
from fake_api import outcome

ROOT = Path(__file__).resolve().parents[2]
EXCLUDED = [".git", "__pycache__", "*.pyc"]
OLD_MEMORY = tree.OLD_MEMORY


def put(directory: Path, **files: str) -> Path:
    """Write files, with __ for a slash in their names."""
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def found(directory: Path) -> dict[str, str]:
    """Return the content of the files below a directory."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_text() for path in sorted(paths)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return put(tmp_path / "source", **{"a.py": "a", "b__c__d.py": "d", "with space.txt": "s", "empty.py": ""})


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "srv" / "flows"


def send(source: Path, dest: Path, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Do what the action plugin does: ask, pack, and ask with the archive."""
    wanted = contents(source, exclude=EXCLUDED)
    call = {"dest": str(dest), "state_dir": str(dest.parents[1] / "state"), "wanted": wanted, **options}
    answer: dict[str, Any] = outcome(tree.main, check_mode=check_mode, **call)
    if answer.get("sent") and not check_mode:
        archive = dest.parents[1] / "tree.tar.gz"
        pack(archive, source, answer["sent"])
        answer = outcome(tree.main, archive=str(archive), **call)
        archive.unlink()
    answer.pop("invocation", None)
    return answer


def memory(dest: Path) -> Path:
    """Return the file that remembers what was sent."""
    return tree.memory_file(str(dest.parents[1] / "state"), dest)


def test_dry_for_real_and_again(source: Path, dest: Path) -> None:
    put(source, **{"__pycache__/a.pyc": "x", "b__c__d.pyc": "x", ".git__HEAD": "x"})
    dry = send(source, dest, check_mode=True)
    assert not dest.parent.exists()
    assert send(source, dest) == dry
    assert dry == {"changed": True, "sent": ["a.py", "b/c/d.py", "empty.py", "with space.txt"], "removed": []}
    assert found(dest) == {"a.py": "a", "b/c/d.py": "d", "empty.py": "", "with space.txt": "s"}
    assert send(source, dest) == {"changed": False, "sent": [], "removed": []}


def test_an_empty_directory(tmp_path: Path, dest: Path) -> None:
    (tmp_path / "source").mkdir()
    assert send(tmp_path / "source", dest)["changed"] is True
    assert dest.is_dir()
    assert send(tmp_path / "source", dest)["changed"] is False


Change = Callable[[Path, Path], object]


@pytest.mark.parametrize(
    ("change", "sent", "removed", "left"),
    [
        pytest.param(lambda source, dest: put(source, **{"a.py": "A"}), ["a.py"], [], {"a.py": "A"}, id="changed"),
        pytest.param(lambda source, dest: put(dest, **{"a.py": "A"}), ["a.py"], [], {}, id="changed on the host"),
        pytest.param(lambda source, dest: (dest / "a.py").unlink(), ["a.py"], [], {}, id="removed on the host"),
        pytest.param(lambda source, dest: put(source, **{"b__e.py": "e"}), ["b/e.py"], [], {"b/e.py": "e"}, id="added"),
        pytest.param(lambda source, dest: (source / "a.py").unlink(), [], ["a.py"], {"a.py": None}, id="removed"),
        pytest.param(
            lambda source, dest: ((source / "a.py").unlink(), put(source, **{"a.py__x.py": "x"})),
            ["a.py/x.py"],
            ["a.py"],
            {"a.py": None, "a.py/x.py": "x"},
            id="a file becomes a directory",
        ),
        pytest.param(
            lambda source, dest: (
                (source / "b/c/d.py").unlink(),
                (source / "b/c").rmdir(),
                put(source, **{"b__c": "c"}),
            ),
            ["b/c"],
            ["b/c/d.py"],
            {"b/c/d.py": None, "b/c": "c"},
            id="a directory becomes a file",
        ),
        pytest.param(lambda source, dest: put(dest, **{"b__mine.py": "m"}), None, [], {"b/mine.py": "m"}, id="foreign"),
    ],
)
def test_what_differs_and_nothing_else(
    source: Path,
    dest: Path,
    change: Change,
    sent: list[str] | None,
    removed: list[str],
    left: dict[str, str | None],
) -> None:
    send(source, dest)
    before = found(dest)
    change(source, dest)
    dry = send(source, dest, check_mode=True)
    assert send(source, dest) == dry
    assert dry == {"changed": sent is not None, "sent": sent or [], "removed": removed}
    assert found(dest) == {name: text for name, text in (before | left).items() if text is not None}
    assert send(source, dest)["changed"] is False


def test_directories_go_with_their_last_file(source: Path, dest: Path) -> None:
    put(source, **{"b__other.py": "o"})
    send(source, dest)
    (source / "b/c/d.py").unlink()
    send(source, dest)
    assert not (dest / "b/c").exists()
    assert (dest / "b").is_dir()
    put(dest, b__mine="m")
    (source / "b/other.py").unlink()
    send(source, dest)
    assert found(dest / "b") == {"mine": "m"}


def test_only_what_was_sent_is_removed(source: Path, dest: Path) -> None:
    put(dest, **{"mine.py": "m", "b__mine.py": "m"})
    send(source, dest)
    (source / "a.py").unlink()
    assert send(source, dest)["removed"] == ["a.py"]
    assert set(found(dest)) == {"mine.py", "b/mine.py", "b/c/d.py", "empty.py", "with space.txt"}


@pytest.mark.parametrize("edit", [{"a.py": "local"}, {"mine.py": "m"}, {}])
def test_only_if_empty(source: Path, dest: Path, edit: dict[str, str]) -> None:
    dest.mkdir(parents=True)
    assert send(source, dest, only_if_empty=True)["changed"] is True
    put(dest, **edit)
    before = found(dest)
    put(source, **{"a.py": "newer"})
    assert send(source, dest, only_if_empty=True) == {"changed": False, "sent": [], "removed": []}
    assert found(dest) == before


def test_only_if_empty_leaves_what_others_put_there(source: Path, dest: Path) -> None:
    put(dest, **{"mine.py": "m"})
    assert send(source, dest, only_if_empty=True)["changed"] is False
    assert found(dest) == {"mine.py": "m"}


@pytest.mark.parametrize("only_if_empty", [True, False])
def test_a_run_that_was_killed_is_finished_by_the_next(
    source: Path, dest: Path, only_if_empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = tree.replace

    def killed(directory: Directory, name: str, content: bytes, **options: Any) -> None:
        written.append(name)
        if len(written) == 3:
            raise KeyboardInterrupt
        replace(directory, name, content, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tree, "replace", killed)
        send(source, dest, only_if_empty=only_if_empty)
    assert 0 < len(found(dest)) < 4
    # What was sent by the killed run is known, so that it goes when it is gone from the source.
    (source / "a.py").unlink()
    result = send(source, dest, only_if_empty=only_if_empty)
    assert result["changed"] is True
    assert result["removed"] == ["a.py"]
    assert found(dest) == {"b/c/d.py": "d", "empty.py": "", "with space.txt": "s"}
    assert send(source, dest, only_if_empty=only_if_empty)["changed"] is False


def test_a_run_that_was_killed_before_it_removed_is_finished(
    source: Path, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(source, dest)
    (source / "a.py").unlink()
    put(source, **{"new.py": "n"})

    def killed(dest: Path, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tree, "remove", killed)
        send(source, dest)
    assert send(source, dest) == {"changed": True, "sent": ["new.py"], "removed": ["a.py"]}
    assert not (dest / "a.py").exists()


def test_a_run_that_was_killed_at_its_last_step_is_finished(source: Path, dest: Path) -> None:
    send(source, dest)
    remembered = json.loads(memory(dest).read_text())
    memory(dest).write_text(json.dumps(remembered | {"complete": False}))
    assert send(source, dest)["changed"] is True
    assert send(source, dest)["changed"] is False


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 1, "complete": true}'])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_memory_that_cannot_be_read(source: Path, dest: Path, text: str, is_old: bool) -> None:
    path = dest / OLD_MEMORY if is_old else memory(dest)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert send(source, dest)["changed"] is True
    assert send(source, dest)["changed"] is False


def test_modes_and_what_is_above(source: Path, dest: Path) -> None:
    os.umask(0o077)
    (source / "a.py").chmod(0o755)
    send(source, dest)

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o7777

    assert mode(dest.parent) == 0o755
    assert [mode(dest / name) for name in (".", "b", "b/c", "a.py", "b/c/d.py")] == [*[0o750] * 4, 0o640]
    assert mode(memory(dest)) == 0o640
    (source / "a.py").chmod(0o644)
    assert send(source, dest)["sent"] == ["a.py"]
    assert mode(dest / "a.py") == 0o640
    assert send(source, dest)["changed"] is False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group(source: Path, dest: Path) -> None:
    dest.mkdir(parents=True)
    send(source, dest, owner="daemon", group="mail")
    assert {(path.owner(), path.group()) for path in [dest, *dest.rglob("*")]} == {("daemon", "mail")}
    assert dest.parent.owner() == "root"


@pytest.mark.parametrize("name", ["owner", "group"])
def test_an_account_that_does_not_exist(source: Path, dest: Path, name: str) -> None:
    options: dict[str, Any] = {name: "no-such-name"}
    assert send(source, dest, check_mode=True, **options)["changed"] is True
    assert "no-such-name" in send(source, dest, **options)["msg"]
    assert not dest.parent.exists()


def test_a_file_in_the_place_of_the_directory(source: Path, dest: Path) -> None:
    put(dest.parent, flows="precious")
    assert f"{dest} cannot be written" in send(source, dest)["msg"]
    assert dest.read_text() == "precious"


def test_links_are_sent_as_what_they_lead_to(tmp_path: Path, source: Path, dest: Path) -> None:
    put(tmp_path / "shared", **{"one.py": "1", "deeper__two.py": "2"})
    (source / "file.py").symlink_to(tmp_path / "shared" / "one.py")
    (source / "same.py").symlink_to("a.py")
    (source / "shared").symlink_to("../shared")
    os.link(source / "a.py", source / "hard.py")
    send(source, dest)
    links = {"file.py": "1", "same.py": "a", "hard.py": "a", "shared/one.py": "1", "shared/deeper/two.py": "2"}
    assert found(dest).items() >= links.items()
    assert not any(path.is_symlink() for path in dest.rglob("*"))
    assert send(source, dest)["changed"] is False


@pytest.mark.parametrize(("target", "says"), [("gone.py", "leads nowhere"), ("..", "leads to a directory that it is")])
def test_links_that_cannot_be_sent(source: Path, target: str, says: str) -> None:
    (source / "b" / "link").symlink_to(target)
    with pytest.raises(AnsibleActionFail, match=says):
        contents(source, exclude=EXCLUDED)
    assert set(contents(source, exclude=["link"])) == {"a.py", "b/c/d.py", "empty.py", "with space.txt"}


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("data.txt", "../inventory/ca.key"),
        ("data.txt", "{root}/inventory/ca.key"),
        ("b/deep", "../../inventory"),
        ("data.txt", "../nowhere"),
        ("top", ".."),
        ("config", ".git/config"),
    ],
)
def test_a_repository_names_no_file_of_the_controller(tmp_path: Path, source: Path, link: str, target: str) -> None:
    put(tmp_path, **{"inventory__ca.key": "key"})
    put(source, **{".git__config": "url"})
    (source / "within").symlink_to("b")
    (source / "same.py").symlink_to("within/../a.py")
    inside = contents(source, exclude=EXCLUDED, links_outside=False)
    assert {"a.py", "same.py", "b/c/d.py", "within/c/d.py"} <= inside.keys()
    (source / link).symlink_to(target.format(root=tmp_path))
    with pytest.raises(AnsibleActionFail, match=f"the link {link} leads to .*not part of what is sent"):
        contents(source, exclude=EXCLUDED, links_outside=False)


def test_what_is_no_file_is_left_out(source: Path) -> None:
    os.mkfifo(source / "pipe")
    assert "pipe" not in contents(source, exclude=EXCLUDED)


def test_the_memory_of_an_earlier_version_is_moved_and_leads_nowhere(source: Path, dest: Path) -> None:
    put(dest, **{"gone.py": "g", "a.py": "a", "b__c__d.py": "d", "with space.txt": "s", "empty.py": ""})
    put(dest.parent, victim="precious")
    (dest / "link").symlink_to(dest.parent)
    names = ["gone.py", "a.py", "../victim", str(dest.parent / "victim"), "link/victim", "", ".", 1, None, "a\0b"]
    put(dest, **{OLD_MEMORY: json.dumps({"complete": True, "files": names})})
    dry = send(source, dest, check_mode=True)
    assert (dest / OLD_MEMORY).exists()
    assert send(source, dest) == dry
    assert (dry["changed"], dry["removed"]) == (True, ["gone.py"])
    assert (dest.parent / "victim").read_text() == "precious"
    assert not (dest / OLD_MEMORY).exists()
    assert send(source, dest)["changed"] is False

    # The owner of the destination may write it at any time.
    put(dest, **{OLD_MEMORY: json.dumps({"complete": True, "files": ["a.py"]})})
    (source / "b/c/d.py").unlink()
    assert send(source, dest)["removed"] == ["b/c/d.py"]


def test_examples_that_were_removed_stay_so(source: Path, dest: Path) -> None:
    send(source, dest, only_if_empty=True)
    for path in [path for path in dest.rglob("*") if path.is_file()]:
        path.unlink()
    assert send(source, dest, only_if_empty=True)["changed"] is False
    shutil.rmtree(dest)
    assert send(source, dest, only_if_empty=True)["changed"] is True


@pytest.fixture
def book(tmp_path: Path) -> dict[str, Any]:
    """The ledger's option of the flows' part, whose directory is another owner's."""
    path = tmp_path / "var" / "prefect.json"
    return {"name": str(path), "part": "flows", "adopt": ["directories"], "opt": str(tmp_path / "opt")}


def record(book: dict[str, Any], dest: Path, **options: Any) -> dict[str, Any]:
    account = pwd.getpwuid(dest.stat().st_uid).pw_name if dest.exists() else pwd.getpwuid(os.geteuid()).pw_name
    wanted = [{"kind": "data", "name": str(dest), "owners": [account]}]
    given: dict[str, Any] = outcome(ledger.main, ledger=book, entries=wanted, **options)
    assert not given.get("failed"), given
    return given


def states(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Return what files hold, with what identifies them: a file that was moved and moved back is the same one."""
    return {
        path.relative_to(directory).as_posix(): (path.read_text(), path.stat().st_ino, path.stat().st_mode)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_file_of_the_same_name_is_kept_and_comes_back(
    source: Path, dest: Path, book: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    put(dest, **{"a.py": "of a person", "b__c__d.py": "of a person", "other.py": "of a person", "empty.py": ""})
    (dest / "a.py").chmod(0o755)
    before = states(dest)
    record(book, dest)
    send(source, dest, ledger=book)
    assert "until Prefect is removed: a.py, b/c/d.py" in capsys.readouterr().err
    assert found(dest)["a.py"] == "a"
    assert send(source, dest, ledger=book) == {"changed": False, "sent": [], "removed": []}
    put(source, **{"a.py": "newer"})
    send(source, dest, ledger=book)
    assert capsys.readouterr().err == ""
    # One that was equal at first.
    put(source, **{"empty.py": "no longer"})
    send(source, dest, ledger=book)
    record(book, dest, state="absent", purge=True)
    assert states(dest) == before
    assert not Path(book["name"]).exists()


@pytest.mark.parametrize("name", ["a.py", "b/c/d.py", "empty.py"])
def test_a_file_comes_back_when_the_source_has_none_of_its_name(
    source: Path, dest: Path, book: dict[str, Any], name: str
) -> None:
    put(dest, **{"a.py": "of a person", "b__c__d.py": "of a person", "empty.py": ""})
    before = states(dest)
    record(book, dest)
    send(source, dest, ledger=book)
    (source / name).unlink()
    assert send(source, dest, ledger=book)["changed"]
    assert states(dest)[name] == before[name]
    assert not send(source, dest, ledger=book)["changed"]
    put(source, **{name: "again"})
    send(source, dest, ledger=book)
    record(book, dest, state="absent", purge=True)
    assert states(dest) == before


def test_only_what_was_sent_goes_from_another_owners_directory(source: Path, dest: Path, book: dict[str, Any]) -> None:
    put(dest, **{"b__other.py": "of a person"})
    before = states(dest)
    record(book, dest)
    send(source, dest, ledger=book)
    (source / "with space.txt").unlink()
    send(source, dest, ledger=book)
    put(dest, **{"later.py": "of a person", "b__later.py": "of a person"})
    later = {name: state for name, state in states(dest).items() if "later" in name}
    record(book, dest, state="absent", purge=True)
    assert states(dest) == before | later
    assert sorted(path.name for path in dest.rglob("*") if path.is_dir()) == ["b"]


def test_a_run_that_was_killed_keeps_the_file_all_the_same(
    source: Path, dest: Path, book: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dest, **{"a.py": "of a person", "b__c__d.py": "of a person"})
    before = states(dest)
    record(book, dest)
    real, left = tree.replace, 1

    def killed(*arguments: Any, **more: Any) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(*arguments, **more)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tree, "replace", killed)
        send(source, dest, ledger=book)
    send(source, dest, ledger=book)
    assert found(dest)["a.py"] == "a" and found(dest)["b/c/d.py"] == "d"
    record(book, dest, state="absent", purge=True)
    assert states(dest) == before


def test_a_link_to_another_place_is_kept_as_a_link(source: Path, dest: Path, book: dict[str, Any]) -> None:
    outside = put(dest.parents[1] / "elsewhere", **{"a.py": "of a person"}) / "a.py"
    dest.mkdir(parents=True)
    (dest / "a.py").symlink_to(outside)
    record(book, dest)
    send(source, dest, ledger=book)
    assert found(dest)["a.py"] == "a" and not (dest / "a.py").is_symlink()
    record(book, dest, state="absent", purge=True)
    assert (dest / "a.py").readlink() == outside and outside.read_text() == "of a person"


@pytest.mark.parametrize("adopted", [True, False])
def test_what_was_sent_before_a_removal_without_a_purge_is_sent_again(
    source: Path, dest: Path, book: dict[str, Any], adopted: bool
) -> None:
    if adopted:
        put(dest, **{"other.py": "of a person"})
    before = states(dest)
    record(book, dest)
    send(source, dest, ledger=book)
    # With the releases, the record of what was sent goes.
    shutil.rmtree(dest.parents[1] / "state")
    put(source, **{"a.py": "newer"})
    record(book, dest)
    send(source, dest, ledger=book)
    assert found(dest) == {"a.py": "newer", "b/c/d.py": "d", "empty.py": "", "with space.txt": "s"} | (
        {"other.py": "of a person"} if adopted else {}
    )
    record(book, dest, state="absent", purge=True)
    assert states(dest) == before


def test_what_has_the_name_of_a_copy_is_none(source: Path, dest: Path, book: dict[str, Any]) -> None:
    """A flow can write such a file before anything is sent."""
    put(dest, **{"a.py": "of a person", f"a.py{ledgers.KEPT}": "planted"})
    record(book, dest)
    send(source, dest, ledger=book)
    record(book, dest, state="absent", purge=True)
    assert found(dest) == {"a.py": "of a person"}


@pytest.mark.parametrize("name", ["a.py", f"a.py{ledgers.KEPT}"])
def test_a_directory_in_the_place_of_a_file_stops_no_removal(
    source: Path, dest: Path, book: dict[str, Any], name: str
) -> None:
    put(dest, **{"a.py": "of a person", "b__c__d.py": "of a person"})
    record(book, dest)
    send(source, dest, ledger=book)
    (dest / name).unlink()
    put(dest, **{f"{name}__planted": ""})
    said = record(book, dest, state="absent", purge=True)
    assert said["left"][0].startswith(f"{dest}/a.py (") and said["left"][0].endswith(f"a.py{ledgers.KEPT})")
    assert found(dest)["b/c/d.py"] == "of a person" and "empty.py" not in found(dest)
    # With the directory gone, the rest follows.
    shutil.rmtree(dest / name)
    record(book, dest, state="absent", purge=True)
    assert not Path(book["name"]).exists()


def test_a_directory_with_the_name_of_a_copy_is_refused(source: Path, dest: Path, book: dict[str, Any]) -> None:
    put(dest, **{"a.py": "of a person", f"a.py{ledgers.KEPT}__planted": ""})
    record(book, dest)
    said = send(source, dest, ledger=book)
    assert said["failed"] and f"a.py{ledgers.KEPT}" in said["msg"]
    assert found(dest)["a.py"] == "of a person"
