"""What the account that flows run as plants where it may write, and root then comes by: nothing outside changes."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from real_host import NAME, Ended, Host, Variables

HOME = "/var/lib/prefect"
VICTIMS = "/srv/victims"
INSTANCE = ("/var/lib/prefect", "/opt/prefect", "/etc/prefect", "/var/backups", "/root", "/var/lib/selfhosted-prefect")
PATIENCE = 900
"""Seconds of one play. What hangs is found, however slow the machine is."""

GROUPS = {name: [NAME] for name in ("prefect_server", "prefect_worker", "prefect_flows")}

FLOW = """
    from prefect import flow


    @flow
    def stock(items: int = 2) -> int:
        return items


    if __name__ == "__main__":
        stock.serve("served")
"""

PLANT = """
import json, os, pwd, socket, sys
for kind, path, target in json.load(sys.stdin):
    parent, name = os.path.split(path)
    owner = os.stat(parent)
    if owner.st_uid == 0:
        owner = os.stat("/var/lib/prefect/prefect.db", follow_symlinks=False)
    # Not every kernel forbids an account to link files that it does not own.
    if kind != "hard link":
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    if os.path.lexists(path):
        os.rename(path, f"{path}.real")
    if kind == "link":
        os.symlink(target, path)
    elif kind == "hard link":
        os.link(target, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(parent)
        socket.socket(socket.AF_UNIX).bind(name)
    elif kind == "directory":
        os.mkdir(path)
    else:
        with open(path, "w") as file:
            file.write(target)
    os.seteuid(0)
    os.setegid(0)
"""
"""Plants as an account that can write the directory: its owner or, in the home of root's, the server's account."""

GOES_ON = [
    ["link", f"{HOME}/flows/.serve.py.ansible-new", f"{VICTIMS}/file"],
    [
        "text",
        f"{HOME}/flows/.selfhosted-prefect.json",
        json.dumps({"complete": True, "files": [f"../../../..{VICTIMS}/file", f"{VICTIMS}/file"]}),
    ],
    ["hard link", f"{HOME}/flows/hard.py", f"{VICTIMS}/file"],
    ["link", f"{HOME}/flows/linked.py", f"{VICTIMS}/file"],
    ["link", f"{HOME}/flows/dangling.py", f"{VICTIMS}/new"],
    ["pipe", f"{HOME}/flows/piped.py", ""],
    ["socket", f"{HOME}/flows/package/socket.py", ""],
    # These are not sent, and watched.
    ["pipe", f"{HOME}/flows/endless.py", ""],
    ["link", f"{HOME}/flows/secret.py", f"{VICTIMS}/file"],
    ["link", f"{HOME}/flows/elsewhere", f"{VICTIMS}/directory"],
    ["directory", f"{HOME}/flows/directory.py", ""],
    ["link", f"{HOME}/.prefect.db.restored", f"{VICTIMS}/file"],
    ["link", f"{HOME}/backups", f"{VICTIMS}/directory"],
    ["link", f"{HOME}/memo_store.toml", f"{VICTIMS}/file"],
    ["link", f"{HOME}/tmp", f"{VICTIMS}/directory"],
]
"""What is put aside or left alone, and no play fails for it."""

SENT = ["hard.py", "linked.py", "dangling.py", "piped.py", "package/socket.py", "serve.py"]

SITE, BACKUP = "site.yml", "playbooks/backup.yml"
REFUSED = [
    (["link", f"{HOME}/flows/package", f"{VICTIMS}/directory"], SITE, "flows", "is a symbolic link"),
    (["directory", f"{HOME}/flows/linked.py", ""], SITE, "flows", "is a directory"),
    (["link", f"{HOME}/definitions", f"{VICTIMS}/directory"], SITE, "definitions", "is a symbolic link"),
    (["link", f"{HOME}/prefect.db", f"{VICTIMS}/file"], BACKUP, "all", "is a symbolic link to /srv/victims/file"),
    (["pipe", f"{HOME}/prefect.db", ""], BACKUP, "all", "is a named pipe"),
]
"""What a play ends at: what is planted, the playbook and its tags, and what it says of the path."""


def plant(host: Host, plants: list[list[str]]) -> None:
    """Put things in the way, and move what exists aside."""
    host.write("/root/plant.py", PLANT)
    host.sh("python3 /root/plant.py", stdin=json.dumps(plants))


def outside(host: Host) -> dict[str, str]:
    """Return what is on the host beside what Prefect is made of."""
    lines = (line.partition(": ") for line in host.manifest())
    return {
        name: facts
        for name, _, facts in lines
        if name.startswith("file ") and not name.removeprefix("file ").startswith(INSTANCE)
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("flows")
    for name in SENT:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(textwrap.dedent(FLOW) if name == "serve.py" else f"# {name}\n")
    return directory


@pytest.fixture(scope="module")
def variables(source: Path) -> Variables:
    return {
        "prefect_flows_source": f"{source}/",
        "prefect_flows_serve": [{"name": "stock", "path": "serve.py"}],
        "prefect_server_restore": "latest",
    }


@pytest.fixture(scope="module")
def attacked(older: Host, variables: Variables) -> Host:
    """A host whose accounts have planted what they can, beside files of others that must not change."""
    older.sh(f"mkdir -p {VICTIMS}/directory; echo precious | tee {VICTIMS}/file {VICTIMS}/directory/file.py")
    older.sh(f"chmod -R go= {VICTIMS}")
    ended = older.start(SITE, variables).wait(timeout=PATIENCE)
    assert ended.rc == 0, ended.output
    plant(older, GOES_ON)
    return older


def play(host: Host, playbook: str, variables: Variables, *arguments: str, more: str = "") -> Ended:
    """Run a playbook, and see that nothing outside is another for it."""
    groups = GROUPS | ({more: [NAME]} if more else {})
    untouched = outside(host)
    run = host.start(playbook, variables, groups=groups, arguments=arguments)
    ended = run.wait(timeout=PATIENCE)
    assert outside(host) == untouched, ended.output
    return ended


def test_root_goes_by(attacked: Host, variables: Variables) -> None:
    owner = attacked.sh(f"stat --format=%U {HOME}/flows")
    first = play(attacked, SITE, variables)
    assert first.rc == 0, first.output
    for name in ("hard.py", "linked.py", "dangling.py", "piped.py", "package/socket.py"):
        assert f"{HOME}/flows/{name} is a " in first.words
        assert attacked.sh(f"stat --format='%F %U %h' {HOME}/flows/{name}") == f"regular file {owner} 1"
    assert not attacked.sh(f"ls {HOME}/tmp 2>/dev/null", check=False)

    again = play(attacked, SITE, variables)
    assert (again.rc, again.changed) == (0, 0), again.output


def test_root_backs_up_and_restores(attacked: Host, variables: Variables) -> None:
    for playbook in (BACKUP, "playbooks/restore.yml"):
        ended = play(attacked, playbook, variables)
        assert ended.rc == 0, ended.output
    assert attacked.sh(f"ls {VICTIMS}/directory") == "file.py"


def test_root_upgrades_and_rotates(attacked: Host, variables: Variables) -> None:
    """Both write settings and restart all that runs, and so come by the same paths again, with another release."""
    variables |= {"prefect_version": "3.9.1", "prefect_server_host": "0.0.0.0"}
    for playbook, more in (("playbooks/upgrade.yml", {}), ("playbooks/rotate.yml", {"prefect_rotate": ["api"]})):
        plant(
            attacked,
            [["link", f"{HOME}/{name}", f"{VICTIMS}/file"] for name in (".prefect.db.restored", "blocks_registered")],
        )
        ended = play(attacked, playbook, variables | more)
        assert ended.rc == 0, ended.output


@pytest.mark.parametrize(("planted", "playbook", "tags", "says"), REFUSED, ids=lambda given: str(given)[:40])
def test_root_says_what_is_in_its_way(
    attacked: Host, variables: Variables, planted: list[str], playbook: str, tags: str, says: str
) -> None:
    path = planted[1]
    plant(attacked, [planted])
    more = "prefect_definitions" if tags == "definitions" else ""
    ended = play(attacked, playbook, variables, "--tags", tags, more=more)
    attacked.sh(f"rm -rf {path}; [ ! -e {path}.real ] || mv {path}.real {path}")
    assert ended.rc == 2, ended.output
    assert f"{path} {says}" in ended.words and "remove it" in ended.words


@pytest.mark.parametrize("account", ["prefect", "prefect-worker"])
@pytest.mark.parametrize("name", ["flows", "storage", "worker"])
def test_no_account_replaces_a_directory_of_root_s_home(attacked: Host, account: str, name: str) -> None:
    said = attacked.sh(f"runuser --user {account} -- mv {HOME}/{name} {HOME}/other 2>&1", check=False)
    assert "Operation not permitted" in said or "Permission denied" in said


def test_root_removes_what_it_created_and_nothing_else(attacked: Host, variables: Variables) -> None:
    attacked.sh(f"runuser --user prefect-worker -- ln -s {VICTIMS}/directory {HOME}/flows/more")
    before = {name: facts for name, facts in outside(attacked).items() if VICTIMS in name}
    ended = attacked.start("playbooks/absent.yml", {**variables, "prefect_purge": True}).wait(timeout=PATIENCE)
    assert ended.rc == 0, ended.output
    assert {name: facts for name, facts in outside(attacked).items() if VICTIMS in name} == before
    assert len(before) == 4 and attacked.sh(f"ls {HOME} /opt/prefect 2>/dev/null", check=False) == ""
