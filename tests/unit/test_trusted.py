"""Root runs, builds and installs nothing that another account can write."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import trusted
from ansible_collections.selfhosted.prefect.plugins.modules import host_preflight as preflight
from ansible_collections.selfhosted.prefect.plugins.modules import host_release as release
from fake_api import outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root, everything is the user's own")


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """The home directory of another account, as which flows run."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    (tmp_path / "deploy").mkdir()
    os.chown(tmp_path / "deploy", 1, 1)
    return tmp_path / "deploy"


def put(path: Path, text: str = "", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def python(path: Path, ran: Path) -> Path:
    """A Python that proves that it ran, below a directory that may be another account's."""
    return put(path, f"#!/bin/sh\ntouch {ran}\necho 3 12 0 {path}\n")


def test_a_python_of_another_account_is_refused_and_not_run(deploy: Path, tmp_path: Path) -> None:
    named, ran = python(deploy / "python" / "bin" / "python3", tmp_path / "ran"), tmp_path / "ran"
    found, seen = preflight.find_python(str(named), for_others=True)
    assert found is None and seen == [f"{named} (daemon can write {deploy}, and root runs it)"]
    assert not ran.exists()


@pytest.mark.parametrize("through", ["link", "directory", "environment", "library", "path file", "program", "group"])
def test_every_way_to_a_python_is_seen(deploy: Path, tmp_path: Path, through: str) -> None:
    root = tmp_path / "opt" / "python"
    program = python(root / "bin" / "python3", tmp_path / "ran")
    packages = root / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    assert trusted.interpreter(program) is None
    weak = deploy
    if through == "link":
        python(deploy / "bin" / "python3", tmp_path / "ran")
        program = root / "bin" / "linked"
        program.symlink_to(deploy / "bin" / "python3")
    elif through == "directory":
        (tmp_path / "opt" / "other").symlink_to(deploy)
        program = tmp_path / "opt" / "other" / "bin" / "python3"
    elif through == "environment":
        put(root / "pyvenv.cfg", f"home = {deploy}/bin\n")
    elif through == "library":
        weak = packages / "site.py"
        os.chown(put(weak), 1, 1)
    elif through == "path file":
        weak = put(packages / "evil.pth", mode=0o666)
    elif through == "program":
        weak = program
        os.chown(program, 1, 1)
    else:
        weak = root / "bin"
        os.chown(weak, 0, 1)
        weak.chmod(0o775)
    found = trusted.interpreter(program)
    assert found is not None and found.path == str(weak)
    assert found.accounts == (("every account",) if through == "path file" else ("daemon",))
    assert not (tmp_path / "ran").exists()


def test_a_group_without_members_is_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian gives directories below /usr/local to the group staff."""
    os.chown(tmp_path, 0, 54321)
    tmp_path.chmod(0o2775)
    assert trusted.weakness(tmp_path) is None


def test_the_python_that_runs_this_is_trusted() -> None:
    assert trusted.interpreter(sys.executable) is None
    assert trusted.interpreter("/usr/bin/python3") is None


@pytest.mark.parametrize(
    ("requirement", "paths"),
    [
        ("pandas>=2", []),
        ("prefect-docker==0.6 ; python_version<'3.12' # via /tmp/x", []),
        ("git+https://token@example.com/a/b.git@main#egg=b", []),
        ("mylib @ https://example.com/mylib-1-py3-none-any.whl", []),
        ("six==1.17.0 --hash=sha256:00", []),
        ("/srv/mylib", ["/srv/mylib"]),
        ("/srv/my lib", ["/srv/my lib", "/srv/my"]),
        ("/srv/mylib[extra] ; python_version>'3'", ["/srv/mylib"]),
        ("./mylib", ["./mylib"]),
        ("flows/mylib.whl", ["flows/mylib.whl"]),
        ("-e /srv/mylib", ["/srv/mylib"]),
        ("--find-links=/srv/wheels", ["/srv/wheels"]),
        ("mylib@file:///srv/my%20lib", ["/srv/my lib"]),
        ("mylib @ git+file:///srv/mylib@main", ["/srv/mylib"]),
        ("file:///srv/simple", ["/srv/simple"]),
        ("${HOME}/mylib", ["${HOME}/mylib"]),
    ],
)
def test_the_paths_in_requirements(requirement: str, paths: list[str]) -> None:
    found = trusted.sources([f"requests\n{requirement}\n"])
    assert set(paths) <= set(found) and bool(found) is bool(paths)


def wanted(deploy: Path) -> dict[str, dict[str, Any]]:
    """What a user may name below a directory that flows can write, by variable."""
    lib = str(deploy / "flows" / "mylib")
    return {
        "prefect_packages": {"packages": ["pandas", lib]},
        "prefect_lock": {"requirements": f"mylib @ file://{lib}\n"},
        "prefect_index_url": {"index_url": f"file://{lib}"},
        "prefect_uv_cache_dir": {"cache_dir": lib},
    }


@pytest.mark.parametrize("variable", ["prefect_packages", "prefect_lock", "prefect_index_url", "prefect_uv_cache_dir"])
def test_nothing_of_flows_is_installed(deploy: Path, tmp_path: Path, variable: str) -> None:
    uv = put(tmp_path / "uv", f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    options = wanted(deploy)[variable]
    said = outcome(
        release.main,
        path=str(tmp_path / "releases" / "1"),
        link=str(tmp_path / "current"),
        uv=str(uv),
        python=sys.executable,
        **options,
    )
    assert said["failed"] and said["msg"].startswith(f"{variable}: daemon can write {deploy}, and root ")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "releases").exists()
    found = outcome(
        preflight.main,
        scope="system",
        service_manager="none",
        python=sys.executable,
        **{name: str(tmp_path / name) for name in ("home", "opt_dir", "etc_dir")},
        **options,
    )
    assert any(line.startswith(f"{variable}: daemon can write {deploy}") for line in found["problems"])


@pytest.mark.parametrize(
    ("name", "safe"), [(".lock", True), ("builds-v0/.lock", True), ("lock", False), ("builds-v0/a.py", False)]
)
def test_what_every_account_can_write_of_the_cache_is_only_what_uv_locks(
    tmp_path: Path, deploy: Path, name: str, safe: bool
) -> None:
    """uv makes its lock files writable to every account, whatever the umask is."""
    put(tmp_path / "cache" / name, mode=0o666)
    assert (trusted.refused(cache_dir=str(tmp_path / "cache")) == []) is safe


def test_code_of_flows_in_a_package_of_roots(deploy: Path, tmp_path: Path) -> None:
    """Root's own package is installed, unless a link or a file in it is another account's."""
    package = put(tmp_path / "mylib" / "src" / "deep" / "a.py").parents[2]
    assert trusted.refused(packages=[str(package)]) == []
    (package / "src" / "deep" / "b").symlink_to(deploy)
    (said,) = trusted.refused(packages=[str(package)])
    assert str(deploy) in said


def test_a_release_on_a_python_of_flows_is_refused(deploy: Path, tmp_path: Path) -> None:
    python(deploy / "bin" / "python3", tmp_path / "ran")
    built = tmp_path / "opt" / "releases" / "1"
    (built / "bin").mkdir(parents=True)
    (built / "bin" / "python").symlink_to(deploy / "bin" / "python3")
    put(built / "pyvenv.cfg", f"home = {deploy}/bin\n")
    put(built / ".proven")
    found = outcome(
        preflight.main,
        scope="system",
        service_manager="none",
        release="1",
        opt_dir=str(tmp_path / "opt"),
        **{name: str(tmp_path / name) for name in ("home", "etc_dir")},
    )
    assert any(
        line.startswith(f"prefect_python: daemon can write {deploy}, and root runs {built}")
        for line in found["problems"]
    )
    said = outcome(release.main, path=str(built), link=str(tmp_path / "opt" / "current"))
    assert said["failed"] and not (tmp_path / "opt" / "current").is_symlink()
    assert json.dumps(said).count("prefect_python") == 1
