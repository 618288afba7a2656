"""Releases by their module, built by a uv of a few lines that notes how it was called."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.modules import host_release as release
from fake_api import outcome

UV = """
#!{python} -IS
import json, os, pathlib, sys

here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    files = {{word: pathlib.Path(word).read_text() for word in sys.argv[1:] if word.endswith(".txt")}}
    print(json.dumps([sys.argv[1:], files, dict(os.environ)]), file=calls)
pathlib.Path(os.environ["UV_CACHE_DIR"]).mkdir(exist_ok=True)
if sys.argv[1] == "venv":
    python = pathlib.Path(sys.argv[-1], "bin", "python")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    pathlib.Path(sys.argv[-1], ".lock").touch()
    pathlib.Path(sys.argv[-1], ".lock").chmod(0o666)
    for package in "prefect", "of_the_user":
        library = python.parent.with_name("lib") / "python3" / "site-packages" / package
        library.mkdir(parents=True)
        (library / "loaded_late.py").write_text("")
        (library / "template.py").write_text("{{{{ no_python }}}}(")
elif (here / "says").exists():
    sys.exit((here / "says").read_text())
"""

HASHES = "six==1.17.0 --hash=sha256:00"
UNREACHABLE = """\
error: Request failed after 3 retries in 10.6s
  cause: Failed to fetch: http://127.0.0.1:1/simple/six/
  cause: error sending request for url (http://127.0.0.1:1/simple/six/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
MISMATCH = """\
error: Failed to download `six==1.17.0`
  cause: Hash mismatch for `six==1.17.0`

         Expected:
           sha256:0000000000000000000000000000000000000000000000000000000000000000

         Computed:
           sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
"""
NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: Because "
UNKNOWN = NO_SOLUTION + "nosuch was not found in the package registry and you require nosuch, we can conclude that ..."
NO_VERSION = (
    NO_SOLUTION + "there is no version of prefect==99.1 and you require prefect==99.1, we can conclude that ..."
)
CONFLICT = NO_SOLUTION + "a==1 depends on b<2 and you require b>2, we can conclude that your requirements are ..."
FULL = "error: Failed to fetch: `https://x`\n  cause: failed to write\n  cause: No space left on device (os error 28)"


@dataclass
class Host:
    """A directory of releases, and the uv that builds them."""

    directory: Path

    def __post_init__(self) -> None:
        self.uv.parent.mkdir()
        self.uv.write_text(textwrap.dedent(UV).lstrip().format(python=sys.executable))
        self.uv.chmod(0o755)

    @property
    def uv(self) -> Path:
        return self.directory / "uv dir" / "uv"

    @property
    def link(self) -> Path:
        return self.directory / "opt" / "current"

    @property
    def releases(self) -> Path:
        return self.directory / "opt" / "releases"

    def install(self, name: str = "1", *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        call = {
            "path": str(self.releases / name),
            "link": str(self.link),
            "uv": str(self.uv),
            "python": sys.executable,
            "requirements": HASHES,
            "probe": ["json", "os.path"],
        }
        result: dict[str, Any] = outcome(release.main, check_mode=check_mode, **call | options)
        result.pop("invocation", None)
        return result

    def says(self, text: str) -> None:
        (self.uv.parent / "says").write_text(text)

    def calls(self) -> list[tuple[list[str], dict[str, str], dict[str, str]]]:
        path = self.uv.parent / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def installed(self) -> list[str]:
        return sorted(path.name for path in self.releases.iterdir() if path.is_dir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_dry_for_real_and_again(host: Host) -> None:
    dry = host.install(check_mode=True)
    assert not (host.directory / "opt").exists()
    assert host.calls() == []
    assert host.install() == dry
    assert dry["changed"] is dry["built"] is True
    assert dry["diff"] == {"before": "", "after": f"{host.link} -> 1\n"}
    assert str(host.link.readlink()) == "releases/1"
    assert (host.link / ".proven").is_file()
    assert (host.link / "lock.txt").read_text() == HASHES
    assert host.installed() == ["1"]
    called = len(host.calls())
    again = host.install()
    assert (again["changed"], again["built"], again["previous"]) == (False, False, "1")
    assert len(host.calls()) == called


def test_without_a_link_a_release_is_only_built(host: Host) -> None:
    host.install("1", keep=1)
    dry = host.install("2", link=None, keep=1, check_mode=True)
    assert host.install("2", link=None, keep=1) == dry
    assert dry["built"] and dry["changed"] and not dry["removed"]
    assert str(host.link.readlink()) == "releases/1"
    assert host.installed() == ["1", "2"]
    assert not host.install("2", link=None, keep=1)["changed"]


def test_how_uv_is_called(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PREFECT_PROFILE"):
        monkeypatch.setenv(name, "/nonsense")
    host.install(
        packages=["a>1", "b"], constraints="c<2\n", index_url="https://mirror.example/index", ca_bundle="/ca.pem"
    )
    python = str(host.releases / "1" / "bin" / "python")
    lock = str(host.releases / "1" / "lock.txt")
    venv, sync, install = [words for words, _, _ in host.calls()]
    assert venv == ["venv", "--quiet", "--python", sys.executable, str(host.releases / "1")]
    assert sync == ["pip", "sync", "--quiet", "--python", python, "--require-hashes", lock]
    assert install[:5] == ["pip", "install", "--quiet", "--python", python]
    assert install[-2:] == ["a>1", "b"]
    # What is installed beside the lock must not change what the lock holds.
    assert list(host.calls()[2][1].values()) == [HASHES]
    assert install[5] == "--constraint"
    environment = host.calls()[1][2]
    assert environment["UV_DEFAULT_INDEX"] == "https://mirror.example/index"
    assert environment["SSL_CERT_FILE"] == "/ca.pem"
    assert environment["UV_CACHE_DIR"] == str(host.releases / ".uv-cache")
    assert environment["HOME"] == environment["PREFECT_HOME"] != os.environ["HOME"]
    assert not environment.keys() & {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PREFECT_PROFILE"}


@pytest.mark.parametrize(
    ("packages", "compiled"),
    [
        pytest.param([], ["prefect"], id="what-services-import-of-a-lock"),
        pytest.param(["of-the-user"], ["of_the_user", "prefect"], id="all-where-the-user-adds-packages"),
    ],
)
def test_what_no_probe_imports_is_compiled_and_what_cannot_be_is_left(
    host: Host, packages: list[str], compiled: list[str]
) -> None:
    assert host.install(packages=packages)["changed"] is True
    found = {path.parents[1].name: path.name for path in (host.link / "lib").rglob("*.pyc")}
    assert sorted(found) == compiled
    assert all(name.startswith("loaded_late.") for name in found.values())


def test_a_credential_is_on_no_command_line_and_in_no_result(host: Host) -> None:
    index, package = "https://user:hush-1@mirror.example/index", "own @ git+https://hush-2@example.com/own.git"
    probe = ["os; assert 'UV_DEFAULT_INDEX' not in os.environ"]
    result = host.install(packages=["a", package], index_url=index, probe=probe)
    words, files, environment = host.calls()[2]
    assert result["built"]
    assert "hush" not in json.dumps([words, result])
    assert words[-1] == "a" and list(files.values())[-1] == f"{package}\n"
    assert environment["UV_DEFAULT_INDEX"] == index


def test_without_a_lock_the_host_resolves(host: Host) -> None:
    host.install(requirements="", packages=["prefect==3.8.8"])
    assert [words[0] for words, _, _ in host.calls()] == ["venv", "pip"]
    assert host.calls()[1][0][-1] == "prefect==3.8.8"
    assert "--constraint" not in host.calls()[1][0]


def test_what_a_lock_overrides_stays_so_beside_other_packages(host: Host) -> None:
    pins = "a==1.0 ; python_version < '4' \\\n    --hash=sha256:0\nab==3 \\\n    --hash=sha256:0\n"
    lock = f"# Overrides: a, b\n{pins}{HASHES}"
    host.install(requirements=lock, packages=["c"])
    install, files, _ = host.calls()[2]
    assert install[5::2][:2] == ["--constraint", "--override"]
    assert list(files.values()) == [lock, "a==1.0\n"]


def test_a_cache_is_kept_where_one_is_wanted(host: Host) -> None:
    host.install(cache_dir=str(host.directory / "cache"))
    assert host.calls()[0][2]["UV_CACHE_DIR"] == str(host.directory / "cache")
    assert (host.directory / "cache").is_dir()
    assert not (host.releases / ".uv-cache").exists()


def test_everybody_may_read_a_release_and_only_its_owner_write(host: Host) -> None:
    os.umask(0o077)
    host.install()
    for path in (host.releases, host.releases / "1", host.releases / "1" / "bin"):
        assert path.stat().st_mode & 0o777 == 0o755
    assert not [path for path in host.releases.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]


def test_what_was_left_half_built_is_built_again(host: Host) -> None:
    half = host.releases / "1" / "lib" / "half"
    half.mkdir(parents=True)
    (half / "broken.py").write_text("")
    assert host.install()["built"] is True
    assert not half.exists()
    assert (host.link / ".proven").is_file()


def test_the_proof_comes_last(host: Host) -> None:
    """A probe sees neither proof nor link: who is killed while it runs leaves a release that is built again."""
    host.install("1")
    sees = host.directory / "sees.py"
    sees.write_text(
        f"import os; print(os.path.exists({str(host.releases / '2' / '.proven')!r}), os.readlink({str(host.link)!r}))\n"
        "raise SystemExit('seen')"
    )
    result = host.install("2", probe=[f"runpy; runpy.run_path({str(sees)!r})"])
    assert "seen" in result["msg"]
    (host.directory / "sees.py").write_text(
        f"import os; assert not os.path.exists({str(host.releases / '2' / '.proven')!r}); "
        f"assert os.readlink({str(host.link)!r}) == 'releases/1'"
    )
    assert host.install("2", probe=[f"runpy; runpy.run_path({str(sees)!r})"])["built"] is True
    assert (host.releases / "2" / ".proven").exists()


def test_a_release_that_fails_its_probe_leaves_the_old_one(host: Host) -> None:
    host.install("1")
    result = host.install("2", probe=["json", "no_such_module"])
    assert result["failed"]
    assert "No module named 'no_such_module'" in result["msg"]
    assert "Proving the release (import json; import no_such_module) failed" in result["msg"]
    assert str(host.link.readlink()) == "releases/1"
    assert host.installed() == ["1"] or host.installed() == [".uv-cache", "1"]
    assert host.install("2")["built"] is True
    assert host.installed() == ["1", "2"]


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        (MISMATCH, "prefect_lock: a package is not the one that the lock was made from; make the lock again"),
        (UNREACHABLE, "prefect_index_url: the package index cannot be reached from this host"),
        (UNKNOWN, "prefect_index_url: the index does not serve what the lock or prefect_packages name"),
        (NO_VERSION, "prefect_index_url: the index does not serve what the lock or prefect_packages name; correct"),
        (CONFLICT, "prefect_version, prefect_packages: these versions cannot be installed together"),
        (FULL, "prefect_opt_dir: the disk is full"),
        ("error: something else", "prefect_version, prefect_lock and prefect_packages describe a release that"),
    ],
    ids=["mismatch", "unreachable", "unknown", "no version", "conflict", "full", "else"],
)
def test_what_uv_says_becomes_advice(host: Host, says: str, advice: str) -> None:
    host.says(says)
    result = host.install()
    assert result["failed"]
    assert result["msg"].startswith(advice)
    assert "Installing the lock failed:" in result["msg"]
    assert says.strip().splitlines()[-1].strip() in result["msg"]
    assert not host.link.exists()
    assert not (host.releases / "1").exists()


def test_only_the_end_of_long_output_is_shown(host: Host) -> None:
    host.says("\n".join(f"line {number}" for number in range(99)))
    assert len(host.install()["msg"].splitlines()) == 17


def test_packages_that_fail_are_named(host: Host) -> None:
    host.says("error: something")
    assert "Installing a>1, b failed:" in host.install(requirements="", packages=["a>1", "b"])["msg"]


def test_a_uv_that_cannot_run_here(host: Host) -> None:
    host.uv.write_bytes(b"\x7fELF for another machine")
    assert f"prefect_uv: {host.uv} cannot be run on this host: Exec format error" in host.install()["msg"]


@pytest.mark.parametrize("missing", ["uv", "python"])
def test_without_what_it_takes(host: Host, missing: str) -> None:
    without: dict[str, Any] = {missing: None}
    assert host.install(check_mode=True, **without)["changed"] is True
    assert "without uv and python it cannot be built" in host.install(**without)["msg"]
    host.install()
    assert host.install(uv=None, python=None)["changed"] is False


def test_rolling_back_builds_nothing(host: Host) -> None:
    host.install("1")
    host.install("2")
    called = len(host.calls())
    dry = host.install("1", check_mode=True)
    assert str(host.link.readlink()) == "releases/2"
    back = host.install("1", uv=None, python=None)
    assert back == dry
    assert (back["changed"], back["built"], back["previous"]) == (True, False, "2")
    assert back["diff"] == {"before": f"{host.link} -> 2\n", "after": f"{host.link} -> 1\n"}
    assert str(host.link.readlink()) == "releases/1"
    assert len(host.calls()) == called


def test_a_run_that_was_killed_before_switching_is_finished(host: Host) -> None:
    host.install("1")
    host.install("2")
    host.link.unlink()
    (host.link.parent / ".current.new").symlink_to("releases/1")
    result = host.install("2")
    assert (result["changed"], result["built"]) == (True, False)
    assert str(host.link.readlink()) == "releases/2"
    assert not os.path.lexists(host.link.parent / ".current.new")


@pytest.mark.parametrize(
    ("keep", "left"), [(5, ["1", "2", "3", "4"]), (3, ["2", "3", "4"]), (2, ["3", "4"]), (1, ["3", "4"])]
)
def test_old_releases_go(host: Host, keep: int, left: list[str]) -> None:
    """The one that was in use stays in any case: its processes run until they are restarted."""
    for number, name in enumerate(("1", "2", "3")):
        host.install(name)
        os.utime(host.releases / name / ".proven", (number, number))
    (host.releases / "half-built").mkdir()
    (host.releases / ".uv-cache").mkdir()
    result = host.install("4", keep=keep, cache_dir=str(host.directory / "cache"))
    assert [name for name in host.installed() if name != ".uv-cache"] == left
    assert result["removed"] == sorted({"1", "2", "3", "half-built"} - {*left})
    assert (host.releases / ".uv-cache").exists()


@contextmanager
def process_from(directory: Path) -> Iterator[None]:
    """Let a process load a file of a release, until it has been looked at."""
    library = directory / "lib" / "loaded_late.py"
    library.write_text("loaded")
    program = (
        f"import mmap; f = open({str(library)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield


def test_a_release_that_a_process_runs_from_stays_until_it_ends(host: Host) -> None:
    """A worker that ends its flow runs first, or a flow run itself, may need it for hours."""
    host.install("1")
    host.install("2")
    with process_from(host.releases / "1"):
        assert host.install("3", keep=1)["removed"] == []
    assert release.prune(host.releases, keep=1, in_use={"2", "3"}) == ["1"]


def test_a_directory_of_releases_goes_when_no_process_runs_from_it(host: Host) -> None:
    """As that of an environment, which no flow run may start from in the meantime."""
    host.install("1")
    opt = host.link.parent
    gone = {"path": str(opt), "state": "absent"}
    with process_from(host.releases / "1"):
        dry = outcome(release.main, check_mode=True, **gone)
        assert host.link.is_symlink()
        assert outcome(release.main, **gone) == dry
        assert (dry["changed"], dry["removed"]) == (True, [])
        assert not host.link.is_symlink() and host.installed() == ["1"]
        assert outcome(release.main, **gone)["changed"] is False
    dry = outcome(release.main, check_mode=True, **gone)
    assert opt.exists()
    assert outcome(release.main, **gone) == dry
    assert (dry["changed"], dry["removed"]) == (True, ["opt"])
    assert not opt.exists()
    assert outcome(release.main, **gone)["changed"] is False


ZYGOTE = """
import mmap, pathlib, sys, time
f = open(sys.argv[2], "r+b")
m = mmap.mmap(f.fileno(), 0)
print(1, flush=True)
while pathlib.Path(sys.argv[3]).is_symlink():
    time.sleep(0.1)
time.sleep(1)
"""


def test_a_process_that_waits_for_flow_runs_is_waited_for(host: Host) -> None:
    """It ends without the link: the next run has nothing left to remove."""
    host.install("1")
    library = host.releases / "1" / "lib" / "loaded_late.py"
    library.write_text("loaded")
    gone = {"path": str(host.link.parent), "state": "absent"}
    command = [sys.executable, "-c", ZYGOTE, "--zygote", str(library), str(host.link)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert release.running(host.releases) == {"1"}
        dry = outcome(release.main, check_mode=True, **gone)
        assert outcome(release.main, **gone) == dry
    assert dry["removed"] == ["opt"]
    assert not host.link.parent.exists()


def test_an_environment_is_named_where_it_fails(host: Host) -> None:
    host.says(MISMATCH)
    said = host.install(environment="etl")["msg"]
    assert said.startswith("prefect_environments (etl): a package is not the one that the lock was made from")
    (host.uv.parent / "says").unlink()
    assert host.install(environment="etl")["built"]
    assert {path.parents[1].name for path in (host.link / "lib").rglob("*.pyc")} == {"of_the_user", "prefect"}


def test_two_runs_do_not_wait_for_a_lock_that_every_account_can_take(host: Host) -> None:
    host.install("1")
    old = host.releases / ".lock"
    old.touch(mode=0o644)
    with old.open() as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        assert host.install("2")["built"] is True
    assert not old.exists()


LOCKS = Path(__file__).resolve().parents[2] / "roles/prefect/files/locks"


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("[0-9]*.txt")), ids=lambda lock: lock.stem)
def test_every_pin_has_hashes_and_no_address(lock: Path) -> None:
    """Celery's lock fits beside that of each version: it holds nothing that this one does."""
    beside = LOCKS / "celery" / lock.name
    held = []
    for file in (lock, beside):
        pins = re.findall(
            r"^([\w.-]+)==\S+[^\n]*((?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+)$", file.read_text(), re.M
        )
        lines = [line for line in file.read_text().splitlines() if not line.startswith((" ", "#"))]
        assert len(pins) == len(lines)
        assert "://" not in file.read_text()
        held.append({name for name, _ in pins})
    assert "celery" in held[1]
    assert held[0] & held[1] <= {"tzdata"}
