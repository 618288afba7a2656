"""A site is added to Nginx, tested, put back where Nginx refuses it, and seen to answer."""

from __future__ import annotations

import http.server
import os
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.prefect.plugins.lookup.certificate import certificate_for
from ansible_collections.selfhosted.prefect.plugins.module_utils.host import certbot, ports
from ansible_collections.selfhosted.prefect.plugins.modules import host_nginx as nginx
from ansible_collections.selfhosted.prefect.plugins.modules.host_nginx import NginxError, trouble
from fake_api import outcome

NAME = "prefect.example.com"


@dataclass
class Fake:
    """An Nginx of which is known when its processes began, and that refuses what is said."""

    program: str | None = "/usr/sbin/nginx"
    since: float = 0.0
    refuses: str = ""
    is_enabled: bool = True
    done: list[str] = field(default_factory=list)

    def test(self, name: str) -> None:
        self.done.append(f"test {name}".strip())
        if self.refuses:
            raise NginxError(self.refuses)

    def try_out(self, _: Any) -> tuple[int, str]:
        """What is refused here passes beside the live configuration: see test_nginx_trial.py."""
        return 0, ""

    def main_process(self) -> int:
        return 1 if self.since else 0

    def workers_since(self) -> float:
        return self.since

    def enabled(self) -> bool:
        return self.is_enabled

    def restore(self, *, enabled: bool, active: bool) -> None:
        self.done.append(f"restore {enabled} {active}")
        self.is_enabled, self.since = enabled, self.since if active else 0.0

    def start(self) -> None:
        self.is_enabled = True
        self.done.append("start")
        self.since = time.time() + 1

    def reload(self) -> None:
        self.done.append("reload")
        self.since = time.time() + 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(since=time.time() + 1)
    monkeypatch.setattr(nginx, "Nginx", lambda: made)
    return made


def ask(path: Path, *, check_mode: bool = False, content: str | None = "new\n", **options: Any) -> dict[str, Any]:
    file = (
        {"path": str(path), "mode": "0644", "content": content} if content else {"path": str(path), "state": "absent"}
    )
    result: dict[str, Any] = outcome(nginx.main, check_mode=check_mode, **{"files": [file]} | options)
    return result


def test_dry_for_real_and_again(tmp_path: Path, fake: Fake) -> None:
    site = tmp_path / "conf.d" / "prefect.conf"
    fake.since = time.time() - 10
    assert ask(site, check_mode=True)["written"] == [str(site)]
    assert (site.exists(), fake.done) == (False, [])

    real = ask(site)
    assert (real["changed"], real["reloaded"], fake.done) == (True, True, ["test", "reload"])

    again = ask(site)
    assert (again["changed"], again["reloaded"], fake.done) == (False, False, ["test", "reload"])


def test_a_run_that_was_cut_off_before_the_reload_is_finished(tmp_path: Path, fake: Fake) -> None:
    site = tmp_path / "prefect.conf"
    site.write_text("new\n")
    site.chmod(0o644)
    fake.since = time.time() - 10
    ended = ask(site)
    assert (ended["written"], ended["changed"], fake.done) == ([], True, ["reload"])


def test_what_went_away_is_reloaded_too(tmp_path: Path, fake: Fake) -> None:
    site = tmp_path / "prefect.conf"
    site.write_text("old\n")
    fake.since = time.time() - 10
    assert ask(site, content=None, state="absent")["changed"] is True
    assert (site.exists(), fake.done) == (False, ["test", "reload"])
    assert ask(site, content=None, state="absent")["changed"] is False


def test_one_that_is_not_there_gets_files_and_no_test(tmp_path: Path, fake: Fake) -> None:
    fake.program = None
    assert ask(tmp_path / "prefect.conf")["changed"] is True
    assert fake.done == []


@pytest.mark.parametrize(("started", "done"), [(True, ["test", "start"]), (False, ["test"])])
def test_one_that_does_not_run_is_started(tmp_path: Path, fake: Fake, started: bool, done: list[str]) -> None:
    fake.since = 0.0
    assert ask(tmp_path / "prefect.conf", started=started)["reloaded"] is started
    assert fake.done == done


def test_one_that_would_not_run_after_a_boot_is_enabled(tmp_path: Path, fake: Fake) -> None:
    fake.is_enabled = False
    assert ask(tmp_path / "prefect.conf")["changed"] is True
    assert "start" in fake.done


@pytest.mark.parametrize("before", ["old\n", None])
def test_what_was_there_is_put_back_where_it_is_refused(tmp_path: Path, fake: Fake, before: str | None) -> None:
    site, key, directory = tmp_path / "prefect.conf", tmp_path / "prefect.key", tmp_path / "prefect"
    if before:
        site.write_text(before)
        site.chmod(0o640)
    fake.refuses = 'Nginx refuses the configuration:\nunknown directive "lsiten"'
    files = [
        {"path": str(directory), "mode": "0755"},
        {"path": str(key), "mode": "0600", "secret": True},
        {"path": str(site), "mode": "0644", "content": "new\n"},
    ]
    result = outcome(nginx.main, files=files, secrets=["s3cret"])
    assert result["failed"] is True
    assert "lsiten" in result["msg"] and "put back" in result["msg"] and "s3cret" not in str(result)
    assert (key.exists(), directory.exists(), site.exists()) == (False, False, bool(before))
    if before:
        assert (site.read_text(), stat.S_IMODE(site.stat().st_mode)) == (before, 0o640)
    assert "reload" not in fake.done


def test_a_port_of_another_program_is_refused_and_the_own_port_is_not(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders = {443: [(7, "nginx: master process /usr/sbin/nginx")], 80: [(8, "apache2 -k start")]}
    monkeypatch.setattr(ports, "listeners", lambda port: holders.get(port, []))
    wanted = {"prefect_proxy_https_port": 443, "prefect_proxy_http_port": 80}
    assert outcome(nginx.main, state="probed", ports=wanted)["msg"] == (
        "prefect_proxy_http_port: port 80 is in use by apache2 -k start (pid 8); stop it or choose another port"
    )
    assert outcome(nginx.main, state="probed", ports={"prefect_proxy_https_port": 443})["changed"] is False


def test_probing_reports_what_exists(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "CONFIGURATION", tmp_path)
    for name in ("conf.d/other.conf", "sites-enabled/default", "sites-enabled/shop", "conf.d/readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = outcome(nginx.main, state="probed")
    assert found["sites"] == [str(tmp_path / "conf.d/other.conf"), str(tmp_path / "sites-enabled/shop")]
    assert found["installed"] is True


@contextmanager
def serving(directory: Path, name: str, status: int, headers: dict[str, str]) -> Iterator[int]:
    """Serve one answer by TLS; give the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (200, {}, None),
        (503, {"Prefect-Maintenance": "true"}, None),
        (503, {}, "/api/ready answers 503"),
        (502, {}, "/api/ready answers 502"),
    ],
)
def test_what_a_site_answers(tmp_path: Path, status: int, headers: dict[str, str], says: str | None) -> None:
    certificate_for(tmp_path / "site", [NAME])
    with serving(tmp_path, "site", status, headers) as port:
        site = {"name": NAME, "address": "127.0.0.1", "port": port, "path": "/api/ready"}
        found = trouble(site | {"certificate": str(tmp_path / "site.crt")})
    assert (found is None) if says is None else (found or "").startswith(says)


def test_a_site_that_presents_the_certificate_of_before(tmp_path: Path) -> None:
    certificate_for(tmp_path / "old", [NAME])
    certificate_for(tmp_path / "new", [NAME])
    with serving(tmp_path, "old", 200, {}) as port:
        site = {"name": NAME, "address": "127.0.0.1", "port": port, "path": "/"}
        found = trouble(site | {"certificate": str(tmp_path / "new.crt")})
    assert found == f"it presents another certificate than that of {tmp_path / 'new.crt'}"


def test_a_site_that_is_not_served(tmp_path: Path, fake: Fake) -> None:
    certificate_for(tmp_path / "site", [NAME])
    site = {"name": NAME, "port": 1, "path": "/api/ready", "certificate": str(tmp_path / "site.crt")}
    result = ask(tmp_path / "prefect.conf", site=site, timeout=0)
    assert result["msg"].startswith(f"https://{NAME}:1 does not answer as it should: ConnectionRefusedError")


def test_its_processes_are_told_from_those_of_others() -> None:
    assert all(title.startswith("nginx: ") for _, title, _ in nginx.processes())
    assert os.getpid() not in {parent for parent, _, _ in nginx.processes()}


CERTBOT = """#!/bin/sh
echo "$*" >> {calls}
rm -f {renewal}
"""


@pytest.fixture
def lineage(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give options for a certificate of a certbot that only forgets how to renew it."""
    monkeypatch.setattr(certbot, "DIRECTORY", tmp_path)
    renewal, program = tmp_path / "renewal/prefect.conf", tmp_path / "bin/certbot"
    for path in (renewal, program):
        path.parent.mkdir()
    program.write_text(CERTBOT.format(calls=tmp_path / "calls", renewal=renewal))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    certificate = {"name": "prefect", "webroot": "/var/www/prefect-acme"}
    return {"lineage": certificate, "ledger": {"name": str(tmp_path / "state/prefect.json"), "part": "proxy"}}


@pytest.mark.parametrize("place", ["renewal/prefect.conf", "live/prefect"])
@pytest.mark.parametrize("state", ["probed", "present"])
def test_a_certificate_of_others_is_refused(tmp_path: Path, lineage: dict[str, Any], place: str, state: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("webroot_path = /var/www/html\n")
    said = ask(tmp_path / "site.conf", state=state, **lineage)["msg"]
    assert said.startswith(f"prefect_proxy_acme: certbot has a certificate prefect ({tmp_path / place})")
    assert not (tmp_path / "site.conf").exists()


def test_a_certificate_of_others_survives_absent(tmp_path: Path, lineage: dict[str, Any]) -> None:
    renewal = tmp_path / "renewal/prefect.conf"
    renewal.write_text("webroot_path = /var/www/html\n")
    assert not ask(tmp_path / "site.conf", content=None, state="absent", **lineage)["changed"]
    assert renewal.exists()
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("recorded", [True, False])
def test_a_requested_certificate_is_deleted(tmp_path: Path, lineage: dict[str, Any], recorded: bool) -> None:
    """An earlier version did not record it, but named its own directory."""
    renewal = tmp_path / "renewal/prefect.conf"
    if recorded:
        ask(tmp_path / "site.conf", **lineage)
    renewal.write_text("" if recorded else "webroot_path = /var/www/prefect-acme,\n")
    assert "failed" not in ask(tmp_path / "site.conf", state="probed", **lineage)
    assert ask(tmp_path / "site.conf", content=None, state="absent", check_mode=True, **lineage)["changed"]
    assert ask(tmp_path / "site.conf", content=None, state="absent", **lineage)["changed"]
    assert (tmp_path / "calls").read_text() == "delete --non-interactive --cert-name prefect\n"
    assert not ask(tmp_path / "site.conf", content=None, state="absent", **lineage)["changed"]
    assert not (tmp_path / "state").exists()


def part(tmp_path: Path, name: str = "prefect") -> dict[str, Any]:
    return {"ledger": {"name": str(tmp_path / f"state/{name}.json"), "part": "proxy"}}


def remove(tmp_path: Path, name: str = "prefect", **options: Any) -> dict[str, Any]:
    return ask(tmp_path / f"{name}.conf", content=None, state="absent", **part(tmp_path, name), **options)


@pytest.fixture
def resting(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A person's Nginx that neither runs nor starts at boot."""
    monkeypatch.setattr(nginx, "CONFIGURATION", tmp_path / "nginx")
    fake.is_enabled, fake.since = False, 0.0
    return fake


@pytest.mark.parametrize(("enabled", "active"), [(False, False), (True, False), (False, True)])
def test_an_nginx_that_did_not_run_does_not_run_after_absent(
    tmp_path: Path, resting: Fake, enabled: bool, active: bool
) -> None:
    resting.is_enabled, resting.since = enabled, time.time() + 1 if active else 0.0
    assert ask(tmp_path / "prefect.conf", **part(tmp_path))["changed"]
    assert ask(tmp_path / "prefect.conf", **part(tmp_path))["changed"] is False
    assert (resting.is_enabled, resting.since > 0) == (True, True)
    assert remove(tmp_path, check_mode=True)["changed"]
    assert remove(tmp_path)["changed"]
    assert resting.done[-1] == f"restore {enabled} {active}"
    assert not remove(tmp_path)["changed"]


def test_an_nginx_that_ran_runs_after_absent(tmp_path: Path, fake: Fake) -> None:
    ask(tmp_path / "prefect.conf", **part(tmp_path))
    remove(tmp_path)
    assert not [done for done in fake.done if "restore" in done]


def test_an_nginx_that_got_other_sites_in_the_meantime_goes_on(tmp_path: Path, resting: Fake) -> None:
    ask(tmp_path / "prefect.conf", **part(tmp_path))
    (tmp_path / "nginx/conf.d").mkdir(parents=True)
    (tmp_path / "nginx/conf.d/shop.conf").touch()
    remove(tmp_path)
    assert resting.is_enabled and resting.since


def test_the_last_of_two_instances_puts_nginx_back(tmp_path: Path, resting: Fake) -> None:
    ask(tmp_path / "prefect.conf", **part(tmp_path))
    ask(tmp_path / "blue.conf", **part(tmp_path, "blue"))
    remove(tmp_path)
    assert resting.is_enabled
    remove(tmp_path, "blue")
    assert not resting.is_enabled


@pytest.fixture
def moved(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an Nginx with an instance that has joined another site since the last run."""
    etc = tmp_path / "nginx"
    (etc / "prefect").mkdir(parents=True)
    monkeypatch.setattr(nginx, "CONFIGURATION", etc)
    for name in ("prefect/old/prefect.conf", "prefect/prefect.maintenance", "conf.d/prefect.conf"):
        ask(etc / name, **part(tmp_path), kept=[str(path) for path in etc.rglob("*.*")])
    fake.done.clear()
    return etc


def names(etc: Path) -> list[str]:
    return sorted(str(path.relative_to(etc)) for path in etc.rglob("*"))


def test_the_files_of_a_former_site_are_removed(tmp_path: Path, fake: Fake, moved: Path) -> None:
    files = [moved / "conf.d/prefect.conf", moved / "prefect/new/prefect.conf"]
    wanted: dict[str, Any] = {
        "files": [{"path": str(path), "mode": "0644", "content": "new\n"} for path in files],
        "kept": [str(moved / "prefect/prefect.maintenance")],
        **part(tmp_path),
    }
    fake.since = time.time() - 10
    done = ask(moved, check_mode=True, **wanted)
    assert str(moved / "prefect/old/prefect.conf") in done["written"]
    assert (moved / "prefect/old/prefect.conf").exists()

    assert ask(moved, **wanted)["reloaded"]
    assert names(moved) == [
        "conf.d",
        "conf.d/prefect.conf",
        "prefect",
        "prefect/new",
        "prefect/new/prefect.conf",
        "prefect/prefect.maintenance",
    ]
    assert fake.done == ["test", "reload"]
    assert not ask(moved, **wanted)["changed"]


@pytest.mark.parametrize("other", [False, True])
def test_absent_removes_the_files_of_a_former_site(tmp_path: Path, fake: Fake, moved: Path, other: bool) -> None:
    if other:
        (moved / "prefect/old/shop.conf").touch()
    gone = [moved / "prefect/new/prefect.conf", moved / "conf.d/prefect.conf", moved / "prefect/prefect.maintenance"]
    wanted: dict[str, Any] = {"files": [{"path": str(path), "state": "absent"} for path in gone], **part(tmp_path)}
    fake.since = time.time() - 10
    done = ask(moved, state="absent", **wanted)
    assert done["written"][0] == str(moved / "prefect/old/prefect.conf"), "locations go before their upstream"
    assert names(moved) == ["prefect", *(["prefect/old", "prefect/old/shop.conf"] if other else [])]
    assert fake.done == ["test", "reload"]
    fake.since = time.time() + 1
    assert not ask(moved, state="absent", **wanted)["changed"]


def test_a_former_site_that_nginx_refuses_is_this_instances(
    tmp_path: Path, fake: Fake, moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locations name an upstream that is gone; every run would be refused, the removal as well."""
    old = moved / "prefect/old/prefect.conf"
    monkeypatch.setattr(fake, "try_out", lambda changes: (0, "") if old in changes else (1, "host not found"))
    said = ask(moved / "conf.d/prefect.conf", content=None, state="probed", **part(tmp_path))
    assert "failed" not in said
    assert "failed" not in ask(moved / "conf.d/prefect.conf", content=None, state="absent", **part(tmp_path))
    assert not old.exists()
