"""dnf and rpm, with a repository of small packages and a root directory of their own.

What is expected of every package manager is in tests/unit/test_packages.py, with a stand-in for apt.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import package_manager, rpm
from ansible_collections.selfhosted.prefect.plugins.modules import host_packages as packages
from fake_api import outcome

TOOLS = {"dnf": "dnf", "rpmbuild": "rpm", "createrepo_c": "createrepo-c"}
"""What is called, and Debian's package that it is in."""

PACKAGES = {
    "redis": "Requires: jemalloc\nRecommends: redis-doc",
    "redis-doc": "",
    "jemalloc": "",
    "foreign": "Requires: jemalloc",
    "valkey": "Conflicts: redis",
    "apache": "",
    "nginx": "Obsoletes: apache < 2",
    "bash": "",
}
FILES = {
    "redis": (
        "mkdir -p %{buildroot}/etc/redis %{buildroot}/var/lib/redis\n"
        "echo port 6379 > %{buildroot}/etc/redis/redis.conf",
        "%dir /etc/redis\n%config(noreplace) /etc/redis/redis.conf\n%dir /var/lib/redis\n"
        "%ghost %config /etc/redis/nodes.conf",
    ),
}

Manage = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Have the programs of the RHEL family on this machine, from its own packages."""
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    if os.geteuid() or shutil.which("apt-get") is None:
        pytest.skip(f"dnf is not tested: root has to install {' '.join(missing)} on this machine first")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(command, env=environment, check=True)


def build(directory: Path, *, version: int = 1) -> None:
    """Build the packages and the metadata of their repository."""
    sections = [
        f"Name: suite\nVersion: {version}\nRelease: 1\nSummary: s\nLicense: l\nBuildArch: noarch\n%description\nd"
    ]
    for name, relations in PACKAGES.items():
        sections.append(f"%package -n {name}\nSummary: s\n{relations}\n%description -n {name}\nd")
        sections.append(f"%files -n {name}\n{FILES.get(name, ('', ''))[1]}")
    sections.append("%install\n" + "\n".join(commands for commands, _ in FILES.values()))
    spec = f"{directory}/suite.spec"
    Path(spec).write_text("\n".join(sections) + "\n")
    command = [
        "rpmbuild",
        "-bb",
        "--quiet",
        f"--define=_topdir {directory}",
        f"--define=_rpmdir {directory}/repo",
        spec,
    ]
    subprocess.run(command, capture_output=True, check=True)
    subprocess.run(["createrepo_c", "--quiet", directory / "repo"], capture_output=True, check=True)


MODULE = """\
---
document: modulemd
version: 2
data:
  name: {name}
  stream: "{stream}"
  version: 1
  context: c0ffee
  arch: noarch
  summary: s
  description: d
  license: {{module: [MIT]}}
  artifacts: {{rpms: [{name}-0:{stream}-1.noarch]}}
...
"""


@pytest.fixture
def streams(root: Path) -> list[str]:
    """Two streams of the module redis, 2 and 3, beside a redis of no module; return the command that changes them."""
    for version in (2, 3):
        build(root.parent, version=version)
    (root.parent / "modules.yaml").write_text("".join(MODULE.format(name="redis", stream=stream) for stream in (2, 3)))
    command = ["modifyrepo_c", "--mdtype=modules", f"{root.parent}/modules.yaml", f"{root.parent}/repo/repodata"]
    subprocess.run(command, capture_output=True, check=True)
    rpm.refresh()
    return [*rpm.DNF, f"--installroot={root}", "--quiet", "--assumeyes", "module"]


@pytest.fixture(scope="session")
def built(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rpms")
    build(directory)
    return directory / "repo"


@pytest.fixture
def root(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root directory with the package bash, in which dnf knows the repository alone."""
    root, repo = tmp_path / "root", tmp_path / "repo"
    shutil.copytree(built, repo)
    main = "[main]\ngpgcheck=0\nplugins=0\nreposdir=/nowhere\nvarsdir=/nowhere\n"
    (tmp_path / "dnf.conf").write_text(f"{main}[suite]\nname=suite\nbaseurl=file://{repo}\nmetadata_expire=never\n")
    own = [f"--config={tmp_path}/dnf.conf", "--releasever=9"]
    monkeypatch.setattr(rpm, "DNF", [*rpm.DNF, *own])
    monkeypatch.setattr(rpm, "ROOT", str(root))
    inside = [
        replace(
            purge,
            paths=tuple(f"{root}{path}" for path in purge.paths),
            writes=tuple(f"{root}{path}" for path in purge.writes),
            accounts=(),
        )
        for purge in rpm.PURGES
    ]
    monkeypatch.setattr(rpm, "PURGES", inside)
    rpm.install(["bash"])
    return root


@pytest.fixture
def manage(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manage:
    """Run the module as on a host of the RHEL family."""
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(packages, "chosen", lambda: rpm)
    monkeypatch.setattr(packages, "MASKS", tmp_path / "units")
    monkeypatch.setattr(packages, "UNITS", root / "usr/lib/systemd/system")

    def call(owner: str = "one", *names: str, **options: Any) -> Any:
        record = str(tmp_path / "lib/packages.json")
        return outcome(packages.main, owner=owner, names=list(names), record=record, **options)

    return call


def installed(root: Path) -> set[str]:
    command = ["rpm", f"--root={root}", "--query", "--all", "--queryformat=%{NAME}\n"]
    return {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}


def files(root: Path) -> set[str]:
    """List the files and directories, except for what dnf and rpm keep for themselves."""
    own = ("var/lib/dnf", "var/lib/rpm", "var/cache", "var/log", "usr/lib/sysimage")
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {path for path in found if not path.startswith(own)}


def test_what_came_goes_and_leaves_the_host_as_it_was(manage: Manage, root: Path) -> None:
    before = installed(root), files(root)
    first = manage("one", "redis", mask=["redis.service"])
    assert (first["installed"], installed(root)) == (["jemalloc", "redis"], {"bash", "jemalloc", "redis"})
    assert (root / "etc/redis/redis.conf").is_file()
    assert str((root.parent / "units/redis.service").readlink()) == "/dev/null"
    assert not manage("one", "redis", mask=["redis.service"])["changed"]
    gone = manage("one", state="absent")
    assert (gone["removed"], gone["left"], gone["kept"]) == (["jemalloc", "redis"], {}, {})
    assert (installed(root), files(root) - before[1]) == (before[0], set())
    assert not (root.parent / "units/redis.service").is_symlink() and not (root.parent / "lib").exists()


def test_its_own_data_goes_with_it(manage: Manage, root: Path) -> None:
    manage("one", "redis")
    entry = {"kind": "data", "name": f"{root}/var/lib/redis"}
    (root.parent / "lib/prefect.json").write_text(json.dumps({"entries": {"data": entry}}))
    (root / "var/lib/redis/dump.rdb").touch()
    assert manage("one", state="absent")["kept"] == {}
    assert not (root / "var/lib/redis").exists() and not (root / "etc/redis").exists()


def test_what_was_there_stays(manage: Manage, root: Path) -> None:
    rpm.install(["redis"])
    assert manage("one", "redis")["installed"] == []
    assert manage("one", state="absent")["removed"] == []
    assert "redis" in installed(root)


def test_it_goes_with_the_last_owner_and_what_others_need_stays(manage: Manage, root: Path) -> None:
    manage("one", "redis")
    manage("two", "redis")
    assert manage("one", state="absent")["removed"] == []
    rpm.install(["foreign"])
    assert manage("two", state="absent")["removed"] == ["redis"]
    assert installed(root) == {"bash", "foreign", "jemalloc"}


def test_a_package_that_another_one_needs_since_stays(manage: Manage, root: Path) -> None:
    manage("one", "jemalloc")
    rpm.install(["redis"])
    assert manage("one", state="absent")["removed"] == []
    assert {"jemalloc", "redis"} <= installed(root)


def test_check_mode_predicts_and_changes_nothing(manage: Manage, root: Path) -> None:
    before = files(root.parent)
    said = manage("one", "redis", _ansible_check_mode=True)
    assert (said["changed"], said["installed"]) == (True, ["redis"])
    assert files(root.parent) == before
    manage("one", "redis")
    before = files(root.parent)
    assert manage("one", state="absent", _ansible_check_mode=True)["removed"] == ["jemalloc", "redis"]
    assert files(root.parent) == before and "redis" in installed(root)


@pytest.mark.parametrize(("there", "wanted", "says"), [("apache", "nginx", "apache"), ("redis", "valkey", "conflicts")])
def test_an_installation_that_would_displace_others_is_refused(
    manage: Manage, root: Path, there: str, wanted: str, says: str
) -> None:
    subprocess.run(
        ["rpm", f"--root={root}", "--install", "--nodeps", *(root.parent / "repo").rglob(f"{there}-1-*.rpm")],
        check=True,
    )
    before = installed(root)
    said = manage("one", wanted)
    assert said["failed"] and says in said["msg"]
    assert (installed(root), (root.parent / "lib").exists()) == (before, False)


def test_packages_that_do_not_exist_are_an_error_that_names_them(manage: Manage) -> None:
    said = manage("one", "certbot")
    assert said["failed"] and "certbot" in said["msg"]


def test_changed_configuration_keeps_the_package_and_all_that_it_needs(manage: Manage, root: Path) -> None:
    manage("one", "redis")
    (root / "etc/redis/redis.conf").write_text("port 6380\n")
    kept = manage("one", state="absent")["kept"]
    assert kept == {"redis": f"{root}/etc/redis/redis.conf was changed", "jemalloc": "needed by redis"}
    assert {"jemalloc", "redis"} <= installed(root)


@pytest.mark.parametrize("place", ["etc/redis/site.key", "var/lib/redis/dump.rdb"])
def test_a_file_of_others_keeps_the_package(manage: Manage, root: Path, place: str) -> None:
    manage("one", "redis")
    (root / place).touch()
    assert manage("one", state="absent")["kept"]["redis"] == f"{root}/{place} did not come with the package"
    assert (root / place).exists() and "redis" in installed(root)


def test_a_directory_that_existed_before_survives_with_what_is_in_it(manage: Manage, root: Path) -> None:
    (root / "var/lib/redis").mkdir(parents=True)
    (root / "var/lib/redis/dump.rdb").touch()
    manage("one", "redis")
    gone = manage("one", state="absent")
    assert (gone["removed"], gone["left"].keys()) == (["jemalloc", "redis"], {"redis"})
    assert (root / "var/lib/redis/dump.rdb").exists()


def test_a_repository_that_has_changed_since_is_read_again(manage: Manage, root: Path) -> None:
    rpm.refresh()
    shutil.rmtree(root.parent / "repo")
    build(root.parent, version=2)
    assert manage("one", "redis")["installed"] == ["jemalloc", "redis"]


def test_a_run_that_was_killed_is_finished(manage: Manage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(names: object) -> None:
        rpm.dnf("--quiet", "--assumeyes", "install", "jemalloc")
        raise package_manager.PackageError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(rpm, "install", killed)
        assert manage("one", "redis")["failed"]
    manage("one", "redis")
    assert manage("one", state="absent")["removed"] == ["jemalloc", "redis"]
    assert installed(root) == {"bash"} and not (root / "etc/redis").exists()


def version_of(root: Path, name: str) -> str:
    command = ["rpm", f"--root={root}", "--query", "--queryformat=%{VERSION}", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_stream_is_enabled_for_the_packages_and_reset_with_them(
    manage: Manage, root: Path, streams: list[str]
) -> None:
    before = files(root)
    assert manage("one", "redis", streams=["redis:2"])["installed"] == ["jemalloc", "redis"]
    assert version_of(root, "redis") == "2"
    assert not manage("one", "redis", streams=["redis:2"])["changed"]
    assert manage("one", state="absent")["removed"] == ["jemalloc", "redis"]
    assert rpm.disabled(["redis:2"]) == ["redis:2"]
    assert files(root) - before <= {"etc/dnf", "etc/dnf/modules.d"}


def test_a_stream_that_someone_else_chose_stays(manage: Manage, root: Path, streams: list[str]) -> None:
    subprocess.run([*streams, "enable", "redis:3"], check=True)
    manage("one", "redis", streams=["redis:2"])
    assert version_of(root, "redis") == "3"
    manage("one", state="absent")
    assert rpm.disabled(["redis:2"]) == []


def test_a_stream_that_does_not_exist_is_an_error(manage: Manage, root: Path) -> None:
    said = manage("one", "redis", streams=["redis:9"])
    assert "redis:9" in said["msg"] and installed(root) == {"bash"}


def test_scripts_that_run_at_a_removal_are_read(root: Path) -> None:
    assert rpm.removal_script("bash") == "(none)\n(none)\n"
