"""Files and directories, written by their module and sent by its action plugin."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.safe_files import write
from ansible_collections.selfhosted.prefect.plugins.modules import host_files as files
from ansible_collections.selfhosted.prefect.plugins.plugin_utils.rendered import FILES, rendered
from fake_api import outcome

ROOT = Path(__file__).resolve().parents[2]
SECRET = 'PREFECT_API_AUTH_STRING="admin:s3cret"\nOTHER="s4cret\'"\n'

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def ensure(*wanted: dict[str, Any], check_mode: bool = False, secrets: list[str] | None = None) -> dict[str, Any]:
    given = [{"mode": "0644"} | file for file in wanted]
    given = [{name: value for name, value in file.items() if value is not None} for file in given]
    result: dict[str, Any] = outcome(files.main, check_mode=check_mode, files=given, secrets=secrets or [])
    return result


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return mode, owner, group and content of everything below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        is_file = path.is_file() and not path.is_symlink()
        state = path.lstat()
        found[str(path)] = (state.st_mode, state.st_uid, state.st_gid, path.read_bytes() if is_file else b"")
    return found


def nothing(path: Path) -> None:
    pass


def same(path: Path) -> None:
    path.write_text("new\n")
    path.chmod(0o640)


def other_mode(path: Path) -> None:
    same(path)
    path.chmod(0o644)


def other_content(path: Path) -> None:
    path.write_text("old\n")
    path.chmod(0o640)


def line_ends(path: Path) -> None:
    path.write_bytes(b"new\r\n")
    path.chmod(0o640)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def link(path: Path) -> None:
    target = path.with_name("target")
    same(target)
    path.symlink_to(target)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def half_written(path: Path) -> None:
    path.with_name(f".{path.name}.ansible-new").write_text("ne")


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (nothing, True),
        (same, False),
        (other_mode, True),
        (other_content, True),
        (line_ends, True),
        (not_text, True),
        (link, True),
        (dangling, True),
        (half_written, True),
    ],
)
def test_a_file_dry_for_real_and_again(tmp_path: Path, before: Any, changes: bool) -> None:
    path = tmp_path / "settings.env"
    before(path)
    wanted = {"path": str(path), "content": "new\n", "mode": "0640"}

    start = snapshot(tmp_path)
    dry = ensure(wanted, check_mode=True)
    assert snapshot(tmp_path) == start

    real = ensure(wanted)
    assert dry == real
    assert real["changed"] is changes
    assert real["written"] == ([str(path)] if changes else [])
    assert not path.is_symlink()
    assert path.read_bytes() == b"new\n"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert [step.name for step in tmp_path.iterdir() if step.name.startswith(".")] == []

    end = snapshot(tmp_path)
    assert ensure(wanted)["changed"] is False
    assert snapshot(tmp_path) == end


def test_line_ends_are_kept(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "a"), "content": "one\r\ntwo\r\n"}
    assert ensure(wanted)["changed"] is True
    assert (tmp_path / "a").read_bytes() == b"one\r\ntwo\r\n"
    assert ensure(wanted)["changed"] is False


def test_a_reader_keeps_the_whole_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old\n")
    with path.open() as reader:
        ensure({"path": str(path), "content": "new\n"})
        assert reader.read() == "old\n"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every account can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_diff(public_path: Path) -> None:
    name = str(public_path / "a")
    Path(name).write_text("old\n")
    Path(name).chmod(0o644)
    result = ensure({"path": name, "content": "new\n"}, {"path": str(public_path / "d"), "mode": "0755"})
    assert result["diff"][0] == {"before_header": name, "after_header": name, "before": "old\n", "after": "new\n"}
    assert result["diff"][1]["prepared"] == f"directory {public_path / 'd'}\n"


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(
    ("directory", "file"), [(0o755, 0o600), (0o755, 0o640), pytest.param(0o750, 0o644, marks=as_root)]
)
def test_a_file_that_not_every_account_may_read_is_not_shown(
    public_path: Path, directory: int, file: int, check_mode: bool
) -> None:
    """A unit that someone wrote by hand may hold a password, and an adopted directory such units."""
    path = public_path / "units/prefect-server.service"
    path.parent.mkdir()
    path.write_text("[Service]\nEnvironment=PASSWORD=s5cret\n")
    path.chmod(file)
    path.parent.chmod(directory)
    result = ensure({"path": str(path), "content": "new\n"}, check_mode=check_mode)
    assert "s5cret" not in json.dumps(result)
    assert result["diff"][0]["before"].startswith("(the previous content is not shown")
    assert result["diff"][0]["after"] == "new\n"


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_secret_is_in_its_file_only(tmp_path: Path, check_mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda self, msg, log_args=None: logged.append(f"{msg} {log_args}"))
    path, public = tmp_path / "server.env", tmp_path / "unit"
    path.write_text('OLD="s5cret"\n')
    wanted: list[dict[str, Any]] = [
        {"path": str(path), "mode": "0640", "secret": True},
        {"path": str(public), "content": "x\n"},
    ]
    result = ensure(*wanted, check_mode=check_mode, secrets=[SECRET])
    assert result["written"] == [str(path), str(public)]
    for word in ("s3cret", "s4cret", "s5cret"):
        assert word not in json.dumps(result) + "".join(logged)
    assert logged
    if not check_mode:
        assert path.read_text() == SECRET
        assert public.read_text() == "x\n"
        assert ensure(*wanted, secrets=[SECRET])["changed"] is False


def test_a_directory_dry_for_real_and_again(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "a" / "b"), "mode": "0750"}
    assert ensure(wanted, check_mode=True)["changed"] is True
    assert not (tmp_path / "a").exists()
    assert ensure(wanted)["changed"] is True
    assert (tmp_path / "a" / "b").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755
    assert ensure(wanted)["changed"] is False


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_absent_dry_for_real_and_again(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("x")
    path = tmp_path / "a"
    if kind == "file":
        path.write_text("x")
    elif kind == "directory":
        (path / "b").mkdir(parents=True)
        (path / "b" / "c").write_text("x")
    else:
        path.symlink_to("precious" if kind == "link" else "gone")
    wanted = {"path": str(path), "state": "absent", "mode": None}
    dry = ensure(wanted, check_mode=True)
    assert os.path.lexists(path)
    assert dry == ensure(wanted)
    assert dry["written"] == [str(path)]
    assert not os.path.lexists(path)
    assert (precious / "data").exists()
    assert ensure(wanted)["changed"] is False


def test_unused_removes_a_directory_only_if_it_is_empty(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "local"), "state": "unused", "mode": None}
    assert ensure(wanted)["changed"] is False
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "foreign").touch()
    assert ensure(wanted)["changed"] is False
    (tmp_path / "local" / "foreign").unlink()
    assert ensure(wanted, check_mode=True)["changed"] is True
    assert ensure(wanted)["changed"] is True
    assert not (tmp_path / "local").exists()


def test_kept_creates_nothing_and_corrects_what_exists(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "home"), "state": "kept", "mode": "0700"}
    assert ensure(wanted)["changed"] is False
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir(mode=0o755)
    assert ensure(wanted)["changed"] is True
    assert (tmp_path / "home").stat().st_mode & 0o7777 == 0o700
    assert ensure(wanted)["changed"] is False


def test_the_mode_is_demanded(tmp_path: Path) -> None:
    assert "mode" in ensure({"path": str(tmp_path / "a"), "content": "x", "mode": None})["msg"]


def test_what_is_above_can_be_entered_whatever_the_umask_is(tmp_path: Path) -> None:
    os.umask(0o077)
    ensure({"path": str(tmp_path / "unit.service.d" / "instance.conf"), "content": "x"})
    assert (tmp_path / "unit.service.d").stat().st_mode & 0o7777 == 0o755


def test_a_directory_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to("disk")
    wanted = {"path": str(tmp_path / "home"), "mode": "0750"}
    assert ensure(wanted)["changed"] is True
    assert (tmp_path / "home").is_symlink()
    assert (tmp_path / "disk").stat().st_mode & 0o7777 == 0o750
    assert ensure(wanted)["changed"] is False


@as_root
def test_owner_and_group(tmp_path: Path) -> None:
    wanted = {"path": str(tmp_path / "a"), "content": "x", "owner": "daemon", "group": "mail"}
    assert ensure(wanted)["changed"] is True
    assert ((tmp_path / "a").owner(), (tmp_path / "a").group()) == ("daemon", "mail")
    os.chown(tmp_path / "a", 0, 0)
    assert ensure(wanted)["changed"] is True
    assert ensure(wanted)["changed"] is False


LOST = 54321
"""A number that no account has."""


@as_root
@pytest.mark.parametrize("takes_roots", [False, True])
def test_what_a_lost_account_left_is_given_back_and_nothing_else(tmp_path: Path, takes_roots: bool) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.write_text("x")
    below = home / "flows"
    below.mkdir(parents=True)
    for name in ("flow.py", "roots.py", "foreign.py", "named twice.py"):
        (below / name).write_text("x")
    os.link(below / "named twice.py", tmp_path / "other name")
    (below / "link").symlink_to(outside)
    os.mkfifo(below / "pipe")
    for path in (below, below / "flow.py", below / "link", below / "pipe", below / "named twice.py", outside):
        os.chown(path, LOST, LOST, follow_symlinks=False)
    os.chown(below / "foreign.py", 65534, 65534)
    wanted: dict[str, Any] = {"path": str(home), "mode": "0750", "owner": "daemon", "group": "daemon"}
    wanted |= {"recurse": True, "recurse_root": takes_roots}

    start = snapshot(tmp_path)
    assert ensure(wanted, check_mode=True)["changed"] is True
    assert snapshot(tmp_path) == start

    result = ensure(wanted)
    owners = {path.name: path.lstat().st_uid for path in [home, *home.rglob("*")]}
    given = dict.fromkeys(("home", "flows", "flow.py", "link", "pipe"), 1)
    assert owners == given | {"roots.py": 1 if takes_roots else 0, "foreign.py": 65534, "named twice.py": LOST}
    assert outside.stat().st_uid == LOST
    assert result["changed"] is True
    assert ensure(wanted)["changed"] is False


@as_root
class Facts(dict[str, Any]):
    """Variables that take long to copy."""

    def __deepcopy__(self, memo: object) -> Any:
        pytest.fail("the facts of the host are copied")


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an action sends for files, on a controller where the variables of the host are `variables`."""
    # Names such as ansible.builtin.template are known in a run of Ansible only.
    by_name = SimpleNamespace(get=lambda name, **objects: lookup_loader.get(name.rpartition(".")[2], **objects))
    monkeypatch.setattr("ansible_collections.selfhosted.prefect.plugins.plugin_utils.rendered.lookup_loader", by_name)

    def call(*wanted: dict[str, Any], **variables: Any) -> Any:
        task_vars = {"ansible_search_path": [str(tmp_path)], **variables}
        templar = Templar(loader=DataLoader(), variables=task_vars)
        unset = {name: spec.get("default") for name, spec in FILES["options"].items()}
        action = SimpleNamespace(_loader=DataLoader(), _templar=templar)
        return rendered(action, [unset | file for file in wanted], task_vars)

    return call


def test_a_template_sees_the_variables_of_the_host_and_its_own(tmp_path: Path, render: Any) -> None:
    (tmp_path / "a.j2").write_text("{{ ansible_managed }} {{ derived }} {{ own }}\n")
    derived = trust_as_template("{{ facts.name ~ own }}")
    wanted = [{"path": f"/etc/{own}", "template": "a.j2", "vars": {"own": own}} for own in ("x", "y")]
    sent, secrets = render(*wanted, {"path": "/s", "template": "a.j2", "vars": {"own": "z"}, "secret": True},
                           facts=Facts(name="h"), derived=derived)  # fmt: skip
    assert [file.get("content") for file in sent] == ["Ansible managed hx x\n", "Ansible managed hy y\n", None]
    assert secrets == ["Ansible managed hz z\n"]


def test_a_file_of_the_controller_is_sent_as_it_is(tmp_path: Path, render: Any) -> None:
    (tmp_path / "a.py").write_text('"""{{ not_a_template }}"""\n')
    assert render({"path": "/a.py", "src": str(tmp_path / "a.py"), "mode": "0644"})[0][0]["content"] == (
        '"""{{ not_a_template }}"""\n'
    )


def test_nothing_is_rendered_for_a_file_that_is_removed(render: Any) -> None:
    wanted = {"template": "missing.j2", "state": "absent"}
    sent, secrets = render({"path": "/a", **wanted}, {"path": "/b", "secret": True, **wanted})
    assert ([file["path"] for file in sent], secrets) == (["/a", "/b"], [""])


def test_two_writers_of_one_file_never_show_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    texts = {letter * 300_000 for letter in "ab"}
    writers = []
    for text in texts:
        writers.append(os.fork())
        if not writers[-1]:
            try:
                for _ in range(60):
                    write(path, text.encode(), owner=0, group=0, mode=0o640)
                os._exit(0)
            finally:
                os._exit(1)
    while not path.exists():
        pass
    running = set(writers)
    torn = reads = 0
    while running:
        torn += path.read_text() not in texts
        reads += 1
        running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG)[1] == 0 and not Path(f"/proc/{pid}").exists()}
    assert (torn, list(tmp_path.iterdir())) == (0, [path]), f"{torn} of {reads} reads"


@pytest.mark.parametrize("name", ["owner", "group"])
def test_an_account_that_does_not_exist_is_a_change_in_check_mode_and_an_error_otherwise(
    tmp_path: Path, name: str
) -> None:
    wanted = {"path": str(tmp_path / "a"), "content": "x", name: "no-such-name"}
    assert ensure(wanted, check_mode=True)["changed"] is True
    result = ensure(wanted)
    assert result["failed"]
    assert f"{tmp_path / 'a'} cannot be written" in result["msg"]
    assert "no-such-name" in result["msg"]


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(
    ("wanted", "there"),
    [({"path": "file"}, "is a file and has to be a dir"), ({"path": "directory", "content": "x"}, "has to be a file")],
)
def test_what_stands_in_the_way_stays(tmp_path: Path, wanted: dict[str, Any], there: str, check_mode: bool) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory").mkdir()
    result = ensure(wanted | {"path": str(tmp_path / wanted["path"])}, check_mode=check_mode)
    assert result["failed"]
    assert there in result["msg"]
    assert (tmp_path / "file").read_text() == "precious"
