"""A change to Nginx's configuration is tested beside the live one, so that the sites of others never depend on it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import nginx_trial
from ansible_collections.selfhosted.prefect.plugins.module_utils.host.ledger import ensure_files
from ansible_collections.selfhosted.prefect.plugins.modules import host_nginx as nginx
from ansible_collections.selfhosted.prefect.plugins.modules.host_nginx import NginxError, resolved
from fake_api import outcome

ROLE = Path(__file__).resolve().parents[2] / "roles/prefect_proxy"
REAL = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

STAND_IN = r"""#!{python}
# Of Nginx: includes, upstreams by name, directives that it does not know, and files of its own that are missing.
import glob, re, sys
def fail(text, path, number):
    sys.exit(f"nginx: [emerg] {{text}} in {{path}}:{{number}}\nnginx: configuration file {{main}} test failed")
def lines(path):
    try:
        text = open(path).read()
    except OSError as error:
        fail(f'open() "{{path}}" failed ({{error}})', main, 1)
    for number, line in enumerate(text.splitlines(), 1):
        yield path, number, line
        for pattern in re.findall(r"include\s+([^;]+);", line):
            pattern = pattern if pattern.startswith("/") else main.rpartition("/")[0] + "/" + pattern
            for found in sorted(glob.glob(pattern)):
                yield from lines(found)
main = sys.argv[sys.argv.index("-c") + 1]
said = list(lines(main))
upstreams = {{name for *_, line in said for name in re.findall(r"upstream (\w+)", line)}}
for path, number, line in said:
    for name in re.findall(r"proxy_pass http://(\w+);", line):
        if name not in upstreams:
            fail(f'host not found in upstream "{{name}}"', path, number)
    if "nonsense" in line:
        fail('unknown directive "nonsense"', path, number)
    for name in re.findall(r"ssl_certificate ([^;]+);", line):
        list(lines(name))
"""

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
OTHER = "server {\n    listen 127.0.0.1:18080;\n    server_name shop.example.com;\n    return 200 shop;\n}\n"
SITE = OTHER.replace("shop.example", "prefect.example").replace(
    "return 200 shop", "include LIVE/prefect/prefect/*.conf"
)
UPSTREAM = "upstream prefect {\n    server 127.0.0.1:4200;\n}\n"
LOCATIONS = "location / {\n    proxy_pass http://prefect;\n}\n"


class Beside(nginx.Nginx):
    """An Nginx that does not run, and tests a configuration below a directory."""

    live: Path
    given: str
    tests = 0

    @property
    def program(self) -> str:
        return self.given

    def test(self, name: str) -> None:
        done = subprocess.run(
            [self.given, "-t", "-c", str(self.live / "nginx.conf")], capture_output=True, text=True, check=False
        )
        nginx.refuse(done.returncode, done.stderr, name)

    def try_out(self, changes: Any) -> tuple[int, str]:
        self.tests += 1
        return super().try_out(changes)

    def main_process(self) -> int:
        return 0


class Site:
    """The configuration of an Nginx that serves a site of others."""

    def __init__(self, live: Path, program: Beside) -> None:
        self.live, self.program = live, program
        self.conf, self.locations = live / "conf.d/prefect.conf", live / "prefect/prefect/prefect.conf"

    def ask(
        self, *, state: str = "present", site: str = SITE, locations: str = LOCATIONS, **more: Any
    ) -> dict[str, Any]:
        """Write the site of an instance, or remove it."""
        files = [
            {"path": str(self.conf), "content": UPSTREAM + site.replace("LIVE", str(self.live)), "mode": "0644"},
            {"path": str(self.locations), "content": locations, "mode": "0644"},
        ]
        if state != "present":
            files = [{"path": file["path"], "state": "absent"} for file in reversed(files)]
        done: dict[str, Any] = outcome(nginx.main, files=files, state=state, started=False, **more)
        return done

    def manifest(self) -> dict[str, tuple[str, int]]:
        """Return what every file below the live configuration holds, and when it was written."""
        paths = [path for path in self.live.rglob("*") if path.is_file()]
        return {str(path): (path.read_text(), path.stat().st_mtime_ns) for path in paths}

    def is_good(self) -> bool:
        command = [self.program.given, "-t", "-c", str(self.live / "nginx.conf")]
        return not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture(params=["stand-in", "real"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    if request.param == "real":
        if REAL is None:
            pytest.skip("no nginx is installed here; tests/system/test_proxy.py has one")
        program = REAL
    else:
        stand_in = tmp_path / "nginx-stand-in"
        stand_in.write_text(STAND_IN.format(python=sys.executable))
        stand_in.chmod(0o755)
        program = str(stand_in)
    live, copies = tmp_path / "etc/nginx", tmp_path / "copies"
    for name in ("conf.d", "sites-available", "sites-enabled", "prefect/prefect"):
        (live / name).mkdir(parents=True)
    copies.mkdir()
    (live / "nginx.conf").write_text(
        f"pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\nhttp {{\n    access_log off;\n"
        + "".join(f"    {name}_temp_path {tmp_path}/temp;\n" for name in TEMPORARY)
        + f"    include {live}/conf.d/*.conf;\n    include sites-enabled/*;\n}}\n"
    )
    (live / "sites-available/shop").write_text(OTHER)
    (live / "sites-enabled/shop").symlink_to(live / "sites-available/shop")
    made = Beside()
    made.live, made.given = live, program
    monkeypatch.setattr(nginx, "CONFIGURATION", live)
    monkeypatch.setattr(nginx, "Nginx", lambda: made)
    monkeypatch.setattr(nginx_trial, "runtime", lambda: copies)
    yield Site(live, made)
    assert list(copies.iterdir()) == []


def test_a_good_change_is_made(site: Site) -> None:
    done = site.ask()
    assert done["written"] == [str(site.conf), str(site.locations)], done
    assert site.is_good()
    tests = site.program.tests
    assert site.ask()["changed"] is False and site.program.tests == tests


@pytest.mark.parametrize("before", ["", SITE], ids=["new", "there"])
def test_a_bad_change_never_reaches_the_live_configuration(site: Site, before: str) -> None:
    if before:
        assert site.ask(site=before)["changed"]
    found = site.manifest()
    done = site.ask(site="nonsense on;\n" + SITE)
    assert done["failed"] and 'unknown directive "nonsense"' in done["msg"] and "Nothing was changed." in done["msg"]
    assert f"in {site.conf}:4" in done["msg"]
    assert site.manifest() == found


def test_wherever_a_run_is_killed_nginx_can_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is written or removed is seen by an Nginx that starts at that moment."""
    real, good = ensure_files, []

    def one_by_one(ledger: Any, files: list[dict[str, Any]], secrets: list[str], **more: Any) -> Any:
        written, diff = [], []
        for file in files:
            done, shown = real(ledger, [file], [], **more)
            good.append(site.is_good())
            written += done
            diff += shown
        return written, diff

    monkeypatch.setattr(nginx, "ensure_files", one_by_one)
    assert site.ask()["changed"] and site.ask(state="absent")["changed"]
    assert good == [True] * 4


def test_the_role_writes_in_the_order_that_nginx_can_start_with() -> None:
    """What passes requests to an upstream may be included in the site of another instance at once."""
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    upstream, locations = (file["template"] for file in variables["__prefect_proxy_configuration"])
    assert ("conf.d" in upstream, "locations" in locations) == (True, True)
    removed = [file["path"] for file in variables["__prefect_proxy_gone"]]
    conf, pair = (next(n for n, path in enumerate(removed) if text in path) for text in ("conf.d", ".pem"))
    assert (removed[conf - 1].endswith(".conf"), pair > conf) == (True, True)


@pytest.mark.parametrize("state", ["present", "absent", "probed"])
def test_what_is_broken_already_is_said_to_be_of_others(site: Site, state: str) -> None:
    if state == "absent":
        site.ask()
    (site.live / "sites-available/shop").write_text(OTHER + "nonsense on;\n")
    found = site.manifest()
    done = site.ask(state=state)
    assert done["failed"] and "even without the files of this instance" in done["msg"]
    assert re.search(r'unknown directive "nonsense" in \S+/etc/nginx/sites-(enabled|available)/shop:6', done["msg"]), (
        done["msg"]
    )
    assert str(nginx_trial.runtime()) not in done["msg"]
    assert site.manifest() == found


def test_what_this_instance_broke_is_repaired(site: Site) -> None:
    """An earlier version wrote first and tested then."""
    site.ask()
    site.conf.write_text("nonsense on;\n")
    assert not site.is_good()
    assert not site.ask(state="probed").get("failed")
    assert site.ask()["written"] == [str(site.conf)]
    assert site.is_good()


def test_what_others_need_is_not_removed(site: Site) -> None:
    site.ask()
    (site.live / "sites-available/shop").write_text(OTHER.replace("return 200 shop;", LOCATIONS.replace("\n", " ")))
    assert site.is_good() and not site.ask(state="probed").get("failed")
    found = site.manifest()
    done = site.ask(state="absent")
    assert "even without" not in done["msg"] and 'host not found in upstream "prefect"' in done["msg"]
    assert site.manifest() == found


def test_a_directory_that_is_a_link_is_copied_where_it_changes(site: Site) -> None:
    elsewhere = site.live.parent / "elsewhere"
    (site.live / "conf.d").rename(elsewhere)
    (site.live / "conf.d").symlink_to(elsewhere)
    assert "Nothing was changed." in site.ask(site="nonsense on;\n")["msg"]
    assert list(elsewhere.iterdir()) == []
    assert site.ask()["changed"] and site.is_good()


def test_a_copy_is_for_its_user_alone_and_does_not_outlive_a_killed_run(site: Site) -> None:
    key = site.live / "prefect/prefect.pem"
    with nginx_trial.trial(site.live, {key: b"key"}) as copy:
        assert (copy / "prefect/prefect.pem").read_bytes() == b"key" and not key.exists()
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        assert (copy / "sites-available/shop").readlink() == site.live / "sites-available/shop"
    left = nginx_trial.runtime() / f"{nginx_trial.PREFIX}left"
    left.mkdir()
    site.ask()
    assert left.exists()
    os.utime(left, (0, 0))
    site.ask(site=SITE + "\n")
    assert not left.exists()


KNOWN = {"api1": ["10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2"], "localhost": ["127.0.0.1"]}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in KNOWN:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in KNOWN[name]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        ("10.0.0.9:4200", ["10.0.0.9:4200"]),
        ("[fd00::9]:4200", ["[fd00::9]:4200"]),
        ("unix:/run/prefect.sock", ["unix:/run/prefect.sock"]),
        ("localhost:4200", ["127.0.0.1:4200"]),
        ("localhost", ["127.0.0.1"]),
        ("api1:4200 weight=2", ["10.0.0.1:4200 weight=2", "10.0.0.2:4200 weight=2", "[fd00::1]:4200 weight=2"]),
    ],
)
def test_names_become_addresses(server: str, wanted: list[str]) -> None:
    assert resolved([server]) == wanted


@pytest.mark.usefixtures("names")
def test_names_without_an_address_are_refused_together() -> None:
    with pytest.raises(NginxError) as refused:
        resolved(["api8.example.com:4200", "localhost:4200", "4you.example.com:4200"])
    said = str(refused.value).splitlines()
    assert [line.partition(" has no address on ")[0] for line in said] == [
        "prefect_proxy_servers: api8.example.com",
        "prefect_proxy_servers: 4you.example.com",
    ]
