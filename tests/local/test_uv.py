"""Where a host's uv comes from: the controller, the host itself, or the locked wheel of its package index."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import shutil
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.selfhosted.prefect.plugins.action.host_preflight import ActionModule
from ansible_collections.selfhosted.prefect.plugins.lookup import uv as lookup
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import uv
from ansible_collections.selfhosted.prefect.plugins.modules import host_preflight as preflight
from ansible_collections.selfhosted.prefect.plugins.modules import host_release as release
from fake_api import outcome

VERSION = "0.13.8"
LOCK_FILE = Path(__file__).parents[2] / "roles/prefect/files/locks/uv.txt"
FILES = [
    "uv-0.13.8-py3-none-linux_armv6l.whl",
    "uv-0.13.8-py3-none-macosx_11_0_arm64.whl",
    "uv-0.13.8-py3-none-manylinux_2_17_armv7l.manylinux2014_armv7l.musllinux_1_1_armv7l.whl",
    "uv-0.13.8-py3-none-manylinux_2_17_armv7l.manylinux2014_armv7l.whl",
    "uv-0.13.8-py3-none-manylinux_2_17_i686.manylinux2014_i686.whl",
    "uv-0.13.8-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
    "uv-0.13.8-py3-none-manylinux_2_28_aarch64.whl",
    "uv-0.13.8-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "uv-0.13.8-py3-none-manylinux_2_31_riscv64.whl",
    "uv-0.13.8-py3-none-musllinux_1_1_x86_64.whl",
    "uv-0.13.8.tar.gz",
    "uv-0.13.7-py3-none-manylinux_2_17_s390x.manylinux2014_s390x.whl",
]
"""As PyPI has them."""


# On the controller


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "uv"
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return found


def raises(*_: Any) -> str:
    raise FileNotFoundError


@pytest.mark.parametrize("module", [None, SimpleNamespace(find_uv_bin=raises)])
def test_uv_beside_ansible_comes_first(
    on_the_path: Path, monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "uv", SimpleNamespace(find_uv_bin=lambda: "/beside/uv"))
    assert lookup.find_uv() == "/beside/uv"
    monkeypatch.setitem(sys.modules, "uv", module)
    assert lookup.find_uv() == str(on_the_path)


@pytest.mark.parametrize(
    ("system", "machine", "libc", "named"),
    [
        ("Linux", "x86_64", ("glibc", "2.36"), "linux-x86_64-glibc"),
        ("Linux", "armv8l", ("glibc", "2.36"), "linux-armv7l-glibc"),
        ("Darwin", "arm64", ("", ""), "darwin-arm64"),
    ],
)
def test_what_a_role_gets(
    on_the_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: tuple[str, str], named: str
) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    is_like(monkeypatch, system=system, machine=machine, libc=libc)
    assert lookup.LookupModule().run([]) == [{"path": str(on_the_path), "platform": named}]
    on_the_path.unlink()
    assert lookup.LookupModule().run([]) == [{"path": "", "platform": ""}]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("/nowhere/uv", "prefect_uv: /nowhere/uv does not exist on the controller"),
        ("/dev", "prefect_uv: /dev is no file on the controller"),
        ("/bin/sh", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("source", ["controller", "host", "index", ""])
def test_a_uv_that_the_user_named_has_to_exist(given: str, says: str, source: str) -> None:
    """It is known when the host has been read, before anything is changed there."""

    def find(directory: str, name: str) -> str:
        if not Path(name).exists():
            raise AnsibleError(f"Could not find or access {name}")
        return name

    def execute(module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        assert module_args == {"uv": "any", "environments": {}}
        return {"uv": source}

    action = object.__new__(ActionModule)
    action._find_needle = find
    action._execute_module = execute
    found = action.read({"uv": "any", "uv_file": given}, None)
    assert bool(found.get("failed")) is bool(says and source == "controller")
    assert found.get("msg", "").startswith(says if found.get("failed") else "")


# The wheel for a host


def is_like(
    monkeypatch: pytest.MonkeyPatch, *, machine: str, libc: tuple[str, str] = ("glibc", "2.36"), system: str = "Linux"
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(uv, "is_musl", lambda: libc[0] == "musl")


@pytest.mark.parametrize(
    ("machine", "libc", "tags"),
    [
        ("x86_64", ("glibc", "2.36"), "manylinux_2_17_x86_64.manylinux2014_x86_64"),
        ("x86_64", ("glibc", "2.12"), None),
        ("x86_64", ("musl", ""), "musllinux_1_1_x86_64"),
        ("aarch64", ("glibc", "2.36"), "manylinux_2_28_aarch64"),
        ("aarch64", ("glibc", "2.17"), "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64"),
        ("aarch64", ("musl", ""), "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64"),
        ("armv7l", ("glibc", "2.36"), "manylinux_2_17_armv7l.manylinux2014_armv7l"),
        ("armv7l", ("musl", ""), "manylinux_2_17_armv7l.manylinux2014_armv7l.musllinux_1_1_armv7l"),
        ("i386", ("glibc", "2.36"), "manylinux_2_17_i686.manylinux2014_i686"),
        ("armv6l", ("glibc", "2.36"), "linux_armv6l"),
        ("riscv64", ("glibc", "2.30"), None),
        ("riscv64", ("glibc", "2.31"), "manylinux_2_31_riscv64"),
        ("s390x", ("glibc", "2.36"), None),
        ("arm64", ("glibc", "2.36"), None),
    ],
)
def test_the_wheel_for_a_host(
    monkeypatch: pytest.MonkeyPatch, machine: str, libc: tuple[str, str], tags: str | None
) -> None:
    is_like(monkeypatch, machine=machine, libc=libc)
    assert uv.wheel(FILES, VERSION) == (f"uv-{VERSION}-py3-none-{tags}.whl" if tags else None)


def test_a_32_bit_system_on_a_64_bit_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    is_like(monkeypatch, machine="x86_64")
    monkeypatch.setattr(struct, "calcsize", lambda kind: 4)
    assert uv.machine() == "i686"


def test_the_lock_of_this_collection() -> None:
    lock = uv.Lock.parse(LOCK_FILE.read_text())
    # Of every platform that hosts have, and more.
    assert len(lock.digests) > 15
    with pytest.raises(uv.UvError, match="pins no version"):
        uv.Lock.parse("six==1.17.0")


# An index, and a host that has to use it


def script(says: str, code: int = 0) -> str:
    """Return a uv that says its version, and does nothing else."""
    return f"#!/bin/sh\n[ $1 = --version ] || exit 1\necho '{says}'\nexit {code}\n"


def a_wheel(says: str = f"uv {VERSION} (fake)", code: int = 0) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"uv-{VERSION}.data/scripts/uv", script(says, code))
    return content.getvalue()


@dataclass
class FakeIndex:
    """A package index over HTTP; `requests` lists what came in, with the header that authenticates."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    failing: int = 0
    url: str = ""

    def serves(self, wheel: bytes, *, name: str = "", to: str = "../../files/") -> str:
        """Serve a wheel for this machine, and return a lock of it."""
        name = name or f"uv-{VERSION}-py3-none-manylinux_2_17_{uv.machine()}.whl"
        self.answers["/packages/uv/"] = (200, f'<html><a class=x href="{to}{name}#sha256=0">{name}</a>'.encode())
        self.answers[f"/files/{name}"] = (200, wheel)
        return f"uv=={VERSION} \\\n    --hash=sha256:{hashlib.sha256(wheel).hexdigest()}\n"


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    fake = FakeIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.requests.append((self.path, self.headers["Authorization"]))
            code, body = fake.answers.get(self.path.replace("http://elsewhere.test", ""), (404, b""))
            if fake.failing > 0:
                fake.failing -= 1
                code = 503
            self.send_response(code)
            if code == 302:
                self.send_header("Location", body.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/packages"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Host:
    """A host without uv, whose release is to be installed."""

    directory: Path

    @property
    def uv(self) -> Path:
        return self.directory / "opt" / "uv"

    def preflight(self, lock: str, url: str, **options: Any) -> dict[str, Any]:
        call = {"scope": "user", "service_manager": "none", "python": sys.executable, "uv_lock": lock}
        result: dict[str, Any] = outcome(
            preflight.main, check_mode=True, opt_dir=str(self.uv.parent), index_url=url, **call | options
        )
        return result

    def release(self, lock: str, url: str, *, check_mode: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = outcome(
            release.main,
            check_mode=check_mode,
            path=str(self.uv.parent / "releases" / "1"),
            link=str(self.uv.parent / "current"),
            uv=str(self.uv),
            uv_lock=lock,
            index_url=url,
            python=sys.executable,
        )
        return result

    def refuses(self, lock: str, url: str, says: str, **options: Any) -> str:
        """Assert that the host is refused with a message before anything is written, and return it."""
        result = self.preflight(lock, url, **options)
        assert result["failed"]
        assert says in result["msg"]
        assert not self.uv.parent.exists()
        return str(result["msg"])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(uv, "SEARCHED", ())
    monkeypatch.setattr(uv, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("UV_"):
            monkeypatch.delenv(name)
    return Host(tmp_path)


def has_a_uv(directory: Path, version: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "uv"
    path.write_text(script(f"uv {version}"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("controller", ["any", "", "darwin-arm64"])
def test_the_controllers_comes_first(host: Host, index: FakeIndex, controller: str) -> None:
    lock = index.serves(a_wheel())
    found = host.preflight(lock, index.url, uv=controller)
    assert found["uv"] == ("controller" if controller == "any" else "index")
    assert bool(index.requests) is (controller != "any")
    assert host.preflight(lock, index.url, uv=uv.own_platform())["uv"] == "controller"


@pytest.mark.parametrize(("version", "source"), [(VERSION, "host"), ("1.0.0", "host"), ("0.9.30", "index")])
def test_then_the_hosts_own(
    host: Host, index: FakeIndex, monkeypatch: pytest.MonkeyPatch, version: str, source: str
) -> None:
    monkeypatch.setattr(uv, "weakness", lambda path: None)
    own = has_a_uv(host.directory / "bin", version)
    monkeypatch.setenv("PATH", str(own.parent))
    lock = index.serves(a_wheel())
    assert host.preflight(lock, index.url)["uv"] == source
    index.requests.clear()
    assert host.release(lock, index.url)["failed"]  # It makes no virtual environment.
    assert host.uv.exists() is bool(index.requests) is (source == "index")


def test_one_that_another_account_can_replace_is_not_run(
    host: Host, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = has_a_uv(host.directory / "bin", VERSION)
    monkeypatch.setattr(uv, "weakness", lambda path: str(path) if path == str(own) else None)
    monkeypatch.setenv("PATH", str(own.parent))
    assert host.preflight(index.serves(a_wheel()), index.url)["uv"] == "index"


@pytest.mark.parametrize("to", ["../../files/", "/files/", "absolute"])
def test_the_wheel_is_fetched_once(host: Host, index: FakeIndex, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    monkeypatch.setattr(uv, "weakness", lambda path: None)
    lock = index.serves(a_wheel(), to=index.url.replace("packages", "files/") if to == "absolute" else to)
    assert host.release(lock, index.url, check_mode=True)["changed"]
    assert index.requests == []
    host.release(lock, f"{index.url}/")
    assert [path.rpartition("/")[2][:9] for path, _ in index.requests] == ["", "uv-0.13.8"]
    assert uv._version(str(host.uv)) == VERSION
    assert {path.name for path in host.uv.parent.iterdir()} == {"releases", "uv"}
    host.release(lock, index.url)
    assert len(index.requests) == 2


def test_the_credential_stays_with_its_index(host: Host, index: FakeIndex) -> None:
    lock = index.serves(a_wheel())
    _, wheel = index.answers
    index.answers["/elsewhere"] = index.answers[wheel]
    index.answers[wheel] = (302, index.url.replace("127.0.0.1", "localhost").replace("packages", "elsewhere").encode())
    host.release(lock, index.url.replace("//", "//me:hush%21@"))
    basic = f"Basic {base64.b64encode(b'me:hush!').decode()}"
    assert index.requests == [("/packages/uv/", basic), (wheel, basic), ("/elsewhere", None)]
    assert host.uv.exists()


def test_through_a_proxy(host: Host, index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", index.url.removesuffix("/packages"))
    assert host.preflight(index.serves(a_wheel()), "http://elsewhere.test/packages")["uv"] == "index"
    assert index.requests == [("http://elsewhere.test/packages/uv/", None)]


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_the_index_of_the_environment(host: Host, index: FakeIndex, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, index.url)
    assert host.preflight(index.serves(a_wheel()), "")["uv"] == "index"


def test_an_index_that_is_busy(host: Host, index: FakeIndex) -> None:
    lock = index.serves(a_wheel())
    index.failing = uv.ATTEMPTS - 1
    assert host.preflight(lock, index.url)["uv"] == "index"
    index.failing = uv.ATTEMPTS
    host.refuses(lock, index.url, "HTTP 503 Service Unavailable")


def test_no_uv_and_no_index(host: Host, index: FakeIndex) -> None:
    lock = index.serves(a_wheel())
    says = "prefect_index_url: neither the controller nor this host has a uv, and "
    said = host.refuses(lock, "http://me:hush@127.0.0.1:1/packages", f"{says}the package index cannot be reached")
    assert "http://********@127.0.0.1:1/packages/uv/: " in said
    assert "hush" not in said
    assert "pip install" not in said
    host.refuses(lock, f"{index.url}/nothing", f"{says}the package index cannot be reached from this host")
    host.refuses(lock, index.url, "No such file", ca_bundle="/no/such/bundle")
    index.answers["/packages/uv/"] = (200, b"<html>Please log in")
    said = host.refuses(lock, index.url, f"{says}{index.url}/uv/ has no wheel of uv {VERSION} for {uv.own_platform()}")
    assert "prefect_uv (a path on the controller)" in said


@pytest.mark.parametrize(
    ("served", "locked", "says"),
    [
        (a_wheel(), b"other", "is not the file that this collection has locked"),
        (a_wheel(code=1), a_wheel(code=1), "does not run on this host"),
    ],
)
def test_a_wheel_that_is_not_used(host: Host, index: FakeIndex, served: bytes, locked: bytes, says: str) -> None:
    lock = index.serves(locked)
    index.serves(served)
    result = host.release(lock, index.url)
    assert result["failed"]
    assert says in result["msg"]
    assert not host.uv.exists()
    assert not (host.uv.parent / "current").exists()
